import json
import subprocess

import pytest
import torch
from datasets import Dataset

from ivt.corpora import FEATURES
from ivt.training.record import (
    describe_git,
    describe_sizes,
    hash_rows,
    is_finished,
    resume_record,
    summarise_seeds,
    write_record,
)


def rows_of(*rows: tuple[bytes, str, int, list[str]]) -> Dataset:
    names = ("image", "image_id", "person_id", "captions")
    rows = [dict(zip(names, ({"bytes": row[0], "path": None}, *row[1:]), strict=True)) for row in rows]
    return Dataset.from_list(rows, features=FEATURES)


def test_hash_changes_with_every_part_of_a_row_and_with_the_order():
    first, second = (b"a picture", "a.jpg", 1, ["a man", "man"]), (b"another", "b.jpg", 2, ["a woman"])
    variants = [
        rows_of(first, second),
        rows_of(second, first),
        rows_of(first),
        rows_of((b"a redrawn picture", *first[1:]), second),
        rows_of((*first[:1], "c.jpg", *first[2:]), second),
        rows_of((*first[:2], 2, first[3]), second),
        rows_of((*first[:3], ["a man"]), second),
    ]
    assert len({hash_rows(rows) for rows in variants}) == len(variants)
    more = variants[0].add_column("levels", [[], []])  # what training adds is not the corpus
    assert hash_rows(rows_of(first, second)) == hash_rows(more)


def test_sizes_are_counted():
    rows = rows_of((b"1", "a", 5, ["x", "y"]), (b"2", "b", 5, ["z"]), (b"3", "c", 7, ["x"]))
    assert describe_sizes(rows) == {"people": 2, "images": 3, "captions": 4}


def test_git_state_is_commit_and_changed_files(tmp_path):
    def git(*arguments: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
        command = ["git", *options, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    assert describe_git(tmp_path) is None
    git("init")
    assert describe_git(tmp_path) is None  # no commit
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "folder").mkdir()
    git("add", ".")
    git("commit", "-m", "first")
    assert describe_git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": []}
    (tmp_path / "code.py").write_text("2")
    assert describe_git(tmp_path)["changed"] == ["code.py"]
    assert describe_git(tmp_path / "folder") is None  # a checkout of something around it


def metrics(recall: float) -> dict[str, dict[str, float]]:
    return {"text_to_image": {"R@1": recall, "R@5": 50.0, "R@10": 60.0, "mAP": 2 * recall}}


@pytest.mark.parametrize("tested", [True, False])
def test_mean_and_deviation_over_seeds(tmp_path, tested):
    recalls = {3: 10.0, 4: 12.0, 5: 17.0}
    for seed, recall in recalls.items():
        (tmp_path / str(seed)).mkdir()
        test = {"best": metrics(recall), "final": metrics(recall + 1)} if tested else None
        results = {"validation": {"step": 7} | metrics(30.0), "test": test}
        (tmp_path / str(seed) / "run.json").write_text(json.dumps({"results": results}))
    table = summarise_seeds(tmp_path, {seed: tmp_path / str(seed) for seed in recalls})
    summary = json.loads((tmp_path / "seeds.json").read_text())
    deviation = torch.tensor(list(recalls.values())).std().item()  # 3.61, of a sample
    assert summary["seeds"] == [3, 4, 5]
    lines = [line.split("  ")[0] for line in table.splitlines()]
    if tested:
        assert summary["mean"]["test"]["best"]["text_to_image"]["R@1"] == pytest.approx(13)
        assert summary["std"]["test"]["best"]["text_to_image"]["R@1"] == pytest.approx(deviation)
        assert lines == ["3 seeds, text to image", "validation", "test, best", "test, final"]
        assert "13.00 ± 3.61" in table.splitlines()[2] and "14.00 ± 3.61" in table.splitlines()[3]
    else:
        assert summary["mean"]["test"] is None and lines[1:] == ["validation"]


def test_run_is_finished_when_what_was_wanted_is_there(tmp_path):
    assert not is_finished(tmp_path, test_at_end=False)
    for finished, test, expected in (
        (False, None, (False, False)),
        (True, None, (False, True)),
        (True, {}, (True, True)),
    ):
        (tmp_path / "run.json").write_text(json.dumps({"finished": finished, "results": {"test": test}}))
        assert tuple(is_finished(tmp_path, test_at_end) for test_at_end in (True, False)) == expected


def test_run_that_begins_takes_over_no_record_of_an_earlier_one(tmp_path):
    assert resume_record(tmp_path, 7) is None  # none is there
    write_record({"resumed": [{"step": 3}]}, tmp_path)
    assert resume_record(tmp_path, 0) is None
    assert [entry["step"] for entry in resume_record(tmp_path, 7)["resumed"]] == [3, 7]
