"""Your own people: a gallery of person crops in a Lance table, which grows, shrinks and is searched by sentences.

    gallery = Gallery("people.lance")
    gallery.add("crops/", camera="north")
    gallery.search("a woman in a red coat", k=10, where="camera = 'north'").show("sheet.png")

Dimensions: D embedding width.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from ivt.choices import ON_BAD_IMAGE
from ivt.messages import check_choice, first_few
from ivt.retrieval.models import DEFAULT_MODEL, ModelVersion, embedding_width, find_same, find_version
from ivt.retrieval.ranking import SCORE_DECIMALS, check_k

from .calibration import Calibration, load_calibration
from .crops import Box, PathFields, absolute, as_utc, find_crops, folder_of
from .engine import CROP_SCHEMA, Work, decode, read_crops, start_engine
from .indexing import Indexer, IndexReport
from .queries import GalleryStatistics, Query
from .results import PICTURE_FIELDS, Picture, SearchResults
from .searching import as_query, measure_gallery, search_gallery, vectors_of
from .store import INDEXES, VECTOR_INDEX, Store, any_of, gallery_schema
from .upkeep import reembed_table, verify_table

if TYPE_CHECKING:
    from lancedb.table import Table

logger = logging.getLogger(__name__)

# Up to here a search compares with every row, above it asks an index; measured by benchmarks/gallery.py.
EXACT_ROWS = 50_000
AUTO_INDEX = "IVF_RQ"
NUM_PROBES, REFINE_FACTOR = 64, 10  # partitions looked into; candidates per result compared by their whole vectors
MAX_FRAGMENTS = 32  # batches that may lie in files of their own before they are put together
MAX_UNINDEXED = 0.1  # share of the rows that may be missing in the index before it is extended
SQL_FIELDS = (*PICTURE_FIELDS, "content_hash", "model_name", "model_revision")
MISSING_SIZE = (64, 192)  # (width, height) of what stands for a picture that cannot be read


class Gallery:
    """A gallery of person crops, searched by sentences.

    Pictures of files are named by their path and read from there when they are shown; crops cut from frames, and
    pictures of a dataset that have no file, are stored in the table.

    Args:
        uri: where the table lies: a path, or the URI of an object storage, that ends in ".lance". It is made when the
            first pictures are added.
        model: folder or Hub name of the model that embeds pictures and queries; by default the gallery's own, and for
            a new gallery the embedded checkpoint.
        revision: branch, tag or commit of a Hub model.
        device: of the model; by default a GPU if there is one.
        storage_options: what the object storage wants to know, e.g. {"aws_endpoint": "http://…"}; by default taken
            from the environment.

    Raises:
        ValueError: if the gallery was made with another model or revision, or `uri` does not end in ".lance".
        ImportError: if LanceDB is not installed.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        model: str | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        storage_options: dict[str, str] | None = None,
    ) -> None:
        self.store = Store(absolute(uri), tuple(sorted((storage_options or {}).items())))
        self.device = device
        self._table: Table | None = None
        self._statistics: dict[tuple[int, str | None], GalleryStatistics] = {}
        self._wanted_model = (model, revision)
        if model is not None:
            self._check_model()  # another model is refused here, not at the first search

    @cached_property
    def model_version(self) -> ModelVersion:
        """The model that embeds pictures and queries of this gallery."""
        name, revision = self._wanted_model
        table = self._find_table()
        if name is None and table is not None:
            return find_same(self.store.model_version(table))
        return find_version(name or DEFAULT_MODEL, revision)

    def _check_model(self) -> None:
        table = self._find_table()
        made_with = self.model_version if table is None else self.store.model_version(table)
        if made_with.revision != self.model_version.revision:
            raise ValueError(
                f"{self.store.uri} was made with {made_with}, not with {self.model_version}, and their vectors do not "
                "compare; open it with the first, or convert it with Gallery.reembed (ivt index --reembed)"
            )

    def _find_table(self) -> "Table | None":
        if self._table is None:
            self._table = self.store.open()  # another process may have made it
        return self._table

    def __len__(self) -> int:
        table = self._find_table()
        return 0 if table is None else table.count_rows()

    def __iter__(self) -> Iterator[Picture]:
        table = self._find_table()
        if table is not None:
            for batch in table.search().select(PICTURE_FIELDS).to_batches():
                yield from (Picture(**row) for row in batch.to_pylist())

    def __repr__(self) -> str:
        return f"Gallery({self.store.uri!r}, {len(self)} pictures)"

    def add(
        self,
        source: str | os.PathLike[str] | datasets.Dataset | datasets.IterableDataset | Iterable[Any],
        boxes: Iterable[Sequence[Box]] | None = None,
        *,
        camera: str | None = None,
        time: datetime | str | float | None = None,
        path_fields: PathFields | None = None,
        sync: bool = False,
        on_bad_image: str = "skip",
        batch_size: int = 64,
        runner: str = "native",
        address: str | None = None,
        progress: bool = True,
    ) -> IndexReport:
        """Add pictures of people; those that the gallery has with the same content are not embedded again.

        Args:
            source: a folder of crops or its URI; a list of files; a dataset with a column `image` and, if it has them,
                image_id, camera, time, track_id, person_id; frames of a video, as `Frame`s, pairs (image, boxes), or
                with `boxes` beside them; or pictures of a person each.
            boxes: per frame of `source` its boxes (left, top, right, bottom), in pixels.
            camera: name of the camera that took them.
            time: when they were taken: a datetime, ISO 8601 (UTC unless it says otherwise), or UTC seconds.
            path_fields: reads camera and time out of each file's path below the folder.
            sync: also remove the pictures of the folder whose file is gone.
            on_bad_image: what to do about pictures that cannot be read: "skip" names them in the report and the log,
                "error" stops at the first batch with one.
            batch_size: pictures per call of the model.
            runner: "native" embeds with the threads of this machine, "ray" on a Ray cluster.
            address: of the cluster; None starts one on this machine.
            progress: show a progress bar; it counts the pictures whose rows no crash can lose, on a cluster those that
                are embedded, which is committed a million at a time.

        Returns:
            Numbers of pictures added, changed, unchanged, removed, and the unreadable ones.

        Raises:
            ValueError: if there is nothing to add, the source is of no such kind, `sync` is asked for what is no
                folder, or a picture cannot be read and `on_bad_image` is "error".
        """
        check_choice("on_bad_image", on_bad_image, ON_BAD_IMAGE)
        folder = folder_of(source)
        if sync and folder is None:
            raise ValueError("sync compares the gallery with a folder; give a folder, or call remove()")
        crops = find_crops(source, boxes, camera, as_utc(time), path_fields)
        start_engine(runner, address)
        work = Work(self.model_version, self.store, batch_size=batch_size, device=self.device)
        if self._find_table() is None:
            self._table = self.store.create(gallery_schema(work.model, embedding_width(work.model)))
        self._check_model()
        indexer = Indexer(self._table, work, runner, on_bad_image)
        seen = indexer.index(crops, progress)
        if sync:
            indexer.remove_gone(folder, seen)
        report = indexer.report
        if report.bad:
            names = first_few([f"{image_id} ({problem})" for image_id, problem in report.bad.items()])
            total = report.added + report.changed + report.unchanged + len(report.bad)
            logger.warning("%d of %d pictures cannot be read and were left out: %s", len(report.bad), total, names)
        self._tidy_up()
        return report

    def remove(self, where: str | None = None, *, image_ids: Iterable[str] | None = None) -> int:
        """Remove pictures from the gallery; their files stay.

        Args:
            where: SQL condition on the columns, e.g. "time < timestamp '2024-05-01 00:00:00'".
            image_ids: or the names of the pictures.

        Returns:
            How many were removed.

        Raises:
            ValueError: if there is no gallery, neither or both are given, or the condition cannot be understood.
        """
        if (where is None) == (image_ids is None):
            raise ValueError("remove wants a condition or image ids, one of the two")
        table, before = self._existing_table(), len(self)
        if image_ids is not None:
            self.store.delete(table, list(image_ids))
        else:
            with self._explained(where):
                table.delete(where)
        return before - len(self)

    def search(
        self,
        query: str | Image.Image | os.PathLike[str] | Query,
        k: int = 10,
        where: str | None = None,
        *,
        right: Sequence[str] = (),
        wrong: Sequence[str] = (),
        group_by: str | None = None,
    ) -> SearchResults:
        """Find the pictures that fit a query best.

        Args:
            query: a sentence; clauses in one text, such as `red coat AND black boots NOT backpack` (`queries.py` has
                the grammar); a picture of the person, or its `Path`; or a `Query` of words and pictures with weights.
            k: how many results.
            where: SQL condition on the columns, e.g. "camera = 'north' AND time > timestamp '2024-05-01 12:00:00'".
            right: image ids of earlier results that show the person; the query moves towards them.
            wrong: image ids of earlier results that do not; it moves away. Marked pictures are not found again.
            group_by: "track" gives one result for each track, "duplicate" one for pictures that are nearly the same.

        Raises:
            ValueError: if there is no gallery, the query or the condition cannot be understood, a marked picture is
                not in the gallery, or there is no such grouping.
        """
        self._existing_table()
        self._check_model()
        return search_gallery(self, as_query(query), k, where, right, wrong, group_by)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What turns scores into the probability that somebody fits, if the model comes with it."""
        return load_calibration(self.model_version)

    def statistics(self, where: str | None = None) -> GalleryStatistics | None:
        """How the vectors of the rows for which a condition holds are spread; None if it holds for none.

        Raises:
            ValueError: if there is no gallery, or the condition cannot be understood.
        """
        table = self._existing_table()
        with self._explained(where):
            if table.count_rows(where) == 0:
                return None
            key = (table.version, where)
            if key not in self._statistics:
                self._statistics = {key: measure_gallery(table, where)}  # the last one alone
        return self._statistics[key]

    def vectors(self, image_ids: Sequence[str]) -> torch.Tensor:
        """The vectors (n, D) of pictures, in no particular order.

        Raises:
            ValueError: if the gallery has no picture of a name.
        """
        rows = self._existing_table().search().where(any_of("image_id", image_ids)).select(["image_id", "vector"])
        rows = rows.to_arrow()
        self._check_known(image_ids, rows)
        return vectors_of(rows)

    def nearest(self, vector: np.ndarray, k: int = 10, where: str | None = None) -> pa.Table:
        """Find the rows closest to a vector by cosine.

        Up to `EXACT_ROWS` rows every one is compared; above, those that the index proposes.

        Args:
            vector: (D,), of any length but zero.
            k: how many rows.
            where: SQL condition on the columns; the k are chosen among the rows for which it holds.

        Returns:
            Rows with the columns of the gallery but `image`, and `score`, the cosine rounded to 6 decimals: best
            first, equal ones by their names.

        Raises:
            ValueError: if there is no gallery, k is below 1, the vector does not fit, or the condition cannot be
                understood.
        """
        check_k(k)
        table = self._existing_table()
        width = table.schema.field("vector").type.list_size
        if vector.shape != (width,) or not np.isfinite(vector).all() or not vector.any():
            raise ValueError(
                f"the query vector has shape {vector.shape}, expected ({width},), finite and not all zero"
            )
        columns = [name for name in table.schema.names if name != "image"]
        search = (
            table.search(vector.astype(np.float32)).distance_type("cosine").limit(k).select([*columns, "_distance"])
        )
        search = search.nprobes(NUM_PROBES).refine_factor(REFINE_FACTOR)
        with self._explained(where):
            rows = (search.where(where, prefilter=True) if where else search).to_arrow()
        scores = pa.array(np.round(1 - rows["_distance"].to_numpy(), SCORE_DECIMALS), pa.float32())
        rows = rows.drop_columns("_distance").append_column("score", scores)
        return rows.sort_by([("score", "descending"), ("image_id", "ascending")])

    def images(self, image_ids: Sequence[str]) -> list[Image.Image]:
        """Load pictures by their names; one that cannot be read is grey, with a warning.

        Raises:
            ValueError: if the gallery has no picture of a name.
        """
        rows = (
            self._existing_table().search().where(any_of("image_id", image_ids)).select(CROP_SCHEMA.names).to_arrow()
        )
        self._check_known(image_ids, rows)
        files = read_crops(rows)
        decoded = {image_id: decode(files[image_id]) for image_id in image_ids}
        for image_id, (image, problem) in decoded.items():
            if image is None:
                logger.warning("the picture %s cannot be shown: %s", image_id, problem)
        return [decoded[image_id][0] or Image.new("RGB", MISSING_SIZE, "lightgrey") for image_id in image_ids]

    def optimize(self, index: str = "auto", cleanup_older_than: timedelta = timedelta(days=1)) -> None:
        """Put small files together, drop files that only old versions need, and build or extend the index.

        `add` does so by itself when it is worth it.

        Args:
            index: "auto" compares every row up to `EXACT_ROWS` rows and builds `AUTO_INDEX` above; or one of `INDEXES`
                to build in any case, in place of what there is.
            cleanup_older_than: age of versions that nobody reads any more.

        Raises:
            ValueError: if there is no gallery, or no such index.
        """
        check_choice("index", index, ("auto", *INDEXES))
        table = self._existing_table()
        table.optimize(cleanup_older_than=cleanup_older_than)
        if index != "auto":
            self.store.build_index(table, index)
        elif len(self) > EXACT_ROWS and table.index_stats(VECTOR_INDEX) is None:
            self.store.build_index(table, AUTO_INDEX)

    def _tidy_up(self) -> None:
        table, rows = self._existing_table(), len(self)
        index = table.index_stats(VECTOR_INDEX)
        wants_index = rows > EXACT_ROWS if index is None else index.num_unindexed_rows > MAX_UNINDEXED * rows
        if wants_index or table.stats()["fragment_stats"]["num_fragments"] > MAX_FRAGMENTS:
            self.optimize()

    def info(self) -> dict[str, Any]:
        """What the gallery holds: pictures, cameras and their numbers, first and last time, model, index, bytes.

        Raises:
            ValueError: if there is no gallery.
        """
        table = self._existing_table()
        rows = self.store.dataset().to_table(columns=["camera", "time"])
        cameras = {row["values"]: row["counts"] for row in rows["camera"].value_counts().to_pylist()}
        times = pc.min_max(rows["time"]).as_py()
        index, model = table.index_stats(VECTOR_INDEX), self.store.model_version(table)
        return {
            "uri": self.store.uri,
            "pictures": len(rows),
            "cameras": {
                camera or "unknown": cameras[camera] for camera in sorted(cameras, key=lambda name: name or "")
            },
            "first_time": times["min"],
            "last_time": times["max"],
            "model_name": model.name,
            "model_revision": model.revision,
            "index": index and index.index_type,
            "unindexed_pictures": index and index.num_unindexed_rows,
            "bytes": table.stats()["total_bytes"],
        }

    def verify(self, pictures: bool = True) -> dict[str, list[str]]:
        """Look for what should not be: names that stand twice, bad vectors, missing or changed pictures.

        Args:
            pictures: also read every picture and compare its content with what was embedded.

        Returns:
            What is wrong -> image ids; empty if all is well.

        Raises:
            ValueError: if there is no gallery.
        """
        return verify_table(self.store, self._existing_table(), pictures)

    @classmethod
    def reembed(
        cls,
        uri: str | os.PathLike[str],
        model: str | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        storage_options: dict[str, str] | None = None,
        on_bad_image: str = "error",
        batch_size: int = 64,
        runner: str = "native",
        address: str | None = None,
        progress: bool = True,
    ) -> "Gallery":
        """Convert a gallery to another model or revision.

        The new rows are gathered in a table beside the gallery's, which goes on to answer with the old model until one
        commit exchanges all rows. If that is interrupted, the next call goes on where it was.

        Args:
            uri: where the gallery lies.
            model: folder or Hub name of the new model; by default the embedded checkpoint.
            revision: branch, tag or commit of a Hub model.
            device: of the model.
            storage_options: as for `Gallery`.
            on_bad_image: "error" leaves the gallery as it is if a picture cannot be read any more; "skip" drops it.
            batch_size: pictures per call of the model.
            runner: "native" or "ray".
            address: of the Ray cluster.
            progress: show a progress bar.

        Returns:
            The converted gallery.

        Raises:
            ValueError: if there is no gallery, or pictures cannot be read and `on_bad_image` is "error".
        """
        check_choice("on_bad_image", on_bad_image, ON_BAD_IMAGE)
        old = cls(uri, storage_options=storage_options)
        table = old._existing_table()
        start_engine(runner, address)
        work = Work(find_version(model or DEFAULT_MODEL, revision), old.store, batch_size=batch_size, device=device)
        reembed_table(table, work, runner, on_bad_image, progress)
        gallery = cls(uri, model or DEFAULT_MODEL, revision=revision, device=device, storage_options=storage_options)
        gallery._tidy_up()
        return gallery

    def _existing_table(self) -> "Table":
        table = self._find_table()
        if table is None:
            raise ValueError(
                f"there is no gallery at {self.store.uri}; make one with Gallery.add (ivt index FOLDER --gallery …)"
            )
        return table

    def _check_known(self, image_ids: Sequence[str], rows: pa.Table) -> None:
        unknown = set(image_ids) - set(rows["image_id"].to_pylist())
        if unknown:
            raise ValueError(f"the gallery has no pictures named {first_few(sorted(unknown))}")

    @contextmanager
    def _explained(self, where: str | None) -> Iterator[None]:
        """Turn what LanceDB says about a condition into what the user can do."""
        try:
            yield
        except (ValueError, RuntimeError) as error:
            if where is None:
                raise
            reason = re.sub(
                r"^Invalid input, |, /\S+\.rs:[\d:]+$|\. Valid fields are .*", "", str(error).split("\n")[0]
            )
            columns = ", ".join(
                f"{field.name} ({field.type})" for field in self._table.schema if field.name in SQL_FIELDS
            )
            raise ValueError(
                f"the condition {where!r} cannot be understood: {reason}; the columns are {columns}; write texts as "
                "'north' and times as timestamp '2024-05-01 12:00:00', in UTC"
            ) from error
