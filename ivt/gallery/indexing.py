"""Indexing: crops -> rows of a gallery's table, only what is new or changed, in batches that stay once acknowledged.

A batch is acknowledged when its commit returns: from then on the table holds its rows, even if the process is killed.
What was not acknowledged is not in the table, and the next run embeds it.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from ivt.messages import first_few

from .columns import Crop, crop_table, gallery_rows, gallery_schema
from .engine import Work, embed_crops, embed_on_cluster, hash_content
from .known_rows import TWICE, KnownRows

logger = logging.getLogger(__name__)

COMMIT_ROWS, COMMIT_SECONDS = 2048, 10.0  # a batch has as many rows or took as long, whichever comes first
# Crops that are handed to the engine at a time; on a cluster they are committed together.
FILES_PER_QUERY = {"native": 65_536, "ray": 1_000_000}
IMAGES_PER_QUERY = {"native": 256, "ray": 65_536}  # of crops that come with their pixels


@dataclass
class IndexReport:
    """What indexing did, in pictures.

    Attributes:
        added: new in the gallery.
        changed: with new content, or other camera, time, track or identity than before.
        unchanged: left as they were.
        removed: gone from the folder and so, with `sync`, from the gallery.
        bad: image id -> what is wrong, of those that could not be read.
        left_out: other files of the folder: number of each ending.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = f"{self.added} added, {self.changed} changed, {self.unchanged} unchanged, {self.removed} removed"
        others = first_few([f"{number} {ending or 'without ending'}" for ending, number in self.left_out.items()])
        return f"{counts}, {len(self.bad)} unreadable" + (
            f"; no pictures by their endings: {others}" if others else ""
        )


@dataclass(frozen=True)
class Outcome:
    """What the engine made of some crops, by what is to be done about each.

    Attributes:
        new: what `embed_crops` yields of crops that were embedded; to be written.
        relabelled: crops, with their hashes, whose content the table has under another name or with other details; its
            vector is to be copied.
        same: number of crops that the table has just so.
        bad: image id -> what is wrong, of those that could not be read.
    """

    new: pa.Table
    relabelled: list[tuple[Crop, str]]
    same: int
    bad: dict[str, str]


def sort_outcome(batch: pa.Table, crops: dict[str, Crop], known: KnownRows) -> Outcome:
    """Sort what the engine made of some crops.

    Args:
        batch: what `embed_crops` or `embed_on_cluster` yields.
        crops: by their names.
        known: rows of the table.
    """
    relabelled, same, bad = [], 0, {}
    columns = (batch[name].to_pylist() for name in ("image_id", "content_hash", "problem", "is_new"))
    for image_id, content_hash, problem, is_new in zip(*columns, strict=True):
        if problem is not None:
            bad[image_id] = problem
        elif is_new:
            continue
        elif known.has(crops[image_id], content_hash):
            same += 1
        else:
            relabelled.append((crops[image_id], content_hash))
    return Outcome(batch.filter(batch["is_new"]), relabelled, same, bad)


def _distinct(crops: Iterable[Crop]) -> Iterator[Crop]:
    """Let each picture pass once.

    Raises:
        ValueError: if one name stands for different pictures.
    """
    contents: dict[str | None, str | None] = {}
    for crop in crops:
        key, content = (crop.uri, None) if crop.image is None else (crop.image_id, hash_content(crop.image))
        if key not in contents:
            contents[key] = content
            yield crop
        elif contents[key] != content:
            raise ValueError(TWICE.format(crop.image_id))


def _portions(crops: Iterable[Crop], runner: str) -> Iterator[list[Crop]]:
    """Cut crops into what the engine gets at a time."""
    for in_memory, alike in groupby(crops, key=lambda crop: crop.image is not None):
        size = IMAGES_PER_QUERY[runner] if in_memory else FILES_PER_QUERY[runner]
        while portion := list(islice(alike, size)):
            yield portion


class Indexer:
    """Brings crops into a table.

    Args:
        table: of LanceDB.
        work: what to do with the crops.
        runner: where the engine runs; on "ray" a portion of crops is one commit, else `COMMIT_ROWS` of them are.
        on_bad_image: "skip" or "error".
    """

    def __init__(self, table: Any, work: Work, runner: str = "native", on_bad_image: str = "skip") -> None:
        self.table, self.runner, self.on_bad_image = table, runner, on_bad_image
        self.width = table.schema.field("vector").type.list_size
        self.work = replace(work, known_version=table.version)
        self.known = KnownRows(work.store.dataset(table.version).to_table(columns=KnownRows.COLUMNS))
        self.report = IndexReport()

    def index(self, crops: Iterable[Crop], progress: bool = True) -> set[str]:
        """Embed and commit what is new or changed.

        Args:
            crops: the crops.
            progress: show a progress bar; it counts what is acknowledged, on a cluster what is embedded.

        Returns:
            The files that the crops have.

        Raises:
            ValueError: on the first batch with an unreadable picture, after its other rows are committed, if
                `on_bad_image` is "error".
        """
        seen = set()
        total = len(crops) if isinstance(crops, Sequence) else None
        with tqdm(desc="Indexing", total=total, unit="image", disable=not progress, smoothing=0.1) as bar:
            for portion in _portions(_distinct(crops), self.runner):
                seen |= {crop.uri for crop in portion if crop.uri is not None}
                self._embed([self.known.complete(crop) for crop in portion], self.work, bar)
        return seen

    def remove_gone(self, folder: str, seen: set[str]) -> None:
        """Remove the rows of files in a folder and below that were not seen there any more."""
        prefix = folder.rstrip("/") + "/"
        gone = {row for uri, row in self.known.of_uri.items() if uri.startswith(prefix) and uri not in seen}
        image_ids = [image_id for image_id, row in self.known.of_id.items() if row in gone]
        self.work.store.delete(self.table, image_ids)
        self.report.removed += len(image_ids)

    def _embed(self, crops: list[Crop], work: Work, bar: tqdm) -> None:
        of_id = {crop.image_id: crop for crop in crops}
        vanished = []
        for batch in self._batches(crop_table(crops), work, bar):
            vanished += self._commit(batch, of_id, bar)
        if vanished:
            self._embed(vanished, replace(work, known_version=None), bar)

    def _batches(self, crops: pa.Table, work: Work, bar: tqdm) -> Iterator[pa.Table]:
        """What the engine makes of crops, in batches to be committed: several, or one of all that a cluster made."""
        outcomes: list[pa.RecordBatch] = []
        if self.runner == "ray":
            for outcome in embed_on_cluster(crops, work):
                outcomes.append(outcome)
                bar.update(len(outcome))  # a bar that waited for the only commit would say nothing
            yield pa.Table.from_batches(outcomes)
            return
        started = monotonic()
        for outcome in embed_crops(crops, work):
            outcomes.append(outcome)
            if sum(map(len, outcomes)) >= COMMIT_ROWS or monotonic() - started >= COMMIT_SECONDS:
                yield pa.Table.from_batches(outcomes)
                outcomes, started = [], monotonic()
        if outcomes:
            yield pa.Table.from_batches(outcomes)

    def _commit(self, batch: pa.Table, crops: dict[str, Crop], bar: tqdm) -> list[Crop]:
        """Commit what the engine made of some crops.

        Returns:
            Crops whose content was known when the run began, while the row which had it has changed since.
        """
        outcome = sort_outcome(batch, crops, self.known)
        copies = self._copy_vectors(outcome.relabelled)
        copied = set(copies["image_id"].to_pylist())
        written = [*outcome.new["image_id"].to_pylist(), *copied]
        if self.runner == "ray":
            self._commit_fragments(batch, copies, written)
        elif written:
            self._upsert(outcome.new, copies, crops)
        vanished = [crop for crop, _ in outcome.relabelled if crop.image_id not in copied]
        self._count(outcome, written)
        if self.runner == "native":
            bar.update(len(batch) - len(vanished))
        logger.info("acknowledged %d pictures, %d rows written", len(batch) - len(vanished), len(written))
        if outcome.bad and self.on_bad_image == "error":
            image_id, problem = next(iter(outcome.bad.items()))
            raise ValueError(
                f"{image_id} cannot be read ({problem}); replace it, or leave such pictures out with "
                'on_bad_image="skip" (--on-bad-image skip)'
            )
        return vanished

    def _copy_vectors(self, relabelled: list[tuple[Crop, str]]) -> pa.Table:
        """Make rows of crops whose content the table has under another name, or with other details."""
        if not relabelled:
            return gallery_schema(self.work.model, self.width).empty_table()
        crops, hashes = [crop for crop, _ in relabelled], pa.array([content_hash for _, content_hash in relabelled])
        dataset = self.work.store.dataset()
        present = dataset.to_table(columns=["content_hash"])["content_hash"].combine_chunks()
        places = pc.index_in(hashes, present)  # null where the content is gone
        vectors = dataset.take(places.drop_null(), columns=["vector"])["vector"].combine_chunks()
        flat = vectors.flatten().to_numpy().reshape(-1, self.width)
        still_there = places.is_valid()
        return gallery_rows(crop_table(crops).filter(still_there), hashes.filter(still_there), flat, self.work.model)

    def _upsert(self, new: pa.Table, copies: pa.Table, crops: dict[str, Crop]) -> None:
        """Commit the crops that were embedded here, and copies."""
        vectors = new["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.width)
        hashes = new["content_hash"].combine_chunks()
        embedded = crop_table([crops[image_id] for image_id in new["image_id"].to_pylist()])
        rows = gallery_rows(embedded, hashes, vectors, self.work.model)
        self.work.store.upsert(self.table, pa.concat_tables([rows, copies]))

    def _commit_fragments(self, batch: pa.Table, copies: pa.Table, written: list[str]) -> None:
        """Commit the rows that a cluster wrote, and copies.

        Args:
            batch: what `embed_on_cluster` yielded; any of its rows may hold the fragments, a known crop's too.
            copies: rows to write beside them.
            written: names of both.
        """
        fragments = [name for names in batch["fragments"].drop_null().to_pylist() for name in names]
        if len(copies):
            fragments += self.work.store.write_fragments(copies)
        if fragments:
            replaced = [image_id for image_id in written if image_id in self.known.of_id]
            self.work.store.commit_fragments(fragments, replaced)

    def _count(self, outcome: Outcome, written: list[str]) -> None:
        num_changed = sum(image_id in self.known.of_id for image_id in written)
        self.report.changed += num_changed
        self.report.added += len(written) - num_changed
        self.report.unchanged += outcome.same
        self.report.bad |= outcome.bad
