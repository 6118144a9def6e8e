"""What transformers asks of every model, as laws of the tiny one; `docs/common_tests.md` tells which tests apply.

Letters: B batch, L text tokens, D width.
"""

import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from modeling_ivt import IVTConfig, IVTModel
from modeling_ivt.modeling_ivt import resize_grid

Batch = dict[str, torch.Tensor]
EMBEDS = ("image_embeds", "text_embeds")


def assert_same_embeds(model: IVTModel, other: IVTModel, batch: Batch) -> None:
    output, expected = model(**batch), other(**batch)
    for name in EMBEDS:
        assert torch.equal(output[name], expected[name]), name


# Outputs


@torch.no_grad()
def test_the_same_input_gives_the_same_output(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    assert_same_embeds(tiny_model, tiny_model, tiny_batch)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_a_sample_does_not_see_the_others_of_its_batch(
    tiny_model: IVTModel, tiny_batch: Batch, implementation: str
) -> None:
    tiny_model.set_attn_implementation(implementation)
    together = tiny_model(**tiny_batch, output_hidden_states=True)
    for i in range(3):
        alone = tiny_model(**{name: value[i : i + 1] for name, value in tiny_batch.items()}, output_hidden_states=True)
        torch.testing.assert_close(alone.logits_per_image[0, 0], together.logits_per_image[i, i])
        for modality in ("image_model_output", "text_model_output"):
            for one, all_of_them in zip(alone[modality].hidden_states, together[modality].hidden_states, strict=True):
                torch.testing.assert_close(one[0], all_of_them[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_sdpa_is_eager_in_every_precision(tiny_model: IVTModel, tiny_batch: Batch, dtype: torch.dtype) -> None:
    outputs = []
    for implementation in ("sdpa", "eager"):
        tiny_model.to(dtype).set_attn_implementation(implementation)
        outputs.append(tiny_model(**tiny_batch))
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    for name in EMBEDS:
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_features_are_the_same_as_tuple_and_by_name(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    for function, name in (
        (tiny_model.get_image_features, "pixel_values"),
        (tiny_model.get_text_features, "input_ids"),
    ):
        options = {"output_hidden_states": True, "output_attentions": True}
        named = function(tiny_batch[name], **options)
        values = function(tiny_batch[name], **options, return_dict=False)
        assert list(named) == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
        for value, expected in zip(values, named.values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=0)


@torch.no_grad()
def test_hidden_states_are_recorded_by_config_too(tiny_config: IVTConfig, tiny_batch: Batch) -> None:
    tiny_config.output_hidden_states = True
    output = IVTModel(tiny_config).eval()(**tiny_batch)
    assert len(output.image_model_output.hidden_states) == len(output.text_model_output.hidden_states) == 3
    assert output.image_model_output.attentions is None


def test_hidden_states_and_attentions_carry_gradients(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    output = tiny_model(**tiny_batch, return_loss=True, output_hidden_states=True, output_attentions=True)
    recorded = [
        tensor
        for modality in (output.image_model_output, output.text_model_output)
        for tensor in (*modality.hidden_states, *modality.attentions)
    ]
    for tensor in recorded:
        tensor.retain_grad()
    output.loss.backward()
    assert len(recorded) == 10 and all(tensor.grad.abs().sum() > 0 for tensor in recorded)


def test_the_main_input_is_the_first_argument(tiny_model: IVTModel) -> None:
    assert list(inspect.signature(tiny_model.forward).parameters)[0] == tiny_model.main_input_name


# Training


def test_training_reaches_every_parameter_and_lowers_the_loss(tiny_config: IVTConfig, tiny_batch: Batch) -> None:
    tiny_config.initializer_range = 0.02
    model = IVTModel(tiny_config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = model(**tiny_batch, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_input_embeddings_can_ask_for_gradients_with_all_weights_frozen(
    tiny_model: IVTModel, tiny_batch: Batch
) -> None:
    # as adapters need it, which train few weights behind frozen ones
    tiny_model.requires_grad_(False)
    tiny_model.enable_input_require_grads()
    assert tiny_model.get_text_features(tiny_batch["input_ids"]).pooler_output.requires_grad


# Embeddings of other sizes


@torch.no_grad()
def test_more_words_leave_the_known_ones_alone(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    before = tiny_model(**tiny_batch)
    old = tiny_model.get_input_embeddings().weight.clone()
    resized = tiny_model.resize_token_embeddings(57)
    assert resized is tiny_model.text_embeddings.word_embeddings and tiny_model.config.vocab_size == 57
    assert torch.equal(resized.weight[:50], old) and resized.weight.shape == (57, 32)
    assert torch.equal(tiny_model(**tiny_batch).text_embeds, before.text_embeds)
    assert tiny_model.get_text_features(torch.tensor([[5, 56]])).pooler_output.isfinite().all()
    tiny_model.resize_token_embeddings(50)
    assert torch.equal(tiny_model(**tiny_batch).text_embeds, before.text_embeds)


def test_new_words_survive_saving(tiny_model: IVTModel, tiny_batch: Batch, tmp_path: Path) -> None:
    tiny_model.resize_token_embeddings(57)
    tiny_model.save_pretrained(tmp_path)
    tiny_batch["input_ids"][0, 2] = 56
    with torch.no_grad():
        assert_same_embeds(IVTModel.from_pretrained(tmp_path), tiny_model, tiny_batch)


def test_input_embeddings_can_be_replaced(tiny_model: IVTModel) -> None:
    words = nn.Embedding(11, 32)
    tiny_model.set_input_embeddings(words)
    assert tiny_model.get_input_embeddings() is words


@torch.no_grad()
def test_longer_texts_leave_the_short_ones_alone(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    before = tiny_model(**tiny_batch)
    old = tiny_model.get_position_embeddings().weight.clone()  # (16, D)
    tiny_model.resize_position_embeddings(24)
    added = tiny_model.get_position_embeddings().weight[16:]
    assert added.shape == (8, 32) and added.std().item() == pytest.approx(0.2, rel=0.35)
    assert torch.equal(tiny_model(**tiny_batch).text_embeds, before.text_embeds)
    tiny_model.get_text_features(torch.ones(1, 24, dtype=torch.long))
    tiny_model.resize_position_embeddings(10)
    assert torch.equal(tiny_model.get_position_embeddings().weight, old[:10])
    with pytest.raises(ValueError, match="text has 11 tokens, the model holds 10"):
        tiny_model.get_text_features(torch.ones(1, 11, dtype=torch.long))


def test_texts_without_any_token_are_an_error(tiny_model: IVTModel) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        tiny_model.resize_position_embeddings(0)


@torch.no_grad()
def test_resized_image_embeddings_are_what_interpolation_computes(tiny_model: IVTModel, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 68, 20)  # 11 rows and 3 columns of patches instead of 7 and 3
    expected = tiny_model.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    tiny_model.resize_image_embeddings(68, 20)
    torch.testing.assert_close(tiny_model.get_image_features(images).pooler_output, expected)
    tiny_model.save_pretrained(tmp_path)
    torch.testing.assert_close(IVTModel.from_pretrained(tmp_path).get_image_features(images).pooler_output, expected)
    with pytest.raises(ValueError, match="7 x 24 pixels .* smaller than one patch"):
        tiny_model.resize_image_embeddings(7, 24)


@torch.no_grad()
def test_another_stride_is_the_model_with_resized_positions(tiny_model: IVTModel, tmp_path: Path) -> None:
    images, embeddings = torch.randn(2, 3, 48, 24), tiny_model.image_embeddings
    added = embeddings.position_embeddings + embeddings.type_embeddings
    tiny_model.resize_image_embeddings(48, 24, patch_stride=8)  # 6 rows and 3 columns instead of 7 and 3
    projection = embeddings.patch_embeddings
    second_row = nn.functional.conv2d(images[:, :, 8:16, :8], projection.weight, projection.bias)[:, :, 0, 0]
    torch.testing.assert_close(embeddings(images)[:, 4], second_row + resize_grid(added, (7, 3), (6, 3))[:, 4])
    assert tiny_model.config.patch_grid == (6, 3)
    tiny_model.save_pretrained(tmp_path)
    assert torch.equal(IVTModel.from_pretrained(tmp_path).image_embeddings(images), embeddings(images))
    with pytest.raises(ValueError, match="patch_stride must be between 1 and patch_size = 8, got 9"):
        tiny_model.resize_image_embeddings(48, 24, patch_stride=9)
    assert tiny_model.config.patch_grid == (6, 3)


def test_resizing_keeps_frozen_embeddings_frozen(tiny_model: IVTModel) -> None:
    tiny_model.requires_grad_(False)
    tiny_model.resize_position_embeddings(20)
    tiny_model.resize_image_embeddings(60, 24)
    assert not any(parameter.requires_grad for parameter in tiny_model.parameters())


# Saving, loading, the meta device


@torch.no_grad()
def test_shards_are_put_together_again(tiny_model: IVTModel, tiny_batch: Batch, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 and not list(tmp_path.glob("*.bin"))
    assert_same_embeds(IVTModel.from_pretrained(tmp_path), tiny_model, tiny_batch)


@torch.no_grad()
def test_a_state_dict_of_torch_is_the_same_model(tiny_model: IVTModel, tiny_batch: Batch, tmp_path: Path) -> None:
    torch.save(tiny_model.state_dict(), tmp_path / "state.bin")
    other = IVTModel(tiny_model.config).eval()
    other.load_state_dict(torch.load(tmp_path / "state.bin", weights_only=True))
    assert_same_embeds(other, tiny_model, tiny_batch)


def test_the_meta_device_holds_no_number_and_every_weight_is_initialised_after_it(tiny_config: IVTConfig) -> None:
    with torch.device("meta"):
        model = IVTModel(tiny_config)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model.to_empty(device="cpu")
    for module in model.modules():
        module._is_hf_initialized = False
        for parameter in module.parameters(recurse=False):
            parameter.data.fill_(float("nan"))
            parameter._is_hf_initialized = False
    model.initialize_weights()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name


@torch.no_grad()
def test_weights_load_in_the_precision_asked_for(tiny_model: IVTModel, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    loaded = IVTModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    loaded.save_pretrained(tmp_path / "again")
    assert IVTModel.from_pretrained(tmp_path / "again").dtype == torch.bfloat16


def test_weights_of_another_shape_are_an_error_unless_told_to_ignore_them(
    tiny_model: IVTModel, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        IVTModel.from_pretrained(tmp_path, vocab_size=51)
    loaded = IVTModel.from_pretrained(tmp_path, vocab_size=51, ignore_mismatched_sizes=True)
    assert loaded.get_input_embeddings().weight.shape == (51, 32)
    assert loaded.get_input_embeddings().weight.isfinite().all()
    assert torch.equal(loaded.layernorm.weight, tiny_model.layernorm.weight)


# Graphs


@torch.no_grad()
def test_an_exported_program_holds_for_other_batches_and_text_lengths(tiny_model: IVTModel) -> None:
    class Both(nn.Module):
        """`torch.export` takes tensors in and gives tensors out."""

        def __init__(self, model: IVTModel):
            super().__init__()
            self.model = model

        def forward(
            self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
        ) -> torch.Tensor:
            return self.model(
                pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask
            ).logits_per_image

    def inputs(num_images: int, num_texts: int, length: int) -> tuple[torch.Tensor, ...]:
        mask = torch.ones(num_texts, length, dtype=torch.long)
        mask[-1, length // 2 :] = 0
        return torch.randn(num_images, 3, 48, 24), torch.randint(5, 50, (num_texts, length)), mask

    images, texts = torch.export.Dim("images"), torch.export.Dim("texts")
    length = torch.export.Dim("length", min=2, max=16)
    shapes = ({0: images}, {0: texts, 1: length}, {0: texts, 1: length})
    program = torch.export.export(Both(tiny_model), inputs(3, 2, 9), dynamic_shapes=shapes).module()
    for sizes in ((3, 2, 9), (1, 1, 2), (2, 5, 16)):
        batch = inputs(*sizes)
        torch.testing.assert_close(program(*batch), Both(tiny_model)(*batch), msg=str(sizes))


@torch.no_grad()
def test_the_model_compiles_into_one_graph(tiny_model: IVTModel, tiny_batch: Batch) -> None:
    expected = tiny_model(**tiny_batch, return_loss=True)
    compiled = torch.compile(tiny_model, fullgraph=True, backend="aot_eager")
    output = compiled(**tiny_batch, return_loss=True)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.logits_per_text, expected.logits_per_text)
