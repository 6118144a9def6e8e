"""Measure what decides how a gallery searches: every row or an index, at several sizes.

    OMP_NUM_THREADS=1 python -m benchmarks.gallery --rows 10000 50000 100000 --width 768
    OMP_NUM_THREADS=1 python -m benchmarks.gallery --indexing FOLDER --model MODEL

Vectors are drawn as people: a direction per person and four pictures around it with cosine 0.8, queries likewise, and
the variance of dimension i falls as 1 / i, since embeddings of one trained model are far from filling their space (and
directions that do have no neighbours which an index could find). Figures are medians of 20 queries for ten results:
milliseconds as they pass, and milliseconds of the process on all cores, which other processes do not disturb. Recall
is the share of the true ten that were found. The last line per size is a batch of 2,048 rows merged into the table.
Nothing here is part of the tests.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from ivt import DEFAULT_MODEL, Gallery, embed_images
from ivt.gallery import table as table_module
from ivt.gallery import upkeep
from ivt.gallery.columns import Crop, crop_table, gallery_rows, gallery_schema
from ivt.gallery.engine import decode, hash_content
from ivt.gallery.folders import list_images
from ivt.gallery.indexing import COMMIT_ROWS
from ivt.gallery.store import INDEX
from ivt.gallery.table import NUM_PROBES, REFINE_FACTOR
from ivt.retrieval.models import ModelVersion, find_version, load_model
from processing import IVTImageProcessor

MODEL = ModelVersion("synthetic", "sha256:none")
PICTURES_PER_PERSON = 4
NUM_QUERIES, K = 20, 10


def draw_directions(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Unit vectors (count, width) whose first dimensions vary most."""
    vectors = rng.standard_normal((count, width), np.float32) / np.sqrt(np.arange(1, width + 1, dtype=np.float32))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw_pictures(rng: np.random.Generator, people: np.ndarray, count: int) -> np.ndarray:
    """Unit vectors (count, D) around the directions of some of the `people` (P, D)."""
    own = people[rng.integers(len(people), size=count)]
    vectors = 0.8 * own + 0.6 * draw_directions(rng, count, people.shape[1])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(vectors: np.ndarray, first: int) -> pa.Table:
    """Rows of a gallery with these vectors (n, D), named by numbers from `first` on."""
    numbers = range(first, first + len(vectors))
    names = [(f"camera{number % 50}", f"camera{number % 50}/{number:09}.jpg") for number in numbers]
    crops = [Crop(name, f"/data/crops/{name}", camera) for camera, name in names]
    return gallery_rows(crop_table(crops), pa.array([f"{number:032x}" for number in numbers]), vectors, MODEL)


def measured(function: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds that pass, and those of this process, during a call."""
    wall, process = time.perf_counter(), time.process_time()
    function()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - process)


def search_figures(people: Gallery, queries: np.ndarray, truth: list[set[str]], where: str | None = None) -> str:
    """Median milliseconds and recall of some queries (Q, D)."""
    people.nearest(queries[0], K, where)  # reads the index
    times, recall = [], []
    for query, expected in zip(queries, truth, strict=True):
        found: list[pa.Table] = []
        times.append(measured(lambda: found.append(people.nearest(query, K, where))))  # noqa: B023
        recall.append(len(expected & set(found[0]["image_id"].to_pylist())) / len(expected))
    wall, process = (statistics.median(column) for column in zip(*times, strict=True))
    return f"{wall:8.1f} ms {process:8.1f} ms CPU   recall@{K} {statistics.fmean(recall):.3f}"


def size_of(folder: Path) -> float:
    """Megabytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure(num_rows: int, width: int, folder: Path) -> None:
    """Print the figures of one size."""
    rng = np.random.default_rng(0)
    directions = draw_directions(rng, num_rows // PICTURES_PER_PERSON, width)
    people = Gallery(folder / f"people{num_rows}.lance")
    table = people.store.create(gallery_schema(MODEL, width))
    for first in range(0, num_rows, 20_000):
        table.add(rows_of(draw_pictures(rng, directions, min(20_000, num_rows - first)), first))
    people.optimize()
    queries = draw_pictures(rng, directions, NUM_QUERIES)
    truth = [set(people.nearest(query, K)["image_id"].to_pylist()) for query in queries]
    some = "camera = 'camera7'"
    truth_of_some = [set(people.nearest(query, K, some)["image_id"].to_pylist()) for query in queries]
    print(f"{num_rows} x {width}, {size_of(folder):.0f} MB")
    print(f"  every row                {search_figures(people, queries, truth)}")
    print(f"  every row, 2 % by where  {search_figures(people, queries, truth_of_some, some)}")
    wall, process = measured(lambda: people.store.build_index(table))
    size = size_of(folder / f"people{num_rows}.lance/_indices")
    print(f"  {INDEX}: built in {wall / 1000:.1f} s ({process / 1000:.1f} s CPU), {size:.0f} MB")
    for probes, refine in ((4, 10), (16, 10), (64, 10), (64, 1)):
        table_module.NUM_PROBES, table_module.REFINE_FACTOR = probes, refine
        print(f"    probes {probes:3}, refine {refine:2}  {search_figures(people, queries, truth)}")
    table_module.NUM_PROBES, table_module.REFINE_FACTOR = NUM_PROBES, REFINE_FACTOR
    print(f"    where 2 %              {search_figures(people, queries, truth_of_some, some)}")
    new = rows_of(draw_pictures(rng, directions, COMMIT_ROWS), num_rows)
    wall, process = measured(lambda: people.store.upsert(table, new))
    print(f"  merge of {COMMIT_ROWS} rows: {wall:.0f} ms ({process:.0f} ms CPU)")
    wall, process = measured(people.optimize)
    print(f"  optimize with them unindexed: {wall:.0f} ms ({process:.0f} ms CPU)")


def measure_indexing(crops: str, model: str, folder: Path) -> None:
    """Print pictures per second of a core: of the model alone, of `Gallery.add`, of what is around the model."""
    files = list_images(crops).images
    data = [Path(file).read_bytes() for file in files]
    network, processor = load_model(find_version(model))
    people = Gallery(folder / "indexed.lance", model)
    images, base_size = [decode(content)[0] for content in data], IVTImageProcessor()
    steps: dict[str, Callable[[], object]] = {
        "embed_images": lambda: embed_images(network, processor, files, progress=False),
        "add": lambda: people.add(crops, progress=False),
        "add, all known": lambda: people.add(crops, progress=False),
        "hashing": lambda: [hash_content(content) for content in data],
        "decoding": lambda: [decode(content) for content in data],
        "to 384 x 128": lambda: [base_size(images=image, return_tensors="pt") for image in images],
    }
    print(f"{len(files)} pictures of {sum(map(len, data)) / len(data) / 1000:.1f} kB")
    for name, step in steps.items():
        print(f"  {name:15} {1000 * len(files) / measured(step)[1]:8.0f} images/s of a core")


def main() -> None:
    """Read sizes and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 100_000])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--indexing", metavar="FOLDER", help="measure indexing this folder instead")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="to index with")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    upkeep.EXACT_ROWS = 10**9  # an index only where this file builds one
    try:
        if options.indexing:
            measure_indexing(options.indexing, options.model, folder)
            return
        for num_rows in options.rows:
            measure(num_rows, options.width, folder)
            shutil.rmtree(folder / f"people{num_rows}.lance")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
