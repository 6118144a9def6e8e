"""Laws of the network, on a tiny random one.

Letters: B batch, N image tokens, L text tokens, S tokens of either, K tokens kept, D width, H heads.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import modeling_ivt.modeling_ivt
from modeling_ivt import IVTConfig, IVTModel, cmpm_loss
from modeling_ivt.modeling_ivt import draw_branch_scales, sample_keep_positions

Batch = dict[str, torch.Tensor]
ROWS, COLUMNS, PATCH, STRIDE = 7, 3, 8, 6  # of `tiny_config`


def texts_of(batch: Batch) -> Batch:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


# Image embeddings


@pytest.mark.parametrize(
    ("row", "column", "num_tokens"),
    [(0, 0, 1), (19, 7, 4), (20, 6, 2), (43, 19, 1), (47, 23, 0)],  # 47, 23: beyond the last whole patch
)
@torch.no_grad()
def test_a_pixel_reaches_the_tokens_whose_patches_hold_it(
    tiny_model: IVTModel, row: int, column: int, num_tokens: int
) -> None:
    image = torch.zeros(1, 3, 48, 24)
    dark = tiny_model.image_embeddings(image)
    image[..., row, column] = 1.0
    changed = (tiny_model.image_embeddings(image) != dark).any(dim=-1)[0].nonzero().flatten().tolist()
    holding = [
        1 + r * COLUMNS + c
        for r in range(ROWS)
        for c in range(COLUMNS)
        if r * STRIDE <= row < r * STRIDE + PATCH and c * STRIDE <= column < c * STRIDE + PATCH
    ]
    assert changed == holding and len(holding) == num_tokens


@torch.no_grad()
def test_position_and_type_embeddings_are_added_to_every_image_token(tiny_model: IVTModel) -> None:
    embeddings = tiny_model.image_embeddings
    image = torch.randn(2, 3, 48, 24)
    tokens = embeddings(image)
    weight = embeddings.patch_embeddings.weight.flatten(1)  # (D, 3 * PATCH * PATCH)
    row, column = 5, 1
    patch = image[..., row * STRIDE : row * STRIDE + PATCH, column * STRIDE : column * STRIDE + PATCH].flatten(1)
    added = (embeddings.position_embeddings + embeddings.type_embeddings)[0]
    place = 1 + row * COLUMNS + column
    expected = patch @ weight.T + embeddings.patch_embeddings.bias + added[place]
    torch.testing.assert_close(tokens[:, place], expected)
    torch.testing.assert_close(tokens[:, 0], (embeddings.cls_token[0, 0] + added[0]).expand(2, -1))


def test_images_of_another_size_are_an_error(tiny_model: IVTModel) -> None:
    with pytest.raises(ValueError, match="24 x 48 pixels .* made for 48 x 24.*interpolate_pos_encoding=True"):
        tiny_model.get_image_features(torch.zeros(1, 3, 24, 48))


def test_images_smaller_than_a_patch_are_an_error(tiny_model: IVTModel) -> None:
    with pytest.raises(ValueError, match="7 x 24 pixels .* smaller than one patch"):
        tiny_model.get_image_features(torch.zeros(1, 3, 7, 24), interpolate_pos_encoding=True)


@torch.no_grad()
def test_interpolation_leaves_images_of_the_right_size_alone(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    images = tiny_batch["pixel_values"]
    stretched = tiny_model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    assert torch.equal(stretched, tiny_model.get_image_features(images).pooler_output)


@torch.no_grad()
def test_interpolation_stretches_the_position_grid_linearly(tiny_model: IVTModel) -> None:
    # Embeddings that grow by 1 per row and by 10 per column; an image of zeros and no bias shows just them.
    embeddings = tiny_model.image_embeddings
    embeddings.patch_embeddings.bias.zero_()
    embeddings.type_embeddings.zero_()
    ramp = torch.arange(ROWS).view(-1, 1) + 10.0 * torch.arange(COLUMNS)
    embeddings.position_embeddings[0, 1:] = ramp.flatten()[:, None]
    rows, columns = 10, 5
    image = torch.zeros(1, 3, (rows - 1) * STRIDE + PATCH, (columns - 1) * STRIDE + PATCH)
    found = embeddings(image, interpolate_pos_encoding=True)[0, 1:, 0].view(rows, columns)

    def centre(i: int, old: int, new: int) -> float:
        """Place of the new grid's cell i in the old grid, held at its borders."""
        return min(max((i + 0.5) * old / new - 0.5, 0), old - 1)

    expected = [
        [centre(r, ROWS, rows) + 10 * centre(c, COLUMNS, columns) for c in range(columns)] for r in range(rows)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))
    cls = embeddings(image, interpolate_pos_encoding=True)[0, 0]
    torch.testing.assert_close(cls, (embeddings.cls_token + embeddings.position_embeddings[:, :1])[0, 0])


# Text


@torch.no_grad()
def test_padding_does_not_change_text_embeds(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    padded = tiny_model.get_text_features(**texts_of(tiny_batch)).pooler_output
    alone = tiny_model.get_text_features(tiny_batch["input_ids"][1:2, :5]).pooler_output
    torch.testing.assert_close(padded[1:2], alone)
    other_padding = tiny_batch["input_ids"].clone()
    other_padding[1, 5:] = 49
    again = tiny_model.get_text_features(other_padding, tiny_batch["attention_mask"]).pooler_output
    torch.testing.assert_close(again, padded)


@torch.no_grad()
def test_word_order_and_token_types_matter(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    ids = tiny_batch["input_ids"][:1]
    embeds = tiny_model.get_text_features(ids).pooler_output
    turned = torch.cat([ids[:, :1], ids[:, 1:].flip(1)], dim=1)
    assert not torch.allclose(tiny_model.get_text_features(turned).pooler_output, embeds)
    zeros, ones = torch.zeros_like(ids), torch.ones_like(ids)
    assert torch.equal(tiny_model.get_text_features(ids, token_type_ids=zeros).pooler_output, embeds)
    assert not torch.allclose(tiny_model.get_text_features(ids, token_type_ids=ones).pooler_output, embeds)


def test_too_long_texts_are_an_error(tiny_model: IVTModel) -> None:
    tiny_model.get_text_features(torch.ones(1, 16, dtype=torch.long))
    with pytest.raises(ValueError, match="text has 17 tokens, the model holds 16; pass truncation=True"):
        tiny_model.get_text_features(torch.ones(1, 17, dtype=torch.long))


# Blocks


@torch.no_grad()
def test_modalities_share_all_but_the_feed_forward(tiny_model: IVTModel) -> None:
    block, tokens = tiny_model.layers[0], torch.randn(2, 5, 32)
    image, text = (block(tokens, None, modality) for modality in ("image", "text"))
    assert not torch.allclose(image, text)
    block.feed_forward["text"].load_state_dict(block.feed_forward["image"].state_dict())
    assert torch.equal(block(tokens, None, "text"), image)


@torch.no_grad()
def test_a_block_is_the_paper_s_formula(tiny_model: IVTModel) -> None:
    block, tokens = tiny_model.layers[0], torch.randn(2, 5, 32)
    attention = nn.MultiheadAttention(32, 4, batch_first=True)  # written by others
    attention.in_proj_weight.copy_(block.attention.qkv.weight)
    attention.in_proj_bias.copy_(block.attention.qkv.bias)
    attention.out_proj.load_state_dict(block.attention.proj.state_dict())
    normed = block.layernorm_before(tokens)
    middle = attention(normed, normed, normed)[0] + tokens
    forward = block.feed_forward["image"]
    expected = forward.fc2(nn.functional.gelu(forward.fc1(block.layernorm_after(middle)))) + middle
    torch.testing.assert_close(block(tokens, None, "image"), expected)


@torch.no_grad()
def test_shared_attention_off_gives_each_modality_its_own(tiny_config, tiny_batch):
    shared = IVTModel(tiny_config).eval()
    apart = IVTModel(IVTConfig(**{**tiny_config.to_dict(), "shared_attention": False})).eval()
    # the same weights for both modalities: nothing changes
    state = {
        name: shared.state_dict()[re.sub(r"(attention|layernorm\w*)\.(image|text)\.", r"\1.", name)]
        for name in apart.state_dict()
    }
    apart.load_state_dict(state)
    expected = shared(**tiny_batch)
    torch.testing.assert_close(apart(**tiny_batch).logits_per_image, expected.logits_per_image)
    # other weights for the text: images stay what they were
    torch.nn.init.normal_(apart.layers[0].attention["text"].proj.weight)
    torch.testing.assert_close(apart(**tiny_batch).image_embeds, expected.image_embeds)
    assert not torch.allclose(apart(**tiny_batch).text_embeds, expected.text_embeds)


def test_sdpa_and_eager_attention_agree(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    outputs = []
    for implementation in ("sdpa", "eager"):
        tiny_model.set_attn_implementation(implementation)
        outputs.append(tiny_model(**tiny_batch))
    torch.testing.assert_close(outputs[0].image_embeds, outputs[1].image_embeds)
    torch.testing.assert_close(outputs[0].text_embeds, outputs[1].text_embeds)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_cls_only_gives_the_same_embeddings(tiny_model: IVTModel, tiny_batch: Batch, implementation: str) -> None:
    tiny_model.set_attn_implementation(implementation)
    whole, cls_only = tiny_model(**tiny_batch), tiny_model(**tiny_batch, cls_only=True)
    torch.testing.assert_close(cls_only.image_embeds, whole.image_embeds)
    torch.testing.assert_close(cls_only.text_embeds, whole.text_embeds)
    assert cls_only.image_model_output.last_hidden_state.shape == (3, 1, 32)
    assert cls_only.text_model_output.last_hidden_state.shape == (3, 1, 32)


def gradients(model: IVTModel, batch: Batch, **options: bool) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch, return_loss=True, **options).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_cls_only_gives_the_same_gradients(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    whole = gradients(tiny_model, tiny_batch)
    torch.testing.assert_close(gradients(tiny_model, tiny_batch, cls_only=True), whole, rtol=1e-3, atol=1e-4)
    assert whole.keys() == dict(tiny_model.named_parameters()).keys()  # the loss reaches every parameter


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(
    tiny_config: IVTConfig, tiny_batch: Batch, use_reentrant: bool
) -> None:
    tiny_config.hidden_dropout_prob = tiny_config.drop_path_rate = tiny_config.bmm_ratio = 0.3
    model = IVTModel(tiny_config).train()
    torch.manual_seed(1)
    plain = gradients(model, tiny_batch)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert all(layer.gradient_checkpointing for layer in model.layers)
    torch.manual_seed(1)
    torch.testing.assert_close(gradients(model, tiny_batch), plain)


# Dropout


@torch.no_grad()
def test_text_embeddings_are_dropped_at_their_rate_in_training_only(tiny_config: IVTConfig) -> None:
    tiny_config.hidden_dropout_prob = 0.25
    embeddings = IVTModel(tiny_config).eval().text_embeddings
    ids = torch.randint(5, 50, (100, 16))
    whole = embeddings(ids)
    dropped = embeddings.train()(ids)
    kept = dropped != 0
    assert (~kept).float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)  # so that the mean stays what it was
    assert (whole != 0).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_attention_is_dropped_at_its_rate_in_training_only(tiny_config: IVTConfig, implementation: str) -> None:
    tiny_config.attention_dropout = 0.25
    model = IVTModel(tiny_config).eval()
    model.set_attn_implementation(implementation)
    attention, width = model.layers[0].attention, tiny_config.hidden_size
    for parameter in attention.parameters():
        parameter.zero_()  # equal scores: each of 8 tokens gets 1 / 8 of the attention
    attention.qkv.weight[2 * width :] = attention.proj.weight[:] = torch.eye(width)
    # token s says s in each of the 4 heads of width 8: what comes out are the weights themselves
    tokens = torch.eye(8).repeat(200, 1, 4)  # (B, S, D)
    assert (attention(tokens, None, 8)[0] == 1 / 8).all()
    dropped = attention.train()(tokens, None, 8)[0]
    kept = dropped != 0
    assert (~kept).float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / 8 / 0.75))


# Stochastic depth


def test_stochastic_depth_grows_linearly_with_depth(
    tiny_config: IVTConfig, tiny_batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.num_hidden_layers, tiny_config.drop_path_rate = 5, 0.4
    model, rates = IVTModel(tiny_config), []

    def draw(rate: float, *more: Any) -> torch.Tensor:
        rates.append(rate)
        return draw_branch_scales(rate, *more)

    monkeypatch.setattr(modeling_ivt.modeling_ivt, "draw_branch_scales", draw)
    for training in (True, False):
        model.train(training).get_image_features(tiny_batch["pixel_values"])
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    scales = draw_branch_scales(0.25, 20_000, torch.device("cpu"))
    assert scales.shape == (2, 20_000, 1, 1)
    torch.testing.assert_close(scales.unique(), torch.tensor([0, 4 / 3]))
    assert scales.mean(dim=1).flatten().tolist() == pytest.approx([1, 1], abs=0.02)
    assert not torch.equal(*scales)
    assert torch.equal(draw_branch_scales(0.0, 3, torch.device("cpu")), torch.ones(2, 3, 1, 1))


def test_a_sample_whose_branches_are_dropped_keeps_its_tokens(tiny_model: IVTModel) -> None:
    block, tokens = tiny_model.layers[0], torch.randn(2, 5, 32)
    whole = block(tokens, None, "image")
    part = block(tokens, None, "image", False, torch.tensor([[0.0, 1], [0, 1]])[..., None, None])
    assert torch.equal(part[0], tokens[0])
    torch.testing.assert_close(part[1], whole[1])


# Hiding tokens


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize(("num_tokens", "ratio", "most"), [(22, 0.2, 4), (9, 0.5, 4), (2, 0.9, 1), (1, 0.5, 0)])
def test_hiding_spares_cls_and_takes_any_number_up_to_the_ratio(
    num_tokens: int, ratio: float, most: int, batch_size: int | None
) -> None:
    hidden_counts = set()
    for _ in range(60):
        keep = sample_keep_positions(num_tokens, ratio, batch_size)
        assert keep.shape[:-1] == (() if batch_size is None else (batch_size,))
        assert (keep[..., 0] == 0).all()
        assert (keep.diff(dim=-1) > 0).all() and keep.max() < num_tokens
        hidden_counts.add(num_tokens - keep.shape[-1])
    assert hidden_counts == set(range(most + 1))


def test_every_token_but_cls_is_hidden_equally_often() -> None:
    counts = sum(sample_keep_positions(10, 0.5, 16).flatten().bincount(minlength=10) for _ in range(200))
    assert counts[0] == 200 * 16
    # 0 … 5 of 9 tokens are hidden, 2.5 on average
    assert counts[1:].tolist() == pytest.approx([200 * 16 * (1 - 2.5 / 9)] * 9, rel=0.1)


def test_hidden_positions_differ_between_samples_only_if_asked() -> None:
    per_sample = next(keep for keep in (sample_keep_positions(22, 0.5, 8) for _ in range(50)) if keep.shape[1] < 20)
    assert len({tuple(row) for row in per_sample.tolist()}) > 1
    assert sample_keep_positions(22, 0.5).ndim == 1


@pytest.mark.parametrize("per_sample", [False, True])
def test_tokens_are_hidden_only_in_training(tiny_config: IVTConfig, tiny_batch: Batch, per_sample: bool) -> None:
    tiny_config.bmm_ratio, tiny_config.bmm_per_sample = 0.9, per_sample
    model = IVTModel(tiny_config)

    def lengths() -> set[tuple[int, int]]:
        outputs = [model(**tiny_batch) for _ in range(8)]
        sizes = [(o.image_model_output, o.text_model_output) for o in outputs]
        return {(i.last_hidden_state.shape[1], t.last_hidden_state.shape[1]) for i, t in sizes}

    assert lengths() != {(22, 9)}
    model.eval()
    assert lengths() == {(22, 9)}
    tiny_config.bmm_ratio = 0.0
    model.train()
    assert lengths() == {(22, 9)}


@pytest.mark.parametrize("per_sample", [False, True])
@torch.no_grad()
def test_a_batch_shares_its_hidden_positions_unless_asked(tiny_config: IVTConfig, per_sample: bool) -> None:
    tiny_config.bmm_ratio, tiny_config.bmm_per_sample = 0.9, per_sample
    model = IVTModel(tiny_config).train()
    image, text = torch.randn(1, 3, 48, 24), torch.arange(5, 14)[None]
    outputs = [model(pixel_values=image.expand(6, -1, -1, -1), input_ids=text.expand(6, -1)) for _ in range(5)]
    for name in ("image_embeds", "text_embeds"):
        alike = all(torch.allclose(output[name], output[name][:1], atol=1e-5) for output in outputs)
        assert alike is not per_sample


@torch.no_grad()
def test_kept_positions_per_sample_equal_one_sample_at_a_time(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    image_keep = torch.tensor([[0, 1, 5, 21], [0, 2, 3, 4], [0, 9, 10, 20]])
    text_keep = torch.tensor([[0, 1, 2, 8], [0, 2, 4, 7], [0, 3, 4, 5]])  # 7 is padding in the second caption
    images = tiny_model.get_image_features(tiny_batch["pixel_values"], keep_positions=image_keep)
    texts = tiny_model.get_text_features(**texts_of(tiny_batch), keep_positions=text_keep)
    for i in range(3):
        one = {name: tensor[i : i + 1] for name, tensor in tiny_batch.items()}
        image = tiny_model.get_image_features(one["pixel_values"], keep_positions=image_keep[i])
        text = tiny_model.get_text_features(**texts_of(one), keep_positions=text_keep[i])
        torch.testing.assert_close(images.last_hidden_state[i : i + 1], image.last_hidden_state)
        torch.testing.assert_close(texts.pooler_output[i : i + 1], text.pooler_output)


@torch.no_grad()
def test_hidden_tokens_leave_no_trace(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    keep = torch.tensor([0, 1, 4, 6])
    images, texts = tiny_batch["pixel_values"].clone(), tiny_batch["input_ids"].clone()
    seen_image = tiny_model.get_image_features(images, keep_positions=keep).pooler_output
    seen_text = tiny_model.get_text_features(texts, keep_positions=keep).pooler_output
    images[:, :, 41:] = 9.0  # these rows of pixels belong to the last row of patches only
    texts[:, 7:] = 49
    torch.testing.assert_close(tiny_model.get_image_features(images, keep_positions=keep).pooler_output, seen_image)
    torch.testing.assert_close(tiny_model.get_text_features(texts, keep_positions=keep).pooler_output, seen_text)
    assert not torch.allclose(tiny_model.get_image_features(images).pooler_output, seen_image)
    assert not torch.allclose(tiny_model.get_text_features(texts).pooler_output, seen_text)


# What comes out


@torch.no_grad()
def test_one_modality_alone_gives_what_both_together_give(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    both = tiny_model(**tiny_batch)
    images = tiny_model(pixel_values=tiny_batch["pixel_values"])
    texts = tiny_model(**texts_of(tiny_batch))
    assert torch.equal(images.image_embeds, both.image_embeds) and torch.equal(texts.text_embeds, both.text_embeds)
    assert set(images) == {"image_embeds", "image_model_output"} and set(texts) == {"text_embeds", "text_model_output"}


@torch.no_grad()
def test_logits_are_scaled_cosines(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    tiny_model.config.logit_scale = 5
    two_texts = {name: tensor[:2] for name, tensor in texts_of(tiny_batch).items()}
    output = tiny_model(pixel_values=tiny_batch["pixel_values"], **two_texts)
    cosines = torch.cosine_similarity(output.image_embeds[:, None], output.text_embeds[None], dim=-1)
    torch.testing.assert_close(output.logits_per_image, 5 * cosines)
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)
    assert output.logits_per_image.shape == (3, 2)


def test_the_loss_is_cmpm_of_the_embeddings(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    output = tiny_model(**tiny_batch, return_loss=True)
    assert torch.equal(output.loss, cmpm_loss(output.image_embeds, output.text_embeds, tiny_batch["person_ids"]))
    two_images = tiny_batch | {"pixel_values": tiny_batch["pixel_values"][:2], "person_ids": torch.tensor([7, 3])}
    output = tiny_model(**two_images, text_person_ids=tiny_batch["person_ids"], return_loss=True)
    expected = cmpm_loss(output.image_embeds, output.text_embeds, torch.tensor([7, 3]), tiny_batch["person_ids"])
    assert torch.equal(output.loss, expected)
    assert tiny_model(**tiny_batch).loss is None


def test_a_loss_needs_both_modalities_and_ids(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    without_ids = {name: tensor for name, tensor in tiny_batch.items() if name != "person_ids"}
    without_images = {name: tensor for name, tensor in tiny_batch.items() if name != "pixel_values"}
    for batch in (without_ids, without_images):
        with pytest.raises(ValueError, match="return_loss=True needs pixel_values, input_ids and person_ids"):
            tiny_model(**batch, return_loss=True)


def test_nothing_to_embed_is_an_error(tiny_model: IVTModel) -> None:
    with pytest.raises(ValueError, match="nothing to embed"):
        tiny_model(person_ids=torch.tensor([1]))


def test_an_empty_batch_is_an_error(tiny_model: IVTModel) -> None:
    with pytest.raises(ValueError, match="the batch has no images"):
        tiny_model(pixel_values=torch.zeros(0, 3, 48, 24))
    with pytest.raises(ValueError, match="the batch has no texts"):
        tiny_model(input_ids=torch.zeros(0, 9, dtype=torch.long))


@torch.no_grad()
def test_hidden_states_and_attentions_are_recorded_per_modality(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    tiny_model.set_attn_implementation("eager")
    output = tiny_model(**tiny_batch, output_hidden_states=True, output_attentions=True)
    images, texts = output.image_model_output, output.text_model_output
    assert [h.shape for h in images.hidden_states] == [(3, 22, 32)] * 3  # before, between and after the two blocks
    assert [h.shape for h in texts.hidden_states] == [(3, 9, 32)] * 3
    assert [a.shape for a in images.attentions] == [(3, 4, 22, 22)] * 2  # (B, H, N, N)
    assert [a.shape for a in texts.attentions] == [(3, 4, 9, 9)] * 2
    assert torch.equal(images.hidden_states[0], tiny_model.image_embeddings(tiny_batch["pixel_values"]))
    assert torch.equal(tiny_model.layernorm(texts.hidden_states[-1]), texts.last_hidden_state)
    for attention in (*images.attentions, *texts.attentions):
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
    assert all((attention[1, :, :, 5:] == 0).all() for attention in texts.attentions)  # padding is not looked at


@torch.no_grad()
def test_sdpa_gives_the_attentions_of_eager(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    outputs = {}
    for implementation in ("eager", "sdpa"):
        tiny_model.set_attn_implementation(implementation)
        outputs[implementation] = tiny_model(**tiny_batch, output_attentions=True)
    for modality in ("image_model_output", "text_model_output"):
        torch.testing.assert_close(outputs["sdpa"][modality].attentions, outputs["eager"][modality].attentions)


def test_attentions_of_an_implementation_without_them_are_an_error(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    tiny_model.config._attn_implementation_internal = "flash_attention_2"  # cannot be set where it is not installed
    with pytest.raises(ValueError, match=r"'flash_attention_2'; call model.set_attn_implementation\('sdpa'\)"):
        tiny_model.get_image_features(tiny_batch["pixel_values"], output_attentions=True)


@pytest.mark.parametrize("by_config", [False, True])
def test_tuples_start_with_the_loss(tiny_model: IVTModel, tiny_batch: Batch, by_config: bool) -> None:
    named = tiny_model(**tiny_batch, return_loss=True)
    if by_config:
        tiny_model.config.return_dict = False
    values = tiny_model(**tiny_batch, return_loss=True, **({} if by_config else {"return_dict": False}))
    assert isinstance(values, tuple) and len(values) == 7
    for value, name in zip(values, ("loss", "logits_per_image", "logits_per_text", "image_embeds"), strict=False):
        assert torch.equal(value, named[name])


# Precision, saving, loading


@torch.no_grad()
def test_bfloat16_stays_close(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    exact = tiny_model(**tiny_batch)
    output = tiny_model.bfloat16()(**tiny_batch, return_loss=True)
    assert output.image_embeds.dtype == torch.bfloat16 and output.loss.isfinite()
    for name in ("image_embeds", "text_embeds"):
        assert torch.cosine_similarity(output[name].float(), exact[name]).min() > 0.99


@torch.no_grad()
def test_a_saved_model_is_the_same_model(tiny_model: IVTModel, tiny_batch: Batch, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    loaded, info = IVTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    output, expected = loaded(**tiny_batch), tiny_model(**tiny_batch)
    assert torch.equal(output.logits_per_image, expected.logits_per_image)
    assert torch.equal(output.image_embeds, expected.image_embeds)


def test_parameters_missing_in_the_file_are_drawn_afresh(tiny_model: IVTModel, tmp_path: Path) -> None:
    # loading goes through the meta device: what nobody initialises would be garbage
    tiny_model.save_pretrained(tmp_path, state_dict={"layernorm.weight": torch.full((32,), 3.0)})
    loaded, info = IVTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert len(info["missing_keys"]) == len(tiny_model.state_dict()) - 1
    for (name, parameter), drawn in zip(loaded.named_parameters(), tiny_model.parameters(), strict=True):
        assert parameter.device.type == "cpu" and parameter.isfinite().all(), name
        if name == "layernorm.weight":
            assert (parameter == 3).all()
        elif name.endswith("bias") or "layernorm" in name:
            assert torch.equal(parameter, drawn), name  # 0 and 1
        else:
            assert parameter.std().item() == pytest.approx(0.2, rel=0.35), name


def test_only_weights_are_in_the_state(tiny_config: IVTConfig) -> None:
    with torch.device("meta"):
        model = IVTModel(tiny_config)
    assert not list(model.buffers())
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.get_input_embeddings() is model.text_embeddings.word_embeddings
