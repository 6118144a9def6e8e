"""Fields of a dataclass that are options of a command line, with what their values may be."""

import argparse
import operator
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from transformers import HfArgumentParser

from ivt.messages import check_choice


def option(default: Any, text: str, **limits: Any) -> Any:
    """A field of the command line, with its help and what its value may be.

    Args:
        default: its value if it is not given; a list becomes each instance's own.
        text: its help.
        **limits: `least`, `most` (both allowed), `above`, `below` (neither allowed), or `choices`, of which every
            element of a list has to be one. None is always allowed.
    """
    metadata = {"help": text, "limits": limits}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class OptionParser(HfArgumentParser):
    """Reads dataclasses whose fields are made by `option`."""

    def add_argument(self, *names: str, limits: Mapping[str, Any] | None = None, **settings: Any) -> argparse.Action:
        """Add an argument; its limits are checked by the dataclass, which says more than argparse could."""
        return super().add_argument(*names, **settings)


def check_limits(values: Any) -> None:
    """Raise a ValueError for the first field of a dataclass whose value is not within the limits of its `option`."""
    for one in fields(values):
        found, limits = getattr(values, one.name), one.metadata["limits"]
        if found is None:
            continue
        if "choices" in limits:
            for value in found if isinstance(found, list) else [found]:
                check_choice(one.name, value, limits["choices"])
        holds = {"least": operator.ge, "most": operator.le, "above": operator.gt, "below": operator.lt}
        if not all(holds[limit](found, limits[limit]) for limit in holds.keys() & limits.keys()):  # nan: none holds
            raise ValueError(f"{one.name} is {found}; it must be {describe_limits(limits)}")


def describe_limits(limits: Mapping[str, Any]) -> str:
    """The limits of a number in words."""
    if {"least", "most"} <= limits.keys():
        return f"between {limits['least']} and {limits['most']}"
    if "below" in limits:
        return f"at least {limits['least']} and below {limits['below']}"
    return f"at least {limits['least']}" if "least" in limits else "positive"
