"""What the tests of galleries share: a tiny checkpoint in Hub format, and folders of small pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from gallery_parts import draw, save_checkpoint


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
