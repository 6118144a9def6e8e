"""Conditions on the rows of a gallery: a small part of SQL. What was not understood never reaches LanceDB.

    condition  = comparison | TRUE | FALSE | (condition) | NOT condition | condition AND condition
               | condition OR condition
    comparison = value (= | != | < | <= | > | >=) value | value [NOT] IN (value, …)
               | value [NOT] BETWEEN value AND value | text [NOT] LIKE 'pattern' | text [NOT] ILIKE 'pattern'
               | column IS [NOT] NULL
    value      = column | 'text' | number | timestamp '2024-05-01 12:00:00' | lower(text) | upper(text) | length(text)

The engine alone would ignore what follows a whole condition (`camera = 'a' LIMIT 1` removes all of camera a), and some
of its functions take unlimited time and memory.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from .columns import CONTENT_FIELDS, CROP_SCHEMA, PICTURE_FIELDS

LONGEST = 10_000  # characters; the engine's parser overflows its stack at some 40,000
DEEPEST = 50  # parentheses and functions within each other
KINDS = {pa.string(): "text", pa.timestamp("us", tz="UTC"): "time", pa.int64(): "number"}
COLUMNS = {name: KINDS[CROP_SCHEMA.field(name).type] for name in PICTURE_FIELDS}
COLUMNS |= dict.fromkeys(CONTENT_FIELDS, "text")
Node = type[exp.Expr]
COMPARISONS: dict[Node, str] = {exp.EQ: "=", exp.NEQ: "!=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
FUNCTIONS: dict[Node, tuple[str, str]] = {
    exp.Lower: ("lower", "text"),
    exp.Upper: ("upper", "text"),
    exp.Length: ("length", "number"),
}
PATTERNS: dict[Node, str] = {exp.Like: "LIKE", exp.ILike: "ILIKE"}
# What the functions below read of a node. Whatever else was said, such as BETWEEN SYMMETRIC, is in other arguments.
READ = {"this", "expression", "expressions", "low", "high", "to", "is_string", "negate"}
Typed = tuple[str, str]  # SQL, and its type: "text", "number", "time" or "truth"


class _Problem(Exception):
    """What is wrong with a condition."""


def check_condition(where: str | None) -> str | None:
    """Parse a condition and write it anew, so that the engine gets what was understood and nothing else.

    Args:
        where: condition in the grammar above; None is none.

    Returns:
        The same condition as SQL.

    Raises:
        ValueError: if it is not in the grammar, or compares values of different types.
    """
    if where is None:
        return None
    try:
        return _parsed(where)
    except _Problem as problem:
        shown = where if len(where) < 200 else where[:200] + "…"
        columns = ", ".join(f"{name} ({kind})" for name, kind in COLUMNS.items())
        raise ValueError(
            f"the condition {shown!r} cannot be understood: {problem}; the columns are {columns}; write texts as "
            "'north' and times as timestamp '2024-05-01 12:00:00', in UTC"
        ) from problem


def _parsed(where: str) -> str:
    if len(where) > LONGEST:
        raise _Problem(f"it has {len(where):,} characters, at most {LONGEST:,} are read; name pictures by image_ids")
    if not where.isprintable() and any(not (char.isprintable() or char in "\t\n\r") for char in where):
        raise _Problem("it has characters that cannot be printed")
    try:
        tree = parse_one(where, into=exp.Condition)
    except RecursionError as error:
        raise _Problem("it is nested too deeply") from error
    except SqlglotError as error:
        raise _Problem("it is not one whole condition; is an AND, a quote or a parenthesis missing?") from error
    sql, kind = _render(tree, 0)
    if kind != "truth":
        raise _Problem(f"{sql} is a {kind}, not a condition; compare it with something")
    return sql


def _render(node: exp.Expr, depth: int) -> Typed:
    """Write a node as SQL, with its type."""
    if depth > DEEPEST:
        raise _Problem(f"it is nested more than {DEEPEST} deep")
    said = {name for name, value in node.args.items() if value}
    for kinds, render in RENDERERS:
        if isinstance(node, kinds) and said <= READ:
            return render(node, depth + 1)
    raise _Problem(f"{node.sql()[:80]} is not part of what conditions are made of")


def _of_kind(node: exp.Expr, kind: str, depth: int) -> str:
    sql, found = _render(node, depth)
    if found != kind:
        raise _Problem(f"{sql} is a {found}, expected a {kind}")
    return sql


def _alike(nodes: list[exp.Expr], depth: int) -> list[str]:
    """The SQL of values that are compared, which must be of one type."""
    rendered = [_render(node, depth) for node in nodes]
    first, kind = rendered[0]
    for sql, other in rendered[1:]:
        if other != kind:
            raise _Problem(f"{first} is a {kind} and {sql} a {other}")
    return [sql for sql, _ in rendered]


def _column(node: exp.Expr, depth: int) -> Typed:
    name = node.name
    if name not in COLUMNS:
        raise _Problem(f"there is no column {node.sql()[:80]}")
    return name, COLUMNS[name]


def _literal(node: exp.Expr, depth: int) -> Typed:
    if node.is_string:
        return "'" + node.name.replace("'", "''") + "'", "text"
    try:
        fits = abs(float(node.name)) < 2**63
    except ValueError:
        fits = False
    if not fits:
        raise _Problem(f"{node.name[:40]} is no number of 64 bits")
    return node.name, "number"


def _negative(node: exp.Expr, depth: int) -> Typed:
    if not isinstance(node.this, exp.Literal):
        raise _Problem("a minus sign belongs before a number")
    return f"-{_of_kind(node.this, 'number', depth)}", "number"


def _timestamp(node: exp.Expr, depth: int) -> Typed:
    value = node.this
    if not (
        node.args["to"].is_type("timestamp", "timestamptz") and isinstance(value, exp.Literal) and value.is_string
    ):
        raise _Problem(f"{node.sql()[:80]} is not part of what conditions are made of")
    try:
        time = datetime.fromisoformat(value.name)
    except ValueError as error:
        raise _Problem(f"{value.name[:40]!r} is no time, expected '2024-05-01 12:00:00'") from error
    time = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    return f"timestamp '{time.isoformat(' ')}'", "time"


def _boolean(node: exp.Expr, depth: int) -> Typed:
    return ("true" if node.this else "false"), "truth"


def _paren(node: exp.Expr, depth: int) -> Typed:
    sql, kind = _render(node.this, depth)
    return f"({sql})", kind


def _not(node: exp.Expr, depth: int) -> Typed:
    return f"NOT ({_of_kind(node.this, 'truth', depth)})", "truth"


def _connected(node: exp.Expr, depth: int) -> Typed:
    """AND or OR of any number of conditions, which are no deeper for being many."""
    word = " AND " if isinstance(node, exp.And) else " OR "
    parts = [f"({_of_kind(part, 'truth', depth)})" for part in node.flatten(unnest=False)]
    return word.join(parts), "truth"


def _compared(node: exp.Expr, depth: int) -> Typed:
    left, right = _alike([node.this, node.expression], depth)
    return f"{left} {COMPARISONS[type(node)]} {right}", "truth"


def _in(node: exp.Expr, depth: int) -> Typed:
    if not node.expressions:
        raise _Problem("IN wants values in parentheses")
    value, *values = _alike([node.this, *node.expressions], depth)
    return f"{value} IN ({', '.join(values)})", "truth"


def _between(node: exp.Expr, depth: int) -> Typed:
    value, low, high = _alike([node.this, node.args["low"], node.args["high"]], depth)
    return f"{value} BETWEEN {low} AND {high}", "truth"


def _pattern(node: exp.Expr, depth: int) -> Typed:
    if not isinstance(node.expression, exp.Literal):
        raise _Problem("LIKE wants a pattern as a text: 'north%'")
    pattern = _of_kind(node.expression, "text", depth)
    word = ("NOT " if node.args.get("negate") else "") + PATTERNS[type(node)]
    return f"{_of_kind(node.this, 'text', depth)} {word} {pattern}", "truth"


def _is_null(node: exp.Expr, depth: int) -> Typed:
    if not (isinstance(node.expression, exp.Null) and isinstance(node.this, exp.Column)):
        raise _Problem("IS is for a column IS NULL, or IS NOT NULL")
    return f"{_column(node.this, depth)[0]} IS NULL", "truth"


def _function(node: exp.Expr, depth: int) -> Typed:
    name, kind = FUNCTIONS[type(node)]
    return f"{name}({_of_kind(node.this, 'text', depth)})", kind


RENDERERS: tuple[tuple[type | tuple[type, ...], Callable[..., Typed]], ...] = (
    (exp.Column, _column),
    (exp.Literal, _literal),
    (exp.Neg, _negative),
    (exp.Cast, _timestamp),
    (exp.Boolean, _boolean),
    (exp.Paren, _paren),
    (exp.Not, _not),
    ((exp.And, exp.Or), _connected),
    (tuple(COMPARISONS), _compared),
    (exp.In, _in),
    (exp.Between, _between),
    (tuple(PATTERNS), _pattern),
    (exp.Is, _is_null),
    (tuple(FUNCTIONS), _function),
)
