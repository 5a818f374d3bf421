"""Safe reading of folders, tar and zip archives into memory.

Nothing is ever unpacked to disk, so no member can write anywhere; names that point outside,
links and devices are refused all the same, because an archive that has them is not the one
the user meant. Not for knowing what the files mean: `archives` does.
"""

import bz2
import errno
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from cifarlib.errors import InputError

# CIFAR-10 as PNG files is 140 MB in 60,000 members; the largest member of an official archive
# is a batch of 31 MB. Anything far beyond is no CIFAR-10.
MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 2**30


class Limits(NamedTuple):
    """How much a container may hold; what holds more is an accident or a trap."""

    num_members: int
    member_bytes: int
    total_bytes: int


GET_ANOTHER = "Get the file again, or name another source with CIFARLIB_SOURCE."

_DAMAGED = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # zip: strong encryption, or of a later version
    RuntimeError,  # zip: encrypted
    ValueError,  # tar: an entry of a header that is no number, or no text
    struct.error,  # zip: an end record without its end
)
# First bytes; a tar begins with a name, which may be PK or BZh as well.
_ZIP = (b"PK\3\4", b"PK\5\6", b"PK\7\b")
_STREAMS = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    **{b"BZh%d1A" % level: bz2.open for level in range(1, 10)},
}


def read_members(
    path: Path, is_wanted: Callable[[str], bool], limits: Limits | None = None
) -> dict[str, bytes]:
    """Read the wanted files of a folder or archive into memory.

    The kind of archive is told by its first bytes, since Keras keeps its copy of CIFAR-10
    without a suffix. Hidden files and the doubles that macOS adds are passed over.

    Args:
        path: a folder, or a .tar, .tar.gz, .tar.bz2, .tar.xz or .zip file.
        is_wanted: tells by its name (POSIX form, relative) whether a file is to be read.
        limits: how much it may hold; None for what is enough for CIFAR-10.

    Returns:
        The contents by name, in the order of the container (sorted for a folder).

    Raises:
        InputError: if the container is missing, unreadable, damaged, cut short, too large or
            tries to escape.
    """
    account = _Account(path, limits or Limits(MAX_MEMBERS, MAX_MEMBER_BYTES, MAX_TOTAL_BYTES))
    try:
        if path.is_dir():
            return dict(_folder_members(path, is_wanted, account))
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(path, "an archive or a folder", "a device or pipe", GET_ANOTHER)
        with path.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic.startswith(_ZIP):
                return dict(_zip_members(path, file, is_wanted, account))
            opener = next((o for m, o in _STREAMS.items() if magic.startswith(m)), None)
            with opener(file) if opener else file as stream:
                return dict(_tar_members(path, stream, is_wanted, account))
    except InputError:
        raise
    except FileNotFoundError as error:
        advice = "Check the path; a relative one starts from the working directory."
        raise InputError(path, "an archive or a folder", "nothing there", advice) from error
    except PermissionError as error:
        raise forbidden(error, path) from error
    except _DAMAGED as error:
        found = f"a damaged or truncated file ({error or type(error).__name__})"
        raise InputError(path, "a complete tar or zip archive", found, GET_ANOTHER) from error
    except OSError as error:
        found = f"a read error ({error})"
        raise InputError(path, "a readable archive", found, GET_ANOTHER) from error


def forbidden(error: PermissionError, path: Path | None = None) -> InputError:
    """Return what to say of a file or folder that may not be read, ``path`` if none is named."""
    advice = "Change its permissions."
    return InputError(error.filename or path, "a readable file or folder", "no permission", advice)


def _folder_members(
    path: Path, is_wanted: Callable, account: "_Account"
) -> Iterator[tuple[str, bytes]]:
    for name, info in files_in(path):
        if not is_hidden(name) and is_wanted(name):
            account.admit(name, info.st_size)
            yield name, (path / name).read_bytes()


def files_in(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Return the files below a folder, sorted by name (POSIX form, relative).

    Linked files are followed; linked folders, and links to nothing or to themselves, are passed
    over.

    Raises:
        InputError: for a folder that may not be listed.
    """

    def fail(error: OSError) -> None:  # os.walk takes such a folder for an empty one
        if isinstance(error, PermissionError):
            raise forbidden(error) from error
        raise error

    found = []
    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            path = Path(parent, name)
            try:
                info = path.stat()
            except PermissionError as error:
                raise forbidden(error) from error
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                continue
            if stat.S_ISREG(info.st_mode):  # a pipe would be waited for
                found.append((path.relative_to(folder).as_posix(), info))
    return sorted(found)


def named_files(
    paths: Sequence[str | Path], endings: tuple[str, ...], told: str
) -> list[tuple[str, Path]]:
    """Return the files that were named, and those of the folders that were.

    Args:
        paths: files, whatever they end in, and folders; or one alone.
        endings: those of the files that count in a folder, at whatever depth, in small letters;
            hidden ones do not.
        told: what is looked for, such as ``"a zip"``.

    Returns:
        Each with what to call it: its name, in a folder its place there; its whole path if
        several paths were named, since the same name may stand in several folders.

    Raises:
        InputError: for a path where nothing is, and for a folder without such files.
    """
    found = []
    paths = [paths] if isinstance(paths, str | Path) else paths
    for path in map(Path, paths):
        files = [(path.name, path)] if path.exists() else []
        if path.is_dir():
            names = [name for name, _ in files_in(path) if name.lower().endswith(endings)]
            files = [(name, path / name) for name in names if not is_hidden(name)]
        if not files:
            expected = f"{told}, or a folder that holds some"
            there = "none" if path.exists() else "nothing there"
            raise InputError(path, expected, there, f"Name {expected}.")
        found += files
    return found if len(paths) == 1 else [(str(path), path) for _, path in found]


def _zip_members(
    path: Path, file: BinaryIO, is_wanted: Callable, account: "_Account"
) -> Iterator[tuple[str, bytes]]:
    names = set()
    with zipfile.ZipFile(file) as archive:
        _check_number_of_members(file, len(archive.infolist()))
        for info in archive.infolist():
            unix_type = info.external_attr >> 28
            if unix_type not in (0, 0o4, 0o10):  # neither unset, nor a folder, nor a file
                _refuse(path, info.filename, "a link or device")
            if info.filename in names:  # readers differ in which of the two they take
                _refuse(path, info.filename, "two members of one name")
            names.add(info.filename)
            account.admit(info.filename, info.file_size)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Of the others zipfile unpacks all there is before it counts.
                found = f"method {info.compress_type}: {info.filename!r}"
                raise InputError(path, "a zip packed as usual (deflate)", found, "Pack it again.")
            # Read even if it is not wanted: only reading compares the directory with the file,
            # and a flipped bit in a name must not make a member disappear.
            # Not archive.read, which would unpack whatever is there before it counts.
            with archive.open(info) as member:
                content = member.read(info.file_size + 1)
            if not info.is_dir() and not is_hidden(info.filename) and is_wanted(info.filename):
                yield info.filename, content


def _check_number_of_members(file: BinaryIO, num_found: int) -> None:
    """Compare with the number in the end record: zipfile believes the directory's size alone."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 2**16 - 22))
    end = file.read()
    (num_told,) = struct.unpack_from("<H", end, end.rindex(b"PK\5\6") + 10)
    if num_told not in (num_found, 0xFFFF):  # the latter: more, in the 64-bit record
        raise zipfile.BadZipFile(f"{num_told} members are told, {num_found} found")


def _tar_members(
    path: Path, stream: BinaryIO, is_wanted: Callable, account: "_Account"
) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictTarInfo) as archive:
        for info in archive:
            archive.members = []  # tarfile would keep every header
            if not info.isfile() and not info.isdir():
                _refuse(path, info.name, "a link or device")
            account.admit(info.name, info.size)
            if info.isfile() and not is_hidden(info.name) and is_wanted(info.name):
                yield info.name, archive.extractfile(info).read()
    # The checksum of a compressed stream stands at its very end, so read up to it; and after
    # the end mark of a tar there are only zeros, or it was no end mark.
    while block := stream.read(2**20):
        account.admit("the padding after the last member", len(block))
        if block.strip(b"\0"):
            raise tarfile.ReadError("something follows the end mark")


_MAX_NAME_BYTES = 2**16
_NAME_TYPES = (
    *tarfile.GNU_TYPES,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _StrictTarInfo(tarfile.TarInfo):
    """A header that ends the archive only where its end mark is.

    `tarfile` takes a broken header or a missing end for the end of the archive, which would
    turn a truncated data set into a smaller one.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = super().frombuf(buf, encoding, errors)
        # The content of these is a long name, which tarfile reads whole before it tells anyone,
        # and of several in a row it keeps all.
        if header.type in _NAME_TYPES and header.size > min(_MAX_NAME_BYTES, MAX_MEMBER_BYTES):
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        if header.size < 0:
            raise tarfile.ReadError(f"a member of {header.size:,} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive):
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):
                raise
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from error


class _Account:
    """The running account of one container: number of members, bytes, names."""

    def __init__(self, path: Path, limits: Limits):
        self.path = path
        self.limits = limits
        self.num_members = 0
        self.num_bytes = 0

    def admit(self, name: str, size: int) -> None:
        """Count a member, or raise InputError if it is too much or points outside."""
        if PurePosixPath(name).is_absolute() or ".." in name.replace("\\", "/").split("/"):
            _refuse(self.path, name, "a name that points outside the archive")
        if size < 0:  # an extended header may say so: tarfile would read what it has read before
            raise tarfile.ReadError(f"a member of {size:,} bytes")
        self.num_members += 1
        self.num_bytes += size
        if (
            size > self.limits.member_bytes
            or self.num_bytes > self.limits.total_bytes
            or self.num_members > self.limits.num_members
        ):
            raise InputError(
                self.path,
                f"at most {self.limits.num_members:,} members, {self.limits.member_bytes:,} bytes "
                f"each and {self.limits.total_bytes:,} in all",
                f"{self.num_members:,} members with {self.num_bytes:,} bytes up to {name!r}",
                "This is not CIFAR-10; name another source.",
            )


def _refuse(path: Path, name: str, what: str) -> None:
    advice = "Do not trust this archive; nothing was written."
    raise InputError(path, "plain files and folders only", f"{what}: {name!r}", advice)


def is_hidden(name: str) -> bool:
    """Tell whether a member or a folder above it is hidden, or a double that macOS adds."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/") if part != ".")
