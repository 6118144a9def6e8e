"""Train IVT on a corpus of person pictures and captions.

    accelerate launch train_hf.py --config recipes/cuhk_pedes.yaml --corpus_root data/CUHK-PEDES --output_dir runs/cuhk
    accelerate launch train_hf.py --config recipes/demo.yaml --output_dir runs/demo --max_minutes 8

A recipe is a yaml file; every field of it can be given on the command line too, which wins (`--learning_rate 0.01`,
`--model.hidden_size 192`). Read this file top to bottom: recipe, data, model, optimiser, checkpoints, loop.

OUTPUT_DIR holds `best` (chosen on the validation split) and `final`, both in Hub format; `checkpoints/` for
`--resume`; `metrics.jsonl`, a line per logged step and per validation; `curves.png`.
"""

import logging
import math
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, set_seed
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils.data import DataLoader
from transformers.utils.logging import disable_progress_bar

from corpora import load_corpus
from processing import IVTProcessor
from processing.batches import PairCollator, TrainingPairs
from processing.caption_augmentation import CaptionAugmentation
from processing.levels import add_levels
from processing.samplers import BalancedSampler, PairSampler
from processing.views import TrainingViews
from retrieval.evaluation import evaluate_retrieval
from training.backward import backward
from training.checkpoints import Progress, find_checkpoints, open_output, resume, save_checkpoint, save_model
from training.distributed import build_accelerator, embed_in_shares, prepare
from training.initialization import build_model
from training.objectives import Objective
from training.optimization import build_optimizer, learning_rate_factor
from training.recipe import Recipe, RunPaths, parse_arguments
from training.runlog import RunLog


def load_data(paths: RunPaths, recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Training rows with their text levels, and validation rows."""
    options = {"on_bad_image": recipe.on_bad_image}
    train_options = {"num_people": recipe.num_people} if recipe.corpus == "synthetic" else {}
    train = load_corpus(recipe.corpus, paths.corpus_root, "train", **options, **train_options)
    validation = load_corpus(recipe.corpus, paths.corpus_root, "val", **options)
    return add_levels(train), validation


def build_loader(rows: Dataset, processor: IVTProcessor, recipe: Recipe, num_processes: int) -> DataLoader:
    """Training batches, in an order that depends on seed and epoch alone."""
    views = TrainingViews(
        recipe.num_views,
        padding=recipe.crop_pad,
        flip=recipe.flip,
        erase=recipe.erase,
        rand_augment=recipe.rand_augment,
        rand_augment_magnitude=recipe.rand_augment_magnitude,
    )
    pairs = TrainingPairs(
        rows,
        processor,
        recipe.levels,
        views,
        recipe.seed,
        recipe.cache_images,
        flip_words=recipe.flip_words,
        caption_augmentation=CaptionAugmentation(recipe.swap_synonyms, recipe.drop_attributes, recipe.drop_phrases),
    )
    pairs_of_all = recipe.batch_size * num_processes  # what the processes share is arranged by length or person
    if recipe.pairs_per_person:
        sampler = BalancedSampler(pairs.pair_person_ids, pairs_of_all, recipe.pairs_per_person, recipe.seed)
    else:
        window = 50 if recipe.group_by_length else 1
        sampler = PairSampler(pairs.caption_lengths, pairs_of_all, recipe.seed, window)
    return DataLoader(
        pairs,
        recipe.batch_size,
        sampler=sampler,
        collate_fn=PairCollator(processor),
        num_workers=recipe.num_workers,
        drop_last=True,
    )


def validate(accelerator: Accelerator, objective: nn.Module, processor: IVTProcessor, rows: Dataset) -> dict[str, Any]:
    """Evaluate, each process embedding a share, and let all go by what the first one found."""
    share = partial(embed_in_shares, accelerator)
    metrics = evaluate_retrieval(accelerator.unwrap_model(objective), processor, rows, progress=False, share=share)
    return broadcast_object_list([metrics])[0]


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


def train_on_batch(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Any],
    recipe: Recipe,
    factor: float,
) -> torch.Tensor:
    """Add the gradient of one batch, and step if it is the last of a step; `factor` scales all learning rates."""
    for group in optimizer.param_groups:  # before `backward`, where DeepSpeed takes its step
        group["lr"] = factor * group["initial_lr"]
    with accelerator.accumulate(objective):
        loss = backward(accelerator, objective, batch, recipe.cached_chunk)
        if accelerator.sync_gradients and recipe.max_grad_norm:
            accelerator.clip_grad_norm_(objective.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return loss


def train(paths: RunPaths, recipe: Recipe, model_fields: dict[str, Any]) -> None:
    """Train, validating as the recipe says, and leave `best` and `final` in the output folder."""
    accelerator = build_accelerator(recipe)
    if not accelerator.is_main_process:
        logging.disable(logging.WARNING)  # once is enough
    output_dir = Path(paths.output_dir)
    set_seed(recipe.seed)  # the same first weights in every process
    model, processor, origin = build_model(recipe, model_fields)
    for line in origin:
        accelerator.print(line)
    with accelerator.main_process_first():  # the first one draws, decodes and caches, the others read
        if accelerator.is_main_process:
            open_output(output_dir, recipe, model_fields, paths.resume)
        train_rows, validation_rows = load_data(paths, recipe)
    loader = build_loader(train_rows, processor, recipe, accelerator.num_processes)
    objective = Objective(model, recipe, train_rows["person_id"])
    objective, optimizer, loader = prepare(accelerator, objective, build_optimizer(objective, recipe), loader)
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
        objective.train()
        loader.set_epoch(progress.epoch)
        for batch in accelerator.skip_first_batches(loader, progress.batch):
            # hidden tokens and dropout depend on where the run stands alone, so a resumed run draws the same ones
            place = (recipe.seed, progress.epoch, progress.batch, accelerator.process_index)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
            factor = learning_rate_factor(progress.step, warmup_steps, done, recipe.min_lr_ratio)
            losses.append(train_on_batch(accelerator, objective, optimizer, batch, recipe, factor))
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            accelerator.unwrap_model(objective).update_average(progress.step)
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
            metrics = validate(accelerator, objective, processor, validation_rows)
            new_best = metrics["text_to_image"]["R@1"] > progress.best
            if new_best:
                progress.best = metrics["text_to_image"]["R@1"]
                save_model(accelerator, objective, processor, output_dir / "best")
            if log:
                log.write_validation(progress, metrics, new_best)
        save_checkpoint(accelerator, output_dir, progress.step, recipe.keep_checkpoints)
    save_model(accelerator, objective, processor, output_dir / "final")
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
