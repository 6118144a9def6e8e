"""What docs/scale.md and the README say about galleries is what the code does."""

import re
from pathlib import Path

import numpy as np

from ivt import Gallery
from ivt.gallery.engine import ROWS_PER_TASK
from ivt.gallery.indexing import COMMIT_ROWS, COMMIT_SECONDS, FILES_PER_QUERY
from ivt.gallery.store import INDEX
from ivt.gallery.table import NUM_PROBES, REFINE_FACTOR
from ivt.gallery.upkeep import EXACT_ROWS, MAX_UNINDEXED

REPO = Path(__file__).parents[2]
SCALE = (REPO / "docs" / "scale.md").read_text()
README = (REPO / "README.md").read_text()


def test_figures_are_the_constants() -> None:
    text = " ".join(SCALE.split())
    assert f"up to {EXACT_ROWS:,} (`upkeep.EXACT_ROWS`)" in text and f"Up to {EXACT_ROWS:,} pictures" in " ".join(
        README.split()
    )
    assert f"{INDEX}, built and extended" in text
    assert "`upkeep.EXACT_ROWS`" in SCALE and "`table.NUM_PROBES`" in text
    assert f"{NUM_PROBES} partitions, {REFINE_FACTOR} candidates per result" in text
    assert MAX_UNINDEXED == 0.1 and "more than a tenth" in text
    assert f"batches of {COMMIT_ROWS:,} or whatever {COMMIT_SECONDS:.0f} seconds gave" in text
    assert f"tasks of {ROWS_PER_TASK:,}" in text
    assert FILES_PER_QUERY["ray"] == 1_000_000 and "a million crops are done, one commit" in text


def test_shards_answer_as_one_gallery_would(make_crops, checkpoint: str, tmp_path: Path) -> None:
    folder = make_crops(*(f"{shard}/{number}.png" for shard in "abc" for number in range(4)))
    whole = Gallery(tmp_path / "whole.lance", checkpoint)
    whole.add(folder, camera="north", progress=False)
    shards = [Gallery(tmp_path / f"{name}.lance", checkpoint) for name in "abc"]
    for name, shard in zip("abc", shards, strict=True):
        shard.add(folder / name, camera="north", progress=False)
    (code,) = re.findall(r"```python\n(.*?)```", SCALE, re.DOTALL)
    names: dict = {}
    exec(compile(code, "scale.md", "exec"), names)
    vector = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    for where in (None, "camera = 'north'"):
        found, expected = names["nearest_in"](shards, vector, 5, where), whole.nearest(vector, 5, where)
        assert found["uri"].to_pylist() == expected["uri"].to_pylist()
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)
