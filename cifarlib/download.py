"""Download one large file, come what may: mirrors, resume, retries, a minimum speed.

`pooch` keeps the file, checks its hash and puts it in place at once; this module moves the
bytes. The hash is trusted, not the host. Not for knowing what to download: `data` does.
"""

import errno
import functools
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import filelock
import pooch

from cifarlib import progress
from cifarlib.errors import FullDiskError, InputError

pooch.get_logger().setLevel("WARNING")


class Mirror(NamedTuple):
    """A place to download from.

    Attributes:
        url: http or https address of the file.
        minimum_speed: bytes a second below which another mirror is tried.
    """

    url: str
    minimum_speed: float = 10_000


class Patience(NamedTuple):
    """How long to put up with a bad connection; times in seconds.

    Attributes:
        timeout: silence after which a connection is given up.
        window: span over which the speed is measured; a trickle never trips the timeout.
        attempts: rounds over all mirrors.
        back_off: wait before the second round, doubled before each further one.
    """

    timeout: float = 20
    window: float = 15
    attempts: int = 4
    back_off: float = 1


class UnavailableError(InputError):
    """No mirror delivered the file."""

    exit_status = 1


class _MirrorError(Exception):
    """A mirror did not deliver; another attempt may."""


class _UnreachableError(_MirrorError):
    """A mirror could not even be connected to."""


class _RefusedError(Exception):
    """A mirror will not deliver, however often it is asked."""


def fetch(
    mirrors: list[Mirror], path: Path, sha256: str | None, patience: Patience | None = None
) -> Path:
    """Download a file unless it is there already with the right hash.

    What arrives goes to ``<path>.part``. An interrupted download continues there, from
    whichever mirror answers, and the file gets its name only when it is whole and its hash
    is right.

    Args:
        mirrors: places that have the same file, best first.
        path: where it is to be. The folder belongs to this function.
        sha256: its hash, None if unknown.
        patience: when to give up.

    Returns:
        The path.

    Raises:
        UnavailableError: if no mirror delivered the file; names each with its reason.
        FullDiskError: if there is no space left for it.
    """
    patience = patience or Patience()
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        for leftover in path.parent.iterdir():
            # pooch's temporary file, left by a program that was killed
            if re.fullmatch(r"tmp[a-z0-9_]{8}", leftover.name):
                leftover.unlink()
        failures: dict[str, str] = {}
        size_before = _size(part)
        remaining = list(mirrors)
        for attempt in range(patience.attempts):
            if attempt:
                time.sleep(patience.back_off * 2 ** (attempt - 1))
            num_unreachable = 0
            for mirror in list(remaining):
                began_elsewhere = part.exists()
                try:
                    pooch.retrieve(
                        mirror.url,
                        known_hash=sha256,
                        fname=path.name,
                        path=path.parent,
                        downloader=functools.partial(_download, mirror, part, patience),
                    )
                    _forget(part)
                    return path
                except _RefusedError as error:
                    failures[mirror.url] = str(error)
                    remaining.remove(mirror)
                except _MirrorError as error:
                    failures[mirror.url] = str(error)
                    num_unreachable += isinstance(error, _UnreachableError)
                except InputError:
                    raise
                except ValueError as error:  # pooch: the hash is wrong, and the file is gone
                    if "hash" not in str(error).lower():
                        raise
                    _forget(part)
                    failures[mirror.url] = "sent a file whose SHA-256 is wrong; it was discarded"
                    if not began_elsewhere:
                        remaining.remove(mirror)
            is_offline = num_unreachable == len(remaining) and _size(part) == size_before
            if not remaining or (attempt and is_offline):
                break  # nobody is left to ask, or there is no network
    kept = " (what has arrived is kept)" if _size(part) else ""
    advice = f"Check the network and try again{kept}"
    if not remaining:  # it was not the network
        advice = "Asking again is of no use: correct the address or its #sha256=… if you gave one"
    raise UnavailableError(
        path.name,
        "a mirror that delivers it",
        "; ".join(f"{url} {reason}" for url, reason in failures.items()),
        f"{advice}, or name a file you have with CIFARLIB_SOURCE.",
    )


def _download(mirror: Mirror, part: Path, patience: Patience, url: str, output: str, _) -> None:
    """Bring ``part`` to its full length and hand it over; a downloader as pooch calls it."""
    try:
        _continue(mirror, part, patience)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            kind = _MirrorError if error.code >= 500 or error.code in (408, 429) else _RefusedError
            raise kind(f"answered {error.code}") from error
        if not part.exists():
            raise _RefusedError(f"answered {error.code} though all of it was asked for") from error
        if error.headers.get("Content-Range") != f"bytes */{part.stat().st_size}":
            part.unlink()  # longer than the file: not a part of it
            raise _MirrorError("has a file shorter than what had arrived; starting anew") from error
        # It was whole already; the hash will tell.
    except urllib.error.URLError as error:
        raise _UnreachableError(f"could not be reached ({error.reason})") from error
    except TimeoutError as error:
        raise _MirrorError(f"was silent for {patience.timeout:g} s") from error
    except (http.client.InvalidURL, UnicodeError) as error:
        raise _RefusedError(f"is no address ({error})") from error
    except http.client.HTTPException as error:
        raise _MirrorError(f"broke off ({error or type(error).__name__})") from error
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise _MirrorError(f"broke off ({error or type(error).__name__})") from error
        free = shutil.disk_usage(part.parent).free
        raise FullDiskError(
            part,
            "space for the download",
            f"{free:,} bytes free ({error.strerror})",
            "Free some, or set CIFARLIB_CACHE to a folder on another disk.",
        ) from error
    # A second name, since pooch deletes its file if it is stopped while it hashes it.
    try:
        Path(output).unlink(missing_ok=True)
        Path(output).hardlink_to(part)
    except OSError:  # a disk without hard links
        part.replace(output)


def _forget(part: Path) -> None:
    """Remove what has arrived, which is complete or worthless."""
    for file in (part, part.with_name(f"{part.name}.version")):
        file.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _continue(mirror: Mirror, part: Path, patience: Patience) -> None:
    """Append to ``part`` what the mirror has beyond it."""
    offset = _size(part)
    headers = {"User-Agent": "cifarlib", "Accept-Encoding": "identity"}
    version = part.with_name(f"{part.name}.version")
    if offset:
        headers["Range"] = f"bytes={offset}-"
        # Where no hash will tell, the server does: it sends all of a file that has changed.
        if version.exists() and (known := version.read_text(encoding="utf-8")).startswith(
            f"{mirror.url}\n"
        ):
            headers["If-Range"] = known.partition("\n")[2]
    request = urllib.request.Request(mirror.url, headers=headers)
    with urllib.request.urlopen(request, timeout=patience.timeout) as response:
        if response.status != http.client.PARTIAL_CONTENT:
            offset = 0  # the mirror knows no ranges and sends all
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink(missing_ok=True)
            raise _MirrorError("sent another range than asked for; starting anew")
        # "bytes 0-999/5000" tells the whole length; otherwise what is sent is all there is.
        length = response.headers.get("Content-Range", "").rpartition("/")[2]
        if length.isdecimal():
            total = int(length)
        else:
            length = response.headers.get("Content-Length", "")
            total = offset + int(length) if length.isdecimal() else None
        received = offset
        told = response.headers.get("ETag", "")
        if told.startswith("W/"):  # as good as the same, which is not enough for a part
            told = ""
        if told := told or response.headers.get("Last-Modified"):
            version.write_text(f"{mirror.url}\n{told}", encoding="utf-8")
        with (
            part.open("ab" if offset else "wb") as file,
            progress.bar(total, f"Downloading {part.stem}", "B", initial=offset) as bar,
        ):
            window_began, window_start = time.monotonic(), received
            # read1 returns what has arrived; read would wait for a full block of a trickle.
            while block := response.read1(2**18):
                file.write(block)
                received += len(block)
                bar.update(len(block))
                elapsed = time.monotonic() - window_began
                if elapsed >= patience.window:
                    speed = (received - window_start) / elapsed
                    if speed < mirror.minimum_speed:
                        raise _MirrorError(f"sent only {speed / 1000:,.1f} kB/s")
                    window_began, window_start = time.monotonic(), received
    if total is not None and received < total:
        raise _MirrorError(f"broke off at {received:,} of {total:,} bytes")
