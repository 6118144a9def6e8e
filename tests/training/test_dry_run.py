import math
from types import SimpleNamespace

import pytest
import torch

from ivt.training import dry_run
from ivt.training.dry_run import bytes_of, duration, estimate_cost, measure_batches
from ivt.training.optimization import Schedule


@pytest.mark.parametrize(
    "seconds, text",
    [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (7200, "2 h 00 min"), (25_500, "7 h 05 min")],
)
def test_duration_reads_well(seconds, text):
    assert duration(seconds) == text


def test_operations_of_a_batch_are_those_of_its_matrix_products():
    layer = torch.nn.Linear(30, 50, bias=False)
    seen = []

    def train_on_batch(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        loss = layer(batch).sum()
        loss.backward()
        return loss

    flops, seconds = measure_batches([torch.randn(7, 30), torch.randn(5, 30)], train_on_batch)
    # of the first batch: forward and the gradient of the weights, a multiply-add is two
    assert flops == 2 * (2 * 7 * 30 * 50)
    assert seen == [7, 5, 7, 5] and seconds > 0


def test_operations_of_attention_are_counted():
    tokens = torch.randn(2, 4, 50, 32, requires_grad=True)  # (B, H, N, D)

    def train_on_batch(batch: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.scaled_dot_product_attention(batch, batch, batch).sum()
        loss.backward()
        return loss

    product = 2 * (2 * 4 * 50 * 50 * 32)
    # forward: scores, and values by them; backward: two products for each, and the scores once more
    assert measure_batches([tokens], train_on_batch)[0] == (2 + 5) * product


def test_bytes_are_counted_of_tensors_alone():
    assert bytes_of([torch.zeros(3, 5), torch.zeros(2, dtype=torch.bfloat16), 7, None]) == 3 * 5 * 4 + 2 * 2


def test_clock_stops_when_the_last_loss_is_there_and_nothing_is_printed(monkeypatch, capsys):
    """On a GPU a loss is there only when it is asked for: here that is what takes time, two seconds each."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Loss:
        def item(self) -> float:
            clock.now += 2.0
            return 0.0

    _, seconds = measure_batches([{}], lambda batch: Loss())
    assert seconds == pytest.approx(2.0 / dry_run.MEASURED_BATCHES)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "limit, said",
    [
        (150, "; max_minutes ends it near step 50"),  # half of 200 s of training and 100 s of validation
        (299, "; max_minutes ends it near step 100"),
        (300, ""),
        (math.inf, ""),
    ],
)
def test_minutes_of_a_run_are_those_of_training_and_validation(monkeypatch, limit, said):
    monkeypatch.setattr(dry_run, "measure_batches", lambda *_: (1e9, 0.5))
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    schedule = Schedule(4, steps_per_epoch=10, total_steps=100, warmup_steps=0, time_limit=limit)
    model = torch.nn.Linear(2, 3)
    text = estimate_cost(accelerator, model, torch.optim.SGD(model.parameters()), [], len, schedule, 100.0)
    assert text.startswith("step: 4.0 GFLOP per process in 2.000 s, 2 GFLOP/s\n")
    assert text.endswith(f"\nrun: 100 steps 3 min, validations 2 min{said}")
