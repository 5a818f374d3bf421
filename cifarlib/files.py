"""Writing a file so that it is there whole or not at all. Not for reading."""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of ``path`` when it is complete.

    Who fails in between, or runs out of disk, leaves the old file as it was; who is killed
    leaves a hidden one beside it.

    Args:
        path: the file to be written or replaced; its folder exists.

    Yields:
        A binary file beside it.
    """
    # Two programs may write the same file at the same time; the last one to finish wins.
    with _beside(path, Path.replace) as file:
        yield file


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        FileExistsError: if it is there, even if it came while this one was written.
    """

    def put(temporary: Path, path: Path) -> None:
        if os.name == "nt":
            temporary.rename(path)  # fails there if the name is taken; elsewhere it replaces
            return
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links: the name is taken first, then filled
            path.touch(exist_ok=False)
            try:
                temporary.replace(path)
            except BaseException:
                path.unlink(missing_ok=True)  # or the name would stay taken
                raise
        else:
            temporary.unlink()

    with _beside(path, put) as file:
        file.write(content)


@contextlib.contextmanager
def _beside(path: Path, put: Callable[[Path, Path], object]) -> Iterator[BinaryIO]:
    """Open a hidden file beside ``path`` that is put in its place when it is complete."""
    # Processes of two containers may have one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{secrets.randbelow(10**9):09}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 with Unix line ends, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON that people can read, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
