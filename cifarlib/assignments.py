"""Assignments: student notebooks made from the sources, and submitted ones graded.

The sources under ``assignments/source`` hold solutions and hidden tests in nbgrader's format.
nbgrader's own steps do the work here, without its database; with the database, ``nbgrader``
reads the same sources. Not for collecting submissions.
"""

import contextlib
import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nbformat
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from cifarlib import (
    chapters,
    confinement,
    containers,
    data,
    execution,
    files,
    progress,
    settings,
    submission,
    submission_checks,
)
from cifarlib.chapters import Chapter
from cifarlib.errors import CifarlibError, InputError

if TYPE_CHECKING:
    from traitlets.config import Config

# The environment of a kernel that grades: short trainings, and nothing on standard error, since
# nbgrader takes a warning in a cell with tests for a failure.
GRADING = {
    "CIFARLIB_PROFILE": "quick",
    "CIFARLIB_UNATTENDED": "1",
    "PYTHONWARNINGS": "ignore",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
CELL_SECONDS = 120
TOTAL_SECONDS = 600
MEMORY_BYTES = 6 * 2**30  # on Linux; what asks for more gets a MemoryError
MAX_SHOWN = 2**24  # characters of output, figures among them
MAX_LINE = 160  # characters of a reason


class Mark(NamedTuple):
    """What one task has earned.

    Attributes:
        task: its name, such as ``"gray_by_hand"``.
        points: what it has earned, None for an answer that a person is to read.
        possible: what it can earn.
        reason: why it did not earn all, in a line.
    """

    task: str
    points: float | None
    possible: float
    reason: str


class Graded(NamedTuple):
    """What one submitted notebook has earned.

    Attributes:
        submission: where it was found.
        assignment: the assignment it answers, None if that cannot be told.
        marks: one for each task, in the order of the source; none if it could not be read.
        problem: what kept it from being read or executed to its end, in a line.
        student: the name that it gives, if it gives one.
        student_id: the number, likewise.
    """

    submission: str
    assignment: str | None
    marks: tuple[Mark, ...]
    problem: str
    student: str = ""
    student_id: str = ""

    @property
    def points(self) -> float:
        """Return the sum of what has been earned so far."""
        return sum(mark.points or 0 for mark in self.marks)

    @property
    def possible(self) -> float:
        """Return the sum of what can be earned."""
        return sum(mark.possible for mark in self.marks)

    @property
    def by_hand(self) -> float:
        """Return how much of that a person is to give."""
        return sum(mark.possible for mark in self.marks if mark.points is None)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        told = self._asdict() | {"marks": [mark._asdict() for mark in self.marks]}
        return told | {name: getattr(self, name) for name in ("points", "possible", "by_hand")}

    def __str__(self) -> str:
        told = f"{self.points:g} of {self.possible:g} points, {self.by_hand:g} to give by hand"
        return "; ".join(filter(None, (told if self.marks else "", self.problem)))


def find(names: Sequence[str] = ()) -> list[Chapter]:
    """Return the sources in order: of each the number, such as ``"01"``, and the file.

    Args:
        names: such as ``"01"`` or ``"01_data_processing"``; none for all.

    Raises:
        InputError: if there are no sources, or none of such a name.
    """
    folder = (settings.checkout_folder() or Path.cwd()) / "assignments" / "source"
    paths = sorted(folder.glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))
    names = [names] if isinstance(names, str) else names
    number_of = {path.stem: path.name[:2] for path in paths}
    return chapters.select(paths, [number_of.get(n, n) for n in names], "assignments", folder)


def configure(config: "Config") -> None:
    """Enter into nbgrader's configuration what the sources rely on."""
    # The line that tells what to do stands in the source, below the solution.
    config.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE"}
    config.ClearSolutions.text_stub = submission_checks.BLANK_ANSWER
    config.Execute.timeout = CELL_SECONDS
    config.Execute.extra_arguments = execution.KERNEL_ARGUMENTS
    config.OverwriteCells.add_missing_cells = True


def release(names: Sequence[str] = (), output: str | Path | None = None) -> list[Path]:
    """Write the notebooks that students get: without solutions and hidden tests.

    Args:
        names: as for `find`.
        output: folder to write to; None for ``build/assignments``.

    Returns:
        The notebooks, each in a folder of its own name, as nbgrader lays them out.

    Raises:
        InputError: for an unknown name, or if a notebook is there that differs: a student may
            have worked in it.
        CifarlibError: without nbgrader.
    """
    output = Path(output or "build/assignments")
    notebooks = {}
    for source in find(names):
        target = output / source.path.stem / source.path.name
        text = nbformat.writes(_released(nbformat.read(source.path, as_version=4))) + "\n"
        if target.is_dir() or (target.exists() and target.read_text("utf-8", "replace") != text):
            raise InputError(
                target,
                "no notebook, or the one that would be written",
                "another",
                "Somebody may have worked in it. Move it, or choose another folder with --output.",
            )
        notebooks[target] = text
    for target, text in notebooks.items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(target, text)
        except OSError as error:
            advice = "Choose another with --output."
            raise InputError(output, "a folder to write to", f"{error.strerror}", advice) from error
    return list(notebooks)


def grade(
    paths: Sequence[str | Path],
    *,
    cell_seconds: float = CELL_SECONDS,
    total_seconds: float = TOTAL_SECONDS,
) -> Iterator[Graded]:
    """Grade submitted notebooks, one after the other.

    Cells with tests come from the source, whatever the submission has made of them, and what
    was not executed earns nothing. A notebook in a zip has the small files beside it, as
    `submission` packs them, and a zip may hold the zips of a class. Each has folders of its own, as
    `confinement` makes them. That is no sandbox, and the code of a submission runs with your
    rights: use an account or a container of its own for code you do not trust.

    Args:
        paths: notebooks, zip files, or folders with such.
        cell_seconds: what a cell may take; it is interrupted then.
        total_seconds: what a notebook may take.

    Yields:
        What each has earned; one that is broken does not keep the others from being graded.

    Raises:
        InputError: if there is nothing to grade, no source to grade by, or no time to take.
        CifarlibError: without nbgrader.
    """
    for name, seconds in {"cell": cell_seconds, "total": total_seconds}.items():
        if not 0 < seconds <= confinement.LARGEST_LIMIT:
            told = f"more than 0, at most {confinement.LARGEST_LIMIT:,}"
            raise InputError(f"--{name}-seconds", told, f"{seconds:g}", "Leave it out.")
    keys = [_Key(source) for source in find()]
    submitted = containers.named_files(paths, (".ipynb", ".zip"), "a notebook or a zip")
    description = data.describe()  # decoded once, and not in the time of the first submission
    with progress.bar(len(submitted), "grading", "file") as bar:
        for name, file in submitted:
            for found in _contents(name, file):
                if isinstance(found, Graded):
                    yield found
                    continue
                try:
                    graded = _grade(found, keys, description, cell_seconds, total_seconds)
                except Exception as error:  # whatever somebody has made of a notebook
                    told = f"could not be graded ({type(error).__name__}: {error})"
                    graded = Graded(found.name, None, (), _line(told))
                yield graded
            bar.update()


def table(graded: Sequence[Graded]) -> str:
    """Return what was earned as text: a table for each assignment, then why points were lost."""
    parts = []
    for assignment in sorted({one.assignment for one in graded if one.assignment}):
        rows = [one for one in graded if one.assignment == assignment]
        lines = [f"{assignment}, {rows[0].possible:g} points"]
        for number, mark in enumerate(rows[0].marks, 1):
            lines.append(f"{number:>4}  {mark.task} ({mark.possible:g})")
        width = max(len(row.submission) for row in rows)
        heads = "".join(f"{number:>5}" for number in range(1, len(rows[0].marks) + 1))
        lines += ["", f"{'':<{width}}{heads}   total  by hand  student"]
        for row in rows:
            given = "".join(f"{'·' if m.points is None else f'{m.points:g}':>5}" for m in row.marks)
            sums = f"{row.points:>8g}{row.by_hand:>9g}"
            who = ", ".join(filter(None, (row.student, row.student_id)))
            lines.append(f"{row.submission:<{width}}{given}{sums}  {who}".rstrip())
        parts.append("\n".join(lines))
    reasons = []
    for row in graded:
        told = [row.problem] if row.problem else []
        told += [f"{mark.task}: {mark.reason}" for mark in row.marks if mark.reason]
        reasons += [row.submission, *(f"    {line}" for line in told)] if told else []
    if reasons:
        parts.append("\n".join(["Why points were not given:", "", *reasons]))
    return "\n\n".join(parts)


class _Key:
    """What the submissions of one assignment are graded by.

    Attributes:
        name: of the assignment.
        ids: of the cells that have one, in order.
        texts: of the cells that have none.
    """

    def __init__(self, source: Chapter):
        self.name = source.path.stem
        self._source = nbformat.read(source.path, as_version=4)
        blank = _released(self._source)
        self._cells = {_id(cell): cell for cell in self._source.cells if _id(cell)}
        self._blanks = {_id(cell): cell for cell in blank.cells if _id(cell)}
        self.ids = list(self._cells)
        self.texts = {cell.source.strip() for cell in self._source.cells if not _id(cell)}

    def _cell(self, grade_id: str, answer: str | None = None) -> nbformat.NotebookNode:
        """Return a cell as it is to be graded: an answer, or what the source has."""
        cell = copy.deepcopy(self._blanks[grade_id])
        if not cell.metadata.nbgrader.solution:
            cell.source = self._cells[grade_id].source  # with its hidden tests
        elif answer is not None:
            cell.source = answer
        return cell

    def complete(self, submitted: Sequence[nbformat.NotebookNode]) -> nbformat.NotebookNode:
        """Return the submission's answers and its own cells, with all else as in the source."""
        last = {_id(cell): place for place, cell in enumerate(submitted)}  # of copies, the last
        cells = []
        for place, cell in enumerate(submitted):
            grade_id = _id(cell)
            if grade_id in self._cells and last[grade_id] == place:
                cells.append(self._cell(grade_id, cell.source))
            else:
                cell.metadata = {}
                cells.append(cell)
        place = -1
        for grade_id in self.ids:  # what was deleted goes behind what comes before it
            if grade_id in last:
                place = [_id(cell) for cell in cells].index(grade_id)
            else:
                place += 1
                cells.insert(place, self._cell(grade_id))
        return nbformat.v4.new_notebook(cells=cells, metadata=self._source.metadata)


def _id(cell: nbformat.NotebookNode) -> str | None:
    """Return the id that nbgrader knows a cell by, None if it has none."""
    told = cell.metadata.get("nbgrader")
    grade_id = told.get("grade_id") if isinstance(told, dict) else None
    return grade_id if isinstance(grade_id, str) else None


class _Found(NamedTuple):
    """A submitted notebook: how it is called, what it holds, and the small files beside it."""

    name: str
    content: bytes
    helpers: dict[str, bytes]


def _grade(
    found: _Found,
    keys: Sequence[_Key],
    description: data.Description,
    cell_seconds: float,
    total_seconds: float,
) -> Graded:
    """Grade one notebook."""
    name = found.name
    try:
        submitted = _read(found.content)
    except Exception as error:  # whatever nbformat stumbles over in a file that is no notebook
        return Graded(name, None, (), _line(f"no notebook ({type(error).__name__}: {error})"))
    answered = {_id(cell) for cell in submitted} - {"set_up"}  # which all assignments have
    key = max(keys, key=lambda key: len(answered.intersection(key.ids)))
    if not answered.intersection(key.ids):
        return Graded(name, None, (), f"answers none of {', '.join(key.name for key in keys)}")
    notebook = key.complete(submitted)
    problem = _execute(notebook, found.helpers, description, cell_seconds, total_seconds)
    marks, begin = {}, 0
    for place, cell in enumerate(notebook.cells):
        if _id(cell) and cell.metadata.nbgrader.grade:
            below = next(iter(notebook.cells[place + 1 :]), None)
            is_own = below and not _id(below) and below.source.strip() not in key.texts
            marks[_id(cell)] = _mark(cell, notebook.cells[begin:place], below if is_own else None)
            begin = place + 1
    given = {"name": None, "id": None}
    student, _ = submission_checks.student({name: nbformat.v4.new_notebook(cells=submitted)}, given)
    return Graded(
        name,
        key.name,
        tuple(marks[grade_id] for grade_id in key.ids if grade_id in marks),
        problem,
        _line(student["name"]),
        _line(student["id"]),
    )


def _mark(
    cell: nbformat.NotebookNode,
    before: Sequence[nbformat.NotebookNode],
    below: nbformat.NotebookNode | None,
) -> Mark:
    """Return what an executed cell has earned, as nbgrader would have it but for what is shown.

    Args:
        cell: one with tests, or an answer.
        before: the cells from the last such cell to this one.
        below: the cell after it, if that is the submission's own.
    """
    from nbgrader.utils import determine_grade

    told = cell.metadata.nbgrader
    task, possible = told.grade_id.removeprefix("test_"), float(told.points)
    if cell.cell_type == "code":
        if not cell.execution_count:
            return Mark(task, 0.0, possible, "was not executed")
        # nbgrader would take a result for a part of the points, and a warning or the bar of a
        # loop for a failure. Our tests show neither, so it is the submission that does.
        cell.outputs = [shown for shown in cell.outputs if shown.output_type == "error"]
    points, _ = determine_grade(cell)
    if points != 0:
        return Mark(task, points, possible, "")
    if cell.cell_type == "markdown":
        if below and below.cell_type == "markdown" and below.source.strip():
            return Mark(task, None, possible, "left blank; the cell below may be the answer")
        return Mark(task, points, possible, "no answer")
    reasons = [_error(shown) for shown in cell.outputs]
    causes = [
        _error(shown)
        for earlier in before
        for shown in earlier.get("outputs", ())
        if shown.output_type == "error"
    ]
    reasons += [f"(before it, {cause})" for cause in causes[:1]]
    return Mark(task, points, possible, _line(" ".join(reasons)))


def _error(shown: nbformat.NotebookNode) -> str:
    """Return what failed, and how."""
    return f"{shown.ename}: {shown.evalue}".removesuffix(": ")


def _execute(
    notebook: nbformat.NotebookNode,
    helpers: dict[str, bytes],
    description: data.Description,
    cell_seconds: float,
    total_seconds: float,
) -> str:
    """Execute what can be executed, and return what kept it from its end, or nothing."""
    from nbgrader.preprocessors import Execute

    num_shown = 0
    finished = set()

    def seconds_for(cell: nbformat.NotebookNode) -> float:
        return max(1, min(cell_seconds, deadline - time.monotonic()))

    def stop_in_time(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if time.monotonic() > deadline:
            raise _OutOfTimeError

    def limit_memory(notebook: nbformat.NotebookNode) -> None:
        with contextlib.suppress(AttributeError, psutil.Error):  # Linux alone has such a limit
            kernel = psutil.Process(client.km.provisioner.pid)
            kernel.rlimit(psutil.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))

    async def finish(cell: nbformat.NotebookNode, cell_index: int, execute_reply: dict) -> None:
        finished.add(cell_index)
        note_error(cell=cell, execute_reply=execute_reply)

    def keep_some(outs, message, display_id, cell_index):
        """Keep what is shown until it is too much, and errors in any case."""
        nonlocal num_shown
        num_shown += len(str(message["content"]))
        if num_shown > MAX_SHOWN and message["msg_type"] != "error":
            return None
        return keep(outs, message, display_id, cell_index)

    client = Execute(
        kernel_name="python3",
        timeout_func=seconds_for,
        on_notebook_start=limit_memory,
        on_cell_execute=stop_in_time,
        error_on_timeout={
            "ename": "CellTimeoutError",
            # It may have been given what was left of the whole.
            "evalue": f"stopped: {cell_seconds:g} seconds a cell, {total_seconds:g} for all",
            "traceback": [""],
        },
        shutdown_kernel="immediate",
        extra_arguments=execution.KERNEL_ARGUMENTS,
    )
    keep, client.output = client.output, keep_some
    note_error, client.on_cell_executed = client.on_cell_executed, finish
    client.log = execution.QUIET
    client.nb = notebook
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary,
        tempfile.TemporaryFile() as native_log,
    ):
        root = Path(temporary).resolve()
        environment = confinement.prepare_for(root, description) | GRADING
        environment["NBGRADER_EXECUTION"] = "autograde"  # as nbgrader tells a kernel
        folder = root / confinement.WORK
        client.resources = {"metadata": {"path": str(folder)}}
        try:
            submission.place(folder, helpers)
        except (OSError, ValueError) as error:  # such as a file and a folder of one name
            told = getattr(error, "strerror", None) or error
            return _line(f"its small files cannot be placed ({told})")
        deadline = time.monotonic() + total_seconds  # Windows may have copied the images so far
        try:
            execution.execute_client(client, environment, native_log)
        except DeadKernelError:
            return "its kernel died"
        except (_OutOfTimeError, CellTimeoutError):  # the latter if it cannot be interrupted
            if time.monotonic() > deadline:
                return f"stopped after {total_seconds:g} seconds"
            return f"a cell could not be interrupted after {cell_seconds:g} seconds"
        except Exception as error:  # nbclient may stumble as well; others are to be graded yet
            return _line(f"execution failed ({type(error).__name__}: {error})")
        finally:
            confinement.end(root)  # what it has started and left
            execution.drop_native_logs(notebook)
            for place, cell in enumerate(notebook.cells):
                if cell.cell_type == "code" and place not in finished:  # a count: it was begun
                    cell.execution_count = None
    return ""


class _OutOfTimeError(Exception):
    """A submission has used up its time."""


def _released(source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a student's notebook; the steps and their order are nbgrader's own."""
    try:
        from nbgrader import preprocessors as steps
    except ImportError as error:
        raise CifarlibError(
            f"assignments need nbgrader ({error}). Install it: pip install 'nbgrader>=0.9.5'"
        ) from error
    from traitlets.config import Config

    config = Config()
    configure(config)
    notebook = copy.deepcopy(source)
    for step in (
        steps.LockCells,
        steps.ClearSolutions,
        steps.ClearOutput,
        steps.ClearHiddenTests,
        steps.ComputeChecksums,
        steps.CheckCellMetadata,
    ):
        notebook, _ = step(config=config).preprocess(notebook, {})
    return notebook


def _contents(name: str, file: Path) -> Iterator[_Found | Graded]:
    """Yield the notebooks in a submitted file, or what is wrong with it.

    Args:
        name: how it is called.
        file: a notebook, or a zip with notebooks, or with the zips of a class.
    """
    try:
        if file.suffix.lower() == ".ipynb":
            size = file.stat().st_size
            if size > containers.MAX_MEMBER_BYTES:
                expected = f"at most {containers.MAX_MEMBER_BYTES:,} bytes"
                raise InputError(file, expected, f"{size:,}", "Ask for it without its outputs.")
            yield _Found(_line(name), file.read_bytes(), {})
            return
        yield from _members(name, file, endings=(".ipynb", ".zip"))
    except (InputError, OSError) as error:
        yield Graded(_line(name), None, (), _in_short(error))


def _members(name: str, file: Path, endings: tuple[str, ...]) -> Iterator[_Found | Graded]:
    """Yield the notebooks in a zip, and those of the zips in it if these count.

    Raises:
        InputError: if it is damaged, too large, or holds nothing that counts.
    """

    def is_wanted(member: str) -> bool:
        return member.lower().endswith((*endings, *submission.HELPER_SUFFIXES))

    members = containers.read_members(file, is_wanted)
    submitted = [member for member in members if member.lower().endswith(endings)]
    if not submitted:
        raise InputError(file, "a notebook in it", "none", "Ask for it again.")
    small = {
        member: content
        for member, content in members.items()
        if member not in submitted and len(content) <= submission.MAX_HELPER_BYTES
    }
    for member in submitted:
        called, content = f"{name}/{member}", members[member]
        if member.lower().endswith(".ipynb"):
            folder = member[: member.rfind("/") + 1]
            beside = {
                within: content
                for other, content in small.items()
                if other.startswith(folder)
                and not submission.leads_away(within := other.removeprefix(folder))
            }
            yield _Found(_line(called), content, beside)
            continue
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            inner = Path(temporary) / "inner.zip"
            inner.write_bytes(content)
            try:
                yield from _members(called, inner, endings=(".ipynb",))
            except InputError as error:
                yield Graded(_line(called), None, (), _in_short(error))


def _read(content: bytes) -> list[nbformat.NotebookNode]:
    """Return the cells of a submitted notebook, each with its text and its id alone."""
    cells = []
    text = content.decode("utf-8-sig")  # editors on Windows begin with a mark
    for cell in nbformat.reads(text, as_version=4).cells:
        is_code = cell.cell_type == "code"
        make = nbformat.v4.new_code_cell if is_code else nbformat.v4.new_markdown_cell
        cells.append(make(str(cell.source)))
        if grade_id := _id(cell):
            cells[-1].metadata["nbgrader"] = {"grade_id": grade_id}
    return cells


def _in_short(error: InputError | OSError) -> str:
    """Return what is wrong with a file whose name is told already."""
    if isinstance(error, InputError):
        _, expected, found, _ = error.args
        return _line(f"expected {expected}, found {found}")
    return _line(str(error.strerror))


def _line(text: str) -> str:
    """Return a text in one line that is not too long, without colours."""
    return execution.plain(" ".join(execution.without_colors(text).split()), MAX_LINE)
