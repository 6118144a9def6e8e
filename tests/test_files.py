from pathlib import Path

import pytest

from ivt.files import MANIFEST, find_damage, new_folder, replace_folder, write_manifest, write_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files and their manifest."""
    (tmp_path / "folder/parts").mkdir(parents=True)
    (tmp_path / "folder/weights").write_bytes(bytes(range(200)))
    (tmp_path / "folder/parts/0").write_bytes(b"zero")
    write_manifest(tmp_path / "folder")
    return tmp_path / "folder"


def test_folder_as_written_is_whole(folder):
    assert find_damage(folder) is None


@pytest.mark.parametrize("name", ["weights", "parts/0"])
def test_every_kind_of_damage_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    assert find_damage(folder) == f"{name} has {len(content) - 1} bytes, {len(content)} were written"
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 16]))
    assert find_damage(folder) == f"{name} holds other bytes than were written"
    (folder / name).unlink()
    assert find_damage(folder) == f"{name} is missing"


@pytest.mark.parametrize("content", ["", '{"weights": [200, "', "[1]", '{"weights": 3}'])
def test_manifest_that_is_none_is_damage(folder, content):
    (folder / MANIFEST).write_text(content)
    assert f"{MANIFEST} or a file it lists cannot be read" in find_damage(folder)
    (folder / MANIFEST).unlink()
    assert find_damage(folder) == f"{MANIFEST} is missing"


def test_manifest_whose_names_are_spoilt_is_damage(folder):
    (folder / MANIFEST).write_text('{"/eights": [200, ""]}')  # a bit of "weights" flipped can make any name
    assert find_damage(folder).endswith("/eights is missing")


def test_replaced_folder_has_the_new_files_only(tmp_path):
    for name, content in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text(content)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["old", "old/2"]


def test_file_that_cannot_be_written_keeps_its_content(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "before")

    def fail(path: Path, text: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError):
        write_text(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before"


def test_new_folder_is_there_when_the_block_is_over_and_not_before(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "deep" / "new", tmp_path / "empty"):
        with new_folder(folder) as written:
            (written / "file").write_text("whole")
            assert not (folder / "file").exists() and written.name == folder.name
        assert (folder / "file").read_text() == "whole" and not written.exists()
    with new_folder(None) as written:
        (written / "file").write_text("whole")
    assert not written.exists()


def test_new_folder_leaves_nothing_after_an_error_and_touches_nothing_that_is_there(tmp_path):
    with pytest.raises(OSError, match="full"), new_folder(tmp_path / "new") as written:
        (written / "file").write_text("half")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="is not an empty folder; remove it or name another"), new_folder(folder):
            pass
    assert (tmp_path / "file").read_text() == "mine"
