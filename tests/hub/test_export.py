"""The tests of exports, export_laws.py, in a process of their own.

ONNX Runtime, OpenVINO and NNCF bring threads and libraries of their own in machine code, as Ray, Lance and Daft do in
other tests. A run that had all of them in one process ended once with a segmentation fault, after these tests.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ivt.hub.export import graphs_of
from modeling_ivt import IVTModel

ROOT = Path(__file__).parents[2]
LAWS = "tests/hub/export_laws.py"


def test_exports_are_the_model_and_tell_nobody(
    run_python: Callable[..., CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "PYTEST_ADDOPTS"):  # the latter might choose among the tests
        monkeypatch.delenv(name, raising=False)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", LAWS]
    done = run_python(*command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.fullmatch(r"(\d+) passed in .*", done.stdout.splitlines()[-1])  # and none skipped or left out
    assert passed and int(passed[1]) >= (ROOT / LAWS).read_text().count("\ndef test_"), done.stdout
    # who reports to a maker keeps a number of the machine there
    assert not (tmp_path / "intel").exists() and not (tmp_path / ".cache" / "Microsoft").exists()


def test_this_process_has_none_of_their_libraries() -> None:
    assert not {"nncf", "onnxruntime", "openvino"} & sys.modules.keys()


def test_examples_for_tracing_are_pictures_as_the_processor_gives_them_and_a_padded_text(tiny_model: IVTModel) -> None:
    images, texts = (graph.inputs for graph in graphs_of(tiny_model))
    pixels, mask = images["pixel_values"], texts["attention_mask"]
    assert pixels.shape == (3, 3, 48, 24) and -1 <= pixels.min() < -0.95 and 0.95 < pixels.max() <= 1
    assert texts["input_ids"].shape == mask.shape == (3, 12)
    assert mask.sum(dim=1).tolist() == [12, 12, 6] and texts["input_ids"].max() < tiny_model.config.vocab_size
