"""Real trainings in processes of their own: two in one folder, one killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivt.files import find_damage
from ivt.training.checkpoints import find_checkpoints
from train_tiny import load_tiny

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import train_hf
from ivt.cli import main
from ivt.training import data
from ivt.training.recipe import RunPaths
from train_tiny import TINY_MODEL, load_tiny

data.load_corpus = lambda name, root, split, **options: load_tiny(sys.argv[1], "train")
data.add_levels = lambda rows: rows
tokenizer = sys.argv[3] + "/ivt/recipes/tokenizer-synthetic"
model = [f"--model.{name}={value}" for name, value in TINY_MODEL.items() if name != "image_size"]
fields = ["--tokenizer", tokenizer, "--levels", "sentence", "--num_views", "1", "--num_workers", "0"]
fields += ["--batch_size", "8", "--max_steps", "100000", "--save_steps", "2", "--log_steps", "1"]
fields += ["--mixed_precision", "no", "--model.image_size", "[48, 32]"]
main(["train", "--config", "demo", "--output_dir", sys.argv[2], "--resume", *fields, *model])
"""


def start(cache: Path, output_dir: Path) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", SCRIPT, str(cache), str(output_dir), str(ROOT)]
    return subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait_for_checkpoint(process: subprocess.Popen[str], output_dir: Path, after: str = "") -> str:
    for _ in range(1200):
        if process.poll() is not None:
            pytest.fail("\n".join(process.communicate()))
        if (found := find_checkpoints(output_dir)) and found[-1].name > after:
            return found[-1].name
        time.sleep(0.05)
    raise TimeoutError(output_dir)


def test_second_training_is_refused_a_killed_one_goes_on(tmp_path):
    load_tiny(str(tmp_path / "cache"), "train")
    arguments = (tmp_path / "cache", tmp_path / "run")
    first = start(*arguments)
    reached = wait_for_checkpoint(first, tmp_path / "run")
    second = start(*arguments)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2 and "Traceback" not in errors
    last_line = errors.strip().splitlines()[-1]
    assert last_line.startswith("error: another training is running in") and "--output_dir" in last_line
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    third = start(*arguments)
    wait_for_checkpoint(third, tmp_path / "run", reached)
    third.kill()
    third.communicate(timeout=60)
    assert find_damage(find_checkpoints(tmp_path / "run")[-1]) is None
