"""Pictures of maps: what a person sees of them."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ivt.explanations.overlays import Overlay, draw_explanation, draw_overlay, draw_rows, word_colours, write_words

WORDS = [("a", 0.0), ("red", 0.04), ("hat", -0.02), ("with", 0.01)]


def overlay(row: int, column: int, title: str = "") -> Overlay:
    """A white picture of 40 x 100 pixels, one of 10 x 4 places bright."""
    pixel_map = np.zeros((10, 4))
    pixel_map[row, column] = 3e-4
    return Overlay(Image.new("RGB", (40, 100), "white"), pixel_map, title)


def bright(sheet: Image.Image) -> np.ndarray:
    """(height, width) bool: the yellow of a map's strongest place."""
    red, green, blue = np.moveaxis(np.asarray(sheet).astype(int), -1, 0)
    return (red > 235) & (green > 235) & (blue > 120) & (blue < 200)


def spans(hits: np.ndarray) -> list[float]:
    """Middles of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hits.astype(int), [0]])))
    return [(start + stop) / 2 for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop - start > 3]


def test_the_strongest_place_is_bright_where_it_is() -> None:
    sheet = draw_rows([("one", [overlay(1, 0), overlay(8, 0), overlay(8, 3)])])
    hits = bright(sheet)
    hits[:, -70:] = False  # the colour bar
    upper, lower = spans(hits.any(axis=1))
    left, middle, right = spans(hits.any(axis=0))
    assert upper < sheet.height / 2 < lower
    assert spans(hits[int(upper)]) == [left] and spans(hits[int(lower)]) == [middle, right]
    pitch = middle - left
    assert right - middle > 1.3 * pitch  # the last column of its picture, not the first


def test_every_row_has_a_colour_bar_and_fits_titles_of_several_lines() -> None:
    one = draw_rows([("one", [overlay(0, 0)] * 3)])
    two = draw_rows([("one", [overlay(0, 0)] * 3), ("two", [overlay(0, 0)] * 2)])
    assert two.height == 2 * one.height and two.width == one.width
    assert draw_rows([("one", [overlay(0, 0, "\n".join("abcd"))] * 3)]).height > one.height


def test_a_map_of_nothing_but_zeros_leaves_the_picture_as_it_is() -> None:
    nothing = np.zeros((10, 4))
    image = Image.new("RGB", (40, 100), (0, 128, 255))
    explained = draw_explanation(image, nothing, "“hat”", "part in the cosine", 0.5, [("a", 0.0), ("hat", 0.0)])
    for sheet, places in ((draw_rows([("none", [Overlay(image, nothing)] * 2)]), 2), (explained, 1)):
        pixels = np.asarray(sheet).astype(int)
        pale = np.abs(pixels - (64, 160, 255)).max(axis=-1) <= 2  # three quarters of the colour on white
        rows = pale.any(axis=1)
        assert len(spans(pale[rows].all(axis=0))) == places and len(spans(rows)) == 1  # whole rectangles


@pytest.mark.parametrize("rows", [[], [("one", [])]])
def test_a_sheet_without_pictures_is_an_error(rows: list) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        draw_rows(rows)


def test_words_that_speak_for_the_picture_are_green_and_against_it_red() -> None:
    colours = word_colours(WORDS)
    green, red = np.array(colours.to_rgba(0.04)), np.array(colours.to_rgba(-0.04))
    assert green[1] > 1.5 * green[0] and red[0] > 1.5 * red[1]
    for words in (WORDS, [("a", 0.0)], []):
        assert np.ptp(word_colours(words).to_rgba(0.0)[:2]) < 0.05  # neither


def test_all_words_stand_inside_the_picture() -> None:
    words = [(word, weight) for _ in range(15) for word, weight in WORDS]  # 60 words, the longest captions
    image, pixel_map = Image.new("RGB", (40, 100), "white"), np.ones((10, 4))
    sheet = draw_explanation(image, pixel_map, "“hat”", "part in the cosine", 0.5, words)
    few = draw_explanation(image, pixel_map, "“hat”", "part in the cosine", 0.5, WORDS[:1])
    assert sheet.size == few.size
    pixels = np.asarray(sheet).astype(int)
    coloured = np.ptp(pixels, axis=-1) > 40
    coloured[:, : int(0.55 * sheet.width)] = False  # the maps
    rows = spans(coloured[: int(0.88 * sheet.height)].any(axis=1))
    assert 5 <= len(rows) <= 15
    assert coloured[:, -3:].sum() == 0 and coloured[-3:].sum() == 0


def test_box_is_drawn_round_its_pixels() -> None:
    axes = Figure().add_subplot()
    image, box = Image.new("RGB", (40, 100)), (10, 20, 30, 60)
    draw_overlay(axes, Overlay(image, np.ones((10, 4)), box=box), 1.0)
    # the middle of the first pixel is 0, so its edge is at -0.5; a dark frame is under the light one
    assert [patch.get_bbox().extents.tolist() for patch in axes.patches] == 2 * [[9.5, 19.5, 29.5, 59.5]]
    assert axes.patches[0].get_linewidth() > axes.patches[1].get_linewidth()
    assert [patch.get_edgecolor()[:3] for patch in axes.patches] == [(0, 0, 0), (1, 1, 1)]


def test_words_begin_at_the_top_left_corner() -> None:
    figure = Figure()
    FigureCanvasAgg(figure)  # on which words are measured
    axes = figure.add_subplot()
    write_words(axes, WORDS)
    area, first, second = axes.get_window_extent(), *(text.get_window_extent() for text in axes.texts[:2])
    assert first.x0 == pytest.approx(area.x0, abs=1) and area.y1 - 12 < first.y1 < area.y1
    assert second.y1 == pytest.approx(first.y1, abs=4) and second.x0 > first.x1
