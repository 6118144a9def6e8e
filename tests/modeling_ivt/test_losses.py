"""CMPM, ITC, SDM and the token-wise loss against closed forms and against plain loops over numbers.

Letters: I images, T texts, D width, B pairs, P patches, L tokens.
"""

import math
from collections.abc import Callable

import pytest
import torch

from modeling_ivt import cmpm_loss, itc_loss, sdm_loss, tokenwise_loss
from modeling_ivt.losses_ivt import tokenwise_scores

EPSILON = 1e-8


def looped_cmpm(images: torch.Tensor, texts: torch.Tensor, image_ids: list[int], text_ids: list[int]) -> float:
    """CMPM as its formula reads, one number after the other."""

    def one_direction(rows: list, columns: list, row_ids: list[int], column_ids: list[int]) -> float:
        total = 0.0
        for row, row_id in zip(rows, row_ids, strict=True):
            scores = []
            for column in columns:
                length = math.sqrt(sum(x * x for x in column))
                scores.append(sum(x * y for x, y in zip(row, column, strict=True)) / length)
            partition = sum(math.exp(score) for score in scores)
            matches = sum(row_id == column_id for column_id in column_ids)
            for score, column_id in zip(scores, column_ids, strict=True):
                p = math.exp(score) / partition
                q = 1 / math.sqrt(matches) if row_id == column_id else 0.0
                total += p * (math.log(p) - math.log(q + EPSILON))
        return total / len(rows)

    v, t = images.tolist(), texts.tolist()
    return one_direction(v, t, image_ids, text_ids) + one_direction(t, v, text_ids, image_ids)


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


@pytest.mark.parametrize(
    ("image_ids", "text_ids"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 1], [1, 2, 1]),  # several captions and images of a person
        ([4, 4, 4], [4, 4, 4]),
        ([1, 2], [1, 1, 2, 2, 2]),  # I != T
        ([1, 2, 3], [3, 9]),  # images without a text, a text without an image
    ],
)
def test_cmpm_equals_plain_loops(image_ids: list[int], text_ids: list[int]) -> None:
    images = torch.randn(len(image_ids), 6, dtype=torch.float64)
    texts = 2 * torch.randn(len(text_ids), 6, dtype=torch.float64)
    loss = cmpm_loss(images, texts, ids(*image_ids), ids(*text_ids))
    assert loss.item() == pytest.approx(looped_cmpm(images, texts, image_ids, text_ids), abs=1e-10)


def test_a_single_matching_pair_costs_nothing() -> None:
    assert cmpm_loss(torch.randn(1, 5), torch.randn(1, 5), ids(3)).item() == pytest.approx(0, abs=1e-6)


def test_a_single_wrong_pair_costs_log_epsilon_in_both_directions() -> None:
    loss = cmpm_loss(torch.randn(1, 5), torch.randn(1, 5), ids(3), ids(4))
    assert loss.item() == pytest.approx(-2 * math.log(EPSILON), rel=1e-6)


@pytest.mark.parametrize("pairs", [2, 7])
def test_zero_embeddings_of_one_person_give_minus_log_b(pairs: int) -> None:
    # p = 1 / B against q = 1 / sqrt(B): log(1 / B) + log(B) / 2 in each direction
    loss = cmpm_loss(torch.zeros(pairs, 4), torch.zeros(pairs, 4), torch.ones(pairs))
    assert loss.item() == pytest.approx(-math.log(pairs), rel=1e-5)


@pytest.mark.parametrize("pairs", [2, 7])
def test_zero_embeddings_of_different_persons_have_a_closed_form(pairs: int) -> None:
    loss = cmpm_loss(torch.zeros(pairs, 4), torch.zeros(pairs, 4), torch.arange(pairs))
    expected = -math.log(pairs) - (pairs - 1) / pairs * math.log(EPSILON)
    assert loss.item() == pytest.approx(2 * expected, rel=1e-5)


def test_long_embeddings_in_their_own_directions_cost_nothing() -> None:
    embeds = 100 * torch.eye(4)
    assert cmpm_loss(embeds, embeds, torch.arange(4)).item() == pytest.approx(0, abs=1e-5)


def test_order_within_a_modality_does_not_matter() -> None:
    images, texts = torch.randn(5, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    image_ids, text_ids = ids(1, 2, 2, 3, 4), ids(2, 1, 3, 3, 2, 4, 4)
    image_order, text_order = torch.randperm(5), torch.randperm(7)
    shuffled = cmpm_loss(images[image_order], texts[text_order], image_ids[image_order], text_ids[text_order])
    torch.testing.assert_close(shuffled, cmpm_loss(images, texts, image_ids, text_ids))


def test_swapping_the_modalities_does_not_matter() -> None:
    images, texts = torch.randn(4, 6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
    image_ids, text_ids = ids(1, 2, 3, 3), ids(1, 1, 2, 3, 3, 2)
    torch.testing.assert_close(
        cmpm_loss(texts, images, text_ids, image_ids), cmpm_loss(images, texts, image_ids, text_ids)
    )


def test_text_ids_default_to_the_image_ids() -> None:
    images, texts = torch.randn(2, 4, 6)
    assert torch.equal(cmpm_loss(images, texts, ids(1, 1, 2, 3)), cmpm_loss(images, texts, *[ids(1, 1, 2, 3)] * 2))


def test_gradients_are_those_of_the_value() -> None:
    images, texts = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda v, t: cmpm_loss(v, t, ids(1, 2, 1)), (images, texts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_give_a_float32_loss(dtype: torch.dtype) -> None:
    images, texts = torch.randn(2, 4, 6).to(dtype)
    loss = cmpm_loss(images, texts, torch.arange(4))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cmpm_loss(images.float(), texts.float(), torch.arange(4)), rtol=0.02, atol=0)


def test_autocast_gives_a_float32_loss() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert cmpm_loss(*torch.randn(2, 4, 6), torch.arange(4)).dtype == torch.float32


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(ValueError, match="got 0 images and 2 texts"):
        cmpm_loss(torch.zeros(0, 4), torch.zeros(2, 4), ids(), ids(1, 2))


def test_ids_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 images and 3 texts came with 2 and 2 person ids.*text_person_ids"):
        cmpm_loss(torch.zeros(2, 4), torch.zeros(3, 4), ids(1, 2))


@pytest.mark.parametrize(
    ("image_ids", "text_ids"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 1], [1, 2, 1]), ([1, 2], [1, 1, 2, 2, 2]), ([1], [2])]
)
def test_itc_is_the_mean_cross_entropy_over_all_texts_of_a_person(image_ids: list[int], text_ids: list[int]) -> None:
    images = torch.randn(len(image_ids), 6, dtype=torch.float64)
    texts = 2 * torch.randn(len(text_ids), 6, dtype=torch.float64)

    def one_direction(rows: torch.Tensor, columns: torch.Tensor, row_ids: list[int], column_ids: list[int]) -> float:
        scores, total = rows @ (columns / columns.norm(dim=-1, keepdim=True)).T, 0.0
        for i, row_id in enumerate(row_ids):
            matches = [j for j, column_id in enumerate(column_ids) if column_id == row_id]
            partition = sum(math.exp(score) for score in scores[i].tolist())
            costs = [math.log(partition) - scores[i, j].item() for j in matches]
            total += sum(costs) / max(len(costs), 1)
        return total / len(row_ids)

    expected = one_direction(images, texts, image_ids, text_ids) + one_direction(texts, images, text_ids, image_ids)
    assert itc_loss(images, texts, ids(*image_ids), ids(*text_ids)).item() == pytest.approx(expected, abs=1e-10)


def test_itc_of_equal_embeddings_is_log_t_plus_log_i() -> None:
    loss = itc_loss(torch.ones(2, 4), torch.ones(5, 4), ids(1, 2), ids(1, 2, 2, 1, 1))
    assert loss.item() == pytest.approx(math.log(5) + math.log(2), rel=1e-5)


def test_itc_refuses_what_cmpm_refuses() -> None:
    with pytest.raises(ValueError, match="got 0 images and 2 texts"):
        itc_loss(torch.zeros(0, 4), torch.zeros(2, 4), ids(), ids(1, 2))


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


@pytest.mark.parametrize(
    ("image_ids", "text_ids"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 1], [1, 2, 1]), ([1, 2], [1, 1, 2, 2, 2]), ([1], [2])]
)
def test_sdm_equals_plain_loops(image_ids: list[int], text_ids: list[int]) -> None:
    images = torch.randn(len(image_ids), 6, dtype=torch.float64)
    texts = 2 * torch.randn(len(text_ids), 6, dtype=torch.float64)

    def one_direction(rows: list, columns: list, row_ids: list[int], column_ids: list[int]) -> float:
        total = 0.0
        for row, row_id in zip(rows, row_ids, strict=True):
            scores = [cosine(row, column) / 0.3 for column in columns]
            partition = sum(math.exp(score) for score in scores)
            for score, column_id in zip(scores, column_ids, strict=True):
                p = math.exp(score) / partition
                q = (row_id == column_id) / max(column_ids.count(row_id), 1)
                total += p * (math.log(p) - math.log(q + EPSILON))
        return total / len(rows)

    v, t = images.tolist(), texts.tolist()
    expected = one_direction(v, t, image_ids, text_ids) + one_direction(t, v, text_ids, image_ids)
    loss = sdm_loss(images, texts, ids(*image_ids), ids(*text_ids), temperature=0.3)
    assert loss.item() == pytest.approx(expected, abs=1e-10)


def test_sdm_of_one_person_with_equal_embeddings_is_zero() -> None:
    # p = q = 1 / B, where CMPM asks for more than there is
    assert sdm_loss(torch.ones(3, 4), torch.ones(3, 4), torch.ones(3)).item() == pytest.approx(0, abs=1e-6)


def test_sdm_does_not_see_the_length_of_embeddings() -> None:
    images, texts = torch.randn(2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(
        sdm_loss(9 * images, texts / 7, torch.arange(4)), sdm_loss(images, texts, torch.arange(4))
    )


def test_sdm_gradients_are_those_of_the_value_also_for_its_temperature() -> None:
    images, texts = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, t, tau: sdm_loss(v, t, ids(1, 2, 1), temperature=tau), (images, texts, temperature)
    )


def tokenwise_loss_of_one_word_and_patch(
    images: torch.Tensor, texts: torch.Tensor, person_ids: torch.Tensor, **options: float
) -> torch.Tensor:
    return tokenwise_loss(images[:, None], texts[:, None], torch.ones(len(texts), 1), person_ids, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [sdm_loss, tokenwise_loss_of_one_word_and_patch])
def test_half_precision_cosines_are_divided_by_the_temperature_in_float32(loss: Callable, dtype: torch.dtype) -> None:
    directions = torch.eye(4, dtype=dtype)  # cosines 1 and 0 are exact in half precision, 1 / 0.3 is not
    value = loss(directions, directions, torch.arange(4), temperature=0.3)
    assert value.dtype == torch.float32
    exact = loss(directions.double(), directions.double(), torch.arange(4), temperature=0.3)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)


def test_temperatures_that_are_not_given_are_those_of_the_docstrings() -> None:
    embeds = torch.tensor([[1.0, 0.0], [0.96, 0.28]], dtype=torch.float64)  # cosines 1 and 0.96
    wrong = 1 / (1 + math.exp(0.04 / 0.02))
    expected = (1 - wrong) * math.log(1 - wrong) + wrong * (math.log(wrong) - math.log(EPSILON))
    assert sdm_loss(embeds, embeds, ids(1, 2)).item() == pytest.approx(2 * expected, abs=1e-6)
    assert "IRRA's is 0.02" in sdm_loss.__doc__
    loss = tokenwise_loss_of_one_word_and_patch(embeds, embeds, ids(1, 2))
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-0.04 / 0.07)), abs=1e-9)


def test_sdm_refuses_what_cmpm_refuses_and_a_temperature_of_zero() -> None:
    with pytest.raises(ValueError, match="got 0 images and 2 texts"):
        sdm_loss(torch.zeros(0, 4), torch.zeros(2, 4), ids(), ids(1, 2))
    with pytest.raises(ValueError, match="temperature is 0"):
        sdm_loss(torch.ones(2, 4), torch.ones(2, 4), ids(1, 2), temperature=0)


TOKEN_MASK = torch.tensor([[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])


def test_tokenwise_scores_equal_plain_loops() -> None:
    images, texts = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(4, 5, 4, dtype=torch.float64)
    for i, row in enumerate(tokenwise_scores(images, texts, TOKEN_MASK).tolist()):
        for j, score in enumerate(row):
            words = [word for word, counts in zip(texts[j].tolist(), TOKEN_MASK[j], strict=True) if counts]
            best = [max(cosine(patch, word) for patch in images[i].tolist()) for word in words]
            assert score == pytest.approx(sum(best) / max(len(best), 1), abs=1e-12)


def test_tokenwise_loss_is_itc_over_its_scores() -> None:
    images, texts = torch.randn(3, 6, 4, dtype=torch.float64), torch.randn(4, 5, 4, dtype=torch.float64)
    image_ids, text_ids = [1, 2, 1], [1, 2, 2, 1]
    scores = (tokenwise_scores(images, texts, TOKEN_MASK) / 0.2).tolist()

    def one_direction(scores: list, row_ids: list[int], column_ids: list[int]) -> float:
        total = 0.0
        for row, row_id in zip(scores, row_ids, strict=True):
            matches = [score for score, column_id in zip(row, column_ids, strict=True) if column_id == row_id]
            total += math.log(sum(map(math.exp, row))) - sum(matches) / len(matches)
        return total / len(scores)

    columns = [list(column) for column in zip(*scores, strict=True)]
    expected = one_direction(scores, image_ids, text_ids) + one_direction(columns, text_ids, image_ids)
    loss = tokenwise_loss(images, texts, TOKEN_MASK, ids(*image_ids), ids(*text_ids), temperature=0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-10)


def test_tokenwise_loss_of_equal_states_is_log_t_plus_log_i() -> None:
    loss = tokenwise_loss(torch.ones(2, 3, 4), torch.ones(5, 2, 4), torch.ones(5, 2), ids(1, 2), ids(1, 2, 2, 1, 1))
    assert loss.item() == pytest.approx(math.log(5) + math.log(2), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_one_patch_that_answers_its_word_has_a_closed_form(temperature: float) -> None:
    # image i has the patch e_i among others that no word speaks of; text j is the word e_j: cosines 1 and 0
    pairs, directions = 4, torch.eye(6, dtype=torch.float64)
    patches, words = directions[5].repeat(pairs, 3, 1), directions[:pairs, None]
    patches[torch.arange(pairs), torch.arange(pairs) % 3] = 7 * directions[:pairs]
    loss = tokenwise_loss(patches, words, torch.ones(pairs, 1), torch.arange(pairs), temperature=temperature)
    assert loss.item() == pytest.approx(2 * math.log(1 + (pairs - 1) * math.exp(-1 / temperature)), rel=1e-4)


def test_tokenwise_gradients_are_those_of_the_value_and_leave_hidden_tokens_alone() -> None:
    images, texts = (torch.randn(3, n, 4, dtype=torch.float64, requires_grad=True) for n in (4, 5))
    mask = TOKEN_MASK[:3]
    assert torch.autograd.gradcheck(lambda v, t: tokenwise_loss(v, t, mask, ids(1, 2, 1)), (images, texts))
    tokenwise_loss(images, texts, mask, ids(1, 2, 1)).backward()
    assert torch.equal(texts.grad.abs().sum(dim=-1) > 0, mask > 0)


def test_tokenwise_loss_of_half_precision_states_is_float32() -> None:
    states = torch.randn(2, 4, 3, 8).bfloat16()
    loss = tokenwise_loss(*states, torch.ones(4, 3), torch.arange(4))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, tokenwise_loss(*states.float(), torch.ones(4, 3), torch.arange(4)), rtol=0.05, atol=0
    )


@pytest.mark.parametrize(
    ("patches", "tokens", "mask", "message"),
    [
        ((2, 0, 4), (2, 3, 4), (2, 3), "at least one patch"),
        ((2, 4), (2, 3, 4), (2, 3), "without .CLS."),
        ((2, 5, 4), (2, 3, 8), (2, 3), r"\(2, 5, 4\), token states \(2, 3, 8\)"),
        ((2, 5, 4), (2, 3, 4), (2, 9), r"token mask \(2, 9\).*those that are kept"),
        ((0, 5, 4), (2, 3, 4), (2, 3), "got 0 images and 2 texts"),
    ],
)
def test_states_that_do_not_fit_are_an_error(patches: tuple, tokens: tuple, mask: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenwise_loss(torch.ones(patches), torch.ones(tokens), torch.ones(mask), ids(*range(patches[0])), ids(1, 2))


def test_a_temperature_of_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        tokenwise_loss(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.ones(2, 3), ids(1, 2), temperature=0)
