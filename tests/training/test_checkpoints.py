import logging
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from ivt.files import find_damage, write_manifest
from ivt.training import checkpoints
from ivt.training.checkpoints import (
    find_checkpoints,
    newest_whole_checkpoint,
    open_output,
    save_checkpoint,
    saving,
)
from ivt.training.recipe import Recipe
from ivt.training.state import Progress, TrainingState


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """Three checkpoints of a file each, and what a kill leaves of a fourth."""
    for name in ("step-00000002", "step-00000004", "step-00000006", "unfinished"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "weights").write_text(name)
        if name != "unfinished":
            write_manifest(tmp_path / "checkpoints" / name)
    return tmp_path


def test_newest_checkpoint_is_taken(output_dir):
    assert newest_whole_checkpoint(output_dir).name == "step-00000006"


def test_damaged_checkpoints_are_named_and_set_aside(output_dir, caplog):
    (output_dir / "checkpoints/step-00000006/weights").write_text("step")
    (output_dir / "checkpoints/step-00000004/weights").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(output_dir).name == "step-00000002"
    assert "step-00000006 is damaged: weights has 4 bytes, 13 were written" in caplog.text
    assert "step-00000004 is damaged: weights is missing" in caplog.text
    # set aside, so that they are neither counted nor kept when older ones are deleted
    assert [path.name for path in find_checkpoints(output_dir)] == ["step-00000002"]
    assert (output_dir / "checkpoints/step-00000006.damaged/weights").exists()


def test_run_whose_checkpoints_are_all_damaged_is_refused_and_left_as_it_is(output_dir):
    for path in find_checkpoints(output_dir):
        (path / "weights").unlink()
    with pytest.raises(ValueError, match="00000006 is damaged: weights is missing;.*no other is left.*--output_dir"):
        newest_whole_checkpoint(output_dir)
    assert len(find_checkpoints(output_dir)) == 3


def test_run_without_checkpoints_begins(tmp_path):
    assert newest_whole_checkpoint(tmp_path) is None


def test_failed_writing_names_the_last_checkpoint_and_makes_room(output_dir):
    unfinished = output_dir / "checkpoints/unfinished"
    with pytest.raises(OSError, match="metrics could not be written: disk full.*step-00000006 is whole"):
        with saving(output_dir / "metrics", output_dir, unfinished):
            raise OSError("disk full")
    assert not unfinished.exists()
    with pytest.raises(OSError, match="no checkpoint yet"), saving(Path("metrics"), output_dir / "other"):
        raise RuntimeError("file write failed")


def test_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run could not be written: .*there is no checkpoint yet"):
        open_output(tmp_path / "file/run", Recipe(), {}, resumed=False)


def test_resumed_run_may_differ_in_comfort_alone(output_dir):
    comfort = {"log_steps", "save_steps", "keep_checkpoints", "num_workers", "cache_images"}  # what is seen, and speed
    comfort |= {"test_at_end", "protocol"}  # of what comes when all is learnt
    written = asdict(Recipe()) | {"model": {"hidden_size": 32}}
    for name in [field.name for field in fields(Recipe)] + ["model"]:
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(written | {name: "another"}))
        if name in comfort:
            open_output(output_dir, Recipe(), {"hidden_size": 32}, resumed=True)
            assert yaml.safe_load((output_dir / "recipe.yaml").read_text()) == written
        else:
            with pytest.raises(ValueError, match=rf"another recipe \({name} another -> "):
                open_output(output_dir, Recipe(), {"hidden_size": 32}, resumed=True)


def test_checkpoint_has_its_name_only_when_its_manifest_is_written(tmp_path, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(2, 3)
    prepared = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    state = TrainingState(accelerator, *prepared, Progress(step=1))

    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "write_manifest", die)
        save_checkpoint(accelerator, tmp_path, state, keep=2)
    assert not find_checkpoints(tmp_path)
    save_checkpoint(accelerator, tmp_path, state, keep=2)
    (checkpoint,) = find_checkpoints(tmp_path)
    assert (checkpoint / "model.safetensors").exists() and find_damage(checkpoint) is None


def test_failed_writing_is_told_even_where_nothing_was_begun(output_dir):
    never_made = output_dir / "checkpoints/step-00000008.new"
    with pytest.raises(OSError, match="could not be written: disk full.*step-00000006 is whole"):
        with saving(never_made, output_dir, never_made):
            raise OSError("disk full")


def test_written_recipe_has_the_order_of_the_recipes_fields(tmp_path):
    open_output(tmp_path, Recipe(), {"vocab_size": 9, "hidden_size": 32}, resumed=False)
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert [*written] == [*(field.name for field in fields(Recipe)), "model"]
    assert [*written["model"]] == ["vocab_size", "hidden_size"]
