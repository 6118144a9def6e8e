"""Embeddings -> people: embed pictures and sentences, rank a gallery."""

from .embedding import embed_images, embed_texts
from .ranking import rank_gallery

__all__ = ["embed_images", "embed_texts", "rank_gallery"]
