import math

import pytest
import torch
from torch import nn

from ivt.training.objective import Objective
from ivt.training.optimization import Schedule, build_optimizer, learning_rate, learning_rate_factor
from ivt.training.recipe import Recipe
from modeling_ivt import IVTModel


def test_learning_rate_warms_up_and_ends_at_its_least():
    assert learning_rate_factor(0, warmup_steps=10, progress=0.0, min_lr_ratio=0.1) == pytest.approx(0.1)
    assert learning_rate_factor(9, warmup_steps=10, progress=0.0, min_lr_ratio=0.1) == 1.0
    assert learning_rate_factor(50, warmup_steps=10, progress=0.5, min_lr_ratio=0.1) == pytest.approx(0.55)
    assert learning_rate_factor(100, warmup_steps=0, progress=1.2, min_lr_ratio=0.1) == pytest.approx(0.1)


def test_every_parameter_is_optimised_once_and_biases_faster(tiny_config):
    model = IVTModel(tiny_config)
    for name in ("sgd", "adamw"):
        recipe = Recipe(optimizer=name, learning_rate=0.1, bias_lr_factor=2.0, weight_decay=0.01)
        groups = build_optimizer(model, recipe).param_groups
        settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
        assert sum(len(group["params"]) for group in groups) == len(settings) == len(list(model.parameters()))
        assert settings[id(model.layers[0].attention.qkv.bias)] == (0.2, 0.01 if name == "sgd" else 0.0)
        assert settings[id(model.layers[0].attention.qkv.weight)] == (0.1, 0.01)


def test_layers_learn_the_slower_the_further_from_the_output(tiny_config):
    objective = Objective(IVTModel(tiny_config), Recipe(sdm_weight=1.0, identity_weight=1.0), person_ids=[1, 2])
    recipe = Recipe(learning_rate=1.0, bias_lr_factor=2.0, layer_lr_decay=0.5)
    groups = build_optimizer(objective, recipe).param_groups
    rates = {id(weight): group["initial_lr"] for group in groups for weight in group["params"]}
    found = {name: rates[id(weight)] for name, weight in objective.named_parameters()}
    expected = {  # of two blocks
        "log_temperature": 1.0,
        "classifier.weight": 1.0,
        "classifier.bias": 2.0,
        "model.layernorm.weight": 1.0,
        "model.layers.1.attention.qkv.weight": 0.5,
        "model.layers.1.feed_forward.text.fc1.bias": 1.0,
        "model.layers.0.attention.qkv.weight": 0.25,
        "model.text_embeddings.word_embeddings.weight": 0.125,
        "model.image_embeddings.cls_token": 0.125,
        "model.image_embeddings.patch_embeddings.bias": 0.25,
    }
    assert {name: found[name] for name in expected} == expected


def test_learned_temperature_does_not_decay(tiny_config):
    objective = Objective(IVTModel(tiny_config), Recipe(sdm_weight=1.0))
    for name in ("sgd", "adamw"):
        groups = build_optimizer(objective, Recipe(optimizer=name, weight_decay=0.1)).param_groups
        (decay,) = [g["weight_decay"] for g in groups if any(p is objective.log_temperature for p in g["params"])]
        assert decay == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_shrinks_all_weights_with_sgd_and_the_matrices_of_the_blocks_with_adamw(tiny_config, name):
    model = IVTModel(tiny_config)
    for parameter in model.parameters():  # biases begin at zero, which nothing shrinks
        nn.init.constant_(parameter, 1.0)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, Recipe(optimizer=name, learning_rate=0.1, weight_decay=0.5, bias_lr_factor=1.0)).step()
    matrices = {f"{path}.weight" for path, module in model.layers.named_modules() if isinstance(module, nn.Linear)}
    shrunk = {f"layers.{path}" for path in matrices} if name == "adamw" else dict(model.named_parameters()).keys()
    for path, parameter in model.named_parameters():
        expected = torch.full_like(parameter, 1 - 0.1 * 0.5 if path in shrunk else 1.0)
        torch.testing.assert_close(parameter.detach(), expected, msg=path)


def one_weight() -> tuple[nn.Module, nn.Parameter]:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(1, 1, bias=False)])})
    return model, next(model.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_sgd_goes_on_by_its_momentum(momentum):
    model, weight = one_weight()
    optimizer = build_optimizer(model, Recipe(learning_rate=0.1, momentum=momentum, weight_decay=0.0))
    places = [weight.item()]
    for gradient in (1.0, 0.0, 0.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        places.append(weight.item())
    steps = [before - after for before, after in zip(places, places[1:], strict=False)]
    assert steps == pytest.approx([0.1, 0.1 * momentum, 0.1 * momentum**2], abs=1e-6)


def test_adamw_remembers_a_far_too_large_gradient_for_tens_of_steps_and_not_for_hundreds():
    model, weight = one_weight()
    optimizer = build_optimizer(model, Recipe(optimizer="adamw", learning_rate=1.0, weight_decay=0.0))
    steps = []
    for step in range(400):
        before = weight.item()
        weight.grad = torch.full_like(weight, 100.0 if step == 0 else 1.0)
        optimizer.step()
        steps.append(before - weight.item())
    assert max(steps[40:60]) < 0.3  # Adam divides by the root mean square of the gradients it remembers
    assert steps[-1] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("batches, accumulated", [(6, 1), (6, 2), (7, 2), (8, 3), (2, 5)])
def test_steps_of_an_epoch_are_counted_with_the_one_on_the_batches_left_over(batches, accumulated):
    steps = sum(batch % accumulated == 0 or batch == batches for batch in range(1, batches + 1))
    recipe = Recipe(gradient_accumulation_steps=accumulated, epochs=3, warmup_epochs=2.0)
    schedule = Schedule.of(recipe, batches)
    assert (schedule.steps_per_epoch, schedule.total_steps, schedule.warmup_steps) == (steps, 3 * steps, 2 * steps)
    assert schedule.share_done(3 * steps - 1, seconds=1e9) < 1 == schedule.share_done(3 * steps, seconds=1e9)


def test_run_ends_with_its_steps_or_its_minutes_whichever_comes_first():
    schedule = Schedule.of(Recipe(max_steps=10, max_minutes=2.0, epochs=1), batches_per_epoch=40)
    assert [schedule.share_done(*place) for place in ((5, 0), (5, 90), (10, 90), (5, 120))] == [0.5, 0.75, 1.0, 1.0]


def test_reference_schedule_changes_once_an_epoch_from_one_percent_to_one_rate_for_all_groups():
    recipe = Recipe(schedule="reference", learning_rate=0.005, epochs=120, warmup_epochs=5)

    def rate_at(epoch: float, own: float = 0.005) -> float:
        factor, floor = learning_rate(recipe, 0, 0, epoch / 120)
        return factor * own + floor

    # ten points of the authors' practice, from its description: linear from 1 %, then 1e-5 + (r - 1e-5) * cosine
    for epoch, share in [(0, 0.01), (1, 0.208), (2, 0.406), (4, 0.802)]:
        assert rate_at(epoch) == pytest.approx(0.005 * share)
    for epoch in (5, 30, 60, 90, 119, 120):
        for own in (0.005, 0.01):
            expected = 1e-5 + (own - 1e-5) * (1 + math.cos(math.pi * epoch / 120)) / 2
            assert rate_at(epoch, own) == pytest.approx(expected, rel=1e-6)
    assert rate_at(60.99) == rate_at(60) != rate_at(61)
    assert rate_at(130) == pytest.approx(1e-5)


def test_every_epoch_begins_with_its_own_rate_in_the_reference_schedule():
    recipe, steps = Recipe(schedule="reference", epochs=7), 3
    found = [learning_rate(recipe, 0, 0, step / (7 * steps)) for step in range(7 * steps)]
    assert (
        all(len(set(found[epoch * steps : (epoch + 1) * steps])) == 1 for epoch in range(7)) and len(set(found)) == 7
    )
