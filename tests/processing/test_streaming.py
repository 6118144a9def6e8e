"""Pairs that are streamed: the same ones as from memory, every one once, on any number of processes and workers."""

import numpy as np
import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batches import assert_equal_items, make_rows, png_with_a_broken_chunk
from torch.utils.data import BatchSampler, DataLoader

from processing import batches
from processing.batches import PairCollator, StreamedPairs, TrainingPairs
from processing.caption_augmentation import CaptionAugmentation
from processing.samplers import ShardSampler
from processing.views import TrainingViews


class RowsInMemory:
    """What `StreamedPairs` asks of rows, from a dataset."""

    def __init__(self, rows, without=()):
        self.rows, self.without = rows, without
        self.pairs = [
            (row, number) for row, captions in enumerate(rows["captions"]) for number in range(len(captions))
        ]
        self.caption_lengths = np.array([len(rows["captions"][row][number].split()) for row, number in self.pairs])

    def pair(self, index):
        row, number = self.pairs[index]
        found = {name: self.rows[row][name] for name in self.rows.column_names if name not in ("image", *self.without)}
        return found | {"image": make_rows().to_dict()["image"][row]}, number


AUGMENTATION = {
    "views": TrainingViews(num_views=2, padding=2),
    "seed": 5,
    "flip_words": True,
    "caption_augmentation": CaptionAugmentation(drop_attributes=0.5),
}


def test_streamed_pairs_are_those_from_memory(processor):
    rows = make_rows()
    streamed = StreamedPairs(RowsInMemory(rows), processor, **AUGMENTATION)
    in_memory = TrainingPairs(rows, processor, **AUGMENTATION)
    assert len(streamed) == len(in_memory)
    for epoch in range(3):
        for index in range(len(in_memory)):
            assert_equal_items(streamed[epoch, index], in_memory[epoch, index])


def test_levels_that_are_not_stored_are_worked_out(processor):
    streamed = StreamedPairs(RowsInMemory(make_rows(), without=("levels",)), processor, levels=["phrase", "word"])
    assert sorted(streamed[0, 2]["texts"]) == ["A woman", "woman"]
    assert "red" in " ".join(streamed[0, 3]["texts"]).lower()


def test_whole_sentences_alone_need_no_tagger(processor, monkeypatch):
    monkeypatch.setattr(batches, "find_tagger", lambda: pytest.fail("looked for a tagger"))
    streamed = StreamedPairs(RowsInMemory(make_rows(), without=("levels",)), processor, levels=["sentence"])
    assert streamed[0, 2]["texts"] == ["A woman."]


@pytest.mark.parametrize(
    "image", [{"bytes": b"no picture"}, {"bytes": png_with_a_broken_chunk()}, {"bytes": None}, None]
)
def test_picture_that_cannot_be_read_is_named(processor, image):
    rows = RowsInMemory(make_rows())
    pair = rows.pair
    rows.pair = lambda index: (pair(index)[0] | {"image": image}, 0)
    with pytest.raises(ValueError, match="image 'cam/0.png' cannot be read: .*; write its shard anew"):
        StreamedPairs(rows, processor)[0, 0]


# ---- order


def batches_of_process(sampler: ShardSampler, batch_size: int, num_processes: int, process: int) -> list[list]:
    """What accelerate hands to one of the processes."""
    batches = BatchSampler(sampler, batch_size, drop_last=True)
    return list(BatchSamplerShard(batches, num_processes, process))


SHARDS = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(SHARDS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 300), st.booleans())
def test_processes_get_equal_shares_and_no_pair_twice(shards, batch_size, num_processes, epoch, buffer, by_length):
    total, step = sum(shards), batch_size * num_processes
    lengths = np.arange(total) % 7 if by_length else None
    arguments = (shards, batch_size, num_processes, 3, buffer, lengths)
    if total < step:
        with pytest.raises(ValueError, match=f"{total} pairs do not fill a batch"):
            ShardSampler(*arguments)
        return
    sampler = ShardSampler(*arguments)
    sampler.set_epoch(epoch)
    shares = [batches_of_process(sampler, batch_size, num_processes, process) for process in range(num_processes)]
    assert {len(share) for share in shares} == {total // step}
    keys = [key for share in shares for batch in share for key in batch]
    assert len(keys) == len(set(keys)) == len(sampler) == total // step * step
    assert all(number == epoch and 0 <= index < total for number, index in keys)


def test_order_depends_on_seed_and_epoch_alone():
    def order(epoch: int, seed: int = 0) -> list:
        sampler = ShardSampler([30, 50, 20], 4, 2, seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(1) == order(1)
    assert order(1) != order(2) and order(1) != order(1, seed=1)
    # what does not fill a batch is left out: other pairs in other epochs
    left_out = [set(range(100)) - set(order(epoch)) for epoch in range(20)]
    assert {len(left) for left in left_out} == {4} and len(set.union(*left_out)) > 20


def line_of(sampler: ShardSampler, epoch: int) -> np.ndarray:
    """Batches in the order in which the lanes of one process stand behind one another, (batches, pairs)."""
    sampler.set_epoch(epoch)
    batches = np.array([index for _, index in sampler]).reshape(-1, sampler.batch_size)
    return np.concatenate([batches[lane :: sampler.LANES] for lane in range(sampler.LANES)])


def test_an_epoch_is_one_line_of_shards_in_an_order_of_its_own():
    followers, starts = set(), set()
    for number in range(40):
        sampler = ShardSampler([16] * 12, 1, seed=number % 2, buffer=1)  # nothing is shuffled but the shards
        line = line_of(sampler, number // 2).ravel()
        starts.add(int(line[0]))
        line = np.roll(line, -int((line % 16 == 0).argmax()))  # from the first beginning of a shard on, and round
        shards = line[::16] // 16
        assert sorted(shards) == list(range(12))
        np.testing.assert_array_equal(line.reshape(12, 16) - 16 * shards[:, None], [range(16)] * 12)
        followers |= set(zip(shards.tolist(), np.roll(shards, -1).tolist(), strict=True))
    assert len(starts) > 30 and len(followers) > 0.9 * 12 * 11  # nearly any shard has had any other behind it


def test_every_window_of_a_lane_is_shuffled_in_a_way_of_its_own():
    shuffles = []
    for seed, epoch in [(0, 0), (0, 1), (0, 2), (1, 0)]:
        sampler = ShardSampler([240], 1, seed=seed, buffer=8 * 10)  # 8 lanes of 3 windows of 10 pairs
        windows = line_of(sampler, epoch).reshape(24, 10)
        for window in windows:
            first = next(index for index in window if (index - 1) % 240 not in window)
            places = (window - first) % 240
            assert sorted(places) == list(range(10))
            shuffles.append(tuple(places.tolist()))
    assert len(set(shuffles)) == len(shuffles) == 4 * 24


def test_processes_and_lanes_read_few_shards_at_a_time():
    shards, batch_size = [64] * 64, 4
    sampler = ShardSampler(shards, batch_size, num_processes=2, buffer=8 * 16)
    shares = [batches_of_process(sampler, batch_size, 2, process) for process in range(2)]
    read = [{index // 64 for batch in share for _, index in batch} for share in shares]
    assert len(read[0] & read[1]) <= 2  # one that the cut goes through, and one at the ends of the line
    for lane in range(ShardSampler.LANES):
        visited = [index // 64 for batch in shares[0][lane :: ShardSampler.LANES] for _, index in batch]
        changes = sum(a != b for a, b in zip(visited, visited[1:], strict=False))
        # 2048 pairs of a process are 256 a lane, 4 to 5 shards; a window of 16 pairs may lie on the border of two
        assert len(set(visited)) <= 5 and changes <= 4 * 16


def test_pairs_are_shuffled_within_the_buffer_and_beyond_it():
    sampler = ShardSampler([200] * 5, 10, buffer=8 * 50)
    order = np.array([index for _, index in sampler])
    lane = order.reshape(-1, 10)[:: ShardSampler.LANES].ravel()
    neighbours = (np.diff(lane) == 1).mean()
    assert neighbours < 0.1 and len(np.unique(lane // 200)) <= 2


def test_batches_of_like_length_come_from_within_a_window():
    lengths = np.random.default_rng(0).integers(3, 60, 800)

    def spread(grouped: bool) -> float:
        sampler = ShardSampler([400, 400], 5, buffer=8 * 50, lengths=lengths if grouped else None)
        batches = np.array([index for _, index in sampler]).reshape(-1, 5)
        return np.ptp(lengths[batches], axis=1).mean()

    assert spread(True) < spread(False) / 4


def test_windows_do_not_begin_with_their_shortest_captions():
    lengths = np.arange(800) % 80
    firsts = []
    for epoch in range(30):
        windows = line_of(ShardSampler([800], 5, buffer=8 * 50, lengths=lengths), epoch).reshape(16, 10, 5)
        firsts.append(lengths[windows].sum(2).argsort(1)[:, 0])  # place of the shortest batch of 10
    places = np.bincount(np.ravel(firsts), minlength=10)
    assert places.tolist() == pytest.approx([30 * 16 / 10] * 10, rel=0.5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_goes_on_where_it_was_left_whatever_its_workers(processor, num_workers):
    rows = RowsInMemory(make_rows())
    whole = DataLoader(
        StreamedPairs(rows, processor, levels=["sentence"]),
        1,
        sampler=ShardSampler([3, 1], 1),
        collate_fn=PairCollator(processor),
    )
    whole.sampler.set_epoch(2)
    expected = list(whole)
    assert sorted(batch["image_ids"][0] for batch in expected) == ["cam/0.png", "cam/0.png", "cam/1.png", "cam/3.png"]
    sampler = ShardSampler([3, 1], 1)
    sampler.set_epoch(2)
    pairs = StreamedPairs(rows, processor, levels=["sentence"])
    again = DataLoader(pairs, 1, sampler=sampler, collate_fn=PairCollator(processor), num_workers=num_workers)
    found = list(skip_first_batches(again, 1))
    assert len(found) == 3
    for batch, other in zip(expected[1:], found, strict=True):
        assert batch["image_ids"] == other["image_ids"]
        assert (batch["pixels"] == other["pixels"]).all()
        assert (batch["input_ids"] == other["input_ids"]).all()
