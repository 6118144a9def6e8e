"""Other weights -> a folder that the Auto classes load: the IVT authors' files, a ViT and a BERT, an IVT checkpoint.

    ivt convert ivt-cuhk --init official=checkpoint_best.pth --image-size 384 128 --patch-stride 12 \
        --num-attention-heads 12 --tokenizer google-bert/bert-base-uncased
    ivt convert start --config cuhk_pedes

An authors' file (Shu et al. 2022, arXiv 2208.08608) is a pickle, in torch's old or new format: only tensors and plain
containers are read from it, its code is never run. Every parameter of the network must be found and every key of the
file used or known not to matter, or nothing is written. A file of their pre-training gives its encoder; its fusion
encoder and heads are left out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ivt.files import check_empty, new_folder
from ivt.retrieval.models import load_processor
from ivt.training.arguments import parse_arguments
from ivt.training.initialization import GEOMETRY, build_model, continued_model, normalisation_of
from modeling_ivt import IVTConfig, IVTModel
from modeling_ivt.official import load_official
from processing import IVTImageProcessor, IVTProcessor
from processing.end_token import without_end_token

OFFICIAL = "official="
Start = tuple[IVTModel, IVTProcessor | IVTImageProcessor, list[str]]  # and lines on what the weights were made of


def load_tokenizer(name: str, config: IVTConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer and let it truncate to what the model holds.

    Raises:
        ValueError: if there is none, or not that of a model with this vocabulary size.
    """
    try:
        # its return type has a None, for a transformers without the package tokenizers
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)  # ty: ignore[invalid-assignment]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no tokenizer can be loaded from {name}; pass a folder written by a tokenizer's save_pretrained, or a "
            f"name on the Hub ({error})"
        ) from error
    if len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"tokenizer {name} has {len(tokenizer)} tokens, the checkpoint {config.vocab_size}; "
            "pass the tokenizer the checkpoint was trained with"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    return tokenizer


def build_processor(
    config: IVTConfig, tokenizer: str | None, end_token: bool = True, **settings: Any
) -> IVTProcessor | IVTImageProcessor:
    """The processor of a model; without a tokenizer the image processor alone."""
    height, width = config.image_size
    image_processor = IVTImageProcessor(size={"height": height, "width": width}, **settings)
    if not tokenizer:
        return image_processor
    loaded = load_tokenizer(tokenizer, config)
    return IVTProcessor(image_processor, loaded if end_token else without_end_token(loaded))


def official_start(file: str, tokenizer: str | None, model_fields: dict[str, Any]) -> Start:
    """The model of an authors' file, which does not tell its geometry.

    Raises:
        ValueError: if a size is not given or anything does not fit.
    """
    missing = [name for name in GEOMETRY if name not in model_fields]
    if missing:
        options = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise ValueError(f"{OFFICIAL}{file} does not tell {', '.join(missing)}; pass {options}")
    model, lines = load_official(file, **model_fields)
    if tokenizer is None:
        lines.append("no tokenizer written, only the image processor: pass --tokenizer NAME for a whole processor")
    # as their code prepares texts and pictures: `[CLS] words`, resized bilinearly
    processor = build_processor(model.config, tokenizer, end_token=False, resample=Image.Resampling.BILINEAR)
    return model, processor, lines


def checkpoint_start(checkpoint: str, tokenizer: str | None, model_fields: dict[str, Any]) -> Start:
    """An IVT checkpoint, with fields of its configuration changed or with another tokenizer."""
    model = continued_model(checkpoint, model_fields)
    if tokenizer is None:
        return model, load_processor(checkpoint), []
    return model, build_processor(model.config, tokenizer, **normalisation_of(checkpoint)), []


def convert(
    output_dir: Path,
    init: str | None = None,
    config: str | None = None,
    tokenizer: str | None = None,
    fields: Sequence[str] = (),
) -> list[str]:
    """Write model, code files and processor to a folder, all or nothing.

    Args:
        output_dir: new or empty folder.
        init: "official=FILE", "vit=NAME,bert=NAME" or a checkpoint; None takes the recipe's.
        config: a recipe, by name or path; the folder then holds the start that a run of it has.
        tokenizer: folder or Hub name of the BERT tokenizer. None takes the recipe's or the checkpoint's, and writes
            none for an authors' file.
        fields: others of the recipe and the model, as `ivt train` takes them: ["--model.patch_stride", "12"]. An
            authors' file needs `image_size`, `patch_stride` and `num_attention_heads`.

    Returns:
        Lines on what the weights were made of.

    Raises:
        ValueError: if anything does not fit; nothing is written then.
        OSError: if a file cannot be read or written.
    """
    output_dir = check_empty(output_dir)
    if init is None and config is None:
        raise ValueError("say what to convert: --init official=FILE, vit=NAME,bert=NAME or CHECKPOINT")
    given = {"config": config, "init": init, "tokenizer": tokenizer}
    arguments = [part for name, value in given.items() if value is not None for part in (f"--{name}", value)]
    _, recipe, model_fields = parse_arguments([*arguments, *fields])
    if init is None or config is not None or init == "random" or init.startswith(("vit=", "bert=")):
        set_seed(recipe.seed)  # of what is drawn
        model, processor, lines = build_model(recipe, model_fields)
        lines = lines or ["all weights are random"]
    elif init.startswith(OFFICIAL):
        model, processor, lines = official_start(init.removeprefix(OFFICIAL), tokenizer, model_fields)
    else:
        model, processor, lines = checkpoint_start(init, tokenizer, model_fields)
    with new_folder(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return lines
