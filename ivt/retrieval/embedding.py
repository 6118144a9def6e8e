"""Embedding: many pictures or many sentences -> unit-length vectors, with a model and its processor.

Dimensions: n pictures or texts, B batch, L text tokens, D embedding width.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from processing.pictures import read_picture

Item = TypeVar("Item")
Result = TypeVar("Result")
# A module with `get_image_features`, `get_text_features`, `device` and `dtype`. There is no common class.
DualEncoder = Any


@contextmanager
def evaluating(model: torch.nn.Module) -> Generator[None]:
    """Run a block in eval mode and without gradients; afterwards every module is in the mode it had before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:  # not model.train(): that would also wake modules which were frozen on purpose
            module.training = True


def prefetch(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """Map `function` over `items` in threads, in order, at most `num_threads` results ahead of the consumer.

    Threads and not processes, since Pillow decodes and resizes without holding Python's lock.
    """
    items = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        pending = deque(pool.submit(function, item) for item in islice(items, num_threads))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result


def image_batches(images: Any, batch_size: int) -> Iterator[Callable[[], list[Any]]]:
    """Cut images into functions that load a batch each, so that a column of a dataset is decoded by whoever calls."""
    if isinstance(images, Sized):
        for start in range(0, len(images), batch_size):
            yield lambda start=start: images[start : start + batch_size]
    else:
        images = iter(images)
        while batch := list(islice(images, batch_size)):
            yield lambda batch=batch: batch


def is_path(image: Any) -> bool:
    """Whether an image is given by its path; a URL is none, and left to the processor."""
    return isinstance(image, os.PathLike) or (isinstance(image, str) and "://" not in image)


def embed_pixels(model: DualEncoder, pixel_values: torch.Tensor) -> torch.Tensor:
    """Embed a batch of the processor (B, 3, height, width): unit length, float32, on the model's device (B, D)."""
    with evaluating(model):
        pixel_values = pixel_values.to(model.device, model.dtype)
        embeds = model.get_image_features(pixel_values=pixel_values, cls_only=True).pooler_output  # (B, D)
        return normalize(embeds.float(), dim=-1)


def embed_images(
    model: DualEncoder,
    processor: Any,
    images: Iterable[Any],
    batch_size: int = 64,
    progress: bool = True,
    num_threads: int | None = None,
) -> torch.Tensor:
    """Embed images on the model's device and in its dtype, while threads decode and resize the next ones.

    Args:
        model: an `IVTModel`, or another with its `get_image_features`, `device` and `dtype`.
        processor: its processor.
        images: Pillow images or paths as list or iterator, or the image column of a dataset (`dataset["image"]`).
        batch_size: images per call of the model.
        progress: show a progress bar.
        num_threads: threads that decode and resize, each a batch; by default one per core, at most 8.

    Returns:
        Unit-length vectors (n, D), float32, on the CPU, in the order of the images.

    Raises:
        ValueError: if there are no images, or a file cannot be read.
    """
    num_threads = num_threads or min(8, os.cpu_count() or 1)

    def load(load_batch: Callable[[], list[Any]]) -> torch.Tensor:
        batch = [read_picture(image) if is_path(image) else image for image in load_batch()]
        return processor(images=batch, return_tensors="pt")["pixel_values"]  # (B, 3, height, width)

    embeds = []
    total = len(images) if isinstance(images, Sized) else None
    with evaluating(model), tqdm(desc="images", total=total, unit="image", leave=None, disable=not progress) as bar:
        for pixel_values in prefetch(load, image_batches(images, batch_size), num_threads):
            embeds.append(embed_pixels(model, pixel_values))
            bar.update(len(pixel_values))
    if not embeds:
        raise ValueError("there are 0 images to embed, expected at least one")
    return torch.cat(embeds).cpu()


def embed_texts(
    model: DualEncoder,
    processor: Any,
    texts: Iterable[str],
    batch_size: int = 64,
    progress: bool = True,
    max_length: int | None = None,
) -> torch.Tensor:
    """Embed sentences on the model's device; the processor truncates those longer than the model holds.

    Sentences of similar length share a batch, so little of the work is padding.

    Args:
        model: an `IVTModel`, or another with its `get_text_features` and `device`.
        processor: its processor.
        texts: sentences of at least one word.
        batch_size: sentences per call of the model.
        progress: show a progress bar.
        max_length: tokens at which a sentence is cut off, [CLS] and [SEP] among them; by default the processor's.

    Returns:
        Unit-length vectors (n, D), float32, on the CPU, in the order of the texts.

    Raises:
        ValueError: if there are no texts, one is empty, no string or has half a character, or `texts` is itself a
                string.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is one string ({texts[:40]!r}), expected a list; pass [text]")
    texts = list(texts)
    if not texts:
        raise ValueError("there are 0 texts to embed, expected at least one")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {index} is {text!r}, expected a sentence; leave out texts without words")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"text {index} is {text[:80]!a}, with half a character, as of an emoji cut in two")

    options = {} if max_length is None else {"max_length": max_length}
    longest_first = sorted(range(len(texts)), key=lambda index: -len(texts[index]))  # a lack of memory shows at once
    embeds = []
    with evaluating(model), tqdm(desc="texts", total=len(texts), unit="text", leave=None, disable=not progress) as bar:
        for start in range(0, len(texts), batch_size):
            batch = [texts[index] for index in longest_first[start : start + batch_size]]
            tokens = processor(text=batch, padding=True, truncation=True, return_tensors="pt", **options)  # (B, L)
            tokens = tokens.to(model.device)
            embeds.append(
                model.get_text_features(
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                    cls_only=True,
                ).pooler_output  # (B, D)
            )
            bar.update(len(batch))
    in_batches = normalize(torch.cat(embeds).float(), dim=-1).cpu()
    return in_batches[torch.tensor(longest_first).argsort()]
