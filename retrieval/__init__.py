"""Embeddings -> people: embed pictures and sentences, rank a gallery, search your own, show why."""

from .attention import Explanation, explain
from .embedding import embed_images, embed_texts
from .gallery import Gallery
from .models import DEFAULT_MODEL
from .ranking import rank_gallery
from .results import Result, SearchResults

__all__ = [
    "DEFAULT_MODEL",
    "Explanation",
    "Gallery",
    "Result",
    "SearchResults",
    "embed_images",
    "embed_texts",
    "explain",
    "rank_gallery",
]
