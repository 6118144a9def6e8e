"""What tests of explanations share: a processor for the tiny model, pictures and texts.

The tiny model looks at 48 x 24 pixels in 7 rows x 3 columns of overlapping patches; 8 pixels, stride 6.
"""

import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from transformers import BertTokenizer

from ivt.explanations.maps import PATCH_MAPS
from ivt.explanations.texts import Texts, encode_texts
from modeling_ivt import IVTModel
from processing import IVTImageProcessor, IVTProcessor

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] a man with red back ##pack , . coat and hat the on blue".split()


@pytest.fixture
def processor() -> IVTProcessor:
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)}, model_max_length=16)
    return IVTProcessor(IVTImageProcessor(size={"height": 48, "width": 24}), tokenizer)


@pytest.fixture
def texts(tiny_model: IVTModel, processor: IVTProcessor) -> Texts:
    return encode_texts(tiny_model, processor, [["a red backpack", "hat"], ["blue coat", "hat"]])


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(2, 3, 48, 24)


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((60, 180), 90).convert("RGB")


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method that the tests know the answer of: the mean brightness of each patch, pixels being -1 to 1."""

    def bright(model: object, pixel_values: torch.Tensor, texts: Texts) -> torch.Tensor:
        return 1 + avg_pool2d(pixel_values, 8, 6).mean(dim=1)[:, None].flatten(2)

    monkeypatch.setitem(PATCH_MAPS, "brightness", bright)
    return "brightness"
