"""Exported graphs are the model: both formats, floats and int8, of a tiny random one.

The graphs are made once, by the command line's own function; the int8 ranges come from pictures of noise. These tests
have a process to themselves, which test_export.py starts: `python -m pytest tests/hub/export_laws.py`.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize
from transformers import AutoProcessor, BertTokenizer
from typer.testing import Result

import ivt.hub.export
from ivt import Gallery, embed_images, embed_texts
from ivt.explanations.attention import explain
from ivt.hub.export import WRITERS, export
from ivt.retrieval import models
from ivt.retrieval.checkpoints import load_embedder
from ivt.retrieval.exported import ExportedIVTModel, is_exported
from ivt.retrieval.models import find_version
from ivt.retrieval.report import evaluate_checkpoint
from modeling_ivt import IVTConfig, IVTModel
from processing import IVTImageProcessor, IVTProcessor

ROOT = Path(__file__).parents[2]
WORDS = "a man woman in red blue green coat shirt with bag".split()
SENTENCES = ["a man in red", "a woman in a green coat with a blue bag", "bag"]
VARIANTS = [(format, int8) for format in WRITERS for int8 in (False, True)]
# Deprecations inside the libraries: torch.export's own code, and NNCF's use of OpenVINO
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def noise_rows(num_rows: int = 12) -> Dataset:
    """Rows of a corpus: pictures of noise, two captions each, two pictures of a person."""
    pixels = np.random.default_rng(0).integers(0, 256, (num_rows, 30, 20, 3), dtype=np.uint8)
    return Dataset.from_dict(
        {
            "image": [Image.fromarray(p) for p in pixels],
            "image_id": [f"{i}.png" for i in range(num_rows)],
            "person_id": [i // 2 for i in range(num_rows)],
            "captions": [[SENTENCES[i % 3], SENTENCES[(i + 1) % 3]] for i in range(num_rows)],
        }
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with its processor, saved; images are 48 x 24 (height x width), texts of at most 16 tokens."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = IVTConfig(
        image_size=(48, 24),
        patch_size=8,
        patch_stride=6,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=len(words),
        max_position_embeddings=16,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=16)
    IVTModel(config).save_pretrained(folder)
    IVTProcessor(IVTImageProcessor(size={"height": 48, "width": 24}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def export_of(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """The folder of a variant, exported when it is first asked for."""
    folders: dict[tuple[str, bool], Path] = {}

    def export_once(format: str, int8: bool) -> Path:
        if (format, int8) not in folders:
            output_dir = tmp_path_factory.mktemp("exports") / "model"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ivt.hub.export, "load_corpus", lambda *_: noise_rows())
                export(str(checkpoint), output_dir, format, int8)
            folders[format, int8] = output_dir
        return folders[format, int8]

    return export_once


def embeds_of(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Unit-length embeddings of pictures and sentences, in batches of 1 to 5 and texts of 3 to 11 tokens."""
    processor = AutoProcessor.from_pretrained(folder)
    images = [row["image"] for row in noise_rows(5)]
    return {
        "image": torch.cat(
            [
                embed_images(model, processor, images, batch_size=5, progress=False),
                embed_images(model, processor, images[:1], progress=False),
            ]
        ),
        "text": torch.cat(
            [
                embed_texts(model, processor, SENTENCES, batch_size=3, progress=False),
                embed_texts(model, processor, SENTENCES, batch_size=1, progress=False),
            ]
        ),
    }


@pytest.mark.parametrize(("format", "int8"), VARIANTS)
def test_an_export_embeds_as_its_checkpoint(
    checkpoint: Path, export_of: Callable[..., Path], format: str, int8: bool
) -> None:
    folder = export_of(format, int8)
    found = embeds_of(ExportedIVTModel.from_pretrained(folder), folder)
    for modality, expected in embeds_of(IVTModel.from_pretrained(checkpoint), checkpoint).items():
        if int8:  # noise in, random weights: what it costs a trained model is measured by benchmarks/export.py
            similarity = cosine_similarity(found[modality], expected)
            assert similarity.min() > 0.97 and not torch.equal(found[modality], expected), modality
        else:
            torch.testing.assert_close(found[modality], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("format", WRITERS)
@torch.no_grad()
def test_embeddings_are_those_of_the_model_before_normalisation(
    checkpoint: Path, export_of: Callable[..., Path], format: str
) -> None:
    model, exported = IVTModel.from_pretrained(checkpoint), ExportedIVTModel.from_pretrained(export_of(format, False))
    images, ids = torch.randn(2, 3, 48, 24), torch.randint(5, 16, (4, 16))
    mask = torch.ones_like(ids)
    mask[1:, 7:] = 0
    for found, expected in [
        (exported.get_image_features(images), model.get_image_features(images)),
        (exported.get_text_features(ids, mask), model.get_text_features(ids, mask)),
        (exported.get_text_features(ids[:, :2]), model.get_text_features(ids[:, :2])),
    ]:
        assert found.pooler_output.dtype == torch.float32
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)


def test_openvino_computes_in_bfloat16_close_to_float32(checkpoint: Path, export_of: Callable[..., Path]) -> None:
    folder = export_of("openvino", False)
    expected = embeds_of(IVTModel.from_pretrained(checkpoint), checkpoint)
    found = embeds_of(ExportedIVTModel.from_pretrained(folder, dtype=torch.bfloat16), folder)
    for modality in ("image", "text"):
        assert cosine_similarity(found[modality], expected[modality]).min() > 0.999, modality


@pytest.mark.parametrize(("format", "int8"), [("onnx", False), ("onnx", True), ("openvino", True)])
def test_what_cannot_compute_in_bfloat16_says_so(export_of: Callable[..., Path], format: str, int8: bool) -> None:
    with pytest.raises(ValueError, match="does not compute in torch.bfloat16; pass dtype=torch.float32"):
        ExportedIVTModel.from_pretrained(export_of(format, int8), dtype=torch.bfloat16)


def test_int8_weights_take_a_byte_each(checkpoint: Path, export_of: Callable[..., Path]) -> None:
    matrix = IVTModel.from_pretrained(checkpoint).layers[0].feed_forward["image"].fc1.weight  # (64, D)
    graph = onnx.load(export_of("onnx", True) / "image_encoder.onnx").graph
    assert sorted(matrix.shape) in [
        sorted(weight.dims) for weight in graph.initializer if weight.data_type == onnx.TensorProto.INT8
    ]
    sizes = [(export_of("openvino", int8) / "image_encoder.bin").stat().st_size for int8 in (True, False)]
    assert sizes[0] < 0.6 * sizes[1]


def test_graphs_do_not_tell_where_they_were_made(export_of: Callable[..., Path]) -> None:
    for format, int8 in VARIANTS:
        for path in export_of(format, int8).iterdir():
            assert str(ROOT).encode() not in path.read_bytes(), path


def test_graphs_hold_named_axes_and_one_image_size(export_of: Callable[..., Path]) -> None:
    graph = onnx.load(export_of("onnx", False) / "text_encoder.onnx").graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "input_ids": ["batch", "length"],
        "attention_mask": ["batch", "length"],
        "embeds": ["batch", 32],
    }
    import openvino  # the fixture has turned its reports off by now

    images = openvino.Core().read_model(export_of("openvino", False) / "image_encoder.xml")
    assert images.input("pixel_values").partial_shape.to_string() == "[?,3,48,24]"
    assert images.output("embeds").partial_shape.to_string() == "[?,32]"


def test_ranges_of_int8_come_from_rows_all_over_the_split(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = noise_rows(7).to_list(), []
    rows[2]["captions"] = []
    rows = Dataset.from_list(rows, features=noise_rows(7).features)
    monkeypatch.setattr(ivt.hub.export, "load_corpus", lambda *names: asked.append(names) or rows)
    monkeypatch.setattr(ivt.hub.export, "NUM_CALIBRATION_ROWS", 3)
    processor = AutoProcessor.from_pretrained(checkpoint)
    found = ivt.hub.export.calibration_inputs(processor, "rstpreid", "data", "train")
    assert asked == [("rstpreid", "data", "train")]
    expected = {
        "image_encoder": [processor(images=rows[place]["image"], return_tensors="np") for place in (0, 2, 4)],
        "text_encoder": [processor(text=rows[place]["captions"][0], return_tensors="np") for place in (0, 4)],
    }
    assert found.keys() == expected.keys()
    for name, inputs in expected.items():
        for one, other in zip(found[name], inputs, strict=True):
            assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_a_folder_tells_what_it_is(checkpoint: Path, export_of: Callable[..., Path]) -> None:
    about = json.loads((export_of("openvino", True) / "export.json").read_text())
    assert (about["format"], about["int8"], about["calibration"]) == ("openvino", True, "synthetic val")
    assert (about["checkpoint"], about["revision"]) == (checkpoint.name, find_version(str(checkpoint)).revision)
    assert {"torch", "openvino", "nncf"} <= set(about["versions"])
    config = json.loads((export_of("onnx", False) / "config.json").read_text())
    assert config["auto_map"].keys() == {"AutoConfig"}  # for AutoModel there are no weights
    assert is_exported(str(export_of("onnx", False))) and not is_exported(str(checkpoint))
    assert find_version(str(export_of("onnx", False))).revision != find_version(str(checkpoint)).revision


def test_whatever_embeds_takes_an_export_by_its_folder(
    checkpoint: Path, export_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ivt.retrieval.report.load_corpus", lambda *_, **__: noise_rows())
    figures = []
    for folder in (checkpoint, export_of("onnx", False)):
        figures.append(evaluate_checkpoint(str(folder), "synthetic")["text_to_image"])
    assert figures[0] == figures[1]
    assert isinstance(load_embedder(str(checkpoint)), IVTModel)


def test_a_gallery_of_an_export_finds_what_one_of_its_checkpoint_finds(
    checkpoint: Path, export_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "auto_dtype", lambda device: torch.float32)  # that of the export
    models._load_model.cache_clear()
    (tmp_path / "crops").mkdir()
    for row in noise_rows():
        row["image"].save(tmp_path / "crops" / row["image_id"])
    found = []
    for number, folder in enumerate((checkpoint, export_of("openvino", False))):
        gallery = Gallery(tmp_path / f"{number}.lance", str(folder))
        gallery.add(tmp_path / "crops", progress=False)
        found.append([(result.image_id, result.score) for result in gallery.search("a man in red", k=5)])
    assert [name for name, _ in found[0]] == [name for name, _ in found[1]]
    assert [score for _, score in found[0]] == pytest.approx([score for _, score in found[1]], abs=1e-4)


def test_the_code_of_the_document_runs_as_printed(
    export_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)[1]
    shutil.copytree(export_of("onnx", False), tmp_path / "OUTPUT_DIR")
    Image.effect_noise((20, 50), 80).save(tmp_path / "crop.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/export.md", "exec"), names := {})
    assert names["vectors"].shape == (1, 32)


def test_an_export_on_the_hub_is_loaded_by_its_name(
    export_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository = tmp_path / "models--org--export"  # as the Hub's files lie in the cache
    shutil.copytree(export_of("onnx", False), repository / "snapshots" / "c0ffee")
    (repository / "refs").mkdir()
    (repository / "refs" / "v1").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert is_exported("org/export", "v1") and not is_exported("org/other")
    found, expected = (
        ExportedIVTModel.from_pretrained(*name).get_image_features(torch.ones(1, 3, 48, 24)).pooler_output
        for name in (("org/export", torch.float32, "v1"), (export_of("onnx", False),))
    )
    assert torch.equal(found, expected)
    assert find_version("org/export", "v1").revision == "c0ffee"


def test_what_a_graph_does_not_hold_is_an_error(export_of: Callable[..., Path]) -> None:
    model = ExportedIVTModel.from_pretrained(export_of("onnx", False))
    with pytest.raises(ValueError, match="images are 3 x 24 x 48 .* made for 3 x 48 x 24; resize them"):
        model.get_image_features(torch.zeros(1, 3, 24, 48))
    with pytest.raises(ValueError, match="text has 17 tokens, the model holds 16; pass truncation=True"):
        model.get_text_features(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="the batch has no images"):
        model.get_image_features(torch.zeros(0, 3, 48, 24))
    with pytest.raises(ValueError, match="the batch has no texts"):
        model.get_text_features(torch.zeros(0, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="an exported model has no output_attentions; leave it out or load"):
        model.get_image_features(torch.zeros(1, 3, 48, 24), output_attentions=True)
    processor = AutoProcessor.from_pretrained(export_of("onnx", False))
    with pytest.raises(ValueError, match="an exported model records no attention; pass the checkpoint"):
        explain(model, processor, Image.new("RGB", (20, 30)), "a man in red")


def test_occlusion_explains_an_export_like_the_checkpoint(checkpoint: Path, export_of: Callable[..., Path]) -> None:
    picture = Image.effect_noise((24, 48), 90).convert("RGB")
    ours, exported = (
        explain(
            load_embedder(str(name)), AutoProcessor.from_pretrained(name), picture, SENTENCES[1], method="occlusion"
        )
        for name in (checkpoint, export_of("onnx", False))
    )
    torch.testing.assert_close(exported.pixel_map, ours.pixel_map, rtol=1e-2, atol=1e-4)
    assert [weight for _, weight in exported.words] == pytest.approx([weight for _, weight in ours.words], abs=1e-4)


def test_folders_without_an_export_are_named(checkpoint: Path, export_of: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no export.json, expected a folder that ivt export wrote"):
        ExportedIVTModel.from_pretrained(checkpoint)
    (tmp_path / "export.json").write_text('{"format": "tflite", "int8": false}')
    with pytest.raises(ValueError, match="is of format 'tflite', known are onnx, openvino"):
        ExportedIVTModel.from_pretrained(tmp_path)


def test_the_command_says_what_is_wrong_and_writes_nothing(
    ivt: Callable[..., Result], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="format is 'tflite', expected one of onnx, openvino"):
        ivt("export", checkpoint, tmp_path / "out", "--format", "tflite")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="is not an empty folder"):
        ivt("export", checkpoint, tmp_path / "full", "--format", "onnx")
    monkeypatch.setattr("ivt.hub.export.find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(
        ImportError, match=r"exporting for onnx needs nncf: pip install 'ivt-person-retrieval\[export\]'"
    ):
        ivt("export", checkpoint, tmp_path / "out", "--format", "onnx", "--int8")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_graph_that_is_not_the_model_is_not_saved(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Any, path: Path, calibration: None) -> None:
        path.touch()

    def wrong_model(folder: Path) -> ExportedIVTModel:
        def encode(inputs: dict[str, np.ndarray]) -> np.ndarray:
            return normalize(torch.ones(3, 32)).numpy()

        return ExportedIVTModel(IVTConfig.from_pretrained(folder), encode, encode)

    monkeypatch.setitem(WRITERS, "onnx", wrong)
    monkeypatch.setattr(ExportedIVTModel, "from_pretrained", wrong_model)
    with pytest.raises(ValueError, match="image_encoder differs from PyTorch by"):
        export(str(checkpoint), tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_names_the_folder_after_the_checkpoint_and_tells_the_difference(
    ivt: Callable[..., Result], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = ivt("export", checkpoint, "--format", "onnx")
    folder = tmp_path / f"{checkpoint.name}-onnx"
    assert is_exported(str(folder)) and done.stdout.endswith(f"saved in {folder}\n")
    for name in ("image_encoder", "text_encoder"):
        assert re.search(rf"^{name}: \d+\.\d MB, differs from PyTorch by at most \d", done.stdout, re.MULTILINE)
    with pytest.raises(ValueError, match=f"{checkpoint.name}-onnx exists and is not an empty folder"):
        ivt("export", checkpoint, "--format", "onnx")
