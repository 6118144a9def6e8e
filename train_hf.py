"""Train IVT on a corpus of person pictures and captions.

    accelerate launch train_hf.py --config recipes/cuhk_pedes.yaml --corpus_root data/CUHK-PEDES --output_dir runs/cuhk
    accelerate launch train_hf.py --config recipes/demo.yaml --output_dir runs/demo --max_minutes 8

A recipe is a yaml file; every field of it can be given on the command line too, which wins (`--learning_rate 0.01`,
`--model.hidden_size 192`). Read this file top to bottom: recipe, data, model, optimiser, checkpoints, loop.

OUTPUT_DIR holds `best` (chosen on the validation split) and `final`, both in Hub format; `checkpoints/` for
`--resume`; `metrics.jsonl`, a line per logged step and per validation; `curves.png`.
"""

import difflib
import json
import logging
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast, broadcast_object_list, set_seed
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoTokenizer, HfArgumentParser
from transformers.utils.logging import disable_progress_bar

from corpora import load_corpus
from modeling_ivt import IVTConfig, IVTModel, cmpm_loss, itc_loss
from modeling_ivt.checkpoints import load_checkpoint
from processing import IVTImageProcessor, IVTProcessor
from processing.batches import PairCollator, PairSampler, TrainingPairs
from processing.levels import add_levels
from processing.views import TrainingViews
from retrieval.evaluation import evaluate_retrieval

# fields that change nothing about what is learnt, so a resumed run may have other ones
COMFORT_FIELDS = {"log_steps", "save_steps", "keep_checkpoints", "num_workers", "cache_images"}


@dataclass
class RunPaths:
    """Where a run reads and writes; differs from machine to machine."""

    output_dir: str = field(default="runs/ivt", metadata={"help": "folder for models, checkpoints and metrics"})
    corpus_root: str | None = field(default=None, metadata={"help": "folder of the corpus (synthetic: the cache)"})
    resume: bool = field(default=False, metadata={"help": "go on from the newest checkpoint in output_dir"})


@dataclass
class Recipe:
    """How to train; what two runs must share to be comparable. The defaults are the paper's."""

    corpus: str = field(default="synthetic", metadata={"help": "cuhk-pedes, icfg-pedes, rstpreid or synthetic"})
    num_people: int | None = field(default=None, metadata={"help": "synthetic: people to draw for training"})
    on_bad_image: str = field(default="error", metadata={"help": "error, or skip images that cannot be read"})
    init: str | None = field(default=None, metadata={"help": "IVT checkpoint to begin with; default: random weights"})
    tokenizer: str = field(default="google-bert/bert-base-uncased", metadata={"help": "Hub name or folder"})
    max_text_tokens: int = field(default=64, metadata={"help": "longer captions are cut off"})

    levels: list[str] = field(
        default_factory=lambda: ["sentence", "phrase", "word"], metadata={"help": "text levels of MLA"}
    )
    num_views: int = field(default=3, metadata={"help": "augmented views per image: 1 for all texts, or one a level"})
    flip: float = field(default=0.5, metadata={"help": "probability that a view is mirrored"})
    erase: float = field(default=0.5, metadata={"help": "probability that a rectangle of a view is erased"})
    crop_pad: int = field(default=10, metadata={"help": "pixels of padding before the random crop"})
    cmpm_weight: float = field(default=1.0, metadata={"help": "weight of the CMPM loss"})
    itc_weight: float = field(default=0.0, metadata={"help": "weight of the contrastive loss"})
    embedding_length: float | None = field(
        default=None,
        metadata={"help": "length of a new model's embeddings, the losses' inverse temperature; default: sqrt(width)"},
    )

    optimizer: str = field(default="sgd", metadata={"help": "sgd or adamw"})
    learning_rate: float = field(default=0.005, metadata={"help": "highest learning rate, after the warm-up"})
    bias_lr_factor: float = field(default=2.0, metadata={"help": "biases learn at this multiple of learning_rate"})
    momentum: float = field(default=0.9, metadata={"help": "of sgd"})
    weight_decay: float = field(default=1e-4, metadata={"help": "of all weights with sgd, of matrices with adamw"})
    warmup_epochs: float = field(default=5.0, metadata={"help": "epochs in which learning_rate grows from 0"})
    min_lr_ratio: float = field(default=0.002, metadata={"help": "the cosine ends at this share of learning_rate"})
    max_grad_norm: float | None = field(default=None, metadata={"help": "clip the gradient to this length"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "batches per optimiser step"})
    mixed_precision: str = field(default="no", metadata={"help": "no, fp16 or bf16"})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "less memory for a third more time"})
    batch_size: int = field(default=28, metadata={"help": "image-caption pairs per process and batch"})
    text_groups: int = field(default=1, metadata={"help": "embed the texts of a batch in so many groups by length"})
    group_by_length: bool = field(default=False, metadata={"help": "batch captions of similar length: less padding"})

    epochs: int = field(default=120, metadata={"help": "times every image-caption pair is seen"})
    max_steps: int | None = field(default=None, metadata={"help": "optimiser steps, instead of epochs"})
    max_minutes: float | None = field(default=None, metadata={"help": "end earlier, after this many minutes"})
    seed: int = field(default=0, metadata={"help": "of first weights, order, augmentation and hidden tokens"})

    eval_epochs: int = field(default=1, metadata={"help": "validate every so many epochs"})
    log_steps: int = field(default=50, metadata={"help": "write a line of metrics every so many steps"})
    save_steps: int | None = field(default=None, metadata={"help": "checkpoint every so many steps, too"})
    keep_checkpoints: int = field(default=2, metadata={"help": "older checkpoints are deleted"})
    num_workers: int = field(default=2, metadata={"help": "processes that decode and augment; 0: none"})
    cache_images: bool = field(default=False, metadata={"help": "keep all resized images in memory as bytes"})

    def __post_init__(self) -> None:
        """Check what would otherwise show up late."""
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer is {self.optimizer!r}; choose sgd or adamw")
        if not (self.cmpm_weight or self.itc_weight):
            raise ValueError("cmpm_weight and itc_weight are both 0: there is no loss; give one of them a weight")
        for name in ("batch_size", "epochs", "eval_epochs", "log_steps", "keep_checkpoints", "text_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def _config_value(text: str) -> Any:
    """A value of `IVTConfig` from the command line; json reads 1e-1 as a number, yaml does not."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def _yaml_arguments(path: str) -> list[str]:
    """A recipe file as command-line arguments: `{"seed": 1, "model": {"hidden_size": 64}}` -> `--seed 1 --model…`."""
    if not Path(path).is_file():
        raise ValueError(f"there is no recipe {path}; pass a yaml file, those of this project lie in recipes/")
    recipe = yaml.safe_load(Path(path).read_text())
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model") or {}, dict):
        raise ValueError(
            f"{path} is no recipe: expected a mapping `field: value`, and one of IVTConfig under `model:`"
        )
    model = {f"model.{name}": json.dumps(value) for name, value in (recipe.pop("model", None) or {}).items()}
    arguments = []
    for name, value in (recipe | model).items():
        if value is not None:
            arguments += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return arguments


def parse_arguments(argv: list[str] | None = None) -> tuple[RunPaths, Recipe, dict[str, Any]]:
    """Read the yaml file named by `--config`, then the command line, which wins.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Run paths, recipe, and the fields of `IVTConfig` that were given (yaml: under `model:`).

    Raises:
        ValueError: for a field that does not exist, naming the nearest one.
    """
    parser = HfArgumentParser([RunPaths, Recipe], allow_abbrev=False, description=__doc__.split("\n")[0])
    parser.add_argument("--config", help="yaml file with any of these fields; IVTConfig's under `model:`")
    for name in IVTConfig.__annotations__:
        if name != "model_type":
            parser.add_argument(f"--model.{name}", type=_config_value, metavar="VALUE", help="see IVTConfig")
    known = parser.parse_known_args(argv)[0]
    arguments = _yaml_arguments(known.config) if known.config else []
    # the file's fields become arguments in front of those typed, so that one parser checks both and the last one wins
    namespace, unknown = parser.parse_known_args(arguments + (sys.argv[1:] if argv is None else argv))
    names = [option.removeprefix("--") for option in parser._option_string_actions if option.startswith("--")]
    for argument in unknown:
        if argument.startswith("--"):
            name = argument.removeprefix("--").split("=")[0]
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise ValueError(f"there is no field {name!r}; the nearest is {nearest!r}, --help lists all")
    if unknown:
        raise ValueError(f"arguments without a field in front: {' '.join(unknown)}; write --field value")
    given = vars(namespace)
    model_fields = {k.removeprefix("model."): v for k, v in given.items() if k.startswith("model.") and v is not None}
    paths = RunPaths(**{f.name: given[f.name] for f in fields(RunPaths)})
    return paths, Recipe(**{f.name: given[f.name] for f in fields(Recipe)}), model_fields


def load_data(paths: RunPaths, recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Training rows with their text levels, and validation rows."""
    options = {"on_bad_image": recipe.on_bad_image}
    train_options = {"num_people": recipe.num_people} if recipe.corpus == "synthetic" else {}
    train = load_corpus(recipe.corpus, paths.corpus_root, "train", **options, **train_options)
    validation = load_corpus(recipe.corpus, paths.corpus_root, "val", **options)
    return add_levels(train), validation


def build_model(recipe: Recipe, model_fields: dict[str, Any]) -> tuple[IVTModel, IVTProcessor]:
    """The model, new or from `recipe.init`, and the processor that fits it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer, model_max_length=recipe.max_text_tokens)
    except OSError as error:
        raise ValueError(
            f"tokenizer {recipe.tokenizer!r} is no folder below {Path.cwd()} and cannot be had from the Hub; start in "
            f"the folder the recipe's paths are meant from, or pass --tokenizer. The Hub said: {error}"
        ) from error
    if recipe.init is None:
        vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        model = IVTModel(IVTConfig(**(vocabulary | model_fields)))
        if recipe.embedding_length:  # what leaves a LayerNorm has length weight * sqrt(width)
            nn.init.constant_(model.layernorm.weight, recipe.embedding_length / math.sqrt(model.config.hidden_size))
    else:
        model = load_checkpoint(recipe.init, dtype=torch.float32, **model_fields)
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
    height, width = model.config.image_size
    return model, IVTProcessor(IVTImageProcessor(size={"height": height, "width": width}), tokenizer)


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as in the paper, or AdamW; biases have a rate of their own, they and norms do not decay with AdamW."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_bias = name.endswith(".bias")
        decays = recipe.optimizer == "sgd" or (parameter.ndim > 1 and "embeddings" not in name)
        key = (recipe.bias_lr_factor if is_bias else 1.0, recipe.weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": params,
            "lr": recipe.learning_rate * factor,
            "initial_lr": recipe.learning_rate * factor,
            "weight_decay": decay,
        }
        for (factor, decay), params in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=recipe.momentum)
    return torch.optim.AdamW(parameters, betas=(0.9, 0.98), fused=True)


def learning_rate_factor(step: int, warmup_steps: int, progress: float, min_lr_ratio: float) -> float:
    """Linear warm-up times a cosine over the whole run: 1 at its best, `min_lr_ratio` where `progress` reaches 1."""
    warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return warmup * (min_lr_ratio + (1.0 - min_lr_ratio) * cosine)


class GatherWithGradient(torch.autograd.Function):
    """(B, D) of every process to (processes * B, D) on each, with the exact gradient.

    Every process computes the same loss over the whole batch; the gradients that all of them send to a process's rows
    are summed here, and DDP's mean over the processes then gives the gradient of that one loss.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate the rows of all processes in the order of their ranks."""
        ctx.batch_size = len(rows)
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, and keep the part of this process's rows."""
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient[ctx.batch_size * torch.distributed.get_rank() :][: ctx.batch_size]


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint (accelerate asks for `state_dict` and `load_state_dict`)."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps in all
    seconds: float = 0.0  # of training, over all resumed parts
    best: float = -1.0  # text-to-image R@1 of the best validation so far, in percent
    num_processes: int = 1  # a resumed run must share the batches out in the same way

    def state_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all fields."""
        self.__dict__.update(state)


class RunLog:
    """What a person sees of a run: the progress bar, a line per logged step in `metrics.jsonl`, and `curves.png`."""

    def __init__(self, folder: Path, step: int, total_steps: int):
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if step and self.path.exists() else []
        records = (json.loads(line) for line in lines if line.endswith("\n"))  # a kill may have cut the last one short
        # what an interrupted run wrote after its last checkpoint is about to be done again
        self.records = [record for record in records if record["step"] <= step]
        new = self.path.with_name("metrics.jsonl.new")
        new.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        new.replace(self.path)
        self.bar = tqdm(total=total_steps, initial=step, unit="step", desc="training", dynamic_ncols=True)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def advance(self, step: int, done: float) -> None:
        """Move the bar on; `done` is the share of the run that is over, whether steps or minutes end it."""
        self.bar.total = max(step, round(step / done))
        self.bar.update(step - self.bar.n)

    def write_step(self, progress: Progress, loss: float, learning_rate: float, pairs_per_step: int) -> None:
        """Append a line on the training steps since the last one."""
        rate = pairs_per_step * progress.step / progress.seconds
        self.bar.set_postfix(loss=f"{loss:.3f}", pairs_per_second=f"{rate:.0f}")
        self.write(
            {
                "step": progress.step,
                "epoch": progress.epoch,
                "seconds": round(progress.seconds, 1),
                "loss": loss,
                "learning_rate": learning_rate,
            }
        )

    def write_validation(self, progress: Progress, metrics: dict[str, Any], new_best: bool) -> None:
        """Append a validation, print it above the bar and draw the curves anew."""
        self.write({"step": progress.step, "epoch": progress.epoch, "validation": metrics})
        figures = "  ".join(f"{name} {metrics['text_to_image'][name]:.1f}" for name in ("R@1", "R@5", "R@10", "mAP"))
        mark = "  (best so far)" if new_best else ""
        self.bar.write(f"step {progress.step}, {progress.seconds / 60:.1f} min: validation {figures}{mark}")
        self.draw_curves()

    def draw_curves(self) -> None:
        """Draw loss and validation accuracy over the optimiser steps."""
        figure = Figure(figsize=(10, 4), layout="constrained")
        loss_axes, recall_axes = figure.subplots(1, 2)
        losses = [r for r in self.records if "loss" in r]
        validations = [r for r in self.records if "validation" in r]
        loss_axes.plot([r["step"] for r in losses], [r["loss"] for r in losses])
        loss_axes.set(title="training", xlabel="optimiser step", ylabel="loss")
        for name in ("R@1", "R@5", "R@10", "mAP"):
            values = [r["validation"]["text_to_image"][name] for r in validations]
            recall_axes.plot([r["step"] for r in validations], values, marker="o", markersize=3, label=name)
        recall_axes.set(title="validation, text to image", xlabel="optimiser step", ylabel="percent", ylim=(0, 100))
        recall_axes.legend()
        figure.savefig(self.path.with_name("curves.png"), dpi=120)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one; after a power cut either is whole."""
    for path in (*new.rglob("*"), new):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_model(accelerator: Accelerator, model: nn.Module, processor: IVTProcessor, folder: Path) -> None:
    """Save model, processor and code in Hub format; `folder` is at no moment half-written."""
    state = accelerator.get_state_dict(model)  # collective: gathers what FSDP and DeepSpeed keep apart
    if accelerator.is_main_process:
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        accelerator.unwrap_model(model).save_pretrained(new, state_dict=state)
        processor.save_pretrained(new)
        replace_folder(new, folder)
    accelerator.wait_for_everyone()


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((output_dir / "checkpoints").glob("step-????????"))


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, keep: int) -> None:
    """Save all that `--resume` needs; a checkpoint that bears its final name is complete, older ones go afterwards."""
    new = output_dir / "checkpoints" / "unfinished"
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        replace_folder(new, new.with_name(f"step-{step:08d}"))
        for old in find_checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, output_dir: Path, progress: Progress) -> None:
    """Load the newest checkpoint."""
    checkpoints = find_checkpoints(output_dir)
    if not checkpoints:
        raise ValueError(f"--resume found no checkpoint in {output_dir / 'checkpoints'}; start without --resume")
    accelerator.load_state(str(checkpoints[-1]))
    if progress.num_processes != accelerator.num_processes:
        raise ValueError(
            f"{checkpoints[-1]} was saved by {progress.num_processes} processes, these are "
            f"{accelerator.num_processes}; resume with as many, or start anew with --init {output_dir / 'best'}"
        )
    accelerator.print(f"resuming from {checkpoints[-1]}")


def embed_batch(model: nn.Module, batch: dict[str, Any], text_groups: int) -> tuple[torch.Tensor, ...]:
    """Embed images (V*B, D) and texts (T*B, D), and give the person ids of both.

    The texts are sorted by length and embedded in groups, each padded to its own longest: words and phrases are short,
    and padding all texts to the longest sentence would be most of the work.
    """
    lengths = batch["attention_mask"].sum(dim=1)
    order = lengths.argsort(descending=True)
    groups = []
    for rows in order.chunk(text_groups):
        longest = int(lengths[rows[0]])
        groups.append({name: batch[name][rows, :longest] for name in ("input_ids", "attention_mask")})
    output = model(pixel_values=batch["pixel_values"], **groups[0], cls_only=True)
    text_embeds = [output.text_embeds, *(model(**group, cls_only=True).text_embeds for group in groups[1:])]
    return output.image_embeds, torch.cat(text_embeds), batch["person_ids"], batch["text_person_ids"][order]


def gathered_loss(accelerator: Accelerator, model: nn.Module, batch: dict[str, Any], recipe: Recipe) -> torch.Tensor:
    """The loss over the embeddings of all processes, so that each is a negative for all others."""
    image_embeds, text_embeds, *person_ids = embed_batch(model, batch, recipe.text_groups)
    embeds = [image_embeds.float(), text_embeds.float()]
    if accelerator.num_processes > 1:
        embeds = [GatherWithGradient.apply(rows) for rows in embeds]
        person_ids = [accelerator.gather(ids) for ids in person_ids]
    losses = ((recipe.cmpm_weight, cmpm_loss), (recipe.itc_weight, itc_loss))
    return sum(weight * loss(*embeds, *person_ids) for weight, loss in losses if weight)


def build_loader(rows: Dataset, processor: IVTProcessor, recipe: Recipe, num_processes: int) -> DataLoader:
    """Training batches, in an order that depends on seed and epoch alone."""
    views = TrainingViews(recipe.num_views, padding=recipe.crop_pad, flip=recipe.flip, erase=recipe.erase)
    pairs = TrainingPairs(rows, processor, recipe.levels, views, recipe.seed, recipe.cache_images)
    # pairs of one step are alike in length, also where several processes share the step
    sampler = PairSampler(
        pairs.caption_lengths,
        recipe.batch_size * num_processes,
        recipe.seed,
        window=50 if recipe.group_by_length else 1,
    )
    return DataLoader(
        pairs,
        recipe.batch_size,
        sampler=sampler,
        collate_fn=PairCollator(processor),
        num_workers=recipe.num_workers,
        drop_last=True,
    )


def validate(accelerator: Accelerator, model: nn.Module, processor: IVTProcessor, rows: Dataset) -> dict[str, Any]:
    """Evaluate on the first process and tell the others."""
    metrics = [None]
    if accelerator.is_main_process:
        metrics[0] = evaluate_retrieval(accelerator.unwrap_model(model), processor, rows, progress=False)
    return broadcast_object_list(metrics)[0]


def open_output(output_dir: Path, recipe: Recipe, model_fields: dict[str, Any], resumed: bool) -> None:
    """Make the output folder and write the recipe to it; refuse to mix two runs, or two recipes in one."""
    found = find_checkpoints(output_dir)
    if found and not resumed:
        raise ValueError(f"{output_dir} holds a run (up to {found[-1].name}); pass --resume or another --output_dir")
    written, path = asdict(recipe) | {"model": model_fields}, output_dir / "recipe.yaml"
    if resumed and path.exists():
        before = yaml.safe_load(path.read_text())
        changed = [name for name in written if name not in COMFORT_FIELDS and written[name] != before.get(name)]
        if changed:
            differences = ", ".join(f"{name} {before.get(name)} -> {written[name]}" for name in changed)
            raise ValueError(
                f"the run in {output_dir} had another recipe ({differences}); resume it with its own, "
                f"--config {path}, or start a new one with --init {output_dir / 'best'}"
            )
    (output_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(written, sort_keys=False))


def mean_loss(losses: list[torch.Tensor], step: int, output_dir: Path) -> float:
    """Mean of some losses.

    Raises:
        FloatingPointError: if the mean is not finite, so that no such state is saved.
    """
    mean = torch.stack(losses).mean().item()
    if not math.isfinite(mean):
        good = find_checkpoints(output_dir)
        raise FloatingPointError(
            f"the loss is {mean} at step {step}; lower learning_rate, set max_grad_norm or use mixed_precision no. "
            f"Last good checkpoint: {good[-1] if good else 'none yet'}"
        )
    return mean


def train(paths: RunPaths, recipe: Recipe, model_fields: dict[str, Any]) -> None:
    """Train, validating as the recipe says, and leave `best` and `final` in the output folder."""
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision, gradient_accumulation_steps=recipe.gradient_accumulation_steps
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"{accelerator.distributed_type} is not supported yet: validation needs the whole model; use DDP"
        )
    if not accelerator.is_main_process:
        logging.disable(logging.WARNING)  # once is enough
    output_dir = Path(paths.output_dir)
    set_seed(recipe.seed)  # the same first weights in every process
    model, processor = build_model(recipe, model_fields)
    with accelerator.main_process_first():  # the first one draws, decodes and caches, the others read
        if accelerator.is_main_process:
            open_output(output_dir, recipe, model_fields, paths.resume)
        train_rows, validation_rows = load_data(paths, recipe)
    loader = build_loader(train_rows, processor, recipe, accelerator.num_processes)
    model, optimizer, loader = accelerator.prepare(model, build_optimizer(model, recipe), loader)
    progress = Progress(num_processes=accelerator.num_processes)
    accelerator.register_for_checkpointing(progress)
    if paths.resume:
        resume(accelerator, output_dir, progress)

    steps_per_epoch = math.ceil(len(loader) / recipe.gradient_accumulation_steps)
    total_steps = recipe.max_steps or recipe.epochs * steps_per_epoch
    warmup_steps = round(recipe.warmup_epochs * steps_per_epoch)
    time_limit = 60 * recipe.max_minutes if recipe.max_minutes else math.inf
    pairs_per_step = recipe.batch_size * recipe.gradient_accumulation_steps * accelerator.num_processes
    accelerator.print(
        f"{len(loader.dataset)} image-caption pairs, {pairs_per_step} a step on {accelerator.num_processes} "
        f"process(es); {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"
    )
    log = RunLog(output_dir, progress.step, total_steps) if accelerator.is_main_process else None
    started = time.perf_counter() - progress.seconds
    done = max(progress.step / total_steps, progress.seconds / time_limit)  # share of the run, 1 at its end
    losses: list[torch.Tensor] = []
    while done < 1:
        model.train()
        loader.set_epoch(progress.epoch)
        for batch in accelerator.skip_first_batches(loader, progress.batch):
            # hidden tokens and dropout depend on where the run stands alone, so a resumed run draws the same ones
            place = (recipe.seed, progress.epoch, progress.batch, accelerator.process_index)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
            with accelerator.accumulate(model):
                loss = gathered_loss(accelerator, model, batch, recipe)
                accelerator.backward(loss)
                if accelerator.sync_gradients and recipe.max_grad_norm:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                factor = learning_rate_factor(progress.step, warmup_steps, done, recipe.min_lr_ratio)
                for group in optimizer.param_groups:
                    group["lr"] = factor * group["initial_lr"]
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            progress.seconds = time.perf_counter() - started
            done = max(progress.step / total_steps, progress.seconds / time_limit)
            if recipe.max_minutes:  # clocks differ: all follow the first process, or their learning rates would part
                done = broadcast(torch.tensor(done, device=accelerator.device)).item()
            if log:
                log.advance(progress.step, done)
            saves = recipe.save_steps and progress.step % recipe.save_steps == 0
            if saves or done >= 1 or progress.step % recipe.log_steps == 0:
                mean = mean_loss(losses, progress.step, output_dir)
                losses.clear()
                if log:
                    log.write_step(progress, mean, factor * recipe.learning_rate, pairs_per_step)
            if done >= 1:
                break
            if saves:
                save_checkpoint(accelerator, output_dir, progress.step, recipe.keep_checkpoints)
        else:  # not broken off: the epoch is complete
            progress.epoch, progress.batch = progress.epoch + 1, 0
            if losses:  # nothing that is not finite gets saved below
                mean_loss(losses, progress.step, output_dir)
        if done >= 1 or progress.epoch % recipe.eval_epochs == 0:
            metrics = validate(accelerator, model, processor, validation_rows)
            new_best = metrics["text_to_image"]["R@1"] > progress.best
            if new_best:
                progress.best = metrics["text_to_image"]["R@1"]
                save_model(accelerator, model, processor, output_dir / "best")
            if log:
                log.write_validation(progress, metrics, new_best)
        save_checkpoint(accelerator, output_dir, progress.step, recipe.keep_checkpoints)
    save_model(accelerator, model, processor, output_dir / "final")
    if log:
        log.bar.close()
    accelerator.print(
        f"best validation R@1 {progress.best:.1f} % after {progress.seconds / 60:.1f} minutes; models in "
        f"{output_dir / 'best'} and {output_dir / 'final'}"
    )
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    disable_progress_bar()  # transformers' own, for the few moments of writing weights
    try:
        train(*parse_arguments())
    except (ValueError, OSError, StrictDataclassError) as error:
        # of several processes the first one speaks
        sys.exit(f"error: {error}" if os.environ.get("RANK", "0") == "0" else 1)
