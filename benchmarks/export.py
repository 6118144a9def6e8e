"""What exporting a model costs: accuracy, size and speed of every export beside PyTorch.

    python -m benchmarks.export [CHECKPOINT] --output benchmarks/export.json

Without CHECKPOINT the bundled one is measured, on the test split of the drawn corpus; `docs/export.md` shows the
figures of that file. Speed is per second of processor time on one thread, which other work on the machine disturbs
little: the model alone, on batches of 32 images or of 32 captions of the corpus. As the embedded model is small, the
images of a base-size model are timed too, in four of its blocks with random weights.
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ivt import DEFAULT_MODEL, embed_images, embed_texts
from ivt.corpora import CORPORA, load_corpus
from ivt.hub.export import WRITERS, export, graphs_of, silent_tracing
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics
from ivt.retrieval.checkpoints import load_embedder
from ivt.retrieval.exported import SUFFIXES, open_onnx, open_openvino
from ivt.retrieval.models import WEIGHTS, find_version, load_processor
from modeling_ivt import IVTConfig, IVTModel

# name -> format (None: PyTorch itself), int8, arithmetic
VARIANTS: dict[str, tuple[str | None, bool, torch.dtype]] = {
    "PyTorch float32": (None, False, torch.float32),
    "PyTorch bfloat16": (None, False, torch.bfloat16),
    "ONNX Runtime float32": ("onnx", False, torch.float32),
    "ONNX Runtime int8": ("onnx", True, torch.float32),
    "OpenVINO float32": ("openvino", False, torch.float32),
    "OpenVINO bfloat16": ("openvino", False, torch.bfloat16),
    "OpenVINO int8": ("openvino", True, torch.float32),
}
COLUMNS = ("R@1", "R@10", "mAP", "lowest cosine", "largest difference", "MB", "images/s", "texts/s")
BATCH_SIZE = 32


def seconds(function: Callable[[], object], rounds: int = 5) -> float:
    """Processor time of a call: the median over `rounds`, after one that is not counted."""
    function()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


@torch.inference_mode()
def measure(
    folder: str, dtype: torch.dtype, dataset: Dataset, reference: dict[str, torch.Tensor]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Measure one variant.

    Args:
        folder: the checkpoint or an export of it.
        dtype: arithmetic.
        dataset: rows of a corpus.
        reference: unit-length embeddings of PyTorch in float32; empty for itself.

    Returns:
        The figures by the names of `COLUMNS`, and the variant's unit-length embeddings.
    """
    model, processor = load_embedder(folder, dtype), load_processor(folder)
    captions = [caption for row in dataset["captions"] for caption in row]
    person_ids = [i for i, row in zip(dataset["person_id"], dataset["captions"], strict=True) for _ in row]
    embeds = {
        "images": embed_images(model, processor, dataset["image"]),
        "texts": embed_texts(model, processor, captions),
    }
    metrics = retrieval_metrics(
        embeds["texts"].numpy(), person_ids, embeds["images"].numpy(), list(dataset["person_id"])
    )
    reference = reference or embeds
    pixel_values = processor(images=dataset[:BATCH_SIZE]["image"], return_tensors="pt")["pixel_values"].to(model.dtype)
    tokens = processor(text=captions[:BATCH_SIZE], return_tensors="pt")
    figures = {name: round(metrics[name], 2) for name in ("R@1", "R@10", "mAP")}
    figures |= {
        "lowest cosine": min((embeds[name] * reference[name]).sum(dim=-1).min().item() for name in embeds),
        "largest difference": max((embeds[name] - reference[name]).abs().max().item() for name in embeds),
        "MB": sum(path.stat().st_size for path in weight_files(Path(folder))) / 1e6,
        "images/s": round(BATCH_SIZE / seconds(lambda: model.get_image_features(pixel_values, cls_only=True))),
        "texts/s": round(BATCH_SIZE / seconds(lambda: model.get_text_features(**tokens, cls_only=True))),
    }
    return figures, embeds


@torch.inference_mode()
def time_base_size() -> dict[str, float]:
    """Milliseconds per image of every variant, in four blocks of a model of the default size with random weights."""
    num_images = 4
    model = IVTModel(IVTConfig(num_hidden_layers=4)).eval()
    pixel_values = torch.rand(num_images, 3, *model.config.image_size) * 2 - 1
    graph = graphs_of(model)[0]
    calibration = [{"pixel_values": image[None].numpy()} for image in pixel_values]
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (format, int8, dtype) in VARIANTS.items():
            if format is None:
                encoder = copy.deepcopy(graph.encoder).to(dtype)
                call = partial(encoder, pixel_values.to(dtype))
            else:
                path = Path(folder) / f"{int8}{SUFFIXES[format]}"
                if not path.exists():
                    with silent_tracing():
                        WRITERS[format](graph, path, calibration if int8 else None)
                open_graph = open_onnx if format == "onnx" else partial(open_openvino, dtype=dtype)
                call = partial(open_graph(path), {"pixel_values": pixel_values.numpy()})
            times[name] = round(1000 * seconds(call, rounds=3) / num_images, 1)
    return times


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint or an export that hold its weights."""
    return [path for pattern in WEIGHTS for path in folder.glob(pattern)]


def table_of(results: dict[str, Any]) -> str:
    """Lay out the figures as a Markdown table."""
    styles = {
        "mAP": "{:.2f}",
        "R@1": "{:.2f}",
        "R@10": "{:.2f}",
        "lowest cosine": "{:.5f}",
        "largest difference": "{:.0e}",
        "MB": "{:.1f}",
    }
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, figures in results["variants"].items():
        cells = [styles.get(column, "{}").format(figures[column]) for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def base_size_of(results: dict[str, Any]) -> str:
    """Tell the times of the base size in a line."""
    return ", ".join(f"{name} {time:.0f} ms" for name, time in results["base_size"].items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, measure, print a table, write the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=DEFAULT_MODEL, help="folder of a model with its processor")
    parser.add_argument("--corpus", default="synthetic", choices=CORPORA)
    parser.add_argument("--corpus_root", help="the corpus's official folder (synthetic: a folder to cache it in)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the exported graphs take as many
    dataset = load_corpus(options.corpus, options.corpus_root, "test")
    variants, reference = {}, {}
    with tempfile.TemporaryDirectory() as exports:
        for name, (format, int8, dtype) in VARIANTS.items():
            folder = options.checkpoint if format is None else f"{exports}/{format}{'-int8' if int8 else ''}"
            if not Path(folder).exists():
                export(options.checkpoint, Path(folder), format, int8, options.corpus, options.corpus_root)
            variants[name], embeds = measure(folder, dtype, dataset, reference)
            reference = reference or embeds
    packages = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf")
    results = {
        "checkpoint": Path(options.checkpoint).name,
        "revision": find_version(options.checkpoint).revision,
        "corpus": options.corpus,
        "split": "test",
        "num_images": len(dataset),
        "num_captions": sum(len(captions) for captions in dataset["captions"]),
        "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        "versions": {package: version(package) for package in packages},
        "variants": variants,
        "base_size": time_base_size(),
    }
    print(table_of(results), base_size_of(results), sep="\n\n")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"written to {options.output}")


if __name__ == "__main__":
    main()
