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
    ones, or is left out (`drop_incomplete`) unless it is the person's only one. Every batch takes a group of the P
    persons with the most groups left, among equals at random, until fewer than P have any; what is left over then is
    not seen in this epoch. The batches are shuffled at the end.

    Args:
        person_ids: the person of each pair.
        batch_size: P * K pairs; with several processes so many times the loader's batch size, then no person is on
            two of them.
        pairs_per_person: K.
        seed: of the order.
        drop_incomplete: leave out groups that are not full; persons with fewer than K pairs still have their one.

    Raises:
        ValueError: if K does not divide the batch size, or there are fewer than P persons.
    """

    def __init__(
        self,
        person_ids: Sequence[int],
        batch_size: int,
        pairs_per_person: int,
        seed: int = 0,
        drop_incomplete: bool = False,
    ) -> None:
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
        self.drop_incomplete = drop_incomplete
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
        num_groups = self._num_groups(pairs)
        return np.resize(rng.permutation(pairs), (num_groups, self.pairs_per_person))  # repeats from the start

    def _num_groups(self, pairs: np.ndarray) -> int:
        full, rest = divmod(len(pairs), self.pairs_per_person)
        return max(full, 1) if self.drop_incomplete else full + bool(rest)

    def _choose_persons(self, rng: np.random.Generator) -> list[np.ndarray]:
        """For every batch its persons; how many batches there are does not depend on the random numbers."""
        left = np.array([self._num_groups(pairs) for pairs in self.pairs_of_person])
        batches = []
        while (left > 0).sum() >= self.persons_per_batch:
            order = np.argsort(-(left + rng.random(len(left))))
            batches.append(order[: self.persons_per_batch])
            left[batches[-1]] -= 1
        return batches


class ShardSampler(Sampler[tuple[int, int]]):
    """Shuffle the pairs of a corpus in shards such that few shards are read at a time, each from front to back.

    An epoch is one line of pairs: the shards in random order, one behind the other, from a random pair on and round to
    it. The line is cut into equal stretches, `LANES` for each process, one behind the other, so that the processes of
    a node read shards of their own; the few pairs that do not fill a batch of every process are left out. A lane
    shuffles its pairs within a buffer, and batches come from the lanes in turn. A loader with `LANES` workers or a
    divisor of it therefore has each lane read by one worker, but the order does not depend on the workers.

    Args:
        pairs_per_shard: number of pairs of each shard; pairs are counted through from shard to shard.
        batch_size: pairs of a batch of one process.
        num_processes: among which accelerate deals out the batches, each in its turn.
        seed: of the order.
        buffer: pairs that a process shuffles together, shared out among its lanes.
        lengths: of each pair's caption, to fill batches with like ones as `PairSampler` does; None does not.

    Raises:
        ValueError: if there are too few pairs for a batch of every process.
    """

    LANES = 8  # per process

    def __init__(
        self,
        pairs_per_shard: Sequence[int],
        batch_size: int,
        num_processes: int = 1,
        seed: int = 0,
        buffer: int = 4096,
        lengths: np.ndarray | None = None,
    ) -> None:
        self.sizes = np.asarray(pairs_per_shard)
        self.batch_size, self.num_processes, self.seed, self.lengths = batch_size, num_processes, seed, lengths
        self.window = max(1, buffer // (self.LANES * batch_size)) * batch_size
        self.batches_per_process = int(self.sizes.sum()) // (batch_size * num_processes)
        if not self.batches_per_process:
            raise ValueError(
                f"{self.sizes.sum()} pairs do not fill a batch of {batch_size} on each of {num_processes} processes; "
                "use a smaller batch size"
            )
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_process * self.batch_size * self.num_processes

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, rng = self.epoch, np.random.default_rng((self.seed, self.epoch))
        order, first = rng.permutation(len(self.sizes)), int(rng.integers(self.sizes.sum()))
        # batch j of a process comes from lane j modulo LANES
        counts = [len(range(lane, self.batches_per_process, self.LANES)) for lane in range(self.LANES)]
        ends = first + np.cumsum(counts * self.num_processes) * self.batch_size
        starts = np.concatenate([[first], ends[:-1]])
        stretches = zip(starts.tolist(), ends.tolist(), strict=True)
        lanes = [self._batches(epoch, order, lane, *stretch) for lane, stretch in enumerate(stretches)]
        for batch in range(self.batches_per_process):
            for process in range(self.num_processes):
                for index in next(lanes[process * self.LANES + batch % self.LANES]).tolist():
                    yield epoch, index

    def _batches(self, epoch: int, order: np.ndarray, lane: int, start: int, end: int) -> Iterator[np.ndarray]:
        """Batches of one lane, from positions `start` to `end` of the line that goes on at its beginning."""
        line_ends = self.sizes[order].cumsum()
        for number, window_start in enumerate(range(start, end, self.window)):
            positions = np.arange(window_start, min(window_start + self.window, end)) % line_ends[-1]
            places = np.searchsorted(line_ends, positions, side="right")  # of their shards in the line
            indices = self.sizes.cumsum()[order[places]] - (line_ends[places] - positions)
            rng = np.random.default_rng((self.seed, epoch, lane, number))
            indices = rng.permutation(indices)
            if self.lengths is not None:
                indices = indices[np.argsort(self.lengths[indices], kind="stable")]
            yield from rng.permutation(indices.reshape(-1, self.batch_size))
