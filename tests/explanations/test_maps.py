"""Maps on the patch grid against naive loops over the model's own weights.

The tiny model looks at 48 x 24 pixels in 7 rows x 3 columns of overlapping patches; 8 pixels, stride 6.
"""

import math

import pytest
import torch
from torch.nn.functional import normalize

from ivt.choices import METHODS
from ivt.explanations.attention import UNITS
from ivt.explanations.maps import (
    ANY_ENCODER_METHODS,
    PATCH_MAPS,
    TEXT_FREE_METHODS,
    TOKEN_TEMPERATURE,
    WORD_TEMPERATURE,
    patch_maps,
    recording,
)
from ivt.explanations.texts import Texts, encode_texts
from modeling_ivt import IVTModel, modeling_ivt
from processing import IVTProcessor

ROWS, COLUMNS = 7, 3


def recorded(model: IVTModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    model.set_attn_implementation("eager")
    return model.get_image_features(pixel_values, output_attentions=True).attentions


def cosines(model: IVTModel, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
    embeds = model.get_image_features(pixel_values).pooler_output
    return (normalize(embeds, dim=-1)[:, None] * texts.embeds).sum(dim=-1)  # (B, Q)


@pytest.mark.parametrize("method", PATCH_MAPS)
def test_maps_have_the_patch_grid_and_are_nowhere_negative(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts, method: str
) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, method)
    assert maps.shape == (2, 2, ROWS, COLUMNS)
    assert maps.min() >= 0 and maps.max() > 0 and not maps.requires_grad
    same = torch.equal(maps[:, 0], maps[:, 1])
    assert same == (method in TEXT_FREE_METHODS)


def test_every_method_is_one_of_patches_or_serves_any_encoder() -> None:
    assert sorted(METHODS) == sorted([*PATCH_MAPS, *ANY_ENCODER_METHODS]) == sorted(UNITS)


def test_a_map_is_that_of_its_own_picture_and_text(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts):
    for method in PATCH_MAPS:
        maps = patch_maps(tiny_model, pixel_values, texts, method)
        alone = Texts(*(field[1:, 1:] for field in (texts.embeds, texts.word_states, texts.word_mask)))
        torch.testing.assert_close(patch_maps(tiny_model, pixel_values[1:], alone, method), maps[1:, 1:])


def test_cls_is_the_mean_over_heads_of_the_recorded_weights(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts
) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, "cls")
    weights = recorded(tiny_model, pixel_values)[-1]  # (B, H, N, N)
    for row in range(ROWS):
        for column in range(COLUMNS):
            expected = sum(weights[:, head, 0, 1 + row * COLUMNS + column] for head in range(4)) / 4
            torch.testing.assert_close(maps[:, 0, row, column], expected)


def test_gradient_is_what_the_cosine_gains_by_scaling_a_weight(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pixel_values = tiny_model.double(), pixel_values[:1].double()
    texts = Texts(texts.embeds[:1].double(), texts.word_states, texts.word_mask)
    maps = patch_maps(model, pixel_values, texts, "gradient")
    model.set_attn_implementation("eager")
    plain = modeling_ivt.eager_attention_forward
    calls = iter(())

    def scaled(module, query, key, value, mask, **kwargs):
        """The plain attention; at one block, head and patch [CLS]'s weight is `factor` times as large."""
        context, weights = plain(module, query, key, value, mask, **kwargs)
        if next(calls) == block:
            changed = weights.clone()
            changed[:, head, 0, 1 + patch] *= factor
            context = (changed @ value).transpose(1, 2)
        return context, weights

    monkeypatch.setattr(modeling_ivt, "eager_attention_forward", scaled)
    patch, step = 11, 3e-3
    gains = torch.zeros(2, 4, 2, dtype=torch.double)  # block, head, text
    for block in range(2):
        for head in range(4):
            for sign in (1, -1):
                factor, calls = 1 + sign * step, iter(range(2))
                gains[block, head] += sign * cosines(model, pixel_values, texts)[0].detach() / (2 * step)
    expected = gains.clamp(min=0).sum(dim=1)  # (blocks, Q)
    torch.testing.assert_close(maps[0].flatten(1)[:, patch], expected.sum(dim=0), rtol=1e-3, atol=1e-8)
    assert (expected > 0).any()


def test_tokenwise_is_a_mean_over_words_that_stand_out_of_a_softmax_over_patches(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor, texts: Texts
) -> None:
    maps = patch_maps(tiny_model, pixel_values, texts, "tokenwise")
    patches = tiny_model.get_image_features(pixel_values).last_hidden_state[0, 1:]
    tokens = processor(text="a red backpack", return_tensors="pt")["input_ids"]  # [CLS] a red back ##pack [SEP]
    words = tiny_model.get_text_features(tokens).last_hidden_state[0, 1:-1]
    assert len(words) == 4
    total, weights = torch.zeros(ROWS * COLUMNS), 0.0
    for word in words:
        similar = torch.cosine_similarity(patches, word[None])
        powers = torch.exp(similar / TOKEN_TEMPERATURE)
        weight = math.exp((similar.max().item() - similar.mean().item()) / WORD_TEMPERATURE)
        total, weights = total + weight * powers / powers.sum(), weights + weight
    torch.testing.assert_close(maps[0, 0].flatten(), total / weights, rtol=1e-4, atol=1e-7)


def test_unknown_words_have_a_map_too(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    texts = encode_texts(tiny_model, processor, [["xyz"], ["hat"]])
    assert patch_maps(tiny_model, pixel_values, texts, "tokenwise").isfinite().all()


def test_joint_is_the_weighted_geometric_mean_of_both_shares(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts
) -> None:
    gradient, tokenwise, joint = (
        patch_maps(tiny_model, pixel_values, texts, method) for method in ("gradient", "tokenwise", "joint")
    )
    shares = gradient / gradient.sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(joint.log(), 0.4 * shares.log() + 0.6 * tokenwise.log())
    torch.testing.assert_close(tokenwise.sum(dim=(2, 3)), torch.ones(2, 2))


def test_model_is_afterwards_as_before(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts) -> None:
    tiny_model.set_attn_implementation("sdpa")
    tiny_model.train()
    tiny_model.layers[0].eval()
    patch_maps(tiny_model, pixel_values, texts, "gradient")
    with pytest.raises(RuntimeError, match="on the way"), recording(tiny_model):
        assert tiny_model.config._attn_implementation == "eager" and not tiny_model.training
        raise RuntimeError("on the way")
    assert tiny_model.config._attn_implementation == "sdpa"
    assert tiny_model.training and tiny_model.layers[1].training and not tiny_model.layers[0].training
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_gradient_maps_need_no_gradients_of_the_caller(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts
) -> None:
    expected = patch_maps(tiny_model, pixel_values, texts, "gradient")
    tiny_model.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(patch_maps(tiny_model, pixel_values, texts, "gradient"), expected)
    assert not pixel_values.requires_grad


@pytest.mark.parametrize("texts", [[], [[]], [["a"], ["a", "hat"]]])
def test_every_picture_needs_as_many_texts(tiny_model: IVTModel, processor: IVTProcessor, texts: list) -> None:
    with pytest.raises(ValueError, match="expected equally many"):
        encode_texts(tiny_model, processor, texts)


def test_gradient_maps_keep_the_graph_for_the_texts_to_come_alone(
    tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a block remembers of a picture is freed while the gradient of the last text passes it."""
    kept, grad = [], torch.autograd.grad

    def recording_grad(*arguments: object, retain_graph: bool) -> object:
        kept.append(retain_graph)
        return grad(*arguments, retain_graph=retain_graph)

    monkeypatch.setattr(torch.autograd, "grad", recording_grad)
    patch_maps(tiny_model, pixel_values, texts, "gradient")
    assert kept == [True, False]
