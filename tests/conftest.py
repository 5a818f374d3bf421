"""What every test stands on: isolation, tiny images, and archives made without `cifarlib`."""

import contextlib
import functools
import hashlib
import http.server
import io
import itertools
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from linear_problem import make_problem
from PIL import Image

from cifarlib import data, download, settings, splits, synthetic
from cifarlib.splits import CLASS_NAMES, Split

ROOT = Path(__file__).parent.parent
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")


@pytest.fixture(autouse=True)
def isolation(tmp_path, monkeypatch, closed_port):
    """Keep every test away from the network, from this checkout and from the user's files."""
    for name in ("CIFARLIB_SOURCE", "CIFARLIB_PROFILE", "CIFARLIB_REPORT"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # of a hook that runs the tests; ours would commit to its checkout
    monkeypatch.setenv("CIFARLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CIFARLIB_UNATTENDED", "1")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "checkout_folder", lambda: None)
    monkeypatch.setattr(data, "MIRRORS", ((f"http://127.0.0.1:{closed_port}/a.tar.gz", 1),))
    monkeypatch.setattr(data, "_current", None)
    patience = functools.partial(download.Patience, back_off=0)
    monkeypatch.setattr(download, "Patience", patience)
    # Nobody waits for 60,000 drawings because a test took a wrong turn.
    small = functools.partial(synthetic.write_archive, num_train=50, num_test=20)
    monkeypatch.setattr(synthetic, "write_archive", small)
    splits.forget_uses_of_test_set()


@pytest.fixture(scope="session")
def closed_port():
    """Return a local port that refuses connections: bound all the while, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def tiny():
    """Return 50 training and 20 test images."""
    return synthetic.generate(num_train=50, num_test=20)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Let a folder be the checkout, where results are recorded, and return it."""
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def few_entries(monkeypatch):
    """Ask for few networks, since each that has not been run is built for its row."""
    from recorded import SMALL  # imports Keras, as the next line does

    from cifarlib import entries

    monkeypatch.setattr(entries, "ENTRIES", (SMALL, SMALL._replace(recipe="published")))


@pytest.fixture(scope="module")
def problem():
    """Return rows and labels that a linear model can learn, as `linear_problem` makes them."""
    return make_problem()


@pytest.fixture(scope="session")
def tiny_gray(tiny):
    """Return the tiny data set with its green channel only."""
    return tuple(Split(split.images[..., 1:2].copy(), split.labels) for split in tiny)


@pytest.fixture(scope="session")
def build():
    """Return functions that make data sets without `cifarlib`, named by what they make."""
    return SimpleNamespace(
        pack=_pack,
        records=_records,
        binary=_binary,
        python=_python,
        python2_pickle=_python2_pickle,
        folders=_folders,
        image_file=_image_file,
    )


def _pack(path: Path, members: dict[str, bytes], kind: str | None = None) -> Path:
    """Write members as a folder or archive; the suffix tells which unless ``kind`` does."""
    kind = path.name.partition(".")[2] if kind is None else kind
    if kind == "":
        for name, content in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{kind.removeprefix('tar').removeprefix('.')}") as archive:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def _planes(image: np.ndarray) -> bytes:
    return b"".join(image[:, :, channel].tobytes() for channel in range(image.shape[2]))


def _records(split: Split) -> bytes:
    """Return a binary batch: one label byte, then the planes, image after image."""
    pairs = zip(split.images, split.labels, strict=True)
    return b"".join(struct.pack("B", label) + _planes(image) for image, label in pairs)


def _batches(train: Split, test: Split) -> dict[str, Split]:
    size = len(train.labels) // 5
    batches = {
        name: Split(*(part[index * size : (index + 1) * size] for part in train))
        for index, name in enumerate(BATCHES)
    }
    return {**batches, "test_batch": test}


def _binary(train: Split, test: Split, folder: str = "cifar-10-batches-bin") -> dict[str, bytes]:
    """Return the members of an official binary archive."""
    meta = {f"{folder}/batches.meta.txt": "\n".join(CLASS_NAMES).encode()}
    batches = _batches(train, test)
    return meta | {f"{folder}/{name}.bin": _records(batches[name]) for name in batches}


def _python(train: Split, test: Split, dump=None) -> dict[str, bytes]:
    """Return the members of an official python archive."""
    dump = dump or functools.partial(pickle.dumps, protocol=4)
    members = {"cifar-10-batches-py/batches.meta": dump({"label_names": list(CLASS_NAMES)})}
    for name, split in _batches(train, test).items():
        rows = np.frombuffer(b"".join(map(_planes, split.images)), np.uint8).reshape(-1, 3072)
        batch = {
            "batch_label": f"batch {name}",
            "labels": split.labels.tolist(),
            "data": rows.copy(),
            "filenames": [f"{index}.png" for index in range(len(rows))],
        }
        members[f"cifar-10-batches-py/{name}"] = dump(batch)
    return members


def _python2_pickle(value) -> bytes:
    """Write a pickle with the opcodes that Python 2 used, whose strings are bytes here."""
    return b"\x80\x02" + _python2_opcodes(value) + b"."


def _python2_opcodes(value) -> bytes:
    write = _python2_opcodes
    if isinstance(value, dict):
        return b"}(" + b"".join(map(write, itertools.chain(*value.items()))) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(write, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, np.ndarray):
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + write(0) + b"\x85"
        dtype = b"cnumpy\ndtype\n" + write("u1") + write(0) + write(1) + b"\x87R"
        dtype += b"(" + write(3) + write("|") + b"NNN" + write(-1) + write(-1) + write(0) + b"tb"
        rows, columns = value.shape
        state = write(1) + write(rows) + write(columns) + b"\x86" + dtype + b"\x89"
        return empty + write("b") + b"\x87R(" + state + write(value.tobytes()) + b"tb"
    content = value if isinstance(value, bytes) else value.encode("ascii")
    if len(content) < 256:
        return b"U" + struct.pack("B", len(content)) + content
    return b"T" + struct.pack("<i", len(content)) + content


def _image_file(image: np.ndarray, suffix: str = "png") -> bytes:
    content = io.BytesIO()
    picture = Image.fromarray(image)
    picture.save(content, {"jpg": "JPEG", "jpeg": "JPEG"}.get(suffix.lower(), suffix))
    return content.getvalue()


def _folders(train: Split, test: Split, suffix: str = "png", root: str = "") -> dict[str, bytes]:
    """Return the members of a class-folder tree, each class numbered from 0."""
    members = {}
    for folder, split in (("train", train), ("test", test)):
        numbers = dict.fromkeys(range(10), 0)
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            name = f"{root}{folder}/{CLASS_NAMES[label]}/{numbers[label]:04d}.{suffix}"
            members[name] = _image_file(image, suffix)
            numbers[label] += 1
    # An archiver goes through one folder after the other.
    return dict(sorted(members.items(), key=lambda member: member[0].rpartition("/")[0]))


@pytest.fixture(scope="session")
def assert_same_split():
    """Return a check that two splits hold equal images and labels."""

    def check(found: Split, expected: Split) -> None:
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])

    return check


@pytest.fixture(scope="session")
def sha256():
    """Return a function that hashes a file."""
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def run_python(tmp_path):
    """Return a function that starts Python on some code; what still runs is killed at the end."""
    started = []

    def start(code: str, *arguments, **options) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, **{**streams, **options}))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(ValueError):  # a test has closed a stream itself
            process.communicate()


@pytest.fixture
def not_root():
    """Skip a test of permissions where nobody is refused, or nobody could be."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may read and write everything")


@pytest.fixture
def copied_checkout(tmp_path):
    """Return a copy of what this checkout has, which a test may write to."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("assignments", "cifarlib", "notebooks", "results"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def wait_until():
    """Return a function that waits until something is so; the processes that it takes must live."""

    def wait(is_so: Callable[[], bool], *processes: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < deadline
            for process in processes:
                assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    return wait


class Server:
    """A mirror on this machine that can be told to misbehave.

    ``requests`` lists the name and the Range header of every request.
    """

    def __init__(self):
        self.requests: list[tuple[str, str | None]] = []
        self.answers: dict[str, list] = {}
        self.closing = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):  # noqa: N805
                with contextlib.suppress(ConnectionError):
                    self._answer(handler)

            def log_message(handler, *args):  # noqa: N805
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def offer(self, name: str, *answers) -> str:
        """Return the URL of a file and give these answers in turn, the last one for ever.

        An answer is the content, the number of an error, or a function of the request handler.
        """
        self.answers[name] = list(answers)
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def _answer(self, handler) -> None:
        name = urllib.parse.urlparse(handler.path).path.lstrip("/")
        self.requests.append((name, handler.headers.get("Range")))
        answers = self.answers.get(name, [404])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, int):
            handler.send_error(answer)
        elif isinstance(answer, bytes):
            self.send(handler, answer)
        else:
            answer(handler)

    @staticmethod
    def send(handler, content: bytes, status: int = 200, **headers) -> None:
        """Send an answer whose headers, such as ``content_range``, are honest unless given."""
        handler.send_response(status)
        for name, value in {"content_length": len(content), **headers}.items():
            handler.send_header(name.replace("_", "-").title(), str(value))
        handler.end_headers()
        handler.wfile.write(content)

    @classmethod
    def ranged(cls, content: bytes):
        """Return an answer that supports ranges, as RFC 9110 has them."""

        def answer(handler) -> None:
            wanted = handler.headers.get("Range")
            if wanted is None:
                cls.send(handler, content)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            total = len(content)
            if start >= total:
                cls.send(handler, b"", 416, content_range=f"bytes */{total}")
            else:
                told = f"bytes {start}-{total - 1}/{total}"
                cls.send(handler, content[start:], 206, content_range=told)

        return answer


@pytest.fixture
def server():
    """Return a ``Server`` that nothing has been put on yet."""
    running = Server()
    yield running
    running.closing.set()
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def write_notebook(tmp_path):
    """Return a function that writes code cells as a notebook."""

    def write(path: Path, *sources: str) -> Path:
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write
