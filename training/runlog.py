"""What a person sees of a run: progress bar, metrics and curves."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from .checkpoints import Progress


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
