"""In which order the pairs of a corpus are trained on: by length of the caption, or so many pairs of every person.

A sampler, not a batch sampler, because that is where accelerate's `set_epoch` looks on one process and on many. All
give keys (epoch, index) for `batches.TrainingPairs`, in an order that depends on (seed, epoch) alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class PairSampler(Sampler[tuple[int, int]]):
    """Shuffle the pairs of an epoch so that every batch holds captions of like length, which saves padding.

    Pairs are shuffled, sorted by length inside windows of `window` batches, cut into batches, and the batches
    shuffled. The pairs that do not fill a batch are left out.

    Args:
        lengths: length of each pair's caption.
        batch_size: pairs per batch; with P processes P times the loader's batch size keeps theirs alike too.
        seed: of the order.
        window: batches sorted together; 1 sorts nothing across batches, which is a plain shuffle.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0, window: int = 50) -> None:
        if len(lengths) < batch_size:
            raise ValueError(f"{len(lengths)} pairs do not fill one batch of {batch_size}; use a smaller batch size")
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.window = batch_size, seed, window
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))[: len(self)]
        step = self.window * self.batch_size
        windows = [order[start : start + step] for start in range(0, len(order), step)]
        order = np.concatenate([w[np.argsort(self.lengths[w], kind="stable")] for w in windows])
        batches = rng.permutation(order.reshape(-1, self.batch_size))  # shuffles the rows
        epoch = self.epoch
        return ((epoch, index) for index in batches.ravel().tolist())


class BalancedSampler(Sampler[tuple[int, int]]):
    """Fill every batch with P different persons and K pairs of each, so that all have positives beside their own.

    The pairs of a person are shuffled and cut into groups of K; a group that is not full begins again with the first
    ones. Every batch takes a group of the P persons with the most groups left, among equals at random, until fewer
    than P have any; what is left over then is not seen in this epoch. The batches are shuffled at the end.

    Args:
        person_ids: the person of each pair.
        batch_size: P * K pairs; with several processes so many times the loader's batch size, then no person is on
            two of them.
        pairs_per_person: K.
        seed: of the order.

    Raises:
        ValueError: if K does not divide the batch size, or there are fewer than P persons.
    """

    def __init__(self, person_ids: Sequence[int], batch_size: int, pairs_per_person: int, seed: int = 0) -> None:
        self.persons_per_batch, remainder = divmod(batch_size, pairs_per_person)
        if remainder or not self.persons_per_batch:
            raise ValueError(
                f"{batch_size} pairs per batch are no multiple of {pairs_per_person} pairs per person; change either"
            )
        _, classes, counts = np.unique(np.asarray(person_ids), return_inverse=True, return_counts=True)
        if len(counts) < self.persons_per_batch:
            raise ValueError(
                f"{len(counts)} persons do not fill a batch of {self.persons_per_batch} persons with "
                f"{pairs_per_person} pairs each; use a smaller batch size or more pairs per person"
            )
        self.pairs_of_person = np.split(classes.argsort(kind="stable"), counts.cumsum()[:-1])
        self.batch_size, self.pairs_per_person, self.seed = batch_size, pairs_per_person, seed
        self.num_batches = len(self._choose_persons(np.random.default_rng(seed)))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        groups = [iter(self._groups(pairs, rng)) for pairs in self.pairs_of_person]
        batches = [
            np.concatenate([next(groups[person]) for person in persons]) for persons in self._choose_persons(rng)
        ]
        rng.shuffle(batches)
        epoch = self.epoch
        return ((epoch, index) for batch in batches for index in batch.tolist())

    def _groups(self, pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(groups, K) indices of one person's pairs."""
        num_groups = -(-len(pairs) // self.pairs_per_person)
        return np.resize(rng.permutation(pairs), (num_groups, self.pairs_per_person))  # repeats from the start

    def _choose_persons(self, rng: np.random.Generator) -> list[np.ndarray]:
        """For every batch its persons; how many batches there are does not depend on the random numbers."""
        left = np.array([-(-len(pairs) // self.pairs_per_person) for pairs in self.pairs_of_person])
        batches = []
        while (left > 0).sum() >= self.persons_per_batch:
            order = np.argsort(-(left + rng.random(len(left))))
            batches.append(order[: self.persons_per_batch])
            left[batches[-1]] -= 1
        return batches
