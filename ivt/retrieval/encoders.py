"""Any dual encoder: how IVT checkpoints, exports and other models of transformers are checked, described and called.

The protocol is that of transformers: a model with `get_image_features` and `get_text_features`, and a processor with
an image processor and a tokenizer, such as CLIP, SigLIP, SigLIP 2, MetaCLIP 2, Chinese-CLIP and AltCLIP. Size, padding
and length are the processor's.

Dimensions: B batch, L text tokens, D embedding width.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

import modeling_ivt  # noqa: F401 (the Auto classes know IVT from here on)

METHODS = ("get_image_features", "get_text_features")
PARTS = ("image_processor", "tokenizer")
# Trained on texts of full length without an attention mask, and read at the last token (their cards).
PADDED_TO_FULL_LENGTH = ("siglip", "siglip2")
# Their vision tower has a class token first, and an attention that transformers records.
WITH_CLASS_TOKEN = ("clip", "metaclip_2", "chinese_clip", "altclip")
COUNTED_FROM_PADDING = ("xlm-roberta", "altclip_text_model")  # positions begin behind the number of the padding
NO_LIMIT = 1_000_000  # a tokenizer without a longest text says 1e30
CPUS_FAST_IN_BFLOAT16 = ("avx512_bf16", "amx_bf16")
DEVICES_FAST_IN_HALF = {"cuda": torch.bfloat16, "xpu": torch.bfloat16, "mps": torch.float16}


def model_type(model: Any) -> str:
    """The `model_type` of a model's configuration, or "" if it has none."""
    return getattr(getattr(model, "config", None), "model_type", "")


def check_methods(name: str, model: Any) -> None:
    """Raise ValueError, with what is missing, if a model or a class of models embeds no pictures or no texts."""
    if missing := [method for method in METHODS if not hasattr(model, method)]:
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise ValueError(
            f"{name} is a {kind} without {' and '.join(missing)}, expected a model that embeds pictures and texts, "
            "such as IVT, CLIP or SigLIP; ivt models lists some"
        )


def check_processor(name: str, processor: Any) -> None:
    """Raise ValueError, with what is missing, if a processor does not prepare pictures and texts."""
    if missing := [part for part in PARTS if getattr(processor, part, None) is None]:
        raise ValueError(
            f"{name} has no whole processor: the {type(processor).__name__} has no {' and no '.join(missing)}; save a "
            "processor with both there"
        )
    # of a folder without its files, transformers makes a tokenizer of special tokens alone
    if not set(processor.tokenizer.get_vocab()) - set(processor.tokenizer.all_special_tokens):
        raise ValueError(f"{name} has no whole processor: its tokenizer knows no words; save the tokenizer there")


def load_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Load the configuration of a dual encoder.

    Raises:
        ValueError: if its class does not embed both pictures and texts.
    """
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
    except (TypeError, AttributeError, KeyError) as error:  # what transformers raises on JSON that is no object
        raise ValueError(
            f"the config.json of {name} is no configuration ({error!r}); save or fetch it again"
        ) from error
    with suppress(KeyError):  # of no class that transformers knows; loading says so
        found = MODEL_MAPPING[type(config)]
        check_methods(name, found[0] if isinstance(found, tuple) else found)
    return config


def width_of(config: PreTrainedConfig) -> int:
    """D, how many numbers an embedding has.

    Raises:
        ValueError: if the configuration names none.
    """
    for part, field in ((config, "projection_dim"), (config, "hidden_size"), (_part(config, "vision"), "hidden_size")):
        if width := getattr(part, field, None):
            return width
    raise ValueError(
        f"a configuration of {config.model_type} names no width of its embeddings (projection_dim or hidden_size)"
    )


def _part(config: Any, modality: str) -> Any:
    return getattr(config, f"{modality}_config", None)


def longest_text(config: Any, tokenizer: Any) -> int:
    """How many tokens of a text are read, special ones among them."""
    text = _part(config, "text") or config
    positions = text.max_position_embeddings
    if getattr(text, "model_type", "") in COUNTED_FROM_PADDING:
        positions -= text.pad_token_id + 1
    return min(positions, getattr(tokenizer, "model_max_length", NO_LIMIT))


def auto_dtype(device: torch.device) -> torch.dtype:
    """Half precision where a device is fast in it, else float32."""
    if device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in CPUS_FAST_IN_BFLOAT16):
        return torch.bfloat16
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return DEVICES_FAST_IN_HALF.get(device.type, torch.float32)


@cache
def _accepted(method: Any) -> frozenset[str]:
    """Names of the arguments that a method names."""
    return frozenset(inspect.signature(method).parameters)


def _call(method: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Call one of METHODS with those inputs that it takes: unit length, float32 (B, D)."""
    accepted = _accepted(getattr(method, "__func__", method))
    options: dict[str, Any] = {name: tensor for name, tensor in inputs.items() if name in accepted}
    if "cls_only" in accepted:  # of IVT: without the tokens that are not asked for
        options["cls_only"] = True
    return normalize(method(**options).pooler_output.float(), dim=-1)


def image_inputs(processor: Any, images: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Prepare pictures as the processor says: `pixel_values`, and what else the model takes, with B first."""
    # grey pictures: not every processor turns them into RGB
    pictures = [
        image.convert("RGB") if isinstance(image, Image.Image) and image.mode in ("L", "1") else image
        for image in images
    ]
    inputs = processor(images=pictures, return_tensors="pt")
    return {name: tensor for name, tensor in inputs.items() if isinstance(tensor, torch.Tensor)}


def call_on_images(model: Any, inputs: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Embed what `image_inputs` gives, or its `pixel_values` alone: unit length, float32 (B, D)."""
    inputs = {"pixel_values": inputs} if isinstance(inputs, torch.Tensor) else inputs
    placed = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in inputs.items()
    }
    return _call(model.get_image_features, placed)


def text_inputs(model: Any, processor: Any, texts: list[str], max_length: int | None = None) -> dict[str, Any]:
    """Prepare texts as the processor and the model say, cut off where the model ends: `input_ids` (B, L) and others.

    Args:
        model: the model that they are for.
        processor: its processor.
        texts: sentences.
        max_length: tokens at which a sentence is cut off; by default as many as the model reads.
    """
    kind = model_type(model)
    padding: bool | str = "max_length" if kind in PADDED_TO_FULL_LENGTH else True
    if max_length is None and kind not in ("", "ivt"):  # IVT's processor knows
        max_length = longest_text(model.config, processor.tokenizer)
    options = {} if max_length is None else {"max_length": max_length}
    return dict(processor(text=texts, padding=padding, truncation=True, return_tensors="pt", **options))


def call_on_texts(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Embed what `text_inputs` gives: unit length, float32 (B, D)."""
    return _call(model.get_text_features, {name: tensor.to(model.device) for name, tensor in inputs.items()})


@dataclass(frozen=True)
class EncoderDescription:
    """What a dual encoder is.

    Attributes:
        kind: its `model_type`.
        width: D, numbers in an embedding.
        image_size: (height, width) in pixels; None if it follows the picture's shape (NaFlex).
        longest_text: tokens, special ones among them.
        languages: that its card names.
        licence: that its card names, or None.
    """

    kind: str
    width: int
    image_size: tuple[int, int] | None
    longest_text: int
    languages: tuple[str, ...] = ()
    licence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def _image_size(image_processor: Any) -> tuple[int, int] | None:
    """(height, width) of what an image processor gives; None if that differs from picture to picture."""
    fields = dict(getattr(image_processor, "size", None) or {})
    if getattr(image_processor, "do_center_crop", False):
        fields = dict(image_processor.crop_size)
    if hasattr(image_processor, "max_num_patches") or not {"height", "width"} <= set(fields):
        return None
    return fields["height"], fields["width"]


def _card_fields(name: str) -> tuple[tuple[str, ...], str | None]:
    """Languages and licence that a model's card names, as far as it has one."""
    try:
        card = Path(name) / "README.md" if Path(name).is_dir() else name
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (OSError, ValueError):  # no card, or no network
        return (), None
    languages: str | Iterable[str] = data.language or ()
    return ((languages,) if isinstance(languages, str) else tuple(languages)), data.license


def describe(name: str, processor: Any, revision: str | None = None) -> EncoderDescription:
    """Describe a dual encoder by its configuration, processor and card, without loading its weights.

    Args:
        name: folder or Hub name.
        processor: its processor.
        revision: branch, tag or commit of a Hub model.

    Raises:
        ValueError: if it does not follow the protocol.
    """
    config = load_config(name, revision)
    check_processor(name, processor)
    return EncoderDescription(
        config.model_type,
        width_of(config),
        _image_size(processor.image_processor),
        longest_text(config, processor.tokenizer),
        *_card_fields(name),
    )
