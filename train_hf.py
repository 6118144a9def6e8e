"""Train IVT on a corpus of person pictures and captions: fine-tuning, or the pre-training before it.

    accelerate launch train_hf.py --config cuhk_pedes --corpus_root data/CUHK-PEDES --output_dir runs/cuhk
    accelerate launch train_hf.py --config demo --output_dir runs/demo --max_minutes 8
    accelerate launch train_hf.py --config pretrain --corpus_root data/pairs --eval_corpus cuhk-pedes \
        --eval_root data/CUHK-PEDES --output_dir runs/pretrain

Where the package is installed, `accelerate launch -m train_hf …` runs this file too, and so does `ivt train …` in one
process. A recipe is a yaml file, or the name of a packaged one; every field of it can be given on the command line
too, which wins (`--learning_rate 0.01`, `--model.hidden_size 192`). Read `train` first; what happens around its
loop is in `ivt/training/`.

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

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, set_seed
from datasets import Dataset
from torch import nn
from transformers.utils.logging import disable_progress_bar

from ivt.errors import exit_on_error
from ivt.retrieval.checkpoints import load_checkpoint
from ivt.retrieval.evaluation import evaluate_as_reference, evaluate_retrieval
from ivt.training.arguments import parse_arguments
from ivt.training.checkpoints import open_output
from ivt.training.data import build_loader, check_corpus, load_evaluation_rows, load_training_rows
from ivt.training.distributed import build_accelerator, embed_in_shares, prepare
from ivt.training.dry_run import estimate_cost
from ivt.training.gradient_cache import backward
from ivt.training.initialization import build_model
from ivt.training.optimization import build_optimizer
from ivt.training.pretraining import build_objective
from ivt.training.recipe import Recipe, RunPaths
from ivt.training.record import is_finished, start_record, summarise_seeds
from ivt.training.run import Run
from ivt.training.runlog import figures_of
from ivt.training.tracking import check_trackers
from processing import IVTProcessor


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
    floor: float = 0.0,
) -> torch.Tensor:
    """Add the gradient of one batch, and step if it is the last of a step; see `learning_rate` for the two numbers."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"] + floor
    with accelerator.accumulate(objective):
        loss = backward(accelerator, objective, batch, recipe.cached_chunk)
        if accelerator.sync_gradients and recipe.max_grad_norm:
            accelerator.clip_grad_norm_(objective.parameters(), recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return loss


def evaluate_saved_models(run: Run, rows: Dataset) -> dict[str, Any]:
    """Evaluate `best` and `final` on the test split, as they were saved."""
    evaluate = evaluate_retrieval if run.recipe.protocol == "standard" else evaluate_as_reference
    results: dict[str, Any] = {}
    for name in ("best", "final"):
        if name == "final" and run.progress.best_step == run.progress.step:
            results[name] = results["best"]  # the same weights
        else:
            model = load_checkpoint(str(run.output_dir / name), dtype=torch.float32).to(run.accelerator.device)
            results[name] = evaluate(model, run.processor, rows, progress=sys.stderr.isatty())
        print(f"test, {name}: {figures_of(results[name])}")
    return results


def dry_run(run: Run, optimizer: torch.optim.Optimizer, validation_rows: Dataset) -> None:
    """Measure a few steps and part of a validation, and print what the run would cost."""
    part = validation_rows.select(range(min(64, len(validation_rows))))
    started = time.perf_counter()
    validate(run.accelerator, run.objective, run.processor, part)
    seconds = (time.perf_counter() - started) * len(validation_rows) / len(part)
    schedule = run.schedule
    num_validations = math.ceil(schedule.total_steps / schedule.steps_per_epoch / run.recipe.eval_epochs)
    run.objective.train()
    cost = estimate_cost(
        run.accelerator,
        run.objective,
        optimizer,
        run.loader,
        lambda batch: train_on_batch(
            run.accelerator, run.objective, optimizer, run.prepared(batch), run.recipe, factor=1.0
        ),
        schedule,
        num_validations * seconds,
    )
    run.accelerator.print(cost)


def train(paths: RunPaths, recipe: Recipe, model_fields: dict[str, Any]) -> None:
    """Train, validating as the recipe says, and leave `best` and `final` in the output folder."""
    output_dir = Path(paths.output_dir)
    check_trackers(paths.trackers)
    check_corpus(recipe, paths)
    accelerator = build_accelerator(paths, recipe)
    set_seed(recipe.seed)  # the same first weights in every process
    model, processor, origin = build_model(recipe, model_fields)
    for line in origin:
        accelerator.print(line)
    if not paths.dry_run:
        if accelerator.is_main_process:
            open_output(output_dir, recipe, model_fields, paths.resume)
        if paths.resume and is_finished(output_dir, recipe.test_at_end):
            accelerator.print(f"the run in {output_dir} is finished; its results are in run.json there")
            return
    with accelerator.main_process_first():  # the first one draws, decodes and caches, the others read
        train_rows = load_training_rows(recipe, paths.corpus_root)
        validation_rows = load_evaluation_rows(recipe, paths, "val")
    splits = {"train": train_rows, "val": validation_rows}
    loader = build_loader(train_rows, processor, recipe, accelerator.num_processes)
    objective = build_objective(model, recipe, train_rows["person_id"])
    objective, optimizer, loader = prepare(accelerator, objective, build_optimizer(objective, recipe), loader)
    run = Run(accelerator, output_dir, recipe, objective, optimizer, processor, loader)
    run.print_sizes(splits)
    if paths.dry_run:
        dry_run(run, optimizer, validation_rows)
        return
    run.open(
        paths.resume,
        lambda: start_record(recipe, model_fields, model, splits, accelerator.device, accelerator.num_processes),
    )

    while not run.is_done:
        objective.train()
        for batch in run.rest_of_epoch():
            loss = train_on_batch(accelerator, objective, optimizer, batch, recipe, *run.learning_rate)
            run.count_batch(loss, batch["image_ids"])
            if accelerator.sync_gradients:  # the batch was the last one of an optimiser step
                run.end_step()
            if run.is_done:
                break
        else:
            run.end_epoch()
        run.check_weights()
        metrics = validate(accelerator, objective, processor, validation_rows) if run.validates else None
        run.save(metrics)
    run.finish(lambda: load_evaluation_rows(recipe, paths, "test"), lambda rows: evaluate_saved_models(run, rows))


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
