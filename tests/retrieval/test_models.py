"""Models by name: which version a folder or a Hub name stands for."""

import hashlib
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hub_stand_in import HubStandIn

from ivt import Gallery
from ivt.retrieval import models
from ivt.retrieval.models import ModelVersion, find_device, find_same, find_version, load_model

REPO = Path(__file__).parents[2]


def test_version_of_a_folder_is_what_decides_about_embeddings(checkpoint: str, tmp_path: Path) -> None:
    version = find_version(checkpoint)
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "README.md").write_text("about it")
    (copy / "training_state.json").write_text("{}")
    assert find_version(str(copy)).revision == version.revision
    for name in ("config.json", "processor_config.json", "tokenizer.json", "model.safetensors"):
        changed = shutil.copytree(checkpoint, tmp_path / name)
        (changed / name).write_bytes((changed / name).read_bytes() + b" ")
        assert find_version(str(changed)).revision != version.revision


def test_revision_of_a_folder_is_a_digest_of_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    """Galleries and calibrations know their model by it, so it stays what it is."""
    names = ["config.json", "image_encoder.onnx", "model.safetensors", "preprocessor_config.json"]
    names += ["processor_config.json", "text_encoder.onnx", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    for name in (*names, "README.md"):
        (tmp_path / name).write_text(f"what {name} holds")
    digest = hashlib.sha256()
    for name in names:  # in the order of the alphabet
        digest.update(name.encode())
        digest.update(hashlib.sha256(f"what {name} holds".encode()).digest())
    assert find_version(str(tmp_path)) == ModelVersion(str(tmp_path), "sha256:" + digest.hexdigest())


def test_exported_model_is_a_model_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "image_encoder.onnx").write_text("weights")
    assert find_version(str(tmp_path)).name == str(tmp_path)


def test_embedded_model_is_the_same_wherever_it_lay_when_the_gallery_was_made(
    make_crops: Callable[..., Path], checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shutil.copytree(checkpoint, tmp_path / "before")
    Gallery(tmp_path / "people.lance", str(before)).add(make_crops("1.png"), progress=False)
    shutil.rmtree(before)  # as when a package is installed anew
    monkeypatch.setattr(models, "DEFAULT_MODEL", checkpoint)
    assert find_same(ModelVersion(str(before), find_version(checkpoint).revision)) == find_version(checkpoint)
    assert len(Gallery(tmp_path / "people.lance").search("a man")) == 1


def test_threads_that_want_a_model_at_the_same_time_load_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load_slowly(name: str, revision: str) -> torch.nn.Module:
        loaded.append((name, revision))
        time.sleep(0.05)
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(models, "load_embedder", load_slowly)
    monkeypatch.setattr(models, "load_processor", lambda *_: None)
    version = ModelVersion("somebody/model", "0" * 40)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load_model(version, "cpu")[0], range(4)))
    assert loaded == [("somebody/model", "0" * 40)] and all(model is found[0] for model in found)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no .*safetensors"):
        find_version(str(tmp_path))
    for name in (str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(ValueError, match="there is no folder"):
            find_version(name)


def test_gallery_keeps_the_revision_of_a_hub_model_that_has_moved_on(
    make_crops: Callable[..., Path],
    checkpoint: str,
    other_checkpoint: str,
    hub: HubStandIn,
    run_python: Callable,
    tmp_path: Path,
) -> None:
    make_crops("1.png", "2.png")
    lines = f"""
from huggingface_hub import HfApi
from ivt import Gallery

api, name = HfApi(), "tester/moving"
api.create_repo(name)
first = api.upload_folder(repo_id=name, folder_path={checkpoint!r}).oid
people = Gallery("people.lance", name)
people.add("crops", progress=False)
api.upload_folder(repo_id=name, folder_path={other_checkpoint!r})
print(people.info()["model_revision"] == first, people.model_version.name)
print(len(Gallery("people.lance").search("a man")), len(Gallery("people.lance", name, revision=first)))
try:
    Gallery("people.lance", name)
except ValueError as error:
    print(error)
"""
    done = run_python("-c", lines, cwd=tmp_path, python_path=REPO, hub=hub)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert (first, second) == ("True tester/moving", "2 2")
    assert "was made with tester/moving at" in third and "not with tester/moving at" in third


def test_device_by_name_or_the_best_there_is() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device() == find_device("auto")
    with pytest.raises(ValueError, match="device 'nonsense' cannot be used here: .*; pass cpu"):
        find_device("nonsense")
