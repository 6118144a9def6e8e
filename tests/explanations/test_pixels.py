"""Maps in pixels against naive loops over patches, and their strongest places.

The tiny model looks at 48 x 24 pixels in 7 rows x 3 columns of overlapping patches; 8 pixels, stride 6.
"""

import pytest
import torch

from ivt.choices import METHODS
from ivt.explanations.maps import PATCH_MAPS, TEXT_FREE_METHODS, patch_maps
from ivt.explanations.pixels import pixel_maps, spread, strongest_place
from ivt.explanations.texts import Texts
from modeling_ivt import IVTModel

ROWS, COLUMNS = 7, 3


@pytest.mark.parametrize("method", METHODS)
def test_maps_have_the_size_of_the_picture_and_are_nowhere_negative(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts, method: str
) -> None:
    maps = pixel_maps(tiny_model, pixel_values, texts, method)
    assert maps.shape == (2, 2, 48, 24)
    assert maps.min() >= 0 and maps.max() > 0 and not maps.requires_grad
    assert torch.equal(maps[:, 0], maps[:, 1]) == (method in TEXT_FREE_METHODS)


@pytest.mark.parametrize(
    ("window", "stride", "size"), [((8, 8), 6, (48, 24)), ((4, 4), 4, (28, 12)), ((2, 3), 1, (8, 5))]
)
def test_every_cell_is_the_mean_of_the_windows_that_cover_it(window, stride, size) -> None:
    values = torch.rand(2, 1, ROWS, COLUMNS)
    cells = spread(values, window, stride, size)
    assert cells.shape == (2, 1, *size)
    for y in range(size[0]):
        for x in range(size[1]):
            covering = [
                values[:, 0, r, c]
                for r in range(ROWS)
                for c in range(COLUMNS)
                if r * stride <= y < r * stride + window[0] and c * stride <= x < c * stride + window[1]
            ]
            expected = sum(covering) / len(covering) if covering else torch.zeros(2)
            torch.testing.assert_close(cells[:, 0, y, x], expected)


def test_shifted_looks_are_moved_back_and_find_places_smaller_than_a_patch(
    tiny_model: IVTModel, texts: Texts, brightness: str
) -> None:
    distances = {1: 0.0, 6: 0.0}
    for row, column in ((10, 10), (23, 11), (33, 12), (17, 9)):
        picture = torch.zeros(1, 3, 48, 24)
        picture[:, :, row, column] = 1
        for shifts in distances:
            place = strongest_place(pixel_maps(tiny_model, picture, texts, brightness, shifts)[0, 0])
            distances[shifts] += torch.dist(place, torch.tensor([row, column]).double()).item() / 4
    assert distances[6] < 0.5 < 1 < distances[1]


def test_one_look_is_the_patch_map_in_pixels(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts) -> None:
    patches = patch_maps(tiny_model, pixel_values, texts, "cls")
    pixels = pixel_maps(tiny_model, pixel_values, texts, "cls", shifts=1)
    torch.testing.assert_close(pixels, spread(patches, (8, 8), 6, (48, 24)))


@pytest.mark.parametrize("shifts", [1, 2, 3])
def test_equal_patches_give_equal_pixels_however_often_looked(
    tiny_model: IVTModel, texts: Texts, monkeypatch: pytest.MonkeyPatch, shifts: int
) -> None:
    monkeypatch.setitem(PATCH_MAPS, "equal", lambda model, pixels, texts: torch.full((2, 2, ROWS * COLUMNS), 0.25))
    maps = pixel_maps(tiny_model, torch.zeros(2, 3, 48, 24), texts, "equal", shifts)
    torch.testing.assert_close(maps[..., :44, :20], torch.full((2, 2, 44, 20), 0.25))
    assert set(maps.unique().tolist()) <= {0.0, 0.25}  # 7 patches reach 44 pixels down, 3 reach 20 across


def test_strongest_place_is_the_middle_of_the_largest_row_first() -> None:
    maps = torch.zeros(3, 6, 4)
    maps[0, 4, 1] = 2.0
    maps[1, 2:4, 0:3] = 1e-7  # a patch of 2 x 3 pixels
    places = strongest_place(maps)
    assert places.tolist() == [[4.0, 1.0], [2.5, 1.0], [2.5, 1.5]]  # a map of equal numbers: the middle
