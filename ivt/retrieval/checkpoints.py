"""Loading a checkpoint strictly: every weight of the model comes from it and is a number, or it is an error."""

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModel, PreTrainedModel

from .encoders import check_methods, load_config
from .exported import ExportedIVTModel, is_exported


def load_checkpoint(checkpoint: str, auto_class: Any = AutoModel, **kwargs: Any) -> PreTrainedModel:
    """Load a model whose every weight comes from the checkpoint; transformers would draw missing ones at random.

    Args:
        checkpoint: folder or Hub name.
        auto_class: `AutoModel`, or `AutoModelForPreTraining` for the heads too.
        **kwargs: passed to its `from_pretrained`: `dtype`, `revision`, fields of the configuration.

    Raises:
        ValueError: if the file is damaged, or weights are missing, of another shape or not finite.
    """
    try:  # mismatched sizes are not ignored but named below, beside what is missing
        model, info = auto_class.from_pretrained(
            checkpoint, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except SafetensorError as error:
        raise ValueError(
            f"the weights of {checkpoint} cannot be read ({error}): the file is cut short, damaged, or the pointer of "
            "Git LFS to it; fetch it again (git lfs pull)"
        ) from error
    unfit = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if unfit:
        raise ValueError(
            f"{checkpoint} lacks {len(unfit)} weights of its model or has them in other shapes, the first {unfit[0]}; "
            "its config.json and weights do not belong together: save or convert it again"
        )
    if bad := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ValueError(
            f"{len(bad)} weights of {checkpoint} hold NaN or infinity, the first {bad[0]}; their training "
            "diverged, or the file is damaged: use an earlier checkpoint, or fetch it again"
        )
    return model


def load_embedder(
    checkpoint: str, dtype: torch.dtype | None = None, revision: str | None = None
) -> PreTrainedModel | ExportedIVTModel:
    """Load a model to embed with: a dual encoder as `load_checkpoint` does, or what `ivt export` wrote.

    Args:
        checkpoint: folder or Hub name.
        dtype: float32, bfloat16 or float16; None takes that of the checkpoint, and float32 for an exported model.
        revision: branch, tag or commit on the Hub.

    Raises:
        ValueError: if weights are missing or of another shape, the model does not embed both pictures and texts, or an
            exported model does not compute in `dtype`.
        ImportError: if the runtime of an exported model is not installed.
    """
    if is_exported(checkpoint, revision):
        return ExportedIVTModel.from_pretrained(checkpoint, dtype or torch.float32, revision)
    load_config(checkpoint, revision)  # a model of another kind is named before its weights are loaded
    model = load_checkpoint(checkpoint, dtype=dtype or "auto", revision=revision)
    check_methods(checkpoint, model)
    return model.eval()
