"""Occlusion: how far the cosine falls when a piece of the picture is hidden. It asks an encoder for embeddings alone.

Letters: B pictures, C channels, Q texts per picture, W windows, D width.
"""

import math

import torch

from ivt.retrieval.embedding import DualEncoder, embed_pixels

from .texts import Texts

WINDOW_SHARE = 1 / 6  # side of a hidden window, of the picture's height: a little more than a head


def window_of(height: int) -> tuple[int, int]:
    """Side of a window and distance to the next one, in pixels of a picture so high: windows overlap by half."""
    step = max(1, round(height * WINDOW_SHARE / 2))
    return 2 * step, step


def falls_by_window(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    """How far the cosine falls, if at all, when a window of the picture takes the picture's mean colour.

    Args:
        model: any encoder with `get_image_features`.
        pixel_values: (B, C, height, width).
        texts: Q texts for each picture.

    Returns:
        (B, Q, rows, columns) of the windows of `window_of`, the first at the top left corner; the last ones may reach
        over the right and the lower edge.
    """
    side, step = window_of(pixel_values.shape[-2])
    rows, columns = (1 + max(0, math.ceil((length - side) / step)) for length in pixel_values.shape[-2:])
    mean = pixel_values.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)

    def cosines(pixels: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bd,bqd->bq", embed_pixels(model, pixels), texts.embeds.float())

    whole, falls = cosines(pixel_values), []
    for top in range(0, rows * step, step):
        for left in range(0, columns * step, step):
            hidden = pixel_values.clone()
            hidden[..., top : top + side, left : left + side] = mean
            falls.append(whole - cosines(hidden))
    return torch.stack(falls, dim=-1).clamp(min=0).unflatten(-1, (rows, columns))  # (B, Q, W) before
