"""The training script: a run, its end, and its continuation."""

import copy
import io
import json
import math
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, AutoTokenizer

import train_hf
from ivt.corpora.sharded import SHARD_FEATURES, ShardedRows, write_shards
from ivt.retrieval.evaluation import evaluate_retrieval
from ivt.training import checkpoints, data, runlog
from ivt.training.objective import Objective
from ivt.training.optimization import build_optimizer
from ivt.training.recipe import Recipe, RunPaths
from ivt.training.record import is_finished
from modeling_ivt import IVTConfig, IVTModel
from processing import IVTImageProcessor, IVTProcessor, batches
from train_tiny import TINY_MODEL, load_tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny_corpus(tmp_path_factory, monkeypatch):
    root = str(tmp_path_factory.getbasetemp() / "corpus")
    monkeypatch.setattr(data, "load_corpus", lambda name, _root, split, **options: load_tiny(root, split))


def forget_accelerators() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run(
    output_dir: Path, resume: bool = False, model_fields: dict | None = None, options: dict | None = None, **settings
) -> Path:
    """Train a tiny model for 7 steps: 3 an epoch, checkpoints after steps 2, 3, 4, 6, 7."""
    forget_accelerators()
    defaults = {
        "tokenizer": str(ROOT / "ivt/recipes/tokenizer-synthetic"),
        "batch_size": 8,
        "num_views": 1,
        "crop_pad": 2,
        "optimizer": "adamw",
        "warmup_epochs": 1.0,
        "max_steps": 7,
        "save_steps": 2,
        "log_steps": 1,
        "num_workers": 0,
        "test_at_end": False,
    }
    recipe = Recipe(**(defaults | settings))
    paths = RunPaths(str(output_dir), resume=resume, **(options or {}))
    (train_hf.train if paths.seeds == 1 else train_hf.train_seeds)(paths, recipe, TINY_MODEL | (model_fields or {}))
    return output_dir


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModel.from_pretrained(folder).state_dict()


@pytest.mark.usefixtures("tiny_corpus")
def test_run_leaves_loadable_models_metrics_and_curves(tmp_path):
    output_dir = run(tmp_path / "run", itc_weight=1.0)
    for name in ("best", "final"):
        processor = AutoProcessor.from_pretrained(output_dir / name)
        inputs = processor(text=["a man in a red coat"], return_tensors="pt")
        assert AutoModel.from_pretrained(output_dir / name)(**inputs).text_embeds.shape == (1, 32)
        for beside in ("run.json", "curves.png"):
            assert (output_dir / name / beside).read_bytes() == (output_dir / beside).read_bytes()
    records = metrics_of(output_dir)
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
        {"log_steps": 5, "max_minutes": 1000.0},
        {"gradient_accumulation_steps": 2, "num_workers": 1, "max_steps": 5},
        {"ema_decay": 0.9, "sdm_weight": 1.0, "identity_weight": 1.0, "flip_words": True, "cached_chunk": 3}
        | {
            "pairs_per_person": 2,
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
    expected, found = (
        [{k: v for k, v in record.items() if k != "seconds"} for record in metrics_of(folder)]
        for folder in (whole, broken)
    )
    assert found == expected


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
        assert torch.equal(tensor, validated[-1][name].cpu()) and torch.equal(plain[name], trained[-1][name].cpu())
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
    records = metrics_of(output_dir)
    # 3 batches an epoch are 2 optimiser steps, the second of them on one batch
    assert [r["epoch"] for r in records if "loss" in r] == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.usefixtures("tiny_corpus")
def test_time_limit_ends_the_run(tmp_path):
    output_dir = run(tmp_path / "run", max_minutes=1e-6)
    records = metrics_of(output_dir)
    assert [r["step"] for r in records] == [1, 1]


@pytest.mark.usefixtures("tiny_corpus")
def test_loss_that_is_not_finite_stops_the_run_and_names_step_and_images(tmp_path, monkeypatch):
    backward, batches = train_hf.backward, []

    def fail_in_step_5(accelerator, objective, batch, *more):
        batches.append(batch)
        return backward(accelerator, objective, batch, *more) * (math.nan if len(batches) == 5 else 1)

    monkeypatch.setattr(train_hf, "backward", fail_in_step_5)
    with pytest.raises(FloatingPointError, match="loss is nan at step 5.*step-00000004") as stopped:
        run(tmp_path / "run", log_steps=100)  # it is looked at after step 6
    assert len(batches) == 6
    images = set(re.findall(r"train/\S+\.jpg", str(stopped.value)))
    assert images == set(batches[4]["image_ids"]) != set(batches[5]["image_ids"])
    assert checkpoints.find_checkpoints(tmp_path / "run")[-1].name == "step-00000004"


@pytest.mark.usefixtures("tiny_corpus")
def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    update = Objective.update_average

    def spoil_in_step_4(objective, step):
        update(objective, step)
        if step == 4:  # whose loss was finite
            objective.model.layernorm.bias.data[3] = math.inf

    monkeypatch.setattr(Objective, "update_average", spoil_in_step_4)
    with pytest.raises(
        FloatingPointError, match="1 of 44 weights.*step 4, the first is model.layernorm.bias.*00000003"
    ):
        run(tmp_path / "run", log_steps=100)
    assert checkpoints.find_checkpoints(tmp_path / "run")[-1].name == "step-00000003"


@pytest.mark.usefixtures("tiny_corpus")
def test_disk_that_is_full_at_the_very_end_is_named_and_the_run_can_be_finished(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        write = runlog.write_record

        def fail_at_the_end(record, *folders):
            if record["finished"]:
                raise OSError("No space left on device")
            write(record, *folders)

        patch.setattr(runlog, "write_record", fail_at_the_end)
        with pytest.raises(OSError, match="run.json could not be written: No space.*--resume.*-00000003 is whole"):
            run(tmp_path / "run", max_steps=3)
    assert not is_finished(tmp_path / "run", test_at_end=False)
    assert is_finished(run(tmp_path / "run", resume=True, max_steps=3), test_at_end=False)


@pytest.mark.usefixtures("tiny_corpus")
def test_seed_and_data_decide_the_weights(tmp_path):
    once, again, other = (
        weights(run(tmp_path / name, max_steps=3, **settings) / "final")
        for name, settings in (("once", {}), ("again", {"num_workers": 1}), ("other", {"seed": 1}))
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())
    assert not torch.equal(once["layernorm.bias"], other["layernorm.bias"])


class Clock:
    """Time that goes on by a second whenever somebody looks."""

    def __init__(self):
        self.seconds = 0

    def perf_counter(self) -> float:
        self.seconds += 1
        return float(self.seconds)


@pytest.mark.usefixtures("tiny_corpus")
def test_time_limited_run_that_was_broken_off_has_the_time_that_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr("ivt.training.run.time", Clock())
    whole = run(tmp_path / "whole", max_minutes=8 / 60, max_steps=100)
    steps = [record["step"] for record in metrics_of(whole) if "loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6]  # and two seconds for two validations
    broken, update = tmp_path / "broken", Objective.update_average

    def break_off_in_step_5(objective, step):
        if step == 5:
            raise KeyboardInterrupt
        update(objective, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "update_average", break_off_in_step_5)
        run(broken, max_minutes=8 / 60, max_steps=100)
    monkeypatch.setattr("ivt.training.run.time", Clock())
    run(broken, max_minutes=8 / 60, max_steps=100, resume=True)
    assert metrics_of(broken) == metrics_of(whole)
    for name, tensor in weights(whole / "final").items():
        assert torch.equal(tensor, weights(broken / "final")[name]), name


# ---- pre-training

PRETRAIN = {"stage": "pretrain", "levels": ["sentence"], "cmpm_weight": 0.0}
PRETRAIN |= dict.fromkeys(("itc_weight", "itm_weight", "mlm_weight"), 1.0)
FUSION = {"num_fusion_layers": 1, "itc_temperature": 1.0}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A run of pre-training on streamed pictures that have no identities, with dropout."""
    shards, output_dir = (tmp_path_factory.mktemp("pretrained") / name for name in ("shards", "run"))
    for split in ("train", "val", "test"):
        rows = load_tiny(str(tmp_path_factory.getbasetemp() / "corpus"), split).remove_columns("person_id")
        write_shards(rows, shards, split, rows_per_shard=6)
    corpus = {"corpus": "shards", "streaming": True, "stream_buffer": 8}
    options = {"corpus_root": str(shards)}
    return run(output_dir, model_fields=FUSION, options=options, **PRETRAIN, **corpus, test_at_end=True)


def test_pretraining_leaves_what_a_fine_tuning_leaves_and_logs_its_losses_one_by_one(pretrained):
    whole = AutoModelForPreTraining.from_pretrained(pretrained / "best")
    assert whole.fusion_layers[0].cross_attention.query.weight.any()
    records = metrics_of(pretrained)
    lines = [record for record in records if "loss" in record]
    assert len(lines) == 7
    for line in lines:
        assert list(line["losses"]) == ["itc", "itm", "mlm"]
        assert sum(line["losses"].values()) == pytest.approx(line["loss"], rel=1e-5)
    record = json.loads((pretrained / "run.json").read_text())
    assert record["finished"] and record["recipe"]["stage"] == "pretrain"
    assert record["corpus"]["sizes"]["train"] == {"people": 12, "images": 12, "captions": 24}
    assert record["results"]["test"]["final"]["text_to_image"]["num_queries"] == 16


@pytest.mark.usefixtures("tiny_corpus")
def test_fine_tuning_begins_with_the_encoder_of_a_pretraining(pretrained, tmp_path):
    run(tmp_path / "run", max_steps=1, learning_rate=0.0, init=str(pretrained / "final"), weight_decay=0.0)
    begun, before = (load_file(folder / "final/model.safetensors") for folder in (tmp_path / "run", pretrained))
    assert begun.keys() < before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in begun.items())


@pytest.mark.usefixtures("tiny_corpus")
@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9, "num_workers": 1},
        {"gradient_accumulation_steps": 2, "max_steps": 5, "gradient_checkpointing": True, "optimizer": "sgd"},
    ],
)
def test_resumed_pretraining_ends_with_the_same_weights_and_losses(tmp_path, monkeypatch, settings):
    settings = PRETRAIN | {"model_fields": FUSION} | settings
    whole = run(tmp_path / "whole", **settings)
    backward, calls = train_hf.backward, []

    def break_off_in_step_6(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return backward(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_hf, "backward", break_off_in_step_6)
        run(tmp_path / "broken", **settings)
    broken = run(tmp_path / "broken", resume=True, **settings)
    found, expected = (load_file(folder / "final/model.safetensors") for folder in (broken, whole))
    assert "mlm_head.dense.weight" in expected
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    lines = [[(r["step"], r["losses"]) for r in metrics_of(folder) if "loss" in r] for folder in (broken, whole)]
    assert lines[0] == lines[1]


@pytest.mark.usefixtures("tiny_corpus")
def test_dry_run_of_a_pretraining_tells_its_cost(tmp_path, capsys):
    run(tmp_path / "run", model_fields=FUSION, options={"dry_run": True}, **PRETRAIN)
    assert re.search(r"step: [\d.]+ GFLOP per process", capsys.readouterr().out)
    assert not (tmp_path / "run").exists()


# ---- batches: what of a recipe reaches pictures, texts and their order


@pytest.mark.parametrize("corpus, num_people", [("synthetic", {"num_people": 5}), ("rstpreid", {})])
def test_corpus_is_loaded_as_the_recipe_says(rows, monkeypatch, corpus, num_people):
    loaded = []

    def load(name: str, root: str, split: str, **options: Any) -> Dataset:
        loaded.append((name, root, split, options))
        return rows.remove_columns("levels")

    monkeypatch.setattr(data, "load_corpus", load)
    recipe = Recipe(corpus=corpus, num_people=5, on_bad_image="skip")
    train_rows = data.load_training_rows(recipe, "data")
    validation_rows = data.load_evaluation_rows(recipe, RunPaths(corpus_root="data"), "val")
    skip = {"on_bad_image": "skip"}
    assert loaded == [(corpus, "data", "train", skip | num_people), (corpus, "data", "val", skip)]
    assert "levels" in train_rows.column_names and "levels" not in validation_rows.column_names


def test_another_corpus_can_judge(monkeypatch, rows):
    loaded = []
    monkeypatch.setattr(data, "load_corpus", lambda *names, **_: loaded.append(names) or rows)
    recipe = Recipe(corpus="shards", eval_corpus="cuhk-pedes")
    data.load_evaluation_rows(recipe, RunPaths(corpus_root="pairs", eval_root="cuhk"), "val")
    assert loaded == [("cuhk-pedes", "cuhk", "val")]
    with pytest.raises(ValueError, match="eval_root is 'cuhk', and no eval_corpus says what is there"):
        data.check_corpus(Recipe(), RunPaths(eval_root="cuhk"))


def test_pairs_without_a_validation_split_are_told_what_to_do(tmp_path):
    (tmp_path / "00000.tar").touch()
    paths = RunPaths(corpus_root=str(tmp_path))
    with pytest.raises(ValueError, match="no shards of split 'val'.*pass --eval_corpus and --eval_root"):
        data.check_corpus(Recipe(corpus="shards"), paths)
    data.check_corpus(Recipe(corpus="shards", eval_corpus="synthetic"), paths)
    with pytest.raises(ValueError, match="no such folder"):
        data.check_corpus(Recipe(corpus="shards", eval_corpus="shards"), replace(paths, eval_root="no/where"))


HEIGHT, WIDTH, NUM_ROWS = 48, 32, 32
PLAIN = {
    "num_views": 1,
    "crop_pad": 0,
    "flip": 0.0,
    "erase": 0.0,
    "levels": ["sentence"],
    "batch_size": 4,
    "num_workers": 0,
}


def picture(number: int) -> np.ndarray:
    """Noise from black to white (3, H, W), no two crops of which are alike."""
    pixels = np.random.default_rng(number).integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, -1, -1] = 0, 255
    return pixels


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Two captions a picture, two pictures a person; the caption of pair p has p words more than that of pair 0."""
    columns = {name: [] for name in SHARD_FEATURES}
    for row in range(NUM_ROWS):
        file = io.BytesIO()
        Image.fromarray(picture(row).transpose(1, 2, 0)).save(file, "PNG")
        columns["image"].append({"bytes": file.getvalue(), "path": None})
        columns["image_id"].append(str(row))
        columns["person_id"].append(row // 2)
        numbers = (2 * row, 2 * row + 1)
        columns["captions"].append([f"A woman in a red coat, her left hand{' now' * pair} free." for pair in numbers])
        levels = {"phrases": ["A woman in a red coat", "her left hand free"], "words": ["woman", "coat", "hand"]}
        columns["levels"].append([levels] * 2)
    return Dataset.from_dict(columns, features=SHARD_FEATURES)


@pytest.fixture(scope="module")
def shards(rows, tmp_path_factory) -> Path:
    """The same rows in one shard."""
    return write_shards(rows, tmp_path_factory.mktemp("shards"), "train")[0].parent


@pytest.fixture(scope="module")
def processor() -> IVTProcessor:
    image_processor = IVTImageProcessor(size={"height": HEIGHT, "width": WIDTH})
    return IVTProcessor(image_processor, AutoTokenizer.from_pretrained(ROOT / "ivt/recipes/tokenizer-synthetic"))


@pytest.fixture
def load(rows, processor) -> Callable[..., DataLoader]:
    """The loader of a recipe that leaves pictures and texts as they are, but for some settings."""
    return lambda num_processes=1, **settings: data.build_loader(
        rows, processor, Recipe(**(PLAIN | settings)), num_processes
    )


@pytest.fixture
def load_streamed(shards, processor) -> Callable[..., DataLoader]:
    streamed = PLAIN | {"corpus": "shards", "streaming": True}
    return lambda num_processes=1, **settings: data.build_loader(
        ShardedRows(shards, "train"), processor, Recipe(**(streamed | settings)), num_processes
    )


@pytest.fixture(params=["load", "load_streamed"])
def load_either(request) -> Callable[..., DataLoader]:
    return request.getfixturevalue(request.param)


def draw_pairs(loader: DataLoader, count: int = 100) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Pairs of many epochs, each with its picture as it was."""
    pairs = [loader.dataset[epoch, epoch % len(loader.dataset)] for epoch in range(count)]
    return [(picture(int(pair["image_id"])), pair) for pair in pairs]


def test_recipe_without_augmentation_gives_pictures_and_captions_as_they_are(load_either):
    for plain, pair in draw_pairs(load_either()):
        np.testing.assert_array_equal(pair["views"], plain[None])
        (text,) = pair["texts"]
        assert text.startswith("A woman in a red coat, her left hand ") and text.endswith(" free.")


def test_views_are_crops_from_as_much_padding_as_the_recipe_says(load_either):
    seen = set()
    for plain, pair in draw_pairs(load_either(crop_pad=1)):
        padded = np.pad(plain, ((0, 0), (1, 1), (1, 1)))
        places = [(top, left) for top in range(3) for left in range(3)]
        crops = [padded[:, top : top + HEIGHT, left : left + WIDTH] for top, left in places]
        (place,) = [place for place, crop in zip(places, crops, strict=True) if (crop == pair["views"][0]).all()]
        seen.add(place)
    assert len(seen) == 9


def test_views_are_mirrored_as_often_as_the_recipe_says(load_either):
    mirrored = []
    for plain, pair in draw_pairs(load_either(flip=0.25), 400):
        mirrored.append((pair["views"][0] != plain).any())
        np.testing.assert_array_equal(pair["views"][0], plain[:, :, ::-1] if mirrored[-1] else plain)
    assert np.mean(mirrored) == pytest.approx(0.25, abs=0.08)


def test_rectangles_are_erased_as_often_as_the_recipe_says(load_either):
    erased = []
    for plain, pair in draw_pairs(load_either(erase=0.25), 400):
        changed = (pair["views"][0] != plain).any(axis=0)
        erased.append(changed.any())
        assert (pair["views"][0][:, changed] == 127).all()
    assert np.mean(erased) == pytest.approx(0.25, abs=0.08)


def test_rectangles_are_noise_that_the_model_sees_as_standard_normal_if_the_recipe_says_so(load_either):
    noise = []
    for plain, pair in draw_pairs(load_either(erase=1.0, erasing="noise")):
        view = pair["views"][0]
        assert view.dtype == np.float32
        noise.append((view[view != plain] / 255 - 0.5) / 0.5)
    assert abs(np.concatenate(noise).std() - 1) < 0.1 and abs(np.concatenate(noise).mean()) < 0.1


def test_pictures_are_resized_bicubically_in_training_whatever_the_processor_does(load_either, processor, monkeypatch):
    monkeypatch.setattr(processor.image_processor, "resample", Image.Resampling.NEAREST)
    monkeypatch.setattr(processor.image_processor, "size", {"height": 9, "width": 5})
    row, _, pixels = load_either().dataset.read(0)
    plain = Image.fromarray(picture(int(row["image_id"])).transpose(1, 2, 0)).resize((5, 9), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels, np.asarray(plain).transpose(2, 0, 1))


def test_levels_are_those_of_the_authors_if_the_recipe_says_so(load_either):
    def texts(**settings: Any) -> set[str]:
        return {text for _, pair in draw_pairs(load_either(**settings)) for text in pair["texts"]}

    subsets = texts(levels=["word"], words="subset")
    assert "coat" in subsets and "woman hand" in subsets and len(subsets) == 7
    assert "A woman in a red coat" in texts(levels=["word"], words="clause")
    assert "A woman in a red coat" not in texts(levels=["word"])
    longest = texts(levels=["phrase"], phrases="longest")
    assert all(text in longest for text in ("A woman in a red coat",)) and len(longest) > 2


def test_groups_that_are_not_full_are_left_out_if_the_recipe_says_so(load):
    def batches_of_four_pairs_a_person(**settings: Any) -> int:
        return len(indices(load(batch_size=3, pairs_per_person=3, **settings)))

    assert batches_of_four_pairs_a_person() == NUM_ROWS  # two groups a person, of two pictures each
    assert batches_of_four_pairs_a_person(drop_incomplete=True) == NUM_ROWS // 2


def test_training_rows_are_of_the_splits_and_lengths_of_the_recipe(rows, monkeypatch):
    asked = []

    def load_corpus(name: str, root: str | None, split: str, **options: Any) -> Dataset:
        asked.append(split)
        return rows.remove_columns("levels")

    monkeypatch.setattr(data, "load_corpus", load_corpus)
    data.load_training_rows(Recipe(corpus="rstpreid"), None)
    found = data.load_training_rows(Recipe(corpus="rstpreid", train_split="train+val", max_caption_words=12), None)
    assert asked == ["train", "train+val"]
    # of pair p the caption has 10 + p words
    assert found["image_id"][:] == ["0", "1"] and found["captions"][1] == rows["captions"][1][:1]
    assert [len(levels) for levels in found["levels"]] == [2, 1]


def test_texts_are_of_the_levels_of_the_recipe(load_either):
    phrases, words = {"A woman in a red coat", "her left hand free"}, {"woman coat hand"}
    assert {text for _, pair in draw_pairs(load_either(levels=["word"])) for text in pair["texts"]} == words
    assert {text for _, pair in draw_pairs(load_either(levels=["phrase"])) for text in pair["texts"]} == phrases


@pytest.mark.parametrize(
    "name, change",
    [
        ("drop_attributes", lambda caption: {caption.replace("red ", "").replace("left ", "")}),
        ("drop_phrases", lambda caption: {"A woman in a red coat", caption.removeprefix("A woman in a red coat, ")}),
    ],
    ids=["attributes", "phrases"],
)
def test_captions_change_in_the_way_that_the_recipe_says(load_either, name, change):
    def captions(**settings: float) -> list[str]:
        return [pair["texts"][0] for _, pair in draw_pairs(load_either(**settings), 150)]

    plain, changed, sometimes = captions(), captions(**{name: 1.0}), captions(**{name: 0.25})
    assert all(after in change(before) for before, after in zip(plain, changed, strict=True))
    share = np.mean([before != after for before, after in zip(plain, sometimes, strict=True)])
    assert share == pytest.approx(1 - 0.75**2, abs=0.1)  # there are two attributes, and two phrases


@pytest.mark.parametrize("flip_words, side", [(False, "left"), (True, "right")])
def test_sides_are_swapped_in_the_texts_of_mirrored_pictures_if_the_recipe_says_so(load_either, flip_words, side):
    assert all(
        f"her {side} hand" in pair["texts"][0]
        for _, pair in draw_pairs(load_either(flip=1.0, flip_words=flip_words), 20)
    )


@pytest.mark.parametrize("num_processes", [1, 2])
def test_batch_of_a_process_has_the_pairs_views_and_texts_of_the_recipe(load_either, num_processes):
    loader = load_either(num_processes, batch_size=5, num_views=2, levels=["sentence", "phrase", "word"])
    batch = next(iter(loader))
    assert len(batch["image_ids"]) == 5
    assert batch["pixels"].shape == (2 * 5, 3, HEIGHT, WIDTH)
    assert len(batch["input_ids"]) == len(batch["text_person_ids"]) == 3 * 5


def indices(loader: DataLoader, epoch: int = 0) -> np.ndarray:
    """Pairs in the order of an epoch, (batches, B); with several processes the first batch is the first one's."""
    loader.sampler.set_epoch(epoch)
    epochs, numbers = np.array(list(loader.sampler)).T
    assert (epochs == epoch).all()
    return numbers.reshape(-1, loader.batch_size)


def lengths(loader: DataLoader, numbers: np.ndarray) -> np.ndarray:
    """Words of the captions of some pairs."""
    return np.vectorize(lambda number: len(loader.dataset[0, number]["texts"][0].split()))(numbers)


@pytest.mark.parametrize("settings", [{}, {"pairs_per_person": 2}, {"streaming": True}])
def test_seed_of_the_recipe_decides_the_order_and_the_augmentation(load, load_streamed, settings):
    settings = settings | {"crop_pad": 5}
    build = load_streamed if settings.pop("streaming", False) else load
    loader, again, other = (build(seed=seed, **settings) for seed in (3, 3, 4))
    np.testing.assert_array_equal(indices(loader), indices(again))
    assert (indices(loader) != indices(other)).any()
    views, same, different = (
        np.stack([pair["views"] for _, pair in draw_pairs(each, 5)]) for each in (loader, again, other)
    )
    np.testing.assert_array_equal(views, same)
    assert (views != different).any()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_batches_hold_captions_of_like_length_if_the_recipe_says_so(load, num_processes):
    def ranges(group_by_length: bool) -> list[tuple[int, int]]:
        """The shortest and the longest caption of what the processes share, in ascending order."""
        loader = load(num_processes, group_by_length=group_by_length)
        shared = lengths(loader, indices(loader)).reshape(-1, num_processes * PLAIN["batch_size"])
        return sorted(zip(shared.min(axis=1), shared.max(axis=1), strict=True))

    assert all(longest < shortest for (_, longest), (shortest, _) in pairwise(ranges(True)))
    assert not all(longest < shortest for (_, longest), (shortest, _) in pairwise(ranges(False)))


def test_processes_share_batches_of_so_many_pairs_per_person_as_the_recipe_says(load):
    loader = load(2, pairs_per_person=2)
    for epoch in range(5):
        for shared in indices(loader, epoch).reshape(-1, 8):
            persons = [loader.dataset[0, number]["person_id"] for number in shared]
            assert sorted(persons.count(person) for person in set(persons)) == [2, 2, 2, 2]


def is_stretch(numbers: np.ndarray) -> bool:
    """Whether pairs lie one behind the other in the one shard, or at its end and its beginning."""
    steps = np.diff(np.sort(numbers, axis=None), append=np.min(numbers) + 2 * NUM_ROWS)
    return (steps == 1).sum() >= numbers.size - 1


def test_streamed_pairs_are_shuffled_within_the_buffer_of_the_recipe(load_streamed):
    # eight lanes with a batch of four pairs each have room in the smaller one: batches come as they are read
    assert all(is_stretch(batch) for batch in indices(load_streamed(stream_buffer=8 * 4)))
    batches_of_lane = indices(load_streamed(stream_buffer=2 * 8 * 4)).reshape(2, 8, 4).swapaxes(0, 1)
    assert all(is_stretch(both) for both in batches_of_lane)
    assert not all(is_stretch(batch) for both in batches_of_lane for batch in both)


def test_processes_stream_pairs_of_their_own(load_streamed):
    for process in range(2):
        assert is_stretch(indices(load_streamed(2))[process::2])


def test_streamed_batches_hold_captions_of_like_length_if_the_recipe_says_so(load_streamed):
    def are_sorted(group_by_length: bool) -> list[bool]:
        """Of each of the eight lanes, which have two batches: whether one has the longer captions."""
        loader = load_streamed(group_by_length=group_by_length)
        words = lengths(loader, indices(loader)).reshape(2, 8, 4)
        return [max(a) < min(b) or max(b) < min(a) for a, b in words.swapaxes(0, 1)]

    assert all(are_sorted(True)) and not all(are_sorted(False))


def test_cached_images_are_decoded_once(load, monkeypatch):
    decode, decoded = batches.resized_pixels, []

    def noted(image: Image.Image, *settings: Any) -> np.ndarray:
        decoded.append(image)
        return decode(image, *settings)

    monkeypatch.setattr(batches, "resized_pixels", noted)
    for cache_images, expected in ((False, [0, 64, 128]), (True, [NUM_ROWS] * 3)):
        decoded.clear()
        loader = load(cache_images=cache_images)
        counts = [len(decoded)]
        for _ in range(2):
            assert len(list(loader)) == 16
            counts.append(len(decoded))
        assert counts == expected


def test_loader_has_the_workers_of_the_recipe(load_either):
    assert [load_either(num_workers=number).num_workers for number in (0, 1)] == [0, 1]


# ---- a step


@pytest.fixture
def batch(tiny_batch) -> dict[str, Any]:
    return tiny_batch | {"text_person_ids": tiny_batch["person_ids"], "image_ids": ["a.jpg", "b.jpg", "c.jpg"]}


def move(config: IVTConfig, recipe: Recipe, parts: list[dict[str, Any]], factor: float = 1.0) -> tuple[dict, dict]:
    """How far a step on some batches moves every weight, and the gradient by plain autograd."""
    forget_accelerators()
    objective = Objective(IVTModel(config), recipe)
    torch.stack([objective(part) for part in parts]).mean().backward()
    gradients = {name: weight.grad for name, weight in objective.named_parameters()}
    before = {name: weight.detach().clone() for name, weight in objective.named_parameters()}
    objective.zero_grad()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(parts))
    prepared, optimizer = accelerator.prepare(objective, build_optimizer(objective, recipe))
    for part in parts:
        train_hf.train_on_batch(accelerator, prepared, optimizer, part, recipe, factor)
    return {name: before[name] - weight.detach() for name, weight in objective.named_parameters()}, gradients


DESCENT = {"momentum": 0.0, "weight_decay": 0.0, "learning_rate": 10.0}  # no small steps, which rounding would hide


def test_step_moves_every_weight_at_the_rate_of_its_group(tiny_config, batch):
    recipe = Recipe(bias_lr_factor=3.0, layer_lr_decay=0.5, **DESCENT)
    moved, gradients = move(tiny_config, recipe, [batch], factor=0.25)
    rates = {"layernorm": 1.0, "layers.1": 0.5, "layers.0": 0.25, "text_embeddings": 0.125, "image_embeddings": 0.125}
    for name, distance in moved.items():
        (rate,) = [rate for place, rate in rates.items() if name.startswith(f"model.{place}.")]
        rate *= 0.25 * 10.0 * (3.0 if name.endswith(".bias") else 1.0)
        torch.testing.assert_close(distance, rate * gradients[name], atol=1e-5, rtol=1e-4, msg=name)
        assert distance.abs().max() > 1e-3, name


@pytest.mark.parametrize("limit", [None, 0.5, 2.0])
def test_gradient_of_all_batches_of_a_step_is_clipped_to_the_length_of_the_recipe(tiny_config, batch, limit):
    tiny_config.initializer_range = 0.05  # for gradients of moderate length
    parts = [batch, batch | {"pixel_values": torch.randn(3, 3, 48, 24)}]
    settings = {"bias_lr_factor": 1.0, **DESCENT}
    torch.manual_seed(1)
    _, gradients = move(tiny_config, Recipe(**settings), parts)
    length = math.sqrt(sum(gradient.square().sum() for gradient in gradients.values()))
    torch.manual_seed(1)
    moved, _ = move(tiny_config, Recipe(max_grad_norm=limit and limit * length, **settings), parts)
    scale = 10.0 * min(1.0, limit or 1.0)
    for name, distance in moved.items():
        torch.testing.assert_close(distance, scale * gradients[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("cached_chunk, sizes", [(None, {3}), (2, {2, 1})])
def test_step_embeds_as_many_pairs_at_a_time_as_the_recipe_says(tiny_config, batch, monkeypatch, cached_chunk, sizes):
    embed, seen = Objective.embed, set()

    def noted(objective: Objective, part: dict[str, Any]) -> Any:
        seen.add(len(part["image_ids"]))
        return embed(objective, part)

    forget_accelerators()
    recipe = Recipe(cached_chunk=cached_chunk, **DESCENT)
    objective, accelerator = Objective(IVTModel(tiny_config), recipe), Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(objective, build_optimizer(objective, recipe))
    monkeypatch.setattr(Objective, "embed", noted)
    train_hf.train_on_batch(accelerator, prepared, optimizer, batch, recipe, 1.0)
    assert seen == sizes


class Enough(Exception):
    """Ends a run whose first steps were enough."""


class FirstSteps:
    """What the first batches of a run were trained with; nothing is learnt in it, and it is broken off.

    Attributes:
        draws: a random number that each drew.
        factors: of the learning rate.
        image_ids: of each batch.
        weights: what all began with.
        modes: whether the model was in training mode.
    """

    def __init__(self, patch: pytest.MonkeyPatch, output_dir: Path, count: int, **settings: Any) -> None:
        self.count, self.draws, self.factors, self.image_ids, self.modes = count, [], [], [], []
        patch.setattr(train_hf, "train_on_batch", self.note)
        with pytest.raises(Enough):
            run(output_dir, **({"eval_epochs": 100, "max_steps": 100, "save_steps": None} | settings))

    def note(self, accelerator, objective, optimizer, batch, recipe, factor, floor) -> torch.Tensor:
        if len(self.draws) == self.count:
            raise Enough
        self.weights = nn.utils.parameters_to_vector(objective.parameters()).detach()
        self.draws.append(int(torch.randint(2**62, ())))
        self.factors.append(factor)
        self.image_ids.append(batch["image_ids"])
        self.modes.append(all(module.training for module in objective.modules()))
        return torch.zeros(())


@pytest.mark.usefixtures("tiny_corpus")
def test_every_batch_of_every_epoch_seed_and_process_has_random_numbers_of_its_own(tmp_path, monkeypatch):
    first, other_seed = (FirstSteps(monkeypatch, tmp_path / str(seed), 4, seed=seed) for seed in (0, 1))
    monkeypatch.setattr(Accelerator, "process_index", 1)
    second = FirstSteps(monkeypatch, tmp_path / "second", 4, seed=0)
    assert len({*first.draws, *other_seed.draws, *second.draws}) == 3 * 4
    for steps in (first, other_seed, second):  # three batches are of the first epoch, and one of the second
        assert steps.image_ids[3] not in steps.image_ids[:3]
    # all processes begin with the same weights, another seed with others
    assert torch.equal(first.weights, second.weights) and not torch.equal(first.weights, other_seed.weights)


@pytest.mark.usefixtures("tiny_corpus")
def test_learning_rate_of_a_run_is_that_of_its_recipe(tmp_path, monkeypatch):
    settings = {"warmup_epochs": 2 / 3, "max_steps": 10, "learning_rate": 0.5, "min_lr_ratio": 0.2}
    factors = FirstSteps(monkeypatch, tmp_path / "run", 5, **settings).factors
    cosines = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(5)]
    assert factors == pytest.approx([cosines[0] / 2, *cosines[1:]])  # two of the three steps of an epoch warm up
    rates = [record["learning_rate"] for record in metrics_of(tmp_path / "run")]
    assert rates == pytest.approx([0.5 * factor for factor in factors])


@pytest.mark.usefixtures("tiny_corpus")
def test_model_of_a_checkpoint_is_in_training_mode_also_after_a_validation(tmp_path, monkeypatch, processor):
    config = IVTConfig(vocab_size=len(processor.tokenizer), **TINY_MODEL)
    IVTModel(config).save_pretrained(tmp_path / "start")  # and `from_pretrained` gives a model in evaluation mode
    steps = FirstSteps(monkeypatch, tmp_path / "run", 4, init=str(tmp_path / "start"), eval_epochs=1)
    assert steps.modes == [True] * 4
    assert ["validation" in record for record in metrics_of(tmp_path / "run")] == [False, False, False, True, False]


@pytest.mark.usefixtures("tiny_corpus")
def test_best_is_the_first_model_of_the_highest_recall_and_final_the_last(tmp_path, monkeypatch):
    recalls = iter([10.0, 30.0, 30.0, 20.0])

    def learn(accelerator, objective, *rest) -> torch.Tensor:
        objective.model.layernorm.bias.data += 1
        return torch.zeros(())

    def evaluate(*_, **__) -> dict[str, dict[str, float]]:
        return {"text_to_image": {"R@1": next(recalls), "R@5": 50.0, "R@10": 60.0, "mAP": 40.0}}

    monkeypatch.setattr(train_hf, "train_on_batch", learn)
    monkeypatch.setattr(train_hf, "evaluate_retrieval", evaluate)
    output_dir = run(tmp_path / "run", max_steps=12, save_steps=None)  # three an epoch
    for name, steps in (("best", 6), ("final", 12)):
        assert (weights(output_dir / name)["layernorm.bias"] == steps).all()


# ---- what is reported


@pytest.mark.usefixtures("tiny_corpus")
def test_record_says_what_the_run_was_and_what_came_out(tmp_path, capsys):
    output_dir = run(tmp_path / "run", test_at_end=True, max_steps=4, eval_epochs=2)
    record = json.loads((output_dir / "run.json").read_text())
    assert record["recipe"] == yaml.safe_load((output_dir / "recipe.yaml").read_text())
    assert record["recipe"]["model"] == TINY_MODEL and record["seeds"] == [0]
    assert record["corpus"]["sizes"]["train"] == {"people": 6, "images": 12, "captions": 24}
    assert record["corpus"]["hash"].keys() == {"train", "val", "test"}
    assert record["versions"]["torch"] == version("torch")
    assert (record["steps"], record["epochs"], record["finished"]) == (4, 1, True)
    assert record["wall_seconds"] >= metrics_of(output_dir)[-2]["seconds"]
    validation, test = record["results"]["validation"], record["results"]["test"]
    assert validation == {"step": 4} | metrics_of(output_dir)[-1]["validation"]
    model, processor = (auto.from_pretrained(output_dir / "final") for auto in (AutoModel, AutoProcessor))
    assert test["final"] == evaluate_retrieval(model, processor, data.load_corpus("", "", "test"), progress=False)
    assert test["best"] == test["final"]  # of the same step
    assert f"test, final: R@1 {test['final']['text_to_image']['R@1']:.1f}" in capsys.readouterr().out
    for name in ("best", "final"):
        assert json.loads((output_dir / name / "run.json").read_text()) == record


@pytest.mark.usefixtures("tiny_corpus")
def test_test_split_is_read_once_and_only_when_training_is_over(tmp_path, monkeypatch):
    load, events = data.load_corpus, []
    backward = train_hf.backward

    def noted(name, root, split, **more):
        events.append(split)
        assert more["on_bad_image"] == "skip"
        return load(name, root, split, **more)

    def trained(*arguments):
        events.append("batch")
        return backward(*arguments)

    monkeypatch.setattr(data, "load_corpus", noted)
    monkeypatch.setattr(train_hf, "backward", trained)
    settings = {"max_steps": 2, "on_bad_image": "skip"}
    output_dir = run(tmp_path / "run", **settings)
    run(output_dir, **settings, resume=True)
    assert events == ["train", "val", "batch", "batch"]  # test_at_end is off
    run(output_dir, **settings, resume=True, test_at_end=True)
    assert events[4:] == ["train", "val", "test"]
    run(output_dir, **settings, resume=True, test_at_end=True)
    assert len(events) == 7
    assert json.loads((output_dir / "run.json").read_text())["resumed"][0]["step"] == 2


@pytest.mark.usefixtures("tiny_corpus")
def test_reference_protocol_is_used_for_the_test_and_never_for_validation(tmp_path, monkeypatch):
    results = {"text_to_image": {"R@1": 1.0, "R@5": 2.0, "R@10": 3.0, "mAP": 4.0}}
    monkeypatch.setattr(train_hf, "evaluate_as_reference", lambda *_, **__: results)
    output_dir = run(tmp_path / "run", max_steps=1, test_at_end=True, protocol="reference")
    found = json.loads((output_dir / "run.json").read_text())["results"]
    assert found["test"] == {"best": results, "final": results}
    assert found["validation"]["image_to_text"]["num_queries"] == 8


@pytest.mark.usefixtures("tiny_corpus")
def test_several_seeds_are_several_runs_and_a_summary(tmp_path, capsys):
    settings = {"max_steps": 3, "save_steps": None, "test_at_end": True, "options": {"seeds": 2}}
    output_dir = run(tmp_path / "runs", **settings)
    alone = run(tmp_path / "alone", max_steps=3, seed=1)
    for name, tensor in weights(alone / "final").items():
        assert torch.equal(tensor, weights(output_dir / "seed-1" / "final")[name]), name
    results = [json.loads((output_dir / f"seed-{s}/run.json").read_text())["results"] for s in (0, 1)]
    first, second = (result["test"]["final"]["text_to_image"]["mAP"] for result in results)
    summary = json.loads((output_dir / "seeds.json").read_text())
    assert summary["seeds"] == [0, 1] and summary["results"] == results
    mean, std = (summary[name]["test"]["final"]["text_to_image"]["mAP"] for name in ("mean", "std"))
    assert (mean, std) == pytest.approx(((first + second) / 2, abs(first - second) / math.sqrt(2)))
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("test, final") and line.endswith(f"{mean:.2f} ± {std:.2f}") for line in printed)
    # again: what is finished is left alone, what is missing is run
    shutil.rmtree(output_dir / "seed-1")
    before = (output_dir / "seed-0/metrics.jsonl").stat().st_mtime_ns
    run(output_dir, **settings, resume=True)
    assert (output_dir / "seed-0/metrics.jsonl").stat().st_mtime_ns == before
    assert json.loads((output_dir / "seeds.json").read_text()) == summary


@pytest.mark.usefixtures("tiny_corpus")
def test_epoch_has_a_line(tmp_path, capsys):
    run(tmp_path / "run", eval_epochs=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [re.match(r"epoch \d, step \d", line)[0] for line in lines] == [
        "epoch 1, step 3",
        "epoch 2, step 6",
        "epoch 3, step 7",
    ]
    assert ["validation R@1" in line for line in lines] == [False, True, True]
    losses = [record["loss"] for record in metrics_of(tmp_path / "run") if record["epoch"] == 1]
    assert f"loss {sum(losses[:3]) / 3:.3f}" in lines[1]


@pytest.mark.usefixtures("tiny_corpus")
def test_tensorboard_has_the_figures_of_the_metrics_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output_dir = run(tmp_path / "run", max_steps=3, itc_weight=0.5, options={"report_to": "tensorboard"})
    events = EventAccumulator(str(output_dir / "tensorboard/ivt")).Reload()
    losses = [record["loss"] for record in metrics_of(output_dir) if "loss" in record]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    for name in ("cmpm", "itc"):
        values = [record["losses"][name] for record in metrics_of(output_dir) if "loss" in record]
        assert [event.value for event in events.Scalars(f"train/loss/{name}")] == pytest.approx(values)
    recall = metrics_of(output_dir)[-1]["validation"]["text_to_image"]["R@1"]
    assert [event.value for event in events.Scalars("validation/text_to_image/R1")] == pytest.approx([recall])


def test_tracker_that_is_not_installed_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)  # as if it could not be imported
    with pytest.raises(ValueError, match=r"report_to names trackio.*pip install 'ivt-person-retrieval\[tracking\]'"):
        run(tmp_path / "run", options={"report_to": "trackio"})


@pytest.mark.usefixtures("tiny_corpus")
def test_dry_run_tells_the_cost_and_writes_nothing(tmp_path, capsys):
    run(tmp_path / "run", options={"dry_run": True}, max_steps=600, max_minutes=1e-6)
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    for expected in (
        r"6 people, 12 images, 24 captions",
        r"0\.08 M parameters",
        r"step: [\d.,]+ GFLOP per process in [\d.]+ s",
        r"weights 0\.3 MB, gradients 0\.3 MB, optimiser 0\.6 MB",
        r"peak: \d\.\d\d GB",
        r"600 steps .*, validations .*; max_minutes ends it near step 0",
    ):
        assert re.search(expected, printed), (expected, printed)


def test_model_and_tokenizer_that_do_not_fit_are_refused(tmp_path):
    IVTModel(IVTConfig(vocab_size=50, **TINY_MODEL)).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="tokens, the model knows 50"):
        run(tmp_path / "run", init=str(tmp_path / "small"))
    with pytest.raises(ValueError, match="weights of its model or has them in other shapes"):
        run(tmp_path / "run", init=str(tmp_path / "small"), model_fields={"intermediate_size": 96})
    with pytest.raises(ValueError, match="max_text_tokens is 200, the model holds 96"):
        run(tmp_path / "run", max_text_tokens=200)
    with pytest.raises(ValueError, match="tokenizer 'no/where' is no folder"):
        run(tmp_path / "run", tokenizer="no/where")


@pytest.mark.parametrize(
    "corpus, message",
    [
        ("rstpreid", "no annotations of rstpreid: looked for data_captions.json"),
        ("shards", "no shards of split 'test'.* or pass --test_at_end no"),
    ],
)
def test_corpus_that_is_not_there_is_told_before_weights_are_fetched(tmp_path, monkeypatch, corpus, message):
    for split in ("train", "val"):
        (tmp_path / f"{split}-00000-of-00001.parquet").touch()
    monkeypatch.setattr(train_hf, "build_model", None)  # which asks the Hub
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", corpus=corpus, test_at_end=True, options={"corpus_root": str(tmp_path)})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [ValueError, OSError, FloatingPointError, ImportError])  # the last: no DeepSpeed
def test_problem_ends_the_script_with_one_line_from_the_first_process(monkeypatch, capsys, kind):
    def fail(argv: list[str] | None) -> None:
        raise kind("there is\na problem")

    monkeypatch.setattr("ivt.training.arguments.parse_arguments", fail)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr("transformers.utils.logging.disable_progress_bar", lambda: None)
    for rank, line in (("0", "error: there is a problem\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "train_hf.py"), run_name="__main__")
        assert ended.value.code == 2 and capsys.readouterr().err == line
