"""The command line: what a person types, sees and gets as exit code."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import typer.main
from PIL import Image
from typer.testing import Result

from ivt import Gallery, choices, cli
from ivt.cli import app
from ivt.corpora.official import LAYOUTS
from ivt.corpora.shard import EXTENSIONS
from ivt.explanations.attention import UNITS
from ivt.hub.export import WRITERS
from ivt.metric.person_retrieval.person_retrieval import AVERAGE_PRECISIONS
from ivt.training.arguments import parse_arguments

ROOT = Path(__file__).parents[1]
PACKAGED = [*choices.RECIPES.glob("*.yaml"), *choices.RECIPES.glob("reference/*.yaml")]
RECIPES = [path.relative_to(choices.RECIPES).with_suffix("").as_posix() for path in PACKAGED]
Run = Callable[..., CompletedProcess[str]]


def commands_below(group: Any, *names: str) -> dict[str, Any]:
    """Every command below a group, by the words that call it."""
    found = {}
    for name, command in group.commands.items():
        below = commands_below(command, *names, name) if hasattr(command, "commands") else None
        found |= below or {" ".join([*names, name]): command}
    return found


COMMANDS = commands_below(typer.main.get_command(app))


def help_of(name: str) -> str:
    """The help of a command; that of `train` without the list of fields."""
    return COMMANDS[name].make_context(name, [], resilient_parsing=True).get_help()


def examples_of(name: str) -> list[list[str]]:
    """The arguments of the command lines in the help of a command, split as a shell does."""
    lines = re.search(r"^  Examples?:\n((?:    .*\n?)+)", help_of(name), re.MULTILINE)[1]
    found = [shlex.split(line) for line in lines.replace("\\\n", "").splitlines()]
    words = ["ivt", *name.split()]
    assert all(example[: len(words)] == words for example in found)
    return [example[len(words) :] for example in found]


@pytest.fixture
def ivt(ivt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The same, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ivt


def test_corpus_check_counts(ivt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "people                 200\n" in ivt("corpus", "check", "synthetic").stdout
    counts = json.loads(ivt("corpus", "check", "synthetic", "--json").stdout)
    assert (counts["people"], counts["images"], counts["captions"]) == (200, 800, 1600)
    assert counts["captions_per_image"]["mean"] == 2 and counts["problem"] is None
    monkeypatch.setattr("ivt.corpora.check.MAX_COLOUR_RECALL", 1.0)
    assert ivt("corpus", "check", "synthetic").exit_code == 1


def test_the_commands_are_these() -> None:
    assert COMMANDS.keys() == {
        *("train", "evaluate", "index", "search", "explain", "convert", "export", "publish", "calibrate", "serve"),
        *("models", "gallery info", "gallery remove", "gallery verify", "gallery optimize"),
        *("corpus check", "corpus push", "corpus shard"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_json_and_exit_codes_in_its_help(name: str) -> None:
    shown = help_of(name)
    assert examples_of(name) and "Exit codes: 0 done; 1 nothing found" in shown
    assert ("--json" in shown) == (name not in ("train", "serve"))  # what they make is no line of text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help_are_command_lines_that_parse(name: str, tmp_path: Path) -> None:
    (tmp_path / "my_recipe.yaml").write_text("seed: 3\n")
    for example in examples_of(name):
        if name == "train":
            parse_arguments([part.replace("my_recipe", f"{tmp_path}/my_recipe") for part in example])
        else:
            assert COMMANDS[name].make_context(name, example).args == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--colour", "red"])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.out == "" and re.fullmatch("error: .*\n", printed.err)


def test_train_has_examples_and_every_field_in_its_help(ivt: Callable[..., Result]) -> None:
    shown = ivt("train", "--help").stdout
    assert "ivt train --config demo --output_dir runs/demo" in shown and "--learning_rate" in shown
    assert "--model.hidden_size" in shown and shown.count("Usage") + shown.lower().count("usage:") == 2


def test_train_is_the_script_with_the_fields_that_are_given(
    ivt: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("train_hf.train", lambda *arguments: started.append(arguments))
    ivt(
        "train", "--config", "demo", "--output_dir", "run", "--levels", "sentence", "word", "--model.hidden_size", "48"
    )
    ((paths, recipe, fields),) = started
    assert (paths.output_dir, recipe.levels, recipe.corpus, fields["hidden_size"]) == (
        *("run", ["sentence", "word"]),
        *("synthetic", 48),
    )


@pytest.mark.parametrize(
    "launch", [["-m", "train_hf"], ["-m", "accelerate.commands.launch", "--cpu", "--quiet", "-m", "train_hf"]]
)
def test_errors_of_an_installed_training_are_one_line(
    launch: list[str], installed_packages: Path, run_python: Run, tmp_path: Path
) -> None:
    done = run_python(*launch, "--config", "cuhk", cwd=tmp_path, python_path=installed_packages)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: there is no recipe cuhk; pass a yaml file or one of " + ", ".join(sorted(RECIPES))]
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if len(launch) == 2 else 1)  # all that accelerate knows


def test_version_is_that_of_the_package(ivt: Callable[..., Result]) -> None:
    assert re.fullmatch(r"ivt \d+\.\d+\.\d+\S*\n", ivt("--version").stdout)


@pytest.mark.parametrize("group", [[], ["gallery"], ["corpus"]])
def test_without_a_command_the_help_is_shown(ivt: Callable[..., Result], group: list[str]) -> None:
    done = ivt(*group)
    assert done.exit_code == 2 and done.stdout == ivt(*group, "--help").stdout.rstrip() + "\n"


def test_options_may_be_written_as_the_fields_of_a_training(ivt: Callable[..., Result]) -> None:
    done = ivt("corpus", "shard", "synthetic", "out", "--rows_per_shard", "0")
    assert done.exit_code == 2 and "Invalid value for '--rows-per-shard'" in done.stderr


def test_names_in_the_help_are_those_of_the_rooms() -> None:
    assert choices.CORPORA == (*LAYOUTS, "synthetic", "shards")
    assert choices.METHODS == tuple(UNITS) and choices.DEFAULT_METHOD in UNITS
    assert choices.EXPORT_FORMATS == tuple(WRITERS)
    assert " or ".join(EXTENSIONS) in help_of("corpus shard")
    assert " or ".join(AVERAGE_PRECISIONS) in help_of("evaluate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "a man", "--gallery", "none.lance"], "none.lance; make one with"),
        (
            ["search", "a man", "--gallery", "none"],
            "none', expected a path or URI that ends in .lance",
        ),
        (["index", "none", "--gallery", "new.lance"], "none' is no folder, expected one that holds images"),
        (["index", ".", "--gallery", "new.lance", "--model", "./none"], "error: there is no folder ./none"),
        (["index", ".", "--gallery", "new.lance", "--device", "gpu"], "device 'gpu' cannot be used here"),
        (["explain", "none.jpg", "a man"], "none.jpg"),
        *((["gallery", name, "--gallery", "none.lance"], "none.lance") for name in ("info", "verify", "optimize")),
        (["gallery", "remove", "--gallery", "none.lance", "--missing"], "none.lance"),
        (["corpus", "check", "cuhk"], "did you mean 'cuhk-pedes'"),
        (["corpus", "push", "rstpreid", "org/name"], "pass --i-have-the-right"),
        (["corpus", "shard", "rstpreid", "out"], "is read from its official folder"),
        (["train", "--config", "cuhk"], "there is no recipe cuhk; pass a yaml file or one of cuhk_pedes, demo, "),
        (["train", "--learning_rat", "1"], "the nearest is 'learning_rate'"),
        (["evaluate", "./none", "--corpus", "rstpreid"], "is read from its official folder"),
        (["convert", "out"], "say what to convert: --init official=FILE"),
        (
            ["convert", "out", "--init", "official=none.pth"],
            "pass --image-size, --patch-stride, --num-attention-heads",
        ),
        (["export", "./none", "--format", "tflite"], "format is 'tflite', expected one of onnx, openvino"),
        (["publish", "./none", "org/name"], "there is no folder ./none"),
        (["publish"], "pass either CHECKPOINT ORG/NAME"),
        (["calibrate", "./none"], "./none is no folder"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ivt", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    printed = capsys.readouterr()
    assert exit_.value.code == 2 and message in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_models_are_those_of_the_package_as_they_were_measured(ivt: Callable[..., Result]) -> None:
    (model,) = json.loads(ivt("models", "--json").stdout)
    assert model["folder"] == choices.DEFAULT_MODEL and model["name"] == Path(choices.DEFAULT_MODEL).name
    measured = json.loads((ROOT / "benchmarks" / "bundled_test.json").read_text())
    assert {name: model["results"][name] for name in ("corpus", "split")} == {"corpus": "synthetic", "split": "test"}
    for name in ("R@1", "R@5", "R@10", "mAP"):
        assert model["results"][name] == pytest.approx(measured["text_to_image"][name])
    assert (model["image_size"], model["max_text_tokens"], model["embedding_width"]) == ([192, 64], 96, 128)
    shown = ivt("models").stdout
    assert "1.2 M parameters" in shown and "192 x 64 pixels (height x width)" in shown and "R@1 85.6" in shown
    assert "does not work on photographs" in shown


LIGHT = """
import sys
from contextlib import suppress
import ivt
from ivt.cli import main

lines = {lines}
for line in lines:
    with suppress(SystemExit):
        main(line)
print(*sorted(sys.modules), file=sys.stderr)
"""


def test_import_and_help_load_no_library(run_python: Run, tmp_path: Path) -> None:
    lines = [["--help"], ["--version"], ["models"], [], ["gallery", "remove", "--gallery", "people.lance"]]
    lines += [[*name.split(), "--help"] for name in COMMANDS if name != "train"]  # whose help has every field
    done = run_python("-c", LIGHT.format(lines=lines), cwd=tmp_path, python_path=ROOT)
    assert done.stdout.count("Usage: ivt") == len(lines) - 3, done.stderr
    loaded = set(done.stderr.split())
    heavy = ("torch", "transformers", "datasets", "accelerate", "daft", "lancedb", "lance", "pyarrow", "matplotlib")
    assert loaded.isdisjoint((*heavy, "numpy", "pandas", "PIL", "nltk", "gradio", "huggingface_hub", "evaluate"))
    assert len(loaded) < 0.3 * 1400  # what `from transformers import AutoModel` loads


def test_interrupted_indexing_is_one_line_and_exit_code_130_and_loses_nothing(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "crops").mkdir()
    for number in range(40):
        Image.effect_noise((16, 32), number + 1).convert("RGB").save(tmp_path / "crops" / f"{number:02d}.png")
    script = tmp_path / "interrupted.py"  # Ctrl-C comes right after the first commit, while the engine's threads work
    script.write_text(
        "import os, signal\n"
        "from ivt.cli import main\n"
        "from ivt.gallery.store import Store\n"
        "upsert = Store.upsert\n"
        "def interrupted(self, table, rows):\n"
        "    upsert(self, table, rows)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "Store.upsert = interrupted\n"
        f"main(['index', 'crops', '--gallery', 'people.lance', '--model', {checkpoint!r}, '--batch-size', '4'])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    said = [line for line in done.stderr.splitlines() if "interrupted" in line]
    assert said == ["interrupted; what was saved stays, the same command goes on"]
    assert "Traceback" not in done.stderr and "FATAL" not in done.stderr
    saved = len(Gallery(tmp_path / "people.lance", checkpoint))
    assert saved > 0
    report = Gallery(tmp_path / "people.lance", checkpoint).add(tmp_path / "crops", progress=False)
    assert (report.unchanged, report.added) == (saved, 40 - saved)
