"""Models by name: a folder or a Hub name -> the model, its processor, and a revision that tells it from any other."""

import hashlib
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from transformers import AutoProcessor

from ivt.choices import DEFAULT_MODEL
from modeling_ivt import IVTForPreTraining

from .checkpoints import load_embedder
from .encoders import auto_dtype, check_processor, load_config, width_of
from .exported import ExportedIVTModel
from .reranking import load_matcher

WEIGHTS = ("*.safetensors", "*_encoder.*")  # of a checkpoint and of an exported model
# What decides about the embeddings; a README or the state of a training beside them does not.
DECISIVE_FILES = (*WEIGHTS, "config.json", "*processor*_config.json", "tokenizer*.json", "vocab.txt")

FOLDER_PREFIX = "sha256:"  # before the revision of a folder; that of a Hub model is a commit


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model: two versions with the same revision give the same embeddings.

    Attributes:
        name: Hub name or folder.
        revision: commit of a Hub model; "sha256:" and a digest of the files for a folder, wherever it is.
    """

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name} at {self.revision[:19]}"


def folder_revision(folder: Path) -> str:
    """Digest of the files of a model that decide about its embeddings, the same wherever the folder is.

    Raises:
        ValueError: if the folder holds neither a model in Hub format nor an exported one.
    """
    paths = sorted({path for pattern in DECISIVE_FILES for path in folder.glob(pattern)})
    if not any(path.match(pattern) for path in paths for pattern in WEIGHTS):
        raise ValueError(
            f"{folder} holds no {' and no '.join(WEIGHTS)}, expected a model in Hub format as save_pretrained writes "
            "it, or one that ivt export wrote"
        )
    states = [(path, path.stat()) for path in paths]
    return _digest_files(tuple((path, state.st_size, state.st_mtime_ns) for path, state in states))


@lru_cache(maxsize=16)
def _digest_files(states: tuple[tuple[Path, int, int], ...]) -> str:
    """Digest of files; their sizes and times of change say whether they are still those that were read."""
    digest = hashlib.sha256()
    for path, _, _ in states:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return FOLDER_PREFIX + digest.hexdigest()


def find_version(name: str, revision: str | None = None) -> ModelVersion:
    """Find which version of a model a name means, without loading its weights.

    Args:
        name: folder or Hub name.
        revision: branch, tag or commit of a Hub model.

    Raises:
        ValueError: if the folder holds neither a model in Hub format nor an exported one.
        OSError: if there is no such model on the Hub, or the Hub cannot be reached.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
            raise ValueError(
                f"there is no folder {name}, expected a model in Hub format or the name of one on the Hub"
            )
        config = Path(hf_hub_download(name, "config.json", revision=revision))
        return ModelVersion(name, config.parent.name)  # snapshots/COMMIT/config.json in the cache
    return ModelVersion(str(folder.resolve()), folder_revision(folder))


def find_same(version: ModelVersion) -> ModelVersion:
    """Find a model as it was, by its name, or the bundled one if that is the same."""
    if Path(DEFAULT_MODEL).is_dir() and find_version(DEFAULT_MODEL).revision == version.revision:
        return find_version(DEFAULT_MODEL)  # it may have been in another folder when the gallery was made
    return find_version(version.name, hub_revision(version))


def embedding_width(version: ModelVersion) -> int:
    """D, how many numbers an embedding of the model has.

    Raises:
        ValueError: if it is no dual encoder.
    """
    return width_of(load_config(version.name, hub_revision(version)))


def hub_revision(version: ModelVersion) -> str | None:
    """The commit of a Hub model, None for a folder."""
    return None if version.revision.startswith(FOLDER_PREFIX) else version.revision


def load_processor(checkpoint: str, revision: str | None = None) -> Any:
    """Load the processor of a checkpoint.

    Args:
        checkpoint: folder or Hub name.
        revision: branch, tag or commit of a Hub model.

    Raises:
        ValueError: if there is none or it has no tokenizer, as after a conversion without `--tokenizer`.
    """
    try:
        processor = AutoProcessor.from_pretrained(checkpoint, revision=revision)
    except Exception as error:  # on damaged files transformers and tokenizers raise nearly anything
        problem = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{checkpoint} has no whole processor (image processor and tokenizer): {type(error).__name__}: "
            f"{problem}; fetch its files again, save an IVTProcessor there, or convert it with --tokenizer"
        ) from error
    check_processor(checkpoint, processor)
    return processor


def find_device(name: str | None = None) -> torch.device:
    """A device by its name, or with None (or "auto") an accelerator if there is one and the CPU if not.

    Raises:
        ValueError: if this machine has no such device.
    """
    if name is None or name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without CUDA
        problem = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {problem}; pass cpu, cuda or cuda:1") from error


@lru_cache(maxsize=1)
def load_matching_model(version: ModelVersion, device: str | None = None) -> IVTForPreTraining:
    """Load a model with its fusion encoder, ready to re-rank; see `load_matcher`.

    Args:
        version: what `find_version` gives.
        device: see `find_device`.
    """
    place = find_device(device)
    return load_matcher(version.name, auto_dtype(place), hub_revision(version)).to(place)


@lru_cache(maxsize=2)
def _load_model(version: ModelVersion, device: str | None) -> tuple[torch.nn.Module, Any]:
    place, revision = find_device(device), hub_revision(version)
    model, processor = load_embedder(version.name, revision=revision), load_processor(version.name, revision)
    if not isinstance(model, ExportedIVTModel):  # which has the precision it was exported with
        model = model.to(auto_dtype(place))
    return model.to(place), processor


_loading = threading.Lock()  # threads that want a model at the same time would each load it


def load_model(version: ModelVersion, device: str | None = None) -> tuple[torch.nn.Module, Any]:
    """Load a model, ready to embed, and its processor; a process loads each version once.

    Args:
        version: what `find_version` gives.
        device: see `find_device`.
    """
    with _loading:
        return _load_model(version, device)
