"""What the tests share: no network, equal random numbers in every test, a tiny model, processes of their own.

Some of these processes use a model as others would: from a stand-in for the Hub, without this repository, or with its
wheel installed.
"""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
import torch
from gallery_parts import draw, save_checkpoint
from hub_stand_in import HubStandIn
from safetensors.torch import load_file
from transformers import BertTokenizer
from typer.testing import CliRunner, Result

from ivt.cli import app
from modeling_ivt import IVTConfig, IVTModel
from processing import batches, levels

REPO = Path(__file__).parents[1]
GOLDEN = REPO / "tests" / "golden" / "official_ivt_tiny"
WORDS = ["woman", "man", "orange", "coat", "striped", "shirt", "bag", "a", "the", "with", "an", "and", "."]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random numbers do not depend on which tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def small_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nouns and adjectives do not depend on what NLTK finds on this machine or on the network."""
    for module in (levels, batches):
        monkeypatch.setattr(module, "find_tagger", lambda: "small")


@pytest.fixture
def ivt() -> Callable[..., Result]:
    """Run a command in this process; what `main` makes one line of comes out as an exception."""

    def run(*arguments: object, input: str | None = None) -> Result:
        result = CliRunner().invoke(app, [*map(str, arguments)], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def meeting_port() -> Iterator[int]:
    """A port of this machine where the processes of a test can meet, and which the system gives to nobody else.

    It is bound all the while, but not listened at: that is left to a process which asks to reuse the address, as torch
    does.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def tiny_config() -> IVTConfig:
    """Width 32, 2 blocks, 7 rows x 3 columns of overlapping patches, nothing random in training."""
    return IVTConfig(
        image_size=(48, 24),
        patch_size=8,
        patch_stride=6,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=50,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        drop_path_rate=0.0,
        bmm_ratio=0.0,
        initializer_range=0.2,  # large enough for differences to show
    )


@pytest.fixture
def tiny_model(tiny_config: IVTConfig) -> IVTModel:
    return IVTModel(tiny_config).eval()


@pytest.fixture
def tiny_batch() -> dict[str, torch.Tensor]:
    """Three images and captions, the first and last of one person; the second caption has four tokens of padding."""
    attention_mask = torch.ones(3, 9, dtype=torch.long)
    attention_mask[1, 5:] = 0
    return {
        "pixel_values": torch.randn(3, 3, 48, 24),
        "input_ids": torch.randint(5, 50, (3, 9)) * attention_mask,
        "attention_mask": attention_mask,
        "person_ids": torch.tensor([7, 3, 7]),
    }


@pytest.fixture(scope="session")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="session")
def golden_checkpoint() -> Path:
    return GOLDEN / "checkpoint_best.pth"


@pytest.fixture(scope="session")
def golden_sizes() -> list[str]:
    """What `ivt convert` has to be told about the golden checkpoint."""
    sizes = json.loads((GOLDEN / "geometry.json").read_text())
    height, width = map(str, sizes["image_size"])
    heads = str(sizes["num_attention_heads"])
    return ["--image-size", height, width, "--patch-stride", str(sizes["stride"]), "--num-attention-heads", heads]


@pytest.fixture(scope="session")
def golden_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a WordPiece tokenizer with as many tokens as the golden checkpoint has."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    words += [f"word{i}" for i in range(211 - len(words))]
    folder = tmp_path_factory.mktemp("tokenizer")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process that has an empty Hugging Face home and nothing on its path but what it is told.

    Without a `hub` it has no network. `python` is the interpreter, by default the one that runs the tests.
    """

    def run(
        *arguments: object,
        cwd: Path,
        python_path: Path | None = None,
        hub: HubStandIn | None = None,
        python: Path | str = sys.executable,
    ) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")}
        environment |= {"HF_HOME": str(tmp_path_factory.mktemp("hf_home")), "OMP_NUM_THREADS": "1"}
        if python_path:
            environment["PYTHONPATH"] = str(python_path)
        if hub:
            environment |= hub.environment
        command = [str(python), *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,  # whoever asks "do you trust this code?" gets no answer
            capture_output=True,
            text=True,
            timeout=1200,  # of tests that take a minute where nothing else runs
        )
        assert hub is None or hub.unanswered == []
        return done

    return run


@pytest.fixture(scope="session")
def converted(
    golden_checkpoint: Path,
    golden_sizes: list[str],
    golden_tokenizer: Path,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """The golden checkpoint converted by the command line, with a tokenizer: (folder, what was printed)."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    command = ["-m", "ivt", "convert", folder, "--init", f"official={golden_checkpoint}", *golden_sizes]
    done = run_python(*command, "--tokenizer", golden_tokenizer, cwd=REPO)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as server:
        yield server


@pytest.fixture(scope="session")
def published(
    converted: tuple[Path, str], hub: HubStandIn, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> tuple[str, str]:
    """The converted golden checkpoint published by the command line: (name, revision).

    What is on the main branch afterwards is unusable, so whatever does not keep to the revision fails.
    """
    name, revision = "tester/ivt-golden", "v7"
    command = ["-m", "ivt", "publish", converted[0], name, "--license", "mit", "--tag", revision]
    done = run_python(*command, cwd=REPO, hub=hub)
    assert done.returncode == 0, done.stderr
    hub.repositories["models", name].commit("main", {"config.json": b"{}", "modeling_ivt.py": b"raise SystemExit"})
    return name, revision


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel of this project, and the libraries of the Python that runs the tests."""
    folder, wheels = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("wheels")
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels), str(REPO)]
    subprocess.run(build, check=True, timeout=120)
    (wheel,) = wheels.iterdir()
    subprocess.run(
        [*pip, "--python", str(folder / "bin/python"), "install", "--ignore-installed", *offline, str(wheel)],
        check=True,
    )
    # Only a folder on the path: its own .pth files, such as that of an editable install of this repository, are not
    # read. It comes last, and pip has installed before, which would else find the project installed there.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder


@pytest.fixture(scope="session")
def installed_packages(installed: Path) -> Path:
    """The folder in which that environment has its packages."""
    return Path(sysconfig.get_path("purelib", vars={"base": str(installed)}))


@pytest.fixture(scope="session")
def without_package(
    published: tuple[str, str],
    hub: HubStandIn,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What `user_without_package.py` left, run on the published golden checkpoint."""
    output_dir, elsewhere = tmp_path_factory.mktemp("without_package"), tmp_path_factory.mktemp("elsewhere")
    script = REPO / "tests" / "modeling_ivt" / "user_without_package.py"
    done = run_python(script, *published, GOLDEN / "expected.safetensors", output_dir, cwd=elsewhere, hub=hub)
    assert done.returncode == 0, done.stderr
    return output_dir


@pytest.fixture(scope="session")
def with_package(
    published: tuple[str, str],
    installed: Path,
    installed_packages: Path,
    hub: HubStandIn,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """What `user_with_package.py` left, run on the published golden checkpoint, and the folder it was started in."""
    output_dir, elsewhere = tmp_path_factory.mktemp("with_package"), tmp_path_factory.mktemp("elsewhere")
    script = REPO / "tests" / "modeling_ivt" / "user_with_package.py"
    arguments = (script, *published, installed_packages, output_dir)
    done = run_python(*arguments, cwd=elsewhere, hub=hub, python=installed / "bin/python")
    assert done.returncode == 0, done.stderr
    return output_dir, elsewhere


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "other", seed=1)


@pytest.fixture
def make_crops(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures of these names to the folder `crops`, and return it."""

    def make(*names: str, seed: int = 0) -> Path:
        for number, name in enumerate(names):
            path = tmp_path / "crops" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(1000 * seed + number).save(path)
        return tmp_path / "crops"

    return make
