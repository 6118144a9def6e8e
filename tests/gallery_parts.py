"""Parts of small galleries: a tiny checkpoint in Hub format, and pictures."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer

from modeling_ivt import IVTConfig, IVTModel
from processing import IVTImageProcessor, IVTProcessor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a the man woman person in with and red blue coat bag".split()]


def save_checkpoint(folder: Path, seed: int) -> str:
    """A model of width 32 with random weights, and its processor."""
    torch.manual_seed(seed)
    config = IVTConfig(
        image_size=(48, 24),
        patch_size=8,
        patch_stride=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=len(WORDS),
        max_position_embeddings=16,
        initializer_range=0.2,
    )
    IVTModel(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    IVTProcessor(IVTImageProcessor(size={"height": 48, "width": 24}), tokenizer).save_pretrained(folder)
    return str(folder)


def draw(seed: int, width: int = 20, height: int = 50) -> Image.Image:
    """A picture that no other seed gives."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))
