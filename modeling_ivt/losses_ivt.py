"""Training losses of IVT as pure functions.

CMPM is cross-modal projection matching: Zhang & Lu, "Deep Cross-Modal Projection Learning for Image-Text Matching",
ECCV 2018, equations 1-5, in the form IVT trains with (Shu et al. 2022). ITC is image-text contrastive learning with
all texts of a person as its positives: by products over a temperature, as in IVT's pre-training stage, or over the
projections of CMPM. Two are not IVT's: SDM is similarity
distribution matching (Jiang & Ye, "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person
Retrieval", IRRA, CVPR 2023, equations 6-8); the token-wise loss is the late interaction of FILIP (Yao et al.,
"Fine-grained Interactive Language-Image Pre-Training", ICLR 2022, section 3.1), from words to patches.

Letters: I images, T texts, D width, P patches of an image, L tokens of a text, M tokens of all texts that count.
"""

import torch
from torch import nn

LEAST_TEMPERATURE = 0.01  # a learned temperature stays above, as in CLIP: sharper softmaxes make training unstable


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


def _divergence(log_p: torch.Tensor, matches: torch.Tensor, norm: float, epsilon: float) -> torch.Tensor:
    """Mean divergence of p from q, the matches over their `norm` (1 or 2) in each row."""
    q = nn.functional.normalize(matches.to(log_p.dtype), p=norm, dim=-1)
    return (log_p.exp() * (log_p - (q + epsilon).log())).sum(dim=-1).mean()


def _cross_entropy(log_p: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of p under q, the matches over their sum in each row."""
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
    # over the L2 norm of the matches, not their sum: so in CMPM's own code and in the IVT reference
    image_to_text = _divergence(_log_projections(image_embeds, text_embeds), matches, 2.0, epsilon)
    return image_to_text + _divergence(_log_projections(text_embeds, image_embeds), matches.T, 2.0, epsilon)


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
    image_to_text = _cross_entropy(_log_projections(image_embeds, text_embeds), matches)
    return image_to_text + _cross_entropy(_log_projections(text_embeds, image_embeds), matches.T)


def product_scores(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, temperature: float | torch.Tensor
) -> torch.Tensor:
    """Products of embeddings (I, D) and (T, D), which are not normalised, over a temperature: (I, T), float32."""
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    with torch.autocast(image_embeds.device.type, enabled=False):  # the temperature multiplies rounding errors
        return image_embeds.to(dtype) @ text_embeds.to(dtype).T / temperature


def product_itc_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    matches: torch.Tensor,
    temperature: float | torch.Tensor = 0.07,
) -> torch.Tensor:
    r"""Image-text contrastive loss of IVT's pre-training, in both directions.

    With $p_{ij} = \mathrm{softmax}_j(v_i \cdot t_j / \tau)$ of embeddings that are not normalised, and
    $q_{ij} = m_{ij} / \sum_j m_{ij}$: the cross-entropy $-\sum_j q_{ij} \log p_{ij}$ averaged over i, and over the two
    directions.

    Args:
        image_embeds: (I, D), not normalised.
        text_embeds: (T, D), not normalised.
        matches: (I, T) bool, the $m_{ij}$: True where text j may describe image i.
        temperature: the $\tau$ of the softmax, positive; it may be learned.

    Returns:
        Scalar tensor in float32, for float64 embeddings in float64, at least 0; (log T + log I) / 2 where all
        embeddings are equal and everything has a match.

    Raises:
        ValueError: if a side is empty or the matches are of another shape.
    """
    shape = (len(image_embeds), len(text_embeds))
    if 0 in shape or tuple(matches.shape) != shape:
        raise ValueError(
            f"{shape[0]} images and {shape[1]} texts came with matches of shape {tuple(matches.shape)}; expected at "
            "least one of each, and images by texts"
        )
    scores = product_scores(image_embeds, text_embeds, temperature)
    image_to_text = _cross_entropy(scores.log_softmax(dim=1), matches)
    return (image_to_text + _cross_entropy(scores.T.log_softmax(dim=1), matches.T)) / 2


def sdm_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    person_ids: torch.Tensor,
    text_person_ids: torch.Tensor | None = None,
    temperature: float | torch.Tensor = 0.02,
    epsilon: float = 1e-8,
) -> torch.Tensor:
    r"""Similarity distribution matching (SDM) in both directions.

    With $m_{ij} = 1$ where image i and text j show and describe the same person, else 0:

    $$p_{ij} = \mathrm{softmax}_j(\cos(v_i, t_j) / \tau), \qquad q_{ij} = m_{ij} / \textstyle\sum_j m_{ij}$$
    $$L_{i2t} = \frac{1}{I} \sum_i \sum_j p_{ij} (\log p_{ij} - \log(q_{ij} + \epsilon))$$

    and $L = L_{i2t} + L_{t2i}$, the second with the roles swapped. It differs from [`cmpm_loss`] in two things: a
    temperature stands in the place of the embeddings' lengths, and q is a distribution, so a person with several texts
    asks for equal shares.

    Args:
        image_embeds: (I, D), normalised or not.
        text_embeds: (T, D), normalised or not.
        person_ids: (I,) integers, the person on each image.
        text_person_ids: (T,) integers, the person each text describes; left out, those of the images (then I = T).
        temperature: the $\tau$ of the softmax, positive; IRRA's is 0.02. It may be learned, as the exponential of a
            parameter; a tensor is not checked, that would wait for its device.
        epsilon: keeps the logarithm of a zero entry of q finite. Positive.

    Returns:
        Scalar tensor in float32, for float64 embeddings in float64; 0 at the least (but for epsilon) where every image
        has a text of its person and every text an image.

    Raises:
        ValueError: if shapes do not fit together, a side is empty, or the temperature is not positive.
    """
    if not isinstance(temperature, torch.Tensor) and not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number such as 0.02")
    matches = _match_persons(image_embeds, text_embeds, person_ids, text_person_ids)
    scores = nn.functional.normalize(image_embeds, dim=-1) @ nn.functional.normalize(text_embeds, dim=-1).T  # (I, T)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    image_to_text = _divergence(scores.log_softmax(dim=1), matches, 1.0, epsilon)
    return image_to_text + _divergence(scores.T.log_softmax(dim=1), matches.T, 1.0, epsilon)


def tokenwise_scores(patch_states: torch.Tensor, token_states: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    r"""Compare images and texts word by word: the mean over a text's tokens of the cosine with the best patch.

    $$s_{ij} = \frac{1}{|W_j|} \sum_{l \in W_j} \max_p \cos(v_{ip}, t_{jl})$$

    Images are taken one after the other, and of the cosines (M, P) with one only the place of the largest is kept for
    the gradient: memory grows with I * M, not with I * M * P.

    Args:
        patch_states: (I, P, D) last hidden states of the images without [CLS], of any length but zero.
        token_states: (T, L, D) last hidden states of the texts.
        token_mask: (T, L), not 0 for the tokens W_j that count. Leave out padding, [CLS] and [SEP], which stand for
            no word.

    Returns:
        (I, T), each in [-1, 1]. A text of which no token counts scores 0 with every image.

    Raises:
        ValueError: if the shapes do not fit together or the images have no patches.
    """
    counts = token_mask.bool()
    if patch_states.ndim != 3 or patch_states.shape[1] == 0 or token_states.ndim != 3:
        raise ValueError(
            f"patch and token states have shapes {tuple(patch_states.shape)} and {tuple(token_states.shape)}, "
            "expected (I, P, D) with at least one patch and (T, L, D); pass last_hidden_state, that of images without "
            "[CLS]"
        )
    if patch_states.shape[-1] != token_states.shape[-1] or counts.shape != token_states.shape[:2]:
        raise ValueError(
            f"patch states {tuple(patch_states.shape)}, token states {tuple(token_states.shape)} and token mask "
            f"{tuple(counts.shape)} do not fit, expected (I, P, D), (T, L, D) and (T, L); "
            "where tokens are hidden in training, take the mask of those that are kept"
        )
    patches = nn.functional.normalize(patch_states, dim=-1)
    tokens = nn.functional.normalize(token_states[counts], dim=-1)  # (M, D)
    best = torch.stack([(tokens @ image.T).max(dim=-1).values for image in patches])  # (I, M)
    text_of_token = counts.nonzero()[:, 0]  # (M,)
    sums = best.new_zeros(len(patches), len(counts)).index_add(1, text_of_token, best)
    return sums / counts.sum(dim=1).clamp(min=1)


def tokenwise_loss(
    patch_states: torch.Tensor,
    token_states: torch.Tensor,
    token_mask: torch.Tensor,
    person_ids: torch.Tensor,
    text_person_ids: torch.Tensor | None = None,
    temperature: float = 0.07,
) -> torch.Tensor:
    r"""Token-wise contrastive loss in both directions: every word should find a patch that means the same.

    The cross-entropy of [`itc_loss`] with $p_{ij} = \mathrm{softmax}_j(s_{ij} / \tau)$ over the scores of
    [`tokenwise_scores`]. [CLS] has no part in it, so it teaches the states of single patches and words what the other
    losses teach only their sum. FILIP also lets every patch look for its best word, in the other direction; here most
    patches show the background, which no word speaks of, so both directions compare words with their best patches.

    Args:
        patch_states: (I, P, D) last hidden states of the images without [CLS].
        token_states: (T, L, D) last hidden states of the texts.
        token_mask: (T, L), not 0 for the tokens that count, see [`tokenwise_scores`].
        person_ids: (I,) integers, the person on each image.
        text_person_ids: (T,) integers, the person each text describes; left out, those of the images (then I = T).
        temperature: the $\tau$ of the softmax, positive.

    Returns:
        Scalar tensor in float32 (for float64 states in float64), at least 0; log T + log I where all scores are equal
        and every image has a text of its person and every text an image.

    Raises:
        ValueError: if shapes do not fit together, a side is empty, or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a positive number such as 0.07")
    matches = _match_persons(patch_states, token_states, person_ids, text_person_ids)
    scores = tokenwise_scores(patch_states, token_states, token_mask)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    image_to_text = _cross_entropy(scores.log_softmax(dim=1), matches)
    return image_to_text + _cross_entropy(scores.T.log_softmax(dim=1), matches.T)
