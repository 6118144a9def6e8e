"""A checkpoint -> a model repository on the Hub that works by itself; also the Space and the metric.

    python -m ivt.hub.publish runs/demo/best ORG/NAME [--private] [--evaluation runs/demo/test.json]
    python -m ivt.hub.publish runs/demo/best ORG/NAME --dry_run FOLDER    # what would be uploaded
    python -m ivt.hub.publish runs/demo/best --dry_run FOLDER             # a folder that works by itself, on no Hub
    python -m ivt.hub.publish --space ORG/NAME
    python -m ivt.hub.publish --metric ORG/person_retrieval

Uploads weights, configuration, processor and tokenizer, the `*_ivt.py` files, `handler.py` for Inference Endpoints, a
few drawn examples, the page (`model_card.md`, see `tools/card.py`) and `.eval_results`, in one commit, and tags it.
Start it in a checkout of this project; `hf auth login` says who you are.
"""

import argparse
import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Image
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import StrictDataclassError
from transformers.utils.logging import disable_progress_bar

from ivt.corpora.drawn.synthetic import load_synthetic
from ivt.gallery.calibration import load_calibration
from ivt.retrieval.checkpoints import load_checkpoint
from ivt.retrieval.models import DEFAULT_MODEL, find_version, folder_revision, load_processor

from .card import Example, Facts, eval_results, fill_card, read_evaluation, read_run
from .repository import open_folder, upload_repository

ROOT = Path(__file__).parents[2]
NUM_EXAMPLES = 4
METRIC = "person_retrieval"
SPACE_EXTRAS = ("search", "space")  # what of pyproject.toml's extras the demo page needs


def read_project() -> dict[str, Any]:
    """The content of pyproject.toml.

    Raises:
        ValueError: if this is no checkout of the project.
    """
    path = ROOT / "pyproject.toml"
    if not path.is_file():
        raise ValueError(f"{ROOT} is no checkout of the project, which publishing needs; clone it and start there")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def draw_examples(folder: Path, repo_id: str | None) -> list[Example]:
    """Draw people of the embedded corpus whose descriptions differ, into a new folder of a repository, if of one."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as cache:
        rows = load_synthetic("test", cache, num_people=4 * NUM_EXAMPLES, images_per_person=1, num_proc=1)
        pictures = {}
        for row in rows.cast_column("image", Image(decode=False)):
            person = json.loads(row["attributes"])["person"]
            upper = f"{person['upper']['colour']} {person['upper']['kind']}"
            article = "an" if upper[0] in "aeiou" else "a"
            pictures.setdefault(f"a {person['gender']} in {article} {upper}", row["image"]["bytes"])
    examples = []
    for number, (label, picture) in enumerate(list(pictures.items())[:NUM_EXAMPLES], start=1):
        path = f"{folder.name}/person_{number}.jpg"
        (folder.parent / path).write_bytes(picture)
        examples.append(Example(path, hf_hub_url(repo_id, path) if repo_id else None, label))
    return examples


def build_model(
    folder: Path,
    checkpoint: str,
    repo_id: str | None,
    tag: str | None,
    *,
    evaluations: Sequence[Path] = (),
    hub_datasets: dict[str, str] | None = None,
    licence: str | None = None,
) -> None:
    """Write a whole model repository.

    Args:
        folder: an empty folder.
        checkpoint: folder or Hub name of a model with its processor; `calibration.json`, `run.json` and `curves.png`
            go with it.
        repo_id: ORG/NAME on the Hub; None for a folder that stays where it is.
        tag: name of this version on the Hub; None for a folder.
        evaluations: files of `evaluate_hf.py --output` about this checkpoint.
        hub_datasets: corpus name -> the dataset's name on the Hub.
        licence: of the weights; None takes what follows from the training corpus.

    Raises:
        ValueError: if the checkpoint is not whole, an evaluation is about other weights, or the licence is not known.
    """
    source, version = Path(checkpoint), find_version(checkpoint)
    facts = Facts(
        run=read_run(source),
        evaluations=[read_evaluation(path, version.revision) for path in evaluations],
        hub_datasets=hub_datasets or {},
        licence=licence,
        has_curves=(source / "curves.png").is_file(),
    )
    load_checkpoint(checkpoint).save_pretrained(folder)
    load_processor(checkpoint).save_pretrained(folder)
    calibration = load_calibration(version)
    if calibration:  # saved anew the files are others, and the embeddings the same
        replace(calibration, revision=folder_revision(folder)).save(folder)
    for file in [Path(__file__).parent / name for name in ("handler.py", "requirements.txt")]:
        shutil.copy(file, folder)
    for name in ("run.json", "curves.png"):
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    examples = draw_examples(folder / "examples", repo_id)
    template = (ROOT / "model_card.md").read_text(encoding="utf-8")
    fill_card(template, repo_id or folder.as_posix(), tag, facts, examples).save(folder / "README.md")
    for name, content in eval_results(facts).items():
        (folder / ".eval_results").mkdir(exist_ok=True)
        (folder / ".eval_results" / name).write_text(content, encoding="utf-8")


def build_copy(folder: Path, source: Path) -> None:
    """Copy a folder of this project.

    Raises:
        ValueError: if it is not there.
    """
    if not source.is_dir():
        raise ValueError(f"there is no folder {source}, which belongs to what is published")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def build_space(folder: Path, checkpoint: Path) -> None:
    """Write the demo page with all that it runs on: the rooms, a checkpoint as the embedded one, what to install."""
    build_copy(folder, ROOT / "space")
    project = read_project()
    for package in ("ivt", "modeling_ivt", "processing"):
        build_copy(folder / package, ROOT / package)
    build_copy(folder / Path(DEFAULT_MODEL).relative_to(ROOT), checkpoint)
    name, extras = project["project"]["name"], project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(line for extra in SPACE_EXTRAS for line in extras[extra])]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in wanted if not line.startswith(name)))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ValueError: if it does not name one repository of the form ORG/NAME, or a checkpoint and a folder.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", help="folder or Hub name of a model with its processor")
    parser.add_argument("repo_id", nargs="?", metavar="ORG/NAME", help="model repository, created if it is missing")
    parser.add_argument("--space", metavar="ORG/NAME", help="publish the demo page space/ instead of a model")
    parser.add_argument("--metric", metavar=f"ORG/{METRIC}", help="publish the metric instead of a model")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--dry_run", type=Path, metavar="FOLDER", help="write everything there, upload nothing")
    parser.add_argument("--tag", help="name of this version (default: v and the version of this project)")
    parser.add_argument(
        "--evaluation",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.json",
        help="results for the page, as evaluate_hf.py --output wrote them",
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="CORPUS=ORG/NAME",
        help="where a corpus lies on the Hub; results on it are written to .eval_results too",
    )
    parser.add_argument("--license", help="of the weights, e.g. cc-by-nc-4.0 (default: from the training corpus)")
    arguments = parser.parse_args(argv)
    targets = [name for name in (arguments.repo_id, arguments.space, arguments.metric) if name]
    for_no_hub = arguments.checkpoint and arguments.dry_run and not targets
    if not for_no_hub and (len(targets) != 1 or (arguments.checkpoint and not arguments.repo_id)):
        raise ValueError(
            "pass either CHECKPOINT ORG/NAME, or CHECKPOINT --dry_run FOLDER, or --space ORG/NAME, "
            "or --metric ORG/NAME"
        )
    pairs = [pair.partition("=")[::2] for pair in arguments.dataset]
    for name in (*targets, *(dataset for _, dataset in pairs)):
        if name.count("/") != 1 or not all(name.split("/")):
            raise ValueError(f"{name!r} is no name on the Hub, expected ORG/NAME")
    if arguments.metric and arguments.metric.split("/")[1] != METRIC:
        raise ValueError(f"the metric is loaded by its name, so it has to be {METRIC}: --metric ORG/{METRIC}")
    arguments.dataset = dict(pairs)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Build the repository; upload it."""
    arguments = parse_arguments(argv)
    tag = arguments.tag or f"v{read_project()['project']['version']}"
    disable_progress_bar()  # transformers' own, for the moment of writing weights
    repo_id = arguments.repo_id or arguments.space or arguments.metric
    repo_type = "model" if arguments.checkpoint else "space"
    with open_folder(arguments.dry_run) as folder:
        if arguments.space:
            build_space(folder, Path(DEFAULT_MODEL))
        elif arguments.metric:
            build_copy(folder, ROOT / "ivt" / "metric" / METRIC)
        else:
            build_model(
                folder,
                arguments.checkpoint,
                repo_id,
                tag if repo_id else None,
                evaluations=arguments.evaluation,
                hub_datasets=arguments.dataset,
                licence=arguments.license,
            )
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
        if arguments.dry_run:
            print(f"written to {folder}, nothing uploaded")
        else:
            url = upload_repository(folder, repo_id, repo_type, f"Publish {tag}", private=arguments.private, tag=tag)
            print(f"published {url} as {tag}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"error: {error}")
