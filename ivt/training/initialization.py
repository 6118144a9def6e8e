"""First weights of a run: drawn, of an IVT checkpoint, of the authors' file, or put together from a ViT and a BERT.

    --init random                                 the default
    --init CHECKPOINT                             a folder that this project saved, or its name on the Hub
    --init official=checkpoint_best.pth           a file of the authors' training
    --init vit=google/vit-base-patch16-224-in21k,bert=google-bert/bert-base-uncased
    --init vit=timm/vit_small_patch16_224.augreg_in21k,bert=microsoft/MiniLM-L12-H384-uncased --model_size ivt-small

The last two are the paper's kind of start (Shu et al., arXiv 2208.08608): patch, position and [CLS] embeddings,
attention, norms and the image feed-forward are the ViT's; the text embeddings and the text feed-forward
(`intermediate` and `output`) are BERT's; the image type embedding, which neither has, is drawn. In stage `pretrain`
the fusion encoder begins with BERT's last blocks; its cross-attention and ITM's head are drawn. Each is a name on the
Hub, a folder or a file, see `sources.py`. Every weight of the model and every tensor of the files is accounted for, or
it is an error.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForPreTraining, AutoTokenizer

from ivt.choices import RECIPES
from ivt.retrieval.checkpoints import load_checkpoint
from modeling_ivt import IVTConfig, IVTForPreTraining, IVTModel
from modeling_ivt.modeling_ivt import MODALITIES, resize_grid
from modeling_ivt.official import load_official
from processing import IVTImageProcessor, IVTProcessor
from processing.end_token import without_end_token

from .recipe import Recipe
from .sources import Source, read_bert, read_vit

# what neither ViT nor BERT has (regular expression)
DRAWN = r"image_embeddings\.type_embeddings|fusion_layers\.\d+\.cross_attention\..+|itm_head\..+|log_temperature"
TIED = "mlm_head.decoder.weight"  # the word embeddings
GEOMETRY = ("image_size", "patch_stride", "num_attention_heads")  # what the authors' files do not tell


def check_sizes(source: Source, config: IVTConfig) -> None:
    """Compare the geometry of a source with the model's.

    Raises:
        ValueError: naming the field of the configuration, both values and what to do.
    """
    if source.width != config.hidden_size:
        raise ValueError(
            f"hidden_size is {config.hidden_size}, {source} is {source.width} wide; ViT, BERT and model must agree: "
            f"pass --model.hidden_size {source.width} or a --model_size of that width, or choose another {source.kind}"
        )
    if source.depth < config.num_hidden_layers:
        raise ValueError(
            f"num_hidden_layers is {config.num_hidden_layers}, {source} has {source.depth} blocks; "
            f"pass --model.num_hidden_layers {source.depth} or less"
        )
    told = {"hidden_act": source.config.get("hidden_act", config.hidden_act)}
    if source.kind == "ViT":
        patches = source.tensors[source.keys_of("image_embeddings.patch_embeddings.weight")[0]]
        heads = attention_heads(source) or config.num_attention_heads
        told |= {"num_attention_heads": heads, "patch_size": patches.shape[-1]}
    for name, value in told.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name} is {getattr(config, name)}, in {source} {value}; pass --model.{name} {value}")


def attention_heads(vit: Source) -> int | None:
    """Attention heads of a ViT, None where its configuration does not say."""
    return vit.config.get("num_attention_heads", (vit.config.get("model_args") or {}).get("num_heads"))


def check_fusion(bert: Source, config: IVTConfig) -> None:
    """Compare the fusion encoder with the BERT that it begins with, and note what it takes.

    Raises:
        ValueError: naming the field of the configuration, both values and what to do.
    """
    layers, heads = config.num_fusion_layers, bert.config.get("num_attention_heads", config.num_fusion_heads)
    if layers > bert.depth:
        raise ValueError(
            f"num_fusion_layers is {layers}, {bert} has {bert.depth} blocks; pass --model.num_fusion_layers "
            f"{bert.depth} or less"
        )
    if heads != config.num_fusion_heads:
        raise ValueError(
            f"the fusion encoder has {config.num_fusion_heads} attention heads, {bert} {heads}; pass "
            f"--model.fusion_attention_heads {heads}"
        )
    bert.notes.append(f"the last {layers} for the fusion encoder")


def note_sizes(source: Source, config: IVTConfig) -> None:
    """Note what of a source is left out, and what was assumed of it."""
    if source.depth > config.num_hidden_layers:
        source.notes.append(f"the first {config.num_hidden_layers} of {source.depth} blocks")
    if source.kind == "ViT" and attention_heads(source) is None:
        source.notes.append(f"its files do not tell its attention heads, taken for {config.num_attention_heads}")


def vit_grid(source: Source, num_patches: int, patch_size: int) -> tuple[int, int]:
    """(rows, columns) of a ViT's patches: as its configuration says, or a square.

    Raises:
        ValueError: if it is neither.
    """
    size = source.config.get("image_size") or source.config.get("pretrained_cfg", {}).get("input_size", [0, 0])[-2:]
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    side = round(num_patches**0.5)
    for grid in ((height // patch_size, width // patch_size), (side, side)):
        if grid[0] * grid[1] == num_patches:
            return grid
    raise ValueError(
        f"{source} has {num_patches} patch positions, which are no square, and image_size {size} of its config.json "
        "does not explain them; put its config.json beside the weights"
    )


def fit_image_positions(source: Source, config: IVTConfig) -> None:
    """Resize the ViT's grid of position embeddings to the model's, and leave out a distillation token's."""
    positions = source.tensors[source.position_key]  # (1, prefix + rows * columns, D)
    if {"embeddings.distillation_token", "dist_token"} & source.tensors.keys():
        positions = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    grid = vit_grid(source, positions.shape[1] - 1, config.patch_size)
    if grid != config.patch_grid:
        source.notes.append("positions {} x {} resized to {} x {}".format(*grid, *config.patch_grid))
        positions = resize_grid(positions, grid, config.patch_grid)
    source.tensors[source.position_key] = positions


def fit_text_positions(source: Source, config: IVTConfig) -> None:
    """Cut off the position embeddings of BERT that the model has no place for."""
    positions = source.tensors[source.position_key]  # (tokens, D)
    length = config.max_position_embeddings
    if len(positions) > length:
        source.notes.append(f"the first {length} of {len(positions)} positions")
    source.tensors[source.position_key] = positions[:length]


def source_of(parameter: str, vit: Source, bert: Source) -> Source:
    """Where a parameter comes from."""
    of_bert = parameter.startswith(("text_embeddings.", "fusion_layers.", "mlm_head."))
    return bert if of_bert or ".feed_forward.text." in parameter else vit


def take_from(source: Source, parameter: str, config: IVTConfig) -> torch.Tensor | None:
    """The tensor for a parameter; the fusion encoder's blocks are the last ones of a BERT."""
    shift = source.depth - config.num_fusion_layers
    moved = re.sub(r"^(fusion_layers)\.(\d+)", lambda match: f"{match[1]}.{int(match[2]) + shift}", parameter)
    return source.take(moved)


def name_groups(parameters: Iterable[str]) -> str:
    """Names of parameters in short, a group for all weights and biases of a module and for all blocks."""
    groups = {re.sub(r"\.\d+\.", ".*.", name).removesuffix(".weight").removesuffix(".bias") for name in parameters}
    modules = {re.sub(r"(cross_attention|itm_head|mlm_head)\..+", r"\1", group) for group in groups}
    return ", ".join(sorted(modules))


def assemble(
    vit: Source, bert: Source, config: IVTConfig, model_class: type[IVTModel] = IVTModel
) -> tuple[IVTModel, list[str]]:
    """An IVT model whose weights are those of a ViT and a BERT.

    Args:
        vit: from `read_vit`.
        bert: from `read_bert`.
        config: of the model; its width, activation, patches and heads must be those of the sources.
        model_class: `IVTForPreTraining` has a fusion encoder too.

    Returns:
        The model in float32, and a line on each source and on what was drawn.

    Raises:
        ValueError: if sizes differ, a weight is missing, or a source has a tensor nobody knows.
    """
    for source in (vit, bert):
        check_sizes(source, config)
        note_sizes(source, config)
    fit_image_positions(vit, config)
    fit_text_positions(bert, config)
    if model_class is IVTForPreTraining:
        check_fusion(bert, config)
    model = model_class(config)
    state, problems = model.state_dict(), []
    state.pop(TIED, None)
    has_head = "cls.predictions.bias" in bert.tensors
    drawn_names = [name for name in state if re.fullmatch(DRAWN, name)]
    drawn_names += [name for name in state if name.startswith("mlm_head.") and not has_head]
    for name in [name for name in state if name not in drawn_names]:
        source, drawn = source_of(name, vit, bert), state[name]
        taken = take_from(source, name, config)
        if taken is None:
            problems.append(f"{source} has no {' '.join(source.keys_of(name))} for {name}")
        elif taken.shape != drawn.shape:
            problems.append(f"{name} is {tuple(drawn.shape)}, in {source} {tuple(taken.shape)}")
        else:
            state[name] = taken
    for source in (vit, bert):
        if unknown := source.unused(config.num_hidden_layers)[1]:
            problems.append(f"{source} has tensors that nobody knows ({len(unknown)}): {', '.join(unknown[:5])}")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise ValueError("these weights do not make an IVT model: " + "; ".join(problems[:5]) + more)
    model.load_state_dict(state, strict=False)  # all but the tied weight, which is another's
    lines = [source.report(config.num_hidden_layers) for source in (vit, bert)]
    drawn_line = f"drawn: {name_groups(drawn_names)}; all {len(state)} weights of the model are accounted for"
    return model, [*lines, drawn_line]


def new_model(config: IVTConfig, embedding_length: float | None, model_class: type[IVTModel] = IVTModel) -> IVTModel:
    """A model of random weights, whose embeddings have a certain length at first."""
    model = model_class(config)
    if embedding_length:  # what leaves a LayerNorm has length weight * sqrt(width)
        for name, parameter in model.layernorm.named_parameters():
            if name.endswith("weight"):
                nn.init.constant_(parameter, embedding_length / math.sqrt(config.hidden_size))
    return model


def with_heads(model: IVTModel) -> tuple[IVTForPreTraining, list[str]]:
    """The model of pre-training around an encoder, its fusion encoder and heads drawn, and a line that says so."""
    whole = IVTForPreTraining(model.config)
    missing = whole.load_state_dict(model.state_dict(), strict=False).missing_keys
    return whole, [f"drawn: {name_groups(missing)}; the encoder is the checkpoint's"]


def continued_model(checkpoint: str, model_fields: dict[str, Any], auto_class: Any = AutoModel) -> IVTModel:
    """The model of an IVT checkpoint in float32, with some fields of its configuration changed.

    Args:
        checkpoint: folder or name on the Hub.
        model_fields: fields of `IVTConfig`.
        auto_class: `AutoModelForPreTraining` loads a fusion encoder and heads too, where the checkpoint has them.

    Raises:
        ValueError: if there is no such checkpoint, it is of another kind, or its weights do not fit the fields.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"init is {checkpoint!r}, which is no checkpoint in a folder below {Path.cwd()} and cannot be had from "
            f"the Hub; expected random, an IVT checkpoint, vit=NAME,bert=NAME or official=FILE. Found: {error}"
        ) from error
    if config.model_type != IVTConfig.model_type:
        raise ValueError(
            f"init is {checkpoint!r}, a model of type {config.model_type!r}, expected {IVTConfig.model_type!r}; a ViT "
            "and a BERT begin a new model by --init vit=NAME,bert=NAME"
        )
    changed = [
        f"{name} {value} (there {getattr(config, name)})"
        for name, value in model_fields.items()
        if value != getattr(config, name)
    ]
    try:
        if IVTForPreTraining.__name__ not in (config.architectures or ()):
            auto_class = AutoModel
        model = load_checkpoint(checkpoint, auto_class, dtype=torch.float32, **model_fields)
        return cast(IVTModel, model)  # by its model_type
    except ValueError as error:
        if not changed:
            raise
        raise ValueError(
            f"init is {checkpoint!r}, of which the recipe changes {', '.join(changed)}; leave out what its weights do "
            f"not fit: {error}"
        ) from error


def fit_grid(model: IVTModel, model_fields: dict[str, Any]) -> list[str]:
    """Resize the image positions of a checkpoint to a recipe's image size and stride; a line if anything changed."""
    before = model.config.patch_grid
    height, width = model_fields.get("image_size", model.config.image_size)
    stride = model_fields.get("patch_stride", model.config.patch_stride)
    if (height, width, stride) == (*model.config.image_size, model.config.patch_stride):
        return []
    model.resize_image_embeddings(height, width, stride)
    return ["positions and types {} x {} resized to {} x {}".format(*before, *model.config.patch_grid)]


def official_model(file: str, model_fields: dict[str, Any]) -> tuple[IVTModel, list[str]]:
    """The model of a file of the authors, and lines on what became of its keys.

    Raises:
        ValueError: if there is no such file, it holds something else, or does not fit the fields.
    """
    if not Path(file).is_file():
        raise ValueError(
            f"init is 'official={file}', and {file} is no file; expected a checkpoint of the authors, such as "
            "checkpoint_best.pth. What this project saved is a folder: --init FOLDER"
        )
    geometry = {name: getattr(IVTConfig(**model_fields), name) for name in GEOMETRY}
    return load_official(file, **(model_fields | geometry))


def normalisation_of(checkpoint: str) -> dict[str, Any]:
    """Mean and standard deviation of the pictures a checkpoint was trained with, {} where none are saved."""
    try:
        processor = AutoImageProcessor.from_pretrained(checkpoint)
    except OSError:
        return {}
    return {"image_mean": processor.image_mean, "image_std": processor.image_std}


def initial_model(
    recipe: Recipe, model_fields: dict[str, Any], vocabulary: dict[str, Any]
) -> tuple[IVTModel, dict[str, Any], list[str]]:
    """The model a recipe begins with.

    Args:
        recipe: its `init` says where the weights come from.
        model_fields: fields of `IVTConfig`; where a checkpoint knows them too, they must fit its weights.
        vocabulary: fields of `IVTConfig` that the tokenizer tells, for a new model.

    Returns:
        The model in float32; mean and standard deviation of the pictures, where a source tells them; and lines on what
        the weights were made of.

    Raises:
        ValueError: if there is no such source, or it does not fit.
    """
    init, pretrains = recipe.init, recipe.stage == "pretrain"
    model_class = IVTForPreTraining if pretrains else IVTModel
    if init in (None, "random"):
        return new_model(IVTConfig(**(vocabulary | model_fields)), recipe.embedding_length, model_class), {}, []
    if init.startswith("official="):
        model, lines = official_model(init.removeprefix("official="), model_fields)
        normalisation = {}
    elif init.startswith(("vit=", "bert=")):
        names = dict(part.split("=", 1) for part in re.split(r",(?=vit=|bert=)", init))
        if names.keys() != {"vit", "bert"} or not all(names.values()):
            raise ValueError(
                f"init is {init!r}; expected vit=NAME,bert=NAME, each a name on the Hub, a folder or a file"
            )
        vit, bert = read_vit(names["vit"]), read_bert(names["bert"])
        model, lines = assemble(vit, bert, IVTConfig(**(vocabulary | model_fields)), model_class)
        normalisation = vit.normalisation
    else:
        others = {name: value for name, value in model_fields.items() if name not in ("image_size", "patch_stride")}
        model = continued_model(init, others, AutoModelForPreTraining if pretrains else AutoModel)
        lines = fit_grid(model, model_fields)
        normalisation = normalisation_of(init)
    if pretrains and not isinstance(model, IVTForPreTraining):
        model, drawn = with_heads(model)
        lines = [*lines, *drawn]
    return model, normalisation, lines


def compile_blocks(model: IVTModel) -> None:
    """Compile the blocks, as one function for all; the number of tokens changes from step to step."""
    graphs = 4 * len(MODALITIES)  # in training or not, last block or not; more for texts without padding
    torch._dynamo.config.recompile_limit = 2 * graphs  # ty: ignore[invalid-assignment]
    for layer in model.layers:
        layer.compile(dynamic=True)


def build_model(recipe: Recipe, model_fields: dict[str, Any]) -> tuple[IVTModel, IVTProcessor, list[str]]:
    """The model a recipe begins with, the processor that fits it, and lines on what its weights were made of.

    Raises:
        ValueError: if the source of the weights, the tokenizer or the recipe's length of texts do not fit.
    """
    packaged = RECIPES / recipe.tokenizer
    name = packaged if packaged.is_dir() and not Path(recipe.tokenizer).is_dir() else recipe.tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, model_max_length=recipe.max_text_tokens)
    except OSError as error:
        raise ValueError(
            f"tokenizer {recipe.tokenizer!r} is no folder below {Path.cwd()} or beside the recipe, and cannot be "
            f"had from the Hub; pass --tokenizer. The Hub said: {error}"
        ) from error
    assert tokenizer is not None  # None only if it is asked for by type
    if not recipe.end_token:
        tokenizer = without_end_token(tokenizer)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model, normalisation, lines = initial_model(recipe, model_fields, vocabulary)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"tokenizer {recipe.tokenizer} has {len(tokenizer)} tokens, the model knows {model.config.vocab_size}; "
            "name the tokenizer that belongs to the model"
        )
    if recipe.max_text_tokens > model.config.max_position_embeddings:
        raise ValueError(
            f"max_text_tokens is {recipe.max_text_tokens}, the model holds {model.config.max_position_embeddings}; "
            "lower it or raise model.max_position_embeddings"
        )
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if recipe.compile:
        compile_blocks(model)
    height, width = model.config.image_size
    resample = Image.Resampling[recipe.test_resample.upper()]
    image_processor = IVTImageProcessor(size={"height": height, "width": width}, resample=resample, **normalisation)
    return model, IVTProcessor(image_processor, tokenizer), lines
