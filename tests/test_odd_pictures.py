"""Two thousand odd files: each is read right or named, wherever pictures are read, and the others do not suffer."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import QUADRANTS, OddPicture, odd_pictures, write_odd_pictures
from PIL import Image
from transformers import AutoProcessor

from ivt import Gallery, embed_images
from ivt.corpora import load_corpus
from ivt.corpora.rows import stored_images
from ivt.gallery.folders import NOT_UTF_8
from ivt.hub import handler
from ivt.page import problem_of
from ivt.retrieval.checkpoints import load_embedder
from modeling_ivt import IVTModel
from processing import IVTProcessor
from processing.batches import TrainingPairs
from processing.image_processing_ivt import MAX_PIXELS
from processing.pictures import SHRUNK_PIXELS, UnreadablePicture, read_picture
from processing.views import TrainingViews

# Pillow's remarks on damaged files
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
PICTURES = odd_pictures()
TOLERANCE = 30  # of 255, for lossy formats and dithered palettes


def expected_colours(picture: OddPicture) -> np.ndarray:
    """Those of the quadrants (4, 3)."""
    colours = Image.new("RGB", (4, 1))
    for place, colour in enumerate(QUADRANTS):
        colours.putpixel((place, 0), QUADRANTS[colour])
    return np.asarray(colours if picture.in_colour else colours.convert("L").convert("RGB"))[0]


def is_right(image: Image.Image, picture: OddPicture) -> bool:
    width, height = image.size
    found = [image.getpixel((x, y)) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return np.abs(np.array(found) - expected_colours(picture)).max() <= TOLERANCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "pictures"
    write_odd_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def readable() -> dict[str, bool]:
    """Whether each file can be read."""
    found = {}
    for picture in PICTURES:
        try:
            read_picture(picture.data)
            found[picture.name] = True
        except UnreadablePicture:
            found[picture.name] = False
    return found


def test_there_are_many_of_every_kind(readable: dict[str, bool]) -> None:
    assert len(PICTURES) == len(readable) >= 2000
    assert 0.4 < np.mean(list(readable.values())) < 0.8


@pytest.mark.parametrize("shrink", [False, True])
def test_every_file_is_read_right_or_named_with_a_reason(shrink: bool) -> None:
    for picture in PICTURES:
        try:
            image = read_picture(picture.data, f"file {picture.name}", shrink)
        except UnreadablePicture as error:
            assert not picture.is_whole, f"{picture.name}: {error}"
            assert str(error).startswith(f"file {picture.name} cannot be read: ") and error.reason
        else:
            assert image.mode == "RGB" and image.info == {} and not image.getexif()
            assert picture.kind != "bomb"
            assert not picture.is_whole or is_right(image, picture), picture.name


def test_a_folder_of_them_is_indexed_and_what_cannot_be_read_is_named(
    folder: Path, readable: dict[str, bool], checkpoint: str, tmp_path: Path
) -> None:
    report = Gallery(tmp_path / "people.lance", checkpoint).add(folder, progress=False)
    assert report.added == sum(readable.values()) and report.added + len(report.bad) == len(PICTURES)
    assert set(report.bad) == {name for name, is_readable in readable.items() if not is_readable}
    assert all(report.bad.values())
    rows = Gallery(tmp_path / "people.lance").store.dataset().to_table(columns=["image_id", "vector"]).to_pydict()
    vector_of = dict(zip(rows["image_id"], rows["vector"], strict=True))
    names = [picture.name for picture in PICTURES if picture.is_whole][::7]
    model, processor = load_embedder(checkpoint, torch.float32), AutoProcessor.from_pretrained(checkpoint)
    alone = embed_images(model, processor, [folder / name for name in names], progress=False)
    cosines = torch.nn.functional.cosine_similarity(alone, torch.tensor([vector_of[name] for name in names]))
    assert cosines.min() > 0.999


def test_what_passes_the_check_of_a_corpus_can_be_trained_on_and_evaluated(
    folder: Path, readable: dict[str, bool], checkpoint: str, tmp_path: Path
) -> None:
    names = [picture.name for picture in PICTURES if picture.kind != "flipped bits"] + [
        picture.name for picture in PICTURES if picture.kind == "flipped bits"
    ][::15]
    (tmp_path / "RSTPReid").mkdir()
    (tmp_path / "RSTPReid" / "imgs").symlink_to(folder)
    entries = [
        {"id": place, "img_path": name, "captions": ["A man.", "A woman."], "split": split}
        for place, name in enumerate(names)
        for split in [{1: "val", 2: "test"}.get(place, "train")]
    ]
    (tmp_path / "RSTPReid" / "data_captions.json").write_text(json.dumps(entries))
    rows = load_corpus("rstpreid", tmp_path, "train", on_bad_image="skip")
    assert {Path(image_id).name for image_id in rows["image_id"]} == {
        name for name in names if readable[name] and name not in names[1:3]
    }
    processor: IVTProcessor = AutoProcessor.from_pretrained(checkpoint)
    pairs = TrainingPairs(rows, processor, levels=["sentence"], views=TrainingViews(1, erase=0.0))
    for index in range(0, len(pairs), 2):
        assert pairs[0, index]["views"].dtype == np.uint8
    embeds = embed_images(IVTModel.from_pretrained(checkpoint), processor, stored_images(rows), progress=False)
    assert embeds.isfinite().all()


def test_the_endpoint_and_the_page_answer_for_each(folder: Path, readable: dict[str, bool]) -> None:
    for picture in PICTURES[::3]:
        try:
            image = handler.open_image(base64.b64encode(picture.data).decode())
        except handler.BadInput:
            assert not picture.is_whole or picture.name.split("-")[0] not in handler.FORMATS
        else:
            assert not picture.is_whole or is_right(read_picture(image), picture)
        problem = problem_of(folder / picture.name)
        assert (problem is None) == readable[picture.name]


PEAK = """
import resource, sys
from processing.pictures import UnreadablePicture, read_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        print(read_picture(path, shrink=True).size)
    except UnreadablePicture as error:
        print(error.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_and_large_photographs_take_little_memory(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9_000, 6_000), "red").save(tmp_path / "photograph.jpg", quality=30)
    paths = [*folder.glob("bomb-*"), tmp_path / "photograph.jpg"]
    command = [sys.executable, "-c", PEAK, *map(str, paths)]
    *lines, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    width, height = eval(lines[-1])
    assert SHRUNK_PIXELS <= width * height < 4 * SHRUNK_PIXELS and width / height == pytest.approx(1.5, abs=0.01)
    assert sum("pixels" in line for line in lines) == len(paths) - 1  # the reason of each bomb
    assert int(peak) < 60, "MB, beside the 162 of the photograph alone"


def test_a_photograph_that_is_large_for_a_model_looks_the_same_shrunk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (60, 40, 3), np.uint8))
    small.resize((2400, 3600), Image.Resampling.BICUBIC).save(tmp_path / "photograph.jpg", quality=95)
    whole, shrunk = (read_picture(tmp_path / "photograph.jpg", shrink=shrink) for shrink in (False, True))
    assert whole.size == (2400, 3600) and shrunk.size == (1200, 1800)
    there, here = (np.asarray(image.resize((128, 384), Image.Resampling.BICUBIC), int) for image in (whole, shrunk))
    assert np.abs(there - here).mean() < 1.5


def test_a_picture_just_over_the_limit_is_refused_and_one_at_it_is_not(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    Image.new("1", (side, side)).save(tmp_path / "at.png")
    Image.new("1", (side + 1, side + 1)).save(tmp_path / "over.png")
    assert read_picture(tmp_path / "at.png", shrink=True).width > 1000
    with pytest.raises(UnreadablePicture, match=f"it has {side + 1} x {side + 1} pixels, at most 50,000,000"):
        read_picture(tmp_path / "over.png")


def test_links_are_followed_once_and_other_files_are_counted(checkpoint: str, tmp_path: Path) -> None:
    whole = next(picture for picture in PICTURES if picture.name == "JPEG-RGB.jpg").data
    folder, outside = tmp_path / "crops", tmp_path / "outside"
    for path in (folder / "a.jpg", folder / "sub" / "b.jfif", outside / "c.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(whole)
    for name in ("d.heic", "e.mp4", "f.mp4", "README"):
        (folder / name).write_bytes(b"\0")
    (folder / "linked").symlink_to(outside)
    (folder / "sub" / "loop").symlink_to(folder)
    (outside / "back").symlink_to(folder)
    (outside / "self").symlink_to(outside)
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    with open(os.fsencode(folder) + b"/Jos\xe9.jpg", "wb") as file:
        file.write(whole)
    people = Gallery(tmp_path / "people.lance", checkpoint)
    report = people.add(folder, progress=False)
    assert {picture.image_id for picture in people} == {"a.jpg", "sub/b.jfif", "linked/c.jpg"}
    assert report.bad == {"Jos\\xe9.jpg": NOT_UTF_8}
    assert report.left_out == {".mp4": 2, "": 2, ".heic": 1}
    assert str(report).endswith("1 unreadable; no pictures by their endings: 2 .mp4, 2 without ending, 1 .heic")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(checkpoint: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    (tmp_path / "b.png").chmod(0)
    report = Gallery(tmp_path / "people.lance", checkpoint).add(tmp_path, progress=False)
    assert report.added == 1 and "cannot be read" in report.bad["b.png"]
