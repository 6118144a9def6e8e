"""Calibration: how likely it is that the person asked for is in the gallery at all.

The best match of a search is always somebody. Whether it is the right one shows in how its cosine compares with the
scores of the rest of the gallery, so the probability is a logistic regression on features of one query's scores over
one gallery (`presence_features`), which `fitting.py` fits. It holds for even odds beforehand, and stays there for a
description of so few words that many people fit it. A calibration belongs to one version of one model; it is stored
beside the checkpoint as `calibration.json`, written by `ivt calibrate`.

Dimensions: Q queries, K best pictures, F features.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from ivt.retrieval.models import DECISIVE_FILES, ModelVersion, folder_revision

from .scores import GalleryStatistics

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


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of texts, in small letters and without what stands around them."""
    return [word for text in texts for word in re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.lower())]


def presence_features(
    top_scores: torch.Tensor,
    mean: torch.Tensor,
    deviation: torch.Tensor,
    size: torch.Tensor,
    num_words: torch.Tensor,
) -> torch.Tensor:
    """Features of the scores of queries over a gallery, from which a curve estimates the person's presence.

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
        fewest_words: of the queries that it was fitted on.
    """

    weights: tuple[float, ...]
    bias: float
    no_match_below: float
    gallery_sizes: tuple[int, int]
    num_cases: int
    fewest_words: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))  # json gives lists
        object.__setattr__(self, "gallery_sizes", tuple(self.gallery_sizes))
        if len(self.weights) != len(FEATURES):
            raise ValueError(f"a curve has {len(self.weights)} weights, expected one for each of {FEATURES}")

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Probabilities (Q,) of features (Q, F)."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return (features.double() @ weights + self.bias).sigmoid().float()


@dataclass(frozen=True)
class Domain:
    """How the embeddings of the calibration's pictures are spread, to tell when a gallery's are others.

    Attributes:
        mean: their mean embedding, D numbers.
        variance: sum of the variances of the D numbers.
        largest_distance: that a random sample of them, as small as the smallest gallery, has from all of them.
    """

    mean: tuple[float, ...]
    variance: float
    largest_distance: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # json gives lists

    def distance(self, mean: torch.Tensor, variance: float) -> float:
        """Fréchet distance, taking both for round: of the means, and of the deviations, squared and added."""
        apart = (mean.double() - torch.tensor(self.mean, dtype=torch.float64)).square().sum()
        return float(apart) + (variance**0.5 - self.variance**0.5) ** 2


@dataclass(frozen=True)
class Calibration:
    """The curves of one version of one model.

    Attributes:
        model: name of the model.
        revision: digest of its files, as `folder_revision` makes it.
        corpus: what it was fitted on.
        curves: per `Query.kind` its curve; none for a kind whose scores say too little.
        domain: of the pictures it was fitted on; None in files of older releases.
        words: that stand in the captions it was fitted on; none in files of older releases.
    """

    model: str
    revision: str
    corpus: str
    curves: dict[str, PresenceCurve]
    domain: Domain | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))  # json gives lists

    def doubts(self, kind: str, texts: Sequence[str], num_words: int, statistics: GalleryStatistics) -> list[str]:
        """Why the curves cannot know about a search: none if they can, or have no curve for this kind of query.

        Args:
            kind: of the query.
            texts: of its clauses.
            num_words: in all of them.
            statistics: of the gallery.
        """
        curve = self.curves.get(kind)
        if curve is None:
            return []
        found, known = [], set(self.words)
        unknown = [word for word in dict.fromkeys(words_of(texts)) if word not in known]
        if known and unknown:
            found.append(f"the model does not know: {', '.join(unknown)}")
        smallest, largest = curve.gallery_sizes
        if not smallest <= statistics.size <= largest:
            found.append(f"the gallery has {statistics.size} pictures, calibrated were {smallest} to {largest}")
        if kind != "image" and num_words < curve.fewest_words:
            found.append(f"the query has {num_words} words, calibrated were {curve.fewest_words} and more")
        if self.domain is not None:
            distance = self.domain.distance(statistics.mean, float(statistics.covariance.trace()))
            if distance > self.domain.largest_distance:
                found.append("the gallery's pictures are unlike those that the model was calibrated on")
        return found

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `calibration.json` into the folder of the checkpoint and return its path."""
        path = Path(folder) / CALIBRATION_FILE
        path.write_text(json.dumps({"features": FEATURES} | asdict(self), indent=2) + "\n", encoding="utf-8")
        return path


def load_calibration(version: ModelVersion) -> Calibration | None:
    """Load the calibration that is stored beside a model.

    Args:
        version: the model, a folder or a Hub name.

    Returns:
        The calibration; None if there is none, or, with a warning, if it is of another version or release.

    Raises:
        ValueError: if the file cannot be read.
    """
    folder = Path(version.name)
    if not folder.is_dir():  # a Hub model: download the files that its revision depends on
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
        domain = Domain(**fields.pop("domain")) if fields.get("domain") else None
        calibration = Calibration(curves=curves, **(fields | {"domain": domain}))
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
