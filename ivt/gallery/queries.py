"""Queries of several clauses, and the grammar of one string that holds them.

    red coat AND black boots^2 NOT backpack
    red coat AND image:crop.jpg NOT "backpack AND cap"

A query is

    query  = [ "NOT" ] clause { ( "AND" | "NOT" | "AND NOT" ) clause }
    clause = ( words | '"' anything '"' | "image:" path | 'image:"' path '"' ) [ "^" weight ]

AND and NOT are operators in capital letters only, so a sentence is a query of one clause. A weight is a number above 0
(1 if it is left out); quotes keep AND, NOT, ^ and the word image: as they are.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

_OPERATOR = r"(?:AND|NOT)(?!\S)"
_TOKEN = re.compile(
    rf"""
    [ ]* (?:
        (?P<operator> {_OPERATOR} )
      | (?P<end> $ )
      | (?P<clause>
            (?P<image> image: )?
            (?: (?P<quote> " ) (?P<quoted> [^"]* ) (?P<closed> " )?
              | (?P<words> (?: (?! [ ]+ {_OPERATOR} ) [^^] )* )  # up to a ^ or the next operator
            )
            [ ]*
            (?P<rest> (?: (?! {_OPERATOR} ) (?: (?! [ ]+ {_OPERATOR} ) . )+ )? )  # a weight, or what is wrong
        )
    )
    """,
    re.VERBOSE,
)
_WEIGHT = re.compile(r"\^ *(\d+(?:\.\d*)?|\.\d+) *")
_NEEDS_QUOTES = re.compile(r"(?<!\S)(?:AND|NOT)(?!\S)|\^|^image:")


@dataclass(frozen=True)
class Clause:
    """One thing asked for: words or a picture.

    Attributes:
        text: the words, "" for a picture.
        image: a Pillow image or a path, None for words.
        weight: how much it counts beside the others, above 0.
        negated: whether the person must not look like this.
    """

    text: str = ""
    image: Any = None
    weight: float = 1.0
    negated: bool = False

    def __post_init__(self) -> None:
        if bool(self.text.strip()) == (self.image is not None):
            raise ValueError(f"a clause has text {self.text!r} and image {self.image!r}, expected one of the two")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(
                f"the weight of {self.label} is {self.weight}, expected a number above 0; "
                "for what is not wanted, negate the clause"
            )

    @property
    def label(self) -> str:
        """What to call the clause beside its scores; a picture goes by the name of its file."""
        is_path = isinstance(self.image, str | os.PathLike)
        name = self.text or f"image:{os.path.basename(self.image) if is_path else 'picture'}"
        return f"NOT {name}" if self.negated else name

    def __str__(self) -> str:
        content = self.text or str(self.image)
        if _NEEDS_QUOTES.search(content):
            content = f'"{content}"'
        weight = f"^{self.weight:g}" if self.weight != 1 else ""
        return ("NOT " if self.negated else "") + ("" if self.text else "image:") + content + weight


@dataclass(frozen=True)
class Query:
    """Clauses that hold at once, at least one of them not negated; `str` gives what `parse_query` reads."""

    clauses: tuple[Clause, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clauses", tuple(self.clauses))
        if all(clause.negated for clause in self.clauses):
            raise ValueError(f"the query {str(self)!r} names nothing to look for; add a clause that is not negated")

    def __str__(self) -> str:
        parts = [str(self.clauses[0])] if self.clauses else []
        for clause in self.clauses[1:]:
            parts.append(str(clause) if clause.negated else f"AND {clause}")
        return " ".join(parts)

    @property
    def labels(self) -> list[str]:
        """What to call the clauses beside their scores, each name once."""
        names = [clause.label for clause in self.clauses]
        return [
            name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
        ]

    @property
    def joint_text(self) -> str | None:
        """All positive texts as one sentence; None if there are fewer than two."""
        texts = [clause.text for clause in self.clauses if clause.text and not clause.negated]
        return ", ".join(texts) if len(texts) > 1 else None

    @property
    def num_words(self) -> int:
        """Number of words in all clauses."""
        return sum(len(clause.text.split()) for clause in self.clauses)

    @property
    def kind(self) -> str:
        """What the query is made of, which decides how its scores are calibrated.

        "text" or "image" for a clause of words or a picture alone, "clauses" for several of words, else "mixed".
        """
        images = [clause.image is not None for clause in self.clauses]
        if len(images) == 1:
            return "image" if images[0] else "text"
        return "mixed" if any(images) else "clauses"


def _error(text: str, place: int, message: str) -> ValueError:
    return ValueError(f"the query is not understood: {message}\n  {text}\n  {' ' * place}^")


def _read_tokens(text: str) -> list[re.Match[str]]:
    """Cut a query into operators and whole clauses, each with its weight; the last token is the end."""
    tokens = []
    for token in _TOKEN.finditer(text):
        if token["quote"] and not token["closed"]:
            raise _error(text, token.start("quote"), "this quote is never closed")
        tokens.append(token)
    return tokens


def _read_weight(text: str, token: re.Match[str]) -> float:
    if not token["rest"]:
        return 1.0
    place = token.start("rest")
    number = _WEIGHT.fullmatch(token["rest"])
    if not number:
        raise _error(text, place, "expected AND, NOT, ^ and a number such as ^0.5, or the end here")
    if float(number[1]) == 0:
        raise _error(text, place, "a weight is above 0; leave out the clause, or put NOT in front")
    return float(number[1])


def _read_clause(text: str, token: re.Match[str], negated: bool) -> Clause:
    content = token["quoted"] if token["quote"] else token["words"].strip()
    if not content.strip():
        raise _error(text, token.start("clause"), "expected words or a picture here")
    words, image = ("", content) if token["image"] else (content, None)
    return Clause(words, image, _read_weight(text, token), negated)


def parse_query(text: str) -> Query:
    """Read a query such as `red coat AND black boots NOT backpack`; the module's docstring has the grammar.

    Args:
        text: the query, as typed.

    Raises:
        ValueError: if it does not follow the grammar; the message shows the place.
    """
    text = re.sub(r"\s", " ", text)  # so that an error can show the place on one line
    tokens = iter(_read_tokens(text))
    clauses, token = [], next(tokens)
    while True:
        negated = token["operator"] == "NOT"
        if negated:
            token = next(tokens)
        if token["clause"] is None:
            place = token.start("operator" if token["operator"] else "end")
            raise _error(text, place, f"expected words or a picture before {token['operator'] or 'the end'}")
        clauses.append(_read_clause(text, token, negated))
        token = next(tokens)
        if token["operator"] is None:
            break
        if token["operator"] == "AND":
            token = next(tokens)
    if all(clause.negated for clause in clauses):
        raise _error(text, 0, "everything is under NOT; say also what to look for, such as: person NOT backpack")
    return Query(tuple(clauses))


def as_query(query: str | Image.Image | os.PathLike[str] | Query) -> Query:
    """Read a text, take a picture or its path as a query of one clause, and leave a query as it is.

    Raises:
        ValueError: if the text does not follow the grammar.
    """
    if isinstance(query, Query):
        return query
    return parse_query(query) if isinstance(query, str) else Query((Clause(image=query),))
