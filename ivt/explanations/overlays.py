"""Pictures of maps: a map laid over the picture it belongs to, with a colour bar, and words coloured by their weight.

Drawn with matplotlib's figures alone (no pyplot), as in `sheets.py`.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

MAP_COLOURS, WORD_COLOURS = "inferno", "RdYlGn"
WORD_HEIGHT = 15  # pixels of a line of words


@dataclass(frozen=True)
class Overlay:
    """One picture with its map.

    Attributes:
        image: the picture.
        pixel_map: (height, width), nowhere negative; it may be of another size than the picture.
        title: what stands above it.
        box: (left, top, right, bottom) of the right place in pixels of the picture, framed in white; None: no frame.
    """

    image: Image.Image
    pixel_map: np.ndarray
    title: str = ""
    box: Sequence[int] | None = None


def rendered(figure: Figure) -> Image.Image:
    """The figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    sheet = Image.open(buffer)
    return sheet.convert("RGB")


def draw_overlay(axes: Axes, overlay: Overlay, largest: float) -> AxesImage:
    """Draw the picture, pale, and the map over it, the more opaque the larger; `largest` is the bright end."""
    width, height = overlay.image.size
    scale = Normalize(0, largest or 1.0)
    axes.set_axis_off()
    axes.imshow(overlay.image, alpha=0.75)
    # the map's own grid stretched over the whole picture: the image processor resizes without keeping proportions
    drawn = axes.imshow(
        overlay.pixel_map,
        cmap=MAP_COLOURS,
        norm=scale,
        alpha=0.85 * np.sqrt(np.clip(scale(overlay.pixel_map), 0, 1)),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    if overlay.box is not None:
        left, top, right, bottom = overlay.box
        for edge, line in (("black", 2.4), ("white", 1.0)):  # seen on light and on dark
            frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=edge, lw=line)
            axes.add_patch(frame)
    return drawn


def draw_rows(rows: Sequence[tuple[str, Sequence[Overlay]]]) -> Image.Image:
    """Draw a sheet of rows; in every picture the strongest place has the brightest colour.

    Args:
        rows: title and overlays, from left to right, of each row.

    Raises:
        ValueError: if there is no row, or one has no pictures.
    """
    if not rows or not all(overlays for _, overlays in rows):
        raise ValueError(
            f"got rows of {[len(overlays) for _, overlays in rows]} pictures, expected rows of at least one picture"
        )
    columns = max(len(overlays) for _, overlays in rows)
    lines = [max(overlay.title.count("\n") for overlay in overlays) for _, overlays in rows]
    heights = [3.4 + 0.13 * count for count in lines]
    figure = Figure(figsize=((1.6 if any(lines) else 1.2) * columns + 0.8, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (title, overlays) in zip(parts, rows, strict=True):
        title = "\n".join(textwrap.wrap(title, 14 * columns))
        part.suptitle(title, fontsize=12, x=0.01, ha="left", parse_math=False)
        axes = part.subplots(1, columns, squeeze=False)[0]
        for place, overlay in zip(axes, overlays, strict=False):
            draw_overlay(place, overlay, float(overlay.pixel_map.max()))
            place.set_title(overlay.title, fontsize=7 if "\n" in overlay.title else 9, parse_math=False)
        for place in axes[len(overlays) :]:
            place.set_axis_off()
        bar = part.colorbar(ScalarMappable(Normalize(0, 1), MAP_COLOURS), ax=list(axes), fraction=0.03, pad=0.01)
        bar.set_label("of the strongest place")
    return rendered(figure)


def write_words(axes: Axes, words: Sequence[tuple[str, float]]) -> None:
    """Write words one after the other in lines, each on the colour of its weight: green speaks for, red against.

    Args:
        axes: where to write; its figure is laid out already, since words are measured on its canvas.
        words: each word with its weight.
    """
    colours = word_colours(words)
    area = axes.get_window_extent()
    x, y = 0.0, area.height - 8  # pixels from the lower left corner of the axes
    for word, weight in words:
        red, green, blue, _ = colours.to_rgba(np.array(weight))
        box = {"facecolor": (red, green, blue, 0.7), "linewidth": 0, "boxstyle": "square,pad=0.25"}
        text = axes.text(0, 0, word, transform=None, va="top", fontsize=11, bbox=box, parse_math=False)
        extent = text.get_window_extent()
        if x and x + extent.width > area.width:
            x, y = 0.0, y - 1.9 * WORD_HEIGHT
        text.set_position((area.x0 + x, area.y0 + y))
        x += extent.width + 12


def word_colours(words: Sequence[tuple[str, float]]) -> ScalarMappable:
    """Green for positive weights, red for negative ones, as far as the largest goes."""
    largest = max((abs(weight) for _, weight in words), default=0)
    return ScalarMappable(CenteredNorm(0, largest or 1.0), WORD_COLOURS)


def draw_explanation(
    image: Image.Image, pixel_map: np.ndarray, looked: str, unit: str, score: float, words: Sequence[tuple[str, float]]
) -> Image.Image:
    """Draw the picture, the map over it with its colour bar, and the coloured words.

    Args:
        image: the picture.
        pixel_map: (height, width).
        looked: what the map is for, its title.
        unit: what the map counts.
        score: cosine of picture and sentence.
        words: each word of the sentence with its weight, a part of the cosine.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.2, 1.9))
    for axes in (left, right):
        axes.set_axis_off()
    left.imshow(image)
    left.set_title(f"cosine with the sentence {score:.2f}", fontsize=9)
    drawn = draw_overlay(middle, Overlay(image, pixel_map), float(pixel_map.max()))
    middle.set_title("\n".join(textwrap.wrap(looked, 28)), fontsize=9, parse_math=False)
    figure.colorbar(drawn, ax=middle, label=unit, fraction=0.1, pad=0.02)
    right.set_title("what the cosine loses without the word", fontsize=9, loc="left")
    figure.colorbar(
        word_colours(words), ax=right, orientation="horizontal", fraction=0.05, pad=0.02, ticks=MaxNLocator(5)
    )
    figure.draw_without_rendering()  # the layout is known from here on
    figure.set_layout_engine("none")
    write_words(right, words)
    return rendered(figure)
