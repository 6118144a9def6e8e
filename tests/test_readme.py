"""What the README promises: its code runs, its figures and its tree are true."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from corpora.synthetic import NUM_PEOPLE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_search_code_runs_as_printed(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "crops").mkdir()
    for name in ("a", "b", "c"):
        Image.effect_noise((50, 120), 80).save(tmp_path / "crops" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert sorted(re.findall(r"\b([abc])\.jpg", capsys.readouterr().out)) == ["a", "b", "c"]
    assert (tmp_path / "sheet.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", ["embedded_test", "demo_test"])
def test_result_table_has_the_measured_figures(name):
    measured = json.loads((ROOT / f"benchmarks/{name}.json").read_text())
    row = next(line for line in README.splitlines() if f"(benchmarks/{name}.json)" in line)
    cells = [cell.strip() for cell in row.split("|")]
    assert measured["num_people"] == NUM_PEOPLE["test"]
    assert cells[2] == f"{measured['num_people']} / {measured['num_images']} / {measured['num_captions']:,}"
    figures = [measured["text_to_image"][name] for name in ("R@1", "R@5", "R@10", "mAP")]
    assert cells[4:8] == [f"{figure:.1f}" for figure in figures]


@pytest.mark.parametrize(
    "name", re.findall(r"^([\w./]+?)/?(?:, | {2,})", README.split("## The house")[1], re.MULTILINE)
)
def test_tree_names_what_exists(name):
    assert (ROOT / name).exists()


def test_pictures_exist():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file()
