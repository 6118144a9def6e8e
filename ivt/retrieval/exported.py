"""An exported model: two graphs that ONNX Runtime or OpenVINO runs, behind the methods that embed with an `IVTModel`.

`ivt export` writes the folder:

    export.json                                format, precision, and the checkpoint it was made from
    config.json, processor and tokenizer       as those of the checkpoint
    image_encoder.onnx, text_encoder.onnx      or .xml with .bin beside it for OpenVINO

Letters: B batch, C channels, L text tokens, D width.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from modeling_ivt.configuration_ivt import IVTConfig

EXPORT_FILE = "export.json"
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}  # format -> end of the names of its graphs
IMAGE_ENCODER, TEXT_ENCODER = "image_encoder", "text_encoder"
Encoder = Callable[[dict[str, np.ndarray]], np.ndarray]  # a graph's inputs by name -> embeddings (B, D)


def is_exported(name: str, revision: str | None = None) -> bool:
    """Tell whether a folder or Hub name holds an exported model."""
    found = cached_file(
        name,
        EXPORT_FILE,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return found is not None


def disable_telemetry() -> None:
    """Keep ONNX Runtime, OpenVINO and NNCF from reporting to their makers that they are used.

    To be called before one of them is imported. `ORT_DISABLE_TELEMETRY=0` in the environment and an imported
    `openvino_telemetry` stay as they are.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime's own switch (its Privacy.md)
    # That of OpenVINO and NNCF, `opt_in_out --opt_out`, writes into the home folder and reports even this. They do
    # without where the package that reports is not installed, which None stands for.
    sys.modules.setdefault("openvino_telemetry", None)  # ty: ignore[no-matching-overload]  # None is allowed there


def open_onnx(path: Path) -> Encoder:
    """Open a graph in ONNX Runtime on the CPU, with as many threads as PyTorch uses.

    Raises:
        ImportError: if it is not installed.
    """
    disable_telemetry()
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("this model needs ONNX Runtime: pip install 'ivt-person-retrieval[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run(None, inputs)[0])


def open_openvino(path: Path, dtype: torch.dtype) -> Encoder:
    """Open a graph in OpenVINO on the CPU, with as many threads as PyTorch uses and arithmetic in `dtype`.

    Raises:
        ImportError: if it is not installed.
    """
    disable_telemetry()
    try:
        import openvino
    except ImportError as error:
        raise ImportError("this model needs OpenVINO: pip install 'ivt-person-retrieval[export]'") from error
    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {
            # without the hint OpenVINO takes bfloat16 where the CPU has it
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    lock = threading.Lock()  # the calls of a compiled graph share its memory

    def encode(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with lock:
            return compiled(inputs)[0]

    return encode


def check_no_options(options: dict[str, Any]) -> None:
    """Raise ValueError if there are any."""
    if options:
        raise ValueError(
            f"an exported model has no {', '.join(options)}; leave it out or load the checkpoint it was made from"
        )


def check_dtype(dtype: torch.dtype, export: dict[str, Any]) -> None:
    """Raise ValueError if an export, described by its `export.json`, cannot compute in `dtype`."""
    if dtype == torch.float32 or (dtype == torch.bfloat16 and export["format"] == "openvino" and not export["int8"]):
        return
    kind = "an int8 export" if export["int8"] else f"an export for {export['format']}"
    raise ValueError(
        f"{kind} does not compute in {dtype}; pass dtype=torch.float32, or export for openvino without --int8, "
        "which computes in bfloat16 too"
    )


class ExportedIVTModel(nn.Module):
    """Embed images and texts with exported graphs; it stands in for an `IVTModel` wherever that only embeds.

    Images are of `config.image_size`; batches are of any size, texts of any length the model holds. The graphs run on
    the CPU, have no gradients, and give the embedding alone: no other option of the methods has an effect, and those
    that would change or add a result are an error. A module without parameters.
    """

    device = torch.device("cpu")
    dtype = torch.float32  # of the inputs and embeddings, whatever the arithmetic in between

    def __init__(self, config: IVTConfig, image_encoder: Encoder, text_encoder: Encoder):
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder

    @classmethod
    def from_pretrained(
        cls, name: str | Path, dtype: torch.dtype = torch.float32, revision: str | None = None
    ) -> Self:
        """Load what `ivt export` wrote.

        Args:
            name: folder or Hub name.
            dtype: arithmetic of the graphs, float32 or, for OpenVINO, bfloat16.
            revision: branch, tag or commit on the Hub.

        Raises:
            ValueError: if there is no exported model, or it cannot compute in `dtype`.
            ImportError: if the runtime is not installed.
        """
        if not is_exported(str(name), revision):
            raise ValueError(f"{name} has no {EXPORT_FILE}, expected a folder that ivt export wrote")
        folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(str(name), revision=revision))
        export = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        if export["format"] not in SUFFIXES:
            raise ValueError(
                f"{folder} is of format {export['format']!r}, known are {', '.join(SUFFIXES)}; export it again"
            )
        check_dtype(dtype, export)
        paths = [folder / (encoder + SUFFIXES[export["format"]]) for encoder in (IMAGE_ENCODER, TEXT_ENCODER)]
        encoders = [open_onnx(path) if export["format"] == "onnx" else open_openvino(path, dtype) for path in paths]
        return cls(IVTConfig.from_pretrained(name, revision=revision or "main"), *encoders)

    def get_image_features(
        self, pixel_values: torch.Tensor, cls_only: bool = True, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Embed images.

        Args:
            pixel_values: (B, C, height, width), normalised by the image processor.
            cls_only: as that of `IVTModel`, without an effect.
            **kwargs: other options of `IVTModel`, which an export does not have.

        Returns:
            `pooler_output` (B, D), float32, not normalised.

        Raises:
            ValueError: if the images are of another size than the model's, there are none, or an option is given.
        """
        check_no_options(kwargs)
        expected = (self.config.num_channels, *self.config.image_size)
        if pixel_values.shape[1:] != expected:
            raise ValueError(
                f"images are {' x '.join(map(str, pixel_values.shape[1:]))} (channels x height x width), the exported "
                f"graph is made for {' x '.join(map(str, expected))}; resize them with the image processor"
            )
        return self._run(self.image_encoder, "images", pixel_values=pixel_values.float())

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cls_only: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Embed captions.

        Args:
            input_ids: (B, L) WordPiece ids, [CLS] first.
            attention_mask: (B, L), 1 for tokens and 0 for padding; None means no padding.
            cls_only: as that of `IVTModel`, without an effect.
            **kwargs: other options of `IVTModel`, which an export does not have.

        Returns:
            `pooler_output` (B, D), float32, not normalised.

        Raises:
            ValueError: if a text is longer than the model holds, there is none, or an option is given.
        """
        check_no_options(kwargs)
        length, longest = input_ids.shape[1], self.config.max_position_embeddings
        if length > longest:
            raise ValueError(
                f"text has {length} tokens, the model holds {longest}; pass truncation=True to the processor"
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return self._run(self.text_encoder, "texts", input_ids=input_ids.long(), attention_mask=attention_mask.long())

    @staticmethod
    def _run(encoder: Encoder, modality: str, **inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        if any(len(tensor) == 0 for tensor in inputs.values()):
            raise ValueError(f"the batch has no {modality}, expected at least one; leave empty batches out")
        embeds = encoder({name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()})
        return BaseModelOutputWithPooling(pooler_output=torch.from_numpy(embeds))


__all__ = ["ExportedIVTModel", "is_exported"]
