"""Upkeep of a gallery's table: what it holds, its index, what should not be in it, and another model."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ivt.messages import first_few
from ivt.retrieval.models import embedding_width

from .columns import CROP_SCHEMA, Crop, gallery_schema
from .engine import Work, hash_crops
from .indexing import Indexer
from .store import INDEX, VECTOR_INDEX, Store

if TYPE_CHECKING:
    from lancedb.table import Table

# Up to here a search compares with every row, above it asks an index; measured by benchmarks/gallery.py.
EXACT_ROWS = 50_000
MAX_FRAGMENTS = 32  # batches that may be stored in files of their own before they are put together
MAX_UNINDEXED = 0.1  # share of the rows that may be missing in the index before it is extended
LENGTH_TOLERANCE = 1e-3  # how far from 1 the length of a vector may be
ROWS_PER_READ = 1024


def optimize_table(store: Store, table: "Table", cleanup_older_than: timedelta = timedelta(days=1)) -> None:
    """Put small files together, drop old versions, and build or extend the index; see `Gallery.optimize`."""
    table.optimize(cleanup_older_than=cleanup_older_than)
    index = table.index_stats(VECTOR_INDEX)
    if table.count_rows() > EXACT_ROWS and (index is None or index.index_type != INDEX):
        store.build_index(table)


def tidy_up(store: Store, table: "Table") -> None:
    """Optimize a table if that is worth it."""
    rows, index = table.count_rows(), table.index_stats(VECTOR_INDEX)
    wants_index = rows > EXACT_ROWS if index is None else index.num_unindexed_rows > MAX_UNINDEXED * rows
    fragments = table.stats()["fragment_stats"]  # ty: ignore[not-subscriptable]  # a dict, whatever its annotation
    if wants_index or fragments["num_fragments"] > MAX_FRAGMENTS:
        optimize_table(store, table)


def describe_table(store: Store, table: "Table") -> dict[str, Any]:
    """What a gallery's table holds; see `Gallery.info`."""
    rows = store.dataset().to_table(columns=["camera", "time"])
    cameras = {row["values"]: row["counts"] for row in rows["camera"].value_counts().to_pylist()}
    times = pc.min_max(rows["time"]).as_py()
    index, model = table.index_stats(VECTOR_INDEX), store.model_version(table)
    return {
        "uri": store.uri,
        "pictures": len(rows),
        "cameras": {camera or "unknown": cameras[camera] for camera in sorted(cameras, key=lambda name: name or "")},
        "first_time": times["min"],
        "last_time": times["max"],
        "model_name": model.name,
        "model_revision": model.revision,
        "index": index and index.index_type,
        "unindexed_pictures": index and index.num_unindexed_rows,
        "bytes": table.stats()["total_bytes"],  # ty: ignore[not-subscriptable]  # likewise
    }


def verify_table(store: Store, table: "Table", pictures: bool) -> dict[str, list[str]]:
    """Look for what should not be in a gallery's table; see `Gallery.verify`."""
    model = store.model_version(table)
    columns = ["image_id", "vector", "model_revision", "content_hash", *(CROP_SCHEMA.names[1:] if pictures else [])]
    problems: dict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for batch in store.dataset().to_batches(columns=columns, batch_size=ROWS_PER_READ):
        image_ids = batch["image_id"].to_pylist()
        counts.update(image_ids)
        lengths = np.linalg.norm(batch["vector"].flatten().to_numpy().reshape(len(batch), -1), axis=1)
        revisions, hashes = batch["model_revision"].to_pylist(), batch["content_hash"].to_pylist()
        found = hash_crops(pa.Table.from_batches([batch.select(CROP_SCHEMA.names)])) if pictures else {}
        for image_id, length, revision, expected in zip(image_ids, lengths, revisions, hashes, strict=True):
            if not abs(length - 1) <= LENGTH_TOLERANCE:  # written so that NaN fails too
                problems["vector is not of unit length"].append(image_id)
            if revision != model.revision:
                problems["made with another model"].append(image_id)
            if pictures and found[image_id] != expected:
                what = "picture is missing" if found[image_id] is None else "picture has changed"
                problems[what].append(image_id)
    problems["duplicate name"] = [image_id for image_id, count in counts.items() if count > 1]
    return {problem: image_ids for problem, image_ids in problems.items() if image_ids}


def _crops_of(store: Store) -> Iterator[Crop]:
    for batch in store.dataset().to_batches(columns=CROP_SCHEMA.names, batch_size=ROWS_PER_READ):
        yield from (Crop(**row) for row in batch.to_pylist())


def reembed_table(table: "Table", work: Work, runner: str, on_bad_image: str, progress: bool = True) -> None:
    """Exchange all rows of a gallery's table for those of another model in one commit; see `Gallery.reembed`.

    Args:
        table: the gallery's table.
        work: the new model and the store of the gallery.
        runner: where the engine runs.
        on_bad_image: "skip" drops pictures that cannot be read any more, "error" leaves all as it was.
        progress: show a progress bar.
    """
    beside = Store(work.store.uri.removesuffix(".lance") + ".reembed.lance", work.store.storage_options)
    gathered = beside.open()
    if gathered is not None and beside.model_version(gathered).revision != work.model.revision:
        beside.drop()  # what an interrupted conversion to yet another model left
        gathered = None
    if work.store.model_version(table).revision != work.model.revision:
        if gathered is None:
            gathered = beside.create(gallery_schema(work.model, embedding_width(work.model)))
        indexer = Indexer(gathered, replace(work, store=beside), runner)
        indexer.index(_crops_of(work.store), progress)
        bad = indexer.report.bad
        if bad and on_bad_image == "error":
            raise ValueError(
                f"{len(bad)} pictures of the gallery cannot be read any more, so it stays as it is: {first_few(bad)}; "
                'remove them, or let the conversion drop them with on_bad_image="skip" (--on-bad-image skip)'
            )
        of_gallery = set(work.store.dataset().to_table(columns=["image_id"])["image_id"].to_pylist())
        beside.delete(gathered, [image_id for image_id in indexer.known.of_id if image_id not in of_gallery])
        work.store.replace(beside)
    beside.drop()
