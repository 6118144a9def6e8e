from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from modeling_ivt import IVTConfig


def test_defaults_are_the_paper_s_grid() -> None:
    # the paper's images: 384 x 128 pixels give 311 tokens at stride 12 and 193 at stride 16
    assert IVTConfig().patch_grid == (31, 10)
    assert IVTConfig(patch_stride=16).patch_grid == (24, 8)


@pytest.mark.parametrize(("height", "width"), [(48, 24), (47, 29), (8, 8), (13, 14)])
@pytest.mark.parametrize("stride", [1, 5, 8])
def test_patch_grid_counts_the_positions_where_a_whole_patch_fits(height: int, width: int, stride: int) -> None:
    config = IVTConfig(image_size=(height, width), patch_size=8, patch_stride=stride)
    rows = [top for top in range(0, height, stride) if top + 8 <= height]
    columns = [left for left in range(0, width, stride) if left + 8 <= width]
    assert config.patch_grid == (len(rows), len(columns))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": [384]}, r"image_size must be \(height, width\)"),
        ({"image_size": (8, 128)}, "8 x 128 pixels .* smaller than one patch of 16 x 16"),
        ({"hidden_size": 100, "num_attention_heads": 12}, "hidden_size 100 cannot be divided among 12"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be at least 1, got -1"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"patch_stride": 17}, "between 1 and patch_size = 16, got 17"),
        ({"patch_stride": 0}, "between 1 and patch_size = 16, got 0"),
        ({"bmm_ratio": 1.0}, r"bmm_ratio must be in \[0, 1\), got 1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"attention_dropout": 1}, "attention_dropout"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"fusion_attention_heads": 5}, "768 cannot be divided among 5 .* multiple of fusion_attention_heads"),
        ({"num_fusion_layers": 0}, "num_fusion_layers must be at least 1, got 0"),
        ({"itc_temperature": 0.0}, "itc_temperature must be positive, got 0.0"),
    ],
)
def test_impossible_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        IVTConfig(**fields)


def test_settings_survive_saving(tmp_path: Any, tiny_config: IVTConfig) -> None:
    tiny_config.save_pretrained(tmp_path)
    loaded = IVTConfig.from_pretrained(tmp_path)
    assert loaded.patch_grid == tiny_config.patch_grid == (7, 3)
    assert loaded.to_diff_dict() | {"image_size": None} == tiny_config.to_diff_dict() | {"image_size": None}
