"""Sheets of answers: what a person sees of a search."""

import numpy as np
import pytest
from PIL import Image

from ivt.gallery.sheets import Answer, draw_answers

RIGHT = (26, 150, 65)  # the frame's green


def answers(rights: list[bool | None]) -> list[Answer]:
    return [Answer(Image.new("RGB", (30, 80), "orange"), 0.5 - 0.1 * i, right) for i, right in enumerate(rights)]


def count_pixels(path, colour: tuple[int, int, int]) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=-1) <= 3).sum())


def test_only_right_answers_have_a_green_frame(tmp_path):
    counts = []
    for number, rights in enumerate([[None, False], [True, False], [True, True]]):
        path = tmp_path / f"{number}.png"
        draw_answers(["a man in orange"], [answers(rights)], path)
        counts.append(count_pixels(path, RIGHT))
    assert counts[0] == 0 and counts[1] > 100 and counts[2] == pytest.approx(2 * counts[1], rel=0.1)


def test_queries_have_a_row_each_and_answers_a_column(tmp_path):
    draw_answers(["one", "two"], [answers([None] * 4), answers([None] * 2)], tmp_path / "sheet.png")
    orange = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")) == (255, 165, 0)
    rows = orange.all(axis=-1).any(axis=1).astype(int)
    assert (np.diff(rows) == 1).sum() == 2
    half = len(rows) // 2
    for part, expected in ((orange[:half], 4), (orange[half:], 2)):
        assert (np.diff(part.all(axis=-1).any(axis=0).astype(int)) == 1).sum() == expected


@pytest.mark.parametrize("queries, found", [([], []), (["a", "b"], [answers([None])])])
def test_queries_and_answers_must_go_together(tmp_path, queries, found):
    with pytest.raises(ValueError, match="expected one list per query"):
        draw_answers(queries, found, tmp_path / "sheet.png")


def test_notes_stand_under_the_picture_and_remarks_behind_the_query(tmp_path):
    def dark_rows(notes: tuple[str, ...], remarks: list[str]) -> list[int]:
        answer = Answer(Image.new("RGB", (30, 80), "orange"), 0.5, notes=notes)
        draw_answers(["one"], [[answer] * 4], tmp_path / "sheet.png", remarks)
        pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
        orange = (np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")) == (255, 165, 0)).all(axis=-1)
        top, bottom = np.flatnonzero(orange.any(axis=1))[[0, -1]]
        return [int((part < 100).any(axis=1).sum()) for part in (pixels[:top], pixels[bottom + 1 :])]

    plain, noted, remarked = (
        dark_rows((), []),
        dark_rows(("+1.2 coat", "-0.3 NOT bag"), []),
        dark_rows((), ["no match"]),
    )
    assert plain[1] == 0 < noted[1] and noted[0] == plain[0] < remarked[0] and remarked[1] == 0


def test_more_than_ten_pictures_go_into_further_rows(tmp_path):
    draw_answers(["one"], [answers([None] * 23)], tmp_path / "sheet.png")
    orange = (np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")) == (255, 165, 0)).all(axis=-1)
    rows = np.flatnonzero(np.diff(orange.any(axis=1).astype(int)))
    assert len(rows) == 6
    counts = [
        (np.diff(orange[top:bottom].any(axis=0).astype(int)) == 1).sum() for top, bottom in rows.reshape(3, 2) + 1
    ]
    assert counts == [10, 10, 3]


def test_queries_and_notes_are_drawn_as_typed(tmp_path):
    # as mathematics the last one ends in an error
    for text in ("a shirt with $x_1$ on it", "costs $100 and $", "\\frac $\\frac{$"):
        draw_answers([text], [[Answer(Image.new("RGB", (30, 80)), 0.5, notes=(text,))]], tmp_path / "sheet.png")
