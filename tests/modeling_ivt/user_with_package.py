"""Use a saved model folder as somebody does who has installed this package, without `trust_remote_code`.

The tests run it in a process of its own: `python user_with_package.py REPO FOLDER OUTPUT_DIR`. It leaves the folder
`again` (model and processor, saved once more) and `report.json`, which also tells what the modules of this repository
print when they are imported.
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


def import_silently(*modules: str) -> str:
    """Import and return what was printed meanwhile."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for module in modules:
            importlib.import_module(module)
    return said.getvalue()


repo, folder, output_dir = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
said = import_silently("modeling_ivt")
auto_classes = (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
)
loaded = {auto.__name__: auto.from_pretrained(folder) for auto in auto_classes}
loaded["AutoModel"].save_pretrained(output_dir / "again")
loaded["AutoProcessor"].save_pretrained(output_dir / "again")
again = AutoModel.from_pretrained(output_dir / "again").state_dict()

everything = [path.stem for path in repo.glob("*.py")]
for room in ("corpora", "modeling_ivt", "processing", "retrieval", "tools"):
    everything += [room, *(f"{room}.{module.name}" for module in pkgutil.iter_modules([str(repo / room)]))]
report = {
    "modules": {name: type(thing).__module__ for name, thing in loaded.items()},
    "same_after_saving_again": all(
        torch.equal(again[name], tensor) for name, tensor in loaded["AutoModel"].state_dict().items()
    ),
    "imported": everything,
    "said_at_import": said + import_silently(*everything),
}
(output_dir / "report.json").write_text(json.dumps(report))
