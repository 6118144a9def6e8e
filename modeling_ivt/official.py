"""The authors' checkpoints as an IVT model: no pickled code is run, and every key is accounted for.

The files are those of Shu et al., arXiv 2208.08608; their key names are facts, no code of the authors is here. A file
of their pre-training has a fusion encoder and heads too, which are left out, and may have been trained with another
grid of patches, which is resized.
"""

import math
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .configuration_ivt import IVTConfig
from .modeling_ivt import IVTModel, resize_grid

# Our parameter names (regular expressions) -> the authors' key names.
KEY_NAMES = (
    (r"(attention|layernorm\w*)\.(image|text)\.", r"\1."),  # without shared attention both begin with the shared one
    (r"^image_embeddings\.patch_embeddings", "encoder_vl.patch_embed.proj"),
    (r"^image_embeddings\.cls_token", "encoder_vl.cls_token"),
    (r"^image_embeddings\.position_embeddings", "encoder_vl.pos_embed"),
    (r"^image_embeddings\.type_embeddings", "encoder_vl.type_embed"),
    (r"^text_embeddings\.layernorm", "encoder_vl.embeddings.LayerNorm"),
    (r"^text_embeddings", "encoder_vl.embeddings"),
    (r"^layers", "encoder_vl.blocks"),
    (r"^layernorm", "encoder_vl.norm"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.", ".attn."),
    (r"\.feed_forward\.image\.", ".mlp_vis."),
    (r"\.feed_forward\.text\.", ".mlp_txt."),
)

# Keys that matter for training only (regular expressions), and what they are.
NOT_NEEDED = (
    (r"temp", "temperature of a training loss"),
    (r"classifier\w*\..+", "classifier of the training"),
    (r"bottleneck\w*\..+", "batch normalisation before a classifier"),
    (r"encoder_fusion\..+", "fusion encoder of the pre-training"),
    (r"itm\w*\..+", "image-text matching of the pre-training"),
    (r"encoder_vl\.embeddings\.position_ids", "only the numbers 0, 1, 2, …"),
)

MOST_NAMED = 8  # keys of one reason; of more, their beginning is named


class _Placeholder:
    """Takes the place of numpy numbers and types in the file (`best_acc` is one), so that no code of numpy runs."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# numpy.core became numpy._core in numpy 2
PLACEHOLDERS: list[Callable | tuple[Callable, str]] = [
    (_Placeholder, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read a checkpoint without running pickled code.

    Args:
        path: file that holds `{"state_dict": …, …}` or the state dict itself.

    Returns:
        Tensors by key, a leading `module.` removed, and the names of what lies beside the state dict.

    Raises:
        ValueError: if the file is no checkpoint, or holds anything but tensors, numbers and plain containers.
        OSError: if the file cannot be opened.
    """
    try:
        with torch.serialization.safe_globals(PLACEHOLDERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch and pickle name no smaller set for what a damaged file raises
        foreign = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if foreign:
            raise ValueError(
                f"{path} refused: it asks to run {foreign[1]} while it is read, and pickled code is never run here; "
                "pass a file that holds tensors, numbers and plain containers only"
            ) from error
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): it is damaged, no PyTorch checkpoint, or asks for more "
            "than tensors, numbers and plain containers; nothing pickled in it was run"
        ) from error
    state, beside = content, []
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        state, beside = content["state_dict"], [str(key) for key in content if key != "state_dict"]
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no state dict but {type(state).__name__}; expected names and tensors")
    strange = [str(key) for key, value in state.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strange:
        raise ValueError(f"{path}: expected only tensors in the state dict, these are none: {', '.join(strange)}")
    tensors = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    if len(tensors) < len(state):
        raise ValueError(f"{path} has keys both with and without 'module.' in front; keep one of each")
    return tensors, beside


def official_key(parameter: str) -> str:
    """The authors' key of one of our parameters."""
    for ours, theirs in KEY_NAMES:
        parameter = re.sub(ours, theirs, parameter)
    return parameter


def parameter_shapes(**config: Any) -> dict[str, torch.Size]:
    """Shapes of the network's parameters by the authors' keys, computed without memory."""
    with torch.device("meta"):
        model = IVTModel(IVTConfig(**config))
    return {official_key(name): tensor.shape for name, tensor in model.state_dict().items()}


def account_for_keys(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Compare the keys with the network's.

    Returns:
        Depth and `qkv_bias` as config fields, and the unused keys with the reason why each is not needed.

    Raises:
        ValueError: naming every key nobody knows and every parameter that is missing.
    """
    blocks = [int(match[1]) for key in tensors if (match := re.match(r"encoder_vl\.blocks\.(\d+)\.", key))]
    sizes = {
        "num_hidden_layers": max(blocks, default=0) + 1,
        "qkv_bias": any(key.endswith(".attn.qkv.bias") for key in tensors),
    }
    expected = parameter_shapes(**sizes)
    missing = [key for key in expected if key not in tensors]
    unused, unknown = [], []
    for key in tensors.keys() - expected.keys():
        reason = next((reason for pattern, reason in NOT_NEEDED if re.fullmatch(pattern, key)), None)
        if reason is None:
            unknown.append(key)
        else:
            unused.append((key, reason))
    problems = []
    if missing:
        problems.append(f"parameters not found ({len(missing)}): {', '.join(missing)}")
    if unknown:
        problems.append(f"keys that are not used and not known ({len(unknown)}): {', '.join(sorted(unknown))}")
    if problems:
        raise ValueError("this is not a whole IVT checkpoint of the authors; " + "; ".join(problems))
    return sizes, sorted(unused)


def read_sizes(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Config fields that the shapes tell.

    Raises:
        ValueError: if a tensor they are read from has the wrong number of axes, or patches are not square.
    """
    axes = {
        "encoder_vl.patch_embed.proj.weight": 4,
        "encoder_vl.pos_embed": 3,
        "encoder_vl.blocks.0.mlp_vis.fc1.weight": 2,
        "encoder_vl.embeddings.word_embeddings.weight": 2,
        "encoder_vl.embeddings.position_embeddings.weight": 2,
        "encoder_vl.embeddings.token_type_embeddings.weight": 2,
    }
    for key, number in axes.items():
        if tensors[key].ndim != number:
            raise ValueError(f"{key} has shape {tuple(tensors[key].shape)}, expected {number} axes")
    width, channels, patch_size, patch_width = tensors["encoder_vl.patch_embed.proj.weight"].shape
    if patch_size != patch_width:
        raise ValueError(f"patches are {patch_size} x {patch_width} pixels, the model needs square ones")
    return {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch_size,
        "intermediate_size": len(tensors["encoder_vl.blocks.0.mlp_vis.fc1.weight"]),
        "vocab_size": len(tensors["encoder_vl.embeddings.word_embeddings.weight"]),
        "max_position_embeddings": len(tensors["encoder_vl.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(tensors["encoder_vl.embeddings.token_type_embeddings.weight"]),
    }


def name_unused(unused: list[tuple[str, str]]) -> list[str]:
    """A line on each key that is not used, one for all where many have the same reason."""
    reasons = {reason: [key for key, its in unused if its == reason] for _, reason in unused}
    lines = []
    for reason, keys in reasons.items():
        if len(keys) <= MOST_NAMED:
            lines += [f"not used: {key} ({reason})" for key in keys]
        else:
            lines.append(f"not used: {os.path.commonprefix(keys)}* ({reason}), {len(keys)} tensors")
    return lines


def find_grid(config: IVTConfig, num_patches: int) -> tuple[int, int]:
    """(rows, columns) of the patches of a file, which does not tell them.

    Its images are taken to be of the model's size with any stride, or square.

    Raises:
        ValueError: if no grid has so many patches, or several have.
    """
    (height, width), size = config.image_size, config.patch_size
    grids = {((height - size) // stride + 1, (width - size) // stride + 1) for stride in range(1, size + 1)}
    side = math.isqrt(num_patches)
    grids.add((side, side))
    fitting = sorted(grid for grid in grids if grid[0] * grid[1] == num_patches)
    if len(fitting) != 1:
        found = " and ".join(f"{rows} x {columns}" for rows, columns in fitting) or "none"
        raise ValueError(
            f"the checkpoint has {num_patches} patch positions; of the grids of images of {height} x {width} pixels "
            f"with any stride, and of square ones, that many have: {found}. Pass the --image_size and --patch_stride "
            "it was trained with"
        )
    return fitting[0]


def fit_grid(tensors: dict[str, torch.Tensor], config: IVTConfig) -> str | None:
    """Resize the grid of position and type embeddings to the model's; a line on it, None if it was that already."""
    grid = config.patch_grid
    num_patches = tensors["encoder_vl.pos_embed"].shape[1] - 1
    if num_patches == grid[0] * grid[1]:
        return None
    old_grid = find_grid(config, num_patches)
    for key in ("encoder_vl.pos_embed", "encoder_vl.type_embed"):
        if tensors[key].shape[1] - 1 == num_patches:  # another one is named with the shapes that do not fit
            tensors[key] = resize_grid(tensors[key], old_grid, grid)
    return "positions and types {} x {} resized to {} x {}".format(*old_grid, *grid)


def check_grid(config: IVTConfig, num_positions: int) -> None:
    """Raise ValueError if image size and stride do not give the number of position embeddings in the file."""
    rows, columns = config.patch_grid
    if num_positions != 1 + rows * columns:
        height, width = config.image_size
        raise ValueError(
            f"images of {height} x {width} pixels (height x width) with patches of {config.patch_size} every "
            f"{config.patch_stride} pixels need 1 + {rows} x {columns} = {1 + rows * columns} position embeddings, "
            f"the checkpoint has {num_positions}; pass the --image_size and --patch_stride it was trained with"
        )


def _fill(tensors: dict[str, torch.Tensor], config: IVTConfig) -> IVTModel:
    """The model with the checkpoint's weights in float32.

    Raises:
        ValueError: naming every tensor whose shape does not fit the others.
    """
    model = IVTModel(config)
    state = {name: tensors[official_key(name)] for name in model.state_dict()}
    wrong = [
        f"{official_key(name)} has shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}"
        for name, parameter in model.state_dict().items()
        if state[name].shape != parameter.shape
    ]
    if wrong:
        raise ValueError("shapes that do not fit together: " + "; ".join(wrong))
    model.load_state_dict(state)
    return model


def load_official(
    path: str | Path, image_size: Sequence[int], patch_stride: int, num_attention_heads: int, **fields: Any
) -> tuple[IVTModel, list[str]]:
    """The model of an authors' checkpoint.

    Args:
        path: file of the authors' training.
        image_size: (height, width) in pixels.
        patch_stride: distance of two patches in pixels.
        num_attention_heads: heads per block.
        **fields: other fields of `IVTConfig`; sizes among them must be those of the file.

    Returns:
        The model in float32, and a line on each thing that became of the file's content.

    Raises:
        ValueError: if anything does not fit.
        OSError: if the file cannot be read.
    """
    tensors, beside = read_checkpoint(Path(path))
    lines = [f"{path}: {len(tensors)} tensors"]
    if beside:
        lines.append(f"not used, beside the weights: {', '.join(beside)}")
    sizes, unused = account_for_keys(tensors)
    lines += name_unused(unused)
    sizes |= read_sizes(tensors)
    for name in sizes.keys() & fields.keys():
        if fields[name] != sizes[name]:
            raise ValueError(
                f"{name} is {fields[name]}, in {path} it is {sizes[name]}; leave it out or set it to that"
            )
    height, width = image_size
    config = IVTConfig(
        image_size=(height, width),
        patch_stride=patch_stride,
        num_attention_heads=num_attention_heads,
        **(fields | sizes),
    )
    # of fine-tuning, a wrong grid is a mistake about what to search with; pre-training is only begun with
    if any(key.startswith("encoder_fusion.") for key in tensors):
        lines += [line for line in (fit_grid(tensors, config),) if line]
    check_grid(config, tensors["encoder_vl.pos_embed"].shape[1])
    model = _fill(tensors, config)
    rows, columns = config.patch_grid
    lines.append(
        f"used: {len(tensors) - len(unused)}, no parameter missing: {config.num_hidden_layers} blocks of width "
        f"{config.hidden_size}; {rows} rows and {columns} columns of patches of {config.patch_size} pixels; "
        f"{config.vocab_size} words, texts of at most {config.max_position_embeddings} tokens"
    )
    return model, lines
