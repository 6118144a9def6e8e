"""What `import modeling_ivt` needs, and that it says so in one sentence where that is missing."""

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

from modeling_ivt import OLDEST_TRANSFORMERS

REPO = Path(__file__).parents[2]
IMPORT = "import transformers; transformers.__version__ = '{}'; import modeling_ivt"
Run = Callable[..., subprocess.CompletedProcess[str]]


def test_an_older_transformers_is_refused_in_one_sentence(run_python: Run, tmp_path: Path) -> None:
    done = run_python("-c", IMPORT.format("5.22.1"), cwd=tmp_path, python_path=REPO)
    assert done.stderr.endswith(
        "ImportError: transformers 5.22.1 is installed, but modeling_ivt needs 5.23 or newer; "
        "run pip install --upgrade 'transformers>=5.23'\n"
    )


def test_another_module_named_processing_is_named_with_what_to_do(run_python: Run, tmp_path: Path) -> None:
    other = tmp_path / "processing.py"
    other.write_text("raise SystemExit('it was run')\n")
    done = run_python("-c", IMPORT.format(OLDEST_TRANSFORMERS), cwd=tmp_path, python_path=REPO)
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: `import processing` finds {other}, ")
    assert str(REPO) in message and message.endswith("rename the other one, or start Python in another folder")


def test_the_oldest_transformers_is_that_of_the_package() -> None:
    dependencies = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"transformers>={OLDEST_TRANSFORMERS}" in dependencies
