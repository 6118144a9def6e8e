"""What the served page writes: uploads are limited before they reach the disk, and nothing stays when it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ivt.page import MAX_BYTES, as_text

ROOT = Path(__file__).parents[1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """A process that serves the page, its address, and the folder in which it keeps its files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "files").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path / "files")}
    command = [sys.executable, "-m", "ivt", "serve", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield server, address, tmp_path / "files"
    finally:
        server.kill()
        server.wait()


def files_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_uploads_are_limited_and_gone_when_the_page_ends(
    served: tuple[subprocess.Popen, str, Path], end: signal.Signals
) -> None:
    server, address, folder = served
    for content, is_taken in ((b"0" * 1000, True), (b"0" * (MAX_BYTES + 1), False)):
        answer = httpx.post(f"{address}/gradio_api/upload", files={"files": ("person.jpg", content)}, timeout=60)
        assert (answer.status_code == 200) == is_taken
        assert "Traceback" not in answer.text and str(ROOT) not in answer.text
    sizes = files_in(folder)
    assert sizes["person.jpg"] == 1000 and max(sizes.values()) < MAX_BYTES
    server.send_signal(end)
    server.wait(timeout=30)
    assert files_in(folder) == {} and not list(folder.glob("ivt-*"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("north", "north"),
        ("<img src=x onerror=alert(1)>", r"\<img src=x onerror=alert(1)\>"),
        ("a_b *c* [d](e)\nf", r"a\_b \*c\* \[d\](e) f"),
    ],
)
def test_names_are_shown_as_text(name: str, text: str) -> None:
    assert as_text(name) == text
