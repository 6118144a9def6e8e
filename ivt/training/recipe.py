"""What a run is told: the recipe (how to train) and its paths (where), from a yaml file and the command line."""

import argparse
import difflib
import json
import sys
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ivt.choices import ON_BAD_IMAGE
from ivt.corpora import CORPORA
from ivt.messages import check_choice
from ivt.retrieval.evaluation import PROTOCOLS
from modeling_ivt import IVTConfig
from processing.batches import LEVELS

TRACKERS = ("tensorboard", "trackio", "wandb")

MODEL_SIZES: dict[str, dict[str, Any]] = {
    "ivt-tiny": {
        "image_size": [192, 64],
        "patch_size": 16,
        "patch_stride": 8,  # 23 x 7 patches: small parts such as shoes and hats get patches of their own
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 96,
        "initializer_range": 0.06,  # for width 128 what 0.02 is for 768: the tokens speak louder than a constant [CLS]
    },
    "ivt-small": {  # that of ViT-S/16 and of MiniLM-L12-H384
        "image_size": [384, 128],
        "patch_size": 16,
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    },
    "ivt-base": {  # the paper's, that of ViT-B/16 and of BERT-base
        "image_size": [384, 128],
        "patch_size": 16,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}

LOSS_WEIGHTS = ("cmpm_weight", "itc_weight", "sdm_weight", "token_weight", "identity_weight")

# what numbers of a recipe may be
LEAST_VALUES = {
    0: (
        *LOSS_WEIGHTS,
        *("learning_rate", "bias_lr_factor", "momentum", "weight_decay", "warmup_epochs"),
        *("crop_pad", "rand_augment", "num_workers", "seed"),
    ),
    1: (
        *("batch_size", "cached_chunk", "gradient_accumulation_steps", "pairs_per_person", "num_people"),
        *("epochs", "max_steps", "eval_epochs", "log_steps", "save_steps", "keep_checkpoints"),
        *("num_views", "text_groups", "stream_buffer"),
    ),
    3: ("max_text_tokens",),  # [CLS], a word, [SEP]
}
POSITIVE = ("max_minutes", "max_grad_norm", "embedding_length", "sdm_temperature")
SHARES = (
    *("flip", "erase", "swap_synonyms", "drop_attributes", "drop_phrases"),
    *("rand_augment_magnitude", "layer_lr_decay", "min_lr_ratio"),
)


@dataclass
class RunPaths:
    """Where a run reads and writes, and how it is started: what may differ from machine to machine."""

    output_dir: str = field(default="runs/ivt", metadata={"help": "folder for models, checkpoints and metrics"})
    corpus_root: str | None = field(default=None, metadata={"help": "folder of the corpus (synthetic: the cache)"})
    resume: bool = field(default=False, metadata={"help": "go on from the newest checkpoint in output_dir"})
    seeds: int = field(default=1, metadata={"help": "run this many seeds, from seed on, each in a folder of its own"})
    report_to: str = field(default="", metadata={"help": "trackers, e.g. tensorboard,trackio,wandb"})
    dry_run: bool = field(default=False, metadata={"help": "measure a few steps, tell the cost of the run, and end"})

    def __post_init__(self) -> None:
        """Check what would otherwise show up late."""
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; it must be at least 1")
        for name in self.trackers:
            check_choice("report_to", name, TRACKERS)

    @property
    def trackers(self) -> list[str]:
        """The names in `report_to`."""
        return [name.strip() for name in self.report_to.split(",") if name.strip()]


@dataclass
class Recipe:
    """How to train; what two runs must share to be comparable. The defaults are the paper's."""

    corpus: str = field(
        default="synthetic", metadata={"help": "cuhk-pedes, icfg-pedes, rstpreid, synthetic or shards"}
    )
    num_people: int | None = field(default=None, metadata={"help": "synthetic: people to draw for training"})
    streaming: bool = field(default=False, metadata={"help": "read the training pairs from shards as they are used"})
    stream_buffer: int = field(
        default=4096, metadata={"help": "streaming: pairs that each process shuffles together, beside the shards"}
    )
    on_bad_image: str = field(default="error", metadata={"help": "error, or skip images that cannot be read"})
    model_size: str | None = field(
        default=None, metadata={"help": "ivt-tiny, ivt-small or ivt-base; fields under `model` change what it says"}
    )
    init: str | None = field(
        default=None,
        metadata={"help": "first weights: random (default), an IVT checkpoint, vit=NAME,bert=NAME or official=FILE"},
    )
    tokenizer: str = field(default="google-bert/bert-base-uncased", metadata={"help": "Hub name or folder"})
    max_text_tokens: int = field(default=64, metadata={"help": "longer captions are cut off"})

    levels: list[str] = field(
        default_factory=lambda: list(LEVELS), metadata={"help": f"text levels of MLA, of {', '.join(LEVELS)}"}
    )
    num_views: int = field(default=3, metadata={"help": "augmented views per image: 1 for all texts, or one a level"})
    flip: float = field(default=0.5, metadata={"help": "probability that a view is mirrored"})
    erase: float = field(default=0.5, metadata={"help": "probability that a rectangle of a view is erased"})
    flip_words: bool = field(
        default=False, metadata={"help": "mirror all views of a pair or none, and swap left and right in its texts"}
    )
    crop_pad: int = field(default=10, metadata={"help": "pixels of padding before the random crop"})
    rand_augment: int = field(default=0, metadata={"help": "operations of RandAugment per view, e.g. 2"})
    rand_augment_magnitude: float = field(default=0.5, metadata={"help": "their strength, from 0 to 1"})
    swap_synonyms: float = field(default=0.0, metadata={"help": "probability that a word becomes a synonym of it"})
    drop_attributes: float = field(default=0.0, metadata={"help": "probability that an adjective is left out"})
    drop_phrases: float = field(default=0.0, metadata={"help": "probability that a piece of a caption is left out"})
    cmpm_weight: float = field(default=1.0, metadata={"help": "weight of the CMPM loss"})
    itc_weight: float = field(default=0.0, metadata={"help": "weight of the contrastive loss"})
    sdm_weight: float = field(default=0.0, metadata={"help": "weight of similarity distribution matching"})
    sdm_temperature: float = field(default=0.02, metadata={"help": "where its learned temperature begins"})
    token_weight: float = field(default=0.0, metadata={"help": "weight of the token-wise loss, words against patches"})
    identity_weight: float = field(
        default=0.0, metadata={"help": "weight of naming the person, by one classifier of images and texts"}
    )
    gather: str = field(
        default="all", metadata={"help": "negatives: all (of every process), or none (its own only: the reference)"}
    )
    embedding_length: float | None = field(
        default=None,
        metadata={"help": "length of a new model's embeddings, the losses' inverse temperature; default: sqrt(width)"},
    )

    optimizer: str = field(default="sgd", metadata={"help": "sgd or adamw"})
    learning_rate: float = field(default=0.005, metadata={"help": "highest learning rate, after the warm-up"})
    bias_lr_factor: float = field(default=2.0, metadata={"help": "biases learn at this multiple of learning_rate"})
    layer_lr_decay: float = field(
        default=1.0, metadata={"help": "each block learns at this multiple of the rate of the block above it"}
    )
    momentum: float = field(default=0.9, metadata={"help": "of sgd"})
    weight_decay: float = field(default=1e-4, metadata={"help": "of all weights with sgd, of matrices with adamw"})
    warmup_epochs: float = field(default=5.0, metadata={"help": "epochs in which learning_rate grows from 0"})
    min_lr_ratio: float = field(default=0.002, metadata={"help": "the cosine ends at this share of learning_rate"})
    max_grad_norm: float | None = field(default=None, metadata={"help": "clip the gradient to this length"})
    ema_decay: float = field(
        default=0.0, metadata={"help": "evaluate and save a moving average of the weights, e.g. 0.999; 0: the weights"}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "batches per optimiser step"})
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16"})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "less memory for a third more time"})
    batch_size: int = field(default=28, metadata={"help": "image-caption pairs per process and batch"})
    pairs_per_person: int | None = field(
        default=None, metadata={"help": "batches of batch_size / K people with K pairs each; default: any pairs"}
    )
    cached_chunk: int | None = field(
        default=None,
        metadata={"help": "gradient caching: the memory of so many pairs, whatever batch_size, for a third more time"},
    )
    text_groups: int = field(default=1, metadata={"help": "embed the texts of a batch in so many groups by length"})
    group_by_length: bool = field(default=False, metadata={"help": "batch captions of similar length: less padding"})

    epochs: int = field(default=120, metadata={"help": "times every image-caption pair is seen"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps, instead of epochs"})
    max_minutes: float | None = field(default=None, metadata={"help": "end earlier, after this many minutes"})
    seed: int = field(default=0, metadata={"help": "of first weights, order, augmentation and hidden tokens"})

    eval_epochs: int = field(default=1, metadata={"help": "validate every so many epochs"})
    test_at_end: bool = field(default=True, metadata={"help": "evaluate best and final on the test split, once"})
    protocol: str = field(
        default="standard",
        metadata={"help": "of the test; reference: as IVT's authors evaluate, for parity only"},
    )
    log_steps: int = field(default=50, metadata={"help": "write a line of metrics every so many steps"})
    save_steps: int | None = field(default=None, metadata={"help": "checkpoint every so many steps, too"})
    keep_checkpoints: int = field(default=2, metadata={"help": "older checkpoints are deleted"})
    num_workers: int = field(default=2, metadata={"help": "processes that decode and augment; 0: none"})
    cache_images: bool = field(default=False, metadata={"help": "keep all resized images in memory as bytes"})

    def __post_init__(self) -> None:
        """Check what would otherwise show up late."""
        if self.model_size is not None:
            check_choice("model_size", self.model_size, MODEL_SIZES)
        check_choice("corpus", self.corpus, CORPORA)
        check_choice("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        check_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        check_choice("gather", self.gather, ("all", "none"))
        check_choice("mixed_precision", self.mixed_precision, ("no", "fp16", "bf16"))
        check_choice("protocol", self.protocol, PROTOCOLS)
        for level in self.levels:
            check_choice("levels", level, LEVELS)
        self._check_numbers()
        if self.streaming:
            self._check_streaming()
        if not any(getattr(self, name) for name in LOSS_WEIGHTS):
            raise ValueError(f"{', '.join(LOSS_WEIGHTS)} are all 0: there is no loss; give one of them a weight")
        if self.pairs_per_person and (self.batch_size % self.pairs_per_person or self.group_by_length):
            raise ValueError(
                f"pairs_per_person is {self.pairs_per_person}: it must divide batch_size ({self.batch_size}), and "
                "group_by_length must be off, since the persons decide the order"
            )

    def _check_numbers(self) -> None:
        for least, names in LEAST_VALUES.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not value >= least:  # nan is not
                    raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must be at least 0 and below 1, such as 0.999")

    def _check_streaming(self) -> None:
        if self.corpus != "shards":
            raise ValueError(
                f"streaming reads shards, corpus is {self.corpus!r}; write it as shards with "
                f"`python -m ivt.corpora.shard {self.corpus} FOLDER` and pass --corpus shards --corpus_root FOLDER"
            )
        if self.cache_images or self.pairs_per_person:
            name = "cache_images" if self.cache_images else "pairs_per_person"
            raise ValueError(f"{name} needs all pairs in memory, which streaming avoids; leave one of them out")


def _config_value(text: str) -> Any:
    """A value of `IVTConfig` from the command line; json reads 1e-1 as a number, yaml does not."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def _read_recipe(path: str) -> dict[str, Any]:
    """The fields of a recipe file, those of the model by their names on the command line (`model.hidden_size`)."""
    if not Path(path).is_file():
        raise ValueError(f"there is no recipe {path}; pass a yaml file, those of this project lie in recipes/")
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no yaml file: {error}") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model") or {}, dict):
        raise ValueError(
            f"{path} is no recipe: expected a mapping `field: value`, and one of IVTConfig under `model:`"
        )
    model = recipe.pop("model", None) or {}
    return recipe | {f"model.{name}": value for name, value in model.items()}


def _as_arguments(recipe: dict[str, Any]) -> list[str]:
    """A recipe as command-line arguments: `{"seed": 1, "levels": ["word"]}` -> `--seed 1 --levels word`."""
    arguments = []
    for name, value in recipe.items():
        if value is None:  # the default
            continue
        if name.startswith("model."):
            value = json.dumps(value)
        elif isinstance(value, bool):  # yaml reads `mixed_precision: no` as one
            value = "yes" if value else "no"
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return arguments


def _check_field(name: str, names: Collection[str]) -> None:
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise ValueError(f"there is no field {name!r}; the nearest is {nearest!r}, --help lists all")


def _build_parser() -> argparse.ArgumentParser:
    parser = HfArgumentParser(
        [RunPaths, Recipe],
        allow_abbrev=False,
        exit_on_error=False,
        usage="%(prog)s [--config RECIPE.yaml] [--FIELD VALUE ...]",
        description="Fields of the run and of its recipe; what is given here wins over the yaml file.",
    )
    parser.add_argument("--config", help="yaml file with any of these fields; IVTConfig's under `model:`")
    model = parser.add_argument_group("model", "Fields of IVTConfig, which explains them; model_size sets several.")
    for name in IVTConfig.__annotations__:
        if name != "model_type":
            text = f"(default: {getattr(IVTConfig, name)})"
            model.add_argument(
                f"--model.{name}", type=_config_value, metavar="VALUE", default=argparse.SUPPRESS, help=text
            )
    return parser


def parse_arguments(argv: list[str] | None = None) -> tuple[RunPaths, Recipe, dict[str, Any]]:
    """Read the yaml file named by `--config`, then the command line, which wins.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Run paths, recipe, and the fields of `IVTConfig`: those of `model_size`, then those given (yaml: `model:`).

    Raises:
        ValueError: for a field that does not exist, naming the nearest one, and for a value that cannot be.
    """
    typed = sys.argv[1:] if argv is None else argv
    parser = _build_parser()
    model_names = [f"model.{name}" for name in IVTConfig.__annotations__ if name != "model_type"]
    names = [f.name for f in (*fields(RunPaths), *fields(Recipe))] + model_names
    try:
        config = parser.parse_known_args(typed)[0].config
        recipe = _read_recipe(config) if config else {}
        for name in recipe:
            _check_field(str(name), names)
        # the file's fields become arguments in front of those typed: one parser checks both, and the last one wins
        namespace, unknown = parser.parse_known_args(_as_arguments(recipe) + typed)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; --help explains every field") from error
    for argument in unknown:
        if argument.startswith("--"):
            _check_field(argument.removeprefix("--").split("=")[0], [*names, "config"])
    if unknown:
        raise ValueError(f"arguments without a field in front: {' '.join(unknown)}; write --field value")
    given = vars(namespace)
    model_fields = {name.removeprefix("model."): given[name] for name in model_names if name in given}
    paths = RunPaths(**{f.name: given[f.name] for f in fields(RunPaths)})
    recipe = Recipe(**{f.name: given[f.name] for f in fields(Recipe)})
    return paths, recipe, MODEL_SIZES.get(recipe.model_size, {}) | model_fields
