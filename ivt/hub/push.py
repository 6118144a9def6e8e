"""A corpus -> parquet files with a dataset card, on the Hub or in a folder.

    ivt corpus push synthetic ORG/NAME [--private] [--num-people 2000]
    ivt corpus push synthetic ORG/NAME --dry-run FOLDER
    ivt corpus push rstpreid ORG/NAME --corpus-root data/RSTPReid --private --i-have-the-right

The drawn corpus is everybody's. The pictures of the others belong to those who took them, and the corpora are given
out for research on conditions, so they are refused unless you state that you have the right to pass them on.
`load_dataset("ORG/NAME")`, or `load_dataset(FOLDER)`, then gives the rows of `load_corpus`.
"""

import math
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCard, DatasetCardData

from ivt.corpora.drawn.people import NUM_CAMERAS, PARTS
from ivt.corpora.load import load_corpus
from ivt.corpora.official import LAYOUTS
from ivt.corpora.sharded import write_parquet as write_parquet_file
from ivt.files import new_folder
from ivt.messages import check_choice

from .repository import check_name, upload_repository

PUSHABLE = (*LAYOUTS, "synthetic")
IMAGES_PER_FILE = 10_000  # a few hundred MB of JPEG
COLUMNS = {
    "image": "the picture of one person",
    "image_id": "path of the picture within the corpus",
    "person_id": "who it is; all pictures of a person have the same",
    "captions": "English descriptions of the picture",
    "camera": f"which of {NUM_CAMERAS} drawn cameras saw the person",
    "part_map": f"grey picture of the same size: 0 is background and the rest of the person, 1 to {len(PARTS)} are "
    + ", ".join(PARTS),
    "part_boxes": "left, top, right, bottom of each of these parts in pixels, -1 where one does not show",
    "attributes": "json of everything that is true of the person and of the picture",
}
SYNTHETIC = """\
Drawn people with generated captions, for trying text-based person retrieval without anybody's picture. The pictures of
a person differ in camera, pose and light; captions name what one can see, in many wordings, and leave much out. Nobody
here exists, and nothing in these drawings says how a model does on photographs.

Made by `ivt corpus push synthetic` of the distribution `ivt-person-retrieval`, from seed 0; with one version of Pillow
the same command gives the same bytes.\
"""
LICENSED = """\
{name}, converted from the folder that its authors distribute (`{file}` and its pictures). The pictures show people who
were not asked, and the corpus is given out on its authors' conditions, which go with every copy. Whoever pushed this
repository stated that they have the right to. Do not use it to identify or track people.\
"""


def write_parquet(rows: Dataset, folder: Path, split: str) -> SplitInfo:
    """Write the rows to `data/SPLIT-*.parquet`, the pictures in them, and return how much that was."""
    count = math.ceil(len(rows) / IMAGES_PER_FILE)
    num_bytes = 0
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        path = folder / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet"
        num_bytes += write_parquet_file(rows.shard(count, index), path)
    return SplitInfo(split, num_bytes=num_bytes, num_examples=len(rows))


def card_data(name: str, features: Features, infos: SplitDict, download_size: int) -> DatasetCardData:
    """The head of the card: what the Hub and `load_dataset` read."""
    synthetic = name == "synthetic"
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in infos]
    data = DatasetCardData(
        language="en",
        license="apache-2.0" if synthetic else "other",
        license_name=None if synthetic else f"terms-of-{name}",
        pretty_name="Drawn people" if synthetic else LAYOUTS[name].folder,
        task_categories=["zero-shot-image-classification"],
        tags=["text-based-person-retrieval", "person-search", *(["synthetic"] if synthetic else [])],
        configs=[{"config_name": "default", "data_files": files}],
    )
    num_bytes = sum(info.num_bytes for info in infos.values())
    info = DatasetInfo(features=features, splits=infos, download_size=download_size, dataset_size=num_bytes)
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data


def card_text(name: str, splits: dict[str, Dataset]) -> str:
    """The card below its head: where the corpus comes from, on what conditions, how much it is, its columns."""
    title, about = "Drawn people", SYNTHETIC
    if name != "synthetic":
        title = LAYOUTS[name].folder
        about = LICENSED.format(name=title, file=LAYOUTS[name].annotations[0])
    sizes = [
        f"| {split} | {len(set(rows['person_id'][:])):,} | {len(rows):,} | {sum(map(len, rows['captions'][:])):,} |"
        for split, rows in splits.items()
    ]
    columns = [f"| `{column}` | {COLUMNS[column]} |" for column in next(iter(splits.values())).column_names]
    return "\n".join(
        [
            f"# {title}\n\n{about}\n\n## Size\n",
            "| split | people | pictures | captions |\n|---|---|---|---|",
            *sizes,
            "\n## Columns\n\n| column | what it holds |\n|---|---|",
            *columns,
        ]
    )


def build_repository(name: str, root: str | None, folder: Path, **options: Any) -> None:
    """Write a whole dataset repository.

    Args:
        name: see `load_corpus`.
        root: likewise.
        folder: where to write.
        **options: likewise.
    """
    if name == "synthetic" or LAYOUTS[name].has_val:
        sources = {"train": "train", "val": "val", "test": "test"}
    else:
        sources = {"train": "train+val", "test": "test"}  # the validation split is ours, not the corpus's
    splits = {split: load_corpus(name, root, source, **options) for split, source in sources.items()}
    infos = SplitDict({split: write_parquet(rows, folder, split) for split, rows in splits.items()})
    download_size = sum(path.stat().st_size for path in (folder / "data").iterdir())
    data = card_data(name, next(iter(splits.values())).features, infos, download_size)
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(name, splits)}\n").save(folder / "README.md")


def push(
    name: str,
    repo_id: str,
    corpus_root: str | None = None,
    *,
    on_bad_image: str = "error",
    num_people: int | None = None,
    private: bool = False,
    dry_run: Path | None = None,
    have_the_right: bool = False,
) -> str:
    """Push a corpus to the Hub, or write the same files to a folder.

    Args:
        name: see `load_corpus`.
        repo_id: ORG/NAME of a dataset repository, created if it is missing.
        corpus_root: see `load_corpus`.
        on_bad_image: likewise.
        num_people: synthetic: people in every split.
        private: nobody else may see it.
        dry_run: new or empty folder that takes the files; nothing is uploaded then.
        have_the_right: you may pass on this licensed corpus.

    Returns:
        The address of the repository, or the folder.

    Raises:
        ValueError: if the corpus cannot be read, or is licensed and the right to pass it on is not stated.
        OSError: if the Hub cannot be reached or refuses.
    """
    check_choice("corpus", name, PUSHABLE)
    check_name(repo_id)
    if name != "synthetic" and not have_the_right:
        raise ValueError(
            f"{name} is given out on conditions and shows real people; pass --i-have-the-right if its "
            "authors allow you to pass it on"
        )
    options = {} if num_people is None else {"num_people": num_people}
    with new_folder(dry_run) as folder:
        build_repository(name, corpus_root, folder, on_bad_image=on_bad_image, **options)
        if dry_run:
            return str(dry_run)
        return upload_repository(folder, repo_id, "dataset", f"Push {name}", private=private)
