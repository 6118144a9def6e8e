import pytest

from ivt.training.objective import Objective
from ivt.training.optimization import build_optimizer, learning_rate_factor
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
