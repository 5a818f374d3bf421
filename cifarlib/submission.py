"""What a student hands in: notebooks executed from clean, checked, and packed into one zip.

The zip holds the executed notebooks with the small files beside them (``notebooks/``), a page of
each (``pages/``, HTML and PDF), and ``manifest.json``: who, with what, how it went, and the
SHA-256 of every other member. Checksums tell of damage on the way, not of cheating. Not for
judging what was handed in: `verification` executes it again on the teacher's machine.
"""

import datetime
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import nbformat

from cifarlib import (
    __version__,
    chapters,
    containers,
    data,
    devices,
    execution,
    files,
    report,
    settings,
    submission_checks,
)
from cifarlib.errors import InputError

FORMAT = "cifarlib submission 1"
MANIFEST = "manifest.json"
NOTEBOOKS = "notebooks/"
PAGES = "pages/"

# Chapters with all their figures stay below one MB; a submission that needs more than this holds
# what does not belong there, such as data or models.
LIMITS = containers.Limits(num_members=200, member_bytes=32 * 2**20, total_bytes=128 * 2**20)
HELPER_SUFFIXES = (".py", ".json", ".csv", ".txt", ".md", ".png", ".jpg")
MAX_HELPER_BYTES = 2 * 2**20
MAX_SHOWN_BYTES = 8 * 2**20  # by one cell; figures stay below one MB
CELL_SECONDS = 600  # in the quick profile, in which a whole assignment takes less


class Submission(NamedTuple):
    """What has been made of a student's notebooks.

    Attributes:
        path: the zip, None if none was written.
        student: name and id.
        problems: what is missing, in plain words.
        remarks: what else the student should know, such as files that were left out.
    """

    path: Path | None
    student: dict[str, str]
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        if not self.problems:
            return f"{self.path} is complete: {self.student['name']}, {self.student['id']}"
        done = (
            f"{self.path} holds what there is, and says that it is incomplete."
            if self.path
            else "No zip was written. Mend this, or hand in what there is with --incomplete."
        )
        told = [f"  - {problem}".replace("\n", "\n    ") for problem in self.problems]
        return "\n".join(["not complete yet:", *told, done])


class _Material(NamedTuple):
    """What is to be handed in, by name relative to its folder (POSIX form)."""

    title: str
    notebooks: dict[str, nbformat.NotebookNode]
    helpers: dict[str, bytes]
    left_out: list[str]


def submit(
    path: str | Path,
    *,
    name: str | None = None,
    student_id: str | None = None,
    output: str | Path | None = None,
    profile: str | None = None,
    incomplete: bool = False,
) -> Submission:
    """Execute notebooks from clean, check them, and pack them into one zip.

    They are executed in a temporary folder that holds exactly what is handed in: a notebook that
    needs another file fails here, not at the teacher's, and nothing in the folder changes.

    Args:
        path: a notebook, or a folder with notebooks and the small files they need.
        name: the student's name, where no notebook assigns ``STUDENT_NAME``.
        student_id: the student's number, where no notebook assigns ``STUDENT_ID``.
        output: the zip, which must not exist; None for one in the working folder, named after
            the notebook or folder and the student's number.
        profile: ``"quick"`` or ``"full"``; None for `settings.profile`.
        incomplete: write the zip even if something is missing, and say so in it. Without this
            choice none is written, so that nobody hands in a broken notebook by mistake.

    Returns:
        The zip, what is missing, and what else there is to say.

    Raises:
        InputError: if there is nothing to hand in, too much, or no place for the zip.
    """
    settings.check_backend()
    material = _gather(Path(path))
    notebooks, helpers = material.notebooks, material.helpers
    given = {"name": name, "id": student_id}
    student, problems = submission_checks.student(notebooks, given)
    problems += submission_checks.blank_answers(notebooks)
    target = _target(output, material.title, student)
    profile = profile or settings.profile()
    description = data.describe()
    hardware = settings.hardware()
    facts = {"profile": profile, "data": description.kind, "hardware": hardware}
    with tempfile.TemporaryDirectory(
        prefix="cifarlib-submit-", ignore_cleanup_errors=True
    ) as temporary:
        folder = Path(temporary)
        place(folder, {**helpers, **{file: _written(notebooks[file]) for file in notebooks}})
        told, failures = _execute(notebooks, folder, profile, facts)
        problems += failures + submission_checks.machine_paths(notebooks, helpers)
        remarks = [f"Left out: {_shortened(material.left_out)}."] if material.left_out else []
        if problems and not incomplete:
            return Submission(None, student, tuple(problems), tuple(remarks))
        pages, of_pages = _pages(notebooks, folder, profile)
        remarks += of_pages
    members = {NOTEBOOKS + file: content for file, content in helpers.items()}
    members |= {NOTEBOOKS + file: _written(notebook) for file, notebook in notebooks.items()}
    members |= {PAGES + file: page for file, page in pages.items()}
    manifest = {
        "format": FORMAT,
        "title": material.title,
        "student": student,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "complete": not problems,
        "problems": problems,
        "profile": profile,
        "data": {"kind": description.kind, "fingerprint": description.fingerprint},
        "hardware": hardware,
        "versions": {"cifarlib": __version__, **devices.versions()},
        "notebooks": told,
        "left_out": material.left_out,
        "members": {name: hashlib.sha256(content).hexdigest() for name, content in members.items()},
    }
    # A name that is no text, of a file that was left out, as JSON escapes it.
    told = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    members[MANIFEST] = told.encode(errors="backslashreplace")
    _check_size(path, members)
    _write(target, _packed(members))
    return Submission(target, student, tuple(problems), tuple(remarks))


def _gather(path: Path) -> _Material:
    """Read the notebooks of a folder and the small files beside them, or one notebook alone."""
    advice = "Name a notebook (.ipynb), or a folder that holds some."
    notebooks, helpers, left_out = {}, {}, []
    if path.is_dir():
        path = path.resolve()  # "." has no name
        title = path.name
        names = [name for name, _ in containers.files_in(path) if not containers.is_hidden(name)]
        for name in names:
            file = path / name
            is_helper = file.suffix.lower() in HELPER_SUFFIXES
            if file.suffix == ".ipynb":
                notebooks[name] = chapters.read(file)
            elif is_helper and not file.is_symlink() and file.stat().st_size <= MAX_HELPER_BYTES:
                try:
                    helpers[name] = file.read_bytes()
                except PermissionError as error:
                    raise containers.forbidden(error) from error
            elif file.parent.name != "__pycache__":
                left_out.append(name)
    elif path.suffix == ".ipynb" and path.is_file():
        if containers.is_hidden(path.name):  # --verify passes over such files
            found = "the name of a hidden file"
            raise InputError(path, "a notebook that everybody sees", found, "Rename it.")
        title, notebooks = path.stem, {path.name: chapters.read(path)}
    else:
        found = "another file" if path.exists() else "nothing there"
        raise InputError(path, "a notebook or a folder", found, advice)
    if not notebooks:
        raise InputError(path, "a folder with notebooks", "none", advice)
    if unfit := next(filter(leads_away, (*notebooks, *helpers)), None):
        advice = "Windows would take that for another place; rename it."
        found = f"one that begins with {PureWindowsPath(unfit).anchor!r}"
        raise InputError(unfit, "a name that every system takes", found, advice)
    for name, notebook in notebooks.items():
        try:
            _written(notebook)
        except UnicodeEncodeError as error:
            found = f"half a character, {error.object[error.start]!r}"
            advice = "Delete it in the notebook; its other half is missing."
            raise InputError(execution.plain(name, 80), "text", found, advice) from error
    for name in (*notebooks, *helpers):
        if name != name.encode(errors="replace").decode():  # bytes that are no text, from Linux
            told = execution.plain(name, 80)
            raise InputError(told, "a name in letters", repr(name), "Rename it.")
    _check_size(path, helpers)
    return _Material(title, notebooks, helpers, left_out)


def leads_away(name: str) -> bool:
    """Tell whether a name would lead out of any folder that it is joined to.

    By a drive, on Windows, or by a slash at its beginning.

    >>> leads_away("C:notes.py"), leads_away("/notes.py"), leads_away("Week 1: notes.py")
    (True, True, False)
    """
    return bool(PureWindowsPath(name).anchor)


def _target(output: str | Path | None, title: str, student: dict[str, str]) -> Path:
    """Return where the zip goes; refuse early what would be refused after minutes."""
    words = [title, student["id"] or "unknown"]
    stem = "-".join(re.sub(r"[^\w.]+", "-", word).strip("-.") or "x" for word in words)
    target = Path(output) if output else Path(f"{stem}.zip")
    if target.suffix.lower() != ".zip":  # --verify would not find it in a folder
        raise InputError("--output", "a name that ends in .zip", str(output), "Add it.")
    try:
        is_taken = target.exists()
    except OSError as error:  # a name that is too long, say
        told = execution.plain(target, 80)
        advice = "Choose another with --output."
        raise InputError(told, "a name to write to", f"{error.strerror}", advice) from error
    if is_taken:
        raise _taken(target)
    is_folder = target.parent.is_dir()
    if not is_folder or not os.access(target.parent, os.W_OK):
        found = "no permission" if is_folder else "nothing there"
        advice = "Choose another with --output."
        raise InputError(target.parent, "a folder to write to", found, advice)
    return target


def _taken(target: Path) -> InputError:
    advice = "Move it away, or choose another name with --output."
    return InputError(target, "a name that is free", "an earlier file", advice)


def _execute(
    notebooks: dict[str, nbformat.NotebookNode], folder: Path, profile: str, facts: dict[str, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Execute all notebooks in place; return how it went and what is missing."""
    told, problems = [], []
    for file, notebook in notebooks.items():
        num_cells = len(filled_cells(notebook))
        errors = execution.execute(
            notebook,
            (folder / file).parent,
            environment=execution.environment(profile, folder),
            label=file,
            facts=facts,
            keep_going=True,  # or an unsolved task would hide those that are solved
            cell_seconds=CELL_SECONDS if profile == "quick" else None,
        )
        problems += [execution.without_paths(f"{file}: {what}") for what in _failures(errors)]
        if not num_cells:
            problems.append(f"{file}: it has no code")
        problems += [f"{file}: {what}" for what in _cut_outputs(notebook)]
        execution.remove_paths(notebook)
        measured = notebook.metadata.get("cifarlib", {})
        told.append(
            {
                "file": file,
                "status": told_error(errors[0]) if errors else "ran",
                "num_code_cells": num_cells,
                "seconds": measured.get("seconds"),
                "peak_memory_bytes": measured.get("peak_memory_bytes"),
            }
        )
    return told, problems


def _cut_outputs(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Leave out what a cell shows if it is too much to hand in, and say so."""
    for number, cell in enumerate(execution.code_cells(notebook), 1):
        size = len(json.dumps(cell.outputs))
        if size > MAX_SHOWN_BYTES:
            shown = f"{size / 2**20:.0f} MiB"
            told = f"code cell {number} shows {shown}, which are left out; let it show less"
            cell.outputs = [nbformat.v4.new_output("stream", text=f"({told})\n")]
            yield told


def _failures(errors: Sequence[execution.CellError]) -> Iterator[str]:
    """Tell every unsolved task in a line; the first other error, and a kernel's death, in full."""
    others, unsolved = [], set()
    for error in errors:
        if error.name == "NotImplementedError":
            # What depends on a task fails as it does; without a message, nobody knows.
            if error.message and error.message in unsolved:
                continue
            unsolved.add(error.message)
            yield f"a task is not solved yet in code cell {error.number}: {error.message or '…'}"
        else:
            others.append(error)
    in_full = [e for place, e in enumerate(others) if not place or e.name == "DeadKernelError"]
    for error in in_full:
        yield f"it does not run to its end, {error}"
    if numbers := [str(error.number) for error in others if error not in in_full]:
        yield f"further errors in code cells {_shortened(numbers)}, perhaps because of the first"


def told_error(error: execution.CellError) -> str:
    """Return where a notebook failed, in a few words."""
    return f"failed in cell {error.number}: {error.name}"


def _pages(
    notebooks: dict[str, nbformat.NotebookNode], folder: Path, profile: str
) -> tuple[dict[str, bytes], list[str]]:
    """Return a page of each notebook, as HTML and PDF, and what there is to say about them."""
    pages, remarks = {}, []
    if not report.browser():
        remarks.append("No PDF: there is no Chromium on the PATH. The HTML page holds the same.")
    for file, notebook in notebooks.items():
        stem = file.removesuffix(".ipynb")
        header = f'<p class="report">Executed in the {profile} profile.</p>'
        try:
            page = report.notebook_page(notebook, file, header, (folder / file).parent)
        except Exception as error:  # nbconvert's, of a picture that is not there, say
            told = execution.without_paths(f"{type(error).__name__}: {error}")
            remarks.append(f"No page of {file}: {execution.plain(told, 200)}")
            continue
        pages[f"{stem}.html"] = page.encode()
        if report.shows_others(page):
            remarks.append(f"The page of {file} shows pictures that are not in it, but elsewhere.")
        if report.browser():
            if pdf := report.printed(page):
                pages[f"{stem}.pdf"] = pdf
            else:
                remarks.append(f"No PDF of {file}: the browser failed. The HTML page has it all.")
    return pages, remarks


def place(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files below a folder, by their relative names."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def filled_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the cells of a notebook that hold code; those that hold nothing do not count."""
    return [cell for cell in execution.code_cells(notebook) if cell.source.strip()]


def _check_size(path: str | Path, members: dict[str, bytes]) -> None:
    """Refuse what `verification` would refuse."""
    sizes = {name: len(content) for name, content in members.items()}
    largest = max(sizes, key=sizes.get, default="")
    found = containers.Limits(len(sizes), sizes.get(largest, 0), sum(sizes.values()))
    if any(size > limit for size, limit in zip(found, LIMITS, strict=True)):
        limits, told = (
            f"{num} files of {member / 2**20:.1f} MiB at most and {total / 2**20:.1f} MiB in all"
            for num, member, total in (LIMITS, found)
        )
        advice = "Clear large outputs, and hand in no data or models."
        raise InputError(path, f"at most {limits}", f"{told} (largest: {largest})", advice)


def _packed(members: dict[str, bytes]) -> bytes:
    """Return a zip; made in memory, so that a run that is killed has not begun the file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _write(target: Path, content: bytes) -> None:
    try:
        files.write_new(target, content)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        advice = "Choose another with --output."
        raise InputError(target, "a place to write to", f"{error.strerror}", advice) from error


def _written(notebook: nbformat.NotebookNode) -> bytes:
    return (nbformat.writes(notebook) + "\n").encode()


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
