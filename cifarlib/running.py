"""Execute the notebooks as a reader would: in order, each in a fresh kernel.

Shows progress, continues an interrupted run, writes executed copies and their report, and
records outputs into ``notebooks/``. Not for testing: ``make test`` runs them under nbval.
"""

import base64
import hashlib
import io
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import filelock
import nbformat
import numpy as np
from PIL import Image

from cifarlib import (
    chapters,
    data,
    execution,
    files,
    pages,
    progress,
    report,
    results,
    settings,
)
from cifarlib.chapters import Chapter
from cifarlib.errors import CifarlibError, InputError

_UNFINISHED = ".unfinished"  # in a folder of copies, until all are there
_SUFFIXES = ".ipynb", ".html"  # of what is written for a chapter


class ChapterError(CifarlibError):
    """A cell of a chapter raised an error, or its kernel died."""


def run(
    numbers: Sequence[str] = (),
    *,
    profile: str | None = None,
    output: str | Path | None = None,
    record: bool = False,
) -> Path:
    """Execute chapters and make the report.

    A run that was interrupted or failed is continued: chapters it had finished are kept, if
    the same command is given and neither notebook, package nor data have changed.

    Args:
        numbers: chapters such as ``("01", "02")``; none for all.
        profile: ``"quick"`` or ``"full"``; None for `settings.profile`.
        output: folder of the executed copies and the report; None for ``build``.
        record: record the time each chapter takes and, in the full profile, write its outputs
            back into ``notebooks/``. Refused for synthetic images.

    Returns:
        The report's first page.

    Raises:
        InputError: for an unknown chapter or backend, an output folder that cannot be used, or a
            recording that would not be of photographs.
        ChapterError: with the cell that failed, its source and its last lines; or if the code
            changed while what is to be recorded was executed.
    """
    settings.check_backend()
    selected = chapters.find(numbers)
    profile = profile or settings.profile()
    output = Path(output or "build").resolve()
    description = data.describe()
    progress.say(f"{description}; profile {profile}")
    if record:
        results.check_recordable()
    if output == selected[0].path.parent.resolve():
        advice = "Choose another with --output; --record writes outputs into the chapters."
        raise InputError(output, "a folder of its own", "that of the chapters", advice)
    is_of_a_run = (output / _UNFINISHED).exists() or report.is_first_page(output / report.FIRST)
    stems = [chapter.path.stem for chapter in selected]
    written = [report.FIRST, *(f"{stem}{suffix}" for stem in stems for suffix in _SUFFIXES)]
    theirs = [name for name in written if (output / name).exists()]
    if theirs and not is_of_a_run:
        advice = "It would be written over; choose another folder with --output."
        raise InputError(output, "a folder of its own", f"{theirs[0]}, by somebody else", advice)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(output / ".lock").acquire(timeout=0)
    except filelock.Timeout as error:
        advice = "Wait for it, or choose another folder with --output."
        raise InputError(output, "a folder of its own", "another run in it", advice) from error
    except OSError as error:
        advice = "Choose another with --output."
        raise InputError(output, "a folder to write to", f"{error.strerror}", advice) from error
    with lock:
        return _run_into(output, selected, profile, description, record)


def _run_into(
    output: Path,
    selected: list[Chapter],
    profile: str,
    description: data.Description,
    record: bool,
) -> Path:
    unfinished = output / _UNFINISHED
    numbers = [chapter.number for chapter in selected]
    backend = os.environ.get("KERAS_BACKEND", "")

    def made_of() -> str:
        return _hash(_package_source(), description.fingerprint, profile, backend, *numbers)

    run_key = made_of()
    run_id = _unfinished_run(unfinished, run_key)
    if continued := run_id is not None:
        progress.say("Continuing the interrupted run")
    else:
        run_id = uuid.uuid4().hex
        unfinished.write_text(f"{run_key} {run_id}")
    for chapter in selected:
        key = _key(run_id, chapter)
        copy = output / chapter.path.name
        if continued and _finished_key(copy) == key:
            progress.say(
                f"{chapter.number}  {chapter.path.stem[3:]}: kept from the interrupted run"
            )
            continue
        facts = {"profile": profile, "data": description.kind, "hardware": settings.hardware()}
        notebook = _execute(chapter, copy, profile, facts)
        notebook.metadata["cifarlib"]["key"] = key
        _write(notebook, copy)
    if record:
        if run_key != made_of():
            raise ChapterError(
                "The package was changed while chapters were executed: no commit has made them "
                "all, and nothing is recorded. The same command executes them again."
            )
        commit = results.current_commit()  # before the outputs that are written change files
        for chapter in selected:
            executed = nbformat.read(output / chapter.path.name, as_version=4)
            if executed.metadata["cifarlib"]["key"] != _key(run_id, chapter):
                raise ChapterError(
                    f"chapter {chapter.number}: {chapter.path.name} was changed while it was "
                    "executed, and is not written over. The same command executes it again."
                )
            _record(chapter, executed, profile, commit)
        pages.stamp_readme()
    page = report.write(output, str(description))
    unfinished.unlink()
    progress.say(f"Report: {page}")
    return page


def _key(run_id: str, chapter: Chapter) -> str:
    """Return what tells a chapter as it is now from others, in one run.

    What is recorded in it does not count, or a run that records made it another than was executed.
    """
    return _hash(run_id, results.without_records(chapters.read(chapter.path)))


def _execute(chapter: Chapter, copy: Path, profile: str, facts: dict) -> nbformat.NotebookNode:
    """Execute one chapter and return it with its outputs; keep what there is if it fails."""
    notebook = chapters.read(chapter.path)
    name, _ = chapters.title_and_promise(notebook)
    try:
        execution.execute(
            notebook,
            chapter.path.parent,
            environment=execution.environment(profile, copy.parent),
            label=f"{chapter.number}  {name}",
            facts=facts,
        )
    except execution.CellError as error:
        _write(notebook, copy)
        raise ChapterError(
            f"chapter {chapter.number} ({name}) failed in {error}\n"
            f"The same command continues at chapter {chapter.number}."
        ) from error
    return notebook


def _record(chapter: Chapter, executed: nbformat.NotebookNode, profile: str, commit: str) -> None:
    """Record what a chapter took and, from a full run, what it showed."""
    facts = executed.metadata["cifarlib"]
    results.write(
        f"chapter-{chapter.number}-{profile}",
        chapter=chapter.number,
        metric="seconds to execute the chapter",
        values=[facts["seconds"]],
        seconds=facts["seconds"],
        hardware=facts["hardware"],
        commit=commit,
        command=results.on_backend(
            f"cifarlib run {chapter.number} --{profile} --record",
            [os.environ.get("KERAS_BACKEND", "")],
        ),
        details={"peak_memory_bytes": facts["peak_memory_bytes"]},
    )
    with results.alone():  # a run of the other profile may be writing to the same chapter
        _write_into(chapter, executed, profile)
    progress.say(f"{chapter.number}  recorded in {chapter.path.name}")


def _write_into(chapter: Chapter, executed: nbformat.NotebookNode, profile: str) -> None:
    """Write the outputs of a full run into its chapter, and the times of either run."""
    if profile == "full":
        _clean(executed)
        executed.metadata["cifarlib"]["code"] = chapters.code_digest(executed)
        if figure := report.cover(executed):
            picture = Image.open(io.BytesIO(base64.b64decode(figure[1]))).convert("RGB")
            with files.replacing(results.folder() / f"chapter-{chapter.number}-cover.jpg") as file:
                picture.save(file, "JPEG", quality=85)
    else:
        executed = chapters.read(chapter.path)
    executed.cells[0].source = pages.stamp(executed.cells[0].source)
    _write(executed, chapter.path)


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    files.write_text(path, nbformat.writes(notebook) + "\n")


def _unfinished_run(unfinished: Path, run_key: str) -> str | None:
    """Return the id of the interrupted run that this one continues, None for a new run."""
    try:
        key, run_id = unfinished.read_text().split()
    except (OSError, ValueError):
        return None
    return run_id if key == run_key else None


def _clean(executed: nbformat.NotebookNode) -> None:
    """Remove from an executed notebook what readers and other machines have no use for.

    Progress bars and warnings (standard error) go, and so does everything that differs from
    machine to machine: paths, versions, the time of each cell.
    """
    for cell in executed.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for shown in cell.outputs:
                if "image/png" in shown.get("data", {}):
                    shown.data = {**_smaller_picture(shown.data.pop("image/png")), **shown.data}
    execution.remove_paths(executed)
    executed.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    executed.metadata["language_info"] = {"name": "python"}
    executed.metadata["cifarlib"].pop("key")


def _smaller_picture(png: str) -> dict[str, str]:
    """Return a figure as it goes into the repository, by its MIME type.

    A drawing has few colours, and a palette of 256 holds them. A figure full of photographs
    does not survive that, and as a JPEG is a third of the PNG.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    with_palette = picture.quantize(256)
    error = np.abs(np.asarray(picture, int) - np.asarray(with_palette.convert("RGB"), int))
    buffer = io.BytesIO()
    if error.mean() < 1:
        with_palette.save(buffer, "PNG", optimize=True)
        kind = "image/png"
    else:
        picture.save(buffer, "JPEG", quality=85, optimize=True)
        kind = "image/jpeg"
    return {kind: base64.b64encode(buffer.getvalue()).decode()}


def _finished_key(copy: Path) -> str | None:
    try:
        return json.loads(copy.read_text(encoding="utf-8"))["metadata"]["cifarlib"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def _package_source() -> str:
    folder = Path(__file__).parent
    sources = sorted([*folder.glob("*.py"), *folder.glob("*.json")])  # a network is one of these
    return _hash(*(source.read_text(encoding="utf-8") for source in sources))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
