"""Training losses of IVT as pure functions.

CMPM is cross-modal projection matching: Zhang & Lu, "Deep Cross-Modal Projection Learning for Image-Text Matching",
ECCV 2018, equations 1-5, in the form IVT trains with (Shu et al. 2022). ITC is image-text contrastive learning, as in
IVT's pre-training stage, with all texts of a person as its positives.

Letters: I images, T texts, D width.
"""

import torch
from torch import nn


def _match_persons(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    text_person_ids: torch.Tensor | None,
) -> torch.Tensor:
    """Which image and text belong to the same person, (I, T) bool; checks what both losses need."""
    if text_person_ids is None:
        text_person_ids = person_ids
    num_images, num_texts = len(image_embeds), len(text_embeds)
    if num_images == 0 or num_texts == 0:
        raise ValueError(f"the loss needs images and texts, got {num_images} images and {num_texts} texts")
    if len(person_ids) != num_images or len(text_person_ids) != num_texts:
        raise ValueError(
            f"{num_images} images and {num_texts} texts came with {len(person_ids)} and {len(text_person_ids)} "
            "person ids; pass one id per image and, where the numbers differ, text_person_ids with one per text"
        )
    return person_ids[:, None] == text_person_ids[None, :]


def _log_projections(embeds: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The log p_ij of the formulas below: `embeds` (I, D) projected on the unit vectors of `others` (T, D)."""
    scores = embeds @ nn.functional.normalize(others, dim=-1).T  # (I, T)
    # float32 at least: epsilon is zero in float16
    return nn.functional.log_softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def _cmpm_one_way(log_p: torch.Tensor, matches: torch.Tensor, epsilon: float) -> torch.Tensor:
    # the mask over its L2 norm, not over its sum: so in CMPM's own code and in the IVT reference
    q = nn.functional.normalize(matches.to(log_p.dtype), dim=-1)
    return (log_p.exp() * (log_p - (q + epsilon).log())).sum(dim=-1).mean()


def _itc_one_way(log_p: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    q = nn.functional.normalize(matches.to(log_p.dtype), p=1.0, dim=-1)
    return -(q * log_p).sum(dim=-1).mean()


def cmpm_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    text_person_ids: torch.Tensor | None = None,
    epsilon: float = 1e-8,
) -> torch.Tensor:
    r"""Cross-modal projection matching (CMPM) in both directions.

    With image embeddings $v_i$, text embeddings $t_j$ and $m_{ij} = 1$ where image i and text j show and describe
    the same person, else 0:

    $$p_{ij} = \mathrm{softmax}_j(v_i \cdot t_j / |t_j|), \qquad q_{ij} = m_{ij} / \sqrt{\textstyle\sum_j m_{ij}}$$
    $$L_{i2t} = \frac{1}{I} \sum_i \sum_j p_{ij} (\log p_{ij} - \log(q_{ij} + \epsilon))$$

    and $L = L_{i2t} + L_{t2i}$, the second with the roles swapped. The embeddings are **not** normalised before: the
    length of $v_i$ acts as a learned inverse temperature of its softmax. Because q is divided by its L2 norm, it sums
    to more than 1 for a person with several matches, so the loss may be negative.

    Args:
        image_embeds: (I, D), not normalised.
        text_embeds: (T, D), not normalised. Levels or views of one person are simply more rows of one problem.
        person_ids: (I,) integers, the person on each image.
        text_person_ids: (T,) integers, the person each text describes; left out, those of the images (then I = T).
        epsilon: keeps the logarithm of a zero entry of q finite. Positive.

    Returns:
        Scalar tensor in float32, for float64 embeddings in float64.

    Raises:
        ValueError: if shapes do not fit together or a side is empty.
    """
    matches = _match_persons(image_embeds, text_embeds, person_ids, text_person_ids)
    image_to_text = _cmpm_one_way(_log_projections(image_embeds, text_embeds), matches, epsilon)
    return image_to_text + _cmpm_one_way(_log_projections(text_embeds, image_embeds), matches.T, epsilon)


def itc_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    text_person_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Image-text contrastive loss in both directions, over the projections of CMPM.

    The cross-entropy $-\sum_j q_{ij} \log p_{ij}$ with $p_{ij}$ as in [`cmpm_loss`] and
    $q_{ij} = m_{ij} / \sum_j m_{ij}$, averaged over i, plus the same with the roles swapped. CMPM takes the divergence
    of p from q the other way round: its gradient fades for a match whose p is still small, this one is largest there.
    So it is of use beside CMPM for a model that starts from random weights.

    Args:
        image_embeds: (I, D), not normalised.
        text_embeds: (T, D), not normalised.
        person_ids: (I,) integers, the person on each image.
        text_person_ids: (T,) integers, the person each text describes; left out, those of the images (then I = T).

    Returns:
        Scalar tensor, at least 0; log T + log I where all embeddings are equal. An image without any text of its
        person in the batch adds 0.

    Raises:
        ValueError: if shapes do not fit together or a side is empty.
    """
    matches = _match_persons(image_embeds, text_embeds, person_ids, text_person_ids)
    image_to_text = _itc_one_way(_log_projections(image_embeds, text_embeds), matches)
    return image_to_text + _itc_one_way(_log_projections(text_embeds, image_embeds), matches.T)
