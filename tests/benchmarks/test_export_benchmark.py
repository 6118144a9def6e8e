"""The document of exports shows what was measured, and what was measured keeps the promises."""

import json
from pathlib import Path

import pytest

from benchmarks.export import VARIANTS, base_size_of, table_of
from ivt.hub.export import NUM_CALIBRATION_ROWS, TOLERANCE

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "export.json").read_text())


def test_the_document_shows_the_figures_measured() -> None:
    document = (ROOT / "docs" / "export.md").read_text()
    assert table_of(RESULTS) in document and base_size_of(RESULTS) in document
    assert list(RESULTS["variants"]) == list(VARIANTS)
    assert f"({RESULTS['revision'][:19]})" in document
    tolerance = f"{TOLERANCE:.0e}".replace("e-0", "e-")  # as people write it: 1e-4
    assert f"differ by more than {tolerance}" in document
    assert f"{tolerance} is not saved" in " ".join((ROOT / "README.md").read_text().split())
    assert f"{NUM_CALIBRATION_ROWS} images and captions" in document


@pytest.mark.parametrize("name", VARIANTS)
def test_exports_stay_as_near_to_pytorch_as_promised(name: str) -> None:
    figures, exact = RESULTS["variants"][name], RESULTS["variants"]["PyTorch float32"]
    assert RESULTS["num_images"] == 800 and RESULTS["num_captions"] == 1600
    if name.endswith("float32"):
        assert figures["largest difference"] <= 1e-4
    elif name.endswith("bfloat16"):
        assert figures["lowest cosine"] >= 0.999
    else:
        assert abs(figures["R@1"] - exact["R@1"]) <= 0.5
