"""Measure better queries against the plain query: AND and NOT, pictures, feedback, duplicates, the "no match" answer.

    python -m benchmarks.queries CHECKPOINT --output benchmarks/queries.json       # under a minute on one core

On the drawn corpus, whose people's attributes are known, so every answer is right or wrong without doubt. Formulas
that the defaults were chosen among are compared on the validation split; the test split sees the defaults.
Definitions of R@k and mAP: metric/person_retrieval/README.md; P@10 is the share of right pictures among the first ten.

Dimensions: Q queries, G gallery pictures, C clauses, D embedding width.
"""

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageEnhance

from ivt.corpora import load_corpus
from ivt.corpora.drawn.attributes import AttributeQuery, sample_attribute_queries
from ivt.gallery.calibrate import (
    NUM_PEOPLE,
    EmbeddedSplit,
    clauses_of,
    cut_every_other,
    embed_split,
    gallery_sizes,
    next_images,
    split_cases,
    with_pictures,
)
from ivt.gallery.fitting import fit_curve, presence_rates
from ivt.gallery.grouping import DUPLICATE_COSINE, group_duplicates
from ivt.gallery.queries import Query
from ivt.gallery.query_vectors import RIGHT_WEIGHT, WRONG_WEIGHT, EmbeddedQuery, embed_queries, refine
from ivt.gallery.scores import GalleryStatistics, clause_scores
from ivt.metric.person_retrieval.person_retrieval import average_precisions_of, match_ranks
from ivt.retrieval.embedding import embed_images, embed_texts
from ivt.retrieval.models import find_version, load_model

SHAPES = ((2, 0), (3, 0), (1, 1), (2, 1), (2, 2))  # (clauses that are wanted, clauses that are not)
QUERIES_PER_SHAPE = 300
NOT_WEIGHTS = (0.5, 2.0, 4.0)  # beside the default, 1
IMAGE_WEIGHTS = (0.5, 1.0, 2.0)
FEEDBACK_ROUNDS, PAGE = 3, 10
WORDS = (6, 12, 24)  # of captions cut short
FEEDBACK_WEIGHTS = ((1, 0), (0, 0.25), (1, 0.5), (1, 1), (2, 0.25), (2, 0.5))  # (right, wrong) beside the default


def search_metrics(scores: torch.Tensor, matches: torch.Tensor) -> dict[str, float]:
    """R@1, R@10, mAP and P@10 in percent, from scores (Q, G) and which pictures are right (Q, G)."""
    ranks, starts = match_ranks(scores.numpy().astype(np.float64), matches.numpy())
    first, among_ten = ranks[starts], np.add.reduceat(ranks <= 10, starts, dtype=int)
    figures = (first <= 1, first <= 10, average_precisions_of(ranks, starts), among_ten / 10)
    means = 100 * np.mean(figures, axis=1)
    return dict(zip(("R@1", "R@10", "mAP", "P@10"), means.round(2).tolist(), strict=True))


# AND and NOT


def sentence_of(query: AttributeQuery) -> str:
    """The query as one plain sentence: "red coat and boots without backpack or cap"."""
    without = f" without {' or '.join(query.unwanted)}" if query.unwanted else ""
    return " and ".join(query.wanted) + without


def weighted(query: Query, not_weight: float) -> Query:
    """The query with another weight for all that is under NOT; 0 leaves it out."""
    clauses = [replace(clause, weight=not_weight) for clause in query.clauses if clause.negated and not_weight]
    return Query(tuple([clause for clause in query.clauses if not clause.negated] + clauses))


def other_formulas(
    embedded: list[EmbeddedQuery], positive_scores: torch.Tensor, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Scores (Q, G) by formulas that are not the default, from the scores (Q, G) of the queries without their NOT."""
    statistics = GalleryStatistics.of(images)
    negated = [torch.tensor([clause.negated for clause in query.query.clauses]) for query in embedded]
    standard = [clause_scores(query.clause_embeds, images, statistics) for query in embedded]  # each (G, C)
    pairs = list(zip(standard, negated, strict=True))
    found = {
        "AND: mean of cosines": torch.stack(
            [
                images @ query.clause_embeds[~under_not].mean(dim=0)
                for query, under_not in zip(embedded, negated, strict=True)
            ]
        ),
        "AND: mean of standard scores": torch.stack(
            [scores[:, ~under_not].mean(dim=1) for scores, under_not in pairs]
        ),
        "AND: least standard score": torch.stack([scores[:, ~under_not].amin(dim=1) for scores, under_not in pairs]),
    }
    if not negated[0].any():
        return found
    unwanted = torch.stack([scores[:, under_not].amax(dim=1) for scores, under_not in pairs])  # (Q, G)
    centred = [
        ((images - statistics.mean) @ query.clause_embeds[under_not].T).clamp(min=0).sum(dim=1)
        for query, under_not in zip(embedded, negated, strict=True)
    ]
    for threshold in (1, 2):  # standard deviations
        found[f"NOT: those above {threshold} come last"] = positive_scores - 4.0 * (unwanted > threshold)
    for weight in (0.25, 0.5):
        found[f"NOT: {weight} x cosine above mean taken off"] = positive_scores - weight * torch.stack(centred)
    return found


def measure_clauses(
    model: torch.nn.Module, processor: Any, split: EmbeddedSplit, shape: tuple[int, int], compare: bool
) -> dict[str, dict[str, float]]:
    """Metrics of attribute queries of one shape, a row per way to search; `compare` adds the other formulas."""
    queries = sample_attribute_queries(split.attributes, *shape, QUERIES_PER_SHAPE)
    asked = [clauses_of(query) for query in queries]
    matches = torch.tensor([query.matches for query in queries])[:, split.people]  # (Q, G)
    images = split.image_embeds

    def scores_of(not_weight: float) -> torch.Tensor:
        embedded = embed_queries(model, processor, [weighted(query, not_weight) for query in asked])
        return torch.stack([query.vector for query in embedded]) @ images.T

    plain = embed_texts(model, processor, [sentence_of(query) for query in queries], progress=False)
    scores = {"plain sentence": plain @ images.T, "clauses": scores_of(1.0)}
    if shape[1]:
        scores |= {f"clauses, NOT^{weight:g}": scores_of(weight) for weight in NOT_WEIGHTS}
        scores["clauses, NOT left out"] = scores_of(0.0)
    if compare:
        positive_scores = scores.get("clauses, NOT left out", scores["clauses"])
        scores |= other_formulas(embed_queries(model, processor, asked), positive_scores, images)
    return {name: search_metrics(values, matches) for name, values in scores.items()}


# words and pictures


def measure_images(split: EmbeddedSplit) -> dict[str, dict[str, float]]:
    """Metrics of captions, of pictures, and of both at once.

    Each caption is searched with together with another picture of the person; neither this nor the picture that the
    caption was written for is in the gallery.
    """
    own, images = split.text_images, split.image_embeds
    shown = next_images(split.people)[own]  # (T,)
    matches = split.people[own, None] == split.people  # (T, G)
    for left_out in (own, shown):
        matches[torch.arange(len(own)), left_out] = False
    vectors = {"words": split.text_embeds, "picture": images[shown]}
    for weight in IMAGE_WEIGHTS:
        vectors[f"words AND picture^{weight:g}"] = with_pictures(split.text_embeds, images[shown], weight)
    rows = {}
    for name, queries in vectors.items():
        scores = queries @ images.T
        for left_out in (own, shown):
            scores[torch.arange(len(own)), left_out] = -2.0  # behind everything else
        rows[name] = search_metrics(scores, matches)
    return rows


# relevance feedback


def give_feedback(split: EmbeddedSplit, weights: tuple[float, float] | None) -> dict[str, float]:
    """Let every other caption search, mark the ten pictures shown as right or wrong, and show ten more.

    Args:
        split: the gallery and its captions.
        weights: of right and of wrong pictures; None turns the pages of the plain query instead.

    Returns:
        In percent, after each round: "people", queries with a right picture among all shown so far, and "pictures",
        right pictures that were shown.
    """
    images, mean = split.image_embeds, split.image_embeds.mean(dim=0)
    people_found, pictures_found = np.zeros(FEEDBACK_ROUNDS + 1), np.zeros(FEEDBACK_ROUNDS + 1)
    asked = range(0, len(split.text_embeds), 2)
    for text in asked:
        right = split.people == split.people[split.text_images[text]]  # (G,)
        seen = torch.zeros_like(right)
        vector = split.text_embeds[text]
        for turn in range(FEEDBACK_ROUNDS + 1):
            seen[(images @ vector).masked_fill(seen, -2.0).topk(PAGE).indices] = True
            people_found[turn] += bool((right & seen).any())
            pictures_found[turn] += float((right & seen).sum() / right.sum())
            if weights is not None:
                marked = images[right & seen], images[~right & seen]
                vector = refine(split.text_embeds[text], *marked, mean, *weights)
    shown = [PAGE * (turn + 1) for turn in range(FEEDBACK_ROUNDS + 1)]
    found = {f"people@{n}": value for n, value in zip(shown, people_found, strict=True)}
    found |= {f"pictures@{n}": value for n, value in zip(shown, pictures_found, strict=True)}
    return {name: round(100 * value / len(asked), 2) for name, value in found.items()}


def measure_feedback(split: EmbeddedSplit, compare: bool) -> dict[str, dict[str, float]]:
    """Feedback against turning the pages of the plain query; `compare` adds other weights."""
    rows = {
        "plain query, next pages": give_feedback(split, None),
        "feedback": give_feedback(split, (RIGHT_WEIGHT, WRONG_WEIGHT)),
    }
    for right, wrong in FEEDBACK_WEIGHTS if compare else ():
        rows[f"feedback, right {right:g} wrong {wrong:g}"] = give_feedback(split, (right, wrong))
    return rows


# near-duplicates


def save_again(image: Image.Image) -> Image.Image:
    """The picture as another tool might have saved it: 3 % cropped, 10 % brighter, a JPEG of quality 40."""
    width, height = image.size
    image = image.convert("RGB").crop((round(0.03 * width), round(0.03 * height), width, height))
    buffer = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(1.1).save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def measure_duplicates(
    model: torch.nn.Module, processor: Any, split: EmbeddedSplit, dataset: Dataset
) -> dict[str, dict[str, float]]:
    """Search a gallery that holds a second copy of each person's first picture, with the captions of those.

    "different" is how many different pictures are among the first ten answers. In percent: "caught" are copies that
    count as such, "one person" and "two people" are pictures that count as a copy of another picture though none is.
    """
    firsts = torch.tensor([int((split.people == person).nonzero()[0, 0]) for person in range(split.num_people)])
    copies = embed_images(
        model, processor, [save_again(dataset[row]["image"]) for row in firsts.tolist()], progress=False
    )
    images = torch.cat([split.image_embeds, copies])
    originals = torch.cat([torch.arange(len(split.people)), firsts])  # what each row is a copy of
    alike = images[: len(split.people)] @ split.image_embeds.T >= DUPLICATE_COSINE
    same_person = split.people[:, None] == split.people
    caught = (copies * split.image_embeds[firsts]).sum(dim=1) >= DUPLICATE_COSINE
    merged = {"one person": (alike & same_person).sum(dim=1) > 1, "two people": (alike & ~same_person).any(dim=1)}

    different = {"plain query": [], "grouped": []}
    for text in torch.isin(split.text_images, firsts).nonzero()[:, 0]:
        ranked = (images @ split.text_embeds[text]).topk(4 * PAGE).indices
        groups = group_duplicates(images[ranked])[:PAGE]
        for name, answers in (("plain query", ranked[:PAGE]), ("grouped", ranked[[group[0] for group in groups]])):
            different[name].append(len(originals[answers].unique()))
    shares = {name: round(100 * float(rows.float().mean()), 2) for name, rows in {"caught": caught, **merged}.items()}
    return {
        name: {"different": round(float(np.mean(counts)), 2)} | (shares if name == "grouped" else {})
        for name, counts in different.items()
    }


# "no match"


def measure_presence(
    model: torch.nn.Module, processor: Any, validation: EmbeddedSplit, test: EmbeddedSplit
) -> dict[str, dict[str, float]]:
    """Fit the curves on validation people, as `ivt calibrate` does, and tell present from absent test people."""
    fitted = split_cases(
        model, processor, validation, cut_every_other(validation), gallery_sizes(validation.num_people)
    )
    curves = {kind: fit_curve(*cases) for kind, cases in fitted.items()}
    sizes, rows = gallery_sizes(test.num_people), {}
    for name, texts, num_people in (
        ("", test.texts, sizes),
        (f", gallery of {sizes[0]} people", test.texts, sizes[:1]),
        (f", gallery of {sizes[-1]} people", test.texts, sizes[-1:]),
        *((f", first {n} words", [" ".join(text.split()[:n]) for text in test.texts], sizes) for n in WORDS),
    ):
        for kind, (features, present) in split_cases(model, processor, test, texts, num_people).items():
            if "words" not in name or kind == "text":
                rates = presence_rates(curves[kind](features), present, curves[kind].no_match_below)
                rows[kind + name] = {label: round(rate, 4) for label, rate in rates.items()}
    return rows


# report


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a row per way to search; a figure that a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    widths = [max(9, len(name) + 2) for name in columns]
    print(f"\n{title:<52}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)))
    for label, row in rows.items():
        figures = [
            f"{row[name]:.3f}" if name == "AUROC" else f"{row[name]:.1f}" if name in row else "" for name in columns
        ]
        print(f"{label:<52}" + "".join(f"{figure:>{width}}" for figure, width in zip(figures, widths, strict=True)))


def main(argv: list[str] | None = None) -> None:
    """Measure, print the tables, write the json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder or Hub name of an IVT model")
    parser.add_argument("--corpus_root", help="cache of the drawn corpus")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there too")
    arguments = parser.parse_args(argv)

    version = find_version(arguments.checkpoint)
    model, processor = load_model(version)
    sizes = {"val": NUM_PEOPLE, "test": None}
    datasets = {
        name: load_corpus("synthetic", arguments.corpus_root, name, num_people=size) for name, size in sizes.items()
    }
    splits = {name: embed_split(model, processor, dataset) for name, dataset in datasets.items()}
    results: dict[str, Any] = {"checkpoint": arguments.checkpoint, "revision": version.revision}
    for name, split in splits.items():
        compare = name == "val"
        found = results[name] = {"num_people": split.num_people, "num_images": len(split.people)}
        for shape in SHAPES:
            title = f"clauses: {shape[0]} wanted" + (f", {shape[1]} under NOT" if shape[1] else "")
            found[title] = measure_clauses(model, processor, split, shape, compare)
        found["words and pictures"] = measure_images(split)
        found["feedback, ten pictures a round"] = measure_feedback(split, compare)
        found["near-duplicates"] = measure_duplicates(model, processor, split, datasets[name])
    results["test"]["person in the gallery or not"] = measure_presence(model, processor, *splits.values())
    for name in splits:
        for title, rows in results[name].items():
            if isinstance(rows, dict):
                print_table(f"{name}: {title}", rows)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
