"""What a gallery has already: which of its rows a crop is, and how a new one is named."""

from dataclasses import replace
from typing import Any

import pyarrow as pa

from .columns import DETAILS, Crop

TWICE = "image id {!r} stands for two different pictures, expected one; give them different ids"


class KnownRows:
    """The rows of a table by image id and by file, without pictures and vectors.

    Args:
        rows: with the columns `KnownRows.COLUMNS`.
    """

    COLUMNS = ["image_id", "uri", "content_hash", *DETAILS]

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self.of_id = {image_id: row for row, image_id in enumerate(rows["image_id"].to_pylist())}
        self.of_uri = {uri: row for row, uri in enumerate(rows["uri"].to_pylist()) if uri is not None}
        self._taken = set(self.of_id)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.rows.slice(row, 1).to_pylist()[0]

    def identify(self, crop: Crop) -> dict[str, Any] | None:
        """The row of a crop: of the same file, or of the same name if it has no file. None if it is new."""
        row = self.of_uri.get(crop.uri) if crop.image is None else self.of_id.get(crop.image_id)
        return None if row is None else self[row]

    def unique_name(self, crop: Crop) -> str:
        """A name for a new crop that no other picture has: its own, or as many folders in front as it takes.

        Raises:
            ValueError: if the name is taken and the crop has no file.
        """
        if crop.image_id not in self._taken:
            return crop.image_id
        parts = (crop.uri or "").lstrip("/").split("/")
        for length in range(crop.image_id.count("/") + 2, len(parts) + 1):
            longer = "/".join(parts[-length:])
            if longer not in self._taken:
                return longer
        if crop.uri is None or crop.uri in self._taken:
            raise ValueError(TWICE.format(crop.image_id))
        return crop.uri

    def complete(self, crop: Crop) -> Crop:
        """Give a known crop the name and the details that it has in the gallery, and a new one a name of its own."""
        known = self.identify(crop)
        if known is not None:
            details = {name: known[name] for name in DETAILS if getattr(crop, name) is None}
            return replace(crop, image_id=known["image_id"], **details)
        name = self.unique_name(crop)
        self._taken.add(name)
        return replace(crop, image_id=name)

    def has(self, crop: Crop, content_hash: str) -> bool:
        """Whether the gallery has a named crop just so."""
        row = self.of_id.get(crop.image_id)
        expected = {name: getattr(crop, name) for name in ("uri", *DETAILS)} | {"content_hash": content_hash}
        return row is not None and expected.items() <= self[row].items()
