import io
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from processing.batches import PairCollator, PairSampler, TrainingPairs
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
    assert [pairs[0, i]["person_id"] for i in range(4)] == PAIR_PERSONS
    assert [pairs[0, i]["image_id"] for i in range(4)] == ["cam/0.png", "cam/0.png", "cam/1.png", "cam/3.png"]
    assert pairs.caption_lengths == [10, 6, 2, 3]


def test_item_depends_on_seed_epoch_and_index_alone(processor, pairs):
    assert_equal_items(pairs[3, 0], TrainingPairs(make_rows(), processor)[3, 0])
    for other in (pairs[4, 0], pairs[3, 1], TrainingPairs(make_rows(), processor, seed=1)[3, 0]):
        assert (other["views"] != pairs[3, 0]["views"]).any()


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


def test_whole_sentences_alone_need_no_levels(processor):
    rows = make_rows().remove_columns("levels")
    assert TrainingPairs(rows, processor, levels=["sentence"])[0, 0]["texts"] == [CAPTIONS[0][0]]
    with pytest.raises(ValueError, match="add_levels"):
        TrainingPairs(rows, processor)


SIDES = [["The left shoe is red, the right bag blue. Right."]] + [["bright leftovers"]] * 3


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
        swapped = ["The right shoe is red, the left bag blue. Left."]
        assert pair["texts"] == (swapped if mirrored else SIDES[0])
        assert pairs[epoch, 1]["texts"] == ["bright leftovers"]
        seen[bool(mirrored)] += 1
    assert 70 < seen[True] < 130


@pytest.mark.parametrize("levels", [[], ["sentence", "letter"]])
def test_unknown_levels_are_refused(processor, levels):
    with pytest.raises(ValueError, match="expected one or more of"):
        TrainingPairs(make_rows(), processor, levels=levels)


def test_cached_images_change_nothing(processor, pairs):
    cached = TrainingPairs(make_rows(), processor, cache_images=True)
    for i in range(4):
        assert_equal_items(cached[1, i], pairs[1, i])


@pytest.mark.parametrize("cache_images", [False, True])
def test_unreadable_image_is_named(processor, cache_images):
    rows = make_rows(image=[{"bytes": b"rubbish", "path": None}] * 4)
    with pytest.raises(ValueError, match=r"'cam/0.png' cannot be read.*on_bad_image"):
        TrainingPairs(rows, processor, cache_images=cache_images)[0, 0]


def test_empty_caption_is_named(processor):
    with pytest.raises(ValueError, match="caption 1 of image 'cam/1.png' is empty"):
        TrainingPairs(make_rows(captions=[["a"], ["a", " "], [], ["a"]]), processor)


def test_batch_rows_are_ordered_by_view_and_text_first(processor, pairs):
    items = [pairs[0, i] for i in (3, 0)]
    batch = PairCollator(processor)(items)
    assert batch["pixel_values"].shape == (6, 3, 12, 4) and batch["pixel_values"].dtype == torch.float32
    assert len(batch["input_ids"]) == len(batch["attention_mask"]) == 6
    assert batch["person_ids"].tolist() == batch["text_person_ids"].tolist() == [9, 7, 9, 7, 9, 7]
    assert batch["image_ids"] == ["cam/3.png", "cam/0.png"]
    for b in range(2):
        for k in range(3):
            view = torch.from_numpy(items[b]["views"][k]) / 127.5 - 1
            torch.testing.assert_close(batch["pixel_values"][k * 2 + b], view, atol=1e-6, rtol=0)
            ids = batch["input_ids"][k * 2 + b][batch["attention_mask"][k * 2 + b].bool()]
            assert ids.tolist() == processor(text=items[b]["texts"][k])["input_ids"]


def test_one_view_can_serve_three_texts(processor):
    pairs = TrainingPairs(make_rows(), processor, views=PLAIN)
    batch = PairCollator(processor)([pairs[0, 0], pairs[0, 3]])
    expected = processor(images=[picture(0), picture(3)], return_tensors="pt").pixel_values
    torch.testing.assert_close(batch["pixel_values"], expected)
    assert batch["person_ids"].tolist() == [7, 9]
    assert batch["text_person_ids"].tolist() == [7, 9] * 3 and len(batch["input_ids"]) == 6


def test_long_captions_are_cut(processor):
    processor.tokenizer.model_max_length = 5
    pairs = TrainingPairs(make_rows(), processor, levels=["sentence"])
    assert PairCollator(processor)([pairs[0, 0]])["input_ids"].shape == (1, 5)


# Order of the pairs

LENGTHS = np.random.default_rng(0).integers(5, 60, 103)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_an_epoch_visits_every_pair_once_but_for_the_last_incomplete_batch():
    sampler = PairSampler(LENGTHS, batch_size=4, window=5)
    order = epoch_of(sampler, 3)
    assert {epoch for epoch, _ in order} == {3}
    assert len(sampler) == len(order) == len({index for _, index in order}) == 100


def test_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_of(PairSampler(LENGTHS, 4, seed), epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    indices = [[index for _, index in order] for order in orders]
    assert indices[0] != indices[1] != indices[2] != indices[0]
    assert epoch_of(PairSampler(LENGTHS, 4, 0), 1) == orders[1]


def test_batches_of_like_length_need_less_padding():
    def padding(window):
        order = [index for _, index in PairSampler(LENGTHS, 4, window=window)]
        lengths = LENGTHS[order].reshape(-1, 4)
        return (lengths.max(1, keepdims=True) - lengths).sum()

    assert padding(window=25) < 0.2 * padding(window=1)


def test_batches_do_not_come_in_order_of_length():
    order = [index for _, index in PairSampler(LENGTHS, 4, window=25)]
    firsts = LENGTHS[order].reshape(-1, 4)[:, 0]
    assert (np.diff(firsts) > 0).any() and (np.diff(firsts) < 0).any()


def test_too_few_pairs_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 pairs do not fill one batch of 4"):
        PairSampler([1, 2, 3], batch_size=4)


class Keys(torch.utils.data.Dataset):
    """Gives back the keys it is asked for."""

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, key):
        return key


def loader_of(processes, rank, num_workers=0):
    sampler = PairSampler(LENGTHS, batch_size=4 * processes, window=5)
    loader = DataLoader(Keys(), 4, sampler=sampler, collate_fn=list, drop_last=True, num_workers=num_workers)
    return prepare_data_loader(loader, num_processes=processes, process_index=rank, put_on_device=False)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_accelerate_shares_the_batches_out_and_sets_the_epoch(processes):
    for epoch in (0, 2):
        expected = epoch_of(PairSampler(LENGTHS, batch_size=4 * processes, window=5), epoch)
        shares = []
        for rank in range(processes):
            loader = loader_of(processes, rank)
            loader.set_epoch(epoch)
            shares.append(list(loader))
        together = [key for step in zip(*shares, strict=True) for batch in step for key in batch]
        assert together == expected


@pytest.mark.parametrize("processes", [1, 2])
def test_resuming_inside_an_epoch_continues_in_order(processes):
    loader = loader_of(processes, rank=0)
    loader.set_epoch(2)
    whole = list(loader)
    resumed = loader_of(processes, rank=0)
    resumed.set_epoch(2)
    assert list(skip_first_batches(resumed, 5)) == whole[5:]


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
