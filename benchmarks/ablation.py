"""What each part of IVT is worth on the drawn corpus: trains every variant with several seeds, tests, tabulates.

    python benchmarks/ablation.py runs/ablation --group paper --seeds 3
    python benchmarks/ablation.py runs/ablation --group beyond --seeds 1

All variants are the recipe `demo` with a few fields changed, so they share corpus, optimiser, loss and batch size.
They are trained from random weights, and tested at their last step: nothing is selected. A variant that OUTPUT_DIR
already holds whole is not trained again, so a broken-off call is simply repeated. Time is the processor time of the
whole training process on one thread, which other work on the machine disturbs little.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
METRICS = ("R@1", "R@10", "mAP")

SENTENCES, NO_BMM = ["--levels", "sentence"], ["--model.bmm_ratio", "0"]
# variant -> what it changes of the recipe `demo`, where the three texts of a pair share one view of its image, and how
# many times the steps it gets
GROUPS: dict[str, dict[str, tuple[list[str], float]]] = {
    "paper": {
        "baseline (sentences)": (SENTENCES + NO_BMM, 1.0),
        "+ BMM": (SENTENCES, 1.0),
        "+ MLA": (NO_BMM, 1.0),
        "+ MLA + BMM (IVT)": ([], 1.0),
        "IVT, nothing shared": (["--model.shared_attention", "false"], 1.0),
        "IVT, a view for each text": (["--num_views", "3"], 1.0),  # as in the paper
        "baseline, equal time": (SENTENCES + NO_BMM, 2.1),  # that of the line before
    },
    # the recipe beyond the paper: each option alone on top of IVT
    "beyond": {
        "+ MLA + BMM (IVT)": ([], 1.0),
        "CMPM and SDM for ITC": (["--itc_weight", "0", "--cmpm_weight", "1", "--sdm_weight", "1"], 1.0),
        "+ SDM": (["--sdm_weight", "1"], 1.0),
        "+ identity classification": (["--identity_weight", "1"], 1.0),
        "+ averaged weights": (["--ema_decay", "0.995"], 1.0),
        "+ layer-wise rates": (["--layer_lr_decay", "0.8"], 1.0),
        "+ identity-balanced batches": (["--pairs_per_person", "2", "--group_by_length", "false"], 1.0),
        "+ RandAugment": (["--rand_augment", "2"], 1.0),
        "+ caption augmentation": (
            ["--swap_synonyms", "0.1", "--drop_attributes", "0.1", "--drop_phrases", "0.1"],
            1.0,
        ),
        "+ left and right swapped with the view": (["--flip_words", "true"], 1.0),
        "+ token-wise loss": (["--token_weight", "1"], 1.0),
        "+ patches every 12 pixels": (["--model.patch_stride", "12"], 1.0),
    },
}


def train_and_test(changes: Sequence[str], steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train one variant and test it, or read what an earlier call measured.

    Args:
        changes: arguments of `train_hf.py` on top of the demo's recipe.
        steps: optimiser steps.
        seed: of the run.
        folder: of the run; `measured.json` in it holds what is returned.

    Returns:
        `steps`, `seed`, `cpu_seconds` of the training process, `text_to_image` metrics on the test split.
    """
    measured = folder / "measured.json"
    if measured.exists():
        return json.loads(measured.read_text())
    limits = ["--max_steps", steps, "--max_minutes", 100_000, "--eval_epochs", 100_000, "--seed", seed]
    limits += ["--test_at_end", "false"]
    command = ["train_hf.py", "--config", "demo", "--output_dir", folder, *limits, *changes]
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off: its time would not be known
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    tested = folder / "test.json"
    run(["evaluate_hf.py", folder / "final", "--corpus", "synthetic", "--output", tested])
    result = {
        "steps": steps,
        "seed": seed,
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "text_to_image": json.loads(tested.read_text())["text_to_image"],
    }
    measured.write_text(json.dumps(result, indent=2) + "\n")
    return result


def run(arguments: Sequence[Any]) -> None:
    """Run a script of this project on one thread of the processor."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, check=True)


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds; a single run has no deviation."""
    summary: dict[str, Any] = {"steps": runs[0]["steps"], "seeds": [run["seed"] for run in runs]}
    for name in METRICS:
        values = [run["text_to_image"][name] for run in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        summary[name] = {"mean": statistics.fmean(values), "deviation": deviation}
    summary["cpu_seconds"] = statistics.fmean(run["cpu_seconds"] for run in runs)
    return summary


def cell(figure: dict[str, float | None]) -> str:
    """`12.3 ± 0.4`, or `12.3` of a single run."""
    deviation = "" if figure["deviation"] is None else f" ± {figure['deviation']:.1f}"
    return f"{figure['mean']:.1f}{deviation}"


def table_of(summaries: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, a variant per line."""
    lines = [f"| variant | steps | {' | '.join(METRICS)} | CPU minutes |", "|---|---|" + "---|" * (len(METRICS) + 1)]
    for variant, summary in summaries.items():
        cells = [cell(summary[name]) for name in METRICS]
        lines.append(f"| {variant} | {summary['steps']:,} | {' | '.join(cells)} | {summary['cpu_seconds'] / 60:.1f} |")
    return "\n".join(lines)


def draw(summaries: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw R@1 and R@10 as bars with their standard deviations."""
    figure = Figure(figsize=(10, 0.55 * len(summaries) + 1.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("R@1", "R@10"), strict=True):
        means = [summary[name]["mean"] for summary in summaries.values()]
        deviations = [summary[name]["deviation"] or 0.0 for summary in summaries.values()]
        axes.barh(list(summaries), means, xerr=deviations, color="#4c78a8", capsize=3)
        axes.set(title=f"{name} on test, percent", xlim=(0, None))
    axes.invert_yaxis()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, then print the table and write json and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--group", choices=GROUPS, default="paper")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        for variant, (changes, factor) in GROUPS[arguments.group].items():
            steps = round(arguments.steps * factor)
            folder = arguments.output_dir.resolve() / f"{variant.replace(' ', '_')}-{steps}-{seed}"
            results.setdefault(variant, []).append(train_and_test(changes, steps, seed, folder))
    summaries = {variant: summarise(runs) for variant, runs in results.items()}
    print(table_of(summaries))
    name = f"ablation_{arguments.group}"
    (arguments.output_dir / f"{name}.json").write_text(json.dumps(summaries, indent=2) + "\n")
    draw(summaries, arguments.output_dir / f"{name}.png")


if __name__ == "__main__":
    main()
