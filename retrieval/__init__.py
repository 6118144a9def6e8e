"""Embeddings -> people: embed pictures and sentences, rank a gallery, search your own."""

from .embedding import embed_images, embed_texts
from .gallery import Gallery
from .models import DEFAULT_MODEL
from .ranking import rank_gallery
from .results import Result, SearchResults

__all__ = ["DEFAULT_MODEL", "Gallery", "Result", "SearchResults", "embed_images", "embed_texts", "rank_gallery"]
