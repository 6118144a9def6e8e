"""The wheel: what is in it, and that search, training and evaluation work where nothing but the wheel is installed."""

import importlib.metadata
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ivt.corpora.drawn.drawing import draw_sighting
from ivt.corpora.drawn.synthetic import sample_rows

REPO = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
TRAIN_AND_EVALUATE = {  # what stands before the options
    "scripts": (
        [
            *("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "train_hf"),
        ],
        ["-m", "evaluate_hf"],
    ),
    "command": (["bin/ivt", "train"], ["bin/ivt", "evaluate"]),
}
TINY = [
    *("--max_steps", "2", "--batch_size", "4", "--test_at_end", "no", "--model.hidden_size", "32"),
    *("--model.intermediate_size", "64", "--model.num_hidden_layers", "1", "--model.num_attention_heads", "2"),
]


@pytest.fixture(scope="module")
def distribution(installed_packages: Path) -> importlib.metadata.Distribution:
    (metadata,) = installed_packages.glob("*.dist-info")
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


def test_the_wheel_says_that_its_code_is_typed(installed_packages: Path) -> None:
    for package in ("ivt", "modeling_ivt", "processing"):
        assert (installed_packages / package / "py.typed").is_file()


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
    """Run Python or a command of the environment in the folder of a corpus, and return what was printed."""

    def run(*arguments: str) -> str:
        command = [installed / name if name == "bin/ivt" else name for name in arguments]
        done = run_python(*command, cwd=corpus[0], python=installed / "bin/python")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_installed_user_indexes_and_searches(
    run_installed: Callable[..., str], corpus: tuple[Path, list[dict[str, Any]]]
) -> None:
    wanted = corpus[1][0]
    assert "24 pictures" in run_installed("bin/ivt", "index", "people/imgs", "--gallery", "people.lance")
    search = ("bin/ivt", "search", wanted["captions"][0], "--gallery", "people.lance", "-k", "3", "--json")
    assert wanted["img_path"] in [result["image_id"] for result in json.loads(run_installed(*search))["results"]]


@pytest.mark.parametrize("way", TRAIN_AND_EVALUATE)
def test_an_installed_user_trains_a_packaged_recipe_and_evaluates(run_installed: Callable[..., str], way: str) -> None:
    train, evaluate = TRAIN_AND_EVALUATE[way]
    people = ("--corpus", "rstpreid", "--corpus_root", "people")
    run_installed(*train, "--config", "demo", *people, *TINY, "--output_dir", way)
    printed = run_installed(*evaluate, f"{way}/best", *people, "--split", "test")
    assert "4 people, 8 images, 16 captions" in printed
