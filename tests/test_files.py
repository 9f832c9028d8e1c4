"""Texts in any encoding, names for files, places that can be written."""

from pathlib import Path

import pytest

from slugdemo import files
from slugdemo.errors import SlugError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("words", ["a cat", "Renée, café", "", "x", "猫 and cat in a sentence"])
def test_a_text_is_read_in_its_encoding(encoding: str, words: str) -> None:
    if encoding in ("utf-16-le", "utf-16-be") and len(words) < 2:
        return  # too short to tell without a mark
    assert files.text(words.encode(encoding)) == words


def test_what_is_no_utf8_is_cp1252() -> None:
    assert files.text("café “x” €".encode("cp1252")) == "café “x” €"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("AC/DC", "AC-DC"),
        ("my mug ", "my-mug"),
        ("Van_Gogh", "Van_Gogh"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\con", "C-con"),
        ("jack-o-lantern", "jack-o-lantern"),
        ("Renée", "Renée"),
        ("???", "concept"),
        ("x" * 300, "x" * 40),
    ],
)
def test_a_name_becomes_one_that_every_file_system_takes(
    tmp_path: Path, name: str, safe: str
) -> None:
    assert files.safe_name(name) == safe
    assert files.writable(tmp_path / f"{safe}.safetensors").parent == tmp_path


def test_a_place_is_checked_and_left_as_it_was(tmp_path: Path) -> None:
    assert files.writable(tmp_path / "new" / "a.st") == tmp_path / "new" / "a.st"
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "old.st").write_bytes(b"old")
    files.writable(tmp_path / "old.st")
    assert (tmp_path / "old.st").read_bytes() == b"old"
    assert files.writable_folder(tmp_path / "pictures").is_dir()
    assert not files.new_folder(tmp_path / "model").exists()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, said in (
        (tmp_path, "is a folder: give the name of a file"),
        (tmp_path / "file" / "a.st", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (Path("/proc/a.st"), "cannot be written"),
    ):
        with pytest.raises(SlugError, match=said):
            files.writable(path)
    with pytest.raises(SlugError, match="is a file: give the name of a folder"):
        files.writable_folder(tmp_path / "file")
    with pytest.raises(SlugError, match="exists already: choose a new folder"):
        files.new_folder(tmp_path)


def test_a_path_begins_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("~/a.st") == tmp_path / "a.st"
    assert files.writable("~/a.st") == tmp_path / "a.st"
    with pytest.raises(SlugError, match="no such home folder"):
        files.expanded("~nobody-here/a.st")
