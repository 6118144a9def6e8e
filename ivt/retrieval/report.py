"""The figures of a checkpoint on a corpus, with what they were measured on and with."""

import json
import platform
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from ivt.choices import PROTOCOLS
from ivt.corpora.load import load_corpus
from ivt.messages import check_choice
from ivt.metric.person_retrieval.person_retrieval import AVERAGE_PRECISIONS

from .checkpoints import load_embedder
from .encoders import auto_dtype
from .evaluation import evaluate_as_reference, evaluate_reranked, evaluate_retrieval
from .models import find_device, find_version, load_processor
from .reranking import load_matcher

DIRECTIONS = ("text_to_image", "image_to_text")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def evaluate_checkpoint(
    checkpoint: str,
    corpus: str,
    corpus_root: str | None = None,
    split: str = "test",
    *,
    on_bad_image: str = "error",
    batch_size: int = 64,
    device: str | None = None,
    dtype: str = "float32",
    average_precision: str | None = None,
    protocol: str = "standard",
    rerank: int = 0,
) -> dict[str, Any]:
    """Evaluate a checkpoint: captions search images, and images search captions.

    Args:
        checkpoint: folder or Hub name of a model with its processor, or of an exported one.
        corpus: see `load_corpus`.
        corpus_root: likewise.
        split: likewise.
        on_bad_image: likewise.
        batch_size: images or captions per call of the model.
        device: "cpu", "cuda:1", …; None takes an accelerator if there is one.
        dtype: one of DTYPES; "auto" is half precision where the device is fast in it.
        average_precision: "standard" or "trapezoidal"; None takes the protocol's.
        protocol: "standard", or "reference" to evaluate as IVT's authors do, for parity only.
        rerank: judge so many candidates of every query again by image-text matching, and measure that ranking too; 0
            for none.

    Returns:
        "text_to_image" and "image_to_text" (the latter by the standard protocol) with R@k, mAP and mINP in percent, as
        of `retrieval_metrics`; beside them checkpoint and revision, corpus and split with their sizes, protocol,
        average precision, device, dtype, seconds and the versions of the libraries; with `rerank`, under "reranked"
        the metrics of both directions again, the number of candidates and the seconds of that ranking as a whole.

    Raises:
        ValueError: if a choice is unknown, or checkpoint and corpus cannot be used.
        OSError: if there is no such checkpoint on the Hub, or the Hub cannot be reached.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    check_choice("dtype", dtype, DTYPES)
    if rerank < 0 or (rerank and protocol == "reference"):
        raise ValueError(f"rerank is {rerank}; pass a number of candidates, and the standard protocol")
    by_reference = protocol == "reference"
    if by_reference and average_precision == "standard":
        raise ValueError("the reference's average precision is trapezoidal; leave out --average-precision")
    average_precision = average_precision or ("trapezoidal" if by_reference else "standard")
    check_choice("average_precision", average_precision, AVERAGE_PRECISIONS)
    place = find_device(device)
    dataset = load_corpus(corpus, corpus_root, split, on_bad_image=on_bad_image)
    number_format = auto_dtype(place) if dtype == "auto" else getattr(torch, dtype)
    matcher = load_matcher(checkpoint, number_format).to(place) if rerank else None
    model = matcher or load_embedder(checkpoint, number_format).to(place)
    processor = load_processor(checkpoint)
    start = time.perf_counter()
    inputs = (model, processor, dataset, batch_size)
    if by_reference:
        metrics = evaluate_as_reference(*inputs)
    else:
        metrics = evaluate_retrieval(*inputs, average_precision=average_precision)
    seconds = time.perf_counter() - start
    reranked = {}
    if matcher:
        start = time.perf_counter()
        figures = evaluate_reranked(matcher, *inputs[1:3], rerank, batch_size, average_precision=average_precision)
        measured = round(time.perf_counter() - start, 3)
        reranked = {"reranked": {"candidates": rerank, **figures, "seconds": measured}}
    return {
        "checkpoint": checkpoint,
        "revision": find_version(checkpoint).revision,
        "corpus": corpus,
        "split": split,
        "num_images": len(dataset),
        "num_captions": metrics["text_to_image"]["num_queries"],
        "num_people": len(set(dataset["person_id"][:])),
        "protocol": protocol,
        "average_precision": average_precision,
        **metrics,
        **reranked,
        "device": str(model.device),
        "dtype": str(number_format).removeprefix("torch."),
        "seconds": round(seconds, 3),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
        },
    }


def table_of(results: dict[str, Any]) -> str:
    """Lay out the percentages, a direction per line."""
    columns = [name for name in results[DIRECTIONS[0]] if not name.startswith("num_")]
    lines = [f"{'':<14}" + "".join(f"{name:>8}" for name in columns)]
    for direction in filter(results.__contains__, DIRECTIONS):
        figures = "".join(f"{results[direction][name]:>8.2f}" for name in columns)
        lines.append(f"{direction.replace('_', ' '):<14}" + figures)
    return "\n".join(lines)


def describe_results(results: dict[str, Any]) -> str:
    """What `evaluate_checkpoint` found as text: what was measured, the table, queries without a match."""
    lines = [
        f"{results['checkpoint']} on {results['corpus']}, {results['split']}: {results['num_people']} people, "
        f"{results['num_images']} images, {results['num_captions']} captions, in percent",
        table_of(results),
    ]
    if reranked := results.get("reranked"):
        lines += [
            f"the first {reranked['candidates']} of each query re-ranked by image-text matching, in "
            f"{reranked['seconds']:.1f} s with embedding; the plain ranking took {results['seconds']:.1f} s",
            table_of(reranked),
        ]
    fate = "count as not found" if results["protocol"] == "reference" else "are left out"
    for direction in filter(results.__contains__, DIRECTIONS):
        if number := results[direction]["num_queries_without_match"]:
            lines.append(f"{direction.replace('_', ' ')}: {number} queries without a match {fate}")
    return "\n".join(lines)


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write what `evaluate_checkpoint` found as JSON, making the folders above the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
