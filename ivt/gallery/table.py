"""The rows of a gallery: counted, measured, compared with a vector, shown.

Dimensions: n rows, D embedding width.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ivt.messages import first_few
from ivt.retrieval.models import ModelVersion
from ivt.retrieval.ranking import SCORE_DECIMALS, check_k

from .columns import CROP_SCHEMA, PICTURE_FIELDS, Picture
from .engine import decode, read_crops
from .scores import GalleryStatistics
from .store import Store, any_of

if TYPE_CHECKING:
    from lancedb.table import Table

logger = logging.getLogger(__name__)

NUM_PROBES, REFINE_FACTOR = 64, 10  # partitions looked into; candidates per result compared by their whole vectors
SAMPLE_ROWS = 4096  # vectors that stand for a larger gallery: the error of a mean is 1 / 64 of the deviation
MISSING_SIZE = (64, 192)  # (width, height) of what is shown for a picture that cannot be read


def vectors_of(rows: pa.Table) -> torch.Tensor:
    """The vectors (n, D) of rows of a gallery."""
    vectors = rows["vector"].combine_chunks()
    return torch.from_numpy(vectors.flatten().to_numpy().reshape(len(rows), vectors.type.list_size).copy())


def measure(table: "Table", where: str | None) -> GalleryStatistics:
    """Statistics of the rows for which a condition holds, from SAMPLE_ROWS of them drawn with a fixed seed.

    Args:
        table: of LanceDB, with at least one such row.
        where: SQL condition; None for all rows.
    """
    rng = np.random.default_rng(0)  # so that a search repeated gives the same scores
    if where is None:
        size = table.count_rows()
        drawn = rng.choice(size, min(size, SAMPLE_ROWS), replace=False)
        sample = table.take_offsets(np.sort(drawn).tolist())
    else:
        ids = table.search().where(where).select(["_rowid"]).to_arrow()["_rowid"].to_numpy()
        size = len(ids)
        sample = table.take_row_ids(rng.choice(ids, min(size, SAMPLE_ROWS), replace=False).tolist())
    return GalleryStatistics.of(vectors_of(sample.select(["vector"]).to_arrow()), size)


class GalleryTable:
    """What can be read from a gallery's table.

    Args:
        store: where the gallery is stored.
        table: of LanceDB; it always shows the newest version.
    """

    def __init__(self, store: Store, table: "Table") -> None:
        self.store, self.table = store, table
        self._statistics: dict[tuple[int, str | None], GalleryStatistics] = {}

    @property
    def model_version(self) -> ModelVersion:
        """The model that made the vectors."""
        return self.store.model_version(self.table)

    @property
    def width(self) -> int:
        """D."""
        return self.table.schema.field("vector").type.list_size

    def __len__(self) -> int:
        return self.table.count_rows()

    def __iter__(self) -> Iterator[Picture]:
        for batch in self.table.search().select(PICTURE_FIELDS).to_batches():
            yield from (Picture(**row) for row in batch.to_pylist())

    def statistics(self, where: str | None = None) -> GalleryStatistics | None:
        """How the vectors of the rows for which a condition holds are spread; None if it holds for none.

        `where` is SQL, from `conditions.check_condition` or made by this package.
        """
        if self.table.count_rows(where) == 0:
            return None
        key = (self.table.version, where)
        if key not in self._statistics:
            self._statistics = {key: measure(self.table, where)}  # the last one alone
        return self._statistics[key]

    def _named(self, image_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """The rows of some pictures, in no particular order.

        Raises:
            ValueError: if the gallery has no picture of a name.
        """
        rows = self.table.search().where(any_of("image_id", image_ids)).select(["image_id", *columns]).to_arrow()
        if unknown := set(image_ids) - set(rows["image_id"].to_pylist()):
            raise ValueError(f"the gallery has no pictures named {first_few(sorted(unknown))}")
        return rows

    def vectors(self, image_ids: Sequence[str]) -> torch.Tensor:
        """The vectors (n, D) of pictures, in no particular order.

        Raises:
            ValueError: if the gallery has no picture of a name.
        """
        return vectors_of(self._named(image_ids, ["vector"]))

    def images(self, image_ids: Sequence[str]) -> list[Image.Image]:
        """Load pictures by their names; one that cannot be read is grey, with a warning.

        Raises:
            ValueError: if the gallery has no picture of a name.
        """
        files = read_crops(self._named(image_ids, CROP_SCHEMA.names[1:]))
        decoded = {image_id: decode(files[image_id]) for image_id in image_ids}
        for image_id, (image, problem) in decoded.items():
            if image is None:
                logger.warning("the picture %s cannot be shown: %s", image_id, problem)
        return [decoded[image_id][0] or Image.new("RGB", MISSING_SIZE, "lightgrey") for image_id in image_ids]

    def nearest(self, vector: np.ndarray, k: int = 10, where: str | None = None) -> pa.Table:
        """Find the rows closest to a vector by cosine; see `Gallery.nearest`, which checks the condition.

        Raises:
            ValueError: if k is below 1, or the vector does not fit.
        """
        check_k(k)
        k = min(k, max(len(self), 1))  # the engine makes room for k rows
        if vector.shape != (self.width,) or not np.isfinite(vector).all() or not vector.any():
            raise ValueError(
                f"the query vector has shape {vector.shape}, expected ({self.width},), finite and not all zero"
            )
        columns = [name for name in self.table.schema.names if name != "image"]
        search = self.table.search(vector.astype(np.float32))
        search = search.distance_type("cosine").limit(k)  # ty: ignore[missing-attribute]  # a search of vectors has it
        search = search.select([*columns, "_distance"]).nprobes(NUM_PROBES).refine_factor(REFINE_FACTOR)
        rows = (search.where(where, prefilter=True) if where else search).to_arrow()
        scores = pa.array(np.round(1 - rows["_distance"].to_numpy(), SCORE_DECIMALS), pa.float32())
        rows = rows.drop_columns("_distance").append_column("score", scores)
        return rows.sort_by([("score", "descending"), ("image_id", "ascending")])
