"""Indexing: crops -> rows of a gallery's table, only what is new or changed, in batches that stay once acknowledged.

A batch is acknowledged when its commit returns: from then on the table holds its rows, whatever is killed. What was
not acknowledged is not in the table, and the next run embeds it.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from time import monotonic
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from .crops import Crop
from .engine import CROP_SCHEMA, Work, embed_crops, gallery_rows, hash_content
from .store import gallery_schema

logger = logging.getLogger(__name__)

COMMIT_ROWS, COMMIT_SECONDS = 2048, 10.0  # a batch has as many rows or took as long, whichever comes first
# Crops that are handed to the engine at a time; on a cluster they are committed together.
FILES_PER_QUERY = {"native": 65_536, "ray": 1_000_000}
IMAGES_PER_QUERY = {"native": 256, "ray": 65_536}  # of crops that come with their pixels
TWICE = "image id {!r} stands for two different pictures, expected one; give them different ids"
KEPT_FIELDS = ("camera", "time", "track_id", "person_id")  # a crop that leaves them open keeps what the gallery has


@dataclass
class IndexReport:
    """What indexing did, in pictures.

    Attributes:
        added: new in the gallery.
        changed: with new content, or other camera, time, track or identity than before.
        unchanged: left as they were.
        removed: gone from the folder and so, with `sync`, from the gallery.
        bad: image id -> what is wrong, of those that could not be read.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    bad: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = f"{self.added} added, {self.changed} changed, {self.unchanged} unchanged, {self.removed} removed"
        return f"{counts}, {len(self.bad)} unreadable"


class KnownRows:
    """The rows of a table by image id and by file, without pictures and vectors.

    Args:
        rows: with the columns image_id, uri, content_hash and `KEPT_FIELDS`.
    """

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self.of_id = {image_id: row for row, image_id in enumerate(rows["image_id"].to_pylist())}
        self.of_uri = {uri: row for row, uri in enumerate(rows["uri"].to_pylist()) if uri is not None}
        self._taken = set(self.of_id)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows.slice(row, 1).to_pylist()[0]

    def name(self, crop: Crop) -> Crop:
        """Give a crop the name that it has in the gallery, or one that no other picture has, and the fields known.

        A picture with a file is the one with this file; one without is the one with its name. A file whose name is
        taken by another gets as many of its folders in front as it takes.
        """
        row = self.of_uri.get(crop.uri) if crop.image is None else self.of_id.get(crop.image_id)
        if row is not None:
            known = self[row]
            open_fields = {name: known[name] for name in KEPT_FIELDS if getattr(crop, name) is None}
            return replace(crop, image_id=known["image_id"], **open_fields)
        parts = (crop.uri or "").lstrip("/").split("/")
        longer = ("/".join(parts[-length:]) for length in range(crop.image_id.count("/") + 2, len(parts) + 1))
        image_id = crop.image_id
        while image_id in self._taken:
            image_id = next(longer, crop.uri)
            if image_id is None:
                raise ValueError(TWICE.format(crop.image_id))
        self._taken.add(image_id)
        return replace(crop, image_id=image_id)

    def has(self, crop: Crop, content_hash: str) -> bool:
        """Whether the gallery has a named crop just so."""
        row = self.of_id.get(crop.image_id)
        expected = {name: getattr(crop, name) for name in ("uri", *KEPT_FIELDS)} | {"content_hash": content_hash}
        return row is not None and expected.items() <= self[row].items()


def crop_table(crops: Sequence[Crop]) -> pa.Table:
    """Put crops into a table with the columns of `CROP_SCHEMA`."""
    return pa.Table.from_pylist([asdict(crop) for crop in crops], schema=CROP_SCHEMA)


def _distinct(crops: Iterable[Crop]) -> Iterator[Crop]:
    """Let each picture pass once.

    Raises:
        ValueError: if one name stands for different pictures.
    """
    contents: dict[str, str | None] = {}
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
        columns = ["image_id", "uri", "content_hash", *KEPT_FIELDS]
        self.known = KnownRows(work.store.dataset(table.version).to_table(columns=columns))
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
                self._embed([self.known.name(crop) for crop in portion], self.work, bar)
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
        outcomes, vanished, started = [], [], monotonic()
        for outcome in embed_crops(crop_table(crops), work):
            outcomes.append(outcome)
            if self.runner == "ray":
                bar.update(len(outcome))  # a portion is one commit; a bar that waited for it would say nothing
            enough = sum(map(len, outcomes)) >= COMMIT_ROWS or monotonic() - started >= COMMIT_SECONDS
            if enough and self.runner == "native":
                vanished += self._commit(pa.Table.from_batches(outcomes), of_id, bar)
                outcomes, started = [], monotonic()
        if outcomes:
            vanished += self._commit(pa.Table.from_batches(outcomes), of_id, bar)
        if vanished:
            self._embed(vanished, replace(work, known_version=None), bar)

    def _commit(self, outcome: pa.Table, of_id: dict[str, Crop], bar: tqdm) -> list[Crop]:
        """Commit what the engine made of some crops.

        Returns:
            Crops whose content was known when the run began, while the row which had it has changed since.
        """
        hashes = dict(zip(outcome["image_id"].to_pylist(), outcome["content_hash"].to_pylist(), strict=True))
        problems = zip(outcome["image_id"].to_pylist(), outcome["problem"].to_pylist(), strict=True)
        bad = {image_id: problem for image_id, problem in problems if problem is not None}
        new = outcome.filter(outcome["is_new"])
        new_crops = [of_id[image_id] for image_id in new["image_id"].to_pylist()]
        embedded = {crop.image_id for crop in new_crops}
        old = [of_id[image_id] for image_id in hashes if image_id not in embedded and image_id not in bad]
        unlike = [crop for crop in old if not self.known.has(crop, hashes[crop.image_id])]
        copies = self._copy_vectors(unlike, [hashes[crop.image_id] for crop in unlike])
        self._write(new, new_crops, copies)

        written = embedded | set(copies["image_id"].to_pylist())
        num_changed = sum(image_id in self.known.of_id for image_id in written)
        vanished = [crop for crop in unlike if crop.image_id not in written]
        self.report.changed += num_changed
        self.report.added += len(written) - num_changed
        self.report.unchanged += len(old) - len(unlike)
        self.report.bad |= bad
        if self.runner == "native":
            bar.update(len(outcome) - len(vanished))
        logger.info("acknowledged %d pictures, %d rows written", len(outcome) - len(vanished), len(written))
        if bad and self.on_bad_image == "error":
            image_id, problem = next(iter(bad.items()))
            raise ValueError(
                f"{image_id} cannot be read ({problem}); replace it, or leave such pictures out with "
                'on_bad_image="skip" (--on-bad-image skip)'
            )
        return vanished

    def _copy_vectors(self, crops: list[Crop], hashes: list[str]) -> pa.Table:
        """Make rows of crops whose content the table has under another name, or with other fields."""
        if not crops:
            return gallery_schema(self.work.model, self.width).empty_table()
        dataset = self.work.store.dataset()
        present = dataset.to_table(columns=["content_hash"])["content_hash"].combine_chunks()
        places = pc.index_in(pa.array(hashes), present)  # null where the content is gone
        vectors = dataset.take(places.drop_null(), columns=["vector"])["vector"].combine_chunks()
        found = crop_table(crops).filter(places.is_valid())
        flat = vectors.flatten().to_numpy().reshape(-1, self.width)
        return gallery_rows(found, pa.array(hashes).filter(places.is_valid()), flat, self.work.model)

    def _write(self, new: pa.Table, crops: list[Crop], copies: pa.Table) -> None:
        """Commit new rows: those that the cluster has written already, or those whose vectors are here."""
        store = self.work.store
        if self.runner == "ray":
            fragments = [name for names in new["fragments"].drop_null().to_pylist() for name in names]
            fragments += store.write_fragments(copies) if len(copies) else []
            image_ids = [*new["image_id"].to_pylist(), *copies["image_id"].to_pylist()]
            if fragments:
                store.commit_fragments(fragments, [name for name in image_ids if name in self.known.of_id])
        elif len(new) or len(copies):
            vectors = new["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.width)
            hashes = new["content_hash"].combine_chunks()
            rows = gallery_rows(crop_table(crops), hashes, vectors, self.work.model)
            store.upsert(self.table, pa.concat_tables([rows, copies]))
