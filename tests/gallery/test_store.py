"""Where a gallery is stored: settings of an object storage reach the libraries that read and write there."""

import inspect

import lance
import lancedb
import pytest

from ivt.gallery.store import Store

SETTINGS = {"aws_endpoint": "http://storage", "region": "north"}


class Asked(Exception):
    """Raised in the place of an answer from an object storage."""


@pytest.mark.parametrize("settings", [SETTINGS, None])
def test_settings_of_an_object_storage_reach_lance_and_lancedb(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str] | None
) -> None:
    asked = []

    def ask(*places: object, storage_options: object = None, **_: object) -> None:
        asked.append((places[0], storage_options))
        raise Asked

    monkeypatch.setattr(lancedb, "connect", ask)
    monkeypatch.setattr(lance, "dataset", ask)
    store = Store("s3://bucket/people.lance", tuple((settings or {}).items()))
    for method in (store.connect, store.open, store.dataset):
        with pytest.raises(Asked):
            method()
    assert asked == [
        ("s3://bucket", settings),
        ("s3://bucket", settings),
        ("s3://bucket/people.lance", settings),
    ]


def test_store_is_named_by_its_last_part() -> None:
    assert Store("s3://bucket/folder/people.lance").name == "people"
    assert inspect.signature(Store).parameters["storage_options"].default == ()
