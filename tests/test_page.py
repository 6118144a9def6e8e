"""What the demo page does with what a visitor gives it, without a browser."""

from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from ivt import page as app


@pytest.fixture
def shared(converted, tmp_path):
    """A gallery of two cameras, made with a tiny random model."""
    for number, camera in enumerate(["north", "north", "o'hara"]):
        path = tmp_path / "people" / camera / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 100), 50 + 20 * number).save(path)
    return app.open_gallery(str(converted[0]), tmp_path / "people", tmp_path / "people.lance")


def test_folders_are_cameras_and_choose_among_people(shared):
    assert app.cameras_of(shared) == ["north", "o'hara"]
    session = app.Session(shared.store.uri)
    session, people, other, status = app.search(session, "a woman", " ", ["o'hara"])
    assert [result.camera for result in session.found[0]] == ["o'hara"]
    assert session.found[1] is None and not other.visible
    assert status == "1 people of 3 pictures, camera o'hara. Choose one."


def test_no_query_is_an_error_that_shows_an_example(shared):
    with pytest.raises(gr.Error, match="Describe the person first"):
        app.search(app.Session(shared.store.uri), "  ", "", [])


def test_people_still_shown_of_the_gallery_before_an_upload_ask_for_a_new_search(shared):
    with pytest.raises(gr.Error, match="Search this gallery first"):
        app.show_map(app.Session(shared.store.uri), (0, 0), app.WHOLE_SENTENCE)


def test_uploads_are_deleted_when_another_takes_their_place_and_with_the_session(shared, tmp_path):
    pictures = sorted(map(str, (tmp_path / "people" / "north").iterdir()))
    first, cameras, message = app.upload(app.Session(shared.store.uri), pictures)
    assert (cameras.choices, cameras.value, cameras.visible) == ([], [], False)  # of the shared gallery
    assert message.startswith("Your gallery has 2 pictures")
    second, *_ = app.upload(first, pictures[:1])
    assert not first.folder.exists() and second.folder.exists()
    second.close()
    assert not second.folder.exists()
    assert all(Path(name).exists() for name in pictures)


@pytest.mark.parametrize(
    "content, problem",
    [(b"no picture", "is no picture that can be read"), (b"0" * 10_000_001, "is larger than 10 MB")],
)
def test_refused_upload_leaves_the_session_as_it_was(shared, tmp_path, content, problem):
    (tmp_path / "file.jpg").write_bytes(content)
    before = app.Session(shared.store.uri)
    after, _, message = app.upload(before, [str(tmp_path / "file.jpg")])
    assert after is before
    assert message == f"Nothing was uploaded: file.jpg {problem}. The gallery is still the old one."


def test_files_of_one_name_in_several_folders_are_told_apart(shared, tmp_path):
    paths = [tmp_path / folder / "1.jpg" for folder in ("a", "b", "c")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        Image.effect_noise((40, 100), 50 + 20 * number).save(path)
    paths[0].write_bytes(b"no picture")
    session, _, message = app.upload(app.Session(shared.store.uri), list(map(str, paths)))
    assert message.startswith("Your gallery has 2 pictures")
    assert message.endswith("Left out: 1.jpg is no picture that can be read.")
    session.close()


def test_message_of_an_upload_names_the_first_five_files_that_were_refused(shared, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(1, 8)]
    for path in paths:
        path.write_bytes(b"no picture")
    *_, message = app.upload(app.Session(shared.store.uri), list(map(str, paths)))
    assert [path.name in message for path in paths] == 5 * [True] + 2 * [False]


def test_an_upload_takes_no_more_than_its_limit(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MAX_FILES", 2)
    session, _, message = app.upload(app.Session(shared.store.uri), sorted(map(str, tmp_path.rglob("people/*/*.png"))))
    assert message.startswith("Your gallery has 2 pictures") and "Only the first 2 files were taken" in message
    session.close()
