"""Re-ranking: the best candidates of a ranking, judged again by a model that reads words and picture together.

A checkpoint of pre-training has what this needs, a fusion encoder and a head for image-text matching
(`modeling_ivt/pretraining_ivt.py`). It is slow, a pass for every pair, so only the first candidates are judged.

Dimensions: Q queries, G gallery items, K candidates, P pairs, N image tokens, L text tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForPreTraining

from modeling_ivt import IVTForPreTraining

from .checkpoints import load_checkpoint
from .embedding import check_texts, evaluating, picture_inputs
from .encoders import text_inputs
from .exported import is_exported


def load_matcher(checkpoint: str, dtype: torch.dtype | None = None, revision: str | None = None) -> IVTForPreTraining:
    """Load a checkpoint with its fusion encoder and heads.

    Args:
        checkpoint: folder or Hub name.
        dtype: None takes that of the checkpoint.
        revision: branch, tag or commit on the Hub.

    Raises:
        ValueError: if it has none, or its weights are missing or damaged.
    """
    exported = is_exported(checkpoint, revision)
    kinds = [] if exported else AutoConfig.from_pretrained(checkpoint, revision=revision).architectures or []
    if IVTForPreTraining.__name__ not in kinds:
        found = "an exported model" if exported else " or ".join(kinds) or "a model of no known class"
        raise ValueError(
            f"{checkpoint} is {found}, without the fusion encoder that re-ranking needs; expected an "
            f"{IVTForPreTraining.__name__}, which train_hf.py --config pretrain makes, or leave out rerank"
        )
    model = load_checkpoint(checkpoint, AutoModelForPreTraining, dtype=dtype or "auto", revision=revision)
    return cast(IVTForPreTraining, model).eval()


def text_states(model: IVTForPreTraining, processor: Any, texts: Sequence[str], batch_size: int) -> list[torch.Tensor]:
    """The last hidden states of each text, (L, D) without padding, on the model's device."""
    states: list[torch.Tensor] = []
    for start in range(0, len(texts), batch_size):
        inputs = text_inputs(model, processor, list(texts[start : start + batch_size]))
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        hidden = model.get_text_features(**inputs).last_hidden_state  # (B, L, D)
        states += [row[mask.bool()] for row, mask in zip(hidden, inputs["attention_mask"], strict=True)]
    return states


def by_image(pairs: torch.Tensor, batch_size: int) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Sort pairs by their images: `batch_size` images at a time, the places of their pairs, and each one's image."""
    images = pairs[:, 1].unique()  # ascending
    for some in images.split(batch_size):
        places = ((pairs[:, 1] >= some[0]) & (pairs[:, 1] <= some[-1])).nonzero()[:, 0]
        yield some.tolist(), places, torch.searchsorted(some, pairs[places, 1])


def match_scores(
    model: IVTForPreTraining,
    processor: Any,
    texts: Sequence[str],
    load_images: Callable[[list[int]], Sequence[Any]],
    pairs: torch.Tensor,
    batch_size: int = 64,
    progress: bool = True,
) -> torch.Tensor:
    """Judge whether texts and images belong together.

    Each image is loaded once and forgotten; the states of all texts are kept, 3 kB a token at width 768.

    Args:
        model: from `load_matcher`.
        processor: its processor.
        texts: sentences.
        load_images: gives the pictures of some numbers.
        pairs: (P, 2) the text and the image of each pair, from 0.
        batch_size: images, texts, and pairs, per call of the model.
        progress: show a progress bar.

    Returns:
        (P,) logarithms of the odds that the two belong together, float32, on the CPU.

    Raises:
        ValueError: if a text has no word, or a picture cannot be read.
    """
    check_texts(texts)
    scores = torch.empty(len(pairs))
    with evaluating(model), tqdm(desc="pairs", total=len(pairs), unit="pair", leave=None, disable=not progress) as bar:
        states = text_states(model, processor, texts, batch_size)
        for numbers, places, rows in by_image(pairs, batch_size):
            pixels = picture_inputs(processor, load_images(numbers))["pixel_values"].to(model.device, model.dtype)
            image_states = model.get_image_features(pixels).last_hidden_state  # (batch_size, N, D)
            for some, of_some in zip(places.split(batch_size), rows.split(batch_size), strict=True):
                of_texts = [states[text] for text in pairs[some, 0].tolist()]
                lengths = torch.tensor([len(text) for text in of_texts], device=model.device)
                padded = pad_sequence(of_texts, batch_first=True)  # (pairs, L, D)
                mask = torch.arange(padded.shape[1], device=model.device) < lengths[:, None]
                fused = model.fuse(padded, image_states, mask.long(), of_some.to(model.device))
                logits = model.itm_head(fused[:, 0]).float()
                scores[some] = (logits[:, 1] - logits[:, 0]).cpu()
                bar.update(len(some))
    return scores


def pairs_of(candidates: torch.Tensor) -> torch.Tensor:
    """The pairs (Q * K, 2) of a query and one of its candidates (Q, K), query after query."""
    queries = torch.arange(len(candidates)).repeat_interleave(candidates.shape[1])
    return torch.stack([queries, candidates.flatten()], dim=1)


def rerank(candidates: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Put the candidates of queries in the order of their matching.

    Args:
        candidates: (Q, K) gallery items, best first.
        score: gives (P,) scores of pairs (P, 2) of a query and a gallery item.

    Returns:
        (Q, K) the same items, best match first; equal ones stay in their order.
    """
    scores = score(pairs_of(candidates)).view_as(candidates)
    return candidates.gather(1, scores.argsort(dim=1, descending=True, stable=True))
