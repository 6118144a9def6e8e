import pytest
import torch

from ivt.training.dry_run import bytes_of, duration, measure_batches


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
