"""Sheets of pictures: a query above the people it found.

Drawn with matplotlib's figures alone (no pyplot), so nothing depends on a display or on global state.
"""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

RIGHT_COLOUR, WRONG_COLOUR = "#1a9641", "#bbbbbb"
NOTE_WIDTH = 26  # characters under a picture
PER_ROW = 10  # pictures; more go into another row


@dataclass(frozen=True)
class Answer:
    """One picture found for a query.

    Attributes:
        image: the picture.
        score: cosine of query and picture, in [-1, 1].
        right: whether it shows a person that was asked for; None if nobody knows.
        notes: lines to write under it.
    """

    image: Image.Image
    score: float
    right: bool | None = None
    notes: tuple[str, ...] = ()


def draw_answers(
    queries: Sequence[str],
    answers: Sequence[Sequence[Answer]],
    path: str | os.PathLike[str] | IO[bytes],
    remarks: Sequence[str] = (),
) -> None:
    """Draw rows of up to `PER_ROW` pictures per query, best picture first, right ones framed in green.

    Args:
        queries: the sentences.
        answers: per query its pictures, best first.
        path: the picture to write; its ending chooses the format.
        remarks: per query a line to write behind it; they may be left out.

    Raises:
        ValueError: if there are no queries, or not one list of answers per query.
    """
    if not queries or len(queries) != len(answers):
        raise ValueError(
            f"got {len(queries)} queries and {len(answers)} lists of answers, expected one list per query"
        )
    columns = min(max(map(len, answers)), PER_ROW)
    heights = [max(1, -(-len(found) // PER_ROW)) for found in answers]
    figure = Figure(figsize=(1.25 * columns, 3.9 * sum(heights)), layout="constrained")
    rows = figure.subfigures(len(queries), 1, squeeze=False, height_ratios=heights)[:, 0]
    remarks = remarks or [""] * len(queries)
    for row, query, found, remark, height in zip(rows, queries, answers, remarks, heights, strict=True):
        title = textwrap.wrap(f"“{query}”", 12 * columns) + textwrap.wrap(remark, 12 * columns)
        row.suptitle("\n".join(title), fontsize=12, x=0.01, ha="left", parse_math=False)
        for place, axes in enumerate(row.subplots(height, columns, squeeze=False).flat):
            axes.set_axis_off()
            if place < len(found):
                _draw_answer(axes, found[place], place + 1)
    figure.savefig(path, dpi=100)


def _draw_answer(axes: Axes, answer: Answer, place: int) -> None:
    width, height = answer.image.size
    axes.imshow(answer.image)
    axes.set_title(f"{place}.  {answer.score:.2f}", fontsize=9)
    notes = "\n".join(textwrap.shorten(note, NOTE_WIDTH, placeholder="…") for note in answer.notes)
    axes.text(0, 1.01 * height, notes, fontsize=6, va="top", parse_math=False)
    if answer.right is not None:
        colour, line = (RIGHT_COLOUR, 5) if answer.right else (WRONG_COLOUR, None)
        axes.add_patch(Rectangle((0, 0), width - 1, height - 1, fill=False, clip_on=False, ec=colour, lw=line))
