"""The training script: its arguments, its loss on several processes, a run and its continuation."""

import copy
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import multiprocessing
from transformers import AutoModel, AutoProcessor

import train_hf
from modeling_ivt import IVTConfig, IVTModel, cmpm_loss
from train_tiny import TINY_MODEL, load_tiny
from training import checkpoints, objectives, optimization
from training.objectives import GatherWithGradient, Objective
from training.recipe import Recipe, RunPaths, parse_arguments

ROOT = Path(__file__).parents[1]


# ---- arguments


def test_command_line_wins_over_recipe_file(tmp_path):
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text("learning_rate: 1e-3\nlevels: [sentence]\nmodel:\n  hidden_size: 64\n  patch_stride: 8\n")
    arguments = ["--config", str(recipe_file), "--learning_rate", "0.5", "--model.hidden_size", "96", "--seed", "7"]
    paths, recipe, model_fields = parse_arguments(arguments)
    assert (recipe.learning_rate, recipe.levels, recipe.seed) == (0.5, ["sentence"], 7)
    assert model_fields == {"hidden_size": 96, "patch_stride": 8}
    assert paths == RunPaths()


@pytest.mark.parametrize(
    "misspelt, nearest", [("learning_rat", "learning_rate"), ("model.hiden_size", "model.hidden")]
)
def test_misspelt_field_names_the_nearest(tmp_path, misspelt, nearest):
    with pytest.raises(ValueError, match=f"no field '{misspelt}'; the nearest is '{nearest}"):
        parse_arguments([f"--{misspelt}", "1"])
    recipe_file = tmp_path / "recipe.yaml"
    group, _, name = misspelt.rpartition(".")
    recipe_file.write_text(f"{group}:\n  {name}: 1\n" if group else f"{name}: 1\n")
    with pytest.raises(ValueError, match=f"the nearest is '{nearest}"):
        parse_arguments(["--config", str(recipe_file)])


@pytest.mark.parametrize("recipe_file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_the_repository_are_valid(recipe_file):
    _, recipe, model_fields = parse_arguments(["--config", str(recipe_file)])
    IVTConfig(**model_fields)
    assert recipe.corpus.replace("-", "_") == recipe_file.stem or recipe_file.stem == "demo"


@pytest.mark.parametrize(
    "name, stride, batch_size", [("cuhk_pedes", 12, 28), ("icfg_pedes", 12, 28), ("rstpreid", 16, 48)]
)
def test_corpus_recipes_have_the_settings_of_the_paper(name, stride, batch_size):
    _, recipe, model_fields = parse_arguments(["--config", str(ROOT / f"recipes/{name}.yaml")])
    config = IVTConfig(**model_fields)
    assert (config.patch_stride, config.patch_size, tuple(config.image_size)) == (stride, 16, (384, 128))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.intermediate_size, config.bmm_ratio, config.drop_path_rate) == (3072, 0.2, 0.1)
    assert (recipe.optimizer, recipe.learning_rate, recipe.bias_lr_factor) == ("sgd", 0.005, 2)
    assert (recipe.momentum, recipe.weight_decay, recipe.min_lr_ratio) == (0.9, 1e-4, 0.002)
    assert (recipe.warmup_epochs, recipe.epochs, recipe.batch_size) == (5, 120, batch_size)
    assert (recipe.mixed_precision, recipe.levels, recipe.num_views) == ("fp16", ["sentence", "phrase", "word"], 3)
    assert (recipe.flip, recipe.erase, recipe.crop_pad) == (0.5, 0.5, 10)
    assert (recipe.cmpm_weight, recipe.itc_weight) == (1, 0)


def test_numbers_with_exponent_reach_the_model():
    assert parse_arguments(["--model.bmm_ratio", "1e-1"])[2] == {"bmm_ratio": 0.1}


@pytest.mark.parametrize(
    "content, message", [(None, "there is no recipe"), ("- 3", "is no recipe"), ("model: 3", "is no recipe")]
)
def test_recipe_files_that_are_none(tmp_path, content, message):
    if content:
        (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"optimizer": "adam"}, "choose sgd or adamw"),
        ({"cmpm_weight": 0.0}, "there is no loss"),
        ({"sdm_temperature": 0.0}, "sdm_temperature is 0.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
    ],
)
def test_recipe_that_cannot_work_is_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


# ---- schedule and optimiser


def test_learning_rate_warms_up_and_ends_at_its_least():
    factor = optimization.learning_rate_factor
    assert factor(0, warmup_steps=10, progress=0.0, min_lr_ratio=0.1) == pytest.approx(0.1)
    assert factor(9, warmup_steps=10, progress=0.0, min_lr_ratio=0.1) == 1.0
    assert factor(50, warmup_steps=10, progress=0.5, min_lr_ratio=0.1) == pytest.approx(0.55)
    assert factor(100, warmup_steps=0, progress=1.2, min_lr_ratio=0.1) == pytest.approx(0.1)


def test_every_parameter_is_optimised_once_and_biases_faster(tiny_config):
    model = IVTModel(tiny_config)
    for name in ("sgd", "adamw"):
        recipe = Recipe(optimizer=name, learning_rate=0.1, bias_lr_factor=2.0, weight_decay=0.01)
        groups = optimization.build_optimizer(model, recipe).param_groups
        settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
        assert sum(len(group["params"]) for group in groups) == len(settings) == len(list(model.parameters()))
        assert settings[id(model.layers[0].attention.qkv.bias)] == (0.2, 0.01 if name == "sgd" else 0.0)
        assert settings[id(model.layers[0].attention.qkv.weight)] == (0.1, 0.01)


# ---- loss


def test_text_groups_do_not_change_the_loss(tiny_config):
    model = IVTModel(tiny_config).eval()
    lengths = torch.tensor([3, 9, 5, 12, 4, 7])
    batch = {
        "pixel_values": torch.randn(2, 3, *tiny_config.image_size),
        "input_ids": torch.randint(5, tiny_config.vocab_size, (6, 12)),
        "attention_mask": (torch.arange(12) < lengths[:, None]).long(),
        "person_ids": torch.tensor([4, 9]),
        "text_person_ids": torch.tensor([4, 9, 4, 9, 4, 9]),
    }
    losses = [
        objectives.Objective(model, Recipe(sdm_weight=1.0, token_weight=1.0, text_groups=text_groups)).eval()(batch)
        for text_groups in (1, 3)
    ]
    torch.testing.assert_close(losses[0], losses[1])


def _gather_on_one_of_two(rank: int, folder: str) -> None:
    """One of two processes: the gradient of a loss over the gathered rows with respect to its own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images, texts, ids = torch.load(f"{folder}/batch.pt")
    own = slice(2 * rank, 2 * rank + 2)
    local = images[own].clone().requires_grad_()
    cmpm_loss(GatherWithGradient.apply(local), GatherWithGradient.apply(texts[own]), ids).backward()
    torch.save(local.grad, f"{folder}/gradient{rank}.pt")
    torch.distributed.destroy_process_group()


def test_gathered_loss_has_the_gradient_of_the_whole_batch(tmp_path):
    images, texts, ids = torch.randn(4, 8), torch.randn(4, 8), torch.tensor([1, 2, 1, 3])
    torch.save((images, texts, ids), tmp_path / "batch.pt")
    multiprocessing.spawn(_gather_on_one_of_two, args=(str(tmp_path),), nprocs=2)
    whole = images.clone().requires_grad_()
    cmpm_loss(whole, texts, ids).backward()
    gathered = torch.cat([torch.load(tmp_path / f"gradient{rank}.pt") for rank in range(2)])
    # both processes compute the loss; DDP averages over the two, so twice the gradient is right
    torch.testing.assert_close(gathered / 2, whole.grad)


# ---- a run


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
        {"ema_decay": 0.9, "sdm_weight": 1.0, "token_weight": 1.0, "flip_words": True},
    ],
)
def test_resumed_run_ends_with_the_same_weights_and_metrics(tmp_path, monkeypatch, settings):
    whole = run(tmp_path / "whole", **settings)
    loss_of, calls = Objective.forward, []

    def break_off_in_step_6(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return loss_of(*arguments)

    monkeypatch.setattr(Objective, "forward", break_off_in_step_6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", **settings)
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as metrics_file:
        metrics_file.write('{"step": 2, "lo')  # as a kill in the middle of a line leaves it
    monkeypatch.setattr(Objective, "forward", loss_of)
    broken = run(tmp_path / "broken", resume=True, **settings)
    for name, tensor in weights(whole / "final").items():
        assert torch.equal(tensor, weights(broken / "final")[name]), name
    metrics = []
    for folder in (whole, broken):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        metrics.append([{k: v for k, v in r.items() if k != "seconds"} for r in records])
    assert metrics[0] == metrics[1]


def start_tiny_training(*arguments: object, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "tests/train_tiny.py", *map(str, arguments)]
    environment |= {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()


def test_two_processes_train_as_one_with_their_batches_together(tmp_path):
    finish(start_tiny_training(tmp_path / "one", tmp_path / "cache", 8))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    two = [
        start_tiny_training(tmp_path / "two", tmp_path / "cache", 4, RANK=rank, LOCAL_RANK=rank, **meeting)
        for rank in ("0", "1")
    ]
    for process in two:
        finish(process)
    together = weights(tmp_path / "two" / "final")
    for name, tensor in weights(tmp_path / "one" / "final").items():
        torch.testing.assert_close(together[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_average_forgets_the_first_weights_at_the_warmed_up_rate(tiny_config):
    objective = Objective(IVTModel(tiny_config), Recipe(ema_decay=0.5))
    values, weight, expected = (
        [3.0, -1.0, 4.0, 8.0, 5.0, 2.0, 7.0, 1.0, 0.0, 6.0],
        objective.model.layernorm.weight,
        1.0,
    )
    for step, value in enumerate(values, start=1):
        weight.data.fill_(value)
        objective.update_average(step)
        decay = min(0.5, (1 + step) / (10 + step))  # 2/11, 3/12, …, 9/18 = 0.5, 0.5
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(objective.evaluated_model.layernorm.weight, torch.full((32,), expected))
    assert not any(parameter.requires_grad for parameter in objective.average.parameters())


@pytest.mark.usefixtures("tiny_corpus")
def test_averaged_weights_are_validated_and_saved_and_leave_training_alone(tmp_path, monkeypatch):
    validated, trained, update = [], [], Objective.update_average
    evaluate = train_hf.evaluate_retrieval

    def validate(model, *rest, **options):
        validated.append(copy.deepcopy(model.state_dict()))
        return evaluate(model, *rest, **options)

    def remember_and_update(objective, step):
        update(objective, step)
        trained.append(copy.deepcopy(objective.model.state_dict()))

    monkeypatch.setattr(train_hf, "evaluate_retrieval", validate)
    monkeypatch.setattr(Objective, "update_average", remember_and_update)
    plain = weights(run(tmp_path / "plain") / "final")
    averaged = weights(run(tmp_path / "averaged", ema_decay=0.9) / "final")
    for name, tensor in averaged.items():
        assert torch.equal(tensor, validated[-1][name]) and torch.equal(plain[name], trained[-1][name]), name
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in averaged.items())


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
