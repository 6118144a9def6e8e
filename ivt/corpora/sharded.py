"""A corpus cut into files that are read row by row: parquet or WebDataset shards, for corpora larger than memory.

    FOLDER/[data/]train-00000-of-00008.parquet, …     as `ivt corpus push` and `load_dataset` know them
    FOLDER/[data/]train-00000-of-00008.tar, …         WebDataset: KEY.jpg or .png, and KEY.json with the other columns
    FOLDER/00000.tar, …                               as img2dataset writes them: KEY.jpg, KEY.txt, KEY.json; of train

Columns are those of `FEATURES` and, where it was worked out already, `levels` (see `processing/levels.py`). Without
`person_id`, each picture is a person of its own: pairs for pre-training need no identities. The caption of img2dataset
is `caption` in its json, or its text file; samples without a picture or a caption are left out, and counted.
`ivt corpus shard` writes both kinds. What is kept in memory is an index, 10 to 30 bytes per caption; it is
written beside the shards once (`train.index.npz`), and anew when they change.
"""

import hashlib
import io
import json
import logging
import os
import posixpath
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, NamedSplit, Value
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from ivt.messages import first_few

from .rows import FEATURES

logger = logging.getLogger(__name__)

SHARD_FEATURES = Features(
    {**FEATURES, "levels": List({"phrases": List(Value("string")), "words": List(Value("string"))})}
)
ROWS_PER_GROUP = 64  # of a parquet file: what is read at once to get at one row
CACHE_BYTES = 128 * 2**20  # of row groups, in each process that reads
NEEDED = FEATURES.keys() - {"person_id"}
INDEX_VERSION = 2
PICTURES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"}  # names of files in a tar end so


def find_shards(root: str | os.PathLike[str] | None, split: str) -> list[Path]:
    """The shards of a split in a folder, or in `data` below it, in order.

    Raises:
        ValueError: if there are none, some are missing, or there are two sets.
    """
    if root is None:
        raise ValueError("shards are read from a folder; pass it as root (--corpus_root)")
    found = {
        path: match
        for folder in (Path(root), Path(root) / "data")
        for path in sorted(folder.glob(f"{split}-*-of-*"))
        if (match := re.fullmatch(rf"{re.escape(split)}-(\d+)-of-(\d+)\.(parquet|tar)", path.name))
    }
    if not found and split == "train" and (numbered := sorted(Path(root).glob("[0-9]*.tar"))):
        return [path for path in numbered if path.stem.isdigit()]
    if not found:
        inside = sorted(os.listdir(root)) if Path(root).is_dir() else ["no such folder"]
        other = " (or 00000.tar of img2dataset)" if split == "train" else ""
        raise ValueError(
            f"{root} has no shards of split {split!r}: expected {split}-00000-of-00004.parquet or .tar and so "
            f"on{other}, found {first_few(inside) or 'nothing'}; write them with ivt corpus shard"
        )
    sets = {(path.parent, match[2], match[3]) for path, match in found.items()}
    numbers = [int(match[1]) for match in found.values()]
    if len(sets) > 1:
        raise ValueError(f"{root} has several sets of shards of split {split!r}: {first_few(list(map(str, found)))}")
    if numbers != list(range(int(next(iter(sets))[1]))):
        raise ValueError(f"{root} has shards {numbers} of split {split!r}, expected all of {next(iter(sets))[1]}")
    return list(found)


def index_parquet(path: Path) -> tuple[list[int | None], list[list[str]], list[list[int]]]:
    """Person ids, None where there are none, and captions of a parquet shard; pictures are not read.

    Raises:
        ValueError: if it is no parquet file, lacks a column, or its row groups are too large to read for one row.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no whole parquet file ({error}); write it anew") from error
    with file:
        missing = NEEDED - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"{path} has no column {first_few(sorted(missing))}, only {file.schema_arrow.names}")
        largest = max((file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), default=0)
        if largest > CACHE_BYTES // 4:
            raise ValueError(
                f"{path} has a row group of {largest / 2**20:.0f} MB, which would be read for every row; write the "
                f"shards with ivt corpus shard, which makes groups of {ROWS_PER_GROUP} rows"
            )
        table = file.read(columns=["person_id", "captions"])  # leaves out what is not there
    captions = table["captions"].to_pylist()
    named = "person_id" in table.column_names
    return table["person_id"].to_pylist() if named else [None] * len(captions), captions, []


def read_annotation(key: str, annotation: bytes, text: bytes) -> dict[str, Any]:
    """The columns of a WebDataset sample but its picture.

    Args:
        key: its name, which is that of the picture unless the annotation tells another.
        annotation: of its json file, or nothing.
        text: of its text file, or nothing.
    """
    row = json.loads(annotation) if annotation else {}
    if "captions" not in row:
        caption = row.get("caption") or text.decode(errors="replace")
        row |= {"captions": [caption] if caption.strip() else []}
    return {"image_id": key} | row


def index_tar(path: Path) -> tuple[list[int | None], list[list[str]], list[list[int]]]:
    """Person ids, captions, and where the files of each sample lie in a WebDataset shard.

    Returns:
        The third has, for picture, json and text file, offset and size, 0 and 0 where there is none.

    Raises:
        ValueError: if it is no tar file, or, but for img2dataset, a sample has no picture or no captions.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, name = posixpath.split(member.name)
                key, _, extension = name.partition(".")  # as WebDataset does it
                kind = extension if extension in ("json", "txt") else None
                kind = "image" if extension.lower() in PICTURES else kind
                if kind and member.isfile():
                    place = (member.offset_data, member.size)
                    samples.setdefault(posixpath.join(folder, key), {})[kind] = place
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole tar file ({error}); write it anew") from error
    person_ids, captions, places, left_out = [], [], [], []
    with path.open("rb") as file:
        for key, parts in samples.items():
            of_sample = [parts.get(kind, (0, 0)) for kind in ("image", "json", "txt")]
            row = read_annotation(key, *(read_part(file, *place) for place in of_sample[1:]))
            if "image" not in parts or not row["captions"]:
                if not path.stem.isdigit():
                    raise ValueError(
                        f"sample {key!r} of {path} has only {list(parts)}, expected a picture and captions"
                    )
                left_out.append(key)
                continue
            person_ids.append(row.get("person_id"))
            captions.append(row["captions"])
            places.append([number for place in of_sample for number in place])
    if left_out:
        total = len(left_out) + len(places)
        message = "%s: %d of %d samples have no picture or no caption and are left out: %s"
        logger.warning(message, path, len(left_out), total, first_few(left_out))
    return person_ids, captions, places


def read_part(file: BinaryIO, offset: int, size: int) -> bytes:
    """A part of a file."""
    file.seek(offset)
    return file.read(size)


def build_index(shards: list[Path]) -> dict[str, np.ndarray]:
    """What has to be known of all rows, read from the shards once.

    Returns:
        `rows` per shard; of every row `person_ids`, `num_captions` and, for tar files, `places` (R, 6); the words of
        every caption in `caption_lengths`.

    Raises:
        ValueError: for a shard that cannot be read, for empty captions, and if only some of the rows name a person.
    """
    rows, person_ids, num_captions, lengths, places = [], [], [], [], []
    for path in tqdm(shards, desc="Indexing shards", unit="shard", disable=len(shards) < 8):
        of_rows, captions, of_places = (index_parquet if path.suffix == ".parquet" else index_tar)(path)
        of_captions = [len(caption.split()) for texts in captions for caption in texts]
        if 0 in of_captions:
            raise ValueError(f"{path} has an empty caption; write the shards anew without it")
        rows.append(len(of_rows))
        person_ids += of_rows
        num_captions += map(len, captions)
        lengths += of_captions
        places += of_places
    unnamed = person_ids.count(None)
    if 0 < unnamed < len(person_ids):
        raise ValueError(
            f"{unnamed} of {len(person_ids)} rows of the shards in {shards[0].parent} have no person_id; give all of "
            "them one, or none"
        )
    return {
        "rows": np.array(rows, np.int64),
        "person_ids": np.array(range(len(person_ids)) if unnamed else person_ids, np.int64),
        "num_captions": np.array(num_captions, np.int32),
        "caption_lengths": np.array(lengths, np.uint16),
        "places": np.array(places, np.int64).reshape(-1, 6),
    }


def load_index(shards: list[Path]) -> dict[str, np.ndarray]:
    """The index of some shards, from the file beside them where it is still true."""
    split = "train" if shards[0].stem.isdigit() else shards[0].name.partition("-")[0]
    path = shards[0].with_name(f"{split}.index.npz")
    states = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    identity = np.array(json.dumps([INDEX_VERSION, states]))
    try:
        with path.open("rb") as file, np.load(file) as saved:
            if saved["identity"] == identity:
                return dict(saved)
    except FileNotFoundError:
        pass
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s) and made anew", path, error)
    index = build_index(shards) | {"identity": identity}
    new = path.with_name(path.name + f".{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            np.savez(file, **index)  # ty: ignore[invalid-argument-type]  # it takes an array for an option
        new.replace(path)
    except OSError as error:
        logger.warning("cannot keep the index of the shards in %s (%s); the next run reads them again", path, error)
        new.unlink(missing_ok=True)
    return index


class ShardedRows:
    """The rows of a split, each read from its shard when it is asked for: `rows[i]`.

    Attributes:
        person_ids: of every row, int64 (R,).
        caption_lengths: words of every caption, in the order of the rows, uint16 (pairs,).
        pair_ends: number of captions up to and with each row, int64 (R,).
        pairs_per_shard: number of captions in each shard.

    Args:
        root: folder of the shards, or the one with their folder `data`.
        split: "train", "val" or "test".

    Raises:
        ValueError: for shards that are missing, cannot be read or lack a column.
    """

    def __init__(self, root: str | os.PathLike[str] | None, split: str) -> None:
        self.shards = find_shards(root, split)
        index = load_index(self.shards)
        self.identity = str(index["identity"])
        self.person_ids, self.caption_lengths = index["person_ids"], index["caption_lengths"]
        self.pair_ends = index["num_captions"].cumsum(dtype=np.int64)
        self.row_ends = index["rows"].cumsum()
        if not len(self.person_ids):
            raise ValueError(f"the {len(self.shards)} shards of split {split!r} in {root} have no rows")
        ends_of_shards = np.concatenate([[0], self.pair_ends])[self.row_ends]
        self.pairs_per_shard = np.diff(ends_of_shards, prepend=0).tolist()
        self.places = index["places"]
        self._forget()

    def _forget(self) -> None:
        self.process = os.getpid()
        self.files: dict[int, pq.ParquetFile] = {}
        self.groups: OrderedDict[tuple[int, int], Any] = OrderedDict()  # (shard, row group) -> table, newest last

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a worker process: no open files, no rows."""
        return {name: value for name, value in vars(self).items() if name not in ("files", "groups")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.person_ids)

    def __getitem__(self, index: int | str) -> Any:
        """Read a row, its image as `{"bytes": …}`; or, as of a dataset, the column "person_id"."""
        if index == "person_id":
            return self.person_ids.tolist()
        if isinstance(index, str) or not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        shard = int(np.searchsorted(self.row_ends, index, side="right"))
        first = self.row_ends[shard - 1] if shard else 0
        row = self._read_tar(shard, index) if len(self.places) else self._read_parquet(shard, int(index - first))
        return row | {"person_id": int(self.person_ids[index])}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def sizes(self) -> dict[str, int]:
        """Numbers of people, images and captions."""
        return {
            "people": len(np.unique(self.person_ids)),
            "images": len(self),
            "captions": len(self.caption_lengths),
        }

    def digest(self) -> str:
        """SHA-256 of the shards' names and sizes, of the person of every row and the length of every caption."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.name} {shard.stat().st_size} ".encode())
        for numbers in (self.person_ids, self.pair_ends, self.caption_lengths):
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    def pair(self, index: int) -> tuple[dict[str, Any], int]:
        """The row of a pair, and the number of its caption in it; pairs are captions in the order of the rows."""
        row = int(np.searchsorted(self.pair_ends, index, side="right"))
        return self[row], int(index - (self.pair_ends[row - 1] if row else 0))

    def _read_tar(self, shard: int, index: int) -> dict[str, Any]:
        places = self.places[index].reshape(3, 2).tolist()
        with self.shards[shard].open("rb") as file:
            image, annotation, text = (read_part(file, *place) for place in places)
        row = read_annotation(f"{self.shards[shard].name} {index}", annotation, text)
        return {"image": {"bytes": image}} | row

    def _read_parquet(self, shard: int, number: int) -> dict[str, Any]:
        if self.process != os.getpid():  # a forked worker must not use its parent's files
            self._forget()
        if shard not in self.files:
            self.files[shard] = pq.ParquetFile(self.shards[shard])
        file, group = self.files[shard], 0
        while number >= (size := file.metadata.row_group(group).num_rows):
            number, group = number - size, group + 1
        if (shard, group) not in self.groups:
            columns = [name for name in SHARD_FEATURES if name in file.schema_arrow.names]
            self.groups[shard, group] = file.read_row_group(group, columns=columns, use_threads=False)
            while sum(table.nbytes for table in self.groups.values()) > CACHE_BYTES and len(self.groups) > 1:
                self.groups.popitem(last=False)
        self.groups.move_to_end((shard, group))
        return self.groups[shard, group].slice(number, 1).to_pylist()[0]


def _decoded_rows(root: str, split: str, identity: str) -> Iterator[dict[str, Any]]:
    """Rows for `Dataset.from_generator`, which finds them again by its arguments."""
    for row in ShardedRows(root, split):
        image = row["image"] or {}
        if image.get("bytes") is None:  # a shard may name files beside it, but not any file of this machine
            path = os.path.realpath(os.path.join(root, image.get("path") or os.pardir))
            if not path.startswith(os.path.realpath(root) + os.sep):
                raise ValueError(
                    f"image {row['image_id']!r} has no bytes in its shard and no path below {root}; write it anew"
                )
            image = {"bytes": None, "path": path}
        yield {name: row[name] for name in FEATURES} | {"image": image}


def load_shards(root: str | os.PathLike[str] | None, split: str) -> Dataset:
    """Load a split that lies in shards, as a dataset on the disk, with the columns of `FEATURES`."""
    rows = ShardedRows(root, split)
    assert root is not None  # or `find_shards` has raised
    arguments = {"root": str(Path(root).absolute()), "split": split, "identity": rows.identity}
    return Dataset.from_generator(_decoded_rows, features=FEATURES, gen_kwargs=arguments, split=NamedSplit(split))


def write_parquet(rows: Dataset, path: Path) -> int:
    """Write rows with their pictures to a parquet file, and return their bytes in memory."""
    table = embed_table_storage(rows.with_format("arrow")[:])
    # by its metadata `load_dataset` knows the pictures
    table = table.replace_schema_metadata(rows.features.arrow_schema.metadata)
    pq.write_table(table, path, row_group_size=ROWS_PER_GROUP)
    return table.nbytes


def write_tar(rows: Dataset, path: Path) -> None:
    """Write rows to a WebDataset file: the pictures as they are, the other columns as json."""
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows.cast_column("image", Image(decode=False))):
            image = row.pop("image")
            content = image["bytes"] or Path(image["path"]).read_bytes()
            extension = str(PIL.Image.open(io.BytesIO(content)).format).lower().replace("jpeg", "jpg")
            for name, data in ((extension, content), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


WRITERS = {"parquet": write_parquet, "tar": write_tar}


def write_shards(
    rows: Dataset, folder: Path, split: str, extension: str = "parquet", rows_per_shard: int = 2000, seed: int = 0
) -> list[Path]:
    """Write a split as shards, in an order drawn once, so that neighbours in a shard are any pictures of the corpus.

    Args:
        rows: with the columns of `FEATURES` and perhaps `levels`; other columns are left out.
        folder: where to write; older shards of the split are removed when the new ones are whole.
        split: "train", "val" or "test".
        extension: "parquet" or "tar".
        rows_per_shard: rows of a file, at most.
        seed: of the order.

    Returns:
        The files.
    """
    rows = rows.select_columns([name for name in SHARD_FEATURES if name in rows.column_names])
    rows = rows.select(np.random.default_rng(seed).permutation(len(rows)))
    count = -(-len(rows) // rows_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{split}-{number:05d}-of-{count:05d}.{extension}" for number in range(count)]
    for number, name in enumerate(tqdm(names, desc=f"Writing {split}", unit="shard")):
        part = rows.select(range(number * rows_per_shard, min((number + 1) * rows_per_shard, len(rows))))
        WRITERS[extension](part, folder / f"{name}.new")
    for old in folder.glob(f"{split}-*-of-*"):
        if re.fullmatch(rf"{split}-\d+-of-\d+\.(parquet|tar)", old.name):
            old.unlink()
    for name in names:
        (folder / f"{name}.new").replace(folder / name)
    return [folder / name for name in names]
