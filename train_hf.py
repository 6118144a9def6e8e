"""Train IVT on a corpus of person pictures and captions.

    accelerate launch train_hf.py --config cuhk_pedes --corpus_root data/CUHK-PEDES --output_dir runs/cuhk
    accelerate launch train_hf.py --config demo --output_dir runs/demo --max_minutes 8

Where the package is installed, `accelerate launch -m train_hf …` runs this file too, and so does `ivt train …` in one
process. A recipe is a yaml file, or the name of a packaged one; every field of it can be given on the command line
too, which wins (`--learning_rate 0.01`, `--model.hidden_size 192`). Read this file top to bottom: recipe, data, model,
optimiser, checkpoints, loop.

OUTPUT_DIR holds `best` (chosen on the validation split) and `final`, both in Hub format; `checkpoints/` for
`--resume`; `metrics.jsonl`, a line per logged step and per validation; `curves.png`; `run.json`, what the run was and
what came out (see `training/record.py`). The test split is read once, when training is over.
"""

import logging
import math
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, set_seed
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers.utils.logging import disable_progress_bar

from ivt.corpora import load_corpus
from ivt.corpora.official import LAYOUTS, find_annotations
from ivt.corpora.sharded import ShardedRows, find_shards
from ivt.errors import exit_on_error
from ivt.retrieval.checkpoints import load_checkpoint
from ivt.retrieval.evaluation import evaluate_as_reference, evaluate_retrieval
from ivt.training.backward import backward
from ivt.training.checkpoints import (
    Progress,
    best_is_saved,
    delete_replaced,
    open_output,
    resume,
    save_checkpoint,
    save_model,
)
from ivt.training.distributed import build_accelerator, embed_in_shares, prepare
from ivt.training.dry_run import estimate_cost
from ivt.training.initialization import build_model
from ivt.training.objectives import Objective
from ivt.training.optimization import Schedule, build_optimizer, learning_rate_factor
from ivt.training.recipe import Recipe, RunPaths, parse_arguments
from ivt.training.record import (
    describe_sizes,
    hash_rows,
    is_finished,
    resume_record,
    start_record,
    summarise_seeds,
)
from ivt.training.runlog import RunLog, figures_of
from ivt.training.tracking import check_trackers, start_trackers
from ivt.training.watch import LossWatch
from processing import IVTProcessor
from processing.batches import PairCollator, StreamedPairs, TrainingPairs
from processing.caption_augmentation import CaptionAugmentation
from processing.levels import add_levels
from processing.samplers import BalancedSampler, PairSampler, ShardSampler
from processing.views import TrainingViews


def check_corpus(paths: RunPaths, recipe: Recipe) -> None:
    """Raise a ValueError at once if the corpus is not there, not when weights were fetched, or a test begins."""
    if recipe.corpus in LAYOUTS:
        find_annotations(recipe.corpus, paths.corpus_root)
    if recipe.corpus == "shards":
        find_shards(paths.corpus_root, "train")
        try:
            if recipe.test_at_end:
                find_shards(paths.corpus_root, "test")
        except ValueError as error:
            raise ValueError(f"{error}, or pass --test_at_end no") from error


def load_data(paths: RunPaths, recipe: Recipe) -> tuple[Dataset | ShardedRows, Dataset]:
    """Training rows with their text levels, and validation rows."""
    options = {"on_bad_image": recipe.on_bad_image}
    if recipe.streaming:  # the rows stay on the disk, the text levels are in the shards or worked out on the way
        return ShardedRows(paths.corpus_root, "train"), load_corpus(recipe.corpus, paths.corpus_root, "val", **options)
    train_options = {"num_people": recipe.num_people} if recipe.corpus == "synthetic" else {}
    train = load_corpus(recipe.corpus, paths.corpus_root, "train", **options, **train_options)
    validation = load_corpus(recipe.corpus, paths.corpus_root, "val", **options)
    return add_levels(train), validation


def build_loader(
    rows: Dataset | ShardedRows, processor: IVTProcessor, recipe: Recipe, num_processes: int
) -> DataLoader:
    """Training batches, in an order that depends on seed and epoch alone."""
    views = TrainingViews(
        recipe.num_views,
        padding=recipe.crop_pad,
        flip=recipe.flip,
        erase=recipe.erase,
        rand_augment=recipe.rand_augment,
        rand_augment_magnitude=recipe.rand_augment_magnitude,
    )
    augmentation = {
        "levels": recipe.levels,
        "views": views,
        "seed": recipe.seed,
        "flip_words": recipe.flip_words,
        "caption_augmentation": CaptionAugmentation(recipe.swap_synonyms, recipe.drop_attributes, recipe.drop_phrases),
    }
    pairs_of_all = recipe.batch_size * num_processes  # what the processes share is arranged by length or person
    if recipe.streaming:
        pairs = StreamedPairs(rows, processor, **augmentation)
        lengths = rows.caption_lengths if recipe.group_by_length else None
        sampler = ShardSampler(
            rows.pairs_per_shard, recipe.batch_size, num_processes, recipe.seed, recipe.stream_buffer, lengths
        )
    else:
        pairs = TrainingPairs(rows, processor, recipe.cache_images, **augmentation)
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
    model, share = accelerator.unwrap_model(objective), partial(embed_in_shares, accelerator)
    progress = accelerator.is_main_process and sys.stderr.isatty()
    metrics = evaluate_retrieval(model, processor, rows, progress=progress, share=share)
    return broadcast_object_list([metrics])[0]


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


def test_models(
    paths: RunPaths, recipe: Recipe, processor: IVTProcessor, device: torch.device, record: dict[str, Any]
) -> None:
    """Read the test split and evaluate `best` and `final` on it, as they were saved; the record takes the figures."""
    rows = load_corpus(recipe.corpus, paths.corpus_root, "test", on_bad_image=recipe.on_bad_image)
    record["corpus"]["sizes"]["test"], record["corpus"]["hash"]["test"] = describe_sizes(rows), hash_rows(rows)
    evaluate = evaluate_retrieval if recipe.protocol == "standard" else evaluate_as_reference
    results: dict[str, Any] = {}
    for name in ("best", "final"):
        if name == "final" and record["results"]["validation"]["step"] == record["steps"]:
            results[name] = results["best"]  # the same weights
        else:
            model = load_checkpoint(str(Path(paths.output_dir) / name), dtype=torch.float32).to(device)
            results[name] = evaluate(model, processor, rows, progress=sys.stderr.isatty())
        print(f"test, {name}: {figures_of(results[name])}")
    record["results"]["test"] = results


def dry_run(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    processor: IVTProcessor,
    validation_rows: Dataset,
    recipe: Recipe,
    schedule: Schedule,
) -> None:
    """Measure a few steps and part of a validation, and print what the run would cost."""
    part = validation_rows.select(range(min(64, len(validation_rows))))
    started = time.perf_counter()
    validate(accelerator, objective, processor, part)
    seconds = (time.perf_counter() - started) * len(validation_rows) / len(part)
    num_validations = math.ceil(schedule.total_steps / schedule.steps_per_epoch / recipe.eval_epochs)
    objective.train()
    cost = estimate_cost(
        accelerator,
        objective,
        optimizer,
        loader,
        lambda batch: train_on_batch(accelerator, objective, optimizer, batch, recipe, factor=1.0),
        schedule,
        num_validations * seconds,
    )
    accelerator.print(cost)


def train(paths: RunPaths, recipe: Recipe, model_fields: dict[str, Any]) -> None:
    """Train, validating as the recipe says, and leave `best` and `final` in the output folder."""
    output_dir = Path(paths.output_dir)
    check_trackers(paths.trackers)
    check_corpus(paths, recipe)
    accelerator = build_accelerator(paths, recipe)
    if not accelerator.is_main_process:
        logging.disable(logging.WARNING)  # once is enough
    set_seed(recipe.seed)  # the same first weights in every process
    model, processor, origin = build_model(recipe, model_fields)
    for line in origin:
        accelerator.print(line)
    if not paths.dry_run:
        if accelerator.is_main_process:
            open_output(output_dir, recipe, model_fields, paths.resume)
        if paths.resume and is_finished(output_dir, recipe.test_at_end):
            accelerator.print(f"the run in {output_dir} is finished; run.json there tells what came out")
            return
    with accelerator.main_process_first():  # the first one draws, decodes and caches, the others read
        train_rows, validation_rows = load_data(paths, recipe)
    loader = build_loader(train_rows, processor, recipe, accelerator.num_processes)
    objective = Objective(model, recipe, train_rows["person_id"])
    objective, optimizer, loader = prepare(accelerator, objective, build_optimizer(objective, recipe), loader)
    schedule = Schedule.of(recipe, len(loader))
    pairs_per_step = recipe.batch_size * recipe.gradient_accumulation_steps * accelerator.num_processes
    splits = {"train": train_rows, "val": validation_rows}
    for name, rows in splits.items():
        accelerator.print(
            f"{name}: {', '.join(f'{number:,} {kind}' for kind, number in describe_sizes(rows).items())}"
        )
    accelerator.print(
        f"{len(loader.dataset)} image-caption pairs, {pairs_per_step} a step on {accelerator.num_processes} "
        f"process(es); {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"
    )
    if paths.dry_run:
        dry_run(accelerator, objective, optimizer, loader, processor, validation_rows, recipe, schedule)
        return
    progress = Progress(num_processes=accelerator.num_processes)
    accelerator.register_for_checkpointing(progress)
    if paths.resume:
        resume(accelerator, output_dir, progress)
    log, watch = None, LossWatch(accelerator, output_dir)
    if accelerator.is_main_process:
        record = resume_record(output_dir, progress.step) or start_record(
            recipe, model_fields, model, splits, accelerator.device, accelerator.num_processes
        )
        start_trackers(accelerator, output_dir, record, progress.step)
        log = RunLog(output_dir, record, progress, schedule.total_steps, accelerator.log)
    if progress.best_step and not best_is_saved(accelerator, output_dir, progress):
        if progress.best_step == progress.step:  # the run was killed just before
            save_model(accelerator, objective, processor, output_dir / "best", log and log.record)
        else:  # newer checkpoints were damaged, and `best` is of a step that is yet to come
            progress.best, progress.best_step = -1.0, 0
    if accelerator.is_main_process:
        delete_replaced(output_dir, recipe.keep_checkpoints)  # a kill may have come before

    started = time.perf_counter() - progress.seconds

    def share_done() -> float:
        """Note the time, and return the share of the run that is over."""
        progress.seconds = time.perf_counter() - started
        done = schedule.share_done(progress.step, progress.seconds)
        if recipe.max_minutes:  # clocks differ: all follow the first process, or their learning rates would part
            done = broadcast_object_list([done])[0]
        return done

    done = schedule.share_done(progress.step, progress.seconds)
    while done < 1:
        objective.train()
        loader.set_epoch(progress.epoch)
        for batch in accelerator.skip_first_batches(loader, progress.batch):
            # hidden tokens and dropout depend on where the run stands alone, so a resumed run draws the same ones
            place = (recipe.seed, progress.epoch, progress.batch, accelerator.process_index)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
            factor = learning_rate_factor(progress.step, schedule.warmup_steps, done, recipe.min_lr_ratio)
            loss = train_on_batch(accelerator, objective, optimizer, batch, recipe, factor)
            watch.add(progress.step + 1, loss, batch["image_ids"])
            progress.batch += 1
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            accelerator.unwrap_model(objective).update_average(progress.step)
            done = share_done()
            if log:
                log.advance(progress.step, done)
            ends_epoch = progress.batch == len(loader)  # which is saved below, with its validation
            saves = recipe.save_steps and progress.step % recipe.save_steps == 0 and not ends_epoch
            if saves or ends_epoch or done >= 1 or progress.step % recipe.log_steps == 0:
                mean = watch.mean()
                if log:
                    log.write_step(progress, mean, factor * recipe.learning_rate, pairs_per_step)
            if done >= 1:
                break
            if saves:
                watch.check_weights(objective, progress.step)
                save_checkpoint(accelerator, output_dir, progress.step, recipe.keep_checkpoints)
        else:  # not broken off: the epoch is complete
            progress.epoch, progress.batch = progress.epoch + 1, 0
        watch.check_weights(objective, progress.step)
        metrics = None
        if done >= 1 or progress.epoch % recipe.eval_epochs == 0:
            metrics = validate(accelerator, objective, processor, validation_rows)
            done = share_done()
            if metrics["text_to_image"]["R@1"] > progress.best:
                progress.best, progress.best_step = metrics["text_to_image"]["R@1"], progress.step
        if log:
            log.write_epoch(progress, metrics)
        save_checkpoint(accelerator, output_dir, progress.step, recipe.keep_checkpoints)
        if metrics and progress.best_step == progress.step:
            save_model(accelerator, objective, processor, output_dir / "best", log and log.record)
    save_model(accelerator, objective, processor, output_dir / "final", log and log.record)
    if log:
        log.bar.close()
        print(
            f"best validation R@1 {progress.best:.1f} % after {progress.seconds / 60:.1f} minutes; models in "
            f"{output_dir / 'best'} and {output_dir / 'final'}"
        )
        if recipe.test_at_end:
            test_models(paths, recipe, processor, accelerator.device, log.record)
        log.update_record(progress, finished=True)
    for tracker in accelerator.trackers:
        tracker.finish()


def train_seeds(paths: RunPaths, recipe: Recipe, model_fields: dict[str, Any]) -> None:
    """Train with one seed after the other, each in a folder of its own, and tell mean and standard deviation."""
    output_dir = Path(paths.output_dir)
    folders = {seed: output_dir / f"seed-{seed}" for seed in range(recipe.seed, recipe.seed + paths.seeds)}
    state = PartialState()
    for seed, folder in folders.items():
        state.print(f"seed {seed} in {folder}")
        train(replace(paths, output_dir=str(folder)), replace(recipe, seed=seed), model_fields)
    if state.is_main_process:
        print(summarise_seeds(output_dir, folders))


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says; `argv` are arguments without the program's name, None those of the process."""
    paths, recipe, model_fields = parse_arguments(argv)
    if paths.seeds > 1 and not paths.dry_run:
        train_seeds(paths, recipe, model_fields)
    else:
        train(paths, recipe, model_fields)
    if paths.seeds > 1 and paths.dry_run:
        PartialState().print(f"all this {paths.seeds} times, once for each seed")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    disable_progress_bar()  # transformers' own, for the few moments of writing weights
    with exit_on_error():
        main()
