"""Embedding: many pictures or many sentences -> unit-length vectors, with a model and its processor.

Dimensions: n pictures or texts, B batch, L text tokens, D embedding width.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from PIL import Image
from tqdm import tqdm

from ivt.messages import has_half_character
from processing.pictures import read_picture

from .encoders import call_on_images, call_on_texts, image_inputs, text_inputs

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


def is_picture(image: Any) -> bool:
    """Whether `read_picture` reads an image; arrays, tensors and URLs are left to the processor."""
    is_url = isinstance(image, str) and "://" in image
    return isinstance(image, str | os.PathLike | Image.Image | Mapping) and not is_url


def picture_inputs(processor: Any, images: Iterable[Any]) -> dict[str, torch.Tensor]:
    """Decode pictures, no larger than need be, and prepare them as the processor says; see `image_inputs`."""
    return image_inputs(
        processor, [read_picture(image, shrink=True) if is_picture(image) else image for image in images]
    )


def embed_pixels(model: DualEncoder, inputs: torch.Tensor | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Embed a batch of `image_inputs`, or pixels (B, 3, height, width): unit length, float32, on its device (B, D)."""
    with evaluating(model):
        return call_on_images(model, inputs)


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
        model: an `IVTModel`, or any dual encoder of transformers (`encoders.py`).
        processor: its processor.
        images: Pillow images or paths as list or iterator, or the image column of a dataset (`dataset["image"]`),
            decoded or not.
        batch_size: images per call of the model.
        progress: show a progress bar.
        num_threads: threads that decode and resize, each a batch; by default one per core, at most 8.

    Returns:
        Unit-length vectors (n, D), float32, on the CPU, in the order of the images.

    Raises:
        ValueError: if there are no images, or a file cannot be read.
    """
    num_threads = num_threads or min(8, os.cpu_count() or 1)

    def load(load_batch: Callable[[], list[Any]]) -> dict[str, torch.Tensor]:
        return picture_inputs(processor, load_batch())

    embeds = []
    total = len(images) if isinstance(images, Sized) else None
    with evaluating(model), tqdm(desc="images", total=total, unit="image", leave=None, disable=not progress) as bar:
        for inputs in prefetch(load, image_batches(images, batch_size), num_threads):
            embeds.append(embed_pixels(model, inputs))
            bar.update(len(embeds[-1]))
    if not embeds:
        raise ValueError("there are 0 images to embed, expected at least one")
    return torch.cat(embeds).cpu()


def check_texts(texts: Iterable[str]) -> None:
    """Raise ValueError, with its number, for a text that is no string, has no word or has half a character."""
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {index} is {text!r}, expected a sentence; leave out texts without words")
        if has_half_character(text):
            raise ValueError(f"text {index} is {text[:80]!a}, with half a character, as of an emoji cut in two")


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
        model: an `IVTModel`, or any dual encoder of transformers (`encoders.py`).
        processor: its processor.
        texts: sentences of at least one word.
        batch_size: sentences per call of the model.
        progress: show a progress bar.
        max_length: tokens at which a sentence is cut off, [CLS] and [SEP] among them; by default the model's limit.

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
    check_texts(texts)
    longest_first = sorted(range(len(texts)), key=lambda index: -len(texts[index]))  # a lack of memory shows at once
    embeds = []
    with evaluating(model), tqdm(desc="texts", total=len(texts), unit="text", leave=None, disable=not progress) as bar:
        for start in range(0, len(texts), batch_size):
            batch = [texts[index] for index in longest_first[start : start + batch_size]]
            embeds.append(call_on_texts(model, text_inputs(model, processor, batch, max_length)))  # (B, D)
            bar.update(len(batch))
    in_batches = torch.cat(embeds).cpu()
    return in_batches[torch.tensor(longest_first).argsort()]
