"""A killed process loses nothing that it acknowledged, and the next run finishes."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from gallery_parts import draw
from index_until_killed import ROWS_PER_BATCH

from ivt import Gallery
from ivt.gallery.indexing import IndexReport
from ivt.retrieval.models import find_version

REPO = Path(__file__).parents[2]
NUM_PICTURES = 5 * ROWS_PER_BATCH
NAMES = [f"{number:02}.png" for number in range(NUM_PICTURES)]
# point -> rows that are in the table: of those that were acknowledged, and of those that were not
INDEXING = {
    "after-create-1": (0, 0),
    "before-upsert-1": (0, 0),
    "after-upsert-1": (0, ROWS_PER_BATCH),
    "data-upsert-2": (ROWS_PER_BATCH, 0),
    "transaction-upsert-2": (ROWS_PER_BATCH, 0),
    "before-upsert-3": (2 * ROWS_PER_BATCH, 0),
    "after-upsert-5": (4 * ROWS_PER_BATCH, ROWS_PER_BATCH),
}
CONVERTING = ["before-replace-1", "data-replace-1", "after-replace-1"]


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: str, other_checkpoint: str, run_python: Callable
) -> Path:
    """A folder `crops`, and the galleries of processes that were killed while they indexed it."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "crops").mkdir()
    for number, name in enumerate(NAMES):
        draw(number).save(folder / "crops" / name)
    script = Path(__file__).with_name("index_until_killed.py")
    arguments = (folder / "crops", checkpoint, other_checkpoint, folder, *INDEXING, *CONVERTING)
    done = run_python(script, *arguments, cwd=folder, python_path=REPO)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("point", INDEXING)
def test_killed_gallery_holds_each_acknowledged_row_once_and_the_next_run_finishes(
    killed: Path, checkpoint: str, point: str
) -> None:
    log = (killed / f"{point}.log").read_text()
    acknowledged = sum(map(int, re.findall(r"acknowledged (\d+) pictures", log)))
    people = Gallery(killed / f"{point}.lance", checkpoint)
    present = len(people)
    assert (acknowledged, present - acknowledged) == INDEXING[point]
    num_files = len(list((killed / f"{point}.lance" / "data").glob("*.lance")))  # one for each batch
    assert num_files - present // ROWS_PER_BATCH == point.startswith("transaction")  # whole, and never committed
    assert people.verify() == {}  # no name twice, every vector whole

    assert people.add(killed / "crops", progress=False) == IndexReport(added=NUM_PICTURES - present, unchanged=present)
    assert sorted(picture.image_id for picture in people) == NAMES
    assert people.verify() == {}


@pytest.mark.parametrize("point", CONVERTING)
def test_killed_conversion_leaves_one_whole_gallery_and_the_next_one_finishes(
    killed: Path, checkpoint: str, other_checkpoint: str, point: str
) -> None:
    people = Gallery(killed / f"{point}.lance")
    old, new = find_version(checkpoint), find_version(other_checkpoint)
    assert people.model_version == (new if point.startswith("after") else old)
    assert sorted(picture.image_id for picture in people) == NAMES and people.verify() == {}

    converted = Gallery.reembed(people.store.uri, other_checkpoint, progress=False)
    assert sorted(picture.image_id for picture in converted) == NAMES and converted.verify() == {}
    assert not list(killed.glob(f"{point}.reembed.lance"))
