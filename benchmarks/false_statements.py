"""How often a search states what is false: a probability above even odds, or below, for the wrong side.

    python -m benchmarks.false_statements      # prints the shares, writes benchmarks/false_statements.json

A false statement is "in the gallery" (a probability of at least 60 %) of somebody who is not there, or "no match" of
somebody who is. With the bundled checkpoint, captions of test people, half of whom are in the gallery, search three
galleries: the drawn pictures; the same in another style (colours turned, coarse noise, narrower figures); and random
pictures, which show nobody. Words that no caption holds search the first. "Before" is without the doubts.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ivt.choices import DEFAULT_MODEL
from ivt.corpora.load import load_corpus
from ivt.gallery.calibration import NUM_TOP, Calibration, load_calibration, presence_features
from ivt.gallery.results import UNSURE
from ivt.gallery.scores import GalleryStatistics
from ivt.retrieval.embedding import embed_images, embed_texts
from ivt.retrieval.models import find_version, load_model

NUM_PEOPLE = 100  # of the test split, half of whom are in the gallery
STRANGE = ["asdf qwer", "elephant", "an elephant on a bicycle", "a zebra in the kitchen"]


def other_style(image: Image.Image, seed: int) -> Image.Image:
    """Turn the colours, make the figure narrower, and add coarse noise."""
    rng = np.random.default_rng(seed)
    narrow = image.convert("RGB").resize((max(1, image.width * 2 // 3), image.height)).resize(image.size)
    pixels = np.asarray(narrow, float)[..., [2, 0, 1]]
    grain = rng.normal(0, 40, (image.height // 4 + 1, image.width // 4 + 1, 3)).repeat(4, 0).repeat(4, 1)
    return Image.fromarray((pixels + grain[: image.height, : image.width]).clip(0, 255).astype(np.uint8))


def random_picture(image: Image.Image, seed: int) -> Image.Image:
    """A picture of blots of random colours, of the same size."""
    blots = np.random.default_rng(seed).integers(0, 256, (6, 4, 3), np.uint8)
    return Image.fromarray(blots).resize(image.size, Image.Resampling.BICUBIC)


def share_of_false(
    calibration: Calibration, texts: list[str], embeds: torch.Tensor, present: list[bool], gallery: torch.Tensor
) -> dict[str, float]:
    """Percentages of searches with a false statement, and with any statement."""
    statistics, curve = GalleryStatistics.of(gallery), calibration.curves["text"]
    false = stated = 0
    for text, embed, there in zip(texts, embeds, present, strict=True):
        words = len(text.split())
        if calibration.doubts("text", [text], words, statistics):
            continue
        top = (gallery @ embed).topk(NUM_TOP).values[None]
        counts = torch.tensor([statistics.size]), torch.tensor([words])
        chance = float(curve(presence_features(top, *statistics.of_scores(embed[None]), *counts)))
        says_there, says_absent = chance >= UNSURE[1], chance < curve.no_match_below
        stated += says_there or says_absent
        false += (says_there and not there) or (says_absent and there)
    return {"false": 100 * false / len(texts), "stated": 100 * stated / len(texts)}


def main() -> None:
    """Measure, print and write the shares."""
    version = find_version(DEFAULT_MODEL)
    model, processor = load_model(version, "cpu")
    calibration = load_calibration(version)
    assert calibration is not None  # the bundled checkpoint has one
    rows = load_corpus("synthetic", None, "test", num_people=NUM_PEOPLE)
    people, images = rows["person_id"][:], rows["image"][:]
    inside = set(sorted(set(people))[::2])
    kept = torch.tensor([person in inside for person in people])
    texts = [captions[0] for captions in rows["captions"]]
    embeds = embed_texts(model, processor, texts, progress=False)
    strange = embed_texts(model, processor, STRANGE, progress=False)
    unguarded = replace(
        calibration,
        domain=None,
        words=(),
        curves={
            kind: replace(curve, gallery_sizes=(1, 10**9), fewest_words=0)
            for kind, curve in calibration.curves.items()
        },
    )
    styles = {"drawn test people": None, "another drawing style": other_style, "random pictures": random_picture}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, change in styles.items():
        pictures = [change(image, seed) if change else image for seed, image in enumerate(images)]
        gallery = embed_images(model, processor, pictures, progress=False)[kept]
        there = kept.tolist() if change is not random_picture else [False] * len(texts)
        found[name] = {
            when: share_of_false(curves, texts, embeds, there, gallery)
            for when, curves in (("before", unguarded), ("after", calibration))
        }
        if change is None:
            found["words that nobody drew"] = {
                when: share_of_false(curves, STRANGE, strange, [False] * len(STRANGE), gallery)
                for when, curves in (("before", unguarded), ("after", calibration))
            }
    print(json.dumps(found, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
