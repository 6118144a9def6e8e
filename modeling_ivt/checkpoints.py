"""Loading a checkpoint strictly: every weight of the model comes from it, or it is an error."""

from typing import Any

from transformers import AutoModel, PreTrainedModel


def load_checkpoint(checkpoint: str, **kwargs: Any) -> PreTrainedModel:
    """Load a model whose every weight comes from the checkpoint; transformers would draw missing ones at random.

    Args:
        checkpoint: folder or Hub name.
        **kwargs: passed to `AutoModel.from_pretrained`: `dtype`, `revision`, fields of the configuration.

    Raises:
        ValueError: if weights are missing or of another shape.
    """
    # mismatched sizes are not ignored but named below, beside what is missing
    model, info = AutoModel.from_pretrained(
        checkpoint, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    unfit = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if unfit:
        raise ValueError(
            f"{checkpoint} lacks {len(unfit)} weights of its model or has them in other shapes, the first {unfit[0]}; "
            "its config.json and weights do not belong together: save or convert it again"
        )
    return model
