"""Your own people: a gallery of person crops in a Lance table, which grows, shrinks and is searched by sentences.

    gallery = Gallery("people.lance")
    gallery.add("crops/", camera="north")
    gallery.search("a woman in a red coat", k=10, where="camera = 'north'").show("sheet.png")

Dimensions: D embedding width.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from .embedding import embed_images, embed_texts
from .models import DEFAULT_MODEL, find_version, load_model
from .results import Result, SearchResults

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def gallery_schema(width: int) -> pa.Schema:
    """Columns of a gallery whose vectors have `width` numbers."""
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string()),
            pa.field("image", pa.large_binary()),  # encoded, where the picture has no file of its own
            pa.field("vector", pa.list_(pa.float32(), width), nullable=False),
            pa.field("camera", pa.string()),
            pa.field("time", pa.timestamp("us", tz="UTC")),
            pa.field("track_id", pa.string()),
            pa.field("person_id", pa.int64()),
            pa.field("content_hash", pa.string(), nullable=False),
            pa.field("model_name", pa.string(), nullable=False),
            pa.field("model_revision", pa.string(), nullable=False),
        ]
    )


class Gallery:
    """A gallery of person crops, searched by sentences.

    Args:
        uri: where the table lies, a path or the URI of an object storage that ends in ".lance"; it is created with
            the first pictures.
        model: folder or Hub name of the model; by default the embedded checkpoint.
    """

    def __init__(self, uri: str | os.PathLike[str], model: str | None = None) -> None:
        import lancedb

        self.uri = os.fspath(uri)
        folder, _, name = self.uri.removesuffix(".lance").rpartition("/")
        self._database = lancedb.connect(folder or ".")
        self._name = name
        self._table = self._database.open_table(name) if Path(self.uri).exists() else None
        self.model_version = find_version(model or DEFAULT_MODEL)

    def __len__(self) -> int:
        return 0 if self._table is None else self._table.count_rows()

    def __iter__(self) -> Iterator[Result]:
        if self._table is not None:
            columns = [name for name in Result.__dataclass_fields__ if name != "score"]
            for batch in self._table.search().select(columns).to_batches():
                yield from (Result(score=1.0, **row) for row in batch.to_pylist())

    def add(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        camera: str | None = None,
        time: datetime | None = None,
    ) -> int:
        """Add the pictures of a folder, or a list of files; those with a known name are replaced.

        Returns:
            Number of pictures added.
        """
        if isinstance(source, str | os.PathLike):
            root = Path(source)
            paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        else:
            paths = [Path(path) for path in source]
            root = Path(os.path.commonpath([path.parent for path in paths]))
        model, processor = load_model(self.model_version)
        vectors = embed_images(model, processor, paths).numpy()
        rows = [
            {
                "image_id": path.relative_to(root).as_posix(),
                "uri": path.resolve().as_uri(),
                "vector": vector,
                "camera": camera,
                "time": time,
                "content_hash": hashlib.sha256(path.read_bytes()).hexdigest(),
                "model_name": self.model_version.name,
                "model_revision": self.model_version.revision,
            }
            for path, vector in zip(paths, vectors, strict=True)
        ]
        schema = gallery_schema(vectors.shape[1])
        if self._table is None:
            self._table = self._database.create_table(self._name, schema=schema)
        merge = self._table.merge_insert("image_id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(pa.Table.from_pylist(rows, schema=schema))
        return len(rows)

    def remove(self, where: str) -> int:
        """Remove the rows for which an SQL condition holds, and return their number."""
        before = len(self)
        self._table.delete(where)
        return before - len(self)

    def search(self, query: str, k: int = 10, where: str | None = None) -> SearchResults:
        """Find the k pictures that fit a sentence best.

        Args:
            query: what the person looks like.
            k: how many pictures.
            where: SQL condition on the columns, e.g. "camera = 'north'".
        """
        model, processor = load_model(self.model_version)
        vector = embed_texts(model, processor, [query], progress=False)[0].numpy()
        return self._results(query, self.nearest(vector, k, where))

    def nearest(self, vector: np.ndarray, k: int = 10, where: str | None = None) -> pa.Table:
        """The k rows closest to a vector by cosine.

        Args:
            vector: (D,), of any length but zero.
            k: how many rows.
            where: SQL condition on the columns; it is applied before the k are chosen.

        Returns:
            Rows with all columns of the gallery but `image`, and `score`, the cosine, best first.
        """
        columns = [name for name in self._table.schema.names if name != "image"]
        search = self._table.search(vector.astype(np.float32)).distance_type("cosine").limit(k)
        found = search.where(where, prefilter=True) if where else search
        rows = found.select([*columns, "_distance"]).to_arrow()
        return rows.set_column(
            rows.column_names.index("_distance"), "score", pa.compute.subtract(1.0, rows["_distance"])
        )

    def image(self, image_id: str) -> Image.Image:
        """The picture of a row."""
        escaped = image_id.replace("'", "''")
        (row,) = self._table.search().where(f"image_id = '{escaped}'").select(["uri"]).to_list()
        return Image.open(row["uri"].removeprefix("file://")).convert("RGB")

    def _results(self, query: str, rows: pa.Table) -> SearchResults:
        fields: list[dict[str, Any]] = rows.select(list(Result.__dataclass_fields__)).to_pylist()
        return SearchResults(query, [Result(**row) for row in fields], self.image)
