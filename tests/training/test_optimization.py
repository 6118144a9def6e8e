import pytest

from modeling_ivt import IVTModel
from training.optimization import build_optimizer, learning_rate_factor
from training.recipe import Recipe


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
