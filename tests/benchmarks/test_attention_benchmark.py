"""The measurement of attention maps: its figures against naive loops, its queries against the corpus."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from benchmarks.attention import (
    FIGURES,
    QUERIES,
    VARIANTS,
    NamedPart,
    Pictures,
    average_precision,
    best_method,
    centre_prior,
    chance,
    find_parts,
    judge,
    make_queries,
    means_by_part,
    name_parts,
    said,
    table_of,
    variant_name,
)
from ivt.corpora import load_synthetic
from ivt.corpora.drawn.people import PARTS
from ivt.corpora.drawn.words import COLOUR_WORDS
from modeling_ivt import IVTConfig, IVTModel
from processing import IVTImageProcessor, IVTProcessor

ROOT = Path(__file__).parents[2]
SIZE = (48, 24)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.getbasetemp() / "corpus"
    return load_synthetic("test", root, num_people=26, images_per_person=1, num_proc=1)


@pytest.fixture
def tiny(tiny_config: IVTConfig) -> tuple[IVTModel, IVTProcessor]:
    """A tiny model with the corpus's own tokenizer, and its processor."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "ivt" / "recipes" / "tokenizer-synthetic", model_max_length=16)
    tiny_config.vocab_size = len(tokenizer)
    processor = IVTProcessor(IVTImageProcessor(size={"height": SIZE[0], "width": SIZE[1]}), tokenizer)
    return IVTModel(tiny_config).eval(), processor


def part_of(mask: torch.Tensor, box: tuple[int, ...], name: str = "bag") -> NamedPart:
    return NamedPart(name, {}, mask, np.array(box, float))


def test_average_precision_equals_a_loop_over_thresholds() -> None:
    maps, masks = torch.randint(0, 6, (8, 40)).float(), torch.rand(8, 40) < 0.2  # few values: many ties
    masks[:, 0] = True
    for precision, values, mask in zip(average_precision(maps, masks).tolist(), maps, masks, strict=True):
        expected = before = 0.0
        for threshold in sorted(set(values.tolist()), reverse=True):
            chosen = values >= threshold
            recall = (chosen & mask).sum().item() / mask.sum().item()
            expected += (recall - before) * (chosen & mask).sum().item() / chosen.sum().item()
            before = recall
        assert precision == pytest.approx(expected, abs=1e-9)


def test_the_mask_itself_is_a_perfect_map_and_its_opposite_the_worst() -> None:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[10:20, 4:9] = True
    part = part_of(mask, (4, 10, 9, 20))
    perfect, worst = judge(torch.stack([mask, ~mask]).float(), [part, part])
    assert perfect.tolist() == [1, 1, 1, 1]
    assert worst[:3].tolist() == [0, 0, 0] and worst[3] == pytest.approx(mask.float().mean().item())


def test_a_place_in_the_box_may_miss_the_part() -> None:
    mask = torch.ones(SIZE, dtype=torch.bool).triu()
    mask[30:], mask[:, 20:] = False, False
    pixel_map = torch.zeros(1, *SIZE)
    pixel_map[0, 12, 3] = 1.0  # below the diagonal
    in_box, on_mask, mass, _ = judge(pixel_map, [part_of(mask, (0, 0, 20, 20))])[0]
    assert (in_box, on_mask, mass) == (1, 0, 0)


def test_chance_is_what_random_places_reach() -> None:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[10:20, 4:9] = True
    part = part_of(mask, (3, 8, 10, 22))
    places = torch.eye(SIZE[0] * SIZE[1]).view(-1, *SIZE)  # every pixel once the strongest
    measured = judge(places, [part] * len(places)).mean(axis=0)
    assert measured[:3] == pytest.approx(chance(part)[:3])
    assert judge(torch.ones(1, *SIZE), [part])[0, 3] == pytest.approx(chance(part)[3])


def test_centre_prior_is_strongest_in_the_middle_and_symmetric() -> None:
    prior = centre_prior(SIZE)
    assert torch.allclose(prior, prior.flip(0, 1)) and prior.argmax() in (23 * 24 + 11, 23 * 24 + 12, 24 * 24 + 11)


def test_figures_are_means_over_the_parts_of_a_name() -> None:
    mask = torch.ones(SIZE, dtype=torch.bool)
    parts = [part_of(mask, (0, 0, 1, 1), name) for name in ("hat", "bag", "hat")]
    means = means_by_part(np.array([[1, 0, 0.5, 0.2], [1, 1, 1, 1], [0, 0, 0.25, 0.6]]), parts)
    assert means == {"bag": dict.fromkeys(FIGURES, 100.0), "hat": dict(zip(FIGURES, (50, 0, 37.5, 40), strict=True))}


def test_parts_have_the_masks_and_boxes_of_the_corpus(rows: Dataset) -> None:
    for row in rows:
        part_map = np.array(row["part_map"])
        height, width = part_map.shape
        person = json.loads(row["attributes"])["person"]
        for part in find_parts(row, (height, width)):  # the picture's own size: nothing is resampled
            values = [PARTS.index(part.part) + 1]
            values += [PARTS.index("lower") + 1] * (part.part == "upper" and person["upper"]["kind"] == "dress")
            assert np.array_equal(part.mask.numpy(), np.isin(part_map, values))
            y, x = np.nonzero(part.mask.numpy())
            assert part.box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_boxes_go_with_masks_at_the_models_size(rows: Dataset) -> None:
    for part in find_parts(rows[0], (192, 64)):
        y, x = np.nonzero(part.mask.numpy())
        assert part.box == pytest.approx([x.min(), y.min(), x.max() + 1, y.max() + 1], abs=1.5)


def test_names_are_true_of_the_person_and_a_dress_is_named_once(rows: Dataset) -> None:
    kinds = set()
    for row in rows:
        person = json.loads(row["attributes"])["person"]
        names = name_parts(person)
        kinds.add(person["upper"]["kind"])
        assert ("lower" in names) == (person["lower"]["kind"] != "dress")
        assert ("hair" in names) == (person["hair"] != "bald")
        assert ("bag" in names) == (person["bag"] is not None) and ("hat" in names) == (person["hat"] is not None)
        colour = person["shoes"]["colour"]
        assert names["shoes"][0] == COLOUR_WORDS.get(colour, (colour,))[0]
    assert "dress" in kinds  # number 25 wears one


def test_controls_are_wrong_in_one_thing_alone(rows: Dataset) -> None:
    for row in rows:
        for part in find_parts(row, SIZE):
            both, noun, wrong_noun, wrong_colour = part.queries.values()
            colour = both.removesuffix(f" {noun}").removeprefix("a ").removeprefix("an ")
            assert both == said(colour, noun)
            assert (
                f" {wrong_noun}".removeprefix(" a").removeprefix("n").startswith(f" {colour} ") and wrong_noun != both
            )
            assert wrong_colour.endswith(f" {noun}") and wrong_colour != both


def test_wrong_colours_and_nouns_are_nowhere_on_the_person(rows: Dataset) -> None:
    person = json.loads(rows[0]["attributes"])["person"]
    person |= {"scarf": "pink", "belt": None, "carried": {"kind": "cup", "colour": "gray", "side": "left"}}
    drawn = [make_queries("upper", person, str(number)) for number in range(200)]
    nouns = {query["right colour, wrong noun"].split()[-1] for query in drawn}
    assert nouns == {"umbrella", "bottle", "book", "phone", "belt"}
    colours = {query["wrong colour, right noun"].removeprefix("a ").removeprefix("an ").split()[0] for query in drawn}
    assert not colours & {"pink", "gray", person["upper"]["colour"], person["lower"]["colour"]} and len(colours) > 3


def test_queries_are_said_as_captions_say_them() -> None:
    assert [said("red", "coat"), said("orange", "cap"), said("blue", "jeans"), said("black", "hair")] == [
        *("a red coat", "an orange cap", "blue jeans", "black hair")
    ]
    assert said("black", "dress") == "a black dress"


def test_pictures_of_a_batch_have_equally_many_parts_and_none_is_lost(rows: Dataset, tiny: tuple) -> None:
    pictures = Pictures(rows, *tiny)
    batches = list(pictures.batches(4))
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= 4 and len({len(pictures.parts[index]) for index in batch}) == 1


def test_batch_size_changes_no_figure_and_every_query_is_measured(rows: Dataset, tiny: tuple) -> None:
    pictures = Pictures(rows, *tiny)
    one, many = (pictures.point("tokenwise", 1, QUERIES, size) for size in (1, 16))
    assert list(one) == list(QUERIES)
    for query, parts in one.items():
        for part, figures in parts.items():
            assert figures == pytest.approx(many[query][part], abs=0.02)
    assert one[QUERIES[0]] != one[QUERIES[3]]


def test_removing_the_strongest_patches_is_told_from_removing_random_ones(rows: Dataset, tiny: tuple) -> None:
    falls = Pictures(rows, *tiny).faithfulness(8)
    assert set(falls) == {"chance", *(variant_name(*variant) for variant in VARIANTS)}
    assert falls["occlusion"] > falls["chance"] and falls["gradient"] > falls["chance"]


def test_the_best_method_has_the_highest_mean_over_the_parts_and_reads_the_text() -> None:
    def figures(hat: float, bag: float) -> dict:
        return {QUERIES[0]: {"hat": {"box": hat}, "bag": {"box": bag}}}

    pointing = {variant_name(*variant): figures(0, 0) for variant in VARIANTS}
    pointing |= {"cls": figures(90, 90), "gradient": figures(10, 60), "tokenwise": figures(50, 30)}
    pointing["joint, 2 x 2 shifts"] = figures(90, 90)  # four times the work
    assert best_method(pointing) == "tokenwise"


def test_table_has_a_line_per_method_and_query() -> None:
    parts = {"hair": {"box": 61.6, "mask": 40.0, "mass": 10.0, "ap": 20.0}, "hat": dict.fromkeys(FIGURES, 30.0)}
    pointing = {"chance": {QUERIES[0]: parts}, "joint": {QUERIES[0]: parts, "noun": parts}}
    head, rule, chance, joint, noun = table_of(pointing, {"joint": 7.12}).splitlines()
    assert len({line.count("|") for line in (head, rule, chance, joint, noun)}) == 1
    assert joint == "| joint | 62 (40) |  |  |  |  | 30 (30) | 20 | 25 | 7.1 |"
    assert chance.endswith("| 25 |  |") and noun.startswith("| joint: noun | 62 (40) |") and noun.endswith("| 25 |  |")
