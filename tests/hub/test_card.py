"""The Hub page of a model says what is known about it, and nothing else."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from ivt.hub.card import DIRECTIONS, METRICS, Example, Facts, eval_results, fill_card, read_evaluation, read_run

TEMPLATE = (Path(__file__).parents[2] / "model_card.md").read_text()
EXAMPLES = [
    Example(f"examples/{name}.jpg", f"https://hub/{name}.jpg", label)
    for name, label in (("a", "a man in a red coat"), ("b", "a woman in an orange shirt"))
]


def metrics(first: float, num_queries: int) -> dict[str, float]:
    """Figures that are all different: 10.11, 20.11, ..."""
    figures = {name: first + 10 * i for i, name in enumerate(METRICS)}
    return figures | {"num_queries": num_queries, "num_queries_without_match": 0}


EVALUATION = {
    "checkpoint": "runs/x/best",
    "revision": "sha256:1",
    "corpus": "synthetic",
    "split": "test",
    "num_people": 1200,
    "average_precision": "standard",
    "text_to_image": metrics(10.114, 9600),
    "image_to_text": metrics(13.337, 4800),
    "device": "cpu",
    "dtype": "float32",
    "versions": {"torch": "2.13.0"},
}
RUN = {
    "recipe": {"corpus": "synthetic", "learning_rate": 0.00123, "init": None, "model": {"hidden_size": 96}},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "corpus": {
        "name": "synthetic",
        "sizes": {"train": {"people": 1000, "images": 4000}, "val": {"people": 10, "images": 40}},
        "hash": {"train": "0123456789abcdef" * 4, "val": "abcde"},
    },
    "git": {"commit": "f00d", "changed": []},
    "hardware": {"device": "cpu", "num_processes": 1},
    "parameters": 1245312,
    "resumed": [{"step": 4000, "git": None, "note": "stopped for a day"}],
    "seeds": [3, 4],
    "wall_seconds": 6600.0,
    "results": {
        "validation": {name: metrics(11.0, 800) for name in DIRECTIONS},
        "test": {place: {name: metrics(12.0, 1600) for name in DIRECTIONS} for place in ("best", "final")},
    },
}
UNKNOWN = Facts(licence="mit")
KNOWN = Facts(run=RUN, evaluations=[EVALUATION], hub_datasets={"synthetic": "org/people"}, has_curves=True)


def card_of(facts: Facts) -> ModelCard:
    return fill_card(TEMPLATE, "org/ivt-new", "v3", facts, EXAMPLES)


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_head_is_what_the_hub_reads():
    data = ModelCard(str(card_of(KNOWN))).data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "transformers", "en")
    assert data.pipeline_tag == "zero-shot-image-classification" and "custom_code" in data.tags
    assert data.datasets == ["org/people"]
    assert [example["src"] for example in data.widget] == [example.url for example in EXAMPLES]
    assert data.widget[0]["candidate_labels"].split(", ") == [example.label for example in EXAMPLES]
    assert data.model_name == "ivt-new"
    results = {(result.task_type, result.metric_name): result.metric_value for result in data.eval_results}
    assert results["text-to-person-retrieval", "R@1"] == 10.11
    assert results["person-to-text-retrieval", "mINP"] == 53.34
    assert len(results) == 2 * len(METRICS)
    assert {(result.dataset_type, result.dataset_split) for result in data.eval_results} == {("org/people", "test")}


def test_results_have_every_measured_figure_with_what_it_was_measured_on():
    text = section(card_of(KNOWN), "Results")
    row = "| these | synthetic, test | text to image | 9,600 / 4,800 | 10.1 | 20.1 | 30.1 | 40.1 | 50.1 |"
    assert row in text
    assert "| these | synthetic, test | image to text | 4,800 / 9,600 | 13.3 |" in text
    assert "| best of the run | synthetic, validation | text to image | 800 / 800 | 11.0 |" in text
    assert "| last of the run | synthetic, test | image to text | 1,600 / 1,600 | 12.0 |" in text
    assert "1,200 people" in text and "float32 on cpu" in text and "torch 2.13.0" in text
    assert "](curves.png)" in text


def test_figures_of_the_authors_protocol_are_called_so_and_stay_out_of_the_metadata():
    reference = EVALUATION | {"protocol": "reference", "average_precision": "trapezoidal"}
    del reference["image_to_text"]
    facts = Facts(run=RUN | {"recipe": {"protocol": "reference"}}, evaluations=[reference], licence="mit")
    card = card_of(facts)
    assert "| these | synthetic, test, reference protocol | text to image |  | 10.1 |" in section(card, "Results")
    assert "| last of the run | synthetic, test, reference protocol |" in section(card, "Results")
    assert "for parity with their figures only" in section(card, "Results")
    assert card.data.eval_results is None
    assert eval_results(replace(facts, hub_datasets={"synthetic": "org/people"})) == {}
    assert "reference protocol" not in str(card_of(KNOWN))


def test_training_says_what_the_run_recorded():
    text = section(card_of(KNOWN), "Training")
    for fact in (
        "training data: synthetic ([org/people]",
        "size: train (people 1,000, images 4,000), val (people 10, images 40)",
        "hash of the rows: train `0123456789ab`, val abcde",
        "parameters: 1,245,312",
        "resumed: step 4,000, note stopped for a day",
        "time: 110 minutes",
        "seeds: 3, 4",
        "versions: python 3.11.7, torch 2.13.0",
        "hardware: device cpu, num processes 1",
        "code: commit f00d",
        "learning_rate: 0.00123",
    ):
        assert fact in text
    assert yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]) == RUN["recipe"]


def test_what_a_run_did_with_the_splits_is_said_only_if_it_did():
    chosen_only = RUN["results"] | {"test": None}
    neither = {"validation": None, "test": None}  # of a run that was broken off early
    for results, chosen, tested in ((RUN["results"], True, True), (chosen_only, True, False), (neither, False, False)):
        text = section(card_of(Facts(run=RUN | {"results": results})), "Training")
        assert ("chosen on the validation split" in text, "read the test split" in text) == (chosen, tested)


def test_a_card_about_unknown_weights_has_no_figure_and_no_claim():
    card = card_of(UNKNOWN)
    assert section(card, "Results").strip() == "No results were measured for these weights."
    assert section(card, "Training").strip() == "How these weights were trained was not recorded."
    assert "model-index" not in str(card) and "None" not in str(card) and "drawn people only" not in str(card)
    assert card.data.get("datasets") is None


@pytest.mark.parametrize("key", RUN)
def test_a_run_that_lacks_something_leaves_out_just_that(key: str):
    whole = section(card_of(Facts(run=RUN, licence="mit")), "Training")
    text = section(card_of(Facts(run={k: v for k, v in RUN.items() if k != key}, licence="mit")), "Training")
    assert set(text.splitlines()) < set(whole.splitlines())


@pytest.mark.parametrize("finished", [True, False])
def test_weights_of_an_unfinished_run_are_called_so(finished: bool):
    text = section(card_of(Facts(run=RUN | {"finished": finished})), "Training")
    assert ("not finished" in text) is not finished


def test_no_placeholder_is_left():
    for facts in (KNOWN, UNKNOWN):
        assert not re.search(r"\{\{|\}\}|\{%|%\}", str(card_of(facts)).replace('"}}', ""))


def test_the_code_is_eight_lines():
    code = re.findall(r"```python\n(.*?)```", str(card_of(KNOWN)), re.DOTALL)
    assert [len(block.splitlines()) for block in code] == [8]
    assert EXAMPLES[0].label in code[0] and EXAMPLES[1].label not in code[0]
    assert max(map(len, code[0].splitlines())) < 120


@pytest.mark.parametrize(
    ("corpus", "licence", "name", "limit"),
    [
        ("synthetic", "apache-2.0", None, "drawn people only"),
        ("cuhk-pedes", "other", "terms-of-cuhk-pedes", "learnt from CUHK-PEDES"),
    ],
)
def test_the_licence_and_the_limits_follow_from_the_training_corpus(
    corpus: str, licence: str, name: str | None, limit: str
):
    card = card_of(Facts(run={"corpus": {"name": corpus}}))
    assert (card.data.license, card.data.get("license_name")) == (licence, name)
    assert limit in section(card, "Intended use and misuse")


def test_the_page_names_the_terms_of_the_corpus_unless_another_licence_was_given():
    learnt = Facts(run={"corpus": {"name": "cuhk-pedes"}})
    assert "The weights: the terms of CUHK-PEDES" in card_of(learnt).text
    given = card_of(replace(learnt, licence="cc-by-nc-4.0")).text
    assert "The weights: cc-by-nc-4.0." in given and "the terms of CUHK-PEDES" not in given


@pytest.mark.parametrize("run", [{}, {"corpus": {"name": "mine"}}, RUN | {"recipe": {"init": "official=x.pth"}}])
def test_an_unknown_licence_must_be_given(run: dict[str, Any]):
    with pytest.raises(ValueError, match="pass --license"):
        card_of(Facts(run=run))
    assert card_of(Facts(run=run, licence="cc-by-nc-4.0")).data.license == "cc-by-nc-4.0"


def test_eval_results_are_entries_about_datasets_of_the_hub():
    files = eval_results(KNOWN)
    entries = parse_eval_result_entries(yaml.safe_load(files["synthetic_test.yaml"]))
    assert {entry.dataset_id for entry in entries} == {"org/people"}
    values = {entry.task_id: entry.value for entry in entries}
    assert values["text_to_image_recall_at_1"] == 10.11 and values["image_to_text_mean_average_precision"] == 43.34
    assert eval_results(replace(KNOWN, hub_datasets={})) == {}


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(EVALUATION))
    assert read_evaluation(path, "sha256:1") == EVALUATION
    with pytest.raises(ValueError, match="sha256:1, not about these, sha256:2; run evaluate_hf.py"):
        read_evaluation(path, "sha256:2")


@pytest.mark.parametrize(("content", "message"), [("no json", "run.json is no json"), ("[]", "holds list")])
def test_a_damaged_run_is_named(tmp_path: Path, content: str, message: str):
    assert read_run(tmp_path) == {}
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)


def test_a_figure_that_is_missing_leaves_its_place_empty():
    run = RUN | {"results": {"test": {"best": {name: {"R@1": 12.0, "mAP": 42.0} for name in DIRECTIONS}}}}
    text = section(card_of(Facts(run=run)), "Results")
    assert "| best of the run | synthetic, test | text to image |  | 12.0 |  |  | 42.0 |  |" in text


HALF = EVALUATION | {"image_to_text": {"R@1": 50.0}}


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"text_to_image": {}}', "{}", '{"text_to_image": 3}', json.dumps(HALF)]
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "test.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is no evaluation"):
        read_evaluation(path, "sha256:1")


def test_results_of_a_run_name_the_corpus_they_were_measured_on():
    elsewhere = RUN | {"corpus": RUN["corpus"] | {"name": "shards", "evaluated": "cuhk-pedes"}}
    results = section(card_of(Facts(run=elsewhere, licence="mit")), "Results")
    assert "cuhk-pedes, validation" in results and "cuhk-pedes, test" in results and "shards, " not in results
    assert "synthetic, validation" in section(card_of(Facts(run=RUN)), "Results")
