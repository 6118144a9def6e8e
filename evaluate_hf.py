"""Evaluate a checkpoint on a corpus: R@1/5/10, mAP and mINP, captions searching images and images searching captions.

    python evaluate_hf.py CHECKPOINT --corpus cuhk-pedes --corpus_root data/CUHK-PEDES --output metrics.json
    python evaluate_hf.py checkpoints/NAME --corpus synthetic --split val

CHECKPOINT is a folder or a name on the Hub, of an exported model too (tools/export.py). Definitions:
metric/person_retrieval/README.md. `--protocol reference` evaluates as the authors of IVT do, to compare with their
figures only: see `ivt.retrieval.evaluation`.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from ivt.corpora import CORPORA, SPLITS, load_corpus
from ivt.metric.person_retrieval.person_retrieval import AVERAGE_PRECISIONS
from ivt.retrieval.checkpoints import load_embedder
from ivt.retrieval.evaluation import PROTOCOLS, evaluate_as_reference, evaluate_retrieval
from ivt.retrieval.models import find_version, load_processor

DIRECTIONS = ("text_to_image", "image_to_text")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub name of a model with its processor")
    parser.add_argument("--corpus", required=True, help=", ".join(CORPORA))
    parser.add_argument("--corpus_root", help="the corpus's official folder (synthetic: a folder to cache it in)")
    parser.add_argument("--split", default="test", help=f"{', '.join(SPLITS)} (default: test)")
    parser.add_argument("--on_bad_image", default="error", choices=("error", "skip"))
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", default="auto", help="auto (an accelerator if there is one), cpu, cuda:1, ...")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--average_precision", choices=AVERAGE_PRECISIONS, help="default: standard")
    parser.add_argument("--protocol", default="standard", choices=PROTOCOLS, help="reference: for parity only")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there too")
    return parser.parse_args(argv)


def find_device(name: str) -> torch.device:
    """Turn "auto" into the accelerator, or the CPU where there is none."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def table_of(results: dict[str, Any]) -> str:
    """Lay out the percentages, a direction per line."""
    columns = [name for name in results[DIRECTIONS[0]] if not name.startswith("num_")]
    lines = [f"{'':<14}" + "".join(f"{name:>8}" for name in columns)]
    for direction in filter(results.__contains__, DIRECTIONS):
        figures = "".join(f"{results[direction][name]:>8.2f}" for name in columns)
        lines.append(f"{direction.replace('_', ' '):<14}" + figures)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print a table, write the json."""
    arguments = parse_arguments(argv)
    by_reference = arguments.protocol == "reference"
    if by_reference and arguments.average_precision == "standard":
        raise ValueError("the reference's average precision is trapezoidal; leave out --average_precision")
    average_precision = arguments.average_precision or ("trapezoidal" if by_reference else "standard")
    dataset = load_corpus(
        arguments.corpus, arguments.corpus_root, arguments.split, on_bad_image=arguments.on_bad_image
    )
    model = load_embedder(arguments.checkpoint, getattr(torch, arguments.dtype)).to(find_device(arguments.device))
    processor = load_processor(arguments.checkpoint)
    start = time.perf_counter()
    inputs = (model, processor, dataset, arguments.batch_size)
    if by_reference:
        metrics = evaluate_as_reference(*inputs)
    else:
        metrics = evaluate_retrieval(*inputs, average_precision=average_precision)
    results = {
        "checkpoint": arguments.checkpoint,
        "revision": find_version(arguments.checkpoint).revision,
        "corpus": arguments.corpus,
        "split": arguments.split,
        "num_images": len(dataset),
        "num_captions": metrics["text_to_image"]["num_queries"],
        "num_people": len(set(dataset["person_id"][:])),
        "protocol": arguments.protocol,
        "average_precision": average_precision,
        **metrics,
        "device": str(model.device),
        "dtype": arguments.dtype,
        "seconds": round(time.perf_counter() - start, 3),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "datasets": datasets.__version__,
        },
    }
    print(
        f"{arguments.checkpoint} on {arguments.corpus}, {arguments.split}: {results['num_people']} people, "
        f"{results['num_images']} images, {results['num_captions']} captions, in percent\n" + table_of(results)
    )
    for direction in metrics:
        if number := metrics[direction]["num_queries_without_match"]:
            fate = "count as not found" if by_reference else "are left out"
            print(f"{direction.replace('_', ' ')}: {number} queries without a match {fate}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"written to {arguments.output}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
