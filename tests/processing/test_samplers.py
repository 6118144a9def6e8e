import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from processing.samplers import BalancedSampler, PairSampler, ShardSampler

LENGTHS = np.random.default_rng(0).integers(5, 60, 103)
PERSONS = np.random.default_rng(0).integers(100, 125, 103)  # of one person there are 1 to 9 pairs


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


def test_every_pair_is_left_out_equally_seldom():
    sampler = PairSampler(LENGTHS, batch_size=4)
    left_out = Counter()
    for epoch in range(700):
        left_out.update(set(range(103)) - {index for _, index in epoch_of(sampler, epoch)})
    # 3 of 103 in every epoch: 20 times on average
    assert len(left_out) == 103 and min(left_out.values()) > 5 and max(left_out.values()) < 45


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


def test_the_longest_captions_come_early_in_some_epochs_and_late_in_others():
    sampler = PairSampler(LENGTHS, 4, window=25)
    places = set()
    for epoch in range(40):
        lengths = LENGTHS[[index for _, index in epoch_of(sampler, epoch)]].reshape(-1, 4)
        places.add(int(lengths.sum(1).argmax()))  # of 25
    assert len(places) > 10


def test_one_batch_is_enough():
    assert sorted(PairSampler([1, 2, 3, 4], batch_size=4)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert sorted(BalancedSampler([7, 7, 8, 8], batch_size=4, pairs_per_person=2)) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_too_few_pairs_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 pairs do not fill one batch of 4"):
        PairSampler([1, 2, 3], batch_size=4)


@pytest.mark.parametrize(
    "sampler",
    [PairSampler(LENGTHS, 4), BalancedSampler(PERSONS, 4, 2), ShardSampler([60, 43], 4)],
    ids=["pairs", "balanced", "shards"],
)
def test_an_epoch_goes_on_as_it_began_when_the_next_one_is_set(sampler):
    expected = epoch_of(sampler, 1)
    sampler.set_epoch(1)
    keys = iter(sampler)
    first = [next(keys) for _ in range(5)]
    sampler.set_epoch(2)
    assert first + list(keys) == expected


class Keys(torch.utils.data.Dataset):
    """Gives back the keys it is asked for."""

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, key):
        return key


SAMPLERS = {
    "pairs": lambda batch_size: PairSampler(LENGTHS, batch_size, window=5),
    "balanced": lambda batch_size: BalancedSampler(PERSONS, batch_size, pairs_per_person=2),
}


def loader_of(sampler, processes, rank, num_workers=0):
    loader = DataLoader(Keys(), 4, sampler=sampler, collate_fn=list, drop_last=True, num_workers=num_workers)
    return prepare_data_loader(loader, num_processes=processes, process_index=rank, put_on_device=False)


@pytest.mark.parametrize("make_sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_accelerate_shares_the_batches_out_and_sets_the_epoch(processes, make_sampler):
    for epoch in (0, 2):
        expected = epoch_of(make_sampler(4 * processes), epoch)
        shares = []
        for rank in range(processes):
            loader = loader_of(make_sampler(4 * processes), processes, rank)
            loader.set_epoch(epoch)
            shares.append(list(loader))
        together = [key for step in zip(*shares, strict=True) for batch in step for key in batch]
        assert together == expected


@pytest.mark.parametrize("make_sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("processes", [1, 2])
def test_resuming_inside_an_epoch_continues_in_order(processes, make_sampler):
    loader = loader_of(make_sampler(4 * processes), processes, rank=0)
    loader.set_epoch(2)
    whole = list(loader)
    resumed = loader_of(make_sampler(4 * processes), processes, rank=0)
    resumed.set_epoch(2)
    assert list(skip_first_batches(resumed, 5)) == whole[5:]


# Persons of a batch


def batches_of_persons(sampler, epoch):
    indices = torch.tensor([index for _, index in epoch_of(sampler, epoch)])
    return indices.reshape(-1, sampler.batch_size)


@pytest.mark.parametrize("pairs_per_person", [1, 2, 3, 4, 6])
def test_every_batch_has_equally_many_pairs_of_different_persons(pairs_per_person):
    sampler = BalancedSampler(PERSONS, batch_size=12, pairs_per_person=pairs_per_person)
    for epoch in range(3):
        batches = batches_of_persons(sampler, epoch)
        assert len(batches) * 12 == len(sampler)
        for batch in PERSONS[batches]:
            assert set(Counter(batch.tolist()).values()) == {pairs_per_person}
            groups = batch.reshape(-1, pairs_per_person)
            assert (groups == groups[:, :1]).all()  # those of a person stand together, so on one process


def test_pairs_of_a_person_differ_as_long_as_there_are_enough():
    sampler = BalancedSampler([7] * 5 + [8] * 2 + [9] * 4, batch_size=8, pairs_per_person=4)
    for epoch in range(5):
        for pairs in batches_of_persons(sampler, epoch).reshape(-1, 4).tolist():
            assert len(set(pairs)) == (2 if pairs[0] in (5, 6) else 4)


def test_persons_with_equally_many_pairs_are_all_seen_once():
    persons = np.arange(12).repeat(6)[np.random.default_rng(1).permutation(72)]
    indices = batches_of_persons(BalancedSampler(persons, batch_size=12, pairs_per_person=3), 4)
    assert sorted(indices.flatten().tolist()) == list(range(72))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=4, max_size=9), st.integers(1, 3), st.integers(1, 4))
def test_an_epoch_has_as_many_batches_as_can_be_filled_with_different_persons(counts, pairs_per_person, num_persons):
    persons = np.arange(len(counts)).repeat(counts)
    sampler = BalancedSampler(persons, num_persons * pairs_per_person, pairs_per_person)
    groups = [math.ceil(count / pairs_per_person) for count in counts]
    # b batches need num_persons * b groups, of one person b at the most
    fit = [b for b in range(sum(groups) + 1) if sum(min(group, b) for group in groups) >= num_persons * b]
    assert len(sampler) == len(list(sampler)) == max(fit) * num_persons * pairs_per_person


def test_among_equals_everybody_is_left_over_and_meets_everybody():
    sampler = BalancedSampler(np.arange(13), batch_size=4, pairs_per_person=1)
    left_over, met = Counter(), Counter()
    for epoch in range(300):
        batches = batches_of_persons(sampler, epoch).tolist()
        left_over.update(set(range(13)).difference(*batches))
        met.update(two for batch in batches for two in itertools.combinations(sorted(batch), 2))
    assert len(left_over) == 13 and min(left_over.values()) > 8  # 1 of 13 in every epoch: 23 times on average
    assert len(met) == 13 * 12 / 2 and min(met.values()) > 40  # 18 meetings of 78 in every epoch: 69 on average


def test_batches_do_not_come_in_the_order_in_which_they_were_filled():
    # person 0 has the most pairs, so the first batches filled are those with 0: 6 of 8
    sampler = BalancedSampler([0] * 6 + list(range(1, 11)), batch_size=2, pairs_per_person=1)
    batches = [batches_of_persons(sampler, epoch) for epoch in range(200)]
    with_most = np.mean([(batch < 6).any(1).tolist() for batch in batches], axis=0)
    assert with_most.tolist() == pytest.approx([6 / 8] * 8, abs=0.1)


def test_pairs_of_a_person_take_turns_and_change_their_company():
    sampler = BalancedSampler([7] * 5 + [8] * 5, batch_size=4, pairs_per_person=2)
    seen, together = Counter(), Counter()
    for epoch in range(200):
        groups = batches_of_persons(sampler, epoch).reshape(-1, 2).tolist()
        seen.update(index for group in groups for index in group)
        together.update(tuple(sorted(group)) for group in groups)
    # 5 pairs fill 6 places: one of them comes twice, each in its turn
    assert seen == pytest.approx(dict.fromkeys(range(10), 200 * 6 / 5), rel=0.1)
    assert len(together) == 2 * 5 * 4 / 2


def test_what_no_batch_had_room_for_differs_from_epoch_to_epoch():
    sampler = BalancedSampler(PERSONS, batch_size=12, pairs_per_person=2)
    seen = [set(batches_of_persons(sampler, epoch).flatten().tolist()) for epoch in range(12)]
    assert all(len(some) > 0.8 * len(PERSONS) for some in seen)
    assert set.union(*seen) == set(range(len(PERSONS)))


def test_balanced_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_of(BalancedSampler(PERSONS, 12, 2, seed), epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    indices = [[index for _, index in order] for order in orders]
    assert indices[0] != indices[1] != indices[2] != indices[0]
    assert epoch_of(BalancedSampler(PERSONS, 12, 2, 0), 1) == orders[1]


def test_batches_that_cannot_be_balanced_are_refused():
    with pytest.raises(ValueError, match="12 pairs per batch are no multiple of 5"):
        BalancedSampler(PERSONS, batch_size=12, pairs_per_person=5)
    with pytest.raises(ValueError, match="2 persons do not fill a batch of 4 persons with 3 pairs"):
        BalancedSampler([1, 1, 1, 2, 2], batch_size=12, pairs_per_person=3)


def test_incomplete_groups_are_dropped_but_for_persons_with_no_other():
    persons = [0] * 11 + [1] * 4 + [2] * 3 + [3]  # pairs 0-10, 11-14, 15-17, 18
    sampler = BalancedSampler(persons, batch_size=4, pairs_per_person=4, drop_incomplete=True)
    seen = Counter()
    for epoch in range(50):
        batches = np.array([index for _, index in epoch_of(sampler, epoch)]).reshape(-1, 4)
        groups = Counter(persons[batch[0]] for batch in batches)
        assert groups == {0: 2, 1: 1, 2: 1, 3: 1}
        assert all(len({persons[index] for index in batch}) == 1 for batch in batches)
        assert all(len(set(batch)) == min(4, persons.count(persons[batch[0]])) for batch in batches)
        seen.update(index for index in batches.ravel() if index <= 10)
    assert len(seen) == 11 and max(seen.values()) < 50  # other pairs are left out in other epochs
    whole = BalancedSampler(persons, batch_size=4, pairs_per_person=4)
    assert len(whole) == len(sampler) + 4


def test_batch_of_28_has_seven_persons_and_twelve_positives_in_a_row_of_three_levels():
    persons = np.arange(40).repeat(9)
    order = np.array([index for _, index in BalancedSampler(persons, 28, 4, drop_incomplete=True)])
    for batch in persons[order].reshape(-1, 28):
        counts = np.unique(batch, return_counts=True)[1]
        assert len(counts) == 7 and (counts * 3 == 12).all()
