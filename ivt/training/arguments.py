"""Reading a run's recipe and paths: a yaml file, then the command line, which wins."""

import argparse
import difflib
import json
import sys
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ivt.choices import RECIPES
from modeling_ivt import IVTConfig

from .options import OptionParser
from .recipe import MODEL_SIZES, Recipe, RunPaths


def _config_value(text: str) -> Any:
    """A value of `IVTConfig` from the command line; json reads 1e-1 as a number, yaml does not."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def _read_recipe(path: str) -> dict[str, Any]:
    """The fields of a recipe file, those of the model by their names on the command line (`model.hidden_size`).

    Args:
        path: of the file, or the name of a recipe that comes with the package.
    """
    file = Path(path) if Path(path).is_file() else RECIPES / f"{path}.yaml"
    if not file.is_file():
        found = (packaged.relative_to(RECIPES).with_suffix("") for packaged in RECIPES.rglob("*.yaml"))
        names = ", ".join(sorted(name.as_posix() for name in found if name.parts[0] != "accelerate"))
        raise ValueError(f"there is no recipe {path}; pass a yaml file or one of {names}")
    try:
        recipe = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no yaml file: {error}") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model") or {}, dict):
        raise ValueError(
            f"{path} is no recipe: expected a mapping `field: value`, and one of IVTConfig under `model:`"
        )
    tokenizer = file.parent / str(recipe.get("tokenizer"))
    # that of the package keeps its short name, wherever the package is installed
    if tokenizer.is_dir() and file.resolve().parent != RECIPES.resolve():
        recipe["tokenizer"] = str(tokenizer)
    model = recipe.pop("model", None) or {}
    return recipe | {f"model.{name}": value for name, value in model.items()}


def _as_arguments(recipe: dict[str, Any]) -> list[str]:
    """A recipe as command-line arguments: `{"seed": 1, "levels": ["word"]}` -> `--seed 1 --levels word`."""
    arguments = []
    for name, value in recipe.items():
        if value is None:  # the default
            continue
        if name.startswith("model."):
            value = json.dumps(value)
        elif isinstance(value, bool):  # yaml reads `mixed_precision: no` as one
            value = "yes" if value else "no"
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return arguments


def _check_field(name: str, names: Collection[str]) -> None:
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise ValueError(f"there is no field {name!r}; the nearest is {nearest!r}, --help lists all")


def build_parser() -> argparse.ArgumentParser:
    """The command line of a training: `--config` and every field."""
    parser = OptionParser(
        [RunPaths, Recipe],  # ty: ignore[invalid-argument-type]  # transformers asks for a type nobody can make
        allow_abbrev=False,
        exit_on_error=False,
        usage="%(prog)s [--config RECIPE.yaml] [--FIELD VALUE ...]",
        description="Fields of the run and of its recipe; what is given here wins over the yaml file.",
    )
    parser.add_argument(
        "--config",
        help="name of a packaged recipe, or a yaml file with any of these fields; IVTConfig's under `model:`",
    )
    model = parser.add_argument_group("model", "Fields of IVTConfig, which explains them; model_size sets several.")
    for name in IVTConfig.__annotations__:
        if name != "model_type":
            text = f"(default: {getattr(IVTConfig, name)})"
            model.add_argument(
                f"--model.{name}", type=_config_value, metavar="VALUE", default=argparse.SUPPRESS, help=text
            )
    return parser


def parse_arguments(argv: list[str] | None = None) -> tuple[RunPaths, Recipe, dict[str, Any]]:
    """Read the yaml file named by `--config`, then the command line, which wins.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Run paths, recipe, and the fields of `IVTConfig`: those of `model_size`, then those given (yaml: `model:`).

    Raises:
        ValueError: for a field that does not exist, naming the nearest one, and for a value that cannot be.
    """
    typed = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    model_names = [f"model.{name}" for name in IVTConfig.__annotations__ if name != "model_type"]
    names = [f.name for f in (*fields(RunPaths), *fields(Recipe))] + model_names
    try:
        config = parser.parse_known_args(typed)[0].config
        recipe = _read_recipe(config) if config else {}
        for name in recipe:
            _check_field(str(name), names)
        # the file's fields become arguments in front of those typed: one parser checks both, and the last one wins
        namespace, unknown = parser.parse_known_args(_as_arguments(recipe) + typed)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; --help explains every field") from error
    for argument in unknown:
        if argument.startswith("--"):
            _check_field(argument.removeprefix("--").split("=")[0], [*names, "config"])
    if unknown:
        raise ValueError(f"arguments without a field in front: {' '.join(unknown)}; write --field value")
    given = vars(namespace)
    model_fields = {name.removeprefix("model."): given[name] for name in model_names if name in given}
    paths = RunPaths(**{f.name: given[f.name] for f in fields(RunPaths)})
    recipe = Recipe(**{f.name: given[f.name] for f in fields(Recipe)})
    return paths, recipe, MODEL_SIZES.get(recipe.model_size, {}) | model_fields
