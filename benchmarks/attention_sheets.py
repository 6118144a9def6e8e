"""Draw the sheets "one word, ten people" and "baseline against IVT" of the README (the paper's figures 6 and 4).

    python -m benchmarks.attention_sheets [CHECKPOINT] --baseline BASELINE --folder docs

CHECKPOINT is the bundled one unless named; BASELINE is a model trained on whole sentences alone (`--levels sentence
--num_views 1 --model.bmm_ratio 0`); without it the second sheet is left out. The people are the first of the embedded
corpus's test split that show what is asked for; none is picked by how the maps look. White frames are the right
places, which no model sees.
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from ivt.choices import DEFAULT_METHOD
from ivt.corpora import load_corpus
from ivt.corpora.drawn.people import PARTS
from ivt.corpora.drawn.words import COLOUR_WORDS
from ivt.explanations.colours import in_best_colour
from ivt.explanations.overlays import Overlay, draw_rows
from ivt.explanations.pixels import pixel_maps
from ivt.explanations.texts import encode_texts
from ivt.retrieval.models import DEFAULT_MODEL, find_version, load_model

NUM_PEOPLE = {"words": 10, "baseline": 6}
CAPTION_METHOD = "gradient"  # the best for models that never met the token-wise loss, such as the baseline
# word, part, and whether the part of a person may be called so
WORDS: tuple[tuple[str, str, Callable[[dict[str, Any]], bool]], ...] = (
    ("backpack", "bag", lambda bag: bag["kind"] == "backpack"),
    ("shoes", "shoes", lambda shoes: shoes["kind"] not in ("boots", "sandals")),
)


def first_people(rows: Dataset, part: str, fits: Callable[[dict[str, Any]], bool], count: int) -> list[int]:
    """Rows of the first people of whom a picture shows a fitting part, a picture each."""
    found: dict[int, int] = {}
    for index, (person_id, attributes, boxes) in enumerate(
        zip(rows["person_id"][:], rows["attributes"][:], rows["part_boxes"][:], strict=True)
    ):
        thing = json.loads(attributes)["person"][part]
        if thing and fits(thing) and boxes[PARTS.index(part)][0] >= 0:
            found.setdefault(person_id, index)
    return list(found.values())[:count]


def overlays(
    model: nn.Module, processor: Any, rows: Dataset, texts: Sequence[str], method: str, part: str | None = None
) -> list[Overlay]:
    """The maps of some pictures, a text each; the boxes of `part` are framed."""
    images = rows["image"][:]
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device)
    maps = pixel_maps(model, pixel_values, encode_texts(model, processor, [[text] for text in texts]), method)
    boxes = [None if part is None else boxes[PARTS.index(part)] for boxes in rows["part_boxes"][:]]
    return [
        Overlay(image, pixel_map.cpu().numpy(), box=box)
        for image, pixel_map, box in zip(images, maps[:, 0], boxes, strict=True)
    ]


def titled(overlays: Sequence[Overlay], titles: Sequence[str]) -> list[Overlay]:
    """The same overlays with titles."""
    return [replace(overlay, title=title) for overlay, title in zip(overlays, titles, strict=True)]


def word_rows(model: nn.Module, processor: Any, rows: Dataset) -> list[tuple[str, list[Overlay]]]:
    """Each word for ten people: in the colour that the model finds likeliest, and in the one it has on each."""
    sheet = []
    for word, part, fits in WORDS:
        people = rows.select(first_people(rows, part, fits, NUM_PEOPLE["words"]))
        pixel_values = processor(images=people["image"][:], return_tensors="pt")["pixel_values"].to(model.device)
        likeliest = [texts[0] for texts in in_best_colour(model, processor, pixel_values, [[word]] * len(people))]
        colours = [json.loads(attributes)["person"][part]["colour"] for attributes in people["attributes"][:]]
        true = [f"{COLOUR_WORDS.get(colour, (colour,))[0]} {word}" for colour in colours]
        for how, texts in (
            ("asked for in every colour, the likeliest shown", likeliest),
            ("in its true colour", true),
        ):
            drawn = overlays(model, processor, people, texts, DEFAULT_METHOD, part)
            sheet.append((f"“{word}”, {how}", titled(drawn, texts)))
    return sheet


def baseline_rows(models: dict[str, tuple[nn.Module, Any]], rows: Dataset) -> list[tuple[str, list[Overlay]]]:
    """[CLS] attention and the whole caption's map, each with every model."""
    people = rows.select(first_people(rows, "upper", lambda garment: True, NUM_PEOPLE["baseline"]))
    captions = [captions[0] for captions in people["captions"][:]]
    sheet = []
    for method, looked in (("cls", "where it looks in general"), (CAPTION_METHOD, "for the caption")):
        for name, (model, processor) in models.items():
            sheet.append((f"{name}: {looked}", overlays(model, processor, people, captions, method)))
    title, first = sheet[0]
    sheet[0] = (title, titled(first, ["\n".join(textwrap.wrap(caption, 28)) for caption in captions]))
    return sheet


def draw_sheets(checkpoint: str, baseline: str | None, folder: Path, corpus_root: str | None = None) -> None:
    """Draw `attention_words.jpg` and, with a baseline, `attention_baseline.jpg`.

    Args:
        checkpoint: folder or Hub name of an IVT model.
        baseline: likewise, of the model to compare with.
        folder: where the pictures go.
        corpus_root: cache of the drawn corpus.
    """
    rows = load_corpus("synthetic", corpus_root, "test")
    folder.mkdir(parents=True, exist_ok=True)
    models = {"baseline": baseline, "IVT": checkpoint}
    loaded = {name: load_model(find_version(model)) for name, model in models.items() if model}
    sheets = {"attention_words.jpg": word_rows(*loaded["IVT"], rows)}
    if baseline:
        sheets["attention_baseline.jpg"] = baseline_rows(loaded, rows)
    for name, sheet in sheets.items():
        draw_rows(sheet).save(folder / name, quality=88)
        print(f"drawn to {folder / name}")


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=DEFAULT_MODEL, help="default: the bundled one")
    parser.add_argument("--baseline", help="model to compare with; default: no such sheet")
    parser.add_argument("--folder", type=Path, default=Path("docs"), help="where the pictures go (default: docs)")
    parser.add_argument("--corpus_root", help="cache of the drawn corpus")
    draw_sheets(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
