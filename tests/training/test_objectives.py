import torch
from torch import multiprocessing

from modeling_ivt import IVTModel, cmpm_loss
from training.objectives import GatherWithGradient, Objective
from training.recipe import Recipe


def test_text_groups_do_not_change_the_loss(tiny_config):
    model = IVTModel(tiny_config).eval()
    lengths = torch.tensor([3, 9, 5, 12, 4, 7])
    batch = {
        "pixel_values": torch.randn(2, 3, *tiny_config.image_size),
        "input_ids": torch.randint(5, tiny_config.vocab_size, (6, 12)),
        "attention_mask": (torch.arange(12) < lengths[:, None]).long(),
        "person_ids": torch.tensor([4, 9]),
        "text_person_ids": torch.tensor([4, 9, 4, 9, 4, 9]),
    }
    losses = [
        Objective(model, Recipe(sdm_weight=1.0, token_weight=1.0, text_groups=text_groups)).eval()(batch)
        for text_groups in (1, 3)
    ]
    torch.testing.assert_close(losses[0], losses[1])


def _gather_on_one_of_two(rank: int, folder: str) -> None:
    """One of two processes: the gradient of a loss over the gathered rows with respect to its own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images, texts, ids = torch.load(f"{folder}/batch.pt")
    own = slice(2 * rank, 2 * rank + 2)
    local = images[own].clone().requires_grad_()
    cmpm_loss(GatherWithGradient.apply(local), GatherWithGradient.apply(texts[own]), ids).backward()
    torch.save(local.grad, f"{folder}/gradient{rank}.pt")
    torch.distributed.destroy_process_group()


def test_gathered_loss_has_the_gradient_of_the_whole_batch(tmp_path):
    images, texts, ids = torch.randn(4, 8), torch.randn(4, 8), torch.tensor([1, 2, 1, 3])
    torch.save((images, texts, ids), tmp_path / "batch.pt")
    multiprocessing.spawn(_gather_on_one_of_two, args=(str(tmp_path),), nprocs=2)
    whole = images.clone().requires_grad_()
    cmpm_loss(whole, texts, ids).backward()
    gathered = torch.cat([torch.load(tmp_path / f"gradient{rank}.pt") for rank in range(2)])
    # both processes compute the loss; DDP averages over the two, so twice the gradient is right
    torch.testing.assert_close(gathered / 2, whole.grad)


def test_average_forgets_the_first_weights_at_the_warmed_up_rate(tiny_config):
    objective = Objective(IVTModel(tiny_config), Recipe(ema_decay=0.5))
    values, weight, expected = (
        [3.0, -1.0, 4.0, 8.0, 5.0, 2.0, 7.0, 1.0, 0.0, 6.0],
        objective.model.layernorm.weight,
        1.0,
    )
    for step, value in enumerate(values, start=1):
        weight.data.fill_(value)
        objective.update_average(step)
        decay = min(0.5, (1 + step) / (10 + step))  # 2/11, 3/12, …, 9/18 = 0.5, 0.5
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(objective.evaluated_model.layernorm.weight, torch.full((32,), expected))
    assert not any(parameter.requires_grad for parameter in objective.average.parameters())
