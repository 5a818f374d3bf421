"""Decoded data sets on disk: arrays that open at once, and what is known about them.

One folder a data set, with four ``.npy`` files and an ``about.json``. A folder appears whole
or not at all, once even if two programs want it at the same time, and is only ever served
when its arrays are known to be the ones that were written. Not for archives or downloads.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from cifarlib import files
from cifarlib.errors import CifarlibError, FullDiskError, InputError
from cifarlib.splits import Split

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

# A file changed within the same tick of the kernel's clock (4 ms, 16 ms on Windows) keeps its
# time stamp; a check only counts for a file that had been at rest for longer than that.
_REST_NS = 50_000_000


class DamagedError(CifarlibError):
    """A cached data set is not what was written."""


def fingerprint(train: Split, test: Split) -> str:
    """Return the SHA-256 of the arrays, the same whatever archive they were read from.

    Args:
        train: uint8 images of shape (n, 32, 32, C) and labels of shape (n,).
        test: likewise.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for images, labels in (train, test):
        for array in (images, labels.astype(np.uint8, copy=False)):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# What a name that is no folder of one's own leads to.
_UNFIT = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOENT, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, so that only one program builds it.

    Raises:
        InputError: if the folder cannot be written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
            yield
    except OSError as error:
        if error.errno not in _UNFIT:
            raise
        raise InputError(
            error.filename2 or error.filename or folder,
            "a folder to write the cache to",
            error.strerror or str(error),
            "Set CIFARLIB_CACHE to a folder of yours.",
        ) from error


def store(folder: Path, train: Split, test: Split, about: dict[str, Any]) -> None:
    """Write a data set; call it inside ``locked``.

    Args:
        folder: the cache folder; an older one is replaced.
        train: uint8 images and labels.
        test: likewise.
        about: what is to be remembered, JSON values; the fingerprint is added.

    Raises:
        FullDiskError: if there is no space left; what was there before is kept.
    """
    num_bytes = sum(array.nbytes for split in (train, test) for array in split)
    temporary, old = (folder.with_name(f".{folder.name}.{age}") for age in ("new", "old"))
    _keep_old(folder)
    for left in (temporary, old):  # by a program that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        arrays = (train.images, train.labels, test.images, test.labels)
        for name, array in zip(ARRAYS, arrays, strict=True):
            np.save(temporary / f"{name}.npy", array.astype(np.uint8, copy=False))
        about = {**about, "fingerprint": fingerprint(train, test)}
        files.write_json(temporary / "about.json", about)
        # As a whole: Windows moves no folder whose files somebody has open, and would delete half.
        if folder.is_dir():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _keep_old(folder)
        # NumPy reports a short write without a number.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None):
            raise
        raise FullDiskError(
            folder.parent,
            f"{num_bytes:,} free bytes for the decoded images",
            f"{shutil.disk_usage(folder.parent).free:,} ({error.strerror or error})",
            "Free some space, or set CIFARLIB_CACHE to a folder on another disk.",
        ) from error


def put_back(parent: Path) -> None:
    """Give folders their names again that a program was replacing when it was killed."""
    for old in parent.glob(".*.old"):
        folder = parent / old.name.removeprefix(".").removesuffix(".old")
        if not folder.exists():
            with contextlib.suppress(InputError), locked(folder):  # where we may not write
                _keep_old(folder)


def _keep_old(folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.replace(folder)


def about(folder: Path) -> dict[str, Any] | None:
    """Return what is remembered about a cached data set, None if there is none.

    Raises:
        DamagedError: if the file that remembers it cannot be read.
    """
    try:
        remembered = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DamagedError(f"about.json cannot be read ({error})") from error
    if not isinstance(remembered, dict) or "fingerprint" not in remembered:
        raise DamagedError("about.json holds no fingerprint")
    return remembered


def load(folder: Path) -> tuple[Split, Split, dict[str, Any]]:
    """Open a cached data set without reading its images.

    The arrays are hashed only if a file is not exactly as it was when they were last hashed
    (size, times, inode), so that a warm start takes a millisecond and a changed byte is
    noticed all the same.

    Returns:
        The training set, the test set (memory-mapped, read-only) and what is remembered.

    Raises:
        FileNotFoundError: if there is no such cache.
        DamagedError: if the arrays are not those that were written.
    """
    began_ns = time.time_ns()  # what changes from here on may do so behind the hash
    remembered = about(folder)
    if remembered is None:
        raise FileNotFoundError(folder)
    state = {"fingerprint": remembered["fingerprint"], **_file_state(folder)}
    arrays = [_open_array(folder / f"{name}.npy") for name in ARRAYS]
    train, test = Split(*arrays[:2]), Split(*arrays[2:])
    if not _was_verified(folder, state):
        if fingerprint(train, test) != remembered["fingerprint"]:
            raise DamagedError("its arrays have changed since they were written")
        _remember_verified(folder, state, began_ns)
    return train, test, remembered


def load_or_build(
    folder: Path, is_current: Callable[[dict], bool], build: Callable[[], None]
) -> tuple[Split, Split, dict[str, Any], str | None]:
    """Open a cached data set, or have it built first if it is missing, outdated or damaged.

    Args:
        folder: the cache folder.
        is_current: tells from what is remembered whether the cache still fits its source.
        build: calls ``store`` for this folder.

    Returns:
        What ``load`` returns, and the damage that was mended, if any.

    Raises:
        InputError: if the cache cannot be written.
    """
    damage = None
    try:
        if opened := _load_current(folder, is_current):
            return (*opened, None)
    except DamagedError as error:
        damage = str(error)
    with locked(folder):
        # Another program may have built it while this one waited for the lock.
        with contextlib.suppress(DamagedError):
            if opened := _load_current(folder, is_current):
                return (*opened, None)
        build()
        return (*load(folder), damage)


def _load_current(
    folder: Path, is_current: Callable[[dict], bool]
) -> tuple[Split, Split, dict[str, Any]] | None:
    """Open a cached data set if it is there and fits its source.

    A function of its own, so that an outdated one is no longer mapped when it is replaced:
    Windows would refuse.
    """
    with contextlib.suppress(FileNotFoundError):
        train, test, remembered = load(folder)
        if is_current(remembered):
            return train, test, remembered
    return None


def _open_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except Exception as error:  # NumPy's header parser lets through what Python's raises
        raise DamagedError(f"{path.name} cannot be read ({error})") from error
    # Labels are small: as int64 in memory they survive arithmetic that overflows a byte.
    if array.ndim == 1:
        array = array.astype(np.int64)
        array.setflags(write=False)  # as the images are
    return array


def _file_state(folder: Path) -> dict[str, list[int]]:
    try:
        stats = {name: (folder / f"{name}.npy").stat() for name in ARRAYS}
    except OSError as error:
        raise DamagedError(f"{Path(error.filename).name} is missing") from error
    return {
        name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        for name, stat in stats.items()
    }


def _was_verified(folder: Path, state: dict[str, Any]) -> bool:
    try:
        verified = json.loads((folder / "verified.json").read_text(encoding="utf-8"))
        last_change = max(max(state[name][1:3]) for name in ARRAYS)  # mtime, ctime
        return verified["state"] == state and verified["at_ns"] > last_change + _REST_NS
    except (OSError, ValueError, KeyError, TypeError):
        return False


def distrust(folder: Path) -> None:
    """Have the arrays hashed when they are opened next, whatever their times say."""
    (folder / "verified.json").unlink(missing_ok=True)


def _remember_verified(folder: Path, state: dict[str, Any], began_ns: int) -> None:
    # A read-only cache is served too, and hashed each time. Who is watched (`confinement`) must
    # not even try.
    if not os.access(folder, os.W_OK):
        return
    with contextlib.suppress(OSError):
        files.write_json(folder / "verified.json", {"at_ns": began_ns, "state": state})
