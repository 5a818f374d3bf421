"""Recorded results: one JSON file each under ``results/``, with the command that repeats it.

Not for measuring: benchmarks, chapters and training do that. Not for showing: `pages` fills the
marked places of README and of the chapters from these files.
"""

import contextlib
import json
import math
import re
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import nbformat

from cifarlib import data, devices, files, settings
from cifarlib.errors import InputError

# <!-- results: WHAT -->…<!-- end --> in Markdown: what is between is recorded, never typed.
MARKED_PLACE = re.compile(r"(<!-- results: ([\w ]+) -->).*?<!-- end -->", re.DOTALL)


class Result(NamedTuple):
    """A measured figure and all that is needed to doubt and repeat it.

    Attributes:
        name: name of the file without its suffix, such as ``"chapter-01-full"``.
        chapter: number of the chapter it belongs to, such as ``"01"``.
        metric: what the values are, with their unit.
        values: one value a seed or repetition.
        seeds: the seeds, or None where nothing is random.
        mean: mean of the values.
        sd: their standard deviation (n - 1), None for a single value.
        color: ``"gray"``, ``"rgb"`` or None.
        data_kind: ``"official"``, ``"JPEG copy"``, … or ``"none"`` if no images are involved.
        data_fingerprint: SHA-256 of the arrays, or None.
        seconds: what the measurement took, or None.
        hardware: what it was measured on; several, if seeds were trained on several.
        versions: of Python and the libraries, when the last value was added.
        commit: of the code that did so (if a training was continued, its last epochs); ends in
            ``+`` if files had changed since, ``"unknown"`` without git, and of a run that was kept
            before runs told it.
        command: what repeats it.
        details: anything else, JSON values.
    """

    name: str
    chapter: str
    metric: str
    values: tuple[float, ...]
    seeds: tuple[int, ...] | None
    mean: float
    sd: float | None
    color: str | None
    data_kind: str
    data_fingerprint: str | None
    seconds: float | None
    hardware: str
    versions: dict[str, str]
    commit: str
    command: str
    details: dict[str, Any]


def folder() -> Path:
    """Return the folder of the recorded results, ``results/`` of the checkout."""
    root = settings.checkout_folder()
    if root is None:
        raise InputError(
            "results", "a checkout of the project", "an installed package", "Clone the repository."
        )
    return root / "results"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let one process at a time read what is recorded in this checkout and replace it."""
    folder().mkdir(exist_ok=True)
    with filelock.FileLock(folder() / ".lock"):
        yield


def write(
    name: str,
    *,
    chapter: str,
    metric: str,
    values: Sequence[float],
    command: str,
    seeds: Sequence[int] | None = None,
    color: str | None = None,
    seconds: float | None = None,
    hardware: str | Iterable[str] | None = None,
    commit: str | None = None,
    with_images: bool = True,
    details: dict[str, Any] | None = None,
) -> Result:
    """Record a result, with the data set loaded last, this machine and this code.

    Args:
        name: name of the file, lower-case letters, digits and dashes.
        chapter: number of the chapter it belongs to.
        metric: what the values are, with their unit.
        values: one value a seed or repetition, at least one, all finite.
        command: what repeats it, as typed in the root of the checkout.
        seeds: as many as values, or None.
        color: ``"gray"``, ``"rgb"`` or None.
        seconds: what the measurement took.
        hardware: what it was measured on, if that is not this machine's processor; one, or one a
            value, of which each is told once.
        commit: of the code that measured, if that is not `current_commit`.
        with_images: whether the data set loaded last has to do with it.
        details: anything else, JSON values.

    Returns:
        The result as written.

    Raises:
        ValueError: if the values are none or not finite, the seeds do not match them, or the name
            is not one of lower-case words joined by dashes.
        InputError: if the images are synthetic, or there is no checkout.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values: expected finite numbers, found {values}")
    if seeds is not None and len(seeds) != len(values):
        raise ValueError(f"seeds: expected {len(values)}, one a value, found {len(seeds)}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name: expected lower-case words joined by dashes, found {name!r}")
    description = data.current() if with_images else None
    if with_images:
        check_recordable()
    hardware = hardware or devices.describe_cpu()
    machines = [hardware] if isinstance(hardware, str) else hardware
    result = Result(
        name=name,
        chapter=chapter,
        metric=metric,
        values=tuple(values),
        seeds=None if seeds is None else tuple(seeds),
        mean=statistics.fmean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        color=color,
        data_kind=description.kind if description else "none",
        data_fingerprint=description.fingerprint if description else None,
        seconds=seconds,
        hardware="; ".join(dict.fromkeys(machines)),
        versions=devices.versions(),
        commit=commit or current_commit(),
        command=command,
        details=details or {},
    )
    path = folder() / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, result._asdict())
    return result


@contextlib.contextmanager
def undisturbed(is_recorded: bool) -> Iterator[None]:
    """Let one benchmark at a time compare times for a record: each would disturb the other.

    Args:
        is_recorded: whether this one does; what is only printed may be disturbed.

    Raises:
        InputError: if there is another.
    """
    if not is_recorded:
        yield
        return
    folder().mkdir(exist_ok=True)
    lock = filelock.FileLock(folder() / ".race.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        told = "one benchmark at a time", "another that is running"
        raise InputError("--record", *told, "Wait until it is over.") from error
    try:
        yield
    finally:
        lock.release()


def on_backend(command: str, backends: Iterable[str]) -> str:
    """Return a command with the backend that it ran on, if that was one, and not the default.

    >>> on_backend("cifarlib run 06", ["jax"])
    'KERAS_BACKEND=jax cifarlib run 06'
    >>> on_backend("cifarlib run 06", ["tensorflow", "jax"])
    'cifarlib run 06'
    """
    names = set(backends)
    name = names.pop() if len(names) == 1 else ""
    return f"KERAS_BACKEND={name} {command}" if name in ("jax", "torch") else command


def check_recordable() -> None:
    """Refuse, before the work is done, what could not be recorded.

    Raises:
        InputError: if the data set loaded last is synthetic, or there is no checkout.
    """
    folder()
    description = data.current()
    if description and description.kind == "synthetic":
        told = "photographs, since readers will see what is recorded"
        advice = "Name an archive with CIFARLIB_SOURCE."
        raise InputError("results", told, "the synthetic stand-in", advice)


def read(name: str) -> Result | None:
    """Return a recorded result, None if there is no such file or no checkout to look in.

    Raises:
        InputError: if the file is damaged or lacks a field.
    """
    if settings.checkout_folder() is None:
        return None
    path = folder() / f"{name}.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError("no object")
        if missing := [field for field in Result._fields if field not in fields]:
            raise ValueError(f"one without {missing[0]}")
        fields["values"] = tuple(fields["values"])
        fields["seeds"] = fields["seeds"] and tuple(fields["seeds"])
        return Result(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        advice = "Restore it with git, or measure again."
        raise InputError(path, "a recorded result", f"{error}", advice) from error


def read_all() -> list[Result]:
    """Return all recorded results, by chapter and name."""
    names = sorted(path.stem for path in folder().glob("*.json"))
    return sorted((read(name) for name in names), key=lambda result: result.chapter)


def without_records(notebook: nbformat.NotebookNode) -> str:
    """Return what a notebook says and does, without what was recorded in it.

    These are the sources and tags of its cells as JSON: no outputs, and marked places empty.
    """
    cells = [
        [cell.cell_type, cell.metadata.get("tags"), MARKED_PLACE.sub(r"\1", cell.source)]
        for cell in notebook.cells
    ]
    return json.dumps(cells)


def told_accuracy(result: Result | None) -> str:
    """Return an accuracy in percent, with spread and number of seeds where it depends on them."""
    if result is None:
        return "not run"
    return in_percent(result.mean, result.sd, 0 if result.seeds is None else len(result.values))


def in_percent(mean: float, sd: float | None = None, count: int = 0) -> str:
    """Return a fraction in percent, with its spread and the number of seeds, if there are any."""
    spread = ""
    if sd is not None and not math.isnan(sd):
        num_digits = 2 if 0 < sd < 0.0005 else 1  # or it would look like none
        spread = f" ± {sd * 100:.{num_digits}f}"
    percent = round(mean * 100 * 10) / 10  # a tie as tables round it
    return f"{percent:.1f}{spread}{f' (n = {count})' if count else ''}"


def current_commit() -> str:
    """Return the checkout's commit, with a + where files that count differ from it.

    ``"unknown"`` without git, or where the checkout is none of git's.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder().parent), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    def is_changed(path: str) -> bool:
        """Tell whether a chapter differs by more than by what was recorded in it."""
        now = (folder().parent / path).read_text(encoding="utf-8")
        before = git("show", f"HEAD:./{path}")
        try:
            was, is_now = (
                without_records(nbformat.reads(text, as_version=4)) for text in (before, now)
            )
        except (ValueError, AttributeError, nbformat.ValidationError):
            return True  # half edited, with marks of a merge, say
        return was != is_now

    try:
        status = git("status", "--porcelain", "--", "cifarlib", "benchmarks", "notebooks")
        modified = git(
            *("diff", "--name-only", "--relative", "--diff-filter=M", "HEAD"),
            *("--", "notebooks/*.ipynb"),
        )
        same = [path for path in modified.splitlines() if not is_changed(path)]
        is_other = len(status.splitlines()) > len(same)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if is_other else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
