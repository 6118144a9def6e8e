"""A run from its start or last checkpoint to its end: where it stands, when it saves, what it writes.

The order of what happens here is what makes a resumed run end with exactly the same weights: whatever counts as done
is counted before it is saved, and everything that a checkpoint brings back is set before the checkpoint is written.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch import nn

from ivt.corpora.sharded import ShardedRows
from processing import IVTProcessor
from processing.batches import with_pixel_values

from .checkpoints import best_is_saved, delete_replaced, resume, save_checkpoint, save_model
from .optimization import Schedule, learning_rate
from .recipe import Recipe
from .record import describe_sizes, resume_record
from .runlog import RunLog
from .state import Progress, TrainingState
from .tracking import start_trackers
from .watch import LossWatch


class Run:
    """Where a run stands; every process has one, and all call its methods in the same order.

    Args:
        accelerator: of the run.
        output_dir: takes checkpoints, models, metrics and the record.
        recipe: says when to log, save, validate and stop.
        objective: what is trained, prepared.
        optimizer: of the objective, prepared.
        processor: is saved beside the model.
        loader: training batches, prepared.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        output_dir: Path,
        recipe: Recipe,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        processor: IVTProcessor,
        loader: DataLoaderShard,
    ):
        self.accelerator, self.output_dir, self.recipe = accelerator, output_dir, recipe
        self.objective, self.processor, self.loader = objective, processor, loader
        self.schedule = Schedule.of(recipe, len(loader))
        self.progress = Progress(num_processes=accelerator.num_processes)
        self.state = TrainingState(accelerator, objective, optimizer, self.progress)
        self.watch = LossWatch(accelerator, output_dir)
        self.log: RunLog | None = None  # of the first process
        self.done = 0.0  # share of the run that is over
        self.started = 0.0  # on the clock of `time.perf_counter`, as if the run had never been interrupted

    def print_sizes(self, splits: dict[str, Dataset | ShardedRows]) -> None:
        """Print what there is to train on, and how much is trained.

        Args:
            splits: name of each split that is read, and its rows.
        """
        say, model = self.accelerator.print, self.accelerator.unwrap_model(self.objective).model
        for name, rows in splits.items():
            say(f"{name}: {', '.join(f'{number:,} {kind}' for kind, number in describe_sizes(rows).items())}")
        say(
            f"{len(self.loader.dataset)} image-caption pairs, {self.pairs_per_step} a step on "
            f"{self.accelerator.num_processes} process(es); "
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"
        )

    def open(self, resumes: bool, start_record: Callable[[], dict[str, Any]]) -> None:
        """Start anew, or from the newest whole checkpoint; finish what a kill broke off between two files.

        Args:
            resumes: go on from a checkpoint, if there is one.
            start_record: describes a run that begins, for `run.json`.
        """
        progress, output_dir = self.progress, self.output_dir
        if resumes:
            resume(self.accelerator, output_dir, self.state)
        if self.accelerator.is_main_process:
            record = resume_record(output_dir, progress.step) or start_record()
            start_trackers(self.accelerator, output_dir, record, progress.step)
            self.log = RunLog(output_dir, record, progress, self.schedule.total_steps, self.accelerator.log)
        if progress.best_step and not best_is_saved(self.accelerator, output_dir, progress):
            if progress.best_step == progress.step:  # the run was killed just before
                self.save_model("best")
            else:  # newer checkpoints were damaged, and `best` is of a step that is yet to come
                progress.best, progress.best_step = -1.0, 0
        if self.accelerator.is_main_process:
            delete_replaced(output_dir, self.recipe.keep_checkpoints)  # a kill may have come before
        self.started = time.perf_counter() - progress.seconds
        self.done = self.schedule.share_done(progress.step, progress.seconds)

    @property
    def is_done(self) -> bool:
        """Whether steps or minutes have ended the run."""
        return self.done >= 1

    @property
    def learning_rate(self) -> tuple[float, float]:
        """Factor and floor of all learning rates in the next step."""
        return learning_rate(self.recipe, self.progress.step, self.schedule.warmup_steps, self.done)

    def rest_of_epoch(self) -> Iterator[dict[str, Any]]:
        """The batches of this epoch that are not done yet.

        Hidden tokens and dropout depend on where the run stands alone, so a resumed run draws the same ones.
        """
        self.loader.set_epoch(self.progress.epoch)
        for batch in self.accelerator.skip_first_batches(self.loader, self.progress.batch):
            progress = self.progress
            place = (self.recipe.seed, progress.epoch, progress.batch, self.accelerator.process_index)
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
            yield self.prepared(batch)

    def prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of the loader as the objective takes it."""
        return with_pixel_values(batch, self.processor.image_processor)

    def count_batch(self, loss: torch.Tensor, image_ids: list[str]) -> None:
        """Count a batch that was trained on."""
        losses = self.accelerator.unwrap_model(self.objective).losses
        self.watch.add(self.progress.step + 1, loss, losses, image_ids)
        self.progress.batch += 1

    def end_step(self) -> None:
        """Count an optimiser step; log and save if it is time to."""
        progress, recipe = self.progress, self.recipe
        factor, floor = self.learning_rate  # of this step, before it is counted
        rate = factor * recipe.learning_rate + floor
        progress.step += 1
        self.accelerator.unwrap_model(self.objective).update_average(progress.step)
        self._take_time()
        if self.log:
            self.log.advance(progress.step, self.done)
        ends_epoch = progress.batch == len(self.loader)  # which is saved later, with its validation
        saves = bool(recipe.save_steps) and progress.step % recipe.save_steps == 0 and not ends_epoch
        if saves or ends_epoch or self.is_done or progress.step % recipe.log_steps == 0:
            mean, means = self.watch.mean()  # collective, and before anything is saved
            if self.log:
                self.log.write_step(progress, mean, means, rate, self.pairs_per_step)
        if saves and not self.is_done:
            self.check_weights()
            save_checkpoint(self.accelerator, self.output_dir, self.state, recipe.keep_checkpoints)

    def end_epoch(self) -> None:
        """Count an epoch that was not broken off."""
        self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0

    def check_weights(self) -> None:
        """Raise a FloatingPointError if a weight is not finite, before it is validated or saved."""
        self.watch.check_weights(self.objective, self.progress.step)

    @property
    def validates(self) -> bool:
        """Whether it is time for a validation."""
        return self.is_done or self.progress.epoch % self.recipe.eval_epochs == 0

    def save(self, metrics: dict[str, Any] | None) -> None:
        """Save a checkpoint, and the model as `best` if no validation was better.

        Args:
            metrics: of a validation that has just ended, the same in all processes; None if there was none.
        """
        progress = self.progress
        if metrics:
            self._take_time()
            if metrics["text_to_image"]["R@1"] > progress.best:
                progress.best, progress.best_step = metrics["text_to_image"]["R@1"], progress.step
        if self.log:
            self.log.write_epoch(progress, metrics)
        save_checkpoint(self.accelerator, self.output_dir, self.state, self.recipe.keep_checkpoints)
        if metrics and progress.best_step == progress.step:
            self.save_model("best")

    def save_model(self, name: str) -> None:
        """Save the evaluated model in Hub format, as `best` or `final`."""
        record = self.log.record if self.log else None
        save_model(self.accelerator, self.objective, self.processor, self.output_dir / name, record)

    def finish(self, load_test_rows: Callable[[], Dataset], evaluate: Callable[[Dataset], dict[str, Any]]) -> None:
        """Save `final`, evaluate on the test split if that is wanted, and complete the record.

        Args:
            load_test_rows: loads the test split; only the first process calls it, when all training is over.
            evaluate: evaluates the saved models, and returns the metrics of each by its name.
        """
        self.save_model("final")
        if self.log:
            best, final = (self.output_dir / name for name in ("best", "final"))
            self.log.bar.close()
            print(
                f"best validation R@1 {self.progress.best:.1f} % after {self.progress.seconds / 60:.1f} minutes; "
                f"models in {best} and {final}"
            )
            if self.recipe.test_at_end:
                rows = load_test_rows()
                self.log.add_test(rows, evaluate(rows))
            self.log.update_record(self.progress, finished=True)
        for tracker in self.accelerator.trackers:
            tracker.finish()

    @property
    def pairs_per_step(self) -> int:
        """Image-caption pairs of an optimiser step, over all processes."""
        return self.recipe.batch_size * self.schedule.batches_per_step * self.accelerator.num_processes

    def _take_time(self) -> None:
        """Note the time, and the share of the run that is over."""
        self.progress.seconds = time.perf_counter() - self.started
        self.done = self.schedule.share_done(self.progress.step, self.progress.seconds)
        if self.recipe.max_minutes:  # clocks differ: all follow the first process, or their learning rates would part
            self.done = broadcast_object_list([self.done])[0]
