"""Damaged files of a model: each is named in one line, and no gallery is left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import Result

from ivt import Gallery
from ivt.retrieval.checkpoints import load_checkpoint

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4853120\n",
    "list": lambda content: b"[]",
    "null": lambda content: b"null",
    "bytes": lambda content: bytes(range(256)),
}
MESSAGES = {
    "model.safetensors": "the weights of .* cannot be read .* pointer of Git LFS",
    "config.json": "config|Unrecognized model",
    "tokenizer.json": "has no whole processor .*fetch its files again",
    "tokenizer_config.json": "has no whole processor .*fetch its files again",
    "processor_config.json": "has no whole processor .*fetch its files again",
}


@pytest.fixture
def model(checkpoint: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", MESSAGES)
def test_a_damaged_file_is_named_and_leaves_no_gallery(name: str, damage: str, model: Path, make_crops) -> None:
    path = model / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    gallery = model.parent / "people.lance"
    with pytest.raises((ValueError, OSError), match=f"(?s){MESSAGES[name]}") as caught:
        Gallery(gallery, str(model)).add(make_crops("a.png"), progress=False)
    assert str(model) in str(caught.value) and not gallery.exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_calibration_is_named(damage: str, model: Path, make_crops, ivt: Callable[..., Result]) -> None:
    gallery = model.parent / "people.lance"
    Gallery(gallery, str(model)).add(make_crops("a.png"), progress=False)
    calibration = {"features": [], "curves": {}}
    (model / "calibration.json").write_bytes(DAMAGES[damage](json.dumps(calibration).encode()))
    with pytest.raises(ValueError, match=r"calibration\.json is no calibration .*write it again with ivt calibrate"):
        ivt("search", "a man", "--gallery", gallery)


def change_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("layernorm.weight"), "lacks 1 weights .*layernorm.weight"),
        (
            lambda weights: weights.update({"layernorm.bias": torch.zeros(3)}),
            "other shapes, the first .*layernorm.bias",
        ),
        (
            lambda weights: weights["layernorm.bias"].fill_(torch.nan),
            "1 weights .* hold NaN or infinity.*layernorm.bias",
        ),
        (lambda weights: weights["layernorm.bias"][3:4].fill_(-torch.inf), "hold NaN or infinity.*layernorm.bias"),
    ],
    ids=["missing", "shape", "NaN", "infinity"],
)
def test_weights_that_do_not_fit_or_are_no_numbers_are_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, model: Path
) -> None:
    change_weights(model, change)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(model))
