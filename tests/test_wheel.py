"""The wheel: what is in it, and that search, training and evaluation work where nothing but the wheel is installed."""

import importlib.metadata
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, site_packages

from ivt.corpora.drawn.drawing import draw_sighting
from ivt.corpora.drawn.synthetic import sample_rows

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
LAUNCHERS = {
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "train_hf"),
    ],
    "python": ["-m", "train_hf"],
}
TINY = [
    *("--max_steps", "2", "--batch_size", "4", "--test_at_end", "no", "--model.hidden_size", "32"),
    *("--model.intermediate_size", "64", "--model.num_hidden_layers", "1", "--model.num_attention_heads", "2"),
]


@pytest.fixture(scope="module")
def distribution(installed: Path) -> importlib.metadata.Distribution:
    (metadata,) = site_packages(installed).glob("*.dist-info")
    return importlib.metadata.Distribution.at(metadata)


def test_the_wheel_installs_three_packages_and_two_scripts(distribution: importlib.metadata.Distribution) -> None:
    """Any other name at the top level could hide somebody's module."""
    top = {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "evaluate_hf.py",
        "ivt",
        "modeling_ivt",
        "processing",
        "train_hf.py",
    }


def test_the_wheel_says_what_it_is(distribution: importlib.metadata.Distribution) -> None:
    metadata = distribution.metadata
    assert metadata["Name"] == "ivt-person-retrieval" and metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert [path.name for path in distribution.files or () if "licenses" in path.parts] == ["LICENSE"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().strip() == (REPO / "README.md").read_text().strip()
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert {(point.name, point.value) for point in distribution.entry_points} == {("ivt", "ivt.cli:main")}


def test_the_wheel_says_that_its_code_is_typed(installed: Path) -> None:
    for package in ("ivt", "modeling_ivt", "processing"):
        assert (site_packages(installed) / package / "py.typed").is_file()


def write_corpus(folder: Path) -> list[dict[str, Any]]:
    """Write a corpus in the layout of RSTPReid and return its entries: two pictures of four people in each split."""
    entries = []
    (folder / "imgs").mkdir(parents=True)
    for split_number, split in enumerate(("train", "val", "test")):
        for number, (index, person, sighting, captions) in enumerate(
            sample_rows(split, num_people=4, images_per_person=2)
        ):
            name = f"{split}{number}.jpg"
            draw_sighting(person, sighting).image.save(folder / "imgs" / name)
            entries.append({"id": 4 * split_number + index, "img_path": name, "split": split, "captions": captions})
    (folder / "data_captions.json").write_text(json.dumps(entries), encoding="utf-8")
    return entries


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder that holds nothing but a corpus, `people`, and the entries of the corpus."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return folder, write_corpus(folder / "people")


@pytest.fixture(scope="module")
def run_installed(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    installed: Path,
    corpus: tuple[Path, list[dict[str, Any]]],
) -> Callable[..., str]:
    """Run the environment's Python in the folder of a corpus, and return what was printed."""

    def run(*arguments: object) -> str:
        done = run_python(*arguments, cwd=corpus[0], python=installed / "bin/python")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_installed_user_indexes_and_searches(
    run_installed: Callable[..., str], installed: Path, corpus: tuple[Path, list[dict[str, Any]]]
) -> None:
    ivt, wanted = installed / "bin/ivt", corpus[1][0]
    assert "24 pictures" in run_installed(ivt, "index", "people/imgs", "--gallery", "people.lance")
    answer = run_installed(ivt, "search", wanted["captions"][0], "--gallery", "people.lance", "-k", "3", "--json")
    assert wanted["img_path"] in [result["image_id"] for result in json.loads(answer)["results"]]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_installed_user_trains_a_packaged_recipe_and_evaluates(
    run_installed: Callable[..., str], installed: Path, launcher: str
) -> None:
    recipes = site_packages(installed) / "ivt/recipes"
    people = ("--corpus", "rstpreid", "--corpus_root", "people")
    config = ("--config", recipes / "demo.yaml", "--tokenizer", recipes / "tokenizer-synthetic")
    run_installed(*LAUNCHERS[launcher], *config, *people, *TINY, "--output_dir", launcher)
    printed = run_installed("-m", "evaluate_hf", f"{launcher}/best", *people, "--split", "test")
    assert "4 people, 8 images, 16 captions" in printed
