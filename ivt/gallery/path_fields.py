"""Camera and time of a picture, read out of the path of its file."""

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import overload

from .columns import Crop

logger = logging.getLogger(__name__)

TIME_GROUPS = ("year", "month", "day", "hour", "minute", "second")


@overload
def as_utc(time: None) -> None: ...
@overload
def as_utc(time: datetime | str | float) -> datetime: ...
def as_utc(time: datetime | str | float | None) -> datetime | None:
    """Read a time: a datetime or ISO 8601 text, which is UTC unless it names its zone, or UTC seconds since 1970."""
    if time is None:
        return None
    if isinstance(time, int | float):
        return datetime.fromtimestamp(time, UTC)
    try:
        time = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        raise ValueError(f"time is {time!r}, expected ISO 8601 as in '2024-05-01T12:00:00'") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _compile(field: str, pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field}_from_path is {pattern!r}, which is no regular expression: {error}") from error


def _main_group(match: re.Match[str], name: str) -> str:
    """The group of a name, else the first one that took part in the match, else the whole match."""
    if name in match.re.groupindex:
        return match[name] or ""
    return next((group for group in match.groups() if group), "" if match.re.groups else match[0])


def _camera(match: re.Match[str]) -> str:
    return _main_group(match, "camera")


class PathFields:
    """Reads camera and time out of paths with regular expressions.

    Args:
        camera: searched in the path below the indexed folder; its group `camera`, else the first of its groups that
            took part, else the whole match is the camera. An empty one is none.
        time: the same for the time: named groups year, month, day and, if wanted, hour, minute, second; or a group
            `epoch` with UTC seconds; else group `time`, the first group or the whole match, read with `time_format`.
        time_format: of `datetime.strptime`; by default ISO 8601. Without a zone the time is UTC.

    Raises:
        ValueError: on what is no regular expression.
    """

    def __init__(self, camera: str | None = None, time: str | None = None, time_format: str | None = None) -> None:
        self.patterns = {"camera": _compile("camera", camera), "time": _compile("time", time)}
        self.time_format = time_format

    def fill(self, crops: Iterable[Crop]) -> list[Crop]:
        """Set camera and time of each crop whose `image_id` matches.

        Raises:
            ValueError: if a pattern matches no path at all, or what it finds is no time.
        """
        crops = list(crops)
        for field, pattern in self.patterns.items():
            if pattern is None:
                continue
            read = self._time if field == "time" else _camera
            matches = [pattern.search(crop.image_id) for crop in crops]
            matches = [match if match and _main_group(match, field) else None for match in matches]
            unmatched = [crop.image_id for crop, match in zip(crops, matches, strict=True) if not match]
            if len(unmatched) == len(crops):
                raise ValueError(
                    f"{field}_from_path is {pattern.pattern!r}, which matches none of {len(crops)} paths; the first "
                    f"is {crops[0].image_id!r}"
                )
            if unmatched:
                logger.warning(
                    "%d of %d paths have no %s, as %r does not match them; the first is %r",
                    *(len(unmatched), len(crops), field, pattern.pattern, unmatched[0]),
                )
            crops = [
                replace(crop, **{field: read(match)}) if match else crop
                for crop, match in zip(crops, matches, strict=True)
            ]
        return crops

    def _time(self, match: re.Match[str]) -> datetime:
        groups = match.groupdict()
        try:
            if "year" in groups:
                return datetime(*(int(groups[name]) for name in TIME_GROUPS if groups.get(name)), tzinfo=UTC)
            if "epoch" in groups:
                return as_utc(float(groups["epoch"]))
            text = _main_group(match, "time")
            return as_utc(datetime.strptime(text, self.time_format) if self.time_format else text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"path {match.string!r} holds no time: {error}") from error
