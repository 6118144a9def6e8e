"""The texts that maps are for, embedded, and how much each word of a text counts.

Letters: B pictures, Q texts per picture, L text tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from ivt.retrieval.embedding import DualEncoder, check_texts, embed_pixels, embed_texts, evaluating
from ivt.retrieval.encoders import model_type
from ivt.retrieval.exported import ExportedIVTModel


@dataclass(frozen=True)
class Texts:
    """Q texts for each of B pictures, embedded.

    Attributes:
        embeds: (B, Q, D), unit length.
        word_states: (B, Q, L, D), last hidden states of the tokens, unit length; None of an encoder that is no IVT
            checkpoint.
        word_mask: (B, Q, L), 1 for tokens of words, 0 for [CLS], [SEP] and padding; None likewise.
    """

    embeds: torch.Tensor
    word_states: torch.Tensor | None = None
    word_mask: torch.Tensor | None = None


def is_checkpoint(model: DualEncoder) -> bool:
    """Whether a model is an IVT checkpoint, which shows its attention and tokens: no export, no other encoder."""
    return model_type(model) == "ivt" and not isinstance(model, ExportedIVTModel)


def in_full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as float32 if the model computes in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@torch.no_grad()
def encode_texts(model: DualEncoder, processor: Any, texts: Sequence[Sequence[str]]) -> Texts:
    """Embed the texts that maps are wanted for.

    Args:
        model: an `IVTModel`, or another encoder with its `get_text_features`, which gives `embeds` alone.
        processor: its processor.
        texts: for each of B pictures its Q texts; equal ones are embedded once.

    Raises:
        ValueError: if the pictures do not have equally many texts, or a text is empty or has half a character.
    """
    counts = {len(row) for row in texts}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"pictures have {sorted(counts)} texts, expected equally many, at least one, for each")
    different = sorted({text for row in texts for text in row})
    place = {text: index for index, text in enumerate(different)}
    rows = torch.tensor([[place[text] for text in row] for row in texts], device=model.device)  # (B, Q)
    if not is_checkpoint(model):
        return Texts(embed_texts(model, processor, different, progress=False).to(model.device)[rows])
    check_texts(different)
    tokens = processor(text=different, return_tensors="pt").to(model.device)
    with evaluating(model):
        output = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
    tokenizer = processor.tokenizer
    around = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id], device=model.device)
    word_mask = tokens["attention_mask"] * ~torch.isin(tokens["input_ids"], around)
    embeds, states = (
        normalize(in_full_precision(tensor), dim=-1) for tensor in (output.pooler_output, output.last_hidden_state)
    )
    return Texts(embeds[rows], states[rows], word_mask[rows])


def _weights_by_leaving_out(
    model: DualEncoder, processor: Any, pixel_values: torch.Tensor, text: str, words: list[str]
) -> tuple[float, list[tuple[str, float]]]:
    """`word_weights` of an encoder that is asked for the text without each word; a lone word has the whole cosine."""
    image = embed_pixels(model, pixel_values)[0].cpu()  # (D,)
    shorter = [" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))] if len(words) > 1 else []
    whole, *rest = (embed_texts(model, processor, [text, *shorter], progress=False) @ image).tolist()
    return whole, [(word, whole - score) for word, score in zip(words, rest or [0.0], strict=True)]


def word_weights(
    model: DualEncoder, processor: Any, pixel_values: torch.Tensor, text: str
) -> tuple[float, list[tuple[str, float]]]:
    """How much each word of a text counts for a picture: what the cosine loses without the word's tokens.

    Args:
        model: an `IVTModel`, or another encoder with its methods.
        processor: its processor.
        pixel_values: (1, C, height, width).
        text: words with spaces between them.

    Returns:
        Cosine of picture and whole text, and per word of the text its weight: positive if the word speaks for the
        picture, negative if against it, 0 for words behind the longest text the model reads.
    """
    words = text.split()
    if model_type(model) not in ("", "ivt"):  # not every encoder hides tokens behind an attention mask
        return _weights_by_leaving_out(model, processor, pixel_values, text, words)
    encoded = processor.tokenizer(
        [word.lower() for word in words], is_split_into_words=True, truncation=True, return_tensors="pt"
    )
    owners = torch.tensor([-1 if owner is None else owner for owner in encoded.word_ids()])  # (L,), -1: [CLS], [SEP]
    without = owners[None] != torch.arange(-1, len(words))[:, None]  # (1 + words, L); the first row is the whole text
    without[0] = True
    input_ids, mask = encoded["input_ids"].expand(len(without), -1), without.long()
    with evaluating(model):
        texts = model.get_text_features(
            input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), cls_only=True
        ).pooler_output
    image = embed_pixels(model, pixel_values)[0]  # (D,)
    whole, *rest = (normalize(texts.float(), dim=-1) @ image).tolist()
    return whole, [(word, whole - score) for word, score in zip(words, rest, strict=True)]
