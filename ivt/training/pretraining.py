"""What is trained in the pre-training stage: ITC over all processes, ITM and MLM within each.

The losses are those of `modeling_ivt/pretraining_ivt.py`. Each process draws its negatives of ITM from its own pairs,
since a fused pair needs all words and patches of both.

Letters: B pairs of a process, N image tokens, L text tokens, D width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from modeling_ivt import IVTForPreTraining, IVTModel, product_itc_loss
from modeling_ivt.pretraining_ivt import fingerprint_texts, match_pairs

from .embeddings import Embeddings, GatherWithGradient
from .objective import Objective
from .recipe import Recipe


class PretrainingObjective(Objective):
    """Computes the losses of pre-training of a batch.

    Args:
        model: the model to train; what no loss of the recipe needs is frozen.
        recipe: the losses and their weights.
    """

    model: IVTForPreTraining

    def __init__(self, model: IVTForPreTraining, recipe: Recipe):
        needed = {
            "log_temperature": recipe.itc_weight,
            "itm_head.": recipe.itm_weight,
            "mlm_head.": recipe.mlm_weight,
            "fusion_layers.": recipe.itm_weight + recipe.mlm_weight,
        }
        for name, parameter in model.named_parameters():
            if any(name.startswith(start) and not weight for start, weight in needed.items()):
                parameter.requires_grad_(False)  # DDP waits for the gradient of everything else
        super().__init__(model, recipe)

    def forward(
        self, batch: dict[str, Any], compare: Callable[[Embeddings], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The weighted sum of the recipe's losses of a batch.

        Args:
            batch: what `MaskedPairCollator` gives.
            compare: not used; gradient caching, which needs it, is not for losses of fused pairs.

        Returns:
            Scalar tensor, float32.
        """
        model, recipe, mask = self.model, self.recipe, batch["attention_mask"]
        captions, person_ids = fingerprint_texts(batch["input_ids"], mask), batch["person_ids"]
        images = model.get_image_features(batch["pixel_values"]).last_hidden_state  # (B, N, D)
        losses = {}
        if recipe.itc_weight or recipe.itm_weight:
            texts = model.get_text_features(batch["input_ids"], mask).last_hidden_state  # (B, L, D)
        if recipe.itc_weight:
            rows = [images[:, 0].float(), texts[:, 0].float(), person_ids, captions]
            if self.gathers:
                rows = [GatherWithGradient.apply(tensor) for tensor in rows]
            losses["itc"] = recipe.itc_weight * product_itc_loss(*rows[:2], match_pairs(*rows[2:]), model.temperature)
        if recipe.itm_weight:
            positives = match_pairs(person_ids, captions)
            losses["itm"] = recipe.itm_weight * model.get_itm_loss(texts, images, mask, positives)
        if recipe.mlm_weight:
            hidden = batch["masked_input_ids"], batch["mlm_labels"]
            losses["mlm"] = recipe.mlm_weight * model.get_mlm_loss(*hidden, images, mask)
        return self.total(losses)


def build_objective(model: IVTModel, recipe: Recipe, person_ids: Iterable[int]) -> Objective:
    """What the stage of a recipe trains, see `Objective` and `PretrainingObjective`."""
    if isinstance(model, IVTForPreTraining):
        return PretrainingObjective(model, recipe)
    return Objective(model, recipe, person_ids)
