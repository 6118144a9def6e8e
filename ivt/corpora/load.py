"""A corpus by its name: one function for the official folders, the drawn corpus, and shards."""

import os
from typing import Any

from datasets import Dataset

from ivt.choices import CORPORA, ON_BAD_IMAGE, SPLITS
from ivt.messages import check_choice

from .drawn.synthetic import load_synthetic
from .official import load_official
from .sharded import load_shards


def load_corpus(
    name: str,
    root: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    on_bad_image: str = "error",
    **options: Any,
) -> Dataset:
    """Load a split of a corpus, one row per image.

    ICFG-PEDES has no validation split: its "val" is one training identity in 15 (206 of 3,102), chosen by a hash of
    the person id, and its "train" is the rest. "train+val" is the whole official training set.

    Args:
        name: "cuhk-pedes", "icfg-pedes", "rstpreid", "synthetic", or "shards" for any corpus in parquet or WebDataset
            files, see `sharded.py`.
        root: the corpus's official folder, or the folder which holds it; for "shards", theirs. For "synthetic", which
            is drawn and not read, the folder to cache it in; None takes that of the `datasets` library.
        split: "train", "val", "test", or for official corpora "train+val".
        on_bad_image: what to do about images that are missing or cannot be decoded: "error" names the first and their
            number, "skip" leaves them out and logs the same.
        **options: for "synthetic" only, see `load_synthetic`.

    Returns:
        Rows with at least the columns of `FEATURES`: image (its file is read when a row is), image_id, person_id,
        captions.

    Raises:
        ValueError: on an unknown name, split or option, on a missing folder, annotation file or image, and on
            annotations which are not as expected; it says what was found, what was expected and what to do.
    """
    check_choice("corpus", name, CORPORA)
    check_choice("split", split, SPLITS)
    check_choice("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    if name == "synthetic":
        return load_synthetic(split, root, **options)
    if options:
        raise ValueError(f"{name} takes no options, found {', '.join(options)}; they are for the synthetic corpus")
    if name == "shards":
        return load_shards(root, split)
    return load_official(name, root, split, on_bad_image)
