"""The tests of exports, export_laws.py, in a process of their own.

ONNX Runtime, OpenVINO and NNCF bring threads and libraries of their own in machine code, as Ray, Lance and Daft do in
other tests. A run that had all of them in one process ended once with a segmentation fault, after these tests.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

ROOT = Path(__file__).parents[2]


def test_exports_are_the_model_and_tell_nobody(
    run_python: Callable[..., CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/hub/export_laws.py"]
    done = run_python(*command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    # who reports to a maker keeps a number of the machine there
    assert not (tmp_path / "intel").exists() and not (tmp_path / ".cache" / "Microsoft").exists()


def test_this_process_has_none_of_their_libraries() -> None:
    assert not {"nncf", "onnxruntime", "openvino"} & sys.modules.keys()
