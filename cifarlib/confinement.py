"""Limits for the code of others: time, memory, and where its Python may write.

No sandbox. The code runs with the rights of whoever starts it, can use the network, and whoever
wants to can undo what is here; only a container or a virtual machine keeps a hostile program in.
This keeps mistakes in: a loop without end, a list without end, a file written where it does
not belong. Not for knowing what is executed: `verification` and `assignments` do.
"""

import contextlib
import errno
import functools
import json
import operator
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cifarlib import settings

if TYPE_CHECKING:
    from cifarlib import data

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

WORK = "work"
RESULT = "result.json"  # what the program leaves for the one that has started it
_HOME = "home"
_LIBRARIES = "libraries"  # caches and the like
_WRITES = "writes.log"
_OUTPUT = "output.log"
_OURS = {WORK, RESULT, _HOME, _LIBRARIES, _WRITES, _OUTPUT}

# What libraries make in a home folder without being asked.
_LIBRARY_FOLDERS = {".cache", ".config", ".ipython", ".jupyter", ".keras", ".local", ".matplotlib"}

# Enough to find programs and libraries; the rest, with its passwords, is nobody's business.
_PASSED_ON = re.compile(
    r"PATH|PYTHONPATH|LD_LIBRARY_PATH|VIRTUAL_ENV|LANG|LC_\w+|TZ|SYSTEMROOT|PATHEXT|COMSPEC|WINDIR"
    r"|KERAS_BACKEND|CUDA_\w+|TF_\w+|XLA_\w+|JAX_\w+|\w+_NUM_THREADS"
)
_MARK = "CIFARLIB_CONFINED"
LARGEST_LIMIT = 10**9  # of seconds, gibibytes and jobs; machines count no further

_POLL_SECONDS = 0.2
_FILE_BYTES = 2**30
_MAX_TOLD = 20


def prepare(root: Path, decoded: Path, source: str | None = None) -> dict[str, str]:
    """Make the folders of a confined program and return its environment.

    The data set is linked into a cache of its own, so that no network is needed, what a program
    keeps does not reach the next one, and nothing the user has kept is read by it.

    Args:
        root: an empty folder, which will hold ``work`` (where notebooks are executed) and others.
        decoded: the folder of the decoded data set that the program will find.
        source: its ``CIFARLIB_SOURCE``, if it is not to take what it finds.
    """
    root = root.resolve()
    libraries = root / _LIBRARIES
    for folder in (root / WORK, root / _HOME, libraries / "temporary"):
        folder.mkdir(parents=True)
    link = libraries / "cache" / "decoded" / decoded.name
    link.parent.mkdir(parents=True)
    try:
        link.symlink_to(decoded, target_is_directory=True)
    except OSError:  # Windows lets few people make links
        shutil.copytree(decoded, link)
    startup = libraries / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    arguments = [str(root / WORK), str(libraries)], str(root / _WRITES)
    startup.joinpath("00-watch.py").write_text(
        f"from cifarlib import confinement\nconfinement.watch_writes(*{arguments!r})\n"
        "del confinement\n",
        encoding="utf-8",
    )
    environment = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    if checkout := settings.checkout_folder():  # which need not be installed
        parts = [str(checkout), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
    temporary = str(libraries / "temporary")
    if source:
        environment["CIFARLIB_SOURCE"] = source
    return environment | {
        _MARK: str(root),
        "HOME": str(root / _HOME),
        "USERPROFILE": str(root / _HOME),
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary),
        "IPYTHONDIR": str(libraries / "ipython"),
        "JUPYTER_CONFIG_DIR": str(libraries / "jupyter"),
        "JUPYTER_DATA_DIR": str(libraries / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(libraries / "jupyter"),
        "KERAS_HOME": str(libraries / "keras"),
        "MPLCONFIGDIR": str(libraries / "matplotlib"),
        "XDG_CACHE_HOME": str(libraries / "xdg"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CIFARLIB_CACHE": str(libraries / "cache"),
        "CIFARLIB_REPORT": str(libraries / "report"),
        "CIFARLIB_PROFILE": "quick",
        "CIFARLIB_UNATTENDED": "1",
    }


def prepare_for(root: Path, description: "data.Description") -> dict[str, str]:
    """Make the folders of a program that will find the data set which is described.

    Args:
        root: as `prepare` takes it.
        description: as `data.describe` returns it.

    Returns:
        The program's environment.
    """
    source = "synthetic" if description.kind == "synthetic" else None
    return prepare(root, Path(description.cache), source)


def run(
    code: str,
    *arguments: object,
    root: Path,
    environment: dict[str, str],
    seconds: float,
    num_bytes: int,
    stopped: threading.Event,
) -> str | None:
    """Run Python code with limits, and end every process it has started.

    Args:
        code: calls `obey` first, then does the work.
        arguments: its ``sys.argv[1:]``.
        root: as prepared.
        environment: as `prepare` returned it.
        seconds: after which it is killed.
        num_bytes: of resident memory, of it and all that descends from it together, above which
            it is killed.
        stopped: ends it when set, for a user who does not want to wait.

    Returns:
        ``"timed out"``, ``"out of memory"``, ``"stopped"``, or None if it ended by itself.
    """
    # -P: nothing in the folder it starts in may pass for a module.
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    deadline = time.monotonic() + seconds
    with (root / _OUTPUT).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us; we tell it
        )
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            if time.monotonic() > deadline:
                return "timed out"
            if _memory(_family(process)) > num_bytes:
                return "out of memory"
            if stopped.is_set():
                return "stopped"
        return None
    finally:
        end(root, process)
        process.stdin.close()


def obey(num_bytes: int) -> None:
    """Take on limits for this process and all that it starts; call it before anything else.

    An allocation beyond the limit fails at once, on Linux. It is the data segment that is
    limited, not the address space, of which TensorFlow reserves three times what it uses on a
    processor and a hundred times on a graphics card. macOS and Windows limit neither; there only
    the watch of `run` does.

    The process also ends when the one that has started it is gone, however that came about.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        for limit, value in (
            (resource.RLIMIT_DATA, num_bytes),
            (resource.RLIMIT_FSIZE, _FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            _, hard = resource.getrlimit(limit)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))

    def wait_for_end_of_parent() -> None:
        # Not by way of sys.stdin, whose lock the interpreter asks for when it ends.
        while os.read(0, 4096):
            pass
        os._exit(1)  # the kernel watches this process in the same manner

    threading.Thread(target=wait_for_end_of_parent, daemon=True).start()


def _family(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a process that has not been waited for, and all below it."""
    with contextlib.suppress(psutil.Error):
        ancestor = psutil.Process(process.pid)
        return [ancestor, *ancestor.children(recursive=True)]
    return []


def _memory(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def end(root: Path, process: subprocess.Popen | None = None) -> None:
    """Kill what has been started in an environment of `prepare`.

    A kernel has a process group of its own, and so may have what it starts; that is why no group
    is killed. A mark in the environment that processes inherit finds those whose parents have
    gone.

    Args:
        root: as prepared.
        process: the first of them, if it is a child of this process; what descends from it is
            killed as well.
    """
    for _ in range(20):  # while one is killed, another may start a third
        members = _family(process) if process and process.poll() is None else []
        for other in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if other.environ().get(_MARK) == str(root.resolve()):
                    members.append(other)
        if not members:
            break
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.kill()
        if process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        psutil.wait_procs([m for m in members if not process or m.pid != process.pid], timeout=1)


def written_outside(root: Path) -> tuple[list[str], bool]:
    """Return where a program has written, or tried to, outside its folder.

    What is seen: what Python code in a kernel opens, renames or removes, wherever it is, and that
    is refused; and, whoever wrote it, what lies beside the working folder or in the home folder.
    What another program, or a compiled library such as HDF5, writes elsewhere is not seen; nor are
    pipes that are made there, and what is opened relative to a descriptor (``dir_fd``) is taken
    for a name in the working folder: Python does not tell.

    Returns:
        Paths, the home folder as ``~``, and whether the kernel was watched from its start.
    """
    half_written = f".{RESULT}."
    told = []
    with contextlib.suppress(OSError):  # the program may have taken it away, or closed it
        beside = {path.name for path in root.iterdir() if not path.name.startswith(half_written)}
        told += [f"../{name}" for name in beside - _OURS]
    with contextlib.suppress(OSError):
        at_home = {path.name for path in (root / _HOME).iterdir()}
        told += [f"~/{name}" for name in at_home - _LIBRARY_FOLDERS]
    is_watched = False
    with contextlib.suppress(OSError):
        for line in left_behind(root / _WRITES, 2**20).splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                path = json.loads(line)
                is_watched = is_watched or path is None
                told += [str(path)] if path else []
    for folder, name in ((root / _HOME, "~"), (root.resolve() / _HOME, "~")):
        told = [path.replace(f"{folder}{os.sep}", f"{name}{os.sep}") for path in told]
    for folder in (root, root.resolve()):
        told = [path.replace(f"{folder}{os.sep}", f"..{os.sep}") for path in told]
    return sorted(set(told))[:_MAX_TOLD], is_watched


def left_behind(path: Path, num_bytes: int) -> bytes:
    """Return what a program has left in a file, at most so many bytes.

    Raises:
        OSError: if there is none, or something else in its place: whoever opens a pipe waits.
    """
    flags = (getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"))
    descriptor = os.open(path, functools.reduce(operator.or_, flags, os.O_RDONLY))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return file.read(num_bytes)


def watch_writes(allowed: Sequence[str], log: str) -> None:
    """Refuse and note what Python code of this process writes outside some folders.

    Cannot be undone in this process.

    Args:
        allowed: folders.
        log: gets a line of JSON for each path, and null for the start of the watch.
    """
    folders = [_resolved(folder) + os.sep for folder in allowed]
    # Devices and what belongs to the system are no places where anything stays, but for /dev/shm,
    # by which libraries share memory.
    is_posix = os.name == "posix"
    folders += ["/dev/", "/proc/"] if is_posix else [f"{_resolved(os.devnull)}{os.sep}"]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"null\n")
    told: set[str] = set()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        for path in _EVENTS[event](*arguments):
            if path is None or f"{path}{os.sep}".startswith(tuple(folders)):
                continue
            if path not in told and len(told) < _MAX_TOLD:
                told.add(path)
                os.write(descriptor, f"{json.dumps(path)}\n".encode())
            raise PermissionError(errno.EACCES, "outside the folder of the submission", path)

    sys.addaudithook(watch)


def _resolved(path: Any, descriptor: int = -1, *, is_followed: bool = True) -> str | None:
    """Return a path without links, None for what is no path.

    Args:
        path: as the system call gets it.
        descriptor: of the folder it starts from, -1 for the working one.
        is_followed: whether the call follows a link that the path itself is.
    """
    if isinstance(path, int) or path is None:
        return None
    path = Path(os.fsdecode(path))
    if descriptor not in (-1, None):
        path = _place_of(descriptor) / path
    if is_followed or path.name == "..":
        return os.path.realpath(path)
    return str(Path(os.path.realpath(path.parent)) / path.name)


def _place_of(descriptor: int) -> Path:
    """Return the folder that a descriptor stands for; one outside where nothing tells."""
    with contextlib.suppress(OSError):  # Linux
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS
        told = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return Path(os.fsdecode(told.rstrip(b"\0")))
    return Path(os.sep, "a folder that this system does not tell")


def _opened(path, mode, flags) -> list[str | None]:
    is_writing = flags & _WRITING or set("wax+") & set(mode or "")
    return [_resolved(path)] if is_writing else []


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _entry(path, *rest) -> list[str | None]:
    """Of calls that change a folder's entry; the descriptor comes last, if there is one."""
    descriptor = rest[-1] if rest else -1
    return [_resolved(path, descriptor, is_followed=False)]


def _both(source, target, source_descriptor=-1, target_descriptor=-1) -> list[str | None]:
    return [*_entry(source, source_descriptor), *_entry(target, target_descriptor)]


def _database(path) -> list[str | None]:
    name = os.fsdecode(path)
    if name.startswith("file:"):
        parts = urllib.parse.urlsplit(name)
        name = urllib.parse.unquote(parts.path)
        if urllib.parse.parse_qs(parts.query).get("mode", [""])[0] in ("ro", "memory"):
            return []
    return [_resolved(name)] if name not in ("", ":memory:") else []


# Paths that are written to, by audit event; the arguments are in Python's "Audit events table".
_EVENTS = {
    "open": _opened,
    "os.chmod": lambda path, mode, descriptor: [_resolved(path, descriptor)],
    "os.chown": lambda path, user, group, descriptor: [_resolved(path, descriptor)],
    "os.link": _both,
    "os.mkdir": _entry,
    "os.remove": _entry,
    "os.removexattr": lambda path, attribute: [_resolved(path)],
    "os.rename": _both,
    "os.rmdir": _entry,
    "os.setxattr": lambda path, attribute, value, flags: [_resolved(path)],
    "os.symlink": lambda source, target, descriptor: _entry(target, descriptor),
    "os.truncate": lambda path, length: [_resolved(path)],
    "os.utime": lambda path, times, ns, descriptor: [_resolved(path, descriptor)],
    "shutil.rmtree": _entry,  # before the first file goes
    "sqlite3.connect": _database,
}
