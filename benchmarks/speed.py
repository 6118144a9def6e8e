"""Print the speed figures of the README: medians over several rounds, on this machine's CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.speed drawing views ranking     # per core
    python -m benchmarks.speed embedding                                   # all cores, base size

Wall-clock time on an otherwise idle machine is meant; nothing here is part of the tests.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ivt import rank_gallery
from ivt.corpora.drawn.drawing import draw_sighting
from ivt.corpora.drawn.people import sample_person, sample_sighting
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics
from modeling_ivt import IVTConfig, IVTModel
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


def drawing() -> None:
    """The embedded corpus: people drawn per second."""
    pairs = [(sample_person(0, "test", i), sample_sighting(0, "test", i, 0)) for i in range(100)]
    rate = median_rate(lambda: [draw_sighting(*pair) for pair in pairs], len(pairs))
    print(f"drawing: {rate:.0f} images/s")


def views() -> None:
    """Three augmented 384 x 128 views, from a JPEG and from cached pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 100, 3), np.uint8)).save(buffer, "JPEG")
    processor, augment, rng = IVTImageProcessor(), TrainingViews(num_views=3), np.random.default_rng(0)
    pixels = resized_pixels(Image.open(buffer), processor)
    from_jpeg = median_rate(lambda: augment(resized_pixels(Image.open(buffer), processor), rng), 1, rounds=200)
    from_cache = median_rate(lambda: augment(pixels, rng), 1, rounds=200)
    print(f"three views: {from_jpeg:.0f} images/s from a 100 x 300 JPEG, {from_cache:.0f} images/s from cached pixels")


def ranking() -> None:
    """Ranking at the size of the CUHK-PEDES test split."""
    texts, images = normalize(torch.randn(6156, 768), dim=1), normalize(torch.randn(3074, 768), dim=1)
    rank = median_rate(lambda: rank_gallery(texts, images, k=10), 1)
    text_ids, image_ids = np.arange(6156) // 6, np.arange(3074) // 3
    metrics = median_rate(lambda: retrieval_metrics(texts.numpy(), text_ids, images.numpy(), image_ids), 1)
    print(f"6,156 texts x 3,074 images: ten best in {1 / rank:.2f} s, all metrics in {1 / metrics:.2f} s")


@torch.inference_mode()
def embedding() -> None:
    """Embedding with the base model: images of stride 12 and 16, texts of 64 tokens."""
    for stride in (12, 16):
        model = IVTModel(IVTConfig(patch_stride=stride)).eval()
        images, texts = torch.randn(16, 3, 384, 128), torch.randint(1000, (16, 64))
        for dtype in (torch.float32, torch.bfloat16):
            model.to(dtype)
            image_rate = median_rate(lambda: model.get_image_features(images.to(dtype), cls_only=True), 16, rounds=3)  # noqa: B023
            text_rate = median_rate(lambda: model.get_text_features(texts, cls_only=True), 16, rounds=3)  # noqa: B023
            print(f"base, stride {stride}, {dtype}: {image_rate:.1f} images/s, {text_rate:.1f} texts/s")


def main() -> None:
    """Read which figures to print."""
    figures = {function.__name__: function for function in (drawing, views, ranking, embedding)}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figures", nargs="+", choices=figures, help="what to measure")
    for name in parser.parse_args().figures:
        figures[name]()


if __name__ == "__main__":
    main()
