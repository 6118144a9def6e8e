"""What the README promises: its code runs, its figures and its tree are true."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import ablation, attention
from ivt.corpora.drawn.synthetic import NUM_PEOPLE
from ivt.explanations.attention import DEFAULT_METHOD
from ivt.retrieval.models import DEFAULT_MODEL, find_version

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TREE = re.findall(r"^([\w./-]+?)/?(?:, | {2,})", README.split("## The house")[1], re.MULTILINE)


def test_search_code_runs_as_printed(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "crops").mkdir()
    for name in ("a", "b", "c"):
        Image.effect_noise((50, 120), 80).save(tmp_path / "crops" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert sorted(re.findall(r"\b([abc])\.jpg", capsys.readouterr().out)) == ["a", "b", "c"]
    assert (tmp_path / "sheet.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", ["bundled_test", "demo_test"])
def test_result_table_has_the_measured_figures(name):
    measured = json.loads((ROOT / f"benchmarks/{name}.json").read_text())
    row = next(line for line in README.splitlines() if f"(benchmarks/{name}.json)" in line)
    cells = [cell.strip() for cell in row.split("|")]
    assert measured["num_people"] == NUM_PEOPLE["test"]
    assert cells[2] == f"{measured['num_people']} / {measured['num_images']} / {measured['num_captions']:,}"
    figures = [measured["text_to_image"][name] for name in ("R@1", "R@5", "R@10", "mAP")]
    assert cells[4:8] == [f"{figure:.1f}" for figure in figures]


@pytest.mark.parametrize("name", ["bundled_test", "queries", "attention", "export"])
def test_figures_are_of_the_bundled_checkpoint_as_it_is(name):
    measured = json.loads((ROOT / f"benchmarks/{name}.json").read_text())
    assert measured["revision"] == find_version(DEFAULT_MODEL).revision


def test_table_of_where_the_model_looks_is_the_measured_one():
    measured = json.loads((ROOT / "benchmarks/attention.json").read_text())
    assert attention.table_of(measured["test"]["pointing"], measured["test"]["falls"]) in README
    assert measured["default"] == measured["best_on_val"] == DEFAULT_METHOD


@pytest.mark.parametrize(("group", "page"), [("paper", "README.md"), ("beyond", "LOG.md")])
def test_tables_of_the_ablation_are_the_measured_ones(group, page):
    summaries = json.loads((ROOT / f"benchmarks/ablation_{group}.json").read_text())
    assert summaries.keys() == ablation.GROUPS[group].keys()
    assert ablation.table_of(summaries) in (ROOT / page).read_text()


def test_table_of_better_queries_has_the_measured_figures():
    measured = json.loads((ROOT / "benchmarks/queries.json").read_text())["test"]
    shown = [line.split("|")[1:-1] for line in README.splitlines() if line.startswith("|")]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[2:]] for cells in shown}

    def rank_and_precision(part: str, way: str) -> str:
        return " / ".join(f"{measured[part][way][name]:.1f}" for name in ("R@1", "mAP"))

    for query, part, plain, better in (
        ("two clauses, AND", "clauses: 2 wanted", "plain sentence", "clauses"),
        ("one clause and one under NOT", "clauses: 1 wanted, 1 under NOT", "plain sentence", "clauses"),
        ("two clauses and two under NOT", "clauses: 2 wanted, 2 under NOT", "plain sentence", "clauses"),
        ("a caption and another picture of the person", "words and pictures", "words", "words AND picture^1"),
    ):
        assert rows[query] == [rank_and_precision(part, plain), rank_and_precision(part, better)]
    feedback, copies = measured["feedback, ten pictures a round"], measured["near-duplicates"]
    ways = "plain query, next pages", "feedback"
    assert rows["pictures of the person among the first 20, ten marked"] == [
        f"{feedback[way]['pictures@20']:.1f}" for way in ways
    ]
    assert rows["different pictures among the first ten, copies in the gallery"] == [
        f"{copies[way]['different']:.1f}" for way in ("plain query", "grouped")
    ]
    presence = [measured["person in the gallery or not"][kind] for kind in ("text", "image", "mixed")]
    areas = "; ".join(f"{100 * rates['AUROC']:.1f}" for rates in presence)
    detected = "; ".join(f"{rates['detection at 10 %']:.1f}" for rates in presence)
    assert rows["is the person in the gallery? caption; picture; both"] == ["–", areas]
    assert rows["the same, at 10 % false alarms"] == ["–", detected]


@pytest.mark.parametrize("name", TREE)
def test_tree_names_what_exists(name):
    assert (ROOT / name).exists()


def test_tree_names_every_room():
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "ivt").glob("*/__init__.py")}
    assert rooms | {"modeling_ivt", "processing"} <= set(TREE) | {"ivt/metric"}


def test_pictures_of_the_docs_are_shown_and_there():
    shown = re.findall(r"!\[.*?\]\((.*?)\)", README)
    there = [path for path in (ROOT / "docs").iterdir() if path.suffix in (".jpg", ".png")]
    assert sorted(shown) == sorted(f"docs/{path.name}" for path in there)
