"""What is handed in or recorded names no folder of this machine; executing is in test_running."""

from pathlib import Path, PureWindowsPath

import pytest

from cifarlib import execution, settings


@pytest.fixture(autouse=True)
def folders(monkeypatch):
    """Give this machine folders that lie in one another."""
    monkeypatch.setattr(settings, "cache_folder", lambda: Path("/home/ada/lib/data"))
    monkeypatch.setattr(settings, "checkout_folder", lambda: Path("/home/ada/lib"))
    monkeypatch.setattr(settings, "expand", lambda name: Path("/home/ada"))
    monkeypatch.setattr(execution.sys, "prefix", "/home/ada/lib/.venv")
    monkeypatch.setattr(execution.tempfile, "gettempdir", lambda: "/tmp")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ada/lib/data/x and /home/ada/lib/data2", "<cache>/x and <checkout>/data2"),
        ("/home/ada/lib/.venv/bin:/home/ada", "<environment>/bin:~"),
        (
            "'/tmp/a', \"/tmp\", file:///tmp/b",
            "'<temporary>/a', \"<temporary>\", file://<temporary>/b",
        ),
        (repr("one\n/tmp/a"), repr("one\n<temporary>/a")),
        ("\x1b[0;32m/home/ada\x1b[0m", "\x1b[0;32m~\x1b[0m"),
        ("<td>/tmp/a</td>", "<td><temporary>/a</td>"),
        ("/home/ada/lib/tmp/a", "<checkout>/tmp/a"),
    ],
)
def test_folders_of_this_machine_are_told_by_what_they_are(text, expected):
    assert execution.without_paths(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"C:\Users\ada\lib\x.py", r"<checkout>\x.py"),
        (repr(r"C:\Users\ada\lib\x.py"), r"'<checkout>\\x.py'"),
        ("WindowsPath('C:/Users/ada/lib/x.py')", "WindowsPath('<checkout>/x.py')"),
        ("file:///C:/Users/ada/lib/x.html", "file:///<checkout>/x.html"),
    ],
)
def test_folders_of_windows_are_found_as_people_and_as_repr_write_them(text, expected, monkeypatch):
    folder = PureWindowsPath(r"C:\Users\ada\lib")
    monkeypatch.setattr(settings, "checkout_folder", lambda: folder)
    assert execution.without_paths(text) == expected


@pytest.mark.parametrize(
    "text", ["https://example.org/tmp/a", "data/tmp/a", "./tmp/a", "/tmpfs/a", "/srv/home/ada/x"]
)
def test_other_folders_of_the_same_name_are_left(text):
    assert execution.without_paths(text) == text
