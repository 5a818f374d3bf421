"""Files that are written whole or not at all."""

import os
import signal

import pytest

from cifarlib import files

PREAMBLE = """
import os, signal, sys
from pathlib import Path
from cifarlib import files
path = Path(sys.argv[1])
"""


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "file.bin"


def visible(path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))


def test_a_file_is_written_with_what_was_written_to_it(path):
    with files.replacing(path) as file:
        file.write(b"one\r\n")
        file.write(bytes(range(256)))
    assert path.read_bytes() == b"one\r\n" + bytes(range(256))
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_file_that_is_there_is_replaced_by_a_shorter_one(path):
    path.write_bytes(b"a long time ago")
    with files.replacing(path) as file:
        file.write(b"now")
    assert path.read_bytes() == b"now"


def test_nobody_sees_a_file_before_it_is_complete(path):
    with files.replacing(path) as file:
        file.write(b"half")
        file.flush()
        assert visible(path) == []
    path.write_bytes(b"old")
    with files.replacing(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old" and visible(path) == ["file.bin"]


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_on_the_way_leaves_what_was_there(path, old, error):
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(type(error)), files.replacing(path) as file:
        file.write(b"new")
        raise error
    assert visible(path) == ([] if old is None else ["file.bin"])
    assert old is None or path.read_bytes() == old


def test_what_an_error_left_is_no_obstacle_to_the_next_attempt(path):
    for content in (b"a long first attempt", b"second"):
        with pytest.raises(ValueError), files.replacing(path) as file:
            file.write(content)
            raise ValueError
    with files.replacing(path) as file:
        file.write(b"third")
    assert path.read_bytes() == b"third"


@pytest.mark.skipif(os.name != "posix", reason="sends a Unix signal")
def test_a_process_that_is_killed_leaves_the_old_file(path, run_python):
    path.write_bytes(b"old")
    script = """
with files.replacing(path) as file:
    file.write(b"new" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_python(PREAMBLE + script, path)
    assert process.wait(60) == -signal.SIGKILL, process.communicate()
    assert path.read_bytes() == b"old"
    assert visible(path) == ["file.bin"]


def test_of_two_processes_at_once_the_last_one_to_finish_wins(path, run_python):
    script = """
with files.replacing(path) as file:
    file.write(b"the other one's")
    print("open", flush=True)
    sys.stdin.readline()
"""
    process = run_python(PREAMBLE + script, path, stdin=-1)
    assert process.stdout.readline() == "open\n", process.communicate()
    with files.replacing(path) as file:
        file.write(b"mine")
    assert path.read_bytes() == b"mine"
    _, errors = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0, errors
    assert path.read_bytes() == b"the other one's"
    assert visible(path) == ["file.bin"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "nowhere" / "file"):
        raise AssertionError("opened")


def test_text_is_utf_8_with_unix_line_ends(path):
    files.write_text(path, "15° × 3\nand ü\n")
    assert path.read_bytes() == b"15\xc2\xb0 \xc3\x97 3\nand \xc3\xbc\n"


def test_text_that_cannot_be_written_leaves_the_old_one(path):
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\ud800")
    assert path.read_text() == "old"


# Files that replace none


def test_a_new_file_is_written_whole(path):
    files.write_new(path, b"all of it")
    assert path.read_bytes() == b"all of it"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_file_that_is_there_is_not_written_over(path):
    path.write_bytes(b"earlier")
    with pytest.raises(FileExistsError):
        files.write_new(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_name_is_not_taken_by_a_file_that_could_not_be_written(path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    for method in ("hardlink_to", "replace", "rename"):
        monkeypatch.setattr(type(path), method, refuse)
    with pytest.raises(PermissionError):
        files.write_new(path, b"new")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("is_there", [False, True])
def test_a_disk_without_hard_links_makes_no_difference(path, monkeypatch, is_there):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(path), "hardlink_to", refuse)
    if is_there:
        path.write_bytes(b"earlier")
        with pytest.raises(FileExistsError):
            files.write_new(path, b"later")
    else:
        files.write_new(path, b"earlier")
    assert path.read_bytes() == b"earlier"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]
