"""A ViT or a BERT as it lies in its file: its tensors by key, and which of them a weight of IVT is made of.

Formats: ViT and DeiT of transformers, VisionTransformer of timm, BERT of transformers; safetensors, in one file or
several, or a state dict saved by torch, from which no pickled code is run.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling_ivt.official import official_key, read_checkpoint

# Our parameter names, in their order, to keys of transformers' files (regular expressions). Both formats keep the
# modalities' shared weights once; a model without shared attention begins with two copies.
SHARED = (r"(attention|layernorm\w*)\.(image|text)\.", r"\1.")
VIT_KEYS = (
    SHARED,
    (r"^image_embeddings\.patch_embeddings", "embeddings.patch_embeddings.projection"),
    (r"^image_embeddings", "embeddings"),
    (r"^layers", "encoder.layer"),
    (r"\.attention\.qkv", ".attention.attention.qkv"),  # three tensors there
    (r"\.attention\.proj", ".attention.output.dense"),
    (r"\.feed_forward\.image\.fc1", ".intermediate.dense"),
    (r"\.feed_forward\.image\.fc2", ".output.dense"),
)
BERT_KEYS = (
    (r"^text_embeddings\.layernorm", "embeddings.LayerNorm"),
    (r"^text_embeddings", "embeddings"),
    (r"^layers", "encoder.layer"),
    (r"\.feed_forward\.text\.fc1", ".intermediate.dense"),
    (r"\.feed_forward\.text\.fc2", ".output.dense"),
    (r"^fusion_layers", "encoder.layer"),  # the number of a block is that of BERT already
    (r"\.self_attention\.(query|key|value)", r".attention.self.\1"),
    (r"\.self_attention\.output", ".attention.output.dense"),
    (r"\.self_attention\.layernorm", ".attention.output.LayerNorm"),
    (r"\.feed_forward\.fc1", ".intermediate.dense"),
    (r"\.feed_forward\.fc2", ".output.dense"),
    (r"^(encoder\.layer\.\d+)\.layernorm", r"\1.output.LayerNorm"),
    (r"^mlm_head\.(dense)", r"cls.predictions.transform.\1"),
    (r"^mlm_head\.layernorm", "cls.predictions.transform.LayerNorm"),
    (r"^mlm_head\.decoder\.bias", "cls.predictions.bias"),
)

# Keys of the sources that no weight of IVT comes from (regular expressions), and why.
VIT_NOT_NEEDED = (
    (r"pooler\..+", "pooler"),
    (r"(\w+_)?classifier\..+|head(_dist)?\..+|pre_logits\..+", "classification head"),
    (r"decoder\..+|(embeddings\.)?mask_token", "masked image modeling"),
    (r"embeddings\.distillation_token|dist_token", "distillation token"),
)
BERT_NOT_NEEDED = (
    (r"encoder\.layer\.\d+\.attention\.output\.LayerNorm\..+|encoder\.layer\.\d+\.output\.LayerNorm\..+", "norms"),
    (r"encoder\.layer\.\d+\.attention\..+", "attention"),
    (r"pooler\..+", "pooler"),
    (r"cls\..+|classifier\..+|qa_outputs\..+", "head"),
    (r"embeddings\.(position_ids|token_type_ids)", "constants"),
)


@dataclass
class Source:
    """A ViT or a BERT as it lies in its file.

    Attributes:
        kind: "ViT" or "BERT".
        name: what the user called it.
        tensors: by key, without the prefix of the whole model ("vit.", "bert.").
        config: its config.json, {} if there is none.
        position_key: key of the position embeddings.
        block: regular expression of a block's number in a key.
        not_needed: keys that no weight comes from, and why.
        normalisation: `image_mean` and `image_std` of the pictures it was trained with, where it tells.
        used: keys that weights were taken from.
        notes: what was changed on the way.
    """

    kind: str
    name: str
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    position_key: str
    block: str
    not_needed: tuple[tuple[str, str], ...]
    normalisation: dict[str, list[float]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}"

    @property
    def width(self) -> int:
        """Width of its transformer."""
        return self.tensors[self.position_key].shape[-1]

    @property
    def depth(self) -> int:
        """Number of its blocks."""
        return 1 + max((int(m[1]) for key in self.tensors if (m := re.match(self.block, key))), default=-1)

    def keys_of(self, parameter: str) -> list[str]:
        """The keys whose tensors, one below the other, are a parameter of IVT."""
        if self.block.startswith("blocks"):  # the authors of IVT built on timm
            return [official_key(parameter).removeprefix("encoder_vl.").replace("mlp_vis", "mlp")]
        for ours, theirs in VIT_KEYS if self.kind == "ViT" else BERT_KEYS:
            parameter = re.sub(ours, theirs, parameter)
        if ".qkv." in parameter:
            return [parameter.replace("qkv", part) for part in ("query", "key", "value")]
        return [parameter]

    def take(self, parameter: str) -> torch.Tensor | None:
        """The tensor for a parameter of IVT, or None if a key of it is missing."""
        keys = self.keys_of(parameter)
        if not all(key in self.tensors for key in keys):
            return None
        self.used.update(keys)
        return torch.cat([self.tensors[key] for key in keys])

    def unused(self, depth: int) -> tuple[Counter[str], list[str]]:
        """How many tensors are not used for which reason, and the keys for which there is none."""
        reasons: Counter[str] = Counter()
        unknown = []
        for key in sorted(self.tensors.keys() - self.used):
            block = re.match(self.block, key)
            reason = next((reason for pattern, reason in self.not_needed if re.fullmatch(pattern, key)), None)
            if block and int(block[1]) >= depth:
                reason = f"blocks beyond the first {depth}"
            if reason:
                reasons[reason] += 1
            else:
                unknown.append(key)
        return reasons, unknown

    def report(self, depth: int) -> str:
        """What became of its tensors, in one line."""
        unused = ", ".join(f"{reason} {count}" for reason, count in self.unused(depth)[0].items())
        counts = [f"{len(self.used)} of {len(self.tensors)} tensors taken", *self.notes]
        return f"{self.kind} {self.name}: {'; '.join(counts)}; not used: {unused or 'none'}"


def find_folder(name: str) -> Path:
    """The folder with config and weights of a checkpoint: itself, or downloaded from the Hub.

    Raises:
        ValueError: if there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    patterns = ["config.json", "preprocessor_config.json"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*patterns, "model*.safetensors*"]))
        if not list(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*patterns, "pytorch_model.bin"]))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is no file or folder below {Path.cwd()} and cannot be had from the Hub: {error}"
        ) from error
    return folder


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of weights, or those of a folder, in float32.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    if path.is_dir():
        patterns = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin")
        files = next((found for pattern in patterns if (found := sorted(path.glob(pattern)))), [])
        if not files:
            raise ValueError(f"{path} holds neither model.safetensors nor pytorch_model.bin; pass the file itself")
    else:
        files = [path]
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file) if file.suffix == ".safetensors" else read_checkpoint(file)[0]
        except SafetensorError as error:
            raise ValueError(f"{file} is no whole safetensors file ({error}); fetch it again") from error
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A json file, {} if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def without_prefix(tensors: dict[str, torch.Tensor], anchor: str) -> dict[str, torch.Tensor]:
    """Tensors by their keys within the model that has the key `anchor`, and its heads by theirs; {} without it."""
    prefix = next(
        (key.removesuffix(anchor) for key in tensors if re.fullmatch(rf"(\w+\.)?{re.escape(anchor)}", key)), None
    )
    return {} if prefix is None else {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def read_vit(name: str) -> Source:
    """Read a ViT in the format of transformers or timm.

    Raises:
        ValueError: if it cannot be found or read, or is none.
    """
    path = Path(name) if Path(name).is_file() else find_folder(name)
    folder, tensors = path if path.is_dir() else path.parent, read_tensors(path)
    config, pictures = read_json(folder / "config.json"), read_json(folder / "preprocessor_config.json")
    if ours := without_prefix(tensors, "embeddings.patch_embeddings.projection.weight"):
        layout = ("embeddings.position_embeddings", r"encoder\.layer\.(\d+)\.")
        mean, std = pictures.get("image_mean"), pictures.get("image_std")
    else:
        ours = without_prefix(tensors, "patch_embed.proj.weight")
        layout = ("pos_embed", r"blocks\.(\d+)\.")
        pictures = config.get("pretrained_cfg", config)
        mean, std = pictures.get("mean"), pictures.get("std")
    if layout[0] not in ours:
        raise ValueError(
            f"{name} holds no ViT: expected the patch and position embeddings of transformers' ViTModel or of timm's "
            f"VisionTransformer, found {len(tensors)} tensors such as {', '.join(sorted(tensors)[:3])}"
        )
    normalisation = {"image_mean": list(mean), "image_std": list(std)} if mean and std else {}
    return Source("ViT", name, ours, config, *layout, VIT_NOT_NEEDED, normalisation)


def read_bert(name: str) -> Source:
    """Read a BERT in the format of transformers.

    Raises:
        ValueError: if it cannot be found or read, or is none.
    """
    path = Path(name) if Path(name).is_file() else find_folder(name)
    tensors = read_tensors(path)
    config = read_json((path if path.is_dir() else path.parent) / "config.json")
    ours = without_prefix(tensors, "embeddings.word_embeddings.weight")
    if config.get("model_type", "bert") != "bert" or "embeddings.position_embeddings.weight" not in ours:
        raise ValueError(
            f"{name} holds no BERT but {config.get('model_type', 'something else')!r}: expected the embeddings of "
            f"transformers' BertModel, found {len(tensors)} tensors such as {', '.join(sorted(tensors)[:3])}"
        )
    # the first files of BERT call a norm's weight gamma and its bias beta
    ours = {key.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor for key, tensor in ours.items()}
    block = r"encoder\.layer\.(\d+)\."
    return Source("BERT", name, ours, config, "embeddings.position_embeddings.weight", block, BERT_NOT_NEEDED)
