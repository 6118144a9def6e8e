"""What the objective adds to the losses: groups of texts, words that count, a classifier, averaged weights."""

import math

import pytest
import torch

from ivt.training.embeddings import Embeddings, TokenStates
from ivt.training.losses import LEAST_TEMPERATURE
from ivt.training.objective import Objective
from ivt.training.recipe import Recipe
from modeling_ivt import IVTConfig, IVTModel, tokenwise_loss

ONLY = dict.fromkeys(("cmpm_weight", "itc_weight", "sdm_weight", "token_weight", "identity_weight"), 0.0)


def make_batch(config: IVTConfig) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([3, 9, 5, 12, 4, 7])
    return {
        "pixel_values": torch.randn(2, 3, *config.image_size),
        "input_ids": torch.randint(5, config.vocab_size, (6, 12)),
        "attention_mask": (torch.arange(12) < lengths[:, None]).long(),
        "person_ids": torch.tensor([4, 9]),
        "text_person_ids": torch.tensor([4, 9, 4, 9, 4, 9]),
    }


def test_text_groups_do_not_change_the_loss(tiny_config):
    model, batch = IVTModel(tiny_config), make_batch(tiny_config)
    levels = (["sentence"], ["sentence", "phrase", "word"])  # as many groups as levels
    losses = [Objective(model, Recipe(token_weight=1.0, levels=names))(batch) for names in levels]
    torch.testing.assert_close(*losses)


def test_words_are_tokens_that_are_neither_hidden_nor_cls_sep_or_padding(tiny_config):
    tiny_config.bmm_ratio = 0.5
    recipe = Recipe(token_weight=1.0, levels=["sentence"])  # one group of texts
    objective, batch = Objective(IVTModel(tiny_config), recipe).train(), make_batch(tiny_config)
    num_words, longest = [3 - 2, 9 - 2, 5 - 2, 12 - 2, 4 - 2, 7 - 2], set()
    for _ in range(30):
        embeddings = objective.embed(batch)
        counts = embeddings.tokens.token_mask.sum(dim=1)
        assert not embeddings.tokens.token_mask[:, 0].any()
        assert all(
            count <= words for count, words in zip(counts.tolist(), sorted(num_words, reverse=True), strict=True)
        )
        longest.add(embeddings.tokens.token_states.shape[1])
    assert min(longest) == 6 and max(longest) == 12  # up to half of the twelve tokens are hidden
    counts = objective.eval().embed(batch).tokens.token_mask.sum(dim=1)
    assert counts.tolist() == sorted(num_words, reverse=True)


def test_lengthened_states_have_the_loss_of_the_short_ones():
    # all cosines are negative: padding with zeros would be the best patch of every word
    states = [torch.rand(2, 5, 8, dtype=torch.float64), -torch.rand(2, 4, 8, dtype=torch.float64)]
    mask, ids = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=torch.bool), torch.tensor([1, 2])
    short = TokenStates(*states, mask)
    long = short.lengthened(9, 6)
    assert long.patch_states.shape == (2, 9, 8) and long.token_states.shape == (2, 6, 8)
    losses = [tokenwise_loss(*tokens.tensors(), ids) for tokens in (short, long)]
    torch.testing.assert_close(*losses)


def test_identity_loss_begins_at_log_of_the_number_of_persons_for_images_and_for_texts(tiny_config):
    recipe = Recipe(**ONLY | {"identity_weight": 0.5})
    objective = Objective(IVTModel(tiny_config), recipe, person_ids=[9, 4, 123, 4, 7, 9])
    assert 0 < objective.classifier.weight.abs().max() < 0.01 and not objective.classifier.bias.any()
    with torch.no_grad():
        objective.classifier.weight.zero_()  # from all but equal scores to equal ones
    assert objective(make_batch(tiny_config)).item() == pytest.approx(0.5 * 2 * math.log(4), rel=1e-5)


def test_identity_loss_names_the_right_person(tiny_config):
    objective = Objective(IVTModel(tiny_config), Recipe(**ONLY | {"identity_weight": 1.0}), [7, 4, 9])
    with torch.no_grad():
        objective.classifier.weight.copy_(50 * torch.eye(3, 32))  # classes 0, 1, 2 are the persons 4, 7, 9
    images, texts = torch.eye(3, 32), torch.eye(3, 32)[[2, 0]]
    right = Embeddings(images, texts, torch.tensor([4, 7, 9]), torch.tensor([9, 4]))
    wrong = Embeddings(images, texts, torch.tensor([4, 7, 9]), torch.tensor([4, 9]))
    assert objective.compare(right).item() == pytest.approx(0, abs=1e-6)
    assert objective.compare(wrong).item() == pytest.approx(50, rel=1e-3)


def test_identity_loss_without_persons_is_an_error(tiny_config):
    with pytest.raises(ValueError, match="needs to know all persons"):
        Objective(IVTModel(tiny_config), Recipe(identity_weight=1.0))


def test_temperature_is_learnt_but_not_below_its_least(tiny_config):
    objective, batch = Objective(IVTModel(tiny_config), Recipe(**ONLY | {"sdm_weight": 1.0})), make_batch(tiny_config)
    objective(batch).backward()
    assert objective.log_temperature.exp().item() == pytest.approx(0.02)
    assert objective.log_temperature.grad.abs() > 0
    losses = []
    for temperature in (LEAST_TEMPERATURE, LEAST_TEMPERATURE / 100):
        objective.log_temperature.data.fill_(math.log(temperature))
        losses.append(objective(batch))
    torch.testing.assert_close(*losses)


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
