"""A checkpoint -> a model repository on the Hub that works by itself; also the Space and the metric.

    ivt publish runs/demo/best ORG/NAME [--private] [--evaluation runs/demo/test.json]
    ivt publish runs/demo/best ORG/NAME --dry-run FOLDER    # what would be uploaded
    ivt publish runs/demo/best --dry-run FOLDER             # a folder that works by itself, on no Hub
    ivt publish --space ORG/NAME
    ivt publish --metric ORG/person_retrieval

Uploads weights, configuration, processor and tokenizer, the `*_ivt.py` files, `handler.py` for Inference Endpoints, a
few drawn examples, the page (`model_card.md`, see `card.py`) and `.eval_results`, in one commit, and tags it.
`hf auth login` says who you are.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from datasets import Image
from huggingface_hub import hf_hub_url
from packaging.requirements import Requirement

from ivt.choices import DEFAULT_MODEL
from ivt.corpora.drawn.synthetic import load_synthetic
from ivt.files import new_folder
from ivt.gallery.calibration import load_calibration
from ivt.retrieval.checkpoints import load_checkpoint
from ivt.retrieval.models import find_version, folder_revision, load_processor

from .card import Example, Facts, eval_results, fill_card, read_evaluation, read_run
from .repository import check_name, upload_repository

HERE = Path(__file__).parent
ROOT = HERE.parents[1]  # a checkout, or the folder of installed packages
DISTRIBUTION = "ivt-person-retrieval"
NUM_EXAMPLES = 4
METRIC = "person_retrieval"
SPACE_EXTRAS = ("search", "space")  # what the demo page needs beside the package's own requirements


def find_template(name: str) -> Path:
    """`model_card.md` or `space`, which the wheel keeps beside this file and a checkout in its root.

    Raises:
        ValueError: if neither has it.
    """
    for path in (HERE / name, ROOT / name):
        if path.exists():
            return path
    raise ValueError(f"{name} is neither in {HERE} nor in {ROOT}; install {DISTRIBUTION} again")


def space_requirements() -> list[str]:
    """What a Space with the demo page has to install, as lines of requirements.txt."""
    wanted = []
    for line in metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        marker, requirement.marker = requirement.marker, None
        for_space = marker is None or any(marker.evaluate({"extra": extra}) for extra in SPACE_EXTRAS)
        if for_space and requirement.name != DISTRIBUTION:
            wanted.append(str(requirement))
    return wanted


def draw_examples(folder: Path, repo_id: str | None) -> list[Example]:
    """Draw people of the drawn corpus whose descriptions differ, into a new folder of a repository, if of one."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as cache:
        rows = load_synthetic("test", cache, num_people=4 * NUM_EXAMPLES, images_per_person=1, num_proc=1)
        pictures: dict[str, bytes] = {}
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
    name: str,
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
        name: ORG/NAME on the Hub, or the folder that this one becomes.
        tag: name of this version on the Hub; None for a folder, which is on no Hub.
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
    beside = [source / "run.json", source / "curves.png"]
    for file in [HERE / "handler.py", HERE / "requirements.txt", *filter(Path.is_file, beside)]:
        shutil.copy(file, folder)
    examples = draw_examples(folder / "examples", name if tag else None)
    template = find_template("model_card.md").read_text(encoding="utf-8")
    fill_card(template, name, tag, facts, examples).save(folder / "README.md")
    for file, content in eval_results(facts).items():
        (folder / ".eval_results").mkdir(exist_ok=True)
        (folder / ".eval_results" / file).write_text(content, encoding="utf-8")


def build_copy(folder: Path, source: Path) -> None:
    """Copy a folder."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def build_space(folder: Path, checkpoint: Path) -> None:
    """Write the demo page with all that it runs on: the rooms, a checkpoint as the bundled one, what to install."""
    build_copy(folder, find_template("space"))
    for package in ("ivt", "modeling_ivt", "processing"):
        build_copy(folder / package, ROOT / package)
    build_copy(folder / Path(DEFAULT_MODEL).relative_to(ROOT), checkpoint)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in space_requirements()))


@dataclass(frozen=True)
class Published:
    """What was published or, by a dry run, written.

    Attributes:
        place: address on the Hub, or the folder.
        tag: name of the version on the Hub; None for a folder.
        files: path -> bytes.
    """

    place: str
    tag: str | None
    files: dict[str, int]


def publish(
    build: Callable[[Path], None], name: str, repo_type: str, tag: str, private: bool, dry_run: Path | None
) -> Published:
    """Build a repository in a folder and upload it by its name, unless a folder for a dry run is given."""
    with new_folder(dry_run) as folder:
        build(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        if dry_run:
            return Published(str(dry_run), None, files)
        url = upload_repository(folder, name, repo_type, f"Publish {tag}", private=private, tag=tag)
        return Published(url, tag, files)


def own_tag() -> str:
    """What a version on the Hub is named after this package: v0.1.0."""
    return f"v{metadata.version(DISTRIBUTION)}"


def publish_model(
    checkpoint: str,
    repo_id: str | None = None,
    *,
    private: bool = False,
    dry_run: Path | None = None,
    tag: str | None = None,
    evaluations: Sequence[Path] = (),
    hub_datasets: dict[str, str] | None = None,
    licence: str | None = None,
) -> Published:
    """Publish a checkpoint as a model repository that works by itself.

    Args:
        checkpoint: folder or Hub name of a model with its processor.
        repo_id: ORG/NAME, created if it is missing; None, with `dry_run`, for a folder that is on no Hub.
        private: nobody else may see it.
        dry_run: new or empty folder that takes the files; nothing is uploaded then.
        tag: name of this version; None takes that of this package.
        evaluations: files of `ivt evaluate --output` about this checkpoint, for the page.
        hub_datasets: corpus name -> the dataset's name on the Hub, for the page and `.eval_results`.
        licence: of the weights; None takes what follows from the training corpus.

    Raises:
        ValueError: if a name is none of the Hub, the checkpoint is not whole, an evaluation is about other weights,
            the licence is not known, or the tag exists.
        OSError: if the Hub cannot be reached or refuses.
    """
    if repo_id:
        name = repo_id
    elif dry_run is not None:
        name = dry_run.as_posix()
    else:
        raise ValueError("pass ORG/NAME, --dry-run FOLDER, or both")
    for hub_name in ([repo_id] if repo_id else []) + list((hub_datasets or {}).values()):
        check_name(hub_name)
    tag = tag or own_tag()

    def build(folder: Path) -> None:
        about = {"evaluations": evaluations, "hub_datasets": hub_datasets, "licence": licence}
        build_model(folder, checkpoint, name, tag if repo_id else None, **about)

    return publish(build, name, "model", tag, private, dry_run)


def publish_space(
    repo_id: str, *, private: bool = False, dry_run: Path | None = None, tag: str | None = None
) -> Published:
    """Publish the demo page with the bundled checkpoint as a Space; arguments are those of `publish_model`."""
    check_name(repo_id)

    def build(folder: Path) -> None:
        build_space(folder, Path(DEFAULT_MODEL))

    return publish(build, repo_id, "space", tag or own_tag(), private, dry_run)


def publish_metric(
    repo_id: str, *, private: bool = False, dry_run: Path | None = None, tag: str | None = None
) -> Published:
    """Publish the metric as a Space, which `evaluate.load` reads; arguments are those of `publish_model`.

    Raises:
        ValueError: if the name is not ORG/person_retrieval, by which the metric's own file is found.
    """
    check_name(repo_id)
    if repo_id.split("/")[1] != METRIC:
        raise ValueError(f"the metric is loaded by its name, so it has to be {METRIC}: --metric ORG/{METRIC}")

    def build(folder: Path) -> None:
        build_copy(folder, ROOT / "ivt" / "metric" / METRIC)

    return publish(build, repo_id, "space", tag or own_tag(), private, dry_run)
