"""CUHK-PEDES, ICFG-PEDES and RSTPReid, from the folders their authors distribute.

    CUHK-PEDES/   reid_raw.json                        imgs/{CUHK01,CUHK03,Market,...}/*
    ICFG-PEDES/   ICFG-PEDES.json or ICFG_PEDES.json   imgs/{train,test}/*
    RSTPReid/     data_captions.json                   imgs/*.jpg

Each JSON is a list of entries with the keys "split", "id", "captions" and the image's path below `imgs`.

Sources: Li et al., "Person Search with Natural Language Description", CVPR 2017 (CUHK-PEDES); Ding et al.,
"Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification", 2021, arXiv 2107.12666
(ICFG-PEDES); Zhu et al., "DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval",
ACM MM 2021 (RSTPReid).
"""

import hashlib
import json
import logging
import os
import posixpath
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, NamedSplit

from ivt.choices import OFFICIAL_SPLITS
from ivt.messages import first_few, has_half_character
from processing.pictures import UnreadablePicture, read_picture

from .rows import FEATURES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How a corpus lies on disk: its folder, the names its annotations go by, and the key of an image's path."""

    folder: str
    annotations: tuple[str, ...]
    path_key: str
    has_val: bool = True


LAYOUTS = {
    "cuhk-pedes": Layout("CUHK-PEDES", ("reid_raw.json",), "file_path"),
    "icfg-pedes": Layout("ICFG-PEDES", ("ICFG-PEDES.json", "ICFG_PEDES.json"), "file_path", has_val=False),
    "rstpreid": Layout("RSTPReid", ("data_captions.json",), "img_path"),
}
HELD_OUT_SHARE = 15  # one identity in 15 of a corpus without val: 206 of the 3,102 of ICFG-PEDES


def find_annotations(name: str, root: str | os.PathLike[str] | None) -> Path:
    """Find the annotation file of a corpus in `root`, or in the corpus's own folder below `root`.

    Raises:
        ValueError: if there is none, saying what was looked for and what is there.
    """
    layout = LAYOUTS[name]
    if root is None:
        raise ValueError(
            f"{name} is read from its official folder; pass root=/path/to/{layout.folder} (--corpus_root)"
        )
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; pass the folder {layout.folder} or the one that holds it")
    for folder in (root, root / layout.folder):
        for file_name in layout.annotations:
            if (folder / file_name).is_file():
                if not (folder / "imgs").is_dir():
                    raise ValueError(f"{folder} has {file_name} but no folder imgs; unpack the images of {name} there")
                return folder / file_name
    for folder in (root, root / layout.folder):
        if (folder / "caption_all.json").is_file():
            raise ValueError(
                f"{folder} has caption_all.json, an older annotation which has no splits and mixes people up; "
                f"expected {' or '.join(layout.annotations)}, which its authors distribute too"
            )
    raise ValueError(
        f"{root} has no annotations of {name}: looked for {' or '.join(layout.annotations)} there and in "
        f"{layout.folder}, found {first_few(sorted(os.listdir(root))) or 'nothing'}; "
        f"pass the folder {layout.folder} or the one that holds it"
    )


def path_below_images(path: str) -> str:
    """The path of an image below the folder `imgs`, with forward slashes, however it was written down.

    Raises:
        ValueError: if it leads out of that folder.
    """
    slashed = path.replace("\\", "/")
    if re.match(r"/|[A-Za-z]:", slashed):  # absolute, as it was on another machine
        _, found, slashed = slashed.rpartition("/imgs/")
        if not found:
            raise ValueError(f"the absolute path {path!r} without a folder imgs, expected one below it")
    below = posixpath.normpath(slashed).removeprefix("imgs/")
    if below.split("/")[0] == ".." or "\0" in below:
        raise ValueError(f"the path {path!r}, which leads out of the folder imgs")
    return below


def problem_of_entry(entry: Any, path_key: str) -> str | None:
    """Say what is wrong with one entry of the JSON, or None."""
    expected = {"split": str, "id": int, "captions": list, path_key: str}
    if not isinstance(entry, dict):
        return f"is {type(entry).__name__}, expected an object"
    for key, kind in expected.items():
        if key not in entry:
            return f"has no key {key!r}, only {first_few(sorted(entry))}; expected {', '.join(expected)}"
        if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            return f"has {key!r} = {str(entry[key])[:40]!r} ({type(entry[key]).__name__}), expected {kind.__name__}"
    if entry["split"] not in OFFICIAL_SPLITS:
        return f"has split {entry['split']!r}, expected one of {', '.join(OFFICIAL_SPLITS)}"
    if not all(isinstance(caption, str) for caption in entry["captions"]):
        return "has a caption which is no string"
    if any(map(has_half_character, (entry[path_key], *entry["captions"]))):
        return "has half a character in a caption or its path, as of an emoji cut in two"
    if not -(2**63) <= entry["id"] < 2**63:
        return f"has the id {entry['id']}, expected a number of at most 64 bits"
    try:
        path_below_images(entry[path_key])
    except ValueError as error:
        return f"has {error}"
    return None


def read_entries(path: Path, path_key: str) -> list[dict[str, Any]]:
    """Read an annotation file and check its shape.

    Raises:
        ValueError: if it is no JSON, no list, empty, or an entry is wrong (with the index of the first).
    """
    try:
        entries = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not written in UTF-8 ({error}); convert it, e.g. with iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}); it may be cut short: fetch it again") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds {type(entries).__name__} {str(entries)[:40]}, expected a list of entries")
    for index, entry in enumerate(entries):
        if problem := problem_of_entry(entry, path_key):
            raise ValueError(f"entry {index} of {path} {problem}; is it the annotation its authors distribute?")
    return entries


def rows_of(entries: list[dict[str, Any]], path_key: str) -> list[dict[str, Any]]:
    """Turn entries into one row per image: `image_id`, `person_id`, `captions`, `split`.

    White space in captions is normalised (every run becomes one space, none at the ends) and nothing else: stray code
    and foreign characters stay. Empty captions are dropped, and with them an image that has no other; entries of one
    image are merged. Each is logged.

    Raises:
        ValueError: if entries of one image differ in person or split.
    """
    rows: dict[str, dict[str, Any]] = {}
    num_empty = 0
    for index, entry in enumerate(entries):
        image_id = f"imgs/{path_below_images(entry[path_key])}"
        captions = [" ".join(caption.split()) for caption in entry["captions"]]
        num_empty += captions.count("")
        row = rows.setdefault(
            image_id, {"image_id": image_id, "person_id": entry["id"], "captions": [], "split": entry["split"]}
        )
        if (row["person_id"], row["split"]) != (entry["id"], entry["split"]):
            raise ValueError(
                f"{image_id} is person {row['person_id']} in {row['split']} and, in entry {index}, person "
                f"{entry['id']} in {entry['split']}; expected one of both: correct the annotation file"
            )
        known = set(row["captions"])  # captions of earlier entries: a repeated entry must not repeat its queries
        row["captions"] += [caption for caption in captions if caption and caption not in known]
    without = [image_id for image_id, row in rows.items() if not row["captions"]]
    if num_empty:
        logger.warning("dropped %d empty captions", num_empty)
    if without:
        logger.warning("dropped %d images which have no caption: %s", len(without), first_few(without))
    if len(entries) > len(rows):
        logger.warning("merged %d entries into earlier ones of the same image", len(entries) - len(rows))
    return [row for row in rows.values() if row["captions"]]


def hold_out_val(rows: list[dict[str, Any]]) -> None:
    """Move one training identity in `HELD_OUT_SHARE` (at least one) to split "val", chosen by a hash of its id.

    The choice depends on nothing but the ids, so it is the same on every machine and in every run.
    """
    ids = {row["person_id"] for row in rows if row["split"] == "train"}
    shuffled = sorted(ids, key=lambda person_id: hashlib.sha256(str(person_id).encode()).digest())
    held_out = set(shuffled[: max(1, len(ids) // HELD_OUT_SHARE)])
    for row in rows:
        if row["split"] == "train" and row["person_id"] in held_out:
            row["split"] = "val"


def problem_of_image(path: str) -> str:
    """Decode an image and say why it cannot be read, or an empty string."""
    try:
        read_picture(path)
    except UnreadablePicture as error:
        return error.reason
    return ""


def find_problems(images: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Decode a batch of images in threads (Pillow works without holding Python's lock)."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return {"problem": list(pool.map(problem_of_image, [image["path"] for image in images]))}


def report_bad_images(bad: dict[str, str], num_images: int, on_bad_image: str) -> None:
    """Raise on bad images (image id -> problem), or log that they are skipped.

    Raises:
        ValueError: if there are any and `on_bad_image` is "error".
    """
    if not bad:
        return
    found = f"{len(bad)} of {num_images} images cannot be read: " + first_few(
        [f"{image_id} ({problem})" for image_id, problem in bad.items()]
    )
    if on_bad_image == "error":
        raise ValueError(
            f'{found}; fetch them again, or leave them out with on_bad_image="skip" (--on_bad_image skip)'
        )
    logger.warning("%s; skipped", found)


def look_up_images(
    rows: list[dict[str, Any]], folder: Path
) -> tuple[list[dict[str, Any]], list[tuple[int, int]], dict[str, str]]:
    """Find the file of each row.

    Returns:
        The rows whose file is there, with its path as "image"; size in bytes and time of change in ns of each; and
        the image ids of the others, with what is wrong.
    """
    found, states, missing = [], [], {}
    for row in rows:
        path = f"{folder}/{row['image_id']}"
        try:
            state = os.stat(path)
        except OSError as error:
            missing[row["image_id"]] = error.strerror
            continue
        found.append({"image": path} | row)
        states.append((state.st_size, state.st_mtime_ns))
    return found, states, missing


def generate_rows(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows; a function by name, as `Dataset.from_generator` needs it."""
    yield from rows


def unreadable_images(dataset: Dataset) -> dict[int, str]:
    """Decode every image, once per dataset, and return the indices of those that cannot be, with the reason."""
    paths = dataset.cast_column("image", Image(decode=False))
    problems = paths.map(
        find_problems,
        batched=True,
        input_columns=["image"],
        remove_columns=dataset.column_names,
        desc="Decoding every image once",
    )["problem"][:]
    # what the cache calls bad is tried again: a file system's bad moment must not last
    suspects = [index for index, problem in enumerate(problems) if problem]
    return {index: problem for index in suspects if (problem := problem_of_image(paths[index]["image"]["path"]))}


def load_official(
    name: str, root: str | os.PathLike[str] | None, split: str = "train", on_bad_image: str = "error"
) -> Dataset:
    """Load a split of an official corpus; see `load_corpus`, which is the way in.

    The annotations are read and every file is looked up on each call (two seconds for the whole of CUHK-PEDES). Rows
    are cached by their content, and an image is decoded again only after its size or time of change differs.
    """
    layout = LAYOUTS[name]
    annotations = find_annotations(name, root)
    rows = rows_of(read_entries(annotations, layout.path_key), layout.path_key)
    if not layout.has_val:
        hold_out_val(rows)
    rows = [row for row in rows if row.pop("split") in split.split("+")]
    if not rows:
        raise ValueError(f"{annotations} has no images of split {split!r}, expected at least one; try another split")

    found, states, missing = look_up_images(rows, annotations.parent)
    report_bad_images(missing, len(rows), on_bad_image)
    if not found:
        raise ValueError(
            f"none of the {len(rows)} images of {annotations} is there; unpack them below its folder imgs"
        )
    split_name = split.replace("+", "_")  # `datasets` takes no plus in a name
    identity = json.dumps([name, split_name, str(FEATURES), found, states])
    dataset = Dataset.from_generator(
        generate_rows,
        features=FEATURES,
        gen_kwargs={"rows": found},
        split=NamedSplit(split_name),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
    )
    unreadable = unreadable_images(dataset)
    report_bad_images({found[index]["image_id"]: why for index, why in unreadable.items()}, len(rows), on_bad_image)
    if len(unreadable) == len(found):
        raise ValueError(f"none of the {len(rows)} images of {annotations} can be read; fetch the corpus again")
    return dataset.select([index for index in range(len(found)) if index not in unreadable]) if unreadable else dataset
