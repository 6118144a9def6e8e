"""Evaluation: a model and the rows of a corpus -> metrics of both directions, by the corpora's official protocol.

`evaluate_as_reference` is the evaluation of IVT's authors instead, to compare with their figures and for nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ivt.corpora.rows import stored_images
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics
from modeling_ivt import IVTForPreTraining

from .embedding import DualEncoder, embed_images, embed_texts
from .encoders import longest_text
from .ranking import rank_gallery
from .reranking import match_scores, pairs_of, rerank


def image_caption_pairs(dataset: Dataset) -> list[tuple[int, str]]:
    """Every caption with the row of its image, in the order of the rows."""
    return [(row, caption) for row, captions in enumerate(dataset["captions"][:]) for caption in captions]


def embed_alone(embed: Callable[[range], torch.Tensor], count: int) -> torch.Tensor:
    """Embed all `count` items in this process."""
    return embed(range(count))


def evaluate_retrieval(
    model: DualEncoder,
    processor: Any,
    dataset: Dataset,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    average_precision: str = "standard",
    progress: bool = True,
    share: Callable[[Callable[[range], torch.Tensor], int], torch.Tensor] = embed_alone,
) -> dict[str, dict[str, float]]:
    """Let captions search images, and images search captions.

    Text to image: every caption is a query, the gallery is every image once, whatever the number of its captions.
    Image to text: every image is a query, the gallery is every caption. What is right is decided by the person.

    Args:
        model: an `IVTModel`; it is in the same mode afterwards as before.
        processor: its processor.
        dataset: rows of `load_corpus`, one per image.
        batch_size: images or captions per call of the model.
        ks: the k of R@k.
        average_precision: "standard" or "trapezoidal".
        progress: show progress bars.
        share: calls a function that embeds the items of a range, and gives the embeddings of all; where several
            processes work together, each can embed a part.

    Returns:
        {"text_to_image": metrics, "image_to_text": metrics}, each as of `retrieval_metrics`: R@k, mAP and mINP in
        percent, numbers of queries.

    Raises:
        ValueError: if an image stands in two rows, there is nothing to embed, or the metric cannot be computed.
    """
    image_ids, image_person_ids = dataset["image_id"][:], dataset["person_id"][:]
    if len(set(image_ids)) < len(image_ids):
        repeated = next(image_id for index, image_id in enumerate(image_ids) if image_id in image_ids[:index])
        raise ValueError(f"image {repeated!r} stands in several rows, expected each once; merge the rows' captions")
    pairs = image_caption_pairs(dataset)
    captions = [caption for _, caption in pairs]
    caption_person_ids = [image_person_ids[row] for row, _ in pairs]

    def images_of(rows: range) -> torch.Tensor:
        return embed_images(model, processor, stored_images(dataset.select(rows)), batch_size, progress)

    def texts_of(indices: range) -> torch.Tensor:
        return embed_texts(model, processor, captions[indices.start : indices.stop], batch_size, progress)

    images = (share(images_of, len(dataset)).numpy(), image_person_ids)
    texts = (share(texts_of, len(captions)).numpy(), caption_person_ids)
    return {
        "text_to_image": retrieval_metrics(*texts, *images, ks, average_precision),
        "image_to_text": retrieval_metrics(*images, *texts, ks, average_precision),
    }


def evaluate_reranked(
    model: IVTForPreTraining,
    processor: Any,
    dataset: Dataset,
    num_candidates: int,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    average_precision: str = "standard",
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """As `evaluate_retrieval`, and then the best candidates of every query in the order of image-text matching.

    Args:
        model: from `load_matcher`.
        processor: its processor.
        dataset: rows of `load_corpus`, one per image.
        num_candidates: how many are judged again, in both directions; a smaller gallery is judged whole.
        batch_size: images, captions or pairs per call of the model.
        ks: the k of R@k.
        average_precision: "standard" or "trapezoidal".
        progress: show progress bars.

    Returns:
        {"text_to_image": metrics, "image_to_text": metrics} as of `evaluate_retrieval`.

    Raises:
        ValueError: likewise, and if there are no candidates.
    """
    pairs = image_caption_pairs(dataset)
    captions, person_ids = [caption for _, caption in pairs], dataset["person_id"][:]
    image_embeds = embed_images(model, processor, stored_images(dataset), batch_size, progress)
    text_embeds = embed_texts(model, processor, captions, batch_size, progress)

    _, of_texts = rank_gallery(text_embeds, image_embeds, num_candidates)
    _, of_images = rank_gallery(image_embeds, text_embeds, num_candidates)

    def load(rows: list[int]) -> Sequence[Any]:
        return [*stored_images(dataset.select(rows))]

    def keys(text_and_image: torch.Tensor) -> torch.Tensor:
        return text_and_image[:, 0] * len(dataset) + text_and_image[:, 1]

    # of both directions at once, so that each picture and text is encoded once and no pair is judged twice
    judged = torch.cat([pairs_of(of_texts), pairs_of(of_images).flip(1)]).unique(dim=0)  # ascending, so their keys too
    scores = match_scores(model, processor, captions, load, judged, batch_size, progress)
    of_texts = rerank(of_texts, lambda pairs: scores[torch.searchsorted(keys(judged), keys(pairs))])
    of_images = rerank(of_images, lambda pairs: scores[torch.searchsorted(keys(judged), keys(pairs.flip(1)))])
    images = (image_embeds.numpy(), person_ids)
    texts = (text_embeds.numpy(), [person_ids[row] for row, _ in pairs])
    return {
        "text_to_image": retrieval_metrics(*texts, *images, ks, average_precision, of_texts.numpy()),
        "image_to_text": retrieval_metrics(*images, *texts, ks, average_precision, of_images.numpy()),
    }


def evaluate_as_reference(
    model: DualEncoder,
    processor: Any,
    dataset: Dataset,
    batch_size: int = 64,
    ks: Sequence[int] = (1, 5, 10),
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Let captions search images as IVT's authors do it, for parity with their figures only.

    It differs from `evaluate_retrieval` where their code differs from the corpora's protocol:

    - The gallery is every second (image, caption) pair, on the assumption that every image has just two captions. One
      with three moves all that follow it: images stand in the gallery twice, or not at all. Where every image has one
      caption (ICFG-PEDES) the gallery is every pair.
    - Average precision is trapezoidal.
    - A query whose person is not in the gallery counts as not found; it is not left out.
    - Captions are not cut off, short of what the model holds.
    - Images do not search captions.

    Ties still go against the query; theirs fall as the sort leaves them. The authors also choose their best epoch by
    these figures on the test split. Here nothing is ever chosen by them.

    Args:
        model: an `IVTModel`; it is in the same mode afterwards as before.
        processor: its processor.
        dataset: rows of `load_corpus`, one per image.
        batch_size: images or captions per call of the model.
        ks: the k of R@k.
        progress: show progress bars.

    Returns:
        {"text_to_image": metrics} as of `retrieval_metrics`, over all queries.
    """
    pairs = image_caption_pairs(dataset)
    gallery = pairs if len(pairs) == len(dataset) else pairs[::2]
    gallery_rows = [row for row, _ in gallery]
    person_ids = np.array(dataset["person_id"][:])
    image_embeds = embed_images(model, processor, stored_images(dataset), batch_size, progress).numpy()
    captions, max_length = [caption for _, caption in pairs], longest_text(model.config, None)
    text_embeds = embed_texts(model, processor, captions, batch_size, progress, max_length).numpy()
    metrics = retrieval_metrics(
        text_embeds,
        person_ids[[row for row, _ in pairs]],
        image_embeds[gallery_rows],
        person_ids[gallery_rows],
        ks,
        "trapezoidal",
    )
    share_with_match = 1 - metrics["num_queries_without_match"] / metrics["num_queries"]
    averages = {name: figure * share_with_match for name, figure in metrics.items() if not name.startswith("num_")}
    return {"text_to_image": metrics | averages}
