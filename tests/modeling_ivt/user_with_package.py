"""Use a published model as somebody does who has installed this package, without `trust_remote_code`.

The tests run it in a process of its own: `python user_with_package.py NAME REVISION INSTALLED OUTPUT_DIR`, where
INSTALLED is the folder the wheel is in. It writes the folders `again` (model and processor, saved once more) and
`pipeline` (the project's own pipeline, saved), and `report.json`, with what the modules of the wheel print when they
are imported.
"""

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
)
from use_pipelines import use_pipelines

ROOMS = ("ivt", "modeling_ivt", "processing")
SCRIPTS = ("train_hf", "evaluate_hf")


def import_silently(*modules: str) -> str:
    """Import and return what was printed meanwhile."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for module in modules:
            importlib.import_module(module)
    return said.getvalue()


def find_modules(installed: Path) -> list[str]:
    """Names of all modules of the wheel; folders with a hyphen, and the Space's script, are data."""
    files = [path.relative_to(installed) for room in ROOMS for path in installed.glob(f"{room}/**/*.py")]
    modules = [".".join(file.with_suffix("").parts) for file in files if "-" not in str(file)]
    return [*SCRIPTS, *(name for name in modules if name != "ivt.hub.space.app")]


(name, revision), (installed, output_dir) = sys.argv[1:3], map(Path, sys.argv[3:5])
said = import_silently("modeling_ivt")
auto_classes = (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
)
loaded = {auto.__name__: auto.from_pretrained(name, revision=revision) for auto in auto_classes}
loaded["AutoModel"].save_pretrained(output_dir / "again")
loaded["AutoProcessor"].save_pretrained(output_dir / "again")
again = AutoModel.from_pretrained(output_dir / "again").state_dict()

pipelines = use_pipelines(name, output_dir / "pipeline", revision=revision)

everything = find_modules(installed)
report = {
    "modules": {name: type(thing).__module__ for name, thing in loaded.items()},
    "same_after_saving_again": all(
        torch.equal(again[name], tensor) for name, tensor in loaded["AutoModel"].state_dict().items()
    ),
    "imported_from": sys.modules["modeling_ivt"].__file__,
    "pipelines": pipelines,
    "imported": everything,
    "said_at_import": said + import_silently(*everything),
    "default_model": sys.modules["ivt"].DEFAULT_MODEL,
}
(output_dir / "report.json").write_text(json.dumps(report))
