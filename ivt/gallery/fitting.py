"""Fit how likely it is that the person asked for is in the gallery: the cases, the regression, and how good it is.

The cases are searches of people of a validation split: in half of them the person is in the gallery, in half they are
not (`presence_cases`). Source of the regression: Newton's method for the logistic likelihood with an L2 penalty
(Bishop, Pattern Recognition and Machine Learning, 2006, sec. 4.3.3).

Dimensions: Q queries, G gallery pictures, P people, N cases, F features.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from .calibration import FEATURES, NUM_TOP, PresenceCurve, presence_features

PENALTY = 1e-3  # on the squared weights, beside the mean log-likelihood
MIN_AUROC = 0.6  # a curve that tells present from absent people no better is not used
MIN_DETECTION = 0.95  # share of people in the gallery who must not be answered with "no match"
MAX_NO_MATCH = 0.25  # nor is anybody answered so who is more likely there than that


def choose_at_random(mask: torch.Tensor, counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Choose some of the true entries of each row.

    Args:
        mask: entries to choose from (Q, P), bool.
        counts: how many of each row (Q,); of a row with fewer, all.
        generator: of the random numbers.

    Returns:
        The entries chosen (Q, P), bool.
    """
    draw = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0)  # the others come last
    rank = draw.argsort(dim=1).argsort(dim=1)  # place of each entry in the order of its row
    return mask & (rank < counts[:, None])


def _features_of(scores: torch.Tensor, kept: torch.Tensor, num_words: torch.Tensor) -> torch.Tensor:
    """Features (Q, F) of queries of so many words (Q,), from their scores (Q, G) over the pictures kept (Q, G)."""
    size = kept.sum(dim=1)
    mean = (scores * kept).sum(dim=1) / size
    deviation = ((scores - mean[:, None]).square() * kept).sum(dim=1).div(size).sqrt()
    top_scores = scores.masked_fill(~kept, -2.0).topk(min(NUM_TOP, int(size.min())), dim=1).values
    return presence_features(top_scores, mean, deviation, size, num_words)


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
        num_wanted = wanted.sum(dim=1)  # (Q,)
        left_out = choose_at_random(others, num_wanted, generator)  # as many others as are wanted
        usable = (num_wanted > 0) & (others.sum(dim=1) > num_wanted)  # (Q,)
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
        fewest_words=int(features[:, FEATURES.index("log words")].expm1().round().min()),
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
