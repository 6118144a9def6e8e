"""Occlusion against naive loops over the pixels it hides, with our model and with other encoders."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from ivt import explain
from ivt.explanations.maps import patch_maps
from ivt.explanations.occlusion import falls_by_window, window_of
from ivt.explanations.pixels import pixel_maps
from ivt.explanations.texts import Texts, encode_texts
from modeling_ivt import IVTModel
from processing import IVTProcessor


class Encoder(nn.Module):
    """Any dual encoder: embeddings, and nothing else that could be asked for."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, model: IVTModel):
        super().__init__()
        self.inner = [model]  # no submodule: its attributes are not those of the encoder

    def get_image_features(self, pixel_values: torch.Tensor, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=self.inner[0].get_image_features(pixel_values).pooler_output)

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any):
        return SimpleNamespace(pooler_output=self.inner[0].get_text_features(input_ids, attention_mask).pooler_output)


class Plain(nn.Module):
    """Embeds pictures of any size by sums of their pixels, each with a weight of its own."""

    device, dtype = torch.device("cpu"), torch.float32

    def get_image_features(self, pixel_values: torch.Tensor, **options: Any) -> SimpleNamespace:
        flat = pixel_values.flatten(1)
        weights = torch.randn(flat.shape[1], 8, generator=torch.Generator().manual_seed(0))
        return SimpleNamespace(pooler_output=flat @ weights)


def test_windows_are_a_sixth_of_the_height_and_overlap_by_half() -> None:
    assert [window_of(height) for height in (384, 192, 48, 1)] == [(64, 32), (32, 16), (8, 4), (2, 1)]


@pytest.mark.parametrize("size", [(48, 24), (49, 23), (24, 48), (36, 3)])
def test_a_pixel_has_the_mean_fall_of_the_windows_that_hide_it(size: tuple[int, int]) -> None:
    height, width = size
    model, texts = Plain(), Texts(normalize(torch.randn(2, 3, 8), dim=-1))
    pixel_values = 1 + torch.randn(2, 3, *size)

    def cosines(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cosine_similarity(model.get_image_features(pixels).pooler_output[:, None], texts.embeds, dim=-1)

    side, step = window_of(height)
    tops = range(0, step * math.ceil(max(0, height - side) / step) + 1, step)
    lefts = range(0, step * math.ceil(max(0, width - side) / step) + 1, step)
    sums, counts = torch.zeros(2, 3, *size), torch.zeros(size)
    for top in tops:
        for left in lefts:
            hidden = pixel_values.clone()
            for y in range(top, min(top + side, height)):
                for x in range(left, min(left + side, width)):
                    hidden[:, :, y, x] = pixel_values.mean(dim=(2, 3))
                    counts[y, x] += 1
            fall = (cosines(pixel_values) - cosines(hidden)).clamp(min=0)
            sums[:, :, top : top + side, left : left + side] += fall[..., None, None]
    assert counts.min() >= 1  # every pixel is hidden once at least
    maps = pixel_maps(model, pixel_values, texts, "occlusion")
    torch.testing.assert_close(maps, sums / counts, rtol=1e-4, atol=1e-6)


def test_a_map_is_that_of_its_own_picture_and_text(tiny_model: IVTModel, pixel_values: torch.Tensor, texts: Texts):
    falls = falls_by_window(tiny_model, pixel_values, texts)
    alone = falls_by_window(tiny_model, pixel_values[1:], Texts(texts.embeds[1:, 1:]))
    torch.testing.assert_close(alone, falls[1:, 1:])
    assert falls.shape == (2, 2, 11, 5)


def test_an_encoder_that_gives_embeddings_alone_is_explained_like_the_model(
    tiny_model: IVTModel, processor: IVTProcessor, picture: Image.Image
) -> None:
    for word in (None, "hat"):
        ours, others = (
            explain(model, processor, picture, "A man with a hat.", word, "occlusion", colours=("red", "blue"))
            for model in (tiny_model, Encoder(tiny_model))
        )
        torch.testing.assert_close(others.pixel_map, ours.pixel_map, rtol=1e-3, atol=1e-6)
        assert others.asked == ours.asked and others.patch_map.shape == (11, 5)
        assert [weight for _, weight in others.words] == pytest.approx([weight for _, weight in ours.words], abs=1e-6)


def test_clip_has_maps_too() -> None:
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = layers | {"image_size": 24, "patch_size": 8}
    text = layers | {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    maps = pixel_maps(model, torch.randn(1, 3, 24, 24), Texts(normalize(torch.randn(1, 2, 8), dim=-1)), "occlusion")
    assert maps.shape == (1, 2, 24, 24) and maps.max() > 0


def test_an_encoder_that_records_nothing_has_no_other_maps(
    tiny_model: IVTModel, processor: IVTProcessor, pixel_values: torch.Tensor
) -> None:
    encoder = Encoder(tiny_model)
    texts = encode_texts(encoder, processor, [["hat"], ["coat"]])
    for make in (patch_maps, pixel_maps):
        with pytest.raises(ValueError, match="Encoder records no attention; choose the method occlusion"):
            make(encoder, pixel_values, texts, "joint")
