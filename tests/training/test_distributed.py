"""Several processes: the configurations for `accelerate launch`, started on a CPU, and work that is shared out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import AutoModel

import train_tiny
from ivt.training import data
from ivt.training.distributed import build_accelerator, embed_in_shares
from ivt.training.recipe import Recipe, RunPaths

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "ivt/recipes/accelerate"
# all that shares weights, gradients or embeddings among processes; nothing of it may change what is learnt
SETTINGS = {
    "batch_size": 8,
    "sdm_weight": 1.0,
    "token_weight": 1.0,
    "identity_weight": 1.0,
    "ema_decay": 0.9,
    "max_grad_norm": 0.5,
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "save_steps": 2,
    "max_steps": 5,  # two an epoch
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of the tiny corpus, drawn before several processes want it at once."""
    cache = tmp_path_factory.mktemp("corpus")
    for split in train_tiny.NUM_PEOPLE:
        train_tiny.load_tiny(str(cache), split)
    return cache


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    folder = tmp_path_factory.mktemp("runs") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_corpus", "add_levels"):  # which train_tiny replaces
            patch.setattr(data, name, getattr(data, name))
        patch.chdir(ROOT)
        train_tiny.main(str(folder), str(corpus), json.dumps(SETTINGS))
    return folder


def start(config: str, *arguments: object, machine: int | None = None, port: int = 0) -> subprocess.Popen:
    """Start the two processes of a run, or the one of them that belongs on a machine."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"{config}.yaml"]
    command += ["--num_processes", 2, "--main_process_port", port]
    if machine is not None:
        command += ["--machine_rank", machine, "--main_process_ip", "127.0.0.1"]
    command += ["tests/train_tiny.py", *arguments]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=os.environ | environment, **pipes)


def finish(*processes: subprocess.Popen) -> str:
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    return outputs[0]


def assert_equal_runs(one: Path, other: Path, **tolerance: float) -> None:
    for name in ("best", "final"):
        expected, found = (AutoModel.from_pretrained(folder / name).state_dict() for folder in (one, other))
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, msg=f"{name} {key}", **tolerance)
    records = [list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines())) for run in (one, other)]
    validations = [[record["validation"] for record in run if "validation" in record] for run in records]
    assert len(validations[0]) == 3 and validations[0] == validations[1]


HALF = json.dumps(SETTINGS | {"batch_size": SETTINGS["batch_size"] // 2})
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def test_two_machines_train_as_one_with_their_batches_together(alone, corpus, tmp_path, meeting_port):
    arguments = (tmp_path / "two", corpus, HALF)
    finish(*(start("multi_node", *arguments, machine=machine, port=meeting_port) for machine in (0, 1)))
    assert_equal_runs(alone, tmp_path / "two", **CLOSE)


def test_sharded_processes_train_as_one_and_resume(alone, corpus, tmp_path):
    finish(start("fsdp", tmp_path / "whole", corpus, HALF))
    assert_equal_runs(alone, tmp_path / "whole", **CLOSE)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for newer in ("final", "checkpoints/step-00000005"):
        shutil.rmtree(tmp_path / "broken" / newer)
    (tmp_path / "broken" / "run.json").unlink()  # it says that the run is finished
    output = finish(start("fsdp", tmp_path / "broken", corpus, HALF, "resume"))
    assert "step-00000004" in output
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken", atol=0.0, rtol=0.0)


def test_sharded_processes_pretrain_as_those_with_whole_weights(corpus, tmp_path, meeting_port):
    settings = SETTINGS | {"stage": "pretrain", "batch_size": 4, "max_steps": 2}
    settings |= dict.fromkeys(("itc_weight", "itm_weight", "mlm_weight"), 1.0)
    settings |= dict.fromkeys(("cmpm_weight", "sdm_weight", "token_weight", "identity_weight"), 0.0)
    finish(start("fsdp", tmp_path / "fsdp", corpus, json.dumps(settings)))
    finish(start("multi_gpu", tmp_path / "whole", corpus, json.dumps(settings), port=meeting_port))
    found, expected = (load_file(tmp_path / name / "final/model.safetensors") for name in ("fsdp", "whole"))
    assert found.keys() == expected.keys() and "fusion_layers.0.cross_attention.key.weight" in found
    assert "mlm_head.decoder.weight" not in found  # the word embeddings, saved once
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=name, **CLOSE)


# ---- configurations


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_all_fields_of_the_configurations(path):
    config = load_config_from_file(str(path))  # raises for keys it does not know
    assert config.mixed_precision == "no"  # the recipe's rules
    known = set(vars(launch_command_parser().parse_args(["script.py"])))
    assert set(config.fsdp_config) <= known


@pytest.mark.parametrize(
    "accelerator, settings, message",
    [
        ({"distributed_type": DistributedType.FSDP, "is_fsdp2": False}, {}, "set fsdp_version: 2"),
        ({"distributed_type": DistributedType.DEEPSPEED}, {}, "DeepSpeed is not supported; shard .* with FSDP"),
        (
            {"distributed_type": DistributedType.FSDP, "is_fsdp2": True},
            {"cached_chunk": 8},
            "cached_chunk embeds outside",
        ),
    ],
)
def test_what_sharding_cannot_do_is_refused_before_anything_starts(monkeypatch, accelerator, settings, message):
    monkeypatch.setattr("ivt.training.distributed.Accelerator", lambda **_: SimpleNamespace(**accelerator))
    with pytest.raises(ValueError, match=message):
        build_accelerator(RunPaths(), Recipe(**settings))


# ---- shares


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 4, 7, 10])
def test_shares_are_equal_and_give_every_item_in_order(count, num_processes):
    items = torch.randn(count, 3)
    shares = {}

    def embed_share(process: int, gathered: torch.Tensor) -> torch.Tensor:
        def embed(rows: range) -> torch.Tensor:
            shares[process] = items[rows.start : rows.stop]
            return shares[process]

        accelerator = SimpleNamespace(
            num_processes=num_processes, process_index=process, device="cpu", gather=lambda _: gathered
        )
        return embed_in_shares(accelerator, embed, count)

    size = -(-count // num_processes)
    for process in range(num_processes):
        embed_share(process, torch.zeros(num_processes * size, 3))
    assert {len(share) for share in shares.values()} == {size}
    whole = embed_share(0, torch.cat([shares[process] for process in range(num_processes)]))
    assert torch.equal(whole, items)
