import io
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from processing import batches
from processing.batches import PairCollator, TrainingPairs, with_pixel_values
from processing.caption_augmentation import CaptionAugmentation
from processing.samplers import PairSampler
from processing.views import TrainingViews, resized_pixels

CAPTIONS = [
    ["A man in a red hat, with a black bag.", "The person wears a green coat."],
    ["A woman."],
    [],
    ["Red. Blue, red."],
]
PERSONS = [7, 7, 2, 9]
LEVELS = [
    [
        {"phrases": ["A man in a red hat", "with a black bag"], "words": ["man", "red", "hat", "black", "bag"]},
        {"phrases": ["The person wears a green coat"], "words": ["person", "green", "coat"]},
    ],
    [{"phrases": ["A woman"], "words": []}],
    [],
    [{"phrases": ["Red", "Blue", "red"], "words": ["red", "blue", "red"]}],
]
PAIR_PERSONS = [7, 7, 7, 9]  # pairs are captions in the order of the rows
PLAIN = TrainingViews(num_views=1, padding=0, flip=0, erase=0)


def picture(i):
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 10, 3), dtype=np.uint8))


def make_rows(**columns):
    files = []
    for i in range(len(CAPTIONS)):
        file = io.BytesIO()
        picture(i).save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": None})
    rows = {
        "image": files,
        "image_id": [f"cam/{i}.png" for i in range(len(CAPTIONS))],
        "person_id": PERSONS,
        "captions": CAPTIONS,
        "levels": LEVELS,
    } | columns
    features = {"image": ImageFeature(), "image_id": Value("string"), "person_id": Value("int64")}
    features |= {"captions": List(Value("string"))}
    features |= {"levels": List({"phrases": List(Value("string")), "words": List(Value("string"))})}
    return Dataset.from_dict(rows, features=Features(features))


@pytest.fixture
def pairs(processor):
    return TrainingPairs(make_rows(), processor)


def assert_equal_items(left, right):
    np.testing.assert_array_equal(left.pop("views"), right.pop("views"))
    assert left == right


def test_there_is_one_pair_per_caption(pairs):
    assert len(pairs) == 4
    assert [pairs[0, i]["person_id"] for i in range(4)] == pairs.pair_person_ids == PAIR_PERSONS
    assert [pairs[0, i]["image_id"] for i in range(4)] == ["cam/0.png", "cam/0.png", "cam/1.png", "cam/3.png"]
    assert pairs.caption_lengths == [10, 6, 2, 3]


def test_item_depends_on_seed_epoch_and_index_alone(processor, pairs):
    assert_equal_items(pairs[3, 0], TrainingPairs(make_rows(), processor)[3, 0])
    for other in (pairs[4, 0], pairs[3, 1], TrainingPairs(make_rows(), processor, seed=1)[3, 0]):
        assert (other["views"] != pairs[3, 0]["views"]).any()


def test_no_two_of_seed_epoch_and_index_give_the_same_random_numbers(processor):
    # pairs 0 and 1 are of one picture, and whole sentences take no random numbers; little padding, or crops with
    # nothing but padding would be equal
    options = {"levels": ["sentence"], "views": TrainingViews(padding=2)}
    seen = {
        TrainingPairs(make_rows(), processor, seed=seed, **options)[epoch, index]["views"].tobytes()
        for seed in range(3)
        for epoch in range(3)
        for index in range(2)
    }
    assert len(seen) == 3 * 3 * 2


def test_what_is_not_said_about_augmentation_is_as_documented(processor, pairs):
    said = {"levels": ("sentence", "phrase", "word"), "views": TrainingViews(), "seed": 0, "flip_words": False}
    expected = TrainingPairs(make_rows(), processor, caption_augmentation=CaptionAugmentation(0, 0), **said)
    for epoch in range(5):
        for index in range(4):
            assert_equal_items(pairs[epoch, index], expected[epoch, index])


def test_an_index_without_its_epoch_is_refused(pairs):
    with pytest.raises(ValueError, match="PairSampler"):
        next(iter(DataLoader(pairs, batch_size=2, shuffle=True)))


def test_texts_are_one_of_each_level_in_every_order(pairs):
    seen = Counter(tuple(pairs[epoch, 0]["texts"]) for epoch in range(300))
    sentence, words, phrases = CAPTIONS[0][0], "man red hat black bag", LEVELS[0][0]["phrases"]
    for texts in seen:
        assert sentence in texts and words in texts and set(texts) & set(phrases)
    assert len(seen) == 3 * 2 * len(phrases)  # orders of three levels times the two phrases


def test_a_caption_without_words_gives_a_phrase(processor):
    assert TrainingPairs(make_rows(), processor, levels=["word"])[0, 2]["texts"] == ["A woman"]


def test_the_word_level_says_all_words_as_often_and_in_the_order_they_stand_there(processor):
    assert TrainingPairs(make_rows(), processor, levels=["word"])[0, 3]["texts"] == ["red blue red"]


def test_whole_sentences_alone_need_no_levels(processor):
    rows = make_rows().remove_columns("levels")
    assert TrainingPairs(rows, processor, levels=["sentence"])[0, 0]["texts"] == [CAPTIONS[0][0]]
    with pytest.raises(ValueError, match="add_levels"):
        TrainingPairs(rows, processor)


SIDES = [["The left shoe is red, the right bag blue. Right."]] + [["bright leftovers"]] * 3
SWAPPED = "The right shoe is red, the left bag blue. Left."


def test_texts_of_mirrored_pictures_have_left_and_right_swapped(processor):
    views = TrainingViews(num_views=2, padding=0, erase=0)
    pairs = TrainingPairs(make_rows(captions=SIDES), processor, levels=["sentence"], views=views, flip_words=True)
    plain = resized_pixels(picture(0), processor.image_processor)
    seen = Counter()
    for epoch in range(200):
        pair = pairs[epoch, 0]
        mirrored = (pair["views"][0] != plain).any()
        for view in pair["views"]:  # each view of a person matches all of its texts: both are mirrored, or neither
            np.testing.assert_array_equal(view, plain[:, :, ::-1] if mirrored else plain)
        assert pair["texts"] == ([SWAPPED] if mirrored else SIDES[0])
        assert pairs[epoch, 1]["texts"] == ["bright leftovers"]
        seen[bool(mirrored)] += 1
    assert 70 < seen[True] < 130


@pytest.mark.parametrize("flip", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("flip_words", [True, False])
def test_pictures_are_mirrored_at_the_rate_of_the_views_and_texts_only_if_asked(processor, flip_words, flip):
    views = TrainingViews(num_views=2, padding=0, flip=flip, erase=0)
    rows = make_rows(captions=SIDES)
    pairs = TrainingPairs(rows, processor, levels=["sentence"], views=views, flip_words=flip_words)
    plain = resized_pixels(picture(0), processor.image_processor)
    seen, texts = Counter(), set()
    for epoch in range(400):
        pair = pairs[epoch, 0]
        seen[tuple(bool((view != plain).any()) for view in pair["views"])] += 1
        texts |= set(pair["texts"])
    rates = {(False, False): 1 - flip, (True, True): flip}
    if not flip_words:  # then each view is mirrored or not by itself
        share = {True: flip, False: 1 - flip}
        rates = {(first, second): share[first] * share[second] for first in share for second in share}
    assert {both: seen[both] / 400 for both in rates} == pytest.approx(rates, abs=0.05) and set(seen) <= set(rates)
    said = {SIDES[0][0]: not flip_words or flip < 1, SWAPPED: flip_words and flip > 0}
    assert texts == {text for text in said if said[text]}


def test_all_levels_of_text_are_augmented(processor):
    augmentation = CaptionAugmentation(drop_attributes=1.0)
    pairs = TrainingPairs(make_rows(), processor, caption_augmentation=augmentation)
    for epoch in range(20):
        texts = set(pairs[epoch, 0]["texts"])
        assert {"A man in a hat, with a bag.", "man hat bag"} < texts
        assert texts & {"A man in a hat", "with a bag"}


@pytest.mark.parametrize("levels", [[], ["sentence", "letter"]])
def test_unknown_levels_are_refused(processor, levels):
    with pytest.raises(ValueError, match="expected one or more of"):
        TrainingPairs(make_rows(), processor, levels=levels)


def test_cached_images_change_nothing(processor, pairs):
    cached = TrainingPairs(make_rows(), processor, cache_images=True)
    for i in range(4):
        assert_equal_items(cached[1, i], pairs[1, i])


@pytest.mark.parametrize("cache_images, before, after", [(True, 4, 4), (False, 0, 8)])
def test_cached_images_are_decoded_once_and_others_whenever_they_are_asked_for(
    processor, monkeypatch, cache_images, before, after
):
    decoded = []
    monkeypatch.setattr(batches, "resized_pixels", lambda *given: decoded.append(given) or resized_pixels(*given))
    pairs = TrainingPairs(make_rows(), processor, cache_images=cache_images)
    assert len(decoded) == before
    for epoch in range(2):
        for index in range(4):
            pairs[epoch, index]
    assert len(decoded) == after


def png_with_a_broken_chunk():
    """A picture whose head can be read and whose pixels make Pillow raise SyntaxError."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)).save(file, "PNG")
    head, name, rest = file.getvalue().rpartition(b"IDAT")
    assert name in head  # it was not the only chunk of pixels
    return head + b"\0\0\0\0" + rest


@pytest.mark.parametrize("cache_images", [False, True])
@pytest.mark.parametrize("content", [b"rubbish", png_with_a_broken_chunk()], ids=["rubbish", "broken chunk"])
def test_unreadable_image_is_named(processor, cache_images, content):
    rows = make_rows(image=[{"bytes": content, "path": None}] * 4)
    with pytest.raises(ValueError, match=r"'cam/0.png' cannot be read.*on_bad_image"):
        TrainingPairs(rows, processor, cache_images=cache_images)[0, 0]


def test_empty_caption_is_named(processor):
    with pytest.raises(ValueError, match="caption 1 of image 'cam/1.png' is empty"):
        TrainingPairs(make_rows(captions=[["a"], ["a", " "], [], ["a"]]), processor)


def test_batch_rows_are_ordered_by_view_and_text_first(processor, pairs):
    items = [pairs[0, i] for i in (3, 0)]
    batch = PairCollator(processor)(items)
    assert batch["pixels"].shape == (6, 3, 12, 4) and batch["pixels"].dtype == torch.uint8
    assert len(batch["input_ids"]) == len(batch["attention_mask"]) == 6
    assert batch["person_ids"].tolist() == batch["text_person_ids"].tolist() == [9, 7, 9, 7, 9, 7]
    assert batch["image_ids"] == ["cam/3.png", "cam/0.png"]
    names = {"input_ids", "attention_mask", "person_ids", "text_person_ids", "image_ids"}
    assert set(batch) == {"pixels"} | names
    prepared = with_pixel_values(batch, processor.image_processor)
    assert set(prepared) == {"pixel_values"} | names and prepared["pixel_values"].dtype == torch.float32
    for b in range(2):
        for k in range(3):
            view = torch.from_numpy(items[b]["views"][k]) / 127.5 - 1
            torch.testing.assert_close(prepared["pixel_values"][k * 2 + b], view, atol=1e-6, rtol=0)
            ids = batch["input_ids"][k * 2 + b][batch["attention_mask"][k * 2 + b].bool()]
            assert ids.tolist() == processor(text=items[b]["texts"][k])["input_ids"]


def test_large_person_ids_reach_the_batch_whole(processor):
    persons = [2**40 + 1, 2**40 + 1, 3, 2**40]
    pairs = TrainingPairs(make_rows(person_id=persons), processor)
    batch = PairCollator(processor)([pairs[0, 2], pairs[0, 3]])
    assert batch["person_ids"].tolist() == batch["text_person_ids"].tolist() == [2**40 + 1, 2**40] * 3


def test_one_view_can_serve_three_texts(processor):
    pairs = TrainingPairs(make_rows(), processor, views=PLAIN)
    batch = PairCollator(processor)([pairs[0, 0], pairs[0, 3]])
    expected = processor(images=[picture(0), picture(3)], return_tensors="pt").pixel_values
    prepared = with_pixel_values(batch, processor.image_processor)
    torch.testing.assert_close(prepared["pixel_values"], expected)
    assert batch["person_ids"].tolist() == [7, 9]
    assert batch["text_person_ids"].tolist() == [7, 9] * 3 and len(batch["input_ids"]) == 6


def test_long_captions_are_cut(processor):
    processor.tokenizer.model_max_length = 5
    pairs = TrainingPairs(make_rows(), processor, levels=["sentence"])
    assert PairCollator(processor)([pairs[0, 0]])["input_ids"].shape == (1, 5)


# Python 3.12 and later warn of any fork in a process that has threads, which torch always has.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_change_nothing(processor, pairs, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    batches = []
    for num_workers in (0, 2):
        sampler = PairSampler(pairs.caption_lengths, batch_size=2)
        loader = DataLoader(pairs, 2, sampler=sampler, collate_fn=PairCollator(processor), num_workers=num_workers)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            batches.append(list(loader))
    for alone, shared in zip(batches[0] + batches[1], batches[2] + batches[3], strict=True):
        assert shared.pop("image_ids") == alone.pop("image_ids")
        torch.testing.assert_close(shared, alone)
