"""The handler of Inference Endpoints: right answers, and for whatever is wrong an error that says what."""

import base64
import importlib.util
import io
import json
import math
import struct
import sys
import tomllib
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from typing import Any

import pytest
from hub_stand_in import HubStandIn
from PIL import Image
from transformers.dynamic_module_utils import get_imports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("handler", ROOT / "ivt" / "hub" / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def handler(module: ModuleType, converted: tuple[Path, str]) -> Any:
    return module.EndpointHandler(str(converted[0]))


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(width: int = 20, height: int = 40, mode: str = "RGB", kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).convert(mode).save(data, format=kind)
    return data.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it is so large; few bytes, and no pixel of it is there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


IMAGE = in_base64(picture())
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"  # Pillow would start a program for it


def test_the_toolkit_gets_what_the_model_says(
    published: tuple[str, str],
    hub: HubStandIn,
    run_python: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
):
    done = run_python(
        Path(__file__).with_name("endpoint.py"), *published, tmp_path / "out.json", cwd=tmp_path, hub=hub
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    answers = report["answers"]
    assert report["modules"].startswith("transformers_modules.")
    for name in ("text", "image"):
        length = math.hypot(*report[name])
        assert answers[name]["embedding"] == pytest.approx([x / length for x in report[name]], abs=1e-5)
    assert answers["opened"]["embedding"] == pytest.approx(answers["image"]["embedding"], abs=1e-6)
    scores = {answer["label"]: answer["score"] for answer in answers["labels"]}
    assert scores == pytest.approx(report["scores"], abs=1e-5)
    assert list(scores) == sorted(scores, key=lambda label: -scores[label]) and sum(scores.values()) == pytest.approx(
        1
    )
    assert "URLs are not fetched" in answers["bad"]["error"]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_pictures_of_all_kinds_are_embedded(handler: Any, kind: str, mode: str):
    image = picture(mode=mode if kind != "JPEG" else "L", kind=kind)
    assert math.hypot(*handler({"inputs": {"image": in_base64(image)}})["embedding"]) == pytest.approx(1)


def test_base64_may_have_line_breaks(handler: Any):
    broken = base64.encodebytes(picture()).decode()
    assert "\n" in broken
    assert handler({"inputs": {"image": broken}}) == handler({"inputs": {"image": IMAGE}})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, 'expected {"inputs": {…}}'),
        ([], 'expected {"inputs": {…}}'),
        ({}, 'expected {"inputs": {…}}'),
        ({"inputs": "a woman"}, 'expected {"inputs": {…}}'),
        ({"inputs": None}, 'expected {"inputs": {…}}'),
        ({"inputs": {}}, "inputs has nothing"),
        ({"inputs": {"text": None}}, "inputs has nothing"),
        ({"inputs": {"txt": "a woman"}}, "inputs has txt, expected"),
        ({"inputs": {1: "a", "b": "c"}}, "inputs has 1, b, expected"),
        ({"inputs": {"text": "a woman", "image": IMAGE}}, "inputs has image, text, expected"),
        ({"inputs": {"candidate_labels": ["a"]}}, "inputs has candidate_labels, expected"),
        ({"inputs": {"text": ["a woman"]}}, "text is list, expected a sentence"),
        ({"inputs": {"text": 3}}, "text is int, expected a sentence"),
        ({"inputs": {"text": " \n"}}, "text is empty"),
        ({"inputs": {"text": "a" * 5001}}, "text has 5001 characters, at most 5000"),
        ({"inputs": {"image": 3}}, "image is int, expected the file's content in base64"),
        ({"inputs": {"image": {"url": "x"}}}, "image is dict"),
        ({"inputs": {"image": "https://example.org/a.jpg"}}, "image is not base64"),
        ({"inputs": {"image": "file:///etc/passwd"}}, "image is not base64"),
        ({"inputs": {"image": "äöü"}}, "image is not base64"),
        ({"inputs": {"image": IMAGE[:-3]}}, "image is not base64"),
        ({"inputs": {"image": ""}}, "image is no picture"),
        ({"inputs": {"image": in_base64(b"no picture")}}, "image is no picture"),
        (
            {"inputs": {"image": in_base64(EPS)}},
            "image is no picture",
        ),
        ({"inputs": {"image": in_base64(picture(200, 200)[:-40])}}, "image is damaged"),
        ({"inputs": {"image": in_base64(png_of_size(4001, 4000))}}, "4001 x 4000 pixels, at most 16000000"),
        ({"inputs": {"image": IMAGE, "candidate_labels": "a man"}}, "candidate_labels is 'a man', expected a list"),
        ({"inputs": {"image": IMAGE, "candidate_labels": []}}, "candidate_labels is '[]'"),
        ({"inputs": {"image": IMAGE, "candidate_labels": ["a", 2]}}, "candidate_labels[1] is int"),
        ({"inputs": {"image": IMAGE, "candidate_labels": ["a"] * 101}}, "101 candidate_labels, at most 100"),
        ({"inputs": {"image": "x", "candidate_labels": ["a"]}}, "image is not base64"),
    ],
)
def test_bad_input_gets_an_error_that_says_what(handler: Any, body: Any, message: str):
    answer = handler(body)
    assert answer.keys() == {"error"} and message in answer["error"]


def test_requests_as_large_as_allowed_are_answered(handler: Any, module: ModuleType, monkeypatch: pytest.MonkeyPatch):
    assert "embedding" in handler({"inputs": {"text": ("a man " * 1000)[:5000]}})
    labels = [f"word{i}" for i in range(100)]
    answers = handler({"inputs": {"image": IMAGE, "candidate_labels": labels}})
    assert {answer["label"] for answer in answers} == set(labels)
    monkeypatch.setattr(module, "MAX_PIXELS", 20 * 40)
    monkeypatch.setattr(module, "MAX_IMAGE_CHARACTERS", len(IMAGE))
    assert "embedding" in handler({"inputs": {"image": IMAGE}})


@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow warns of the first, and refuses the second itself
def test_pictures_that_would_fill_the_memory_are_not_decoded(handler: Any, side: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        answer = handler({"inputs": {"image": in_base64(png_of_size(side, side))}})
    assert answer.keys() == {"error"}


def test_opened_pictures_are_limited_too(handler: Any):
    assert "4001 x 4000 pixels" in handler({"inputs": Image.new("1", (4001, 4000))})["error"]


def test_long_base64_is_not_even_decoded(handler: Any, module: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_IMAGE_CHARACTERS", 50)
    assert "at most 50 are taken" in handler({"inputs": {"image": "=" * 51}})["error"]


def test_what_nobody_thought_of_is_logged_and_answered(
    handler: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(handler, "processor", None)
    answer = handler({"inputs": {"text": "a woman"}})
    assert answer == {"error": "the request could not be answered; the endpoint's log says why"}
    assert "TypeError" in caplog.text


def test_endpoints_install_the_transformers_that_the_package_asks_for():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = (ROOT / "ivt" / "hub" / "requirements.txt").read_text().split()
    assert installed and set(installed) <= set(wanted)


def test_the_handler_imports_nothing_that_an_endpoint_lacks():
    imported = set(get_imports(ROOT / "ivt" / "hub" / "handler.py")) - sys.stdlib_module_names
    assert imported == {"PIL", "torch", "transformers"}
