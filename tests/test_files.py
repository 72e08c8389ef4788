"""Files are replaced whole, or not at all."""

import hashlib
import os
from pathlib import Path

import pytest

from helpers.files import read_checked, write_whole


def found(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"stays")
    write_whole(tmp_path, {"a": b"1", "b": b""})
    write_whole(str(tmp_path), {"a": b"2", "c": b"\0\n"})
    assert found(tmp_path) == {"other": b"stays", "a": b"2", "b": b"", "c": b"\0\n"}


def test_a_new_file_has_the_rights_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path, {"a": b""})
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "plain").st_mode


def test_a_disk_that_fills_up_leaves_the_old_files(tmp_path: Path, monkeypatch) -> None:
    write_whole(tmp_path, {"a": b"old", "b": b"old"})
    plain = Path.write_bytes

    def full_disk(path: Path, content: bytes) -> int:
        if path.name == "b":
            plain(path, content[:1])
            raise OSError("no space left on device")
        return plain(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path, {"a": b"new", "b": b"new"})
    assert found(tmp_path) == {"a": b"old", "b": b"old"}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere", {"a": b""})


def test_a_changed_file_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"as it was")
    expected = hashlib.sha256(b"as it was").hexdigest()
    assert read_checked(path, expected) == b"as it was"
    path.write_bytes(b"as it is")
    with pytest.raises(ValueError, match=r"weights: damaged, its sha256 is .*expected"):
        read_checked(path, expected)
