import logging
from pathlib import Path

import pytest

from ivt.files import write_manifest
from ivt.training.checkpoints import find_checkpoints, newest_whole_checkpoint, open_output, saving
from ivt.training.recipe import Recipe


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
    with pytest.raises(OSError, match="file/run/recipe.yaml could not be written: .*there is no checkpoint yet"):
        open_output(tmp_path / "file/run", Recipe(), {}, resumed=False)
