"""How fast things are: medians of wall-clock time over several rounds. `python -m benchmarks` prints them."""

import io
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ivt import rank_gallery
from ivt.corpora.drawn.drawing import draw_sighting
from ivt.corpora.drawn.people import sample_person, sample_sighting
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics
from processing import IVTImageProcessor
from processing.views import TrainingViews, resized_pixels


def median_rate(function: Callable[[], object], items: int, rounds: int = 5) -> float:
    """Items per second: the median over `rounds` calls, after one that is not counted."""
    function()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        rates.append(items / (time.perf_counter() - start))
    return statistics.median(rates)


def line(what: str, rate: float, unit: str) -> dict[str, object]:
    """A line of the table."""
    return {"figure": what, "rate": f"{rate:.3g}", "unit": unit}


def drawing() -> Iterator[dict[str, object]]:
    """The drawn corpus: people drawn per second."""
    pairs = [(sample_person(0, "test", i), sample_sighting(0, "test", i, 0)) for i in range(100)]
    yield line("drawing people", median_rate(lambda: [draw_sighting(*pair) for pair in pairs], len(pairs)), "images/s")


def views() -> Iterator[dict[str, object]]:
    """Three augmented 384 x 128 views, from a JPEG and from cached pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 100, 3), np.uint8)).save(buffer, "JPEG")
    processor, augment, rng = IVTImageProcessor(), TrainingViews(num_views=3), np.random.default_rng(0)
    pixels = resized_pixels(Image.open(buffer), processor)
    from_jpeg = median_rate(lambda: augment(resized_pixels(Image.open(buffer), processor), rng), 1, rounds=200)
    from_cache = median_rate(lambda: augment(pixels, rng), 1, rounds=200)
    yield line("three views from a JPEG of 300 x 100 pixels (height x width)", from_jpeg, "images/s")
    yield line("three views from cached pixels", from_cache, "images/s")


def ranking() -> Iterator[dict[str, object]]:
    """Ranking at the size of the CUHK-PEDES test split."""
    texts, images = normalize(torch.randn(6156, 768), dim=1), normalize(torch.randn(3074, 768), dim=1)
    text_ids, image_ids = np.arange(6156) // 6, np.arange(3074) // 3
    ranked = median_rate(lambda: rank_gallery(texts, images, k=10), 1)
    measured = median_rate(lambda: retrieval_metrics(texts.numpy(), text_ids, images.numpy(), image_ids), 1)
    yield line("ten best of 3,074 images for 6,156 texts", 1 / ranked, "s")
    yield line("all metrics of 3,074 images and 6,156 texts", 1 / measured, "s")
