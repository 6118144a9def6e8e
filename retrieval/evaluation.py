"""Evaluation: a model and the rows of a corpus -> metrics of both directions, by the corpora's official protocol."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset

from metric.person_retrieval.person_retrieval import retrieval_metrics

from .embedding import embed_images, embed_texts


def embed_alone(embed: Callable[[range], torch.Tensor], count: int) -> torch.Tensor:
    """Embed all `count` items in this process."""
    return embed(range(count))


def evaluate_retrieval(
    model: torch.nn.Module,
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
    captions, caption_person_ids = [], []
    for person_id, texts in zip(image_person_ids, dataset["captions"][:], strict=True):
        captions += texts
        caption_person_ids += [person_id] * len(texts)

    def images_of(rows: range) -> torch.Tensor:
        return embed_images(model, processor, dataset.select(rows)["image"], batch_size, progress)

    def texts_of(indices: range) -> torch.Tensor:
        return embed_texts(model, processor, captions[indices.start : indices.stop], batch_size, progress)

    images = (share(images_of, len(dataset)).numpy(), image_person_ids)
    texts = (share(texts_of, len(captions)).numpy(), caption_person_ids)
    return {
        "text_to_image": retrieval_metrics(*texts, *images, ks, average_precision),
        "image_to_text": retrieval_metrics(*images, *texts, ks, average_precision),
    }
