"""The columns of a gallery are defined once."""

from dataclasses import fields
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from ivt.gallery.columns import (
    CROP_SCHEMA,
    DETAILS,
    Crop,
    Picture,
    crop_table,
    gallery_rows,
    gallery_schema,
)
from ivt.gallery.conditions import COLUMNS
from ivt.retrieval.models import ModelVersion

CROP = Crop("a.png", "/a.png", "north", datetime(2024, 5, 1, tzinfo=UTC), "7", 3, b"picture")


def test_every_field_of_a_crop_is_a_column_and_keeps_its_value() -> None:
    assert {field.name for field in fields(Crop)} == set(CROP_SCHEMA.names)
    assert [Crop(**row) for row in crop_table([CROP, Crop("b")]).to_pylist()] == [CROP, Crop("b")]
    assert {"image_id", "uri", *DETAILS} == {field.name for field in fields(Picture)}


def test_row_of_a_gallery_has_crop_vector_hash_and_model() -> None:
    vector = np.array([[0.6, 0.8]], np.float32)
    rows = gallery_rows(crop_table([CROP]), pa.array(["hash"]), vector, ModelVersion("tiny", "sha256:1"))
    assert rows.schema.metadata == {b"model_name": b"tiny", b"model_revision": b"sha256:1"}
    (row,) = rows.to_pylist()
    assert np.allclose(row.pop("vector"), vector[0])
    assert {name: row.pop(name) for name in CROP_SCHEMA.names} == crop_table([CROP]).to_pylist()[0]
    assert row == {"content_hash": "hash", "model_name": "tiny", "model_revision": "sha256:1"}
    assert set(COLUMNS) == set(rows.schema.names) - {"image", "vector"}


def test_only_what_a_picture_need_not_have_may_be_missing_of_a_row() -> None:
    schema = gallery_schema(ModelVersion("tiny", "sha256:1"), 2)
    assert {field.name for field in schema if field.nullable} == {"uri", "image", *DETAILS}
