"""Embeddings -> people: embed pictures and sentences, rank a gallery, search your own, show why."""

from .attention import Explanation, explain
from .crops import Frame, PathFields
from .embedding import embed_images, embed_texts
from .gallery import Gallery
from .models import DEFAULT_MODEL
from .queries import Clause, Query, parse_query
from .ranking import rank_gallery
from .results import Picture, Result, SearchResults

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
