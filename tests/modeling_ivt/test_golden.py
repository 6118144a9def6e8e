"""Parity with the authors' network on their checkpoint format, see tests/golden/official_ivt_tiny/README.md."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_ivt import IVTModel, cmpm_loss

CLOSE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def model(converted: tuple[Path, str]) -> IVTModel:
    return AutoModel.from_pretrained(converted[0])


def assert_close_where_seen(found: torch.Tensor, expected: torch.Tensor, attention_mask: torch.Tensor) -> None:
    """Compare text tokens, without what the networks say of padding."""
    seen = attention_mask.bool()
    torch.testing.assert_close(found[seen], expected[seen], **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_hidden_states_equal_the_authors(
    model: IVTModel, golden: dict[str, torch.Tensor], implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    images = model.get_image_features(golden["pixel_values"])
    texts = model.get_text_features(golden["input_ids"], golden["attention_mask"])
    torch.testing.assert_close(images.last_hidden_state, golden["image_last_hidden_state"], **CLOSE)
    torch.testing.assert_close(images.pooler_output, golden["image_last_hidden_state"][:, 0], **CLOSE)
    assert_close_where_seen(texts.last_hidden_state, golden["text_last_hidden_state"], golden["attention_mask"])
    torch.testing.assert_close(texts.pooler_output, golden["text_last_hidden_state"][:, 0], **CLOSE)


@torch.no_grad()
def test_kept_tokens_equal_the_authors(model: IVTModel, golden: dict[str, torch.Tensor]) -> None:
    images = model.get_image_features(golden["pixel_values"], keep_positions=golden["kept_image_positions"])
    positions = golden["kept_text_positions"]
    texts = model.get_text_features(golden["input_ids"], golden["attention_mask"], keep_positions=positions)
    torch.testing.assert_close(images.last_hidden_state, golden["kept_image_last_hidden_state"], **CLOSE)
    seen = golden["attention_mask"][:, positions]
    assert_close_where_seen(texts.last_hidden_state, golden["kept_text_last_hidden_state"], seen)


def test_cmpm_and_its_gradients_equal_the_authors(golden: dict[str, torch.Tensor]) -> None:
    images = golden["image_last_hidden_state"][:, 0].clone().requires_grad_()
    texts = golden["text_last_hidden_state"][:, 0].clone().requires_grad_()
    loss = cmpm_loss(images, texts, golden["labels"])
    loss.backward()
    torch.testing.assert_close(loss[None], golden["cmpm_loss"], **CLOSE)
    torch.testing.assert_close(images.grad, golden["cmpm_grad_image"], **CLOSE)
    torch.testing.assert_close(texts.grad, golden["cmpm_grad_text"], **CLOSE)


def test_a_process_without_this_repo_gets_the_same_numbers(
    without_package: Path, golden: dict[str, torch.Tensor]
) -> None:
    found = load_file(without_package / "outputs.safetensors")
    assert found.keys() == golden.keys() - {
        "pixel_values",
        "input_ids",
        "attention_mask",
        "labels",
        "kept_image_positions",
        "kept_text_positions",
    }
    masks = {
        "text_last_hidden_state": golden["attention_mask"],
        "kept_text_last_hidden_state": golden["attention_mask"][:, golden["kept_text_positions"]],
    }
    for name, tensor in found.items():
        if name in masks:
            assert_close_where_seen(tensor, golden[name], masks[name])
        else:
            torch.testing.assert_close(tensor, golden[name], **CLOSE)
