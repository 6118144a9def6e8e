"""Converting the authors' checkpoints. That the result computes the same is for modeling_ivt/test_golden.py."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer, BertTokenizer
from typer.testing import Result

from ivt.cli import main
from ivt.files import new_folder

NOT_NEEDED = [
    "temp",
    "classifier_img.weight",
    "encoder_vl.embeddings.position_ids",
    *(f"bottleneck_img.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
]
TOKENIZER = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")
State = dict[str, torch.Tensor]
Convert = Callable[..., int]


class CreatesFile:
    """Pickled so that reading it with pickle would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def state(golden_checkpoint: Path) -> State:
    """The golden state dict, `module.` removed."""
    content = torch.load(golden_checkpoint, weights_only=False)  # lies in this repository
    return {key.removeprefix("module."): tensor for key, tensor in content["state_dict"].items()}


@pytest.fixture
def convert(tmp_path: Path, golden_sizes: list[str]) -> Convert:
    """Save an object as checkpoint, unless it is a path, and convert it to `tmp_path / "model"`."""

    def run(content: Any, *options: object, legacy: bool = False) -> int:
        path = content
        if not isinstance(content, Path):
            path = tmp_path / "checkpoint.pth"
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        command = ["convert", str(tmp_path / "model"), "--init", f"official={path}", *golden_sizes]
        with pytest.raises(SystemExit) as ended:
            main([*command, *map(str, options)])
        return ended.value.code or 0

    return run


def nothing_written(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {"checkpoint.pth"}


def test_every_key_is_accounted_for(converted: tuple[Path, str]) -> None:
    folder, printed = converted
    for key in NOT_NEEDED:
        assert f"not used: {key} (" in printed
    assert "not used, beside the weights: optimizer, epoch, best_acc" in printed
    assert "used: 60, no parameter missing" in printed
    assert len(AutoModel.from_pretrained(folder).state_dict()) == 60


def test_sizes_are_read_from_the_shapes(converted: tuple[Path, str]) -> None:
    config = AutoConfig.from_pretrained(converted[0])
    assert (tuple(config.image_size), config.patch_size, config.patch_stride) == ((96, 48), 16, 12)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 3, 4)
    assert (config.intermediate_size, config.vocab_size, config.max_position_embeddings) == (256, 211, 40)
    assert (config.type_vocab_size, config.num_channels, config.qkv_bias) == (2, 3, True)


def test_the_processor_fits_the_model(converted: tuple[Path, str]) -> None:
    processor = AutoProcessor.from_pretrained(converted[0])
    inputs = processor(images=np.zeros((30, 20, 3), np.uint8), text="a man " * 60, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 96, 48)
    assert inputs["input_ids"].shape == (1, 40)  # truncated to what the model holds
    assert AutoTokenizer.from_pretrained(converted[0]).model_max_length == 40
    AutoModel.from_pretrained(converted[0])(**inputs)


def test_a_tokenizer_that_stops_before_the_model_does_keeps_its_limit(
    convert: Convert, golden_checkpoint: Path, golden_tokenizer: Path, tmp_path: Path
) -> None:
    AutoTokenizer.from_pretrained(golden_tokenizer, model_max_length=12).save_pretrained(tmp_path / "tokenizer")
    assert convert(golden_checkpoint, "--tokenizer", tmp_path / "tokenizer") == 0
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert processor(text="a man " * 60, return_tensors="pt")["input_ids"].shape == (1, 12)


def test_without_a_tokenizer_none_is_written(
    convert: Convert, golden_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(golden_checkpoint) == 0
    assert "no tokenizer written" in capsys.readouterr().out
    assert not list((tmp_path / "model").glob("*token*"))
    image_processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert image_processor.size["height"] == 96
    assert image_processor.resample == 2  # bilinear, as the authors' code resizes in test


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_all_forms_of_a_checkpoint_give_one_model(
    convert: Convert, state: State, tmp_path: Path, legacy: bool, prefix: str, wrapped: bool
) -> None:
    content = {prefix + key: tensor for key, tensor in state.items()}
    assert convert({"state_dict": content, "best_acc": np.float32(0.5)} if wrapped else content, legacy=legacy) == 0
    model = AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(model.image_embeddings.cls_token, state["encoder_vl.cls_token"])
    assert torch.equal(model.layers[2].feed_forward["text"].fc2.bias, state["encoder_vl.blocks.2.mlp_txt.fc2.bias"])


def test_numpy_numbers_of_old_files_are_read(convert: Convert, state: State, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": state, "best_acc": np.float64(0.6)}, path, _use_new_zipfile_serialization=False)
    new, old = b"cnumpy._core.multiarray\nscalar\n", b"cnumpy.core.multiarray\nscalar\n"
    content = path.read_bytes().replace(new, old)  # numpy 1 wrote the old name
    assert old in content
    path.write_bytes(content)
    assert convert(path) == 0


def test_models_without_qkv_bias_are_recognised(convert: Convert, state: State, tmp_path: Path) -> None:
    assert convert({key: tensor for key, tensor in state.items() if not key.endswith("qkv.bias")}) == 0
    assert AutoConfig.from_pretrained(tmp_path / "model").qkv_bias is False


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["in the state dict", "beside it", "alone"])
def test_pickled_code_is_refused_not_run(
    convert: Convert, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], legacy: bool, place: str
) -> None:
    trap = CreatesFile(tmp_path / "trap")
    content = {
        "in the state dict": {"state_dict": state | {"temp": trap}},
        "beside it": {"state_dict": state, "args": trap},
        "alone": trap,
    }[place]
    assert convert(content, legacy=legacy) == 2
    assert "mkdir while it is read, and pickled code is never run here" in capsys.readouterr().err
    assert nothing_written(tmp_path)
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "trap").exists()  # the trap works


def test_a_bare_pickle_is_refused_not_run(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "checkpoint.pth").write_bytes(pickle.dumps(CreatesFile(tmp_path / "trap"), protocol))
        assert convert(tmp_path / "checkpoint.pth") == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert nothing_written(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 100, 5_000, 100_000])
def test_damaged_files_are_refused(
    convert: Convert, golden_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(golden_checkpoint.read_bytes()[:length])
    assert convert(tmp_path / "checkpoint.pth") == 2
    assert "damaged" in capsys.readouterr().err
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no state dict but list"),
        ({"state_dict": {"temp": 1.0}}, "only tensors in the state dict, these are none: temp"),
        ({}, "parameters not found"),
        ({"temp": torch.ones(1), "module.temp": torch.ones(1)}, "both with and without 'module.'"),
    ],
)
def test_other_files_are_refused(
    convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
) -> None:
    assert convert(content) == 2
    assert message in capsys.readouterr().err
    assert nothing_written(tmp_path)


def test_missing_and_unknown_keys_are_all_named(
    convert: Convert, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["encoder_vl.pos_embed", "encoder_vl.blocks.1.attn.qkv.bias", "encoder_vl.norm.weight"]
    for key in missing:
        del state[key]
    unknown = ["encoder_vl.head.weight", "momentum"]
    assert convert(state | {key: torch.zeros(2) for key in unknown}) == 2
    message = capsys.readouterr().err
    assert "parameters not found (3)" in message and "not known (2)" in message
    assert all(key in message for key in missing + unknown)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("encoder_vl.blocks.2.mlp_vis.fc1.weight", (128, 64)),
        ("encoder_vl.type_embed", (1, 21, 64)),
        ("encoder_vl.embeddings.LayerNorm.bias", (32,)),
        ("encoder_vl.embeddings.word_embeddings.weight", (211,)),
        ("encoder_vl.patch_embed.proj.weight", (64, 3, 16, 8)),
    ],
)
def test_wrong_shapes_are_named(
    convert: Convert,
    state: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    shape: tuple[int, ...],
) -> None:
    assert convert(state | {key: torch.zeros(shape)}) == 2
    message = capsys.readouterr().err
    assert "16 x 8 pixels" in message if "patch_embed" in key else f"{key} has shape {shape}, expected" in message
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", 384, 128], "need 1 + 31 x 10 = 311 position embeddings, the checkpoint has 22"),
        (["--patch-stride", 16], "need 1 + 6 x 3 = 19 position embeddings, the checkpoint has 22"),
        (["--patch-stride", 0], "patch_stride must be between 1 and patch_size = 16"),
        (["--num-attention-heads", 5], "hidden_size 64 cannot be divided among 5"),
        (["--model.hidden_size", 32], "it is 64; leave it out or set it to that"),
        (["--tokenizer", "no/such-tokenizer"], "no tokenizer can be loaded from no/such-tokenizer"),
    ],
)
def test_wrong_options_are_named(
    convert: Convert,
    golden_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[object],
    message: str,
) -> None:
    assert convert(golden_checkpoint, *options) == 2
    assert message in capsys.readouterr().err
    assert nothing_written(tmp_path)


def test_a_size_that_is_the_file_s_may_be_given(convert: Convert, golden_checkpoint: Path) -> None:
    assert convert(golden_checkpoint, "--model.hidden_size", 64) == 0


def test_whoever_names_nothing_to_convert_is_told_what_there_is(ivt: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say what to convert: --init official=FILE"):
        ivt("convert", tmp_path / "model")


def test_another_model_s_tokenizer_is_refused(
    convert: Convert,
    golden_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "man"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    assert convert(golden_checkpoint, "--tokenizer", folder) == 2
    assert "has 6 tokens, the checkpoint 211" in capsys.readouterr().err
    assert nothing_written(tmp_path)


def test_an_existing_model_is_not_touched(
    convert: Convert, golden_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    assert convert(golden_checkpoint) == 2
    assert "not an empty folder; remove it" in capsys.readouterr().err
    assert (tmp_path / "model" / "config.json").read_text() == "mine"
    (tmp_path / "model" / "config.json").unlink()
    assert convert(golden_checkpoint) == 0  # empty now


def test_a_failure_while_writing_leaves_nothing(
    convert: Convert, golden_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("ivt.hub.convert.IVTImageProcessor.save_pretrained", full_disk)
    assert convert(golden_checkpoint) == 2
    assert nothing_written(tmp_path)


def test_a_new_folder_gets_its_name_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("runs/deep/model")) as folder:
        monkeypatch.chdir(folder.parent)
        (folder / "weights").write_text("whole")
        assert not (tmp_path / "runs/deep/model").exists()
    assert [path.relative_to(tmp_path / "runs/deep") for path in (tmp_path / "runs/deep").rglob("*")] == [
        Path("model"),
        Path("model/weights"),
    ]


def test_a_missing_file_is_named(convert: Convert, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path / "nowhere.pth") == 2
    assert "nowhere.pth" in capsys.readouterr().err


def test_geometry_of_an_official_file_has_to_be_given(
    ivt: Callable[..., Result], golden_checkpoint: Path, tmp_path: Path
) -> None:
    command = ["convert", tmp_path / "model", "--init", f"official={golden_checkpoint}", "--patch-stride", 12]
    with pytest.raises(ValueError, match="does not tell image_size, num_attention_heads; pass --image-size, --num-"):
        ivt(*command)
    assert nothing_written(tmp_path)


@pytest.fixture
def pretrained(state: State) -> State:
    """A file of the authors' pre-training: the encoder's keys of the golden one, and a fusion encoder and heads."""
    state = {key: tensor for key, tensor in state.items() if not key.startswith(("classifier", "bottleneck"))}
    for layer in range(2):
        for part in ("attention.self.query", "crossattention.self.key", "intermediate.dense", "output.dense"):
            for kind in ("weight", "bias"):
                state[f"encoder_fusion.bert.encoder.layer.{layer}.{part}.{kind}"] = torch.randn(3)
    state |= {"encoder_fusion.cls.predictions.bias": torch.randn(211), "temp": torch.tensor(0.07)}
    return state | {
        "itm.weight": torch.randn(2, 64),
        "itm.bias": torch.randn(2),
        "classifier_txt.weight": torch.ones(1),
    }


def test_a_file_of_pretraining_gives_its_encoder_and_names_what_is_left_out(
    convert: Convert,
    pretrained: State,
    converted: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert convert({"state_dict": {f"module.{key}": tensor for key, tensor in pretrained.items()}}) == 0
    printed = capsys.readouterr().out
    assert "not used: encoder_fusion.* (fusion encoder of the pre-training), 17 tensors\n" in printed
    for key in ("itm.weight", "itm.bias", "temp", "classifier_txt.weight"):
        assert f"not used: {key} (" in printed
    assert "used: 60, no parameter missing" in printed and "resized" not in printed
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", converted[0]))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_grid_of_another_stride_is_resized_as_a_vits_is(
    convert: Convert, pretrained: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(pretrained, "--patch-stride", 16) == 0
    assert "positions and types 7 x 3 resized to 6 x 3" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "model")
    for name, key in (("position_embeddings", "pos_embed"), ("type_embeddings", "type_embed")):
        old = pretrained[f"encoder_vl.{key}"]
        patches = old[:, 1:].view(1, 7, 3, 64).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(patches, size=(6, 3), mode="bilinear")
        found = getattr(model.image_embeddings, name)
        torch.testing.assert_close(found[:, 1:].view(1, 6, 3, 64).permute(0, 3, 1, 2), resized)
        assert torch.equal(found[:, 0], old[:, 0])


def test_a_square_grid_of_pretraining_is_resized(
    convert: Convert, pretrained: State, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("pos_embed", "type_embed"):
        pretrained[f"encoder_vl.{key}"] = torch.randn(1, 26, 64)
    assert convert(pretrained) == 0
    assert "positions and types 5 x 5 resized to 7 x 3" in capsys.readouterr().out


@pytest.mark.parametrize("num_patches, size, found", [(36, (144, 64), "6 x 6 and 9 x 4"), (21, (96, 96), "none")])
def test_a_grid_that_cannot_be_told_is_refused(
    convert: Convert,
    pretrained: State,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    num_patches: int,
    size: tuple[int, int],
    found: str,
) -> None:
    for key in ("pos_embed", "type_embed"):
        pretrained[f"encoder_vl.{key}"] = torch.randn(1, 1 + num_patches, 64)
    assert convert(pretrained, "--image-size", *size) == 2
    message = capsys.readouterr().err
    assert f"has {num_patches} patch positions" in message and f"that many have: {found}. Pass" in message
    assert nothing_written(tmp_path)


def test_a_checkpoint_becomes_one_with_another_tokenizer_or_other_fields(
    ivt: Callable[..., Result], converted: tuple[Path, str], golden_tokenizer: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(converted[0], tmp_path / "source")
    for name in TOKENIZER:
        (source / name).unlink()
    done = ivt("convert", tmp_path / "whole", "--init", source, "--tokenizer", golden_tokenizer, "--json")
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "whole"), "report": []}
    assert AutoProcessor.from_pretrained(tmp_path / "whole").tokenizer.model_max_length == 40
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    ivt("convert", tmp_path / "again", "--init", tmp_path / "whole", "--model.drop_path_rate", 0.25)
    assert AutoConfig.from_pretrained(tmp_path / "again").drop_path_rate == 0.25
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in converted[0].iterdir()}
    with pytest.raises(ValueError, match="no whole processor"):
        ivt("convert", tmp_path / "none", "--init", source)
    with pytest.raises(ValueError, match="no field 'hiden_size'"):
        ivt("convert", tmp_path / "none", "--init", source, "--hiden_size", 3)
    assert not (tmp_path / "none").exists()
