"""Write a corpus as shards, for `ivt train --corpus shards --corpus_root FOLDER --streaming`.

    ivt corpus shard cuhk-pedes FOLDER --corpus-root data/CUHK-PEDES
    ivt corpus shard synthetic FOLDER --format webdataset --num-people 4000

Every split becomes FOLDER/SPLIT-00000-of-….parquet, or .tar in WebDataset's format, with the pictures as they are and
the phrases and words of the captions worked out. For a corpus that has no place in memory either, write such files
yourself, see `sharded.py` for the columns; `ivt corpus shard shards FOLDER --corpus-root OTHER` writes them anew in
another format or size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ivt.choices import CORPORA, OFFICIAL_SPLITS
from ivt.messages import check_choice
from processing.levels import add_levels

from .load import load_corpus
from .sharded import ShardedRows, write_shards

EXTENSIONS = {"parquet": "parquet", "webdataset": "tar"}


def shard_corpus(
    name: str,
    folder: Path,
    corpus_root: str | None = None,
    *,
    splits: Sequence[str] = OFFICIAL_SPLITS,
    format: str = "parquet",
    rows_per_shard: int = 2000,
    num_people: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, int]]:
    """Write the splits of a corpus as shards.

    Args:
        name: see `load_corpus`.
        folder: where to write.
        corpus_root: folder of the corpus (synthetic: the cache).
        splits: which of them.
        format: "parquet" or "webdataset".
        rows_per_shard: pictures of a file, at most.
        num_people: synthetic: people to draw for training.
        seed: of the order of the rows.

    Returns:
        Per split the number of pictures, captions and shards.

    Raises:
        ValueError: if a choice is unknown or the corpus cannot be read.
    """
    check_choice("corpus", name, CORPORA)
    check_choice("format", format, EXTENSIONS)
    for split in splits:
        check_choice("split", split, OFFICIAL_SPLITS)
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}; pass at least 1")
    written = {}
    for split in splits:
        drawn = name == "synthetic" and split == "train" and num_people
        options: dict[str, Any] = {"num_people": num_people} if drawn else {}
        rows = add_levels(load_corpus(name, corpus_root, split, **options))
        shards = write_shards(rows, folder, split, EXTENSIONS[format], rows_per_shard, seed)
        whole = ShardedRows(folder, split)
        written[split] = {"pictures": len(whole), "captions": int(whole.pair_ends[-1]), "shards": len(shards)}
    return written
