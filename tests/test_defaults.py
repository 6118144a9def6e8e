"""What functions and commands do where nothing is asked for: the defaults that the documents speak of.

Who changes a default changes it here too, and in the documents and help texts that name it.
"""

import inspect
import pkgutil
from typing import Any

import pytest
import typer

from ivt.cli import app

COMMON = {"batch_size": 64, "progress": True}
FUNCTIONS: dict[str, dict[str, Any]] = {
    # searching and indexing
    "gallery.gallery.Gallery": {"revision": None, "device": None, "storage_options": None},
    "gallery.gallery.Gallery.add": COMMON | {"camera": None, "time": None, "sync": False, "on_bad_image": "skip"},
    "gallery.gallery.Gallery.search": {"k": 10, "where": None, "right": (), "wrong": (), "group_by": None},
    "gallery.gallery.Gallery.nearest": {"k": 10, "where": None},
    "gallery.gallery.Gallery.reembed": COMMON | {"on_bad_image": "error"},
    "gallery.gallery.Gallery.verify": {"pictures": True},
    "gallery.queries.Clause": {"text": "", "image": None, "weight": 1.0, "negated": False},
    "gallery.calibrate.split_cases": {"seed": 0},
    # embeddings and figures
    "retrieval.embedding.embed_images": COMMON,
    "retrieval.embedding.embed_texts": COMMON | {"max_length": None},
    "retrieval.evaluation.evaluate_retrieval": COMMON | {"ks": (1, 5, 10), "average_precision": "standard"},
    "retrieval.evaluation.evaluate_as_reference": COMMON | {"ks": (1, 5, 10)},
    "retrieval.ranking.rank_gallery": {"k": 10},
    "explanations.attention.explain": {"word": None, "method": "joint", "shifts": 1},
    # corpora
    "corpora.load.load_corpus": {"root": None, "split": "train", "on_bad_image": "error"},
    "corpora.check.draw_contact_sheet": {"num_people": 12, "num_images": 4, "height": 240},
    "corpora.check.count_split": {"root": None, "split": "test"},
    "corpora.drawn.synthetic.load_synthetic": {"seed": 0, "num_people": None, "images_per_person": 4},
    "corpora.drawn.attributes.sample_attribute_queries": {"seed": 0},
    # publishing: in the open, as the name says, unless it is asked otherwise
    "hub.publish.publish_model": {"private": False, "dry_run": None, "tag": None, "licence": None},
    "hub.publish.publish_space": {"private": False, "dry_run": None, "tag": None},
    "hub.repository.upload_repository": {"private": False, "tag": None},
}
COMMANDS: dict[str, dict[str, Any]] = {
    "search": {"k": 10, "refine": False, "as_json": False},
    "index": {"batch_size": 64, "on_bad_image": "skip", "sync": False, "reembed": False, "runner": "native"},
    "evaluate": {"split": "test", "batch_size": 64, "dtype": "float32", "protocol": "standard"},
    "explain": {"method": "joint", "as_json": False},
    "export": {"int8": False, "corpus": "synthetic", "split": "val"},
    "publish": {"private": False, "dry_run": None},
    "calibrate": {"corpus": "synthetic"},
    "serve": {"port": 7860},
    "gallery verify": {"quick": False},
    "gallery remove": {"missing": False},
    "corpus check": {"split": "test"},
    "corpus push": {"on_bad_image": "error", "private": False, "have_the_right": False},
    "corpus shard": {"format": "parquet", "rows_per_shard": 2000, "seed": 0},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_defaults_of_their_documentation(name: str) -> None:
    function = pkgutil.resolve_name(f"ivt.{name}")
    parameters = inspect.signature(function).parameters
    assert {key: parameters[key].default for key in FUNCTIONS[name]} == FUNCTIONS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_the_defaults_of_their_help(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    defaults = {option.name: option.default for option in command.params}
    assert {key: defaults[key] for key in COMMANDS[name]} == COMMANDS[name]
