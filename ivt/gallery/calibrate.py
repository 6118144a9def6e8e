"""Calibrate the "no match" answer of a checkpoint: how likely it is that the person asked for is in the gallery.

    ivt calibrate runs/cuhk/best --corpus cuhk-pedes --corpus-root data/CUHK-PEDES

Searches galleries of validation people with captions, every other one cut short, with other pictures of theirs, with
both and, on the drawn corpus, with clauses (AND, NOT), each once with and once without those who are asked for,
fits a curve for each kind of query and writes `CHECKPOINT/calibration.json`. A kind whose curve hardly tells the two
apart is left out. How well the rest does on test people: `python -m benchmarks.queries`.
"""

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ivt.corpora.drawn.attributes import AttributeQuery, sample_attribute_queries
from ivt.corpora.load import load_corpus
from ivt.corpora.rows import stored_images
from ivt.retrieval.embedding import embed_images, embed_texts
from ivt.retrieval.models import find_version, load_model

from .calibration import Calibration, Domain, words_of
from .fitting import MIN_AUROC, fit_curve, presence_cases, presence_rates
from .queries import Clause, Query
from .query_vectors import combine, embed_queries
from .scores import GalleryStatistics

NUM_PEOPLE = 400  # of the drawn corpus's validation split: its usual 100 are too few for galleries of many sizes
# (clauses that are wanted, clauses that are not)
CLAUSE_SHAPES = ((2, 0), (3, 0), (4, 0), (6, 0), (1, 1), (2, 1), (4, 1))
QUERIES_PER_SHAPE = 200
NUM_SAMPLES = 1000  # of pictures, to see how far small galleries are from all
SAMPLE_MARGIN = 1.5  # since other people of the same kind differ a little more than these do from each other


@dataclass(frozen=True)
class EmbeddedSplit:
    """Embeddings of a split, with who is who.

    Attributes:
        image_embeds: (G, D).
        people: whom each picture shows (G,), 0 … P - 1 in the order of the rows.
        texts: all captions.
        text_embeds: their embeddings (T, D).
        text_images: the picture that each caption describes (T,).
        attributes: per person the fields of `Person`; None for a corpus that does not know them.
    """

    image_embeds: torch.Tensor
    people: torch.Tensor
    texts: list[str]
    text_embeds: torch.Tensor
    text_images: torch.Tensor
    attributes: list[dict[str, Any]] | None

    @property
    def num_people(self) -> int:
        """Number of people, P."""
        return int(self.people.max()) + 1


def embed_split(model: torch.nn.Module, processor: Any, dataset: Dataset) -> EmbeddedSplit:
    """Embed the pictures and captions of a split."""
    person_ids, captions = dataset["person_id"][:], dataset["captions"][:]
    place = {person_id: i for i, person_id in enumerate(dict.fromkeys(person_ids))}
    people = torch.tensor([place[person_id] for person_id in person_ids])
    attributes = None
    if "attributes" in dataset.column_names:
        per_person = dict(zip(person_ids, dataset["attributes"][:], strict=True))
        attributes = [json.loads(per_person[person_id])["person"] for person_id in place]
    texts = [caption for of_image in captions for caption in of_image]
    return EmbeddedSplit(
        embed_images(model, processor, stored_images(dataset)),
        people,
        texts,
        embed_texts(model, processor, texts),
        torch.arange(len(people)).repeat_interleave(torch.tensor([len(of_image) for of_image in captions])),
        attributes,
    )


def next_images(people: torch.Tensor) -> torch.Tensor:
    """For each picture the next one of the same person, for the last their first (G,)."""
    following = torch.empty_like(people)
    for person in people.unique():
        rows = (people == person).nonzero()[:, 0]
        following[rows] = rows.roll(-1)
    return following


def with_pictures(text_embeds: torch.Tensor, image_embeds: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Vectors (T, D) of queries that hold a text (T, D) each and a picture (T, D) of a weight."""
    query = Query((Clause("text"), Clause(image="picture", weight=weight)))
    pairs = torch.stack([text_embeds, image_embeds], dim=1)  # (T, 2, D)
    return torch.stack([combine(query, pair) for pair in pairs])


def clauses_of(query: AttributeQuery) -> Query:
    """The attribute query as a user would ask it: `red coat AND boots NOT backpack`."""
    wanted = [Clause(phrase) for phrase in query.wanted]
    return Query(tuple(wanted + [Clause(phrase, negated=True) for phrase in query.unwanted]))


def cut_every_other(split: EmbeddedSplit, seed: int = 0) -> list[str]:
    """The captions, every other one cut to its first words, two at least."""
    rng = random.Random(f"cut captions {seed}")
    texts = list(split.texts)
    for place in range(1, len(texts), 2):
        words = texts[place].split()
        texts[place] = " ".join(words[: rng.randint(2, max(2, len(words)))])
    return texts


def split_cases(
    model: torch.nn.Module,
    processor: Any,
    split: EmbeddedSplit,
    texts: list[str],
    num_people: list[int],
    seed: int = 0,
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Search galleries of the split's people with every kind of query.

    Args:
        model: the model that made the embeddings, for the texts and the clauses.
        processor: its processor.
        split: the embeddings.
        texts: the captions, or what is left of them.
        num_people: numbers of people to draw galleries of.
        seed: of the drawing.

    Returns:
        Per kind of query what `presence_cases` gives.
    """
    gallery = (split.image_embeds, split.people, num_people)
    everybody = torch.eye(split.num_people, dtype=torch.bool)
    text_embeds = split.text_embeds if texts == split.texts else embed_texts(model, processor, texts)
    described = everybody[split.people[split.text_images]], torch.tensor([len(text.split()) for text in texts])
    shown = next_images(split.people)[split.text_images]
    both = with_pictures(text_embeds, split.image_embeds[shown])
    own_images = torch.arange(len(split.people))
    pictured = everybody[split.people], torch.zeros_like(own_images)
    cases = {
        "text": presence_cases(text_embeds, *described, *gallery, seed=seed),
        "image": presence_cases(split.image_embeds, *pictured, *gallery, own_images, seed),
        "mixed": presence_cases(both, *described, *gallery, shown, seed),
    }
    if split.attributes is not None:
        queries = [
            query
            for shape in CLAUSE_SHAPES
            for query in sample_attribute_queries(split.attributes, *shape, QUERIES_PER_SHAPE, seed)
        ]
        embedded = embed_queries(model, processor, list(map(clauses_of, queries)))
        vectors = torch.stack([query.vector for query in embedded])
        matches = torch.tensor([query.matches for query in queries])
        num_words = torch.tensor([query.query.num_words for query in embedded])
        cases["clauses"] = presence_cases(vectors, matches, num_words, *gallery, seed=seed)
    return cases


def measure_domain(image_embeds: torch.Tensor, smallest: int, seed: int = 0) -> Domain:
    """How embeddings (G, D) are spread, and how far random samples of `smallest` of them are from it at most."""
    whole = GalleryStatistics.of(image_embeds.double())
    domain = Domain(tuple(whole.mean.tolist()), float(whole.covariance.trace()), 0.0)
    generator, largest = torch.Generator().manual_seed(seed), 0.0
    for _ in range(NUM_SAMPLES):
        rows = torch.randperm(len(image_embeds), generator=generator)[:smallest]
        sample = GalleryStatistics.of(image_embeds[rows].double())
        largest = max(largest, domain.distance(sample.mean, float(sample.covariance.trace())))
    return replace(domain, largest_distance=SAMPLE_MARGIN * largest)


def gallery_sizes(num_people: int) -> list[int]:
    """Numbers of people in the galleries to search: five sizes, each half of the next.

    Three at least: the one who is asked for, one to leave out in their stead, and one to tell them from.
    """
    return sorted({max(3, num_people >> halvings) for halvings in range(5)})


def calibrate(
    checkpoint: str, corpus: str = "synthetic", corpus_root: str | None = None
) -> dict[str, dict[str, float]]:
    """Fit the curves on the validation split and write them beside the checkpoint, as `calibration.json`.

    Args:
        checkpoint: folder of a model with its processor.
        corpus: see `load_corpus`.
        corpus_root: likewise.

    Returns:
        Per kind of query the number of cases, whether its curve was written ("kept"), and the rates of
        `presence_rates` on the same cases.

    Raises:
        ValueError: if the checkpoint is no folder, or the corpus cannot be read.
    """
    if not Path(checkpoint).is_dir():
        raise ValueError(
            f"{checkpoint} is no folder; download the model first: hf download {checkpoint} --local-dir …"
        )
    version = find_version(checkpoint)
    model, processor = load_model(version)
    options: dict[str, Any] = {"num_people": NUM_PEOPLE} if corpus == "synthetic" else {}
    split = embed_split(model, processor, load_corpus(corpus, corpus_root, "val", **options))
    curves, found = {}, {}
    cases = split_cases(model, processor, split, cut_every_other(split), gallery_sizes(split.num_people))
    for kind, (features, present) in cases.items():
        curve = fit_curve(features, present)
        rates = presence_rates(curve(features), present, curve.no_match_below)
        if rates["AUROC"] >= MIN_AUROC:
            curves[kind] = curve
        found[kind] = {"cases": len(present), "kept": kind in curves, **rates}
    name = Path(checkpoint).resolve().name
    sizes = [curve.gallery_sizes[0] for curve in curves.values()]
    Calibration(
        name,
        version.revision,
        f"{corpus}, val, {split.num_people} people",
        curves,
        measure_domain(split.image_embeds, min(sizes, default=len(split.people))),
        tuple(sorted(set(words_of(split.texts)))),
    ).save(checkpoint)
    return found
