"""Write a corpus as shards, for `train_hf.py --corpus shards --corpus_root FOLDER --streaming`.

    python -m ivt.corpora.shard cuhk-pedes FOLDER --corpus_root data/CUHK-PEDES
    python -m ivt.corpora.shard synthetic FOLDER --format webdataset --num_people 4000

Every split becomes FOLDER/SPLIT-00000-of-….parquet, or .tar in WebDataset's format, with the pictures as they are and
the phrases and words of the captions worked out. For a corpus that has no place in memory either, write such files
yourself, see `corpora/sharded.py` for the columns; `python -m ivt.corpora.shard shards FOLDER --corpus_root OTHER`
writes them anew in another format or size.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ivt.messages import check_choice
from processing.levels import add_levels

from . import CORPORA, load_corpus
from .official import OFFICIAL_SPLITS
from .sharded import ShardedRows, write_shards

EXTENSIONS = {"parquet": "parquet", "webdataset": "tar"}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line; write the shards; print what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=", ".join(CORPORA))
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--corpus_root", help="folder of the corpus (synthetic: the cache)")
    parser.add_argument("--splits", nargs="+", default=OFFICIAL_SPLITS, help="which of them")
    parser.add_argument("--format", default="parquet", choices=EXTENSIONS)
    parser.add_argument("--rows_per_shard", type=int, default=2000, help="pictures of a file, at most")
    parser.add_argument("--num_people", type=int, help="synthetic: people to draw for training")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rows")
    arguments = parser.parse_args(argv)
    check_choice("corpus", arguments.name, CORPORA)
    for split in arguments.splits:
        check_choice("split", split, OFFICIAL_SPLITS)
    if arguments.rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {arguments.rows_per_shard}; pass at least 1")
    for split in arguments.splits:
        drawn = arguments.name == "synthetic" and split == "train" and arguments.num_people
        options = {"num_people": arguments.num_people} if drawn else {}
        rows = add_levels(load_corpus(arguments.name, arguments.corpus_root, split, **options))
        extension = EXTENSIONS[arguments.format]
        shards = write_shards(rows, arguments.folder, split, extension, arguments.rows_per_shard, arguments.seed)
        written = ShardedRows(arguments.folder, split)
        print(f"{split}: {len(written)} pictures, {written.pair_ends[-1]} captions in {len(shards)} shards")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
