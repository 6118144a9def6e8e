"""What a person sees of a run: progress bar, a line per epoch, metrics, curves, trackers, and the record of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ivt.files import flush_to_disk, write_text

from .checkpoints import Progress, saving
from .record import SHOWN, describe_sizes, hash_rows, write_record

CURVES = "curves.png"


def figures_of(metrics: dict[str, Any]) -> str:
    """The text-to-image figures of an evaluation, in percent."""
    return "  ".join(f"{name} {metrics['text_to_image'][name]:.1f}" for name in SHOWN)


class RunLog:
    """What a person sees of a run; lives in the first process.

    Args:
        folder: the run's; gets `metrics.jsonl`, `curves.png` and `run.json`.
        record: see `record.py`; kept up to date here.
        progress: where the run stands.
        total_steps: where it will end, if no time limit ends it.
        track: takes figures and the step they belong to, such as `Accelerator.log`.
    """

    def __init__(
        self,
        folder: Path,
        record: dict[str, Any],
        progress: Progress,
        total_steps: int,
        track: Callable[[dict[str, float], int], None],
    ):
        self.folder, self.record, self.track = folder, record, track
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text().splitlines(keepends=True) if progress.step and self.path.exists() else []
        written = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have cut the last one short
        # what an interrupted run wrote after its last checkpoint is about to be done again
        self.records = [line for line in written if line["step"] <= progress.step]
        with saving(self.path, folder):
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in self.records))
        self.update_record(progress)
        self.bar = tqdm(total=total_steps, initial=progress.step, unit="step", desc="training", dynamic_ncols=True)

    def write(self, record: dict[str, Any]) -> None:
        """Append one line to the metrics."""
        self.records.append(record)
        with saving(self.path, self.folder):
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            flush_to_disk(self.path)  # what a checkpoint counts as done is also written here

    def advance(self, step: int, done: float) -> None:
        """Move the bar on; `done` is the share of the run that is over, whether steps or minutes end it."""
        self.bar.total = max(step, round(step / done))
        self.bar.update(step - self.bar.n)

    def write_step(
        self, progress: Progress, loss: float, losses: dict[str, float], learning_rate: float, pairs_per_step: int
    ) -> None:
        """Append a line on the training steps since the last one: the loss, and the parts it is the sum of."""
        rate = pairs_per_step * progress.step / progress.seconds
        self.bar.set_postfix(loss=f"{loss:.3f}", pairs_per_second=f"{rate:.0f}")
        self.write(
            {
                "step": progress.step,
                "epoch": progress.epoch,
                "seconds": round(progress.seconds, 1),
                "loss": loss,
                "losses": losses,
                "learning_rate": learning_rate,
            }
        )
        figures = {"train/loss": loss, "train/learning_rate": learning_rate, "train/pairs_per_second": rate}
        self.track(figures | {f"train/loss/{name}": part for name, part in losses.items()}, progress.step)

    def write_epoch(self, progress: Progress, metrics: dict[str, Any] | None) -> None:
        """Print a line about an epoch that is over, and its validation if there was one, which also is recorded."""
        epoch = progress.epoch if progress.batch == 0 else progress.epoch + 1
        losses = [r["loss"] for r in self.records if "loss" in r and r["epoch"] == epoch - 1]
        line = f"epoch {epoch}, step {progress.step}, {progress.seconds / 60:.1f} min"
        line += f": loss {sum(losses) / len(losses):.3f}"
        if metrics:
            self.write_validation(progress, metrics)
            mark = "  (best so far)" if progress.best_step == progress.step else ""
            line += f", validation {figures_of(metrics)}{mark}"
        self.bar.write(line)

    def write_validation(self, progress: Progress, metrics: dict[str, Any]) -> None:
        """Append a validation, draw the curves and write the record anew."""
        times = {"step": progress.step, "epoch": progress.epoch, "seconds": round(progress.seconds, 1)}
        self.write(times | {"validation": metrics})
        figures = {
            f"validation/{direction}/{name.replace('@', '')}": figure
            for direction in metrics
            for name, figure in metrics[direction].items()
        }
        self.track(figures, progress.step)
        with saving(self.folder / CURVES, self.folder):
            self.draw_curves()
        self.update_record(progress)

    def add_test(self, rows: Dataset, results: dict[str, Any]) -> None:
        """Put results on the test split, by the name of the saved model, into the record."""
        corpus = self.record["corpus"]
        corpus["sizes"]["test"], corpus["hash"]["test"] = describe_sizes(rows), hash_rows(rows)
        self.record["results"]["test"] = results

    def update_record(self, progress: Progress, finished: bool = False) -> None:
        """Write `run.json` anew; when all is done also beside the models, with the curves."""
        best = [r for r in self.records if "validation" in r and r["step"] == progress.best_step]
        results = self.record["results"]
        results["validation"] = {"step": progress.best_step} | best[0]["validation"] if best else None
        times = {"steps": progress.step, "epochs": progress.epoch, "wall_seconds": round(progress.seconds, 1)}
        self.record |= times | {"finished": finished}
        models = [self.folder / "best", self.folder / "final"] if finished else []
        with saving(self.folder / "run.json", self.folder):
            for model in models:
                if (self.folder / CURVES).exists():  # without validations there are none
                    shutil.copy(self.folder / CURVES, model)
            write_record(self.record, *models, self.folder)  # the run's own comes last: where it says so, all is done

    def draw_curves(self) -> None:
        """Draw the loss over the optimiser steps and the validation accuracy over the time of training."""
        figure = Figure(figsize=(10, 4), layout="constrained")
        loss_axes, recall_axes = figure.subplots(1, 2)
        losses = [r for r in self.records if "loss" in r]
        validations = [r for r in self.records if "validation" in r]
        steps = [r["step"] for r in losses]
        loss_axes.plot(steps, [r["loss"] for r in losses], label="loss")
        names = losses[-1]["losses"]
        for name in names if len(names) > 1 else ():
            loss_axes.plot(steps, [r["losses"][name] for r in losses], label=name, linewidth=1)
        loss_axes.set(title="training", xlabel="optimiser step", ylabel="loss")
        loss_axes.legend()
        minutes = [r["seconds"] / 60 for r in validations]
        for name in SHOWN:
            values = [r["validation"]["text_to_image"][name] for r in validations]
            recall_axes.plot(minutes, values, marker="o", markersize=3, label=name)
        recall_axes.set(
            title="validation, text to image", xlabel="minutes of training", ylabel="percent", ylim=(0, 100)
        )
        recall_axes.legend()
        figure.savefig(self.folder / CURVES, dpi=120)
