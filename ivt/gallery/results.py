"""Results of a search: a list of the people found, best first, that draws itself and turns into a table."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import overload

import pandas as pd
from PIL import Image

from .columns import PICTURE_FIELDS, Picture
from .sheets import NOTE_WIDTH, Answer, draw_answers


@dataclass(frozen=True, kw_only=True)
class Result(Picture):
    """One picture that a search found.

    Attributes:
        score: cosine of query and picture, in [-1, 1].
        match: probability that words and picture belong together, by re-ranking; None if it was not judged.
        clause_scores: per clause of the query how well the picture fits it: its cosine's distance from the mean over
            the gallery, in standard deviations. A clause under NOT is scored like any other: low is good.
        others: names of further pictures found that are grouped with this one, which is the best of them.
    """

    score: float
    match: float | None = None
    clause_scores: dict[str, float] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


UNSURE = (0.4, 0.6)  # probabilities that say hardly more than the even odds before the search
ROW_FIELDS = [*PICTURE_FIELDS, "score"]  # of a result, what its row of the gallery holds
RESULT_FIELDS = [entry.name for entry in fields(Result)]


def where_from(picture: Picture) -> list[str]:
    """The file of a picture, its camera and its time, as far as they are known; of a long name the end."""
    name = picture.image_id
    time = picture.time.strftime("%Y-%m-%d %H:%M:%S") if picture.time else None
    parts = ["…" + name[1 - NOTE_WIDTH :] if len(name) > NOTE_WIDTH else name, picture.camera, time]
    return [part for part in parts if part]


def _clause_notes(result: Result, labels: Sequence[str]) -> list[str]:
    return [f"{result.clause_scores[label]:+.1f} {label}" for label in labels]


class SearchResults(Sequence[Result]):
    """What a search found, best first.

    Args:
        query: the query as a person would read it.
        results: what was found, best first.
        load_images: gives the pictures of image ids.
        presence: probability that the person asked for is in the gallery, if even odds are assumed beforehand; None
            if the model has no calibration for such a query, or the calibration cannot know.
        no_match: whether that is so low that the answer is "no match".
        doubts: why the calibration cannot know: unknown words, a gallery of other size or pictures.
    """

    def __init__(
        self,
        query: str,
        results: Iterable[Result],
        load_images: Callable[[Sequence[str]], list[Image.Image]],
        presence: float | None = None,
        no_match: bool = False,
        doubts: Iterable[str] = (),
    ) -> None:
        self.query = query
        self.presence = presence
        self.no_match = no_match
        self.doubts = list(doubts)
        self._results = list(results)
        self._load_images = load_images

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> "SearchResults": ...

    def __getitem__(self, index: int | slice) -> "Result | SearchResults":
        if isinstance(index, slice):
            verdict = (self.presence, self.no_match, self.doubts)
            return SearchResults(self.query, self._results[index], self._load_images, *verdict)
        return self._results[index]

    def __repr__(self) -> str:
        lines = [f"{len(self)} results for {self.query!r}", *self._verdict()]
        labels = self._clauses()
        if any(result.match is not None for result in self):
            lines.append("      score  match")
        elif labels:
            lines.append("      score  " + "  ".join(labels))
        for place, result in enumerate(self, start=1):
            scores = "".join(f"{result.clause_scores[label]:+{len(label)}.1f}  " for label in labels)
            match = "" if result.match is None else f"{result.match:5.3f}  "
            others = f" and {len(result.others)} more like it" if result.others else ""
            lines.append(f"{place:>3}. {result.score:6.3f}  {match}{scores}{result.image_id}{others}")
        return "\n".join(lines)

    def _clauses(self) -> list[str]:
        """Labels of the clauses, if there are several."""
        labels = list(self[0].clause_scores) if self else []
        return labels if len(labels) > 1 else []

    def _verdict(self) -> list[str]:
        """What the calibration says, a line or none."""
        if self.doubts:
            return [f"no probability: {'; '.join(self.doubts)}"]
        if self.presence is None:
            return []
        percent = min(max(100 * self.presence, 1), 99)  # it is never sure
        chance = f"the person is in the gallery with a probability of {percent:.0f} %"
        if self.no_match:
            return [f"no match: {chance}; the closest are"]
        return [f"too little to tell: {chance}" if UNSURE[0] < self.presence < UNSURE[1] else chance]

    def images(self) -> list[Image.Image]:
        """The pictures found, best first."""
        return self._load_images([result.image_id for result in self])

    def show(self, path: str | os.PathLike[str] | None = None) -> Image.Image:
        """Draw the sheet: the query above the pictures found.

        Args:
            path: also write it to this file; the ending chooses the format.

        Returns:
            The sheet; a notebook shows it.

        Raises:
            ValueError: if nothing was found.
        """
        if not self._results:
            raise ValueError(f"nothing was found for {self.query!r}, so there is no sheet to draw")
        labels = self._clauses()
        answers = [
            Answer(image, result.score, notes=(*where_from(result), *_clause_notes(result, labels)))
            for image, result in zip(self.images(), self, strict=True)
        ]
        buffer = io.BytesIO()
        draw_answers([self.query], [answers], buffer, remarks=self._verdict())
        sheet = Image.open(buffer)
        sheet.load()
        if path is not None:
            sheet.convert("RGB").save(path)
        return sheet

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row per result, best first; its columns are the fields of `Result`."""
        return pd.DataFrame([asdict(result) for result in self], columns=RESULT_FIELDS)
