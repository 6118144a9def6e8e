"""Embeddings -> people: embed pictures and sentences, rank a gallery, search your own, show why."""

from .explain.attention import Explanation, explain
from .gallery.crops import Frame, PathFields
from .gallery.gallery import Gallery
from .gallery.queries import Clause, Query, parse_query
from .gallery.results import Picture, Result, SearchResults
from .retrieval.embedding import embed_images, embed_texts
from .retrieval.models import DEFAULT_MODEL
from .retrieval.ranking import rank_gallery

__all__ = [
    "DEFAULT_MODEL",
    "Clause",
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
    "explain",
    "parse_query",
    "rank_gallery",
]
