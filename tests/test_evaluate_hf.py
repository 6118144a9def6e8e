import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer
from transformers.feature_extraction_utils import BatchFeature
from typer.testing import Result

from ivt.corpora import FEATURES
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics
from ivt.retrieval.evaluation import evaluate_as_reference, evaluate_retrieval
from ivt.retrieval.models import find_version
from ivt.retrieval.report import DIRECTIONS
from modeling_ivt import IVTModel
from processing import IVTImageProcessor, IVTProcessor

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "gray": (128, 128, 128)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, "a", "man", "in", "."]


class PerfectModel(torch.nn.Module):
    """Embeds an image as its colour, and a caption as the colour it names."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.colours = torch.nn.Parameter(torch.tensor(list(COLOURS.values())) / 255)

    def get_image_features(self, pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=pixel_values.mean(dim=(2, 3)))

    def get_text_features(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=self.colours[input_ids[:, 0]])


class ColourProcessor:
    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> BatchFeature:
        if images is not None:
            pixels = [torch.from_numpy(np.array(image.resize((2, 3)))).permute(2, 0, 1) / 255 for image in images]
            return BatchFeature({"pixel_values": torch.stack(pixels)})
        named = [[number for number, colour in enumerate(COLOURS) if colour in sentence] for sentence in text]
        return BatchFeature({"input_ids": torch.tensor(named), "attention_mask": torch.ones(len(text), 1)})


def rows_of(*rows: tuple[str, int, list[str]]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "image": PIL.Image.new("RGB", (4, 7), COLOURS[colour]),
                "image_id": f"{number}.png",
                "person_id": person_id,
                "captions": captions,
            }
            for number, (colour, person_id, captions) in enumerate(rows)
        ],
        features=FEATURES,
    )


def test_every_caption_searches_and_every_image_stands_in_the_gallery_once() -> None:
    rows = rows_of(
        ("red", 7, ["red", "a red man", "red again"]), ("green", 9, ["green"]), ("blue", 7, ["blue", "blue."])
    )
    metrics = evaluate_retrieval(PerfectModel(), ColourProcessor(), rows, batch_size=2, progress=False)
    found = metrics["text_to_image"]
    assert found["num_queries"] == 6
    # five queries of person 7, whose other image ties with the wrong one at cosine 0 and so stands behind it
    assert found["R@1"] == 100
    assert found["mAP"] == pytest.approx(100 * (5 * (1 + 2 / 3) / 2 + 1) / 6)
    assert found["mINP"] == pytest.approx(100 * (5 * 2 / 3 + 1) / 6)
    back = metrics["image_to_text"]
    assert (back["num_queries"], back["R@1"]) == (3, 100)
    # red: captions of blue, the same person, tie with that of green and stand behind it: ranks 1, 2, 3, 5, 6 of 6
    red, blue = [1, 2, 3, 5, 6], [1, 2, 4, 5, 6]
    precisions = [sum(j / rank for j, rank in enumerate(ranks, start=1)) / 5 for ranks in (red, blue)]
    assert back["mAP"] == pytest.approx(100 * (sum(precisions) + 1) / 3)


def test_captions_that_lie_find_nobody() -> None:
    rows = rows_of(("red", 1, ["green"]), ("green", 2, ["red"]))
    metrics = evaluate_retrieval(PerfectModel(), ColourProcessor(), rows, ks=(1, 2), progress=False)
    for direction in metrics.values():
        assert (direction["R@1"], direction["R@2"], direction["mAP"]) == (0, 100, 50)


def test_image_in_two_rows_is_refused() -> None:
    rows = rows_of(("red", 1, ["red"]), ("green", 2, ["green"]))
    rows = Dataset.from_list([*rows, rows[0]], features=FEATURES)
    with pytest.raises(ValueError, match="'0.png' stands in several rows"):
        evaluate_retrieval(PerfectModel(), ColourProcessor(), rows, progress=False)


@pytest.fixture
def processor(tiny_model: IVTModel) -> IVTProcessor:
    height, width = tiny_model.config.image_size
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=16)
    return IVTProcessor(IVTImageProcessor(size={"height": height, "width": width}), tokenizer)


def test_batches_change_no_metric_of_the_real_model(tiny_model: IVTModel, processor: IVTProcessor) -> None:
    captions = {
        "red": ["A man in red.", "red"],
        "green": ["Green man"],
        "blue": ["blue", "in blue " * 30],
        "gray": ["a"],
    }
    rows = rows_of(*[(colour, number // 2, captions[colour]) for number, colour in enumerate(captions)])
    with torch.no_grad():
        images = [tiny_model(**processor(images=row["image"], return_tensors="pt")).image_embeds for row in rows]
        texts = [
            tiny_model(**processor(text=text, return_tensors="pt")).text_embeds
            for row in rows
            for text in row["captions"]
        ]
    person_ids = [row["person_id"] for row in rows for _ in row["captions"]]
    expected = retrieval_metrics(torch.cat(texts), person_ids, torch.cat(images), rows["person_id"][:], ks=(1, 2))
    metrics = evaluate_retrieval(tiny_model.train(), processor, rows, batch_size=3, ks=(1, 2), progress=False)
    assert metrics["text_to_image"] == pytest.approx(expected)
    assert tiny_model.training


def areas_under_precision(right: list[bool]) -> float:
    """Average precision by trapezoids, looked up place by place in a ranking."""
    area = 0.0
    for place, is_right in enumerate(right):
        if is_right:
            before = sum(right[:place]) / place if place else 1.0
            area += (before + sum(right[: place + 1]) / (place + 1)) / 2
    return area / sum(right)


@pytest.mark.parametrize("captions_per_image", [(2, 3, 1, 2), (1, 1, 1, 1), (2, 2, 2, 2)])
def test_reference_protocol_is_that_of_the_authors(
    tiny_model: IVTModel, processor: IVTProcessor, captions_per_image: tuple[int, ...]
) -> None:
    sentences = ["a man in red.", "red " * 15, "green", "in blue", "a blue man", "gray.", "man", "a"]
    rows, remaining = [], iter(sentences)
    for number, (colour, count) in enumerate(zip(COLOURS, captions_per_image, strict=True)):
        rows.append((colour, (7, 9, 5, 7)[number], [next(remaining) for _ in range(count)]))
    metrics = evaluate_as_reference(tiny_model, processor, rows_of(*rows), 3, ks=(1, 2), progress=False)

    pairs = [(colour, person, caption) for colour, person, captions in rows for caption in captions]
    gallery = pairs if captions_per_image == (1, 1, 1, 1) else pairs[::2]
    first_places, precisions, num_without_match = [], [], 0
    with torch.no_grad():
        crops = [PIL.Image.new("RGB", (4, 7), COLOURS[colour]) for colour, *_ in gallery]
        images = [tiny_model(**processor(images=crop, return_tensors="pt")).image_embeds[0] for crop in crops]
        for _, person, caption in pairs:
            text = tiny_model(**processor(text=caption, return_tensors="pt")).text_embeds[0]
            order = sorted(range(len(gallery)), key=lambda i: -torch.cosine_similarity(text, images[i], dim=0))
            right = [gallery[i][1] == person for i in order]
            first_places.append(right.index(True) if any(right) else len(gallery))
            precisions.append(areas_under_precision(right) if any(right) else 0.0)
            num_without_match += not any(right)
    assert num_without_match == (captions_per_image == (2, 3, 1, 2))  # the third image is not in the gallery
    found = metrics["text_to_image"]
    assert metrics.keys() == {"text_to_image"} and found["num_queries"] == len(pairs)
    assert found["num_queries_without_match"] == num_without_match
    for k in (1, 2):
        assert found[f"R@{k}"] == pytest.approx(100 * sum(place < k for place in first_places) / len(pairs))
    assert found["mAP"] == pytest.approx(100 * sum(precisions) / len(pairs))


class CuttingProcessor(ColourProcessor):
    """Reads the first words of a caption: four, or as many as it is told."""

    def __call__(self, images: Any = None, text: Any = None, max_length: int = 4, **_: Any) -> BatchFeature:
        text = text and [" ".join(sentence.split()[:max_length]) for sentence in text]
        return super().__call__(images, text)


def test_reference_protocol_reads_captions_as_far_as_the_model_holds_them() -> None:
    """A caption that names two colours is embedded as the first one of `COLOURS`."""
    model = PerfectModel()
    model.config = SimpleNamespace(max_position_embeddings=16)
    late, too_late = (" ".join(["blue", *["or"] * number, "red"]) for number in (14, 15))
    rows = rows_of(("red", 1, [late]), ("blue", 2, [too_late]))
    figures = evaluate_as_reference(model, CuttingProcessor(), rows, batch_size=1, ks=(1,), progress=False)
    assert figures["text_to_image"]["R@1"] == 100
    standard = evaluate_retrieval(model, CuttingProcessor(), rows, batch_size=1, ks=(1,), progress=False)
    assert standard["text_to_image"]["R@1"] == 50  # by the corpora's protocol both are blue


@pytest.fixture
def checkpoint(tiny_model: IVTModel, processor: IVTProcessor, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RSTPReid as its authors distribute it: two people, an image of a colour each, and a broken one."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "RSTPReid" / "imgs").mkdir(parents=True)
    entries = []
    for number, (colour, value) in enumerate(COLOURS.items()):
        PIL.Image.new("RGB", (30, 70), value).save(tmp_path / "RSTPReid" / "imgs" / f"{colour}.jpg")
        captions = [f"A man in {colour}.", f"{colour} man"]
        entries.append({"id": number % 2, "img_path": f"{colour}.jpg", "captions": captions, "split": "test"})
    (tmp_path / "RSTPReid" / "data_captions.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path / "RSTPReid"


@pytest.fixture
def run(ivt: Callable[..., Result], checkpoint: Path, corpus: Path) -> Callable[..., str]:
    """Evaluate on the corpus, and return what is printed."""
    command = ["evaluate", checkpoint, "--corpus", "rstpreid", "--corpus-root", corpus]
    return lambda *arguments: ivt(*command, *arguments).stdout


def test_command_prints_a_table_and_writes_the_same_figures(
    run: Callable[..., str], checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "deep" / "metrics.json"
    start = time.perf_counter()
    printed = run("--output", output, "--batch-size", "3", "--device", "cpu")
    elapsed = time.perf_counter() - start
    results = json.loads(output.read_text(encoding="utf-8"))
    assert (results["corpus"], results["split"], results["checkpoint"]) == ("rstpreid", "test", str(checkpoint))
    assert (results["num_images"], results["num_captions"], results["num_people"]) == (4, 8, 2)
    assert results["revision"] == find_version(str(checkpoint)).revision
    assert (results["protocol"], results["average_precision"], results["device"]) == ("standard", "standard", "cpu")
    assert 0 < results["seconds"] < elapsed and results["versions"]["torch"] == torch.__version__
    assert "2 people, 4 images, 8 captions" in printed
    for direction in DIRECTIONS:
        line = next(line for line in printed.splitlines() if line.startswith(direction.replace("_", " ")))
        names = ("R@1", "R@5", "R@10", "mAP", "mINP")
        assert line.split()[3:] == [f"{results[direction][name]:.2f}" for name in names]
    again = json.loads(run("--batch-size", "3", "--device", "cpu", "--json"))
    assert again | {"seconds": 0} == results | {"seconds": 0}


def test_average_precision_and_dtype_reach_the_figures(run: Callable[..., str], tmp_path: Path) -> None:
    figures = {}
    for name, *arguments in (
        ("plain",),
        ("area", "--average-precision", "trapezoidal"),
        ("half", "--dtype", "bfloat16"),
    ):
        run(*arguments, "--output", tmp_path / f"{name}.json")
        figures[name] = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert figures["area"]["text_to_image"]["mAP"] < figures["plain"]["text_to_image"]["mAP"]
    assert figures["area"]["text_to_image"]["R@1"] == figures["plain"]["text_to_image"]["R@1"]
    assert [figures[name]["dtype"] for name in figures] == ["float32", "float32", "bfloat16"]


@pytest.mark.parametrize("protocol", ["standard", "reference"])
def test_device_and_batch_size_are_those_asked_for(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    sizes, process = [], IVTProcessor.__call__

    def count(self: IVTProcessor, images: Any = None, text: Any = None, **options: Any) -> BatchFeature:
        sizes.append(len(text if images is None else images))
        return process(self, images=images, text=text, **options)

    monkeypatch.setattr(IVTProcessor, "__call__", count)
    run("--protocol", protocol, "--batch-size", "3")
    assert sorted(sizes) == [1, 2, 3, 3, 3]  # of 4 images and 8 captions
    with pytest.raises(ValueError, match="nowhere"):
        run("--protocol", protocol, "--device", "nowhere")


def test_reference_protocol_prints_and_writes_its_one_direction(run: Callable[..., str], tmp_path: Path) -> None:
    printed = run("--protocol", "reference", "--output", tmp_path / "metrics.json")
    results = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert (results["protocol"], results["average_precision"]) == ("reference", "trapezoidal")
    assert "image_to_text" not in results and "image to text" not in printed
    with pytest.raises(ValueError, match="trapezoidal; leave out --average-precision"):
        run("--protocol", "reference", "--average-precision", "standard")


def test_queries_without_a_match_are_counted_in_what_is_printed(run: Callable[..., str], corpus: Path) -> None:
    path = corpus / "data_captions.json"
    entries = json.loads(path.read_text())
    for number, entry in enumerate(entries):
        entry |= {"id": number, "captions": entry["captions"][: 1 if number < 2 else 2]}
    path.write_text(json.dumps(entries))  # 1 + 1 + 2 + 2 pairs: every second one leaves out the second picture
    assert "text to image: 1 queries without a match count as not found" in run("--protocol", "reference")
    assert "without a match" not in run()


def test_bad_images_are_an_error_unless_skipped(run: Callable[..., str], corpus: Path) -> None:
    (corpus / "imgs" / "red.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="1 of 4 images cannot be read: imgs/red.jpg"):
        run()
    assert "3 images, 6 captions" in run("--on-bad-image", "skip")


def test_checkpoint_with_a_weight_missing_is_refused(run: Callable[..., str], checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    lost = sorted(weights)[0]
    save_file(
        {name: tensor for name, tensor in weights.items() if name != lost},
        checkpoint / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match=f"lacks 1 weights.*the first {lost}"):
        run()


def test_checkpoint_without_tokenizer_says_how_to_add_one(run: Callable[..., str], checkpoint: Path) -> None:
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="no whole processor.*convert it with --tokenizer"):
        run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "rstp-reid"], "did you mean 'rstpreid'"),
        (["--split", "val"], "no images of split 'val'"),
        (["--protocol", "referense"], "did you mean 'reference'"),
        (["--dtype", "int8"], "dtype is 'int8', expected one of 'auto', 'float32', 'bfloat16', 'float16'"),
        (["--average-precision", "trapezoid"], "did you mean 'trapezoidal'"),
        (["--device", "gpu"], "device 'gpu' cannot be used here: .*; pass cpu, cuda or cuda:1"),
    ],
)
def test_what_cannot_be_evaluated_is_named(run: Callable[..., str], arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(*arguments)


def test_the_script_is_the_command(run_python: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "evaluate_hf.py"
    done = run_python(
        script, tmp_path, "--corpus", "synthetic", "--corpus_root", tmp_path, "--split", "dev", cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: split is 'dev', expected one of 'train', 'val', 'test', 'train+val'\n"
