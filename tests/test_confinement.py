"""Limits for the code of others, tried on a few lines each."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from cifarlib import confinement, settings

MIB = 2**20
posix_only = pytest.mark.skipif(os.name != "posix", reason="Windows has other processes")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits nothing elsewhere")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the folder of a confined program; a checkout makes the package importable."""
    checkout = Path(confinement.__file__).parent.parent
    monkeypatch.setattr(settings, "checkout_folder", lambda: checkout)
    (tmp_path / "decoded").mkdir()
    (tmp_path / "decoded" / "about.json").write_text("{}")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def run(root, tmp_path):
    """Return a function that runs code in ``root`` and tells how it ended."""
    environment = confinement.prepare(root, tmp_path / "decoded")

    def run(code, *arguments, seconds=60, num_bytes=2**30, stopped=None):
        limits = {"seconds": seconds, "num_bytes": num_bytes}
        stopped = stopped or threading.Event()
        return confinement.run(
            code, *arguments, root=root, environment=environment, stopped=stopped, **limits
        )

    return run


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_finds_its_data_and_a_home_of_its_own_and_no_secrets(root, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    environment = confinement.prepare(root, tmp_path / "decoded", "synthetic")
    assert "secret" not in environment.values()
    assert environment["KERAS_BACKEND"] == "jax" and environment["PATH"] == os.environ["PATH"]
    assert environment["CIFARLIB_SOURCE"] == "synthetic"
    assert Path(environment["HOME"]).is_relative_to(root)
    assert (Path(environment["CIFARLIB_CACHE"]) / "decoded" / "decoded" / "about.json").exists()


def test_a_program_that_ends_by_itself_leaves_what_it_found(run, root):
    assert run("import sys; open('result.json', 'w').write(sys.argv[1])", 7) is None
    assert (root / confinement.RESULT).read_text() == "7"


def test_a_module_in_the_folder_does_not_pass_for_one_of_ours(run, root):
    (root / "cifarlib.py").write_text("open('taken', 'w')")
    assert run("import cifarlib") is None
    assert not (root / "taken").exists()


STARTS_OTHERS = """
import os, subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
known = subprocess.Popen(sleep, start_new_session=True)
orphan = "import subprocess as s, sys; "
orphan += "quiet = dict(stdout=s.DEVNULL, stderr=s.DEVNULL, start_new_session=True); "
orphan += "print(s.Popen(sys.argv[1:], **quiet).pid)"
lost = subprocess.run([sys.executable, "-c", orphan, *sleep], capture_output=True, text=True)
open("pids", "w").write(f"{known.pid} {lost.stdout}")
"""


@posix_only
@pytest.mark.parametrize(("last", "ended"), [("while True: pass", "timed out"), ("", None)])
def test_whatever_a_program_started_ends_with_it(run, root, last, ended):
    # What has been started must be there before the time is up, on a busy machine as well.
    assert run(STARTS_OTHERS + last, seconds=10) == ended
    pids = [int(pid) for pid in (root / "pids").read_text().split()]
    assert len(pids) == 2 and not any(map(is_alive, pids))


def test_a_program_that_uses_too_much_memory_is_ended(run):
    code = f"x = b'x' * {400 * MIB}\nimport time; time.sleep(60)"
    assert run(code, num_bytes=200 * MIB) == "out of memory"


def test_the_memory_of_what_it_starts_counts(run):
    hold = f"x = b'x' * {150 * MIB}; import time; time.sleep(60)"
    start = f"subprocess.Popen([sys.executable, '-c', {hold!r}])"
    code = f"import subprocess, sys, time; {start}; {start}; time.sleep(60)"
    assert run(code, num_bytes=250 * MIB) == "out of memory"


@linux_only
def test_an_allocation_beyond_the_limit_fails_at_once(run, root):
    code = f"""
from cifarlib import confinement
confinement.obey({300 * MIB})
small = bytearray({100 * MIB})
try:
    large = bytearray({400 * MIB})
except MemoryError:
    open("result.json", "w").write("refused")
"""
    assert run(code) is None
    assert (root / confinement.RESULT).read_text() == "refused"


@linux_only
def test_a_file_cannot_grow_beyond_all_limits(run, root):
    code = """
from cifarlib import confinement
confinement.obey(2**30)
try:
    with open("work/large", "wb") as file:
        file.truncate(2**40)
except OSError:
    open("result.json", "w").write("refused")
"""
    assert run(code) is None
    assert (root / confinement.RESULT).read_text() == "refused"


def test_a_user_who_does_not_want_to_wait_need_not(run):
    stopped = threading.Event()
    stopped.set()
    assert run("import time; time.sleep(1000)", stopped=stopped) == "stopped"


@posix_only
def test_a_program_ends_when_the_one_that_started_it_is_killed(
    root, tmp_path, run_python, wait_until
):
    code = f"""
import threading
from pathlib import Path
from cifarlib import confinement
root = Path({str(root)!r})
confined = "import os, time; from cifarlib import confinement; confinement.obey(2**30); "
confined += "open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid'); "
confined += "time.sleep(1000)"
environment = confinement.prepare(root, Path({str(tmp_path / "decoded")!r}))
confinement.run(confined, root=root, environment=environment, seconds=1000,
                num_bytes=2**30, stopped=threading.Event())
"""
    process = run_python(code)
    wait_until((root / "pid").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pid = int((root / "pid").read_text())
    wait_until(lambda: not is_alive(pid))


# Where it writes

WATCHED = """
import os, pathlib, shutil, sqlite3, sys, tempfile
from cifarlib import confinement
root, outside, *attempts = sys.argv[1:]
os.chdir(os.path.join(root, "work"))
allowed = [os.path.join(root, "work"), os.path.join(root, "libraries")]
confinement.watch_writes(allowed, os.path.join(root, "writes.log"))
refused = []
for number, attempt in enumerate(attempts):
    try:
        exec(attempt)
    except PermissionError:
        refused.append(number)
print(refused, file=open("refused", "w"))
"""
OUTSIDE = (
    "open('../beside', 'w')",
    "open(outside + '/made', 'w')",
    "open(outside + '/there', 'a')",
    "open(outside + '/there', 'r+')",
    "os.open(outside + '/low', os.O_CREAT | os.O_WRONLY)",
    "(pathlib.Path.home() / 'x').write_text('x')",
    "os.mkdir(outside + '/folder')",
    "os.remove(outside + '/there')",
    "os.rename(outside + '/there', 'taken')",
    "open('mine', 'w').close(); os.replace('mine', outside + '/there')",
    "os.link(outside + '/there', 'linked')",
    "os.symlink('/etc', outside + '/link')",
    "os.symlink(outside, 'through'); open('through/made', 'w')",
    "os.truncate(outside + '/there', 0)",
    "os.chmod(outside + '/there', 0o777)",
    "os.utime(outside + '/there')",
    "os.chown(outside + '/there', -1, -1)",
    "os.rmdir(outside)",
    "shutil.rmtree(outside)",
    "sqlite3.connect(outside + '/database')",
    "sqlite3.connect('file:' + outside + '/other?mode=rwc', uri=True)",
)
if hasattr(os, "setxattr"):  # on Linux
    OUTSIDE += (
        "os.setxattr(outside + '/there', 'user.mark', b'1')",
        "os.removexattr(outside + '/there', 'user.mark')",
    )
INSIDE = (
    "open('inside', 'w').close(); os.rename('inside', 'renamed'); os.remove('renamed')",
    "open(outside + '/there').read()",
    "open(os.devnull, 'w').close()",
    "os.makedirs('a/b'); open('a/b/c', 'w').close(); shutil.rmtree('a')",
    "d = tempfile.TemporaryDirectory(); open(d.name + '/x', 'w').close(); d.cleanup()",
    "os.symlink(outside, 'pointer'); os.remove('pointer')",
    "sqlite3.connect(':memory:'); sqlite3.connect('inside.db')",
    "sqlite3.connect('file::memory:', uri=True); sqlite3.connect('file:uri.db', uri=True)",
)


def test_a_folder_that_no_system_tells_is_outside(monkeypatch):
    monkeypatch.setattr(Path, "readlink", lambda self: (_ for _ in ()).throw(OSError))
    found = confinement._resolved("there", 3)
    assert found.startswith(os.sep) and found.endswith("there")


def test_a_folder_that_was_taken_away_holds_nothing(tmp_path):
    assert confinement.written_outside(tmp_path / "gone") == ([], False)


@posix_only
def test_the_folder_above_is_not_inside_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert confinement._resolved("..", is_followed=False) == str(tmp_path.resolve().parent)


@posix_only
def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / "file").write_bytes(b"told")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert confinement.left_behind(tmp_path / "file", 3) == b"tol"
    for name in ("pipe", "link", "nothing"):
        with pytest.raises(OSError):
            confinement.left_behind(tmp_path / name, 3)


@posix_only
def test_python_may_write_inside_its_folder_only(run, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there").write_text("as it was")
    attempts = [*OUTSIDE, *INSIDE]
    assert run(WATCHED, root, outside, *attempts) is None
    refused = json.loads((root / confinement.WORK / "refused").read_text())
    assert [attempts[number] for number in refused] == list(OUTSIDE)
    assert [path.name for path in outside.iterdir()] == ["there"]
    assert (outside / "there").read_text() == "as it was"
    told, is_watched = confinement.written_outside(root)
    assert is_watched
    assert {"../beside", "~/x", f"{outside}/made", f"{outside}/there"} <= set(told)


def test_what_other_programs_write_beside_the_folder_or_at_home_is_seen(run, root):
    code = """
import os
from pathlib import Path
Path("beside").touch()
for name in (".bashrc", ".cache/mine", ".keras/keras.json"):
    path = Path(os.environ["HOME"], name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
"""
    assert run(code) is None
    assert confinement.written_outside(root) == (["../beside", "~/.bashrc"], False)


def test_nothing_is_seen_where_nothing_was_written(run, root):
    assert run("open('result.json', 'w').close(); open('work/x', 'w').close()") is None
    assert confinement.written_outside(root) == ([], False)


@pytest.mark.parametrize("log", ["", "{", "[1]\n{}\n", '"\\u0000"\n', "[" * 100_000])
def test_a_log_that_was_tampered_with_is_read_all_the_same(run, root, log):
    assert run("pass") is None
    (root / "writes.log").write_text(log)
    told, is_watched = confinement.written_outside(root)
    assert not is_watched and len(told) <= 1


@pytest.mark.parametrize(("ending", "status"), [("", 0), ("raise SystemExit(3)", 3)])
def test_a_program_that_obeys_ends_as_any_other(ending, status):
    code = f"from cifarlib import confinement\nconfinement.obey(2**33)\n{ending}"
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Its input stays open, as that of a parent who lives.
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.wait(60) == status
        assert process.stderr.read() == b""
