"""The objective of pre-training: its parts, what it trains, and two processes against plain autograd on one.

Letters: B pairs.
"""

import os

import pytest
import torch
from accelerate import Accelerator
from torch import multiprocessing

from ivt.training.gradient_cache import backward, take_pairs
from ivt.training.objective import Objective
from ivt.training.pretraining import PretrainingObjective, build_objective
from ivt.training.recipe import Recipe
from modeling_ivt import IVTConfig, IVTForPreTraining, IVTModel, product_itc_loss

WEIGHTS = {"itc_weight": 1.0, "itm_weight": 0.5, "mlm_weight": 2.0}
HALVES = (slice(0, 2), slice(2, 4))  # of two pairs each has one negative alone, so nothing is random
CASES = ({"gather": "all"}, {"gather": "none"}, {"itm_weight": 0.0}, {"mlm_weight": 0.0}, {"itc_weight": 0.0})


def make_objective(config: IVTConfig, **settings: object) -> PretrainingObjective:
    config.num_fusion_layers, config.itc_temperature = 1, 2.0
    recipe = Recipe(stage="pretrain", levels=["sentence"], num_views=1, cmpm_weight=0.0, **(WEIGHTS | settings))
    return PretrainingObjective(IVTForPreTraining(config), recipe)


def make_batch(config: IVTConfig, num_pairs: int) -> dict[str, object]:
    """All pairs differ but the first and the last, which are of one person; texts have 4 to 9 tokens."""
    lengths = torch.randint(4, 10, (num_pairs, 1))
    mask = (torch.arange(9) < lengths).long()
    ids = torch.randint(5, config.vocab_size, (num_pairs, 9)) * mask
    labels = torch.full_like(ids, -100)
    labels[:, 1:3] = ids[:, 1:3]
    person_ids = torch.arange(num_pairs)
    person_ids[-1] = 0
    return {
        "pixel_values": torch.randn(num_pairs, 3, *config.image_size),
        "input_ids": ids,
        "attention_mask": mask,
        "masked_input_ids": torch.where(labels == -100, ids, 4),
        "mlm_labels": labels,
        "person_ids": person_ids,
        "text_person_ids": person_ids,
        "image_ids": [f"{i}.jpg" for i in range(num_pairs)],
    }


def gradients(objective: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.requires_grad}


def losses_of_model(model: IVTForPreTraining, batch: dict) -> dict[str, torch.Tensor]:
    """What the model's own `forward` says of a batch."""
    inputs = {name: value for name, value in batch.items() if name not in ("image_ids", "text_person_ids")}
    output = model(**inputs, return_loss=True)
    return {"itc": output.itc_loss, "itm": output.itm_loss, "mlm": output.mlm_loss}


def test_loss_is_the_weighted_sum_of_the_models_and_its_parts_are_kept(tiny_config):
    objective, batch = make_objective(tiny_config), make_batch(tiny_config, 2)
    batch["person_ids"] = torch.tensor([3, 8])
    expected = losses_of_model(objective.model, batch)
    loss = objective(batch)
    assert list(objective.losses) == ["itc", "itm", "mlm"]
    for name, part in objective.losses.items():
        torch.testing.assert_close(part, WEIGHTS[f"{name}_weight"] * expected[name].detach())
        assert not part.requires_grad
    torch.testing.assert_close(loss.detach(), sum(objective.losses.values()))


@pytest.mark.parametrize(
    "weight, frozen",
    [
        ({}, ()),
        ({"itc_weight": 0.0}, ("log_temperature",)),
        ({"itm_weight": 0.0}, ("itm_head.",)),
        ({"mlm_weight": 0.0}, ("mlm_head.dense", "mlm_head.layernorm", "mlm_head.decoder.bias")),
        ({"itm_weight": 0.0, "mlm_weight": 0.0}, ("itm_head.", "mlm_head.", "fusion_layers.")),
    ],
)
def test_all_that_is_trained_gets_a_gradient_and_the_rest_is_frozen(tiny_config, weight, frozen):
    objective = make_objective(tiny_config, **weight)
    objective(make_batch(tiny_config, 3)).backward()
    for name, parameter in objective.model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_stage_decides_what_is_trained(tiny_config):
    pretraining = make_objective(tiny_config)
    assert type(build_objective(pretraining.model, pretraining.recipe, [1])) is PretrainingObjective
    assert type(build_objective(IVTModel(tiny_config), Recipe(), [1])) is Objective


# ---- two processes


def _train_one_of_two(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    accelerator, results = Accelerator(cpu=True), []
    objectives, batch = torch.load(f"{folder}/cases.pt", weights_only=False)
    for objective in objectives:
        loss = backward(accelerator, accelerator.prepare(objective), take_pairs(batch, HALVES[rank]))
        results.append((loss, gradients(objective)))
    torch.save(results, f"{folder}/results{rank}.pt")
    torch.distributed.destroy_process_group()


def expected_loss(objective: PretrainingObjective, batch: dict) -> torch.Tensor:
    """ITC of all pairs, or of each half with `gather: none`; ITM and MLM of each half, by the model alone."""
    model, recipe = objective.model, objective.recipe
    halves = [losses_of_model(model, take_pairs(batch, half)) for half in HALVES]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    if recipe.gather == "all":
        images = model.get_image_features(batch["pixel_values"]).pooler_output
        texts = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        persons = batch["person_ids"]
        mean["itc"] = product_itc_loss(images, texts, persons[:, None] == persons, model.temperature)
    return sum(getattr(recipe, f"{name}_weight") * loss for name, loss in mean.items())


def test_two_processes_give_the_loss_and_gradient_of_all_their_pairs(tiny_config, tmp_path):
    objectives, batch = [make_objective(tiny_config, **case) for case in CASES], make_batch(tiny_config, 4)
    torch.save((objectives, batch), tmp_path / "cases.pt")
    multiprocessing.spawn(_train_one_of_two, args=(str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"results{rank}.pt") for rank in range(2)]
    for number, (case, objective) in enumerate(zip(CASES, objectives, strict=True)):
        expected = expected_loss(objective, batch)
        expected.backward()
        assert any(gradient.abs().max() > 0.1 for gradient in gradients(objective).values())  # not equal as nothing
        for loss, found in (result[number] for result in results):
            torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-5, msg=f"loss of {case}")
            for name, gradient in gradients(objective).items():
                torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=f"{case}: {name}")
