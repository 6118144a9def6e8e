"""Processor of IVT: pictures and sentences -> `pixel_values`, `input_ids`, `attention_mask`.

Joins `IVTImageProcessor` and a BERT WordPiece tokenizer. This file ships to the model repositories.

Letters: I images, T texts, H height, W width, L text tokens.
"""

from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessorMixin, TextKwargs

# Most tokens of a text where the tokenizer names no limit of its model. The corpora's captions have 15-60 words.
DEFAULT_MAX_LENGTH = 128


def _lower(text: Any, index: int) -> str:
    if not isinstance(text, str):
        raise ValueError(f"text {index} is {text!r} of type {type(text).__name__}, expected a sentence (str)")
    if not text.strip():
        raise ValueError(f"text {index} is empty; every text needs at least one word, leave empty captions out")
    return text.lower()


class IVTProcessor(ProcessorMixin):
    """Prepare pictures and sentences for `IVTModel`.

    Text is lower-cased whatever the tokenizer (the model only ever sees lower-case captions), padded to the longest of
    the call, and truncated to the tokenizer's `model_max_length`, or to 128 tokens where the tokenizer names no limit.
    Any of this can be changed in a call: `processor(text=sentences, padding="max_length", max_length=64)`.

    Args:
        image_processor: an `IVTImageProcessor`.
        tokenizer: a BERT WordPiece tokenizer.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    @property
    def text_kwargs(self) -> TextKwargs:
        """The tokenizer's options unless a call says otherwise."""
        options: TextKwargs = {"padding": True, "truncation": True, "return_token_type_ids": False}
        if self.tokenizer.model_max_length > 1_000_000:  # 1e30 stands for "no limit known"
            options["max_length"] = DEFAULT_MAX_LENGTH
        return options

    @property
    def model_input_names(self) -> list[str]:
        """The keys a call returns: a caption is one segment, so it needs no `token_type_ids`."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def __call__(
        self, images: ImageInput | None = None, text: str | list[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Turn images, text or both into the model's inputs.

        Args:
            images: one image or a list, see `IVTImageProcessor`.
            text: one sentence or a list.
            **kwargs: options of the tokenizer and of the image processor; `return_tensors="pt"` gives tensors.

        Returns:
            `pixel_values` (I, 3, H, W) for images; `input_ids` and `attention_mask` (T, L) for text.

        Raises:
            ValueError: for an empty sentence, and where something is neither text nor image.
        """
        if isinstance(text, str):
            text = _lower(text, 0)
        elif text is not None:
            text = [_lower(t, i) for i, t in enumerate(text)]
        return super().__call__(images=images, text=text, **kwargs)
