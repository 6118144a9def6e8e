"""Small helpers for messages to the user."""

import difflib
from collections.abc import Collection


def check_choice(what: str, found: str, choices: Collection[str]) -> None:
    """Raise a ValueError which lists the choices and suggests the nearest, unless `found` is one of them."""
    if found not in choices:
        nearest = difflib.get_close_matches(str(found).lower(), choices, n=1, cutoff=0.4)
        suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{what} is {found!r}, expected one of {', '.join(map(repr, choices))}{suggestion}")


def first_few(names: Collection[str], count: int = 5) -> str:
    """Join the first names for a message, and say how many more there are."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(list(names)[:count]) + rest


def has_half_character(text: str) -> bool:
    """Whether a text cannot be written as UTF-8: an emoji was cut in two, or Python stands so for bytes of a name."""
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)
