from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from processing.samplers import BalancedSampler, PairSampler

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
