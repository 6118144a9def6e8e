"""Publishing: what goes to the Hub, and what is refused before anything does. The pages are tested in test_card.py."""

import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import pytest
from hub_stand_in import HubStandIn
from huggingface_hub import HfApi, ModelCard, RepoCard
from packaging.requirements import Requirement
from PIL import Image
from typer.testing import Result

from ivt.gallery.calibration import Calibration, load_calibration
from ivt.hub import publish
from ivt.hub.repository import upload_repository
from ivt.retrieval.models import DEFAULT_MODEL, find_version

ROOT = Path(__file__).parents[2]
Run = Callable[..., CompletedProcess[str]]
Command = Callable[..., Result]
CODE = {path.name for room in ("modeling_ivt", "processing") for path in (ROOT / room).glob("*_ivt.py")}
CODE -= {"pretraining_ivt.py"}  # is saved with an IVTForPreTraining; what is published is the encoder
MODEL = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
BESIDE = {"README.md", "handler.py", "requirements.txt", *(f"examples/person_{i}.jpg" for i in (1, 2, 3, 4))}
ZEROS = dict.fromkeys(("R@1", "R@5", "R@10", "mAP", "mINP"), 0.0)


@pytest.fixture
def checkpoint(converted: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the converted checkpoint, with what a training leaves beside it."""
    folder = tmp_path / "checkpoint"
    publish.build_copy(folder, converted[0])
    (folder / "run.json").write_text(json.dumps({"corpus": {"name": "synthetic"}, "wall_seconds": 60}))
    Image.new("RGB", (4, 3)).save(folder / "curves.png")
    Calibration("x", find_version(str(folder)).revision, "synthetic, val", {}).save(folder)
    return folder


@contextmanager
def reached(hub: HubStandIn) -> Iterator[None]:
    """Let this process take the stand-in for the Hub."""
    api = functools.partial(HfApi, endpoint=hub.url, token="hf_x")
    switches = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_TELEMETRY": True}
    with mock.patch.multiple("huggingface_hub.constants", **switches), mock.patch("ivt.hub.repository.HfApi", api):
        yield
    assert hub.unanswered == []


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_writes_the_whole_repository(ivt: Command, checkpoint: Path, tmp_path: Path):
    evaluation = {"revision": find_version(str(checkpoint)).revision, "corpus": "synthetic", "split": "test"}
    evaluation |= {"num_people": 2, "dtype": "float32", "device": "cpu", "average_precision": "standard"}
    (tmp_path / "test.json").write_text(json.dumps(evaluation | {"text_to_image": ZEROS, "image_to_text": ZEROS}))
    options = ["--evaluation", tmp_path / "test.json", "--dataset", "synthetic=org/people"]
    done = ivt("publish", checkpoint, "org/ivt", "--dry-run", tmp_path / "out", *options)
    assert files_of(tmp_path / "out") == CODE | MODEL | BESIDE | {
        "run.json",
        "curves.png",
        "calibration.json",
        ".eval_results/synthetic_test.yaml",
    }
    assert "nothing uploaded" in done.stdout
    calibration = load_calibration(find_version(str(tmp_path / "out")))  # None if it were that of other files
    assert calibration.corpus == "synthetic, val"
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert {example["src"].split("/main/")[1] for example in card.data.widget} < BESIDE
    assert all((tmp_path / "out" / path).is_file() for path in re.findall(r"!\[.*?\]\((.*?)\)", card.text))
    labels = [example["example_title"] for example in card.data.widget]
    assert len(set(labels)) == 4 and not any("," in label for label in labels)


def test_what_was_published_can_be_had_as_json(ivt: Command, checkpoint: Path, tmp_path: Path):
    found = json.loads(ivt("publish", checkpoint, "--dry-run", tmp_path / "out", "--json").stdout)
    assert found["place"] == str(tmp_path / "out")
    sizes = {name: (tmp_path / "out" / name).stat().st_size for name in files_of(tmp_path / "out")}
    assert found["files"] == sizes


def test_a_calibration_goes_with_the_files_that_are_published(ivt: Command, checkpoint: Path, tmp_path: Path):
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text())))  # another file as soon as it is saved anew
    given = find_version(str(checkpoint))
    calibration = Calibration("x", given.revision, "synthetic, val", {})
    calibration.save(checkpoint)
    ivt("publish", checkpoint, "--dry-run", tmp_path / "out")
    published = find_version(str(tmp_path / "out"))
    assert published.revision != given.revision
    assert load_calibration(published) == replace(calibration, revision=published.revision)


def test_a_folder_for_no_hub_speaks_of_itself(ivt: Command, checkpoint: Path, tmp_path: Path):
    ivt("publish", checkpoint, "--dry-run", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert f'folder = "{tmp_path / "out"}"' in card.text and "snapshot_download" not in card.text
    assert "widget" not in card.data.to_dict() and "huggingface.co/out" not in card.content


def without_use(page: str) -> str:
    """A page without its section on use: a folder without code is used in another way."""
    return re.sub(r"## Use\n.*?(?=^## )", "", page, flags=re.DOTALL | re.MULTILINE)


def test_the_bundled_checkpoint_is_what_publishing_it_makes_but_for_the_code(
    ivt: Command, hub: HubStandIn, run_python: Run, tmp_path: Path
):
    embedded = Path(DEFAULT_MODEL)
    again = tmp_path / embedded.name
    evaluation = str(ROOT / "benchmarks" / "bundled_test.json")
    with reached(hub):  # a tokenizer that is saved offline notes it
        ivt("publish", embedded, "--dry-run", again, "--evaluation", evaluation)
    assert files_of(again) == files_of(embedded) | CODE | {"handler.py", "requirements.txt"}
    for name in files_of(embedded) - {"README.md"}:
        assert (again / name).read_bytes() == (embedded / name).read_bytes(), name
    page = (again / "README.md").read_text().replace(str(again), f"ivt/checkpoints/{embedded.name}")
    assert without_use(page) == without_use((embedded / "README.md").read_text())
    lines = (
        "from transformers import AutoModel, AutoProcessor\n"
        "loaded = [auto.from_pretrained('.', trust_remote_code=True) for auto in (AutoModel, AutoProcessor)]\n"
        "print(*{type(thing).__module__.split('.')[0] for thing in loaded})\n"
    )
    (tmp_path / "lines.py").write_text(lines)
    alone = run_python(tmp_path / "lines.py", cwd=again)
    assert alone.stdout == "transformers_modules\n", alone.stderr


def test_the_code_of_the_bundled_checkpoints_page_runs_as_printed(run_python: Run, tmp_path: Path):
    page = (Path(DEFAULT_MODEL) / "README.md").read_text()
    (tmp_path / "lines.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    done = run_python(tmp_path / "lines.py", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^-?[\d.]+  ivt/checkpoints/.*/examples/(person_\d\.jpg)$", done.stdout, re.MULTILINE)
    assert sorted(found) == [f"person_{i}.jpg" for i in (1, 2, 3, 4)]


def test_a_published_repository_is_whole_tagged_and_public(published: tuple[str, str], hub: HubStandIn):
    name, tag = published
    repository = hub.repositories["models", name]
    assert repository.tags.keys() == {tag} and not repository.private
    assert hub.files("models", name, tag).keys() == CODE | MODEL | BESIDE
    page = hub.files("models", name, tag)["README.md"].decode()
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", page)) == {path for path in BESIDE if path.endswith(".jpg")}
    assert hub.files("models", name, tag)["handler.py"] == (ROOT / "ivt" / "hub" / "handler.py").read_bytes()


def test_the_code_of_the_page_runs_as_printed(
    published: tuple[str, str], hub: HubStandIn, run_python: Run, tmp_path: Path
):
    page = hub.files("models", *published)["README.md"].decode()
    (tmp_path / "lines.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    done = run_python("lines.py", cwd=tmp_path, hub=hub)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(-?[\d.]+)  .*/examples/(person_\d\.jpg)$", done.stdout, re.MULTILINE)
    assert sorted(picture for _, picture in found) == [f"person_{i}.jpg" for i in (1, 2, 3, 4)]
    assert [float(score) for score, _ in found] == sorted((float(score) for score, _ in found), reverse=True)


def test_a_private_repository_is_private_and_tagged_with_the_project_s_version(ivt: Command, hub: HubStandIn):
    with reached(hub):
        ivt("publish", "--metric", "private/person_retrieval", "--private")
    repository = hub.repositories["spaces", "private/person_retrieval"]
    assert repository.private
    assert repository.tags.keys() == {f"v{tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}"}


def test_what_python_compiled_is_not_copied(tmp_path: Path):
    (tmp_path / "room" / "__pycache__").mkdir(parents=True)
    (tmp_path / "room" / "__pycache__" / "code.pyc").touch()
    (tmp_path / "room" / "code.py").touch()
    publish.build_copy(tmp_path / "copy", tmp_path / "room")
    assert [path.name for path in (tmp_path / "copy").rglob("*")] == ["code.py"]


def test_the_metric_is_published_as_a_space_and_loads_from_there(
    ivt: Command, hub: HubStandIn, run_python: Run, tmp_path: Path
):
    with reached(hub):
        ivt("publish", "--metric", "tester/person_retrieval")
    lines = (
        "import evaluate\n"
        "metric = evaluate.load('tester/person_retrieval')\n"
        "one = {'predictions': [[1.0, 0.0]], 'references': [5]}\n"
        "print(metric.compute(**one, gallery_embeddings=[[1.0, 0.1], [0.0, 1.0]], gallery_person_ids=[5, 6])['R@1'])\n"
    )
    loaded = run_python("-c", lines, cwd=tmp_path, hub=hub)
    assert loaded.stdout == "100.0\n", loaded.stderr


def test_the_published_space_holds_all_that_it_runs_on(hub: HubStandIn, run_python: Run, tmp_path: Path):
    published = run_python("-m", "ivt", "publish", "--space", "tester/demo", cwd=ROOT, hub=hub)
    assert published.returncode == 0, published.stderr
    folder = tmp_path / "space"
    for path, content in hub.files("spaces", "tester/demo").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    card = RepoCard.load(folder / "README.md", repo_type="space")
    assert (folder / card.data.app_file).is_file()
    assert f"{card.data.sdk}=={card.data.sdk_version}" in (ROOT / "constraints.txt").read_text().split()
    wanted = (folder / "requirements.txt").read_text().split("\n")
    assert any(line.startswith("gradio") for line in wanted) and any(line.startswith("lancedb") for line in wanted)
    assert not any("ivt" in line for line in wanted)
    lines = "from ivt import page; print(len(page.open_gallery(page.DEFAULT_MODEL, page.PEOPLE, 'people.lance')))"
    done = run_python("-c", lines, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(list((folder / "ivt" / "people").glob("*/*")))


def test_an_installed_package_publishes_what_the_checkout_does(
    ivt: Command, installed_packages: Path, run_python: Run, checkpoint: Path, tmp_path: Path
):
    for form in (["--space", "org/demo"], [checkpoint, "org/ivt", "--tag", "v1"]):
        folders = [tmp_path / f"{name}-{len(form)}" for name in ("checkout", "installed")]
        ivt("publish", *form, "--dry-run", folders[0])
        command = ["-m", "ivt", "publish", *form, "--dry-run", folders[1]]
        done = run_python(*command, cwd=tmp_path, python_path=installed_packages)
        assert done.returncode == 0, done.stderr
        expected = {name for name in files_of(folders[0]) if "__pycache__" not in name}
        found = {name for name in files_of(folders[1]) if not name.startswith(("ivt/hub/model_card", "ivt/hub/space"))}
        assert found == expected
        for name in expected - {"requirements.txt"}:  # of a Space: as the metadata of either say
            assert (folders[1] / name).read_bytes() == (folders[0] / name).read_bytes(), name
    wanted = (tmp_path / "installed-2" / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = [*project["dependencies"], *extras["search"], *extras["space"]]
    assert {*map(normal, wanted)} == {normal(line) for line in expected if not line.startswith("ivt-")}


def normal(requirement: str) -> str:
    """A requirement in one of several ways to write it."""
    return str(Requirement(requirement))


def test_publishing_again_replaces_everything_under_a_new_tag(hub: HubStandIn, tmp_path: Path):
    (tmp_path / "old.txt").write_text("old")
    with reached(hub):
        upload_repository(tmp_path, "tester/twice", "model", "First", private=True, tag="v1")
        (tmp_path / "old.txt").rename(tmp_path / "new.txt")
        before = dict(hub.repositories["models", "tester/twice"].branches)
        with pytest.raises(ValueError, match="tester/twice has a version v1 already; .* --tag"):
            upload_repository(tmp_path, "tester/twice", "model", "Second", tag="v1")
        assert hub.repositories["models", "tester/twice"].branches == before
        upload_repository(tmp_path, "tester/twice", "model", "Second", tag="v2")
    assert hub.repositories["models", "tester/twice"].private
    assert [set(hub.files("models", "tester/twice", tag)) for tag in ("v1", "v2")] == [{"old.txt"}, {"new.txt"}]


def test_a_hub_that_does_not_answer_is_an_error_and_no_trace(tmp_path: Path):
    with HubStandIn() as gone:
        pass
    with reached(gone), pytest.raises(OSError, match=f"{gone.url}, cannot be reached"):
        upload_repository(tmp_path, "tester/nowhere", "model", "First")


def test_an_upload_that_breaks_off_is_an_error_and_no_trace(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.")

    monkeypatch.setattr(HfApi, "upload_folder", broken)
    with reached(hub), pytest.raises(OSError, match=f"{hub.url}, cannot be reached or refuses: Error while uploading"):
        upload_repository(tmp_path, "tester/broken", "model", "First")


def test_nothing_private_goes_to_a_public_repository(hub: HubStandIn, tmp_path: Path):
    with reached(hub):
        upload_repository(tmp_path, "tester/open", "model", "Public")
        (tmp_path / "secret.txt").write_text("secret")
        with pytest.raises(ValueError, match="tester/open exists and is public"):
            upload_repository(tmp_path, "tester/open", "model", "Private", private=True)
    assert hub.files("models", "tester/open") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "pass either"),
        (["checkpoint"], "pass either"),
        (["checkpoint", "org/a", "--space", "org/b"], "pass either"),
        (["checkpoint", "--space", "org/b"], "pass either"),
        (["--space", "org/b", "--metric", "org/person_retrieval"], "pass either"),
        (["checkpoint", "ivt"], "'ivt' is no name on the Hub, expected ORG/NAME"),
        (["checkpoint", "a/b/c"], "'a/b/c' is no name"),
        (["checkpoint", "org/a", "--dataset", "synthetic"], "'' is no name"),
        (["--metric", "org/recall"], "has to be person_retrieval"),
    ],
)
def test_bad_arguments_are_named(ivt: Command, arguments: list[str], message: str):
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        ivt("publish", *arguments)


def test_a_folder_that_holds_something_is_not_written_to(ivt: Command, checkpoint: Path):
    before = files_of(checkpoint)
    with pytest.raises(ValueError, match="is not an empty folder"):
        ivt("publish", checkpoint, "org/ivt", "--dry-run", checkpoint)
    assert files_of(checkpoint) == before
