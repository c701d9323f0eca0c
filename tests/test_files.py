"""A reader sees the old content or the new, never a half."""

import json
from pathlib import Path

import pytest

from lorasweep.files import provision, write_bytes, write_json, write_text


def test_folders_are_made_where_needed(tmp_path: Path) -> None:
    write_text(tmp_path / "my runs" / "é.txt", "ü")
    assert (tmp_path / "my runs" / "é.txt").read_bytes() == "ü".encode()


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space left"):
            write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_the_order_of_its_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": 2})
    assert list(json.loads((tmp_path / "a").read_text()).items()) == [("b", 1), ("a", 2)]


def test_a_file_can_be_read_by_whom_the_folder_allows(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_database_is_made_once(tmp_path: Path) -> None:
    made = []

    def create(path: Path) -> None:
        made.append(path)
        path.write_text("data")

    for _ in range(2):
        provision(tmp_path / "new folder" / "a.db", create)
    assert len(made) == 1
    assert (tmp_path / "new folder" / "a.db").read_text() == "data"


def test_a_database_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    def create(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision(tmp_path / "a.db", create)
    assert not list(tmp_path.iterdir())


def test_a_database_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    def create(path: Path) -> None:
        path.write_text("ours")
        (tmp_path / "a.db").write_text("theirs")

    provision(tmp_path / "a.db", create)
    assert (tmp_path / "a.db").read_text() == "theirs"
