"""Maps in pixels: each pixel is the mean of the patches or windows that cover it; the strongest place of a map.

Letters: B pictures, C channels, Q texts per picture. Maps are (height, width) of the model's pictures, from the top
left corner, down first.
"""

import torch
from torch.nn.functional import conv_transpose2d, pad

from ivt.retrieval.embedding import DualEncoder

from .maps import check_method, patch_maps, patch_stride
from .occlusion import falls_by_window, window_of
from .texts import Texts

DEFAULT_SHIFTS = 1


def spread(values: torch.Tensor, window: tuple[int, int], stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Turn one value per window into one per cell: the mean of the windows that cover it.

    Args:
        values: (B, Q, rows, columns), window (r, c) has its top left corner at cell (r * stride, c * stride).
        window: height and width of a window in cells.
        stride: distance of two windows in cells.
        size: (height, width) in cells; what of the windows lies beyond is cut off.

    Returns:
        (B, Q, height, width); 0 in the cells at the right and lower edge that no window covers.
    """
    kernel = values.new_ones(1, 1, *window)
    sums = conv_transpose2d(values.flatten(0, 1)[:, None], kernel, stride=stride)  # (B * Q, 1, height', width')
    covering = conv_transpose2d(torch.ones_like(values[:1, 0, None]), kernel, stride=stride)
    edge = (0, size[1] - sums.shape[-1], 0, size[0] - sums.shape[-2])
    return pad(sums / covering, edge).view(*values.shape[:2], *size)


def grid_of(model: DualEncoder, method: str, height: int) -> tuple[int, int]:
    """Side of what a method has one value for, and distance to the next one, in pixels: a patch or a hidden window."""
    return window_of(height) if method == "occlusion" else patch_stride(model)


def _move(pixels: torch.Tensor, down: int, right: int, mode: str = "constant") -> torch.Tensor:
    """Move pictures (B, C, height, width) by whole pixels; what comes in is padded by `mode`."""
    height, width = pixels.shape[-2:]
    margin = max(abs(down), abs(right))
    padded = pad(pixels, (margin,) * 4, mode=mode)
    return padded[..., margin - down : margin - down + height, margin - right : margin - right + width]


def _values(model: DualEncoder, pixel_values: torch.Tensor, texts: Texts, method: str) -> torch.Tensor:
    """One value for each place of the grid of `grid_of`: (B, Q, rows, columns)."""
    if method == "occlusion":
        return falls_by_window(model, pixel_values, texts)
    return patch_maps(model, pixel_values, texts, method)


def pixel_maps(
    model: DualEncoder, pixel_values: torch.Tensor, texts: Texts, method: str, shifts: int = DEFAULT_SHIFTS
) -> torch.Tensor:
    """Compute maps in pixels: every pixel is the mean of the patches or windows that cover it.

    With `shifts` above 1 the picture is looked at `shifts` x `shifts` times, moved by parts of a stride and its edge
    repeated, and the maps are moved back and averaged: patches cut the picture in other places each time, so the map
    is finer than the patch grid.

    Args:
        model: an `IVTModel`; for `occlusion` any encoder with `get_image_features`.
        pixel_values: (B, C, height, width) of the model's `image_size`.
        texts: Q texts for each picture.
        method: one of `METHODS`.
        shifts: places per axis; 1 looks once at the picture as it is.

    Returns:
        (B, Q, height, width), nowhere negative: parts of the cosine (gradient, occlusion) or shares of the whole
        picture (the others).

    Raises:
        ValueError: if there is no such method, the model records no attention, or `shifts` is below 1 or more than
            pixels in a stride.
    """
    check_method(model, method)
    height, width = pixel_values.shape[-2:]
    side, stride = grid_of(model, method, height)
    if not 1 <= shifts <= stride:
        raise ValueError(f"shifts is {shifts}, expected 1 to {stride}, the pixels from patch to patch")
    offsets = [(2 * k + 1 - shifts) * stride // (2 * shifts) for k in range(shifts)]
    total = seen = torch.zeros(())
    for down in offsets:
        for right in offsets:
            moved = _move(pixel_values, down, right, "replicate")
            values = _values(model, moved, texts, method)
            looks = (values, torch.ones_like(values[:1, :1]))
            pixels, covered = (
                _move(spread(look, (side, side), stride, (height, width)), -down, -right) for look in looks
            )
            total, seen = total + pixels, seen + covered
    return total / seen.clamp(min=1)  # what no look covers has 0


def strongest_place(maps: torch.Tensor) -> torch.Tensor:
    """The middle of the pixels where each map is largest, for example of the strongest patch.

    Args:
        maps: (…, height, width).

    Returns:
        (…, 2), row and column from the top left corner; whole numbers are the middles of pixels.
    """
    largest = maps.flatten(-2).amax(dim=-1)[..., None, None]
    best = (maps >= largest * (1 - 1e-5)).double()  # (…, height, width); rounding parts what is equal
    rows, columns = (torch.arange(n, device=maps.device, dtype=torch.double) for n in maps.shape[-2:])
    place = torch.stack([(best.sum(dim=-1) * rows).sum(dim=-1), (best.sum(dim=-2) * columns).sum(dim=-1)], dim=-1)
    return place / best.sum(dim=(-2, -1))[..., None]
