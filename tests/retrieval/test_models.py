"""Models by name: which version a folder or a Hub name stands for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_stand_in import HubStandIn

from ivt.retrieval.models import find_device, find_version

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
