"""Your own people: a gallery of person crops in a Lance table, which grows, shrinks and is searched by sentences.

    gallery = Gallery("people.lance")
    gallery.add("crops/", camera="north")
    gallery.search("a woman in a red coat", k=10, where="camera = 'north'").show("sheet.png")

The work is done by the other files of this room; this one is the door that they are used through.

Dimensions: D embedding width.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ivt.choices import ON_BAD_IMAGE
from ivt.messages import check_choice, first_few
from ivt.retrieval.models import (
    DEFAULT_MODEL,
    ModelVersion,
    embedding_width,
    find_same,
    find_version,
    load_matching_model,
    load_model,
)

from .calibration import Calibration, load_calibration
from .columns import Picture, gallery_schema
from .conditions import check_condition
from .crops import Box, find_crops
from .engine import Work
from .folders import absolute, folder_of, list_images
from .indexing import Indexer, IndexReport
from .path_fields import PathFields, as_utc
from .queries import Query, as_query
from .results import SearchResults
from .runner import start_engine
from .scores import GalleryStatistics
from .searching import search
from .store import Store
from .table import GalleryTable
from .upkeep import describe_table, optimize_table, reembed_table, tidy_up, verify_table

logger = logging.getLogger(__name__)


class Gallery:
    """A gallery of person crops, searched by sentences.

    Pictures of files are named by their path and read from there when they are shown; crops cut from frames, and
    pictures of a dataset that have no file, are stored in the table.

    Args:
        uri: where the table is stored: a path, or the URI of an object storage, that ends in ".lance". It is made when
            the first pictures are added.
        model: folder or Hub name of the model that embeds pictures and queries; by default the gallery's own, and for
            a new gallery the bundled checkpoint.
        revision: branch, tag or commit of a Hub model.
        device: of the model; by default a GPU if there is one.
        storage_options: settings of the object storage, e.g. {"aws_endpoint": "http://…"}; by default taken from the
            environment.

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
        self._table: GalleryTable | None = None
        if model is not None:
            self.model_version = find_version(model, revision)
            self._check_model()  # another model is refused here, not at the first search

    @cached_property
    def model_version(self) -> ModelVersion:
        """The model that embeds pictures and queries of this gallery."""
        table = self._find_table()
        return find_version(DEFAULT_MODEL) if table is None else find_same(table.model_version)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What turns scores into the probability that somebody fits, if the model comes with it."""
        return load_calibration(self.model_version)

    def _find_table(self) -> GalleryTable | None:
        """The rows, None if there is no gallery yet; another process may have made it since the last call."""
        if self._table is None and (table := self.store.open()) is not None:
            self._table = GalleryTable(self.store, table)
        return self._table

    def _existing_table(self) -> GalleryTable:
        table = self._find_table()
        if table is None:
            raise ValueError(
                f"there is no gallery at {self.store.uri}; make one with Gallery.add (ivt index FOLDER --gallery …)"
            )
        return table

    def _check_model(self) -> None:
        table = self._find_table()
        if table is not None and table.model_version.revision != self.model_version.revision:
            raise ValueError(
                f"{self.store.uri} was made with {table.model_version}, not with {self.model_version}, and their "
                "vectors do not compare; open it with the first, or convert it with Gallery.reembed (ivt index "
                "--reembed)"
            )

    def __len__(self) -> int:
        table = self._find_table()
        return 0 if table is None else len(table)

    def __iter__(self) -> Iterator[Picture]:
        table = self._find_table()
        return iter(()) if table is None else iter(table)

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
            progress: show a progress bar; it counts saved pictures, on a cluster those that are embedded, which are
                saved a million at a time.

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
        listing = list_images(folder) if folder is not None and boxes is None else None
        crops = find_crops(listing or source, boxes, camera, as_utc(time), path_fields)
        start_engine(runner, address)
        work = Work(self.model_version, self.store, batch_size=batch_size, device=self.device)
        if self._find_table() is None:
            if runner == "native":
                load_model(work.model, self.device)  # or a damaged one would leave an empty gallery behind
            self.store.create(gallery_schema(work.model, embedding_width(work.model)))
        self._check_model()
        table = self._existing_table().table
        indexer = Indexer(table, work, runner, on_bad_image)
        seen = indexer.index(crops, progress)
        if sync and folder is not None:
            indexer.remove_gone(folder, seen)
        if listing:
            indexer.report.left_out = listing.left_out
            indexer.report.bad |= listing.bad
        _warn_of_bad_images(indexer.report)
        tidy_up(self.store, table)
        return indexer.report

    def remove(self, where: str | None = None, *, image_ids: Iterable[str] | None = None) -> int:
        """Remove pictures from the gallery; their files stay.

        Args:
            where: condition on the columns, e.g. "time < timestamp '2024-05-01 00:00:00'"; `conditions.py` has the
                grammar.
            image_ids: or the names of the pictures.

        Returns:
            How many were removed.

        Raises:
            ValueError: if there is no gallery, neither or both are given, or the condition cannot be understood.
        """
        if (where is None) == (image_ids is None):
            raise ValueError("remove wants a condition or image ids, one of the two")
        where = check_condition(where)
        table, before = self._existing_table().table, len(self)
        if image_ids is not None:
            self.store.delete(table, list(image_ids))
        elif where is not None:
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
        rerank: int = 0,
    ) -> SearchResults:
        """Find the pictures that fit a query best.

        Args:
            query: a sentence; clauses in one text, such as `red coat AND black boots NOT backpack` (`queries.py` has
                the grammar); a picture of the person, or its `Path`; or a `Query` of words and pictures with weights.
            k: how many results.
            where: condition on the columns, e.g. "camera = 'north' AND time > timestamp '2024-05-01 12:00:00'";
                `conditions.py` has the grammar.
            right: image ids of earlier results that show the person; the query moves towards them.
            wrong: image ids of earlier results that do not; it moves away. Marked pictures are not found again.
            group_by: "track" gives one result for each track, "duplicate" one for pictures that are nearly the same.
            rerank: judge so many of the best pictures again, by the fusion encoder of the model, which reads
                sentence and picture together; `Result.match` is what it says. Only a model of pre-training has one.

        Raises:
            ValueError: if there is no gallery, the model cannot re-rank, the query or the condition cannot be
                understood, a marked picture is not in the gallery, or there is no such grouping.
        """
        table = self._existing_table()
        self._check_model()
        asked, condition = as_query(query), check_condition(where)
        encoder = load_model(self.model_version, self.device)
        matcher = load_matching_model(self.model_version, self.device) if rerank else None
        return search(table, encoder, self.calibration, asked, k, condition, right, wrong, group_by, rerank, matcher)

    def statistics(self, where: str | None = None) -> GalleryStatistics | None:
        """How the vectors of the rows for which a condition holds are spread; None if it holds for none.

        Raises:
            ValueError: if there is no gallery, or the condition cannot be understood.
        """
        return self._existing_table().statistics(check_condition(where))

    def vectors(self, image_ids: Sequence[str]) -> torch.Tensor:
        """The vectors (n, D) of pictures, in no particular order.

        Raises:
            ValueError: if there is no gallery, or it has no picture of a name.
        """
        return self._existing_table().vectors(image_ids)

    def nearest(self, vector: np.ndarray, k: int = 10, where: str | None = None) -> pa.Table:
        """Find the rows closest to a vector by cosine.

        Up to `upkeep.EXACT_ROWS` rows every one is compared; above, those that the index proposes.

        Args:
            vector: (D,), of any length but zero.
            k: how many rows.
            where: condition on the columns (see `conditions.py`); the k are chosen among the rows for which it holds.

        Returns:
            Rows with the columns of the gallery but `image`, and `score`, the cosine rounded to 6 decimals: best
            first, equal ones by their names.

        Raises:
            ValueError: if there is no gallery, k is below 1, the vector does not fit, or the condition cannot be
                understood.
        """
        return self._existing_table().nearest(vector, k, check_condition(where))

    def images(self, image_ids: Sequence[str]) -> list[Image.Image]:
        """Load pictures by their names; one that cannot be read is grey, with a warning.

        Raises:
            ValueError: if there is no gallery, or it has no picture of a name.
        """
        return self._existing_table().images(image_ids)

    def optimize(self, cleanup_older_than: timedelta = timedelta(days=1)) -> None:
        """Put small files together, drop files that only old versions need, and build or extend the index.

        `add` does so by itself when it is worth it. Galleries of more than `upkeep.EXACT_ROWS` rows get an index.

        Args:
            cleanup_older_than: age of versions that nobody reads any more.

        Raises:
            ValueError: if there is no gallery.
        """
        optimize_table(self.store, self._existing_table().table, cleanup_older_than)

    def info(self) -> dict[str, Any]:
        """What the gallery holds: pictures, cameras and their numbers, first and last time, model, index, bytes.

        Raises:
            ValueError: if there is no gallery.
        """
        return describe_table(self.store, self._existing_table().table)

    def verify(self, pictures: bool = True) -> dict[str, list[str]]:
        """Look for what should not be: duplicate names, bad vectors, missing or changed pictures.

        Args:
            pictures: also read every picture and compare its content with what was embedded.

        Returns:
            What is wrong -> image ids; empty if all is well.

        Raises:
            ValueError: if there is no gallery.
        """
        return verify_table(self.store, self._existing_table().table, pictures)

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
            uri: where the gallery is stored.
            model: folder or Hub name of the new model; by default the bundled checkpoint.
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
        table = old._existing_table().table
        start_engine(runner, address)
        work = Work(find_version(model or DEFAULT_MODEL, revision), old.store, batch_size=batch_size, device=device)
        reembed_table(table, work, runner, on_bad_image, progress)
        gallery = cls(uri, model or DEFAULT_MODEL, revision=revision, device=device, storage_options=storage_options)
        tidy_up(gallery.store, gallery._existing_table().table)
        return gallery


def _warn_of_bad_images(report: IndexReport) -> None:
    if report.bad:
        names = first_few([f"{image_id} ({problem})" for image_id, problem in report.bad.items()])
        total = report.added + report.changed + report.unchanged + len(report.bad)
        logger.warning("%d of %d pictures cannot be read and were left out: %s", len(report.bad), total, names)
