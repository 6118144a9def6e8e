"""Use a published model as somebody does who has installed this package, without `trust_remote_code`.

The tests run it in a process of its own: `python user_with_package.py NAME REVISION REPO INSTALLED OUTPUT_DIR`, where
INSTALLED is the folder the wheel is in. It leaves the folders `again` (model and processor, saved once more) and
`pipeline` (the project's own pipeline, saved), and `report.json`, which also tells what the modules of the wheel and
the scripts of the repository print when they are imported.
"""

import contextlib
import importlib
import io
import json
import pkgutil
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


def import_silently(*modules: str) -> str:
    """Import and return what was printed meanwhile."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for module in modules:
            importlib.import_module(module)
    return said.getvalue()


(name, revision), (repo, installed, output_dir) = sys.argv[1:3], map(Path, sys.argv[3:6])
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

everything = [path.stem for path in repo.glob("*.py")]
for room in pkgutil.iter_modules([str(installed)]):
    inside = pkgutil.walk_packages([str(installed / room.name)], f"{room.name}.") if room.ispkg else ()
    everything += [room.name, *(module.name for module in inside if "-" not in module.name)]
sys.path.append(str(repo))  # for the scripts; the rooms are found in `installed`, which comes first
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
