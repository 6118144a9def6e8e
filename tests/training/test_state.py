import json
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file, save_file
from torch import nn

from ivt.training.state import Progress, TrainingState, random_states, set_random_states

FILES = ["model.safetensors", "optimizer.safetensors", "random-00000.json", "state.json"]


class CreatesFile:
    """Pickled so that reading it with pickle creates a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def new_state(optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, **settings: float) -> TrainingState:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    return TrainingState(
        accelerator, *accelerator.prepare(model, optimizer(model.parameters(), lr=0.1, **settings)), Progress()
    )


def train(state: TrainingState, steps: int) -> torch.Tensor:
    for _ in range(steps):
        loss = (state.module(torch.randn(4, 2)) - np.random.rand() - random.random()).square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.progress.step += 1
    return torch.cat([tensor.flatten().double() for tensor in state.module.state_dict().values()]).detach().clone()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints/step-00000003"
    folder.mkdir(parents=True)
    state = new_state()
    train(state, 3)
    state.save(folder)
    return folder


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "checkpoints/step-00000003")


@pytest.mark.parametrize(
    "optimizer, settings", [(torch.optim.AdamW, {}), (torch.optim.SGD, {}), (torch.optim.SGD, {"momentum": 0.9})]
)
def test_loaded_state_goes_on_as_the_saved_one_to_the_bit(tmp_path, optimizer, settings):
    state = new_state(optimizer, **settings)
    train(state, 3)
    state.progress.best, state.accelerator.step = 12.5, 7
    state.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    expected = train(state, 3)
    other = new_state(optimizer, **settings)
    train(other, 1)
    other.load(tmp_path)
    assert other.progress == Progress(step=3, best=12.5) and other.accelerator.step == 7
    assert torch.equal(train(other, 3), expected)


def test_random_numbers_go_on():
    states = json.loads(json.dumps(random_states(torch.device("cpu"))))

    def draw() -> tuple[float, ...]:
        return random.gauss(), np.random.normal(), float(torch.rand(()))

    expected = draw()
    draw()
    set_random_states(states, torch.device("cpu"))
    assert draw() == expected


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_pickled_code_in_place_of_a_file_is_refused_by_name_and_not_run(copied, tmp_path, name, write):
    with (copied / name).open("wb") as file:
        write(CreatesFile(tmp_path / "trap"), file)
    with pytest.raises(ValueError, match=rf"step-00000003/{name} does not hold what this training saved"):
        new_state().load(copied)
    assert not (tmp_path / "trap").exists()
    with (copied / name).open("rb") as file:  # the trap is one
        torch.load(file, weights_only=False) if write is torch.save else pickle.load(file)
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", ".metadata"])
def test_older_checkpoint_is_refused_with_what_to_do_and_not_read(copied, tmp_path, name):
    (copied / name).write_bytes(pickle.dumps(CreatesFile(tmp_path / "trap")))
    with pytest.raises(ValueError, match=rf"holds {name}.*older checkpoints are pickles.*--init {tmp_path / 'best'}"):
        new_state().load(copied)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_cut_short_or_missing_is_named(copied, name):
    path = copied / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name} does not hold what"):
        new_state().load(copied)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} does not hold what"):
        new_state().load(copied)


@pytest.mark.parametrize("name, key", [("model.safetensors", "0.weight"), ("optimizer.safetensors", "0.exp_avg")])
def test_tensor_of_another_shape_is_named(copied, name, key):
    tensors = load_file(copied / name)
    save_file(tensors | {key: torch.zeros(7)}, copied / name)
    with pytest.raises(ValueError, match=rf"{name} does not hold.*\[7\], not .*\[3, 2\]"):
        new_state().load(copied)


def test_missing_and_unknown_tensors_are_named(copied):
    tensors = load_file(copied / "model.safetensors")
    save_file(tensors | {"more": torch.zeros(1)}, copied / "model.safetensors")
    with pytest.raises(ValueError, match="more is missing there or unknown here"):
        new_state().load(copied)
    tensors.pop("2.bias")
    save_file(tensors, copied / "model.safetensors")
    with pytest.raises(ValueError, match="2.bias is missing there or unknown here"):
        new_state().load(copied)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"progress": {"step": 3}}, "progress is .*, not epoch, batch"),
        ({"progress": None}, "state.json does not hold"),
        ({"accumulated": "1"}, "accumulated is '1'"),
    ],
)
def test_odd_state_is_named(copied, change, message):
    path = copied / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        new_state().load(copied)


def test_checkpoint_of_another_number_of_processes_is_refused(copied):
    path = copied / "state.json"
    state = json.loads(path.read_text())
    state["progress"]["num_processes"] = 2
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="step-00000003 was saved by 2 processes, these are 1; .*--init"):
        new_state().load(copied)
