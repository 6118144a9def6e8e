"""What pre-training is worth on the drawn corpus: pictures and captions without identities, then few identities.

    python -m benchmarks.pretraining runs/pretraining --seeds 0 1 2

Pre-trained are pictures of people who are not among the few of fine-tuning, each picture a person of its own. It is
compared with fine-tuning from random weights, of the same length and of the same processor time as both stages
together. Without image-text matching and without masked language modeling it is done once, with the first seed. All
are tested at their last step: nothing is selected. Calls for different seeds can run beside each other; what
OUTPUT_DIR already holds whole is not trained again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ivt.corpora.load import load_corpus
from ivt.corpora.shard import write_shards

from .ablation import draw, summarise, table_of, train_and_test

NUM_UNNAMED = 1500  # people whose pictures are pre-trained on
# a product of embeddings of length 22.6 is 511 at most: over 20 it is as sharp as the loss of the demo's fine-tuning
PRETRAIN = [
    *("--stage", "pretrain", "--levels", "sentence", "--corpus", "shards"),
    *("--itm_weight", "1", "--mlm_weight", "1", "--model.itc_temperature", "20"),
]
STAGES = {"": [], " without ITM": ["--itm_weight", "0"], " without MLM": ["--mlm_weight", "0"]}


def write_unnamed(folder: Path, num_named: int) -> None:
    """Write the pictures of the drawn people after the first `num_named` as shards that do not tell who is who."""
    if any(folder.glob("val-*")):
        return
    rows = load_corpus("synthetic", None, "train", num_people=num_named + NUM_UNNAMED)
    named = sorted(set(rows["person_id"][:]))[:num_named]
    others = rows.filter(lambda person: person not in set(named), input_columns="person_id")
    write_shards(others.select_columns(["image", "image_id", "captions"]), folder, "train", "parquet", 2000, 0)
    write_shards(load_corpus("synthetic", None, "val"), folder, "val", "parquet", 2000, 0)


def losses_of(folder: Path) -> dict[str, list[float]]:
    """Each loss of a run, at its first and at its last line of the log."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [record["losses"] for record in records if "losses" in record]
    return {name: [round(line[name], 3) for line in (steps[0], steps[-1])] for name in steps[0]}


def measure_seed(folder: Path, seed: int, ablates: bool, lengths: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train and test all variants with one seed.

    Args:
        folder: of the runs.
        seed: of all of them.
        ablates: also leave out ITM, and MLM.
        lengths: `pretraining_steps`, `steps` of fine-tuning, `num_people` of it.

    Returns:
        Variant to what `train_and_test` gives, the time of both stages where there are two.
    """
    few, results = ["--num_people", lengths.num_people], {}
    named = "random weights, fine-tuned"
    results[named] = train_and_test(few, lengths.steps, seed, folder / f"random-{lengths.steps}-{seed}")
    for name, changes in STAGES.items():
        if name and not ablates:
            continue
        place = folder / f"pretrained{name.replace(' ', '_')}-{lengths.pretraining_steps}-{seed}"
        changes = [*PRETRAIN, "--corpus_root", folder / "unnamed", *changes]
        before = train_and_test(changes, lengths.pretraining_steps, seed, place) | {"losses": losses_of(place)}
        tuned = train_and_test([*few, "--init", place / "final"], lengths.steps, seed, Path(f"{place}-tuned"))
        results[f"pre-trained{name}"] = before
        both = {name: before[name] + tuned[name] for name in ("steps", "cpu_seconds")}
        results[f"pre-trained{name}, fine-tuned"] = tuned | both
        if not name:
            start = train_and_test(few, 1, seed, folder / f"start-{seed}")["cpu_seconds"]  # what is no training
            steps = round(lengths.steps * (both["cpu_seconds"] - start) / (tuned["cpu_seconds"] - start))
            longer = folder / f"random-longer-{seed}"
            results["random weights, fine-tuned for both times"] = train_and_test(few, steps, seed, longer)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, then print the table and write json and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--pretraining_steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--num_people", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args(argv)
    folder = arguments.output_dir.resolve()
    write_unnamed(folder / "unnamed", arguments.num_people)
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for variant, run in measure_seed(folder, seed, seed == 0, arguments).items():
            runs.setdefault(variant, []).append(run)
    summaries = {
        variant: summarise(of_variant) | {"losses": [run["losses"] for run in of_variant if "losses" in run]}
        for variant, of_variant in runs.items()
    }
    print(table_of(summaries))
    (folder / "pretraining.json").write_text(json.dumps(summaries, indent=2) + "\n")
    draw(summaries, folder / "pretraining.png")


if __name__ == "__main__":
    main()
