"""What a teacher learns of submissions: whole, executed again, and as they were handed in?

Each is read without being trusted, executed in the quick profile by a process of its own with
limits of time and memory, and gets a line in one table, whatever happens to the others. The
limits keep mistakes in, not hostile programs: see `confinement`. Not for grading.
"""

import concurrent.futures
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from cifarlib import confinement, containers, data, execution, files, progress, submission
from cifarlib import submission_checks as checks
from cifarlib.errors import InputError
from cifarlib.submission import MANIFEST, NOTEBOOKS

SECONDS = 900
GIBIBYTES = 6

_RUNNING, _NO_NOTEBOOK = "running", "cannot be executed"  # beginnings of a status
_OUTCOME_BYTES = 2**20
_WORKER = """\
import sys
from cifarlib import confinement
confinement.obey(int(sys.argv[2]))
from cifarlib import verification
verification.execute_all(sys.argv[1])
"""


class Verdict(NamedTuple):
    """What is known of one submission.

    Attributes:
        file: the zip.
        name: of the student, as handed in.
        id: of the student, as handed in.
        is_complete: whether it says that nothing is missing; None if it could not be read.
        checksums: ``"ok"``, or what differs; empty if it could not be read.
        executed: ``"ran"``, ``"failed in cell 3: NameError"``, ``"timed out"``, ``"out of
            memory"``, ``"broken zip: …"`` and so on.
        num_cells: that were executed and are compared with what was handed in; None where not
            all have run, or profile or data differ.
        num_differing: of these, how many show another text than was handed in.
        is_watched: whether it is known where it wrote; not if a record of that was removed.
        outside: where it wrote, or tried to, outside its folder, as far as that is seen
            (`confinement.written_outside`).
        remarks: anything else.
    """

    file: str
    name: str = ""
    id: str = ""
    is_complete: bool | None = None
    checksums: str = ""
    executed: str = ""
    num_cells: int | None = None
    num_differing: int | None = None
    is_watched: bool = True
    outside: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Tell whether there is nothing to look into."""
        return (
            bool(self.is_complete and self.name and self.id)
            and self.checksums == "ok"
            and self.executed in ("ran", "not executed")
            and self.is_watched
            and not self.outside
        )


class _BrokenError(Exception):
    """A zip is no submission that can be used."""


class _Handed(NamedTuple):
    """A submission as read: its manifest, and the files to execute, by relative name."""

    manifest: dict[str, Any]
    contents: dict[str, bytes]
    checksums: str

    @property
    def notebooks(self) -> list[str]:
        return [name for name in self.contents if name.endswith(".ipynb")]


def verify(
    paths: Sequence[str | Path],
    *,
    seconds: float = SECONDS,
    gibibytes: float = GIBIBYTES,
    num_jobs: int = 1,
    is_executed: bool = True,
) -> list[Verdict]:
    """Check submissions, and execute them again in the quick profile.

    This executes code of others with your rights; the limits are no sandbox.

    Args:
        paths: zips, and folders with zips.
        seconds: for each submission.
        gibibytes: of memory for each submission.
        num_jobs: how many are executed at once.
        is_executed: whether they are executed at all.

    Returns:
        One verdict for each zip, in order.

    Raises:
        InputError: if there is no zip, or a limit makes no sense.
    """
    for option, value in (("--timeout", seconds), ("--memory", gibibytes), ("--jobs", num_jobs)):
        if not 0 < value <= confinement.LARGEST_LIMIT:
            expected = f"a number above 0, at most {confinement.LARGEST_LIMIT:,}"
            raise InputError(option, expected, str(value), "Leave it out.")
    archives = containers.named_files(paths, (".zip",), "a zip")
    description = data.describe() if is_executed else None
    stopped = threading.Event()

    def judge(name: str, path: Path) -> Verdict:
        verdict = Verdict(execution.plain(name, 200))
        try:
            return _judge(verdict, path, description, seconds, int(gibibytes * 2**30), stopped)
        except _BrokenError as error:
            return verdict._replace(executed=f"broken zip: {error}")
        except Exception as error:  # one of them must not keep the others from being looked at
            told = execution.plain(f"{type(error).__name__}: {error}", 200)
            return verdict._replace(executed=f"could not be judged: {told}")

    with (
        concurrent.futures.ThreadPoolExecutor(num_jobs) as pool,
        progress.bar(len(archives), "Submissions", "zip") as bar,
    ):
        try:
            futures = [pool.submit(judge, name, path) for name, path in archives]
            for _ in concurrent.futures.as_completed(futures):
                bar.update()
            return [future.result() for future in futures]
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def table(verdicts: Sequence[Verdict]) -> str:
    """Return verdicts as a table for people."""
    rows = [("file", "name", "id", "checksums", "executed", "other outputs", "remarks")]
    for verdict in verdicts:
        differing = (
            "" if verdict.num_cells is None else f"{verdict.num_differing} of {verdict.num_cells}"
        )
        remarks = list(verdict.remarks)
        if verdict.outside:
            told = f"wrote, or tried to, outside its folder: {', '.join(verdict.outside)}"
            remarks.insert(0, told)
        if verdict.is_complete and not (verdict.name and verdict.id):
            remarks.insert(0, "without name or id")
        if verdict.is_complete is False:
            remarks.insert(0, "handed in as incomplete")
        rows.append(
            (*verdict[:3], verdict.checksums, verdict.executed, differing, "; ".join(remarks))
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    num_fine = sum(verdict.is_fine for verdict in verdicts)
    return "\n".join([*lines, f"{num_fine} of {len(verdicts)} without anything to look into"])


def _judge(
    verdict: Verdict,
    path: Path,
    description: data.Description | None,
    seconds: float,
    num_bytes: int,
    stopped: threading.Event,
) -> Verdict:
    handed = _read(path)
    manifest = handed.manifest
    verdict = verdict._replace(
        name=_of_student(manifest, "name", 40),
        id=_of_student(manifest, "id", 20),
        is_complete=manifest.get("complete") is True,
        checksums=handed.checksums,
    )
    if description is None:
        return verdict._replace(executed="not executed")
    # What cannot be deleted, because a program took itself the right, is no reason to stop.
    with tempfile.TemporaryDirectory(
        prefix="cifarlib-verify-", ignore_cleanup_errors=True
    ) as temporary:
        root = Path(temporary).resolve()
        environment = confinement.prepare_for(root, description)
        submission.place(root / confinement.WORK, handed.contents)
        ended = confinement.run(
            _WORKER,
            root,
            num_bytes,
            root=root,
            environment=environment,
            seconds=seconds,
            num_bytes=num_bytes,
            stopped=stopped,
        )
        outcomes = _outcomes(root / confinement.RESULT)
        outside, is_watched = confinement.written_outside(root)
    executed = _told(outcomes, ended, handed.notebooks)
    verdict = verdict._replace(
        executed=executed,
        is_watched=is_watched or all(o["status"].startswith(_NO_NOTEBOOK) for o in outcomes),
        outside=tuple(execution.plain(place, 100) for place in outside),
    )
    remarks = [] if verdict.is_watched else ["its writing was not watched"]
    handed_data = manifest.get("data")
    profile = manifest.get("profile")
    if profile != "quick":
        told = "the full" if profile == "full" else "an unknown"
        remarks.append(f"handed in with {told} profile")
    elif handed_data != {"kind": description.kind, "fingerprint": description.fingerprint}:
        remarks.append("handed in with other data")
    elif executed == "ran":
        compared = {name: sum(o[name] for o in outcomes) for name in ("num_cells", "num_differing")}
        verdict = verdict._replace(**compared)
    return verdict._replace(remarks=tuple(remarks))


def _read(path: Path) -> _Handed:
    """Read a zip into memory and compare it with its manifest."""
    if path.is_file() and not _starts_as_zip(path):
        raise _BrokenError("it is no zip file")
    try:
        members = containers.read_members(path, lambda name: True, submission.LIMITS)
    except InputError as error:
        raise _BrokenError(execution.plain(error.args[2], 100)) from error
    try:
        manifest = json.loads(members.pop(MANIFEST))
    except KeyError as error:
        is_of_zips = any(name.lower().endswith(".zip") for name in members)
        advice = ", but zips: unpack it, and name the folder" if is_of_zips else ""
        raise _BrokenError(f"no {MANIFEST} in it{advice}") from error
    except (ValueError, RecursionError) as error:
        raise _BrokenError(f"{MANIFEST} cannot be read") from error
    fields = manifest if isinstance(manifest, dict) else {}
    listed = fields.get("members")
    if (
        fields.get("format") != submission.FORMAT
        or not isinstance(fields.get("student"), dict)
        or not isinstance(listed, dict)
    ):
        raise _BrokenError(f"{MANIFEST} is not what cifarlib submit writes")
    if any(submission.leads_away(name.removeprefix(NOTEBOOKS)) for name in members):
        raise _BrokenError("a name that points outside")
    found = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    faults = {
        "changed": [name for name in found if name in listed and found[name] != listed[name]],
        "missing": [name for name in listed if name not in found],
        "added": [name for name in found if name not in listed],
    }
    told = [
        f"{what}: {execution.plain(', '.join(names), 60)}"
        for what, names in faults.items()
        if names
    ]
    contents = {
        name.removeprefix(NOTEBOOKS): content
        for name, content in members.items()
        if name.startswith(NOTEBOOKS) and name in listed
    }
    handed = _Handed(manifest, contents, "; ".join(told) or "ok")
    if not handed.notebooks:
        raise _BrokenError("no notebook in it")
    return handed


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def execute_all(root: str) -> None:
    """Execute the notebooks of a confined folder, and keep writing down how it goes.

    Args:
        root: as `confinement.prepare` has made it; `confinement.obey` has put limits on this
            process.
    """
    work, outcome = Path(root) / confinement.WORK, Path(root) / confinement.RESULT
    outcomes = []
    for path in sorted(work.rglob("*.ipynb")):
        name = path.relative_to(work).as_posix()
        outcomes.append({"file": name, "status": _RUNNING, "num_cells": 0, "num_differing": 0})
        files.write_json(outcome, outcomes)
        outcomes[-1].update(_execute(path))
        files.write_json(outcome, outcomes)


def _execute(path: Path) -> dict[str, str | int]:
    try:
        notebook = nbformat.read(path, as_version=4)
        cells = submission.filled_cells(notebook)
        handed_in = [checks.shown(cell) for cell in cells]
        execution.execute(
            notebook, path.parent, environment=dict(os.environ), label=path.name, facts={}
        )
    except execution.CellError as error:
        return {"status": submission.told_error(error)}
    except Exception as error:  # whatever somebody has made of a notebook
        return {"status": f"{_NO_NOTEBOOK}: {type(error).__name__}"}
    execution.remove_paths(notebook)
    shown = [checks.shown(cell) for cell in cells]
    num_differing = sum(map(str.__ne__, handed_in, shown))
    return {"status": "ran", "num_cells": len(cells), "num_differing": num_differing}


def _outcomes(path: Path) -> list[dict[str, Any]]:
    """Read what `execute_all` wrote, or what a submission has put in its place."""
    try:
        found = json.loads(confinement.left_behind(path, _OUTCOME_BYTES))
        return [
            {
                "file": execution.plain(outcome["file"], 60),
                "status": execution.plain(outcome["status"], 80),
                "num_cells": _counted(outcome["num_cells"]),
                "num_differing": _counted(outcome["num_differing"]),
            }
            for outcome in found
        ]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return []


def _counted(told: Any) -> int:
    """Return a number of cells; what has more digits than Python prints is none."""
    if not 0 <= (number := int(told)) <= 10**6:
        raise ValueError("no number of cells")
    return number


def _told(outcomes: list[dict[str, Any]], ended: str | None, notebooks: list[str]) -> str:
    """Return how the execution of all notebooks went, in a few words."""
    bad = next((outcome for outcome in outcomes if outcome["status"] != "ran"), None)
    where = f" in {bad['file']}" if bad and len(notebooks) > 1 else ""
    if ended:
        return f"{ended}{where}"
    if bad and bad["status"] != _RUNNING:
        return f"{bad['status']}{where}"
    if bad or len(outcomes) != len(notebooks):
        return f"broke off{where}"
    return "ran"


def _of_student(manifest: dict[str, Any], field: str, length: int) -> str:
    """Return the name or the id that was handed in, ``""`` for anything but text or a number."""
    value = manifest["student"].get(field)
    return execution.plain(value, length) if isinstance(value, (str, int)) else ""
