"""Results of a search: a list of the people found, best first, that draws itself and turns into a table."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, overload

import pandas as pd
from PIL import Image

from .sheets import Answer, draw_answers


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a gallery.

    Attributes:
        image_id: its name, unique in the gallery.
        uri: absolute path or URI of its file; None if the picture is stored in the gallery itself, or the frame it was
            cut from, followed by `#xywh=left,top,width,height`.
        camera: name of the camera, if known.
        time: when it was taken, in UTC, if known.
        track_id: track of a tracker that it belongs to, if known.
        person_id: identity, if known.
    """

    image_id: str
    uri: str | None = None
    camera: str | None = None
    time: datetime | None = None
    track_id: str | None = None
    person_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them, the time as ISO 8601."""
        return asdict(self) | {"time": self.time and self.time.isoformat()}


@dataclass(frozen=True, kw_only=True)
class Result(Picture):
    """One picture that a search found.

    Attributes:
        score: cosine of query and picture, in [-1, 1].
    """

    score: float


PICTURE_FIELDS = [field.name for field in fields(Picture)]
RESULT_FIELDS = [field.name for field in fields(Result)]


class SearchResults(Sequence[Result]):
    """What a search found, best first.

    Args:
        query: the query as a person would read it.
        results: what was found, best first.
        load_images: gives the pictures of image ids.
    """

    def __init__(
        self, query: str, results: Iterable[Result], load_images: Callable[[Sequence[str]], list[Image.Image]]
    ) -> None:
        self.query = query
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
            return SearchResults(self.query, self._results[index], self._load_images)
        return self._results[index]

    def __repr__(self) -> str:
        lines = [f"{place}. {result.score:.3f} {result.image_id}" for place, result in enumerate(self, start=1)]
        return "\n".join([f"{len(self)} results for {self.query!r}", *lines])

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
        answers = [Answer(image, result.score) for image, result in zip(self.images(), self, strict=True)]
        buffer = io.BytesIO()
        draw_answers([self.query], [answers], buffer)
        sheet = Image.open(buffer)
        sheet.load()
        if path is not None:
            sheet.convert("RGB").save(path)
        return sheet

    def to_pandas(self) -> pd.DataFrame:
        """A table with a row per result, best first; its columns are the fields of `Result`."""
        return pd.DataFrame([asdict(result) for result in self], columns=RESULT_FIELDS)
