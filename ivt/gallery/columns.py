"""What a gallery holds of each picture: the columns of its table, and the classes that carry parts of a row.

Dimensions: n pictures, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ivt.retrieval.models import ModelVersion

# The columns that a picture brings with it, before it is embedded.
CROP_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("image", pa.large_binary()),
        ("camera", pa.string()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("track_id", pa.string()),
        ("person_id", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery.

    Attributes:
        image_id: its name, unique in the gallery.
        uri: absolute path or URI of its file; None if the picture is stored in the gallery itself, or the frame it was
            cut from, followed by `#xywh=left,top,width,height`.
        camera: name of the camera, if known.
        time: when it was taken, in UTC, if known.
        track_id: track of a tracker that it belongs to, if known.
        person_id: identity, if known.
    """

    image_id: str
    uri: str | None = None
    camera: str | None = None
    time: datetime | None = None
    track_id: str | None = None
    person_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them, the time as ISO 8601."""
        return asdict(self) | {"time": self.time and self.time.isoformat()}


@dataclass(frozen=True)
class Crop(Picture):
    """A picture of a person, before it is embedded.

    A gallery gives it a longer `image_id` if another picture has that name already.

    Attributes:
        image: the encoded picture, where it has no file of its own.
    """

    image: bytes | None = None


PICTURE_FIELDS = [entry.name for entry in fields(Picture)]
DETAILS = ["camera", "time", "track_id", "person_id"]  # a crop that leaves one open keeps what the gallery has
CONTENT_FIELDS = ["content_hash", "model_name", "model_revision"]
# With it two processes that add the same picture at the same time notice each other.
PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}


def gallery_schema(model: ModelVersion, width: int) -> pa.Schema:
    """Columns of a gallery; the model is in the metadata too, so that an empty table has one.

    Args:
        model: what makes the vectors.
        width: D.
    """
    image_id, uri, image, *details = CROP_SCHEMA
    return pa.schema(
        [
            image_id.with_nullable(False).with_metadata(PRIMARY_KEY),
            uri,
            image,
            pa.field("vector", pa.list_(pa.float32(), width), nullable=False),  # of unit length
            *details,
            *(pa.field(name, pa.string(), nullable=False) for name in CONTENT_FIELDS),
        ],
        metadata={"model_name": model.name, "model_revision": model.revision},
    )


def crop_table(crops: Sequence[Crop]) -> pa.Table:
    """Put crops into a table with the columns of `CROP_SCHEMA`."""
    return pa.Table.from_pylist([asdict(crop) for crop in crops], schema=CROP_SCHEMA)


def gallery_rows(crops: pa.Table, hashes: pa.Array, vectors: np.ndarray, model: ModelVersion) -> pa.Table:
    """Join crops, with the columns of `CROP_SCHEMA`, and their vectors (n, D) to rows of the gallery."""
    schema = gallery_schema(model, vectors.shape[1])
    columns = {name: crops[name] for name in CROP_SCHEMA.names}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    columns["content_hash"] = hashes
    columns["model_name"] = pa.repeat(model.name, len(crops))
    columns["model_revision"] = pa.repeat(model.revision, len(crops))
    return pa.table([columns[name] for name in schema.names], schema=schema)
