"""Recorded results: one JSON file each under ``results/``, and the pages that quote them.

README and the chapters never state a measured number of their own. They hold marked places,
and `stamp` fills those from the files, so that a number can always be traced to the command
that produced it. Not for measuring: benchmarks, chapters and training do that.
"""

import contextlib
import json
import math
import re
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import nbformat

from cifarlib import chapters, colab, data, devices, files, settings
from cifarlib.errors import InputError


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
        commit: of the code that did so; ends in ``+`` if files had changed since.
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
    hardware: str | None = None,
    commit: str | None = None,
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
        hardware: what it was measured on, if that is not this machine's processor.
        commit: of the code that measured, if that is not `current_commit`.
        details: anything else, JSON values.

    Returns:
        The result as written.

    Raises:
        ValueError: if the values are none or not finite, or the seeds do not match them.
        InputError: if the data set loaded last is synthetic.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError(f"values: expected finite numbers, found {values}")
    if seeds is not None and len(seeds) != len(values):
        raise ValueError(f"seeds: expected {len(values)}, one a value, found {len(seeds)}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name: expected lower-case words joined by dashes, found {name!r}")
    check_recordable()
    description = data.current()
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
        hardware=hardware or devices.describe_cpu(),
        versions=devices.versions(),
        commit=commit or current_commit(),
        command=command,
        details=details or {},
    )
    path = folder() / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, result._asdict())
    return result


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
        raise InputError("--record", told, "the synthetic stand-in", advice)


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
        fields["values"] = tuple(fields["values"])
        fields["seeds"] = fields["seeds"] and tuple(fields["seeds"])
        return Result(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        advice = "Restore it with git, or measure again."
        raise InputError(path, "a recorded result", f"{error}", advice) from error


def read_all() -> list[Result]:
    """Return all recorded results, by chapter and name."""
    names = sorted(path.stem for path in folder().glob("*.json"))
    return sorted((read(name) for name in names), key=lambda result: result.chapter)


def stale(recorded: Sequence[Result]) -> set[str]:
    """Return the names of those that other code, or another configuration, has made.

    Only networks and races keep a digest of both; importing Keras to compute it takes seconds.
    """
    kept = [result for result in recorded if result.name.startswith(("network-", "benchmark-fast"))]
    if not kept:
        return set()
    from cifarlib import leaderboard

    return {result.name for result in kept if leaderboard.is_stale(result)}


def stamp(text: str) -> str:
    """Return a page of Markdown with its marked places filled from the recorded results.

    A place is ``<!-- results: WHAT -->…<!-- end -->``, where WHAT is ``chapters``,
    ``benchmarks``, ``linear``, ``networks`` or ``time NN``.

    Raises:
        KeyError: if a place asks for something unknown.
    """

    def fill(match: re.Match) -> str:
        what, *arguments = match[2].split()
        content = _PLACES[what](*arguments)
        joint = "\n" if "\n" in content else ""
        return f"{match[1]}{joint}{content}{joint}<!-- end -->"

    return _PLACE.sub(fill, text)


def without_records(notebook: nbformat.NotebookNode) -> str:
    """Return what a notebook says and does, without what was recorded in it.

    These are the sources and tags of its cells as JSON: no outputs, and marked places empty.
    """
    cells = [
        [cell.cell_type, cell.metadata.get("tags"), _PLACE.sub(r"\1", cell.source)]
        for cell in notebook.cells
    ]
    return json.dumps(cells)


def stamp_readme() -> None:
    """Fill the marked places of the checkout's README."""
    path = folder().parent / "README.md"
    with alone():
        text = path.read_text(encoding="utf-8")
        if (stamped := stamp(text)) != text:
            files.write_text(path, stamped)


def _chapter_seconds(number: str, profile: str) -> str:
    result = read(f"chapter-{number}-{profile}")
    return f"{result.mean:.0f} s" if result else "not measured"


def _time_line(number: str) -> str:
    quick, full = (_chapter_seconds(number, profile) for profile in ("quick", "full"))
    result = read(f"chapter-{number}-full")
    where = f" on {result.hardware} ({result.data_kind} of the data)" if result else ""
    return f"quick profile {quick}, full profile {full}{where}"


def _chapters_table() -> str:
    rows = ["| | chapter | you will see | quick | full |", "|---|---|---|--:|--:|"]
    for chapter in chapters.find():
        title, promise = chapters.title_and_promise(chapters.read(chapter.path))
        name = chapter.path.name
        link = f"[{title}](notebooks/{name}) ([Colab]({colab.address(name)}))"
        times = " | ".join(_chapter_seconds(chapter.number, p) for p in ("quick", "full"))
        rows.append(f"| {int(chapter.number)} | {link} | {promise} | {times} |")
    return "\n".join(rows)


def _benchmarks_table() -> str:
    rows = ["| what | times as fast | n |", "|---|--:|--:|"]
    found = [result for result in read_all() if result.name.startswith("benchmark-")]
    of_other_code = stale(found)
    for result in found:
        spread = f"{min(result.values):.1f} to {max(result.values):.1f}"
        ratio = f"{statistics.median(result.values):.1f} ({spread})"
        mark = " (stale: of other code)" if result.name in of_other_code else ""
        rows.append(f"| {result.metric}{mark} | {ratio} | {len(result.values)} |")
    return "\n".join(rows)


def _linear_table() -> str:
    found = {result.name: result for result in read_all() if result.name.startswith("linear-")}
    gray = [result for result in found.values() if result.color == "gray"]
    rows = ["| features | gray (%) | colour (%) | seconds (gray) |", "|---|--:|--:|--:|"]
    for result in sorted(gray, key=lambda result: result.mean):
        rung = result.name.removeprefix("linear-").removesuffix("-gray")
        accuracies = f"{told_accuracy(result)} | {told_accuracy(found.get(f'linear-{rung}-rgb'))}"
        seconds = result.seconds / len(result.values)
        rows.append(f"| {rung.replace('-', ' ')} | {accuracies} | {seconds:.0f} |")
    return "\n".join(rows)


def _networks_table() -> str:
    # Whether a record is stale is for Keras to say, which nobody else here needs.
    from cifarlib import leaderboard

    return leaderboard.table()


def told_accuracy(result: Result | None) -> str:
    """Return an accuracy in percent, with spread and number of seeds where it depends on them."""
    if result is None:
        return "not run"
    return in_percent(result.mean, result.sd, 0 if result.seeds is None else len(result.values))


def in_percent(mean: float, sd: float | None = None, count: int = 0) -> str:
    """Return a fraction in percent, with its spread and the number of seeds, if there are any."""
    spread = "" if sd is None or math.isnan(sd) else f" ± {sd * 100:.1f}"
    return f"{mean * 100:.1f}{spread}{f' (n = {count})' if count else ''}"


_PLACE = re.compile(r"(<!-- results: ([\w ]+) -->).*?<!-- end -->", re.DOTALL)
_PLACES = {
    "time": _time_line,
    "chapters": _chapters_table,
    "benchmarks": _benchmarks_table,
    "linear": _linear_table,
    "networks": _networks_table,
}


def current_commit() -> str:
    """Return the checkout's commit, with a + where files that count differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder().parent), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    def is_changed(path: str) -> bool:
        """Tell whether a chapter differs by more than by what was recorded in it."""
        now = (folder().parent / path).read_text(encoding="utf-8")
        before = git("show", f"HEAD:{path}")
        try:
            was, is_now = (
                without_records(nbformat.reads(text, as_version=4)) for text in (before, now)
            )
        except (ValueError, AttributeError, nbformat.ValidationError):
            return True  # half edited, with marks of a merge, say
        return was != is_now

    try:
        status = git("status", "--porcelain", "--", "cifarlib", "benchmarks", "notebooks")
        modified = git("diff", "--name-only", "--diff-filter=M", "HEAD", "--", "notebooks/*.ipynb")
        same = [path for path in modified.splitlines() if not is_changed(path)]
        is_other = len(status.splitlines()) > len(same)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if is_other else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
