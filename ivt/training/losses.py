"""The losses of a recipe, computed from embeddings; the formulas are in `modeling_ivt/losses_ivt.py`."""

import torch
from torch import nn

from modeling_ivt import cmpm_loss, itc_loss, sdm_loss, tokenwise_loss
from modeling_ivt.losses_ivt import LEAST_TEMPERATURE

from .embeddings import Embeddings
from .recipe import Recipe


def weighted_losses(
    embeddings: Embeddings,
    recipe: Recipe,
    log_temperature: torch.Tensor | None = None,
    classifier: nn.Module | None = None,
    persons: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Every loss that a recipe gives a weight, times that weight.

    Args:
        embeddings: of a batch, or of the batches of all processes.
        recipe: names the losses and their weights.
        log_temperature: (1,) learned by SDM.
        classifier: (…, D) to (…, persons), of the identity loss; one for both modalities, which then look alike to it.
        persons: ids of the classifier's persons, ascending.

    Returns:
        Name of a loss to its scalar, in an order that depends on the recipe alone.
    """
    embeds = (embeddings.image_embeds, embeddings.text_embeds)
    ids = (embeddings.person_ids, embeddings.text_person_ids)
    losses = {}
    if recipe.cmpm_weight:
        losses["cmpm"] = recipe.cmpm_weight * cmpm_loss(*embeds, *ids)
    if recipe.itc_weight:
        losses["itc"] = recipe.itc_weight * itc_loss(*embeds, *ids)
    if recipe.sdm_weight:
        assert log_temperature is not None
        temperature = log_temperature.exp().clamp(min=LEAST_TEMPERATURE)
        losses["sdm"] = recipe.sdm_weight * sdm_loss(*embeds, *ids, temperature)
    if recipe.token_weight:
        assert embeddings.tokens is not None
        patch_states, token_states, token_mask = embeddings.tokens.tensors()
        losses["token"] = recipe.token_weight * tokenwise_loss(patch_states, token_states, token_mask, *ids)
    if recipe.identity_weight:
        assert classifier is not None and persons is not None
        for modality, side, person_ids in zip(("image", "text"), embeds, ids, strict=True):
            classes = torch.searchsorted(persons, person_ids)
            loss = nn.functional.cross_entropy(classifier(side), classes)
            losses[f"identity of {modality}s"] = recipe.identity_weight * loss
    return losses
