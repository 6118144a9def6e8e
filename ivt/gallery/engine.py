"""The engine: crops -> vectors, by Daft, on the threads of one machine or on a Ray cluster, with the same code.

Daft reads the files (of a disk or an object storage, many at a time), calls `embed_files` on batches of them, and
hands the results back while it goes on. On a cluster every task also writes its rows as a Lance fragment, which is no
part of the table before it is committed, so a task that is run twice because its machine died changes nothing.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from ivt.retrieval.embedding import embed_pixels
from ivt.retrieval.encoders import image_inputs
from ivt.retrieval.models import ModelVersion, load_model
from processing.pictures import UnreadablePicture, read_picture

from .columns import CROP_SCHEMA, gallery_rows
from .runner import load_daft
from .store import Store

if TYPE_CHECKING:
    import daft

ROWS_PER_TASK = 2048  # on a cluster: what a lost machine loses, and the rows of a fragment
CONNECTIONS = 64  # files read at a time
# Daft has a thread per core; they read and decode at the same time, and take turns at these.
_model_is_busy, _hashes_are_read = threading.Lock(), threading.Lock()


@dataclass(frozen=True)
class Work:
    """What is to be done with crops, on any machine.

    Attributes:
        model: what to embed with.
        store: the gallery they are for.
        known_version: version of the gallery's table whose contents need no embedding; None embeds all.
        batch_size: pictures per call of the model.
        device: of the model; by default a GPU if there is one.
    """

    model: ModelVersion
    store: Store
    known_version: int | None = None
    batch_size: int = 64
    device: str | None = None


def hash_content(data: bytes) -> str:
    """Name what a file holds in 32 letters."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(data: bytes | None, shrink: bool = False) -> tuple[Image.Image | None, str | None]:
    """Decode an image file: the picture, upright and RGB, or what is wrong with it; see `read_picture`."""
    if data is None:
        return None, "the file is missing or cannot be read"
    try:
        return read_picture(data, shrink=shrink), None
    except UnreadablePicture as error:
        return None, error.reason


@lru_cache(maxsize=1)
def _known_hashes(store: Store, version: int) -> np.ndarray:
    """Content hashes of a version of a gallery, sorted, 32 bytes each."""
    column = store.dataset(version).to_table(columns=["content_hash"])["content_hash"]
    return np.sort(column.to_numpy().astype("S32"))


def _are_known(hashes: Sequence[str | None], work: Work) -> list[bool]:
    with _hashes_are_read:
        known = np.empty(0) if work.known_version is None else _known_hashes(work.store, work.known_version)
    if not len(known):
        return [False] * len(hashes)
    wanted = np.array([digest or "" for digest in hashes], "S32")
    return (known[np.searchsorted(known, wanted).clip(max=len(known) - 1)] == wanted).tolist()


def embed_files(files: Sequence[bytes | None], work: Work) -> pa.StructArray:
    """Embed the files whose content is not known yet.

    Returns:
        Per file `content_hash`, `vector` of unit length or null, `problem` or null. A file without a vector has either
        a problem or a known content.
    """
    hashes = [None if data is None else hash_content(data) for data in files]
    are_known = _are_known(hashes, work)
    decoded = [
        (None, None) if known else decode(data, shrink=True) for data, known in zip(files, are_known, strict=True)
    ]
    images = [image for image, _ in decoded if image is not None]
    vectors: list[np.ndarray | None] = [None] * len(files)
    if images:
        model, processor = load_model(work.model, work.device)
        inputs = image_inputs(processor, images)
        with _model_is_busy:
            embeds = embed_pixels(model, inputs).cpu()
        in_order = iter(embeds.numpy())
        vectors = [None if image is None else next(in_order) for image, _ in decoded]
    return pa.StructArray.from_arrays(
        [
            pa.array(hashes, pa.string()),
            pa.array(vectors, pa.list_(pa.float32())),
            pa.array([problem for _, problem in decoded], pa.string()),
        ],
        ["content_hash", "vector", "problem"],
    )


def write_rows(crops: pa.Table, embedded: pa.StructArray, work: Work) -> list[list[str] | None]:
    """Write the crops that have a vector as fragments.

    Returns:
        For the first crop the fragments that hold the rows of all, for the others None.
    """
    hashes, vectors = embedded.field("content_hash"), embedded.field("vector")
    written = vectors.is_valid()
    if not written.true_count:
        return [None] * len(crops)
    flat = vectors.filter(written).flatten().to_numpy()
    rows = gallery_rows(
        crops.filter(written), hashes.filter(written), flat.reshape(written.true_count, -1), work.model
    )
    return [work.store.write_fragments(rows)] + [None] * (len(crops) - 1)


def _files() -> "daft.Expression":
    """The bytes of a crop: those that it brings, else those of its file; null if the file cannot be read."""
    daft = load_daft()
    own_file = daft.functions.when(daft.col("image").is_null(), daft.col("uri"))
    downloaded = daft.functions.download(own_file, on_error="null", max_connections=CONNECTIONS)
    return daft.functions.coalesce(daft.col("image"), downloaded)


def _with_embedded(crops: "daft.DataFrame", work: Work) -> "daft.DataFrame":
    """Add the column `embedded`, which holds what `embed_files` makes of the crops' files."""
    daft = load_daft()
    text = daft.DataType.string()
    struct = {"content_hash": text, "vector": daft.DataType.list(daft.DataType.float32()), "problem": text}

    @daft.func.batch(return_dtype=daft.DataType.struct(struct), batch_size=work.batch_size)
    def embed(files: daft.Series) -> pa.StructArray:
        return embed_files(files.to_pylist(), work)

    return crops.with_column("embedded", embed(_files()))


def _outcomes(rows: "daft.DataFrame", outcome: "daft.Expression") -> Iterator[pa.RecordBatch]:
    """Run the engine and hand on, per crop, what is known of its file and an outcome."""
    daft = load_daft()
    embedded = daft.col("embedded")
    kept = [embedded[name].alias(name) for name in ("content_hash", "problem")]
    is_new = embedded["vector"].not_null().alias("is_new")
    return rows.select(daft.col("image_id"), *kept, is_new, outcome).to_arrow_iter()


def embed_crops(crops: pa.Table, work: Work) -> Iterator[pa.RecordBatch]:
    """Embed crops on this machine.

    Args:
        crops: with the columns of `CROP_SCHEMA`.
        work: what to do with them.

    Yields:
        As soon as they are there, each crop once, in any order: `image_id`, `content_hash` (null if there is no
        file), `problem` or null, `is_new` if it was embedded, and its `vector` or null.
    """
    daft = load_daft()
    rows = _with_embedded(daft.from_arrow(crops), work)
    return _outcomes(rows, daft.col("embedded")["vector"].alias("vector"))


def embed_on_cluster(crops: pa.Table, work: Work) -> Iterator[pa.RecordBatch]:
    """Embed crops on the machines of a cluster, each of which writes the rows it makes beside the table.

    Args:
        crops: with the columns of `CROP_SCHEMA`.
        work: what to do with them.

    Yields:
        As `embed_crops`, but in the place of `vector` there is `fragments`: null, or those that hold the rows of this
        and other crops, for `Store.commit_fragments`.
    """
    daft = load_daft()

    @daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.string()), batch_size=ROWS_PER_TASK)
    def write(embedded: daft.Series, *columns: daft.Series) -> list[list[str] | None]:
        arrays = [column.to_arrow().cast(field.type) for column, field in zip(columns, CROP_SCHEMA, strict=True)]
        return write_rows(pa.table(arrays, schema=CROP_SCHEMA), embedded.to_arrow(), work)

    tasks = daft.from_arrow(crops).into_partitions(-(-len(crops) // ROWS_PER_TASK))
    fragments = write(daft.col("embedded"), *(daft.col(name) for name in CROP_SCHEMA.names))
    return _outcomes(_with_embedded(tasks, work), fragments.alias("fragments"))


def read_crops(crops: pa.Table) -> dict[str, bytes | None]:
    """Read the pictures of crops: image id -> encoded picture, None if its file cannot be read."""
    daft = load_daft()
    files = daft.from_arrow(crops).select(daft.col("image_id"), _files().alias("file")).to_pydict()
    return dict(zip(files["image_id"], files["file"], strict=True))


def hash_crops(crops: pa.Table) -> dict[str, str | None]:
    """Read the pictures of crops: image id -> content hash, None if its file cannot be read."""
    daft = load_daft()

    @daft.func.batch(return_dtype=daft.DataType.string(), batch_size=CONNECTIONS)
    def hash_files(files: daft.Series) -> list[str | None]:
        return [None if data is None else hash_content(data) for data in files.to_pylist()]

    hashes = daft.from_arrow(crops).select(daft.col("image_id"), hash_files(_files()).alias("hash")).to_pydict()
    return dict(zip(hashes["image_id"], hashes["hash"], strict=True))
