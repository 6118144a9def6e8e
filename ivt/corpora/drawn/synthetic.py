"""The drawn corpus: drawn people and generated captions, made on this machine from a seed, without any download.

A corpus of the same kind as CUHK-PEDES and small enough for a demo: several pictures per person from different
cameras, two captions per picture. The identities of the splits are disjoint, and each split is drawn from its own
random stream, so the size of one never changes another. Beyond the columns that every corpus has, a row tells where
the parts of the person are (`part_map`, `part_boxes`) and everything that is true of the picture (`attributes`).
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, NamedSplit, Value
from PIL import Image as PILImage

from ivt.corpora.rows import FEATURES
from ivt.messages import check_choice

from .captions import CAPTIONS_VERSION, describe
from .drawing import DRAWING_VERSION, draw_sighting
from .people import PARTS, Person, Sighting, sample_person, sample_sighting

ROWS_VERSION = 1  # raise it when people.py or this module makes other rows, so that cached corpora are made anew
NUM_PEOPLE = {"train": 1000, "val": 100, "test": 200}
FIRST_PERSON_ID = {"train": 0, "val": 100_000, "test": 200_000}
MAX_PEOPLE = 100_000  # per split, so that person ids stay disjoint
CAPTIONS_PER_IMAGE = 2
JPEG_QUALITY = 90
ABSENT_BOX = [-1, -1, -1, -1]

SYNTHETIC_FEATURES = Features(
    {
        **FEATURES,
        "camera": Value("int64"),
        "part_map": Image(),  # gray: 0 is background and the rest of the person, i + 1 is PARTS[i]
        "part_boxes": List(List(Value("int64"), length=4), length=len(PARTS)),  # left, top, right, bottom in pixels
        "attributes": Value("string"),  # JSON of {"person": Person, "sighting": Sighting}
    }
)


def check_synthetic_size(split: str, num_people: int | None, images_per_person: int) -> int:
    """Check the arguments of `load_synthetic` and return the number of people.

    Raises:
        ValueError: if the split is unknown or a number is out of range.
    """
    check_choice("split of the synthetic corpus", split, NUM_PEOPLE)
    num_people = NUM_PEOPLE[split] if num_people is None else num_people
    if not 1 <= num_people <= MAX_PEOPLE:
        raise ValueError(f"num_people is {num_people}; pass 1 to {MAX_PEOPLE}, or None for {NUM_PEOPLE[split]}")
    if images_per_person < 1:
        raise ValueError(f"images_per_person is {images_per_person}; pass at least 1")
    return num_people


def sample_rows(
    split: str, *, seed: int = 0, num_people: int | None = None, images_per_person: int = 4
) -> Iterator[tuple[int, Person, Sighting, list[str]]]:
    """Yield (index of the person, person, sighting, captions) per picture in the corpus's order, without drawing."""
    for index in range(check_synthetic_size(split, num_people, images_per_person)):
        yield from _sample_person_rows(split, seed, index, images_per_person)


def _sample_person_rows(
    split: str, seed: int, index: int, images_per_person: int
) -> Iterator[tuple[int, Person, Sighting, list[str]]]:
    person = sample_person(seed, split, index)
    for number in range(images_per_person):
        sighting = sample_sighting(seed, split, index, number)
        captions = [describe(person, sighting, annotator) for annotator in range(CAPTIONS_PER_IMAGE)]
        yield index, person, sighting, captions


def _encoded(image: PILImage.Image, image_format: str, **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def _draw_rows(split: str, seed: int, indices: list[int], images_per_person: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of some people; a module-level function, because worker processes must find it by name."""
    for index in indices:
        rows = _sample_person_rows(split, seed, index, images_per_person)
        for number, (_, person, sighting, captions) in enumerate(rows):
            picture = draw_sighting(person, sighting)
            yield {
                "image": _encoded(picture.image, "JPEG", quality=JPEG_QUALITY),
                "image_id": f"{split}/{index:06d}_c{sighting.camera}_{number}.jpg",
                "person_id": FIRST_PERSON_ID[split] + index,
                "captions": captions,
                "camera": sighting.camera,
                "part_map": _encoded(picture.part_map, "PNG"),
                "part_boxes": [list(picture.boxes.get(part, ABSENT_BOX)) for part in PARTS],
                "attributes": json.dumps({"person": person.to_dict(), "sighting": asdict(sighting)}),
            }


def load_synthetic(
    split: str,
    root: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    num_people: int | None = None,
    images_per_person: int = 4,
    num_proc: int | None = None,
) -> Dataset:
    """Draw a split of the drawn corpus, or take it from the cache if it was drawn before.

    Args:
        split: "train" (1000 people by default), "val" (100) or "test" (200).
        root: folder of the cache; None: that of the `datasets` library.
        seed: another seed gives other people, pictures and captions; the same one gives the same bytes, whatever
            `num_proc` is.
        num_people: number of identities; a larger split starts with the people of the smaller one.
        images_per_person: pictures of each; up to six come from different cameras.
        num_proc: processes that draw; None: one per processor core.

    Returns:
        One row per picture, in the order of the people, with the columns of `SYNTHETIC_FEATURES`. `part_boxes` follows
        the order of `PARTS`, with -1 for a part that does not show.

    Raises:
        ValueError: if the split is unknown or a number is out of range.
    """
    num_people = check_synthetic_size(split, num_people, images_per_person)
    num_proc = os.cpu_count() or 1 if num_proc is None else num_proc
    if num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}; pass at least 1, or None for one per processor core")
    versions = (ROWS_VERSION, CAPTIONS_VERSION, DRAWING_VERSION)
    identity = json.dumps(["synthetic", versions, split, seed, num_people, images_per_person])
    return Dataset.from_generator(
        _draw_rows,
        features=SYNTHETIC_FEATURES,
        cache_dir=None if root is None else str(Path(root)),  # ty: ignore[invalid-argument-type]  # its default is None
        gen_kwargs={
            "split": split,
            "seed": seed,
            "indices": list(range(num_people)),  # the one list: `datasets` shares it out among the processes
            "images_per_person": images_per_person,
        },
        num_proc=min(num_proc, num_people),
        split=NamedSplit(split),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],  # num_proc is not in it: it changes no row
    )
