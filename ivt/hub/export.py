"""Export a checkpoint for ONNX Runtime or OpenVINO: image and text encoder as two graphs.

    ivt export CHECKPOINT --format onnx
    ivt export CHECKPOINT OUTPUT_DIR --format openvino --int8 --corpus cuhk-pedes --corpus-root FOLDER

CHECKPOINT is a folder or a Hub name. The graphs take batches of any size and texts of any length the model holds, and
give the embeddings of `get_image_features` and `get_text_features`; they need no PyTorch. `ExportedIVTModel` of
`ivt.retrieval.exported` puts these two methods in front of them, and everything here that embeds takes the folder like
a checkpoint: `ivt evaluate OUTPUT_DIR …`, `ivt index … --model OUTPUT_DIR`.

`--int8` quantises weights and activations with NNCF, OpenVINO's tool, which writes both formats. The ranges of the
activations are those of 300 images and captions of a corpus, which should be like what the model will see. What an
export costs in accuracy and wins in speed: `docs/export.md`.
"""

import json
import logging
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ivt.corpora.load import load_corpus
from ivt.corpora.rows import stored_images
from ivt.files import check_empty, new_folder
from ivt.retrieval.checkpoints import load_checkpoint
from ivt.retrieval.exported import (
    EXPORT_FILE,
    IMAGE_ENCODER,
    SUFFIXES,
    TEXT_ENCODER,
    ExportedIVTModel,
    disable_telemetry,
)
from ivt.retrieval.models import find_version, load_processor
from modeling_ivt import IVTModel
from processing.pictures import read_picture

PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino",)}
NUM_CALIBRATION_ROWS = 300
TOLERANCE = 1e-4  # largest difference of a float32 export from PyTorch in a number of the unit-length embeddings


class ImageEncoder(nn.Module):
    """Images to embeddings."""

    def __init__(self, model: IVTModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, height, width) to (B, D)."""
        return self.model.get_image_features(pixel_values, cls_only=True).pooler_output


class TextEncoder(nn.Module):
    """Texts to embeddings."""

    def __init__(self, model: IVTModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) and (B, L) to (B, D)."""
        return self.model.get_text_features(input_ids, attention_mask, cls_only=True).pooler_output


@dataclass(frozen=True)
class Graph:
    """An encoder and what it takes to trace it.

    Attributes:
        name: of the graph's file.
        encoder: what the graph computes.
        inputs: an example, by name.
        dynamic_shapes: per input the axes that may have any length, as `torch.export.export` takes them.
    """

    name: str
    encoder: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic_shapes: dict[str, dict[int, Any]]


def graphs_of(model: IVTModel) -> list[Graph]:
    """The two graphs of a model, with axes "batch" and "length" of any length."""
    config = model.config
    # noise, and a text with padding: the examples also serve to compare the finished graph with PyTorch
    pixel_values = torch.rand(3, config.num_channels, *config.image_size) * 2 - 1
    input_ids = torch.randint(config.vocab_size, (3, min(12, config.max_position_embeddings)))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[-1, input_ids.shape[1] // 2 :] = 0
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("length", min=2, max=config.max_position_embeddings)
    texts = {"input_ids": input_ids, "attention_mask": attention_mask}
    return [
        Graph(IMAGE_ENCODER, ImageEncoder(model).eval(), {"pixel_values": pixel_values}, {"pixel_values": {0: batch}}),
        Graph(TEXT_ENCODER, TextEncoder(model).eval(), texts, {name: {0: batch, 1: length} for name in texts}),
    ]


def calibration_inputs(processor: Any, corpus: str, root: str | None, split: str) -> dict[str, list[dict[str, Any]]]:
    """Inputs of both graphs, a list of arrays by name each, from images and captions spread over a split."""
    rows = load_corpus(corpus, root, split)
    num_rows = min(NUM_CALIBRATION_ROWS, len(rows))
    rows = rows.select([i * len(rows) // num_rows for i in range(num_rows)])
    images = [dict(processor(images=read_picture(image), return_tensors="np")) for image in stored_images(rows)]
    texts = [dict(processor(text=captions[:1], return_tensors="np")) for captions in rows["captions"] if captions]
    return {IMAGE_ENCODER: images, TEXT_ENCODER: texts}


def write_onnx(graph: Graph, path: Path, calibration: list[dict[str, np.ndarray]] | None) -> None:
    """Trace an encoder and write it as ONNX, in int8 if there are inputs to find the ranges of numbers with."""
    import onnx

    program = torch.onnx.export(
        graph.encoder,
        kwargs=graph.inputs,
        dynamic_shapes=graph.dynamic_shapes,
        output_names=["embeds"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only an export without dynamo gives None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose source files the operation was called
    if calibration is None:
        program.save(path)
        return
    model = program.model_proto
    weights = {weight.name for weight in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    attention = [node.name for node in products if weights.isdisjoint(node.input)]
    onnx.save(quantise(model, calibration, names=attention), path)


def write_openvino(graph: Graph, path: Path, calibration: list[dict[str, np.ndarray]] | None) -> None:
    """Trace an encoder and write it for OpenVINO, in int8 if there are inputs to find the ranges of numbers with."""
    import openvino

    program = torch.export.export(graph.encoder, (), graph.inputs, dynamic_shapes=graph.dynamic_shapes)
    model = openvino.convert_model(program)
    shapes = {}
    for name, example in graph.inputs.items():
        dynamic = graph.dynamic_shapes[name]
        shapes[name] = [-1 if axis in dynamic else length for axis, length in enumerate(example.shape)]
    model.reshape(shapes)
    model.output(0).get_tensor().set_names({"embeds"})
    if calibration is not None:
        model = quantise(model, calibration, types=["ScaledDotProductAttention"])
    openvino.save_model(model, path, compress_to_fp16=False)


def quantise(
    model: Any, calibration: list[dict[str, np.ndarray]], names: Sequence[str] = (), types: Sequence[str] = ()
) -> Any:
    """Quantise weights and activations of an ONNX or OpenVINO model with NNCF.

    Args:
        model: what the library of the format loads.
        calibration: inputs by name, one sample each.
        names: the products of activations with activations. They stay in floats: they are a small part of the work,
            and most of what int8 costs in accuracy.
        types: or the types of these operations.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=list(names), types=list(types)),
    )


WRITERS = {"onnx": write_onnx, "openvino": write_openvino}


@contextmanager
def silent_tracing() -> Generator[None]:
    """Hold back what PyTorch says about its own code and about a torchvision that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.inference_mode()
def difference_of(
    graph: Graph, exported: ExportedIVTModel, calibration: list[dict[str, np.ndarray]] | None
) -> torch.Tensor:
    """Embed with the graph and with PyTorch, and return the largest difference in the unit-length embeddings."""
    batches = [graph.inputs]
    if calibration is not None:  # the ranges of an int8 graph are not those of noise
        batches = [{name: torch.from_numpy(array) for name, array in inputs.items()} for inputs in calibration[:8]]
    embed = exported.get_image_features if graph.name == IMAGE_ENCODER else exported.get_text_features
    differences = []
    for batch in batches:  # its keys are the tensors that `embed` takes, never cls_only
        embeds = embed(**batch).pooler_output  # ty: ignore[invalid-argument-type]
        assert embeds is not None  # no export is without
        differences.append(normalize(embeds, dim=-1) - normalize(graph.encoder(**batch), dim=-1))
    return torch.cat(differences).abs().max()


def check_packages(format: str, int8: bool) -> tuple[str, ...]:
    """The packages a format needs; raises ImportError if one is not installed."""
    packages = (*PACKAGES[format], "nncf") if int8 else PACKAGES[format]
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ImportError(
            f"exporting for {format} needs {', '.join(missing)}: pip install 'ivt-person-retrieval[export]'"
        )
    return packages


def export(
    checkpoint: str,
    output_dir: Path | None,
    format: str,
    int8: bool = False,
    corpus: str = "synthetic",
    corpus_root: str | None = None,
    split: str = "val",
) -> dict[str, Any]:
    """Export `checkpoint` into a folder and compare the graphs with PyTorch.

    Args:
        checkpoint: folder or Hub name of an IVT model with its processor.
        output_dir: new or empty folder; None names one here after the checkpoint, the format and int8.
        format: "onnx" or "openvino".
        int8: quantise.
        corpus: where to find the ranges of the activations, if `int8`.
        corpus_root: its folder.
        split: its split.

    Returns:
        What `export.json` tells, the folder, and per graph its megabytes and its largest difference from PyTorch in a
        number of the unit-length embeddings.

    Raises:
        ValueError: if anything does not fit, or a float32 export differs by more than `TOLERANCE`; nothing is written
            then.
        ImportError: if the libraries of the format are not installed.
    """
    if format not in WRITERS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(WRITERS)}")
    packages = check_packages(format, int8)
    disable_telemetry()
    name = Path(checkpoint).resolve().name
    output_dir = check_empty(output_dir or Path(f"{name}-{format}-int8" if int8 else f"{name}-{format}"))
    model, processor = load_checkpoint(checkpoint, dtype=torch.float32).eval(), load_processor(checkpoint)
    calibration = calibration_inputs(processor, corpus, corpus_root, split) if int8 else {}
    graphs = graphs_of(model)
    with new_folder(output_dir) as folder:
        for graph in graphs:
            with silent_tracing():
                WRITERS[format](graph, folder / (graph.name + SUFFIXES[format]), calibration.get(graph.name))
        model.config.auto_map = None  # there are no weights for AutoModel in the folder
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        about = {
            "format": format,
            "int8": int8,
            "checkpoint": name if Path(checkpoint).is_dir() else checkpoint,
            "revision": find_version(checkpoint).revision,
            "calibration": f"{corpus} {split}" if int8 else None,
            "versions": {package: version(package) for package in ("torch", "transformers", *packages)},
        }
        (folder / EXPORT_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        exported, measured = ExportedIVTModel.from_pretrained(folder), {}
        for graph in graphs:
            difference = difference_of(graph, exported, calibration.get(graph.name)).item()
            if not int8 and not difference <= TOLERANCE:
                raise ValueError(
                    f"{graph.name} differs from PyTorch by {difference:.1e} in unit-length embeddings, expected at "
                    f"most {TOLERANCE}"
                )
            size = sum(file.stat().st_size for file in folder.glob(f"{graph.name}.*"))
            measured[graph.name] = {"megabytes": round(size / 1e6, 3), "difference": difference}
    return {**about, "folder": str(output_dir), "graphs": measured}
