"""The training script: a run, its end, and its continuation."""

import copy
import json
import math
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import train_hf
from ivt.retrieval.evaluation import evaluate_retrieval
from ivt.training import checkpoints, data, runlog
from ivt.training.objective import Objective
from ivt.training.recipe import Recipe, RunPaths
from ivt.training.record import is_finished
from modeling_ivt import IVTConfig, IVTModel
from train_tiny import TINY_MODEL, load_tiny

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny_corpus(tmp_path_factory, monkeypatch):
    root = str(tmp_path_factory.getbasetemp() / "corpus")
    monkeypatch.setattr(data, "load_corpus", lambda name, _root, split, **options: load_tiny(root, split))


def run(
    output_dir: Path, resume: bool = False, model_fields: dict | None = None, options: dict | None = None, **settings
) -> Path:
    """Train a tiny model for 7 steps: 3 an epoch, checkpoints after steps 2, 3, 4, 6, 7."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
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
    output_dir = run(tmp_path / "run", itc_weight=1.0, group_by_length=True, max_grad_norm=1.0)
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


# ---- what is reported


@pytest.mark.usefixtures("tiny_corpus")
def test_record_says_what_the_run_was_and_what_came_out(tmp_path, capsys):
    output_dir = run(tmp_path / "run", test_at_end=True, max_steps=4, eval_epochs=2)
    record = json.loads((output_dir / "run.json").read_text())
    assert record["recipe"] == yaml.safe_load((output_dir / "recipe.yaml").read_text())
    assert record["recipe"]["model"] == TINY_MODEL and record["seeds"] == [0]
    assert record["corpus"]["sizes"]["train"] == {"people": 6, "images": 12, "captions": 24}
    assert record["corpus"]["hash"].keys() == {"train", "val", "test"}
    assert record["versions"]["torch"] == torch.__version__
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
        return load(name, root, split, **more)

    def trained(*arguments):
        events.append("batch")
        return backward(*arguments)

    monkeypatch.setattr(data, "load_corpus", noted)
    monkeypatch.setattr(train_hf, "backward", trained)
    output_dir = run(tmp_path / "run", max_steps=2)
    run(output_dir, max_steps=2, resume=True)
    assert events == ["train", "val", "batch", "batch"]  # test_at_end is off
    run(output_dir, max_steps=2, resume=True, test_at_end=True)
    assert events[4:] == ["train", "val", "test"]
    run(output_dir, max_steps=2, resume=True, test_at_end=True)
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

    output_dir = run(tmp_path / "run", max_steps=3, options={"report_to": "tensorboard"})
    events = EventAccumulator(str(output_dir / "tensorboard/ivt")).Reload()
    losses = [record["loss"] for record in metrics_of(output_dir) if "loss" in record]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
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
        run(tmp_path / "run", init=str(tmp_path / "small"), model_fields={"image_size": [64, 32]})
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
    (tmp_path / "train-00000-of-00001.parquet").touch()
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
