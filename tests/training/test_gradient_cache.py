"""Gradients of two gloo processes, of accumulated batches and of cached chunks against those of plain autograd.

Letters: B pairs, each with two views and two texts.
"""

import copy
import os
import weakref

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import multiprocessing

from ivt.training.embeddings import Embeddings
from ivt.training.gradient_cache import backward, take_pairs
from ivt.training.objective import Objective
from ivt.training.recipe import Recipe
from modeling_ivt import IVTConfig, IVTModel

PERSONS = (2, 4, 9)
ALL_LOSSES = {"cmpm_weight": 1.0, "itc_weight": 0.5, "sdm_weight": 0.3, "token_weight": 0.7, "identity_weight": 1.0}


def make_objective(config: IVTConfig, **settings: object) -> Objective:
    return Objective(IVTModel(config), Recipe(**ALL_LOSSES, sdm_temperature=0.2, **settings), PERSONS)


def make_batch(config: IVTConfig, num_pairs: int) -> dict[str, object]:
    """The persons of a batch are on both sides of its middle; texts have 4 to 9 tokens."""
    person_ids = torch.tensor(PERSONS).repeat(num_pairs)[:num_pairs]
    lengths = torch.randint(4, 10, (2 * num_pairs, 1))
    return {
        "pixel_values": torch.randn(2 * num_pairs, 3, *config.image_size),
        "input_ids": torch.randint(5, config.vocab_size, (2 * num_pairs, 9)),
        "attention_mask": (torch.arange(9) < lengths).long(),
        "person_ids": person_ids.repeat(2),
        "text_person_ids": person_ids.repeat(2),
        "image_ids": [f"{i}.jpg" for i in range(num_pairs)],
    }


def gradients(objective: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.requires_grad}


def assert_equal_gradients(objective: Objective, expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    found = gradients(objective)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=tolerance, rtol=tolerance, msg=name)
    assert any(gradient.abs().max() > 0.1 for gradient in expected.values())  # not equal because all are nothing


def accelerator_with(**settings: object) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(cpu=True, **settings)


# ---- two processes

HALVES = (slice(0, 3), slice(3, 6))  # the pairs of either process
CASES = [(gather, steps, chunk) for gather in ("all", "none") for steps in (1, 2) for chunk in (None, 2)]


def _train_one_of_two(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for case, objective, batches in torch.load(f"{folder}/cases.pt", weights_only=False):
        _, num_batches, chunk_size = case
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=num_batches)
        prepared, losses = accelerator.prepare(objective), []
        for batch in batches:
            with accelerator.accumulate(prepared):
                losses.append(backward(accelerator, prepared, take_pairs(batch, HALVES[rank]), chunk_size))
        results[case] = (losses, gradients(objective))
    torch.save(results, f"{folder}/results{rank}.pt")
    torch.distributed.destroy_process_group()


def expected_of(objective: Objective, batches: list[dict], gather: str) -> list[torch.Tensor]:
    """Losses of one process with whole batches, by plain autograd, which leaves the gradient in the weights."""
    losses = []
    for batch in batches:
        parts = [batch] if gather == "all" else [take_pairs(batch, half) for half in HALVES]
        losses.append(torch.stack([objective(part) for part in parts]).mean())
    torch.stack(losses).mean().backward()
    return [loss.detach() for loss in losses]


def test_two_processes_give_the_loss_and_gradient_of_one_with_both_their_pairs(tiny_config, tmp_path):
    cases = []
    for gather, num_batches, chunk_size in CASES:
        batches = [make_batch(tiny_config, 6) for _ in range(num_batches)]
        cases.append(((gather, num_batches, chunk_size), make_objective(tiny_config, gather=gather), batches))
    torch.save(cases, tmp_path / "cases.pt")
    multiprocessing.spawn(_train_one_of_two, args=(str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"results{rank}.pt") for rank in range(2)]
    for case, objective, batches in cases:
        expected = expected_of(objective, batches, gather=case[0])
        for losses, found in (result[case] for result in results):
            torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5, msg=f"loss of {case}")
            assert_equal_gradients(objective, found)


# ---- gradient caching


def chunked_loss(objective: Objective, batch: dict, chunk_size: int, accelerator: Accelerator) -> torch.Tensor:
    """The loss of a batch embedded by chunks that all keep their graphs, with the random numbers of `backward`."""
    seed, parts = int(torch.randint(2**62, ())), []
    for i, start in enumerate(range(0, len(batch["image_ids"]), chunk_size)):
        torch.manual_seed(seed + i)
        with accelerator.autocast():
            parts.append(objective.embed(take_pairs(batch, slice(start, start + chunk_size))))
    return objective.compare(Embeddings.concatenate(parts))


@pytest.mark.parametrize("mixed_precision, tolerance", [("no", 1e-5), ("bf16", 1e-2)])
def test_cached_chunks_replay_their_random_numbers(tiny_config, mixed_precision, tolerance):
    for name, rate in {"hidden_dropout_prob": 0.2, "drop_path_rate": 0.2, "bmm_ratio": 0.4}.items():
        setattr(tiny_config, name, rate)
    accelerator = accelerator_with(mixed_precision=mixed_precision)
    objective, batch = make_objective(tiny_config), make_batch(tiny_config, 5)
    cached = copy.deepcopy(objective)
    torch.manual_seed(3)
    expected = chunked_loss(objective, batch, 2, accelerator)
    expected.backward()
    torch.manual_seed(3)
    loss = backward(accelerator, accelerator.prepare(cached), batch, chunk_size=2)
    torch.testing.assert_close(loss, expected.detach())
    assert_equal_gradients(cached, gradients(objective), tolerance)


@pytest.mark.parametrize("chunk_size", [1, 4, 9])
def test_without_random_numbers_chunks_change_nothing(tiny_config, chunk_size):
    objective, batch = make_objective(tiny_config), make_batch(tiny_config, 5)
    cached, accelerator = copy.deepcopy(objective), accelerator_with()
    expected = objective(batch)
    expected.backward()
    torch.testing.assert_close(
        backward(accelerator, accelerator.prepare(cached), batch, chunk_size), expected.detach()
    )
    assert_equal_gradients(cached, gradients(objective))


class SavedTensors:
    """Counts the bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def pack(self, tensor: torch.Tensor) -> "SavedTensors.Saved":
        saved = self.Saved(tensor)
        self.count(tensor.nbytes)
        weakref.finalize(saved, self.count, -tensor.nbytes)
        return saved

    def count(self, num_bytes: int) -> None:
        self.bytes += num_bytes
        self.most = max(self.most, self.bytes)

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor


def test_cached_chunks_keep_the_graph_of_one_chunk(tiny_config):
    def most_bytes(num_pairs: int, chunk_size: int | None) -> int:
        objective = Objective(IVTModel(tiny_config), Recipe())
        accelerator, saved = accelerator_with(), SavedTensors()
        prepared, batch = accelerator.prepare(objective), make_batch(tiny_config, num_pairs)
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda kept: kept.tensor):
            backward(accelerator, prepared, batch, chunk_size)
        return saved.most

    assert most_bytes(num_pairs=16, chunk_size=2) < 1.05 * most_bytes(num_pairs=2, chunk_size=None)
    assert most_bytes(num_pairs=16, chunk_size=None) > 4 * most_bytes(num_pairs=2, chunk_size=None)


def test_pairs_are_taken_with_all_their_views_and_texts(tiny_config):
    batch = make_batch(tiny_config, 5)
    some = take_pairs(batch, slice(2, 4))
    assert some["image_ids"] == ["2.jpg", "3.jpg"]
    for name in ("pixel_values", "input_ids", "attention_mask", "person_ids", "text_person_ids"):
        assert torch.equal(some[name], batch[name][[2, 3, 7, 8]])
