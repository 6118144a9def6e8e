"""Measure whether maps of attention point to the right place: the drawn corpus knows the mask of every part.

    OMP_NUM_THREADS=1 python -m benchmarks.attention CHECKPOINT --output benchmarks/attention.json

For every picture and part of it that shows, a query is made from the attributes ("a red backpack") and its map
compared with the part, in pixels of the model's `image_size`:

- box, mask: how often the strongest place of the map lies in the part's bounding box, on the part itself (pointing);
- mass: the share of the map that lies on the part;
- ap: average precision of the map's pixels against the mask.

A dress is one thing with one name: its query is for the box and mask of its upper and lower part together. Queries:
colour and noun; the noun alone, as it stands and with the colour that the model itself finds most likely
(`in_best_colour`); and two controls, still measured against the place of the right part: the right colour with the
noun of a thing the person has not got, and the right noun with a colour the person does not wear. If the first
control points as well as the true query, the colour does the work; if the second does, the noun.

Beside the methods stand chance (a map of equal numbers, a place drawn at random) and a centre prior (a bell around the
middle of the picture). Faithfulness, the column "fall": how far the cosine with the picture's first caption falls when
the fifth of the patches that the map calls strongest is removed; in the line of chance, when as many random ones are.
All in percent, cosines x 100.
"""

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import avg_pool2d, normalize
from tqdm import tqdm

from ivt.choices import DEFAULT_METHOD
from ivt.corpora import load_synthetic
from ivt.corpora.drawn.people import ACCENT_COLOURS, PARTS
from ivt.corpora.drawn.words import COLOUR_WORDS, HAIR_COLOUR_WORDS, KIND_WORDS
from ivt.explanations.colours import in_best_colour
from ivt.explanations.maps import TEXT_FREE_METHODS
from ivt.explanations.pixels import DEFAULT_SHIFTS, pixel_maps, strongest_place
from ivt.explanations.texts import Texts, encode_texts
from ivt.retrieval.models import find_version, load_model

QUERIES = (
    "colour and noun",
    "noun",
    "noun in its best colour",
    "right colour, wrong noun",
    "wrong colour, right noun",
)
FIGURES = ("box", "mask", "mass", "ap")
# (method, shifts), see `ivt.explanations.pixels.pixel_maps`
VARIANTS = (
    ("cls", 1),
    ("tokenwise", 1),
    ("occlusion", 1),
    ("gradient", 1),
    ("joint", 1),
    ("joint", 2),
)
OTHER_THINGS = ("umbrella", "bottle", "cup", "book", "phone", "scarf", "belt")  # none of PARTS, for wrong nouns
REMOVED_SHARE = 0.2
RANDOM_DRAWS = 5


@dataclass(frozen=True)
class NamedPart:
    """A part that shows in a picture and what it is called.

    Attributes:
        part: one of `PARTS`.
        queries: by name of `QUERIES`; that in its best colour depends on the model and is added later.
        mask: (height, width) bool in pixels of the model's `image_size`.
        box: (left, top, right, bottom) in the same pixels, right and bottom exclusive.
    """

    part: str
    queries: dict[str, str]
    mask: torch.Tensor
    box: np.ndarray


def name_parts(person: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and noun of each part of a person that has a name, in the words annotators like best."""
    things = {part: person[part] for part in ("upper", "lower", "shoes", "bag", "hat") if person[part]}
    if person["lower"]["kind"] == "dress":
        del things["lower"]  # spoken of as the upper garment
    names = {
        part: (COLOUR_WORDS.get(thing["colour"], (thing["colour"],))[0], KIND_WORDS[thing["kind"]][0])
        for part, thing in things.items()
    }
    if person["hair"] != "bald":
        names["hair"] = (HAIR_COLOUR_WORDS.get(person["hair_colour"], (person["hair_colour"],))[0], "hair")
    return names


def said(colour: str, noun: str) -> str:
    """Colour and noun as captions say them: "a red coat", "an orange cap", "blue jeans", "black hair"."""
    if noun == "hair" or (noun.endswith("s") and noun != "dress"):
        return f"{colour} {noun}"
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {noun}"


def _colours_of(value: Any) -> Iterator[str]:
    """All colours anywhere in a person's attributes, in the captions' words."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _colours_of(item)
        elif item and ("colour" in name or name in ("belt", "scarf")):
            yield COLOUR_WORDS.get(item, (item,))[0]


def make_queries(part: str, person: dict[str, Any], key: str) -> dict[str, str]:
    """The texts of `QUERIES` that need no model; what is wrong in the controls is drawn at random from `key`.

    Args:
        part: a part of the person that has a name.
        person: attributes of a person of the drawn corpus.
        key: seed.
    """
    colour, noun = name_parts(person)[part]
    carried = person["carried"] and person["carried"]["kind"]
    nouns = [name for name in OTHER_THINGS if name != carried and not person.get(name)]
    worn = set(_colours_of(person))
    colours = sorted({COLOUR_WORDS.get(name, (name,))[0] for name in ACCENT_COLOURS} - worn)
    rng = random.Random(key)
    return {
        "colour and noun": said(colour, noun),
        "noun": noun,
        "right colour, wrong noun": said(colour, rng.choice(nouns)),
        "wrong colour, right noun": said(rng.choice(colours), noun),
    }


def find_parts(row: dict[str, Any], size: tuple[int, int]) -> list[NamedPart]:
    """The named parts that show in a picture.

    Args:
        row: of the drawn corpus.
        size: (height, width) of the model's pictures.
    """
    height, width = size
    part_map = torch.from_numpy(np.array(row["part_map"].resize((width, height), Image.Resampling.NEAREST)))
    to_pixels = np.array([width / row["part_map"].width, height / row["part_map"].height] * 2)
    person = json.loads(row["attributes"])["person"]
    found = []
    for part in name_parts(person):
        parts = ("upper", "lower") if part == "upper" and person["upper"]["kind"] == "dress" else (part,)
        mask = torch.isin(part_map, torch.tensor([PARTS.index(name) + 1 for name in parts], dtype=part_map.dtype))
        boxes = np.array([row["part_boxes"][PARTS.index(name)] for name in parts])
        boxes = boxes[boxes[:, 0] >= 0]
        if mask.any():  # of the few pixels of a part nearly hidden none may be left at the model's size
            box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]) * to_pixels
            queries = make_queries(part, person, f"{row['image_id']} {part}")
            found.append(NamedPart(part, queries, mask, box))
    return found


def average_precision(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Area under the precision-recall steps of each map; pixels of equal value enter together.

    Args:
        maps: (n, pixels).
        masks: (n, pixels) bool, some True in each row.

    Returns:
        (n,), in [0, 1].
    """
    values, order = maps.sort(dim=1, descending=True)
    hits = masks.gather(1, order).double()
    ranks = torch.arange(1, maps.shape[1] + 1, dtype=torch.double)
    precisions = hits.cumsum(dim=1) / ranks
    last_equal = torch.searchsorted(-values, -values, right=True) - 1
    return (hits * precisions.gather(1, last_equal)).sum(dim=1) / hits.sum(dim=1)


def judge(maps: torch.Tensor, parts: Sequence[NamedPart]) -> np.ndarray:
    """`FIGURES` of each map.

    Args:
        maps: (n, height, width), nowhere negative.
        parts: the n parts that were asked for.

    Returns:
        (n, figures), in [0, 1].
    """
    places, masks = strongest_place(maps).numpy(), torch.stack([part.mask for part in parts])
    middles = places[:, ::-1] + 0.5  # column, row from the corner of the picture
    boxes = np.stack([part.box for part in parts])
    in_box = ((boxes[:, :2] <= middles) & (middles < boxes[:, 2:])).all(axis=1)
    rows, columns = np.floor(middles[:, ::-1]).astype(int).T
    on_mask = masks[torch.arange(len(masks)), rows, columns].numpy()
    totals = maps.flatten(1).sum(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)
    mass = ((maps * masks).flatten(1).sum(dim=1) / totals).numpy()
    precision = average_precision(maps.flatten(1), masks.flatten(1)).numpy()
    return np.stack([in_box, on_mask, mass, precision], axis=1)


def means_by_part(figures: np.ndarray, parts: Sequence[NamedPart]) -> dict[str, dict[str, float]]:
    """Mean figures of the parts of one name, in percent."""
    names = np.array([part.part for part in parts])
    return {
        part: dict(zip(FIGURES, (100 * figures[names == part].mean(axis=0)).round(2).tolist(), strict=True))
        for part in PARTS
        if (names == part).any()
    }


def centre_prior(size: tuple[int, int]) -> torch.Tensor:
    """A bell around the middle of the picture, a quarter of its sides wide: (height, width)."""
    rows, columns = (torch.linspace(-2, 2, n) for n in size)
    return torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 2)


def chance(part: NamedPart) -> list[float]:
    """`FIGURES` of a map of equal numbers whose strongest place is drawn at random."""
    left, top, right, bottom = part.box
    share = part.mask.double().mean().item()
    return [(right - left) * (bottom - top) / part.mask.numel(), share, share, share]


class Pictures:
    """The pictures of a split, ready for the model, with their named parts.

    Args:
        rows: of the drawn corpus.
        model: gives the size.
        processor: prepares the pictures.
    """

    def __init__(self, rows: Dataset, model: torch.nn.Module, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.captions = [captions[0] for captions in rows["captions"][:]]
        size = tuple(model.config.image_size)
        pixels, self.parts = [], []
        for row in tqdm(rows, desc="pictures", unit="picture"):
            pixels.append(processor(images=[row["image"]], return_tensors="pt")["pixel_values"])
            self.parts.append(find_parts(row, size))
        self.pixel_values = torch.cat(pixels)
        for index, parts in enumerate(self.parts):
            nouns = [[part.queries["noun"] for part in parts]]
            best = in_best_colour(model, processor, self.pixel_values[index : index + 1], nouns)[0]
            for part, text in zip(parts, best, strict=True):
                part.queries["noun in its best colour"] = text

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """Indices of pictures with equally many parts, so that all of a batch have equally many texts."""
        groups = defaultdict(list)
        for index, parts in enumerate(self.parts):
            groups[len(parts)].append(index)
        for indices in groups.values():
            yield from (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))

    def point(self, method: str, shifts: int, queries: Sequence[str], batch_size: int) -> dict[str, Any]:
        """Figures by query and part of one method."""
        figures, judged = defaultdict(list), []
        for indices in tqdm(list(self.batches(batch_size)), desc=variant_name(method, shifts), unit="batch"):
            parts = [self.parts[index] for index in indices]
            asked = [[part.queries[query] for query in queries for part in row] for row in parts]
            texts = encode_texts(self.model, self.processor, asked)
            maps = pixel_maps(self.model, self.pixel_values[indices], texts, method, shifts)
            flat = [part for row in parts for part in row]
            for query, chunk in zip(queries, maps.chunk(len(queries), dim=1), strict=True):
                figures[query].append(judge(chunk.flatten(0, 1), flat))
            judged += flat
        return {query: means_by_part(np.concatenate(rows), judged) for query, rows in figures.items()}

    def baselines(self) -> dict[str, Any]:
        """Chance and the centre prior."""
        parts = [part for row in self.parts for part in row]
        prior = centre_prior(tuple(self.model.config.image_size))
        by_chance = np.array([chance(part) for part in parts])
        central = np.concatenate([judge(prior[None], [part]) for part in parts])
        return {"chance": means_by_part(by_chance, parts), "centre prior": means_by_part(central, parts)}

    @torch.no_grad()
    def faithfulness(self, batch_size: int) -> dict[str, float]:
        """How far the cosine with the first caption falls without the strongest patches, by variant; chance: any."""
        generator, config, falls = torch.Generator().manual_seed(0), self.model.config, defaultdict(list)
        for start in tqdm(range(0, len(self.captions), batch_size), desc="faithfulness", unit="batch"):
            pixel_values = self.pixel_values[start : start + batch_size]
            captions = [[caption] for caption in self.captions[start : start + batch_size]]
            texts = encode_texts(self.model, self.processor, captions)
            strengths = [
                ("chance", torch.rand(len(captions), math.prod(config.patch_grid), generator=generator))
                for _ in range(RANDOM_DRAWS)
            ]
            for method, shifts in VARIANTS:
                maps = pixel_maps(self.model, pixel_values, texts, method, shifts)
                strength = avg_pool2d(maps, config.patch_size, config.patch_stride).flatten(1)
                strengths.append((variant_name(method, shifts), strength))
            whole = cosines_without(self.model, pixel_values, texts, strengths[0][1], 0)
            for name, strength in strengths:
                count = round(REMOVED_SHARE * strength.shape[1])
                falls[name].append(whole - cosines_without(self.model, pixel_values, texts, strength, count))
        return {name: round(100 * torch.cat(values).mean().item(), 2) for name, values in falls.items()}


def cosines_without(
    model: torch.nn.Module, pixel_values: torch.Tensor, texts: Texts, strength: torch.Tensor, count: int
) -> torch.Tensor:
    """Cosines (B,) of pictures and their one text without the `count` patches of the largest `strength` (B, P)."""
    kept = strength.argsort(dim=1, descending=True)[:, count:].sort(dim=1).values + 1
    keep_positions = torch.nn.functional.pad(kept, (1, 0))  # [CLS] stays
    output = model.get_image_features(pixel_values, keep_positions=keep_positions, cls_only=True)
    return (normalize(output.pooler_output, dim=-1) * texts.embeds[:, 0]).sum(dim=1)


def variant_name(method: str, shifts: int) -> str:
    """Such as "gradient" and "gradient, 2 x 2 shifts"."""
    return method if shifts == 1 else f"{method}, {shifts} x {shifts} shifts"


def measure(pictures: Pictures, batch_size: int, all_queries: bool) -> dict[str, Any]:
    """Pointing of all methods on the pictures of one split: figures by method, query and part.

    Args:
        pictures: of the split.
        batch_size: pictures per call of the model.
        all_queries: also take bare nouns, and the controls with the default method; else colour and noun alone.
    """
    results = {name: {QUERIES[0]: figures} for name, figures in pictures.baselines().items()}
    for method, shifts in VARIANTS:
        name = variant_name(method, shifts)
        is_default = (method, shifts) == (DEFAULT_METHOD, DEFAULT_SHIFTS)
        most = len(QUERIES) if is_default else 1 if method in TEXT_FREE_METHODS or shifts > 1 else 2
        results[name] = pictures.point(method, shifts, QUERIES[: most if all_queries else 1], batch_size)
    return results


def best_method(pointing: dict[str, Any]) -> str:
    """The method whose strongest place lies in the box most often, mean over the parts.

    Of those that depend on the text, at one look: more looks cost more.
    """
    names = [method for method, shifts in VARIANTS if shifts == 1 and method not in TEXT_FREE_METHODS]
    return max(names, key=lambda name: np.mean([figures["box"] for figures in pointing[name][QUERIES[0]].values()]))


def table_of(pointing: dict[str, Any], falls: dict[str, float] | None = None) -> str:
    """Lay out the figures as the README has them, a line per method and query.

    Args:
        pointing: figures by method, query and part.
        falls: faithfulness by method.
    """
    lines = [
        f"| box (mask), % | {' | '.join(PARTS)} | mean mass | mean ap | fall |",
        f"|---{'|---:' * (len(PARTS) + 3)}|",
    ]
    for method, queries in pointing.items():
        for query, parts in queries.items():
            usual = query == QUERIES[0]
            cells = [
                f"{parts[part]['box']:.0f} ({parts[part]['mask']:.0f})" if part in parts else "" for part in PARTS
            ]
            cells += [f"{np.mean([figures[name] for figures in parts.values()]):.0f}" for name in ("mass", "ap")]
            fall = (falls or {}).get(method) if usual else None
            cells.append(f"{fall:.1f}" if fall is not None else "")
            lines.append(f"| {method if usual else f'{method}: {query}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub name of a model with its processor")
    parser.add_argument("--num_people", type=int, help="of each split (default: all)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there too")
    arguments = parser.parse_args(argv)
    version = find_version(arguments.checkpoint)
    model, processor = load_model(version, "cpu")
    splits = {}
    for split in ("val", "test"):
        print(f"{split} split")
        pictures = Pictures(load_synthetic(split, num_people=arguments.num_people), model, processor)
        pointing = measure(pictures, arguments.batch_size, all_queries=split == "test")
        falls = pictures.faithfulness(arguments.batch_size) if split == "test" else {}
        print(table_of(pointing, falls))
        splits[split] = {"num_pictures": len(pictures.parts), "pointing": pointing, "falls": falls}
    best = best_method(splits["val"]["pointing"])
    print(f"best on the val split: {best}; the default is {DEFAULT_METHOD}")
    results = {
        "checkpoint": arguments.checkpoint,
        "revision": version.revision,
        "default": DEFAULT_METHOD,
        "best_on_val": best,
        **splits,
        "cpu_seconds": round(time.process_time()),
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
