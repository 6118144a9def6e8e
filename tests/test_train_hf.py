"""The training script: a run, its end, and its continuation."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import train_hf
from modeling_ivt import IVTConfig, IVTModel
from train_tiny import TINY_MODEL, load_tiny
from training import checkpoints
from training.objectives import Objective
from training.recipe import Recipe, RunPaths

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny_corpus(tmp_path_factory, monkeypatch):
    root = str(tmp_path_factory.getbasetemp() / "corpus")
    monkeypatch.setattr(train_hf, "load_corpus", lambda name, _root, split, **options: load_tiny(root, split))


def run(output_dir: Path, resume: bool = False, model_fields: dict | None = None, **settings) -> Path:
    """Train a tiny model for 7 steps: 3 an epoch, checkpoints after steps 2, 3, 4, 6, 7."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    defaults = {
        "tokenizer": str(ROOT / "recipes/tokenizer-synthetic"),
        "batch_size": 8,
        "num_views": 1,
        "crop_pad": 2,
        "optimizer": "adamw",
        "warmup_epochs": 1.0,
        "max_steps": 7,
        "save_steps": 2,
        "log_steps": 1,
        "num_workers": 0,
    }
    recipe = Recipe(**(defaults | settings))
    train_hf.train(RunPaths(str(output_dir), resume=resume), recipe, TINY_MODEL | (model_fields or {}))
    return output_dir


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModel.from_pretrained(folder).state_dict()


@pytest.mark.usefixtures("tiny_corpus")
def test_run_leaves_loadable_models_metrics_and_curves(tmp_path):
    output_dir = run(tmp_path / "run", itc_weight=1.0, text_groups=2, group_by_length=True, max_grad_norm=1.0)
    for name in ("best", "final"):
        processor = AutoProcessor.from_pretrained(output_dir / name)
        inputs = processor(text=["a man in a red coat"], return_tensors="pt")
        assert AutoModel.from_pretrained(output_dir / name)(**inputs).text_embeds.shape == (1, 32)
    records = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 8))
    validations = [r for r in records if "validation" in r]
    assert [r["step"] for r in validations] == [3, 6, 7]
    assert all(r["validation"]["text_to_image"]["num_queries"] == 16 for r in validations)
    assert (output_dir / "curves.png").stat().st_size > 5_000
    assert sorted(p.name for p in (output_dir / "checkpoints").iterdir()) == ["step-00000006", "step-00000007"]


@pytest.mark.usefixtures("tiny_corpus")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "num_workers": 1, "max_steps": 5},
        {"ema_decay": 0.9, "sdm_weight": 1.0, "identity_weight": 1.0, "flip_words": True, "cached_chunk": 3}
        | {
            "pairs_per_person": 2,
            "rand_augment": 2,
            "swap_synonyms": 0.3,
            "drop_attributes": 0.3,
            "drop_phrases": 0.2,
        },
    ],
)
def test_resumed_run_ends_with_the_same_weights_and_metrics(tmp_path, monkeypatch, settings):
    whole = run(tmp_path / "whole", **settings)
    backward, calls = train_hf.backward, []

    def break_off_in_step_6(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return backward(*arguments)

    monkeypatch.setattr(train_hf, "backward", break_off_in_step_6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", **settings)
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as metrics_file:
        metrics_file.write('{"step": 2, "lo')  # as a kill in the middle of a line leaves it
    monkeypatch.setattr(train_hf, "backward", backward)
    broken = run(tmp_path / "broken", resume=True, **settings)
    for name, tensor in weights(whole / "final").items():
        assert torch.equal(tensor, weights(broken / "final")[name]), name
    metrics = []
    for folder in (whole, broken):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        metrics.append([{k: v for k, v in r.items() if k != "seconds"} for r in records])
    assert metrics[0] == metrics[1]


@pytest.mark.usefixtures("tiny_corpus")
def test_averaged_weights_are_validated_and_saved_and_leave_training_alone(tmp_path, monkeypatch):
    validated, trained, update = [], [], Objective.update_average
    evaluate = train_hf.evaluate_retrieval

    def validate(model, *rest, **options):
        validated.append(copy.deepcopy(model.evaluated_model.state_dict()))
        return evaluate(model, *rest, **options)

    def remember_and_update(objective, step):
        update(objective, step)
        trained.append(copy.deepcopy(objective.model.state_dict()))

    monkeypatch.setattr(train_hf, "evaluate_retrieval", validate)
    monkeypatch.setattr(Objective, "update_average", remember_and_update)
    settings = {"identity_weight": 1.0, "sdm_weight": 1.0}
    plain = weights(run(tmp_path / "plain", **settings) / "final")
    averaged = weights(run(tmp_path / "averaged", ema_decay=0.9, **settings) / "final")
    for name, tensor in averaged.items():
        assert torch.equal(tensor, validated[-1][name]) and torch.equal(plain[name], trained[-1][name]), name
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in averaged.items())
    # what training alone needs is in the checkpoints, not in the model
    assert set(load_file(tmp_path / "averaged/final/model.safetensors")) == set(averaged)
    (checkpoint,) = checkpoints.find_checkpoints(tmp_path / "averaged")[-1:]
    training_only = {"classifier.weight", "classifier.bias", "log_temperature"}
    expected = training_only | {f"{kind}.{name}" for kind in ("model", "average") for name in averaged}
    assert set(load_file(checkpoint / "model.safetensors")) == expected


@pytest.mark.usefixtures("tiny_corpus")
def test_finished_run_is_left_alone_and_not_mixed_with_another(tmp_path):
    output_dir = run(tmp_path / "run", max_steps=2)
    before = weights(output_dir / "final")
    with pytest.raises(ValueError, match="holds a run .up to step-00000002.; pass --resume"):
        run(output_dir, max_steps=2)
    with pytest.raises(ValueError, match=r"another recipe \(learning_rate 0.005 -> 1.0\)"):
        run(output_dir, max_steps=2, resume=True, learning_rate=1.0)
    run(output_dir, max_steps=2, resume=True, log_steps=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(output_dir / "final").items())


@pytest.mark.usefixtures("tiny_corpus")
def test_bfloat16_with_gradient_checkpointing_trains(tmp_path):
    first, last = (
        weights(run(tmp_path / name, mixed_precision="bf16", gradient_checkpointing=True, **settings) / "final")
        for name, settings in (("none", {"learning_rate": 0.0}), ("some", {}))
    )
    changed = [name for name, tensor in first.items() if not torch.equal(tensor, last[name])]
    assert {"layers.0.attention.qkv.weight", "layers.1.feed_forward.text.fc1.weight"} <= set(changed)
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in last.values())


@pytest.mark.usefixtures("tiny_corpus")
def test_gradient_accumulation_counts_optimiser_steps(tmp_path):
    output_dir = run(tmp_path / "run", gradient_accumulation_steps=2)
    records = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    # 3 batches an epoch are 2 optimiser steps, the second of them on one batch
    assert [r["epoch"] for r in records if "loss" in r] == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.usefixtures("tiny_corpus")
def test_time_limit_ends_the_run(tmp_path):
    output_dir = run(tmp_path / "run", max_minutes=1e-6)
    records = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 1]


@pytest.mark.usefixtures("tiny_corpus")
def test_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Objective, "forward", lambda self, _batch: next(self.parameters()).sum() * math.nan)
    with pytest.raises(FloatingPointError, match="loss is nan at step 2.*none yet"):
        run(tmp_path / "run", log_steps=100)
    assert not checkpoints.find_checkpoints(tmp_path / "run")


@pytest.mark.usefixtures("tiny_corpus")
def test_resume_without_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="found no checkpoint"):
        run(tmp_path / "run", resume=True)


def test_model_and_tokenizer_that_do_not_fit_are_refused(tmp_path):
    IVTModel(IVTConfig(vocab_size=50, **TINY_MODEL)).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="tokens, the model knows 50"):
        run(tmp_path / "run", init=str(tmp_path / "small"))
    with pytest.raises(ValueError, match="weights of its model or has them in other shapes"):
        run(tmp_path / "run", init=str(tmp_path / "small"), model_fields={"image_size": [64, 32]})
    with pytest.raises(ValueError, match="max_text_tokens is 200, the model holds 96"):
        run(tmp_path / "run", max_text_tokens=200)
    with pytest.raises(ValueError, match="tokenizer 'no/where' is no folder"):
        run(tmp_path / "run", tokenizer="no/where")
