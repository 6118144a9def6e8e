"""A tiny random model of every kind of dual encoder, saved with a processor whose tokenizer is made here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = "a the man woman person in with and red blue coat bag".split()
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZE = 24  # pixels of a side


def make_tokenizer(**options: Any) -> tf.PreTrainedTokenizerFast:
    """Words of WORDS between <s> and </s>; tokens are padded by <pad>."""
    vocab = {word: place for place, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **options)


def _text(**options: Any) -> dict[str, Any]:
    return TEXT | {"vocab_size": 4 + len(WORDS), "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2} | options


def _square(processor: Any, **options: Any) -> Any:
    return processor(size={"height": SIZE, "width": SIZE}, **options)


def _cropped(processor: Any) -> Any:
    return processor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def clip() -> tuple[Any, Any]:
    """CLIP: cuts the middle of a picture out."""
    config = tf.CLIPConfig(
        text_config=_text(max_position_embeddings=12),
        vision_config=VISION | {"image_size": SIZE},
        projection_dim=20,
        initializer_factor=3.0,
    )
    tokenizer = make_tokenizer(model_max_length=12)
    return tf.CLIPModel(config), tf.CLIPProcessor(_cropped(tf.CLIPImageProcessor), tokenizer)


def siglip() -> tuple[Any, Any]:
    """SigLIP, and SigLIP 2 of a fixed size: texts of full length without a mask."""
    config = tf.SiglipConfig(
        text_config=_text(max_position_embeddings=16), vision_config=VISION | {"image_size": SIZE}
    )
    tokenizer = make_tokenizer(model_input_names=["input_ids"])  # without a longest text, as Gemma's
    return tf.SiglipModel(config), tf.SiglipProcessor(_square(tf.SiglipImageProcessor), tokenizer)


def siglip2_naflex() -> tuple[Any, Any]:
    """SigLIP 2 NaFlex: the picture's own shape, in up to 256 patches."""
    config = tf.Siglip2Config(
        text_config=_text(max_position_embeddings=64), vision_config=VISION | {"num_patches": 16, "patch_size": 16}
    )
    images = tf.Siglip2ImageProcessor()
    return tf.Siglip2Model(config), tf.Siglip2Processor(images, make_tokenizer(model_max_length=64))


def metaclip_2() -> tuple[Any, Any]:
    """MetaCLIP 2."""
    config = tf.MetaClip2Config(
        text_config=_text(max_position_embeddings=12, projection_dim=20),
        vision_config=VISION | {"image_size": SIZE, "projection_dim": 20},
        projection_dim=20,
    )
    tokenizer = make_tokenizer(model_max_length=12)
    return tf.MetaClip2Model(config), tf.CLIPProcessor(_cropped(tf.CLIPImageProcessor), tokenizer)


def chinese_clip() -> tuple[Any, Any]:
    """Chinese-CLIP: BERT reads the text, with token types."""
    config = tf.ChineseCLIPConfig(
        text_config=_text(max_position_embeddings=16), vision_config=VISION | {"image_size": SIZE}, projection_dim=20
    )
    vocab = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    images = _square(tf.ChineseCLIPImageProcessor, do_center_crop=False)
    return tf.ChineseCLIPModel(config), tf.ChineseCLIPProcessor(images, tf.BertTokenizer(vocab=vocab))


def altclip() -> tuple[Any, Any]:
    """AltCLIP: XLM-R reads the text, and counts positions from behind the padding's number."""
    text = _text(max_position_embeddings=18, project_dim=20, type_vocab_size=1)
    config = tf.AltCLIPConfig(
        text_config=text, vision_config=VISION | {"image_size": SIZE, "projection_dim": 20}, projection_dim=20
    )
    return tf.AltCLIPModel(config), tf.AltCLIPProcessor(_cropped(tf.CLIPImageProcessor), make_tokenizer())


KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    make.__name__: make for make in (clip, siglip, siglip2_naflex, metaclip_2, chinese_clip, altclip)
}
# kind -> width, (height, width) of pictures or None, longest text
DESCRIPTIONS = {
    "clip": (20, (SIZE, SIZE), 12),
    "siglip": (32, (SIZE, SIZE), 16),
    "siglip2_naflex": (32, None, 64),
    "metaclip_2": (20, (SIZE, SIZE), 12),
    "chinese_clip": (20, (SIZE, SIZE), 16),
    "altclip": (20, (SIZE, SIZE), 16),
}


def save_encoder(kind: str, folder: Path) -> str:
    """Save a random model of a kind, whose embeddings differ well from text to text."""
    torch.manual_seed(0)
    model, processor = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
