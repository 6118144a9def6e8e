"""Find a person in pictures from a sentence: galleries, corpora, embeddings, evaluation, explanations.

    from ivt import Gallery
    Gallery("people.lance").search("a woman in a red coat")

A name is imported when it is asked for, so that `import ivt` takes no time. The rooms import each other in this order,
never back: corpora, metric, retrieval, training, gallery, explanations, page, hub, cli.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpora.load import load_corpus
    from .explanations.attention import Explanation, explain
    from .gallery.columns import Picture
    from .gallery.crops import Frame
    from .gallery.gallery import Gallery
    from .gallery.path_fields import PathFields
    from .gallery.queries import Clause, Query, parse_query
    from .gallery.results import Result, SearchResults
    from .retrieval.embedding import embed_images, embed_texts
    from .retrieval.evaluation import evaluate_retrieval
    from .retrieval.models import DEFAULT_MODEL
    from .retrieval.ranking import rank_gallery

_MODULES = {  # name -> the module that has it
    "Clause": "gallery.queries",
    "DEFAULT_MODEL": "choices",
    "Explanation": "explanations.attention",
    "Frame": "gallery.crops",
    "Gallery": "gallery.gallery",
    "PathFields": "gallery.path_fields",
    "Picture": "gallery.columns",
    "Query": "gallery.queries",
    "Result": "gallery.results",
    "SearchResults": "gallery.results",
    "embed_images": "retrieval.embedding",
    "embed_texts": "retrieval.embedding",
    "evaluate_retrieval": "retrieval.evaluation",
    "explain": "explanations.attention",
    "load_corpus": "corpora.load",
    "parse_query": "gallery.queries",
    "rank_gallery": "retrieval.ranking",
}

__all__ = [
    "Clause",
    "DEFAULT_MODEL",
    "Explanation",
    "Frame",
    "Gallery",
    "PathFields",
    "Picture",
    "Query",
    "Result",
    "SearchResults",
    "embed_images",
    "embed_texts",
    "evaluate_retrieval",
    "explain",
    "load_corpus",
    "parse_query",
    "rank_gallery",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
