"""The models that come with the package, as their own files describe them."""

import json
from pathlib import Path
from typing import Any

from ivt.choices import CHECKPOINTS

PURPOSE = "to try things out and for tests: it knows drawn people only and does not work on photographs"


def read_model(folder: Path) -> dict[str, Any]:
    """Describe a checkpoint by its config.json, tokenizer_config.json and run.json, without loading it.

    Returns:
        name, folder, purpose, parameters, embedding_width, image_size as [height, width] in pixels, max_text_tokens,
        and results: text-to-image figures in percent on the test split that the training ended with.
    """
    config, tokenizer, run = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("config.json", "tokenizer_config.json", "run.json")
    )
    corpus = run["corpus"]
    return {
        "name": folder.name,
        "folder": str(folder),
        "purpose": PURPOSE if corpus["name"] == "synthetic" else f"trained on {corpus['name']}",
        "parameters": run["parameters"],
        "embedding_width": config["hidden_size"],
        "image_size": config["image_size"],
        "max_text_tokens": min(tokenizer["model_max_length"], config["max_position_embeddings"]),
        "results": {
            "corpus": corpus["name"],
            "split": "test",
            **corpus["sizes"]["test"],
            **{name: run["results"]["test"]["best"]["text_to_image"][name] for name in ("R@1", "R@5", "R@10", "mAP")},
        },
    }


def bundled_models() -> list[dict[str, Any]]:
    """Every model in the package's folder of checkpoints, as of `read_model`."""
    return [read_model(path.parent) for path in sorted(CHECKPOINTS.glob("*/config.json"))]


def describe_model(model: dict[str, Any]) -> str:
    """A model in a few lines of text."""
    height, width = model["image_size"]
    results = dict(model["results"])
    sizes = f"{results.pop('people')} people, {results.pop('images')} images, {results.pop('captions'):,} captions"
    measured = f"{results.pop('corpus')}, {results.pop('split')} split ({sizes})"
    figures = ", ".join(f"{name} {value:.1f}" for name, value in results.items())
    return (
        f"{model['name']}\n"
        f"  {model['purpose']}\n"
        f"  {model['parameters'] / 1e6:.1f} M parameters, embeddings of {model['embedding_width']} numbers, images of "
        f"{height} x {width} pixels (height x width), texts of up to {model['max_text_tokens']} tokens\n"
        f"  text to image on {measured}, in percent: {figures}\n"
        f"  {model['folder']}"
    )
