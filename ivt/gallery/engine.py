"""The engine: crops -> vectors, by Daft, on the threads of one machine or on a Ray cluster, with the same code.

Daft reads the files (of a disk or an object storage, many at a time), calls `embed_files` on batches of them, and
hands the results back while it goes on. On a cluster every task also writes its rows as a Lance fragment, which is no
part of the table before it is committed, so a task that is run twice because its machine died changes nothing.
"""

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from ivt.retrieval.embedding import embed_pixels
from ivt.retrieval.models import ModelVersion, load_model
from processing.image_processing_ivt import to_rgb

from .store import Store, gallery_schema

if TYPE_CHECKING:
    import daft

RUNNERS = ("native", "ray")
ROWS_PER_TASK = 2048  # on a cluster: what a lost machine loses, and the rows of a fragment
CONNECTIONS = 64  # files read at a time
# Daft has a thread per core; they read and decode at the same time, and take turns at these.
_model_is_busy, _hashes_are_read = threading.Lock(), threading.Lock()
SHIPPED_PACKAGES = ("ivt", "modeling_ivt", "processing")  # to the machines of a cluster

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
class Work:
    """What is to be done with crops, on whatever machine.

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


def decode(data: bytes | None) -> tuple[Image.Image | None, str | None]:
    """Decode an image file: the picture, upright and RGB, or what is wrong with it."""
    if data is None:
        return None, "the file is missing or cannot be read"
    try:
        return to_rgb(Image.open(io.BytesIO(data))), None
    except UnidentifiedImageError:
        return None, "it is no image of a kind that Pillow reads"
    except Exception as error:  # Pillow's readers raise nearly anything on a broken file
        return None, f"{type(error).__name__}: {error}"


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
    decoded = [(None, None) if known else decode(data) for data, known in zip(files, are_known, strict=True)]
    images = [image for image, _ in decoded if image is not None]
    vectors: list[np.ndarray | None] = [None] * len(files)
    if images:
        model, processor = load_model(work.model, work.device)
        pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]  # (B, 3, height, width)
        with _model_is_busy:
            embeds = embed_pixels(model, pixel_values).cpu()
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


def gallery_rows(crops: pa.Table, hashes: pa.Array, vectors: np.ndarray, model: ModelVersion) -> pa.Table:
    """Join crops, with the columns of `CROP_SCHEMA`, and their vectors (n, D) to rows of the gallery."""
    schema = gallery_schema(model, vectors.shape[1])
    columns = {name: crops[name] for name in CROP_SCHEMA.names}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    columns["content_hash"] = hashes
    columns["model_name"] = pa.repeat(model.name, len(crops))
    columns["model_revision"] = pa.repeat(model.revision, len(crops))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def write_rows(crops: pa.Table, embedded: pa.StructArray, work: Work) -> list[list[str] | None]:
    """Write the crops that have a vector as fragments, which stand in the first place of the answer."""
    hashes, vectors = embedded.field("content_hash"), embedded.field("vector")
    written = vectors.is_valid()
    if not written.true_count:
        return [None] * len(crops)
    flat = vectors.filter(written).flatten().to_numpy()
    rows = gallery_rows(
        crops.filter(written), hashes.filter(written), flat.reshape(written.true_count, -1), work.model
    )
    return [work.store.write_fragments(rows)] + [None] * (len(crops) - 1)


def load_daft() -> ModuleType:
    """Import Daft without its telemetry.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # read when Daft is imported
    try:
        import daft
        import daft.runners
    except ImportError as error:
        raise ImportError("reading pictures needs Daft: pip install 'ivt-person-retrieval[search]'") from error
    return daft


def start_engine(runner: str, address: str | None = None) -> None:
    """Choose where Daft runs; a process does so once.

    Args:
        runner: "native", the threads of this machine, or "ray".
        address: of the Ray cluster; None starts one on this machine.

    Raises:
        ValueError: on an unknown runner, an address without a cluster, or another runner than before.
        ImportError: if Daft or Ray is not installed.
    """
    if runner not in RUNNERS:
        raise ValueError(f"runner is {runner!r}, expected one of {', '.join(map(repr, RUNNERS))}")
    if address and runner != "ray":
        raise ValueError(f"address is {address!r}, which only the runner 'ray' has a use for")
    daft = load_daft()
    if runner == "ray":
        _start_ray(address)
    if daft.runners.get_or_create_runner().name != runner:
        raise ValueError(
            f"runner is {runner!r}, but Daft runs with another in this process already; start a new process"
        )


def _start_ray(address: str | None) -> None:
    daft = load_daft()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError("the runner 'ray' needs Ray: pip install 'ivt-person-retrieval[scale]'") from error
    if not ray.is_initialized():
        root = Path(__file__).parents[2]
        packages = [str(root / name) for name in SHIPPED_PACKAGES]
        ray.init(address, runtime_env={"py_modules": packages}, log_to_driver=False)
    with suppress(daft.exceptions.DaftCoreException):  # it takes one runner only; the caller looks which it is
        daft.set_runner_ray(noop_if_initialized=True)


def _files() -> "daft.Expression":
    """The bytes of a crop: those that it brings, else those of its file; null if the file cannot be read."""
    daft = load_daft()
    own_file = daft.functions.when(daft.col("image").is_null(), daft.col("uri"))
    downloaded = daft.functions.download(own_file, on_error="null", max_connections=CONNECTIONS)
    return daft.functions.coalesce(daft.col("image"), downloaded)


def embed_crops(crops: pa.Table, work: Work) -> Iterator[pa.RecordBatch]:
    """Embed crops with the engine that `start_engine` chose.

    Args:
        crops: with the columns of `CROP_SCHEMA`.
        work: what to do with them.

    Yields:
        As soon as they are there, each crop once, in any order: `image_id`, `content_hash` (null if there is no
        file), `problem` or null, `is_new` if it was embedded, and its `vector` or null; on a cluster instead
        `fragments`, null or those that hold the rows of this and other crops.
    """
    daft = load_daft()
    text = daft.DataType.string()
    struct = {"content_hash": text, "vector": daft.DataType.list(daft.DataType.float32()), "problem": text}

    @daft.func.batch(return_dtype=daft.DataType.struct(struct), batch_size=work.batch_size)
    def embed(files: daft.Series) -> pa.StructArray:
        return embed_files(files.to_pylist(), work)

    @daft.func.batch(return_dtype=daft.DataType.list(text), batch_size=ROWS_PER_TASK)
    def write(embedded: daft.Series, *columns: daft.Series) -> list[list[str] | None]:
        arrays = [column.to_arrow().cast(field.type) for column, field in zip(columns, CROP_SCHEMA, strict=True)]
        return write_rows(pa.table(arrays, schema=CROP_SCHEMA), embedded.to_arrow(), work)

    rows, embedded = daft.from_arrow(crops), daft.col("embedded")
    if daft.runners.get_or_create_runner().name == "ray":
        rows = rows.into_partitions(-(-len(crops) // ROWS_PER_TASK)).with_column("embedded", embed(_files()))
        outcome = write(embedded, *(daft.col(name) for name in CROP_SCHEMA.names)).alias("fragments")
    else:
        rows = rows.with_column("embedded", embed(_files()))
        outcome = embedded["vector"].alias("vector")
    kept = [embedded[name].alias(name) for name in ("content_hash", "problem")]
    is_new = embedded["vector"].not_null().alias("is_new")
    return rows.select(daft.col("image_id"), *kept, is_new, outcome).to_arrow_iter()


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
