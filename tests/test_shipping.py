"""What ships to a model repository: which files, what they may import, and that others can use them.

`save_pretrained` finds the files to copy by a regular expression, so what Python accepts is not enough.
"""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_imports, get_relative_import_files

from modeling_ivt import IVTModel
from processing import IVTProcessor

REPO = Path(__file__).parents[1]
SHIPPED = sorted(path for room in ("modeling_ivt", "processing") for path in (REPO / room).glob("*_ivt.py"))
# Found in every environment that can load a model: torch, transformers and what they bring
CORE = {"huggingface_hub", "numpy", "PIL", "safetensors", "torch", "transformers"} | sys.stdlib_module_names
MODEL_FILES = {"configuration_ivt.py", "losses_ivt.py", "modeling_ivt.py", "pipeline_ivt.py"}
PROCESSOR_FILES = {"image_processing_ivt.py", "processing_ivt.py"}
WEIGHTS = {"config.json", "model.safetensors"}
TOKENIZER = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}


def flat_siblings(path: Path) -> set[Path]:
    """The files a shipped file needs beside it, itself included, as Python's own grammar sees its imports."""
    needed, waiting = set(), {path}
    while waiting:
        current = waiting.pop()
        needed.add(current)
        for node in ast.parse(current.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                waiting |= {current.parent / f"{node.module}.py"} - needed
    return needed


def complaints(path: Path) -> list[str]:
    """What would break `path` in a model repository."""
    source = path.read_text()
    tree = ast.parse(source)
    found = ["a line ends in a backslash"] if re.search(r"\\$", source, re.MULTILINE) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"imports {a.name}" for a in node.names if a.name.split(".")[0] not in CORE]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "__future__" and any(a.name == "annotations" for a in node.names):
                found.append("turns annotations into strings")
            if node.module.split(".")[0] not in CORE:
                found.append(f"imports from {node.module}")
        elif isinstance(node, ast.ImportFrom):
            flat = node.level == 1 and node.module is not None and "." not in node.module
            if not flat or not node.module.endswith("_ivt") or not path.with_name(f"{node.module}.py").is_file():
                found.append(f"imports from {'.' * node.level}{node.module or ''}, which is no flat sibling")
            elif node not in tree.body:
                found.append(f"imports .{node.module} inside a block")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            found += [
                "isinstance of a config"  # every entry module gets its own copy of the class
                for name in ast.walk(node.args[1])
                if getattr(name, "id", "").endswith("Config")
            ]
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_import_flat_siblings_and_core_dependencies_only(path: Path) -> None:
    assert complaints(path) == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_library_sees_the_same_imports_as_python(path: Path) -> None:
    copied = {Path(file) for file in get_relative_import_files(path)} | {path}
    assert copied == flat_siblings(path)
    assert set(get_imports(path)) <= CORE


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("import datasets", "imports datasets"),
        ("from processing import IVTProcessor", "imports from processing"),
        ("from . import sibling_ivt", "which is no flat sibling"),
        ("from .views import make_views", "which is no flat sibling"),
        ("from ..corpora_ivt import rows", "which is no flat sibling"),
        ("from .missing_ivt import x", "which is no flat sibling"),
        ("from .sub.sibling_ivt import x", "which is no flat sibling"),
        ("try:\n    from .sibling_ivt import x\nexcept ImportError:\n    x = None", "inside a block"),
        ("from .sibling_ivt import x, \\\n    y", "backslash"),
        ("from __future__ import annotations", "strings"),
        ("known = isinstance(3, (str, IVTConfig))", "isinstance of a config"),
    ],
)
def test_each_trap_is_seen(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "sibling_ivt.py").write_text("x = y = 1\n")
    shipped = tmp_path / "shipped_ivt.py"
    shipped.write_text("import torch\nfrom .sibling_ivt import (\n    x,\n)\n")
    assert complaints(shipped) == []
    shipped.write_text(f"{line}\n")
    assert any(complaint in found for found in complaints(shipped))


def test_no_two_shipped_files_have_one_name() -> None:
    names = [path.name for path in SHIPPED]
    assert len(set(names)) == len(names)
    assert MODEL_FILES | PROCESSOR_FILES <= set(names)


def test_a_saved_model_holds_weights_config_and_its_code(tiny_model: IVTModel, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == WEIGHTS | MODEL_FILES
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_ivt.IVTConfig",
        "AutoModel": "modeling_ivt.IVTModel",
        "AutoModelForZeroShotImageClassification": "modeling_ivt.IVTModel",
    }


def assert_holds_a_whole_model(folder: Path, original: Path) -> None:
    """Check that model and processor were saved to `folder` with the code and Auto classes of `original`."""
    assert {path.name for path in folder.iterdir()} == WEIGHTS | TOKENIZER | MODEL_FILES | PROCESSOR_FILES
    for name in MODEL_FILES | PROCESSOR_FILES:
        assert (folder / name).read_text() == (original / name).read_text()
    for name in ("config.json", "processor_config.json"):
        maps = [json.loads((place / name).read_text())["auto_map"] for place in (folder, original)]
        assert maps[0] == maps[1]


def test_transformers_alone_loads_a_published_model(converted: tuple[Path, str], without_package: Path) -> None:
    report = json.loads((without_package / "report.json").read_text())
    assert report["rooms_imported"] == []
    for name, module in report["modules"].items():
        assert module.startswith("transformers." if name == "AutoTokenizer" else "transformers_modules."), name
    assert report["same_after_saving_again"]
    assert len(report["tokens_after_saving_again"]) == 3  # [CLS] a woman, as the authors do
    assert_holds_a_whole_model(without_package / "again", converted[0])


def assert_pipelines_answer_as_the_model_does(pipelines: dict[str, Any], module: str) -> None:
    expected, given = pipelines["expected"], pipelines["given"]
    assert given["ranking"] == expected["ranking"]
    for name in ("text", "image"):
        assert given[name] == pytest.approx(expected[name], abs=1e-5)
    assert given["zero_shot"] == pytest.approx(expected["zero_shot"], abs=1e-5)
    assert sum(given["zero_shot"].values()) == pytest.approx(1)
    for row, wanted in zip(given["cosines"], expected["cosines"], strict=True):
        assert row == pytest.approx(wanted, abs=2e-6)
    assert pipelines["images_are_returned"]
    assert pipelines["by_image"] == pipelines["by_gallery"] == pipelines["by_saved_pipeline"]
    assert all(name.startswith(module) for name in pipelines["modules"])


def test_every_pipeline_works_on_a_published_model(without_package: Path, converted: tuple[Path, str]) -> None:
    report = json.loads((without_package / "report.json").read_text())
    assert_pipelines_answer_as_the_model_does(report["pipelines"], "transformers_modules.")
    assert_holds_a_whole_model(without_package / "pipeline", converted[0])


def test_every_pipeline_works_with_the_wheel_installed(
    with_package: tuple[Path, Path], converted: tuple[Path, str]
) -> None:
    report = json.loads((with_package[0] / "report.json").read_text())
    assert_pipelines_answer_as_the_model_does(report["pipelines"], "modeling_ivt.")
    assert_holds_a_whole_model(with_package[0] / "pipeline", converted[0])


def test_importing_modeling_ivt_replaces_trust_remote_code(
    converted: tuple[Path, str], with_package: tuple[Path, Path], installed: Path
) -> None:
    report = json.loads((with_package[0] / "report.json").read_text())
    assert Path(report["imported_from"]).is_relative_to(installed)
    assert report["modules"] == {
        "AutoConfig": "modeling_ivt.configuration_ivt",
        "AutoImageProcessor": "processing.image_processing_ivt",
        "AutoModel": "modeling_ivt.modeling_ivt",
        "AutoModelForZeroShotImageClassification": "modeling_ivt.modeling_ivt",
        "AutoProcessor": "processing.processing_ivt",
        "AutoTokenizer": "transformers.tokenization_utils_tokenizers",
    }
    assert report["same_after_saving_again"]
    assert_holds_a_whole_model(with_package[0] / "again", converted[0])


def test_the_wheel_brings_the_bundled_checkpoint(with_package: tuple[Path, Path], installed: Path) -> None:
    model = Path(json.loads((with_package[0] / "report.json").read_text())["default_model"])
    assert model.is_relative_to(installed)
    embedded = REPO / "ivt" / "checkpoints" / model.name
    names = {path.relative_to(embedded) for path in embedded.rglob("*") if path.is_file()}
    assert {path.relative_to(model) for path in model.rglob("*") if path.is_file()} >= names >= {Path("config.json")}


def test_importing_a_module_does_nothing(with_package: tuple[Path, Path]) -> None:
    output_dir, started_in = with_package
    report = json.loads((output_dir / "report.json").read_text())
    assert "ivt.hub.convert" in report["imported"]
    assert report["said_at_import"] == ""
    assert list(started_in.iterdir()) == []


def test_the_bundled_checkpoint_has_the_code_of_the_package_without_asking_for_trust():
    folder = REPO / "ivt/checkpoints/ivt-tiny-synthetic"
    assert not list(folder.rglob("*.py"))
    assert type(AutoModel.from_pretrained(folder)) is IVTModel
    assert type(AutoProcessor.from_pretrained(folder)) is IVTProcessor
