"""Annotations -> rows: the official corpora from their folders, the drawn corpus, any corpus in shards.

    from ivt.corpora import load_corpus
    load_corpus("cuhk-pedes", "data/CUHK-PEDES", split="test")

A name is imported when it is asked for, so that the light modules of this room take no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ivt.choices import CORPORA, SPLITS

    from .drawn.synthetic import load_synthetic
    from .load import load_corpus
    from .rows import FEATURES

_MODULES = {  # name -> the module that has it
    "CORPORA": "ivt.choices",
    "FEATURES": "ivt.corpora.rows",
    "SPLITS": "ivt.choices",
    "load_corpus": "ivt.corpora.load",
    "load_synthetic": "ivt.corpora.drawn.synthetic",
}

__all__ = ["CORPORA", "FEATURES", "SPLITS", "load_corpus", "load_synthetic"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
