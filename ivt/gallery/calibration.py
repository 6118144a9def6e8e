"""Calibration: how likely it is that the person asked for is in the gallery at all.

The best match of a search is always somebody. Whether it is the right one shows in how its cosine compares with the
scores of the rest of the gallery, so the probability is a logistic regression on features of one query's scores over
one gallery (`presence_features`), fitted on people of a validation split: in half of the cases the person is in the
gallery, in half they are not (`presence_cases`). It holds for even odds beforehand, and stays there for a description
of so few words that many people fit it. A calibration belongs to one version of one model; it lies beside the
checkpoint as `calibration.json`, written by `ivt calibrate`.

Source of the regression: Newton's method for the logistic likelihood with an L2 penalty (Bishop, Pattern Recognition
and Machine Learning, 2006, sec. 4.3.3).

Dimensions: Q queries, G gallery pictures, P people, N cases, F features.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from ivt.retrieval.models import DECISIVE_FILES, ModelVersion, folder_revision

logger = logging.getLogger(__name__)

CALIBRATION_FILE = "calibration.json"
FEATURES = (
    "top",
    "mean",
    "deviation",
    "gap to second",
    "gap to tenth",
    "log size",
    "log words",
    "top x log words",
)
NUM_TOP = 10  # scores that the features look at one by one
PENALTY = 1e-3  # on the squared weights, beside the mean log-likelihood
MIN_AUROC = 0.6  # a curve that tells present from absent people no better is not used
MIN_DETECTION = 0.95  # share of people in the gallery who must not be answered with "no match"
MAX_NO_MATCH = 0.25  # nor is that said of anybody who is more likely there than that


def presence_features(
    top_scores: torch.Tensor,
    mean: torch.Tensor,
    deviation: torch.Tensor,
    size: torch.Tensor,
    num_words: torch.Tensor,
) -> torch.Tensor:
    """What the scores of queries over a gallery say about the person's presence.

    Args:
        top_scores: cosines of the best pictures, best first (Q, K), K up to NUM_TOP; a gallery with fewer has fewer.
        mean: mean cosine over the gallery (Q,).
        deviation: standard deviation of the cosines over the gallery (Q,).
        size: number of pictures in the gallery (Q,).
        num_words: number of words in the query (Q,).

    Returns:
        Features (Q, F) in the order of FEATURES.
    """
    top = top_scores[:, 0]
    second, tenth = top_scores[:, min(1, top_scores.shape[1] - 1)], top_scores[:, :NUM_TOP][:, -1]
    gaps = [top - second, top - tenth]
    log_words = num_words.float().log1p()
    return torch.stack([top, mean, deviation, *gaps, size.float().log(), log_words, top * log_words], dim=1)


@dataclass(frozen=True)
class PresenceCurve:
    """A fitted logistic regression: features -> probability of presence.

    Attributes:
        weights: one per feature, F numbers.
        bias: added to the weighted sum.
        no_match_below: probability under which the answer is "no match".
        gallery_sizes: numbers of pictures in the smallest and largest gallery it was fitted on.
        num_cases: what it was fitted on.
    """

    weights: tuple[float, ...]
    bias: float
    no_match_below: float
    gallery_sizes: tuple[int, int]
    num_cases: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))  # json gives lists
        object.__setattr__(self, "gallery_sizes", tuple(self.gallery_sizes))
        if len(self.weights) != len(FEATURES):
            raise ValueError(f"a curve has {len(self.weights)} weights, expected one for each of {FEATURES}")

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Probabilities (Q,) of features (Q, F)."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return (features.double() @ weights + self.bias).sigmoid().float()


def presence_cases(
    query_embeds: torch.Tensor,
    query_matches: torch.Tensor,
    num_words: torch.Tensor,
    image_embeds: torch.Tensor,
    people: torch.Tensor,
    num_people: Sequence[int],
    own_images: torch.Tensor | None = None,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search galleries of random people twice with each query: with and without those it asks for.

    Both galleries hold equally many people: the first lacks as many people nobody asked for.

    Args:
        query_embeds: unit-length embeddings (Q, D).
        query_matches: who is asked for (Q, P), bool.
        num_words: number of words in each query (Q,).
        image_embeds: unit-length embeddings of the pictures (G, D).
        people: whom each picture shows (G,), in 0 … P - 1.
        num_people: numbers of people to draw galleries of.
        own_images: the picture that each query was made from (Q,), which is in no gallery; None if there is none.
        seed: of the drawing.

    Returns:
        Features (N, F) and whether the person was there (N,), bool; each case with a person has its twin without.

    Raises:
        ValueError: if no query has somebody to find and others to tell them from.
    """
    generator = torch.Generator().manual_seed(seed)
    scores = query_embeds @ image_embeds.T  # (Q, G)
    features, present = [], []
    for number in num_people:
        chosen = torch.zeros(query_matches.shape[1], dtype=torch.bool)
        chosen[torch.randperm(len(chosen), generator=generator)[:number]] = True
        wanted, others = query_matches & chosen, ~query_matches & chosen  # (Q, P)
        num_wanted = wanted.sum(dim=1, keepdim=True)  # (Q, 1)
        draw = torch.rand(others.shape, generator=generator).masked_fill(~others, 2.0)
        left_out = others & (draw.argsort(dim=1).argsort(dim=1) < num_wanted)  # as many others as are wanted
        usable = ((num_wanted > 0) & (others.sum(dim=1, keepdim=True) > num_wanted))[:, 0]  # (Q,)
        if not usable.any():
            continue
        for is_present, removed in ((True, left_out), (False, wanted)):
            kept = (chosen & ~removed)[:, people]  # (Q, G)
            if own_images is not None:
                kept[torch.arange(len(kept)), own_images] = False
            features.append(_features_of(scores[usable], kept[usable], num_words[usable]))
            present.append(torch.full((len(features[-1]),), is_present))
    if not features:
        raise ValueError(
            f"no query asks for somebody in a gallery of {', '.join(map(str, num_people))} people with others to tell "
            "them from; calibrate on a split with more people"
        )
    return torch.cat(features), torch.cat(present)


def _features_of(scores: torch.Tensor, kept: torch.Tensor, num_words: torch.Tensor) -> torch.Tensor:
    """Features (Q, F) of queries of so many words (Q,), from their scores (Q, G) over the pictures kept (Q, G)."""
    size = kept.sum(dim=1)
    mean = (scores * kept).sum(dim=1) / size
    deviation = ((scores - mean[:, None]).square() * kept).sum(dim=1).div(size).sqrt()
    top_scores = scores.masked_fill(~kept, -2.0).topk(min(NUM_TOP, int(size.min())), dim=1).values
    return presence_features(top_scores, mean, deviation, size, num_words)


def fit_curve(features: torch.Tensor, present: torch.Tensor) -> PresenceCurve:
    """Fit the regression.

    Args:
        features: (N, F).
        present: whether the person was in the gallery (N,), bool.

    Raises:
        ValueError: if only one of the two answers occurs.
    """
    if present.all() or not present.any():
        raise ValueError(
            f"of {len(present)} cases {int(present.sum())} have the person in the gallery; "
            "expected both answers: calibrate on a split with more people"
        )
    raw, target = features.double(), present.double()
    centre, scale = raw.mean(dim=0), raw.std(dim=0).clamp(min=1e-9)  # a feature that never changes gets no weight
    inputs = torch.cat([(raw - centre) / scale, torch.ones(len(raw), 1)], dim=1)  # (N, F + 1), the last for the bias
    penalty = PENALTY * torch.eye(inputs.shape[1], dtype=torch.float64)
    penalty[-1, -1] = 0
    solution = torch.zeros(inputs.shape[1], dtype=torch.float64)
    for _ in range(25):  # converges in about eight steps
        probability = (inputs @ solution).sigmoid()
        gradient = inputs.T @ (probability - target) / len(raw) + penalty @ solution
        curvature = inputs.T @ (inputs * (probability * (1 - probability))[:, None]) / len(raw) + penalty
        solution = solution - torch.linalg.solve(curvature, gradient)
    weights = solution[:-1] / scale
    sizes = features[:, FEATURES.index("log size")].exp().round()
    curve = PresenceCurve(
        weights=tuple(weights.tolist()),
        bias=float(solution[-1] - weights @ centre),
        no_match_below=0.0,
        gallery_sizes=(int(sizes.min()), int(sizes.max())),
        num_cases=len(raw),
    )
    threshold = float(curve(features)[present].quantile(1 - MIN_DETECTION))
    return replace(curve, no_match_below=min(threshold, MAX_NO_MATCH))


def presence_rates(
    probabilities: torch.Tensor, present: torch.Tensor, no_match_below: float | None = None
) -> dict[str, float]:
    """Say how well probabilities tell people in the gallery from people who are not.

    Args:
        probabilities: of presence (N,).
        present: whether the person was there (N,), bool; both answers occur.
        no_match_below: the threshold in use, whose rates are wanted too.

    Returns:
        "AUROC" in [0, 1]: how often somebody present has the higher probability than somebody absent, ties half.
        In percent: "detection at 1 %" and "at 10 %" of false alarms, the share of people present that the best
        threshold finds while at most that share of the absent is said to be there; with `no_match_below` also
        "detection" and "false alarms" at that threshold.
    """
    there, absent = probabilities[present], probabilities[~present].sort().values
    below = torch.searchsorted(absent, there, right=False)
    not_above = torch.searchsorted(absent, there, right=True)
    rates = {"AUROC": float((below + not_above).double().mean() / 2 / len(absent))}
    for allowed in (1, 10):
        threshold = absent[len(absent) - 1 - int(allowed / 100 * len(absent))]
        rates[f"detection at {allowed} %"] = 100 * float((there > threshold).double().mean())
    if no_match_below is not None:
        rates["detection"] = 100 * float((there >= no_match_below).double().mean())
        rates["false alarms"] = 100 * float((absent >= no_match_below).double().mean())
    return rates


@dataclass(frozen=True)
class Calibration:
    """The curves of one version of one model.

    Attributes:
        model: name of the model.
        revision: digest of its files, as `folder_revision` makes it.
        corpus: what it was fitted on.
        curves: per `Query.kind` its curve; none for a kind whose scores say too little.
    """

    model: str
    revision: str
    corpus: str
    curves: dict[str, PresenceCurve]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `calibration.json` into the folder of the checkpoint and return its path."""
        path = Path(folder) / CALIBRATION_FILE
        path.write_text(json.dumps({"features": FEATURES} | asdict(self), indent=2) + "\n", encoding="utf-8")
        return path


def load_calibration(version: ModelVersion) -> Calibration | None:
    """Load the calibration that lies beside a model.

    Args:
        version: the model, a folder or a Hub name.

    Returns:
        The calibration; None if there is none, or, with a warning, if it is of another version or release.

    Raises:
        ValueError: if the file cannot be read.
    """
    folder = Path(version.name)
    if not folder.is_dir():  # the files of a Hub model that its revision is told from, which it needs anyway
        files = [*DECISIVE_FILES, CALIBRATION_FILE]
        folder = Path(snapshot_download(version.name, revision=version.revision, allow_patterns=files))
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if tuple(fields.pop("features")) != FEATURES:
            logger.warning("%s is of another release and not used; write it again with ivt calibrate", path)
            return None
        curves = {kind: PresenceCurve(**curve) for kind, curve in fields.pop("curves").items()}
        calibration = Calibration(curves=curves, **fields)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no calibration ({error}); write it again with ivt calibrate") from error
    found = folder_revision(folder)
    if calibration.revision != found:
        logger.warning(
            "%s belongs to another version of the model (%s, found %s) and is not used; write it again with "
            "ivt calibrate",
            path,
            calibration.revision[:19],
            found[:19],
        )
        return None
    return calibration
