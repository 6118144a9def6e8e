"""The gallery: what goes in comes out, once, and is found."""

from pathlib import Path

import pytest
from PIL import Image

from retrieval import Gallery


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    folder = tmp_path / "crops"
    for name in ("north/a", "north/b", "south/a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 50), 80).convert("RGB").save(folder / f"{name}.jpg")
    return folder


def test_every_picture_of_a_folder_is_found_once(tmp_path: Path, crops: Path, converted: tuple[Path, str]) -> None:
    gallery = Gallery(tmp_path / "people.lance", model=str(converted[0]))
    gallery.add(crops, camera="entrance")
    gallery.add(crops, camera="entrance")
    assert len(gallery) == 3
    results = gallery.search("a woman with a striped shirt")
    assert sorted(result.image_id for result in results) == ["north/a.jpg", "north/b.jpg", "south/a.jpg"]
    assert [result.score for result in results] == sorted((result.score for result in results), reverse=True)
    assert {result.camera for result in results} == {"entrance"}
