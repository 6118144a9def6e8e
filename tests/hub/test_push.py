"""A pushed corpus comes back as it was; licensed ones are not pushed by accident."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hub_stand_in import HubStandIn
from huggingface_hub import DatasetCard
from PIL import Image
from typer.testing import Result

from ivt.corpora import FEATURES, load_corpus
from ivt.hub import push

ROOT = Path(__file__).parents[2]
Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def icfg(tmp_path: Path) -> Path:
    """Twenty training people with two pictures and three test people with one, in the layout of ICFG-PEDES."""
    folder = tmp_path / "ICFG-PEDES"
    (folder / "imgs").mkdir(parents=True)
    entries = []
    for index in range(43):
        name, split = f"{index}.png", "train" if index < 40 else "test"
        Image.new("RGB", (8, 5), (index, 0, 0)).save(folder / "imgs" / name)
        person = index // 2 if split == "train" else 100 + index
        entries.append({"id": person, "file_path": name, "split": split, "captions": [f"Person {person}."]})
    (folder / "ICFG-PEDES.json").write_text(json.dumps(entries))
    return folder


def test_a_corpus_pushed_to_the_hub_comes_back_as_it_was(
    hub: HubStandIn, run_python: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run_python(
        "-m", "ivt", "corpus", "push", "synthetic", "tester/people", "--num-people", 2, cwd=ROOT, hub=hub
    )
    assert done.returncode == 0, done.stderr
    lines = "from datasets import load_dataset; load_dataset('tester/people').save_to_disk('people')"
    loaded = run_python("-c", lines, cwd=tmp_path, hub=hub)
    assert loaded.returncode == 0, loaded.stderr
    for split in ("train", "val", "test"):
        original = load_corpus("synthetic", split=split, num_people=2, num_proc=1)
        copy = load_dataset("arrow", data_files=str(tmp_path / "people" / split / "*.arrow"), split="train")
        assert copy.features == original.features
        assert copy.to_list() == original.to_list()


def test_files_hold_every_row_and_picture_of_an_official_corpus(
    ivt: Command, icfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "IMAGES_PER_FILE", 15)
    out = tmp_path / "out"
    options = ["--corpus-root", icfg, "--dry-run", out, "--i-have-the-right"]
    done = ivt("corpus", "push", "icfg-pedes", "org/icfg", *options)
    assert done.stdout.endswith(f"written to {out}, nothing uploaded\n")
    names = [f"train-{i:05d}-of-00003.parquet" for i in range(3)] + ["test-00000-of-00001.parquet"]
    assert {path.name for path in (out / "data").iterdir()} == set(names)
    (icfg / "imgs").rename(icfg / "gone")
    dataset = load_dataset(str(out))
    assert dataset["train"].features == FEATURES
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 40, "test": 3}
    assert [image.getpixel((0, 0))[0] for image in dataset["train"]["image"]] == list(range(40))
    assert dataset["test"]["person_id"][:] == [140, 141, 142]
    card = DatasetCard.load(out / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "terms-of-icfg-pedes")
    assert "| train | 20 | 40 | 40 |" in card.text and "| test | 3 | 3 | 3 |" in card.text
    assert str(tmp_path) not in str(card)


def test_a_corpus_with_a_validation_split_keeps_it_and_broken_pictures_are_left_out_if_asked(
    ivt: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "RSTPReid"
    (folder / "imgs").mkdir(parents=True)
    entries = []
    for index, split in enumerate(("train", "train", "train", "val", "val", "test")):
        Image.new("RGB", (8, 5), (index, 0, 0)).save(folder / "imgs" / f"{index}.png")
        entries.append({"id": index, "img_path": f"{index}.png", "split": split, "captions": ["A man.", "Somebody."]})
    (folder / "data_captions.json").write_text(json.dumps(entries))
    (folder / "imgs" / "1.png").write_bytes(b"no picture")
    options = ["corpus", "push", "rstpreid", "org/name", "--corpus-root", folder, "--i-have-the-right", "--dry-run"]
    with pytest.raises(ValueError, match="1 of 3 images cannot be read: .*1.png"):
        ivt(*options, tmp_path / "all")
    ivt(*options, tmp_path / "readable", "--on-bad-image", "skip")
    found = {split: rows["person_id"][:] for split, rows in load_dataset(str(tmp_path / "readable")).items()}
    assert found == {"train": [0, 2], "val": [3, 4], "test": [5]}


def test_the_card_says_how_large_the_files_and_their_rows_are(
    ivt: Command, icfg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "IMAGES_PER_FILE", 15)
    out = tmp_path / "out"
    options = ["--corpus-root", icfg, "--dry-run", out, "--i-have-the-right"]
    ivt("corpus", "push", "icfg-pedes", "org/icfg", *options)
    files = {split: sorted((out / "data").glob(f"{split}-*.parquet")) for split in ("train", "test")}
    read = {split: sum(pq.read_table(path).nbytes for path in paths) for split, paths in files.items()}
    info = DatasetCard.load(out / "README.md").data.dataset_info
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {"train": 40, "test": 3}
    sizes = {split["name"]: split["num_bytes"] for split in info["splits"]}
    assert sizes == pytest.approx(read, rel=0.01)  # but for a bit per value that may be missing
    assert info["dataset_size"] == sum(sizes.values())
    assert info["download_size"] == sum(path.stat().st_size for paths in files.values() for path in paths)


@pytest.mark.parametrize("private", [False, True])
def test_what_is_uploaded_is_a_dataset_and_as_private_as_asked(
    ivt: Command, private: bool, icfg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = []

    def upload(folder: Path, repo_id: str, repo_type: str, message: str, **options: Any) -> str:
        assert (folder / "README.md").is_file() and (folder / "data").is_dir()
        uploads.append((repo_id, repo_type, options))
        return "https://hub/org/icfg"

    monkeypatch.setattr(push, "upload_repository", upload)
    options = ["--corpus-root", icfg, "--i-have-the-right", *(["--private"] if private else [])]
    ivt("corpus", "push", "icfg-pedes", "org/icfg", *options)
    assert uploads == [("org/icfg", "dataset", {"private": private})]


def test_every_column_of_the_drawn_corpus_is_described(ivt: Command, tmp_path: Path) -> None:
    ivt("corpus", "push", "synthetic", "org/people", "--num-people", "1", "--dry-run", tmp_path / "out")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "apache-2.0"
    for column in load_corpus("synthetic", split="test", num_people=1, num_proc=1).column_names:
        assert f"| `{column}` |" in card.text


@pytest.mark.parametrize("name", ["cuhk-pedes", "icfg-pedes", "rstpreid"])
def test_a_licensed_corpus_is_refused_without_the_right(ivt: Command, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} is given out on conditions .* --i-have-the-right"):
        ivt("corpus", "push", name, "org/name", "--corpus-root", tmp_path, "--dry-run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_corpus_and_a_name_that_is_none_are_named(ivt: Command) -> None:
    with pytest.raises(ValueError, match="'syntetic', expected one of .*did you mean 'synthetic'"):
        ivt("corpus", "push", "syntetic", "org/name")
    with pytest.raises(ValueError, match="'people' is no name on the Hub, expected ORG/NAME"):
        ivt("corpus", "push", "synthetic", "people")
