"""The Hub page of a model: `model_card.md` filled in with what was recorded and measured, and with nothing else.

`run.json` is what training writes beside a checkpoint; evaluations are what `evaluate_hf.py --output` writes. A figure
that is in neither is not on the page.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, eval_result_entries_to_yaml
from jinja2 import Environment, StrictUndefined

from ivt.corpora.official import LAYOUTS

DIRECTIONS = {
    "text_to_image": ("text-to-person-retrieval", "text to image"),
    "image_to_text": ("person-to-text-retrieval", "image to text"),
}
METRICS = {  # name in our json files -> type in the Hub's metadata
    "R@1": "recall_at_1",
    "R@5": "recall_at_5",
    "R@10": "recall_at_10",
    "mAP": "mean_average_precision",
    "mINP": "mean_inverse_negative_penalty",
}
STANDARD = "standard"  # the corpora's own protocol
EVALUATION_KEYS = {"corpus", "split", "num_people", "average_precision", "device", "dtype"}
DRAWN_ONLY = """\
These weights know drawn people only, as a demonstration and for tests: they do not work on photographs, and no figure
above says anything about photographs.\
"""
LICENSED = """\
These weights learnt from {name}, whose pictures show people who were not asked and which is given out for research on
its authors' conditions.\
"""


def protocol_of(settings: dict[str, Any]) -> str:
    """The protocol of an evaluation or a recipe; the corpora's own where none is written down."""
    return settings.get("protocol", STANDARD)


@dataclass(frozen=True)
class Facts:
    """What is known about the weights.

    Attributes:
        run: the content of run.json, empty if there is none.
        evaluations: what `evaluate_hf.py` wrote about these weights, one for each corpus, split and protocol.
        hub_datasets: corpus name -> the dataset's name on the Hub.
        licence: the licence's identifier on the Hub; None takes what follows from the training corpus.
        has_curves: whether curves.png lies in the repository.
    """

    run: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    hub_datasets: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    has_curves: bool = False

    @property
    def official(self) -> list[dict[str, Any]]:
        """The evaluations by the corpora's own protocol, whose figures compare with those of others."""
        return [evaluation for evaluation in self.evaluations if protocol_of(evaluation) == STANDARD]

    @property
    def corpus(self) -> str | None:
        """Name of the training corpus, None if nobody wrote it down."""
        return (self.run.get("corpus") or {}).get("name")

    @property
    def evaluated_corpus(self) -> str | None:
        """Name of the corpus of the run's validation and test; older runs have no other than that of training."""
        return (self.run.get("corpus") or {}).get("evaluated", self.corpus)


@dataclass(frozen=True)
class Example:
    """A picture in the repository's folder `examples`.

    Attributes:
        path: where it lies in the repository.
        url: where it lies on the Hub; None if it does not.
        label: a description of who is on it.
    """

    path: str
    url: str | None
    label: str


def read_run(folder: Path) -> dict[str, Any]:
    """Read the run.json that training left in a checkpoint; empty if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no json: {error}; take it from the run's output folder again") from error
    if not isinstance(run, dict):
        raise ValueError(f"{path} holds {type(run).__name__}, expected an object")
    return run


def read_evaluation(path: Path, revision: str) -> dict[str, Any]:
    """Read what `evaluate_hf.py --output` wrote.

    Args:
        path: the file.
        revision: of the weights that are to be published.

    Raises:
        ValueError: if it is something else, or about other weights.
    """
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        directions = [*DIRECTIONS] if protocol_of(evaluation) == STANDARD else ["text_to_image"]
        figures = [evaluation[direction].keys() for direction in directions]
        complete = EVALUATION_KEYS <= evaluation.keys() and all(METRICS.keys() <= names for names in figures)
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(f"{path} is no evaluation, expected the file that evaluate_hf.py --output writes")
    if evaluation.get("revision") != revision:
        raise ValueError(
            f"{path} is about the weights {evaluation.get('checkpoint')} at {evaluation.get('revision')}, not about "
            f"these, {revision}; run evaluate_hf.py on these"
        )
    return evaluation


def noted(settings: dict[str, Any]) -> str:
    """What to say of figures that do not follow the corpora's own protocol."""
    protocol = protocol_of(settings)
    return "" if protocol == STANDARD else f", {protocol} protocol"


def measured(facts: Facts) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """All that was measured, as (which weights, corpus and split, metrics by direction)."""
    for evaluation in facts.evaluations:
        yield "these", f"{evaluation['corpus']}, {evaluation['split']}{noted(evaluation)}", evaluation
    results, note = facts.run.get("results") or {}, noted(facts.run.get("recipe") or {})
    test = results.get("test") or {}
    for name, where, metrics in (
        ("best of the run", "validation", results.get("validation")),
        ("best of the run", "test", test.get("best")),
        ("last of the run", "test", test.get("final")),
    ):
        if metrics:
            yield name, (f"{facts.evaluated_corpus}, {where}" if facts.corpus else where) + note, metrics


def results_table(facts: Facts) -> str:
    """Results and how they were measured, as Markdown; empty if there are none."""
    rows = []
    for weights, where, metrics in measured(facts):
        sizes = {direction: metrics.get(direction, {}).get("num_queries") for direction in DIRECTIONS}
        for direction, gallery in zip(DIRECTIONS, reversed(DIRECTIONS), strict=True):
            if direction not in metrics:
                continue
            size = f"{sizes[direction]:,} / {sizes[gallery]:,}" if all(sizes.values()) else ""
            found = [metrics[direction].get(name) for name in METRICS]
            figures = " | ".join("" if figure is None else f"{figure:.1f}" for figure in found)
            rows.append(f"| {weights} | {where} | {DIRECTIONS[direction][1]} | {size} | {figures} |")
    if not rows:
        return ""
    head = ["weights", "corpus, split", "search", "queries / gallery", *METRICS]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows]
    for evaluation in facts.evaluations:
        versions = ", ".join(f"{name} {version}" for name, version in (evaluation.get("versions") or {}).items())
        lines.append(
            f"\n{evaluation['corpus']}, {evaluation['split']}: {evaluation['num_people']:,} people; measured by "
            f"`evaluate_hf.py` in {evaluation['dtype']} on {evaluation['device']}, average precision "
            f"{evaluation['average_precision']}; {versions}."
        )
    return "\n".join(lines)


def described(value: Any) -> str:
    """A value of run.json in words: {"train": {"people": 1000}} -> "train (people 1,000)"."""
    if isinstance(value, dict):
        words = {str(key).replace("_", " "): described(item) for key, item in value.items() if item not in (None, [])}
        return ", ".join(f"{key} ({text})" if ", " in text else f"{key} {text}" for key, text in words.items())
    if isinstance(value, list):
        return ", ".join(map(described, value))
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{40,64}", value):
        return f"`{value[:12]}`"  # of a commit or a hash so much is enough to find and tell it
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def training_text(facts: Facts) -> str:
    """What run.json says about the training, a line for each thing it knows."""
    run, corpus = facts.run, facts.run.get("corpus") or {}
    dataset = facts.hub_datasets.get(facts.corpus)
    link = f" ([{dataset}](https://huggingface.co/datasets/{dataset}))" if dataset else ""
    minutes = f"{run['wall_seconds'] / 60:.0f} minutes" if run.get("wall_seconds") else None
    known = {
        "training data": f"{facts.corpus}{link}" if facts.corpus else None,
        "size": corpus.get("sizes"),
        "hash of the rows": corpus.get("hash"),
        "parameters": run.get("parameters"),
        "steps": run.get("steps"),
        "time": minutes,
        "hardware": run.get("hardware"),
        "seeds": run.get("seeds"),
        "resumed": run.get("resumed"),
        "versions": run.get("versions"),
        "code": run.get("git"),
    }
    lines = [f"- {name}: {described(value)}" for name, value in known.items() if value]
    results = run.get("results") or {}
    if results.get("validation"):
        lines.append("- the best of the run was chosen on the validation split")
    if results.get("test"):
        lines.append("- the run read the test split when the training was over")
    if run.get("finished") is False:
        lines.append("- the run was not finished when these weights were taken")
    return "\n".join(lines)


def licence_of(facts: Facts) -> dict[str, str]:
    """The licence for the head of the card.

    Raises:
        ValueError: if it does not follow from the training corpus and was not given.
    """
    if facts.licence:
        return {"license": facts.licence}
    start = (facts.run.get("recipe") or {}).get("init")
    if start or facts.corpus not in ("synthetic", *LAYOUTS):
        known = f"they began as {start}, whose terms count too" if start else "no run.json names their training corpus"
        raise ValueError(f"the licence of these weights is not known: {known}; pass --license")
    if facts.corpus == "synthetic":
        return {"license": "apache-2.0"}
    return {"license": "other", "license_name": f"terms-of-{facts.corpus}"}


def model_index(facts: Facts) -> list[EvalResult]:
    """The evaluations for the head of the card."""
    return [
        EvalResult(
            task_type=DIRECTIONS[direction][0],
            task_name=f"Person retrieval, {DIRECTIONS[direction][1]}",
            dataset_type=facts.hub_datasets.get(evaluation["corpus"], evaluation["corpus"]),
            dataset_name=evaluation["corpus"],
            dataset_split=evaluation["split"],
            metric_type=kind,
            metric_name=name,
            metric_value=round(evaluation[direction][name], 2),
            metric_args={"average_precision": evaluation["average_precision"]} if name == "mAP" else None,
        )
        for evaluation in facts.official
        for direction in DIRECTIONS
        for name, kind in METRICS.items()
    ]


def eval_results(facts: Facts) -> dict[str, str]:
    """The files of `.eval_results`, name -> yaml; they speak of datasets on the Hub, so of no other corpus."""
    files = {}
    for evaluation in facts.official:
        dataset = facts.hub_datasets.get(evaluation["corpus"])
        if dataset:
            notes = f"{evaluation['split']} split, in percent, average precision {evaluation['average_precision']}"
            entries = [
                EvalResultEntry(dataset, f"{direction}_{kind}", round(evaluation[direction][name], 2), notes=notes)
                for direction in DIRECTIONS
                for name, kind in METRICS.items()
            ]
            name = f"{evaluation['corpus']}_{evaluation['split']}.yaml"
            files[name] = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return files


def fill_card(template: str, repo_id: str, tag: str | None, facts: Facts, examples: list[Example]) -> ModelCard:
    """Fill in the page.

    Args:
        template: `model_card.md`.
        repo_id: ORG/NAME, or a folder that is on no Hub.
        tag: name of this version; None for a folder.
        facts: what is known.
        examples: pictures to try the model on; the first one's description is the query of the code.

    Raises:
        ValueError: if the licence is not known.
    """
    licence = licence_of(facts)
    name, limits = repo_id.split("/")[-1], ""
    terms = f"The weights: {licence['license']}."
    if facts.corpus == "synthetic":
        limits = DRAWN_ONLY
    elif facts.corpus in LAYOUTS:
        limits = LICENSED.format(name=LAYOUTS[facts.corpus].folder)
        if not facts.licence:
            terms = f"The weights: the terms of {LAYOUTS[facts.corpus].folder}, which they learnt from."
    recipe = facts.run.get("recipe")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    card = ModelCard(
        environment.from_string(template).render(
            model_name=name,
            repo_id=repo_id,
            tag=tag,
            query=examples[0].label,
            examples=examples,
            results=results_table(facts),
            has_curves=facts.has_curves,
            training=training_text(facts),
            recipe=yaml.safe_dump(recipe, sort_keys=False).strip() if recipe else "",
            limits=limits,
            licence=f"The code: Apache-2.0. {terms}",
        )
    )
    for key, value in licence.items():
        card.data[key] = value
    if facts.corpus in facts.hub_datasets:
        card.data["datasets"] = [facts.hub_datasets[facts.corpus]]
    if facts.official:
        card.data["model_name"], card.data["eval_results"] = name, model_index(facts)
    labels = ", ".join(example.label for example in examples)
    widget = [
        {"src": example.url, "candidate_labels": labels, "example_title": example.label}
        for example in examples
        if example.url
    ]
    if widget:
        card.data["widget"] = widget
    return card
