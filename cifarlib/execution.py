"""A notebook in a fresh kernel: its execution, its errors, and outputs that suit other machines.

For notebooks that are no chapters as well. Not for going through chapters: `running` does.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import BinaryIO

import nbclient
import nbformat
from nbclient.exceptions import CellExecutionError, DeadKernelError

from cifarlib import devices, progress, settings
from cifarlib.errors import CifarlibError

LAST_LINES = 15
# ipykernel 7 warns at every start that a kernel on this machine is not encrypted, and logs a
# traceback when it is stopped in the middle of a cell.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50"]
# For nbclient: what goes wrong in a notebook is told with its cell, and nowhere else.
QUIET = logging.getLogger("cifarlib.execution")
QUIET.propagate = False
QUIET.addHandler(logging.NullHandler())


def plain(text: object, length: int) -> str:
    r"""Return text of others so that it is safe to print: short, and without control characters.

    >>> plain("red\x1b[31m and more", 12)
    'red�[31m an…'
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def without_colors(text: str) -> str:
    r"""Return a kernel's text without the codes that colour it in a terminal.

    >>> without_colors("\x1b[0;31mKeyError\x1b[0m: 'cat'")
    "KeyError: 'cat'"
    """
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class CellError(CifarlibError):
    """A cell of a notebook raised an error, or the kernel died in it.

    Args:
        notebook: the notebook.
        index: of the cell among those that hold code.
        name: of the error's class, such as ``"NameError"``; ``"DeadKernelError"`` if the kernel
            died.
        message: of the error.
        traceback: the last lines are told.

    Attributes:
        number: of the code cell, counted from 1.
        name: of the error's class.
        message: of the error.
    """

    def __init__(
        self, notebook: nbformat.NotebookNode, index: int, name: str, message: str, traceback: str
    ):
        cells = code_cells(notebook)
        self.number, self.name, self.message = index + 1, name, message
        lines = without_colors(traceback).splitlines()[-LAST_LINES:]
        lines = lines or [f"{name}: {message}"]  # where somebody else has shown it
        told = [
            f"code cell {self.number} of {len(cells)}:",
            *(f"    {line}" for line in cells[index].source.splitlines()),
            "with:",
            *(f"    {line}" for line in lines if line.strip()),
        ]
        super().__init__("\n".join(told))


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the cells of a notebook that are for code, as errors count them."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _may_raise(cell: nbformat.NotebookNode) -> bool:
    """Tell whether a tag allows errors in a cell; nbclient knows the same one."""
    return "raises-exception" in cell.metadata.get("tags", ())


def _failed(notebook: nbformat.NotebookNode, hidden: list[CellError]) -> list[CellError]:
    """Return the errors that an executed notebook shows, and hides, by cell.

    But for those that a tag allows.
    """
    shown = [
        CellError(notebook, index, shown.ename, shown.evalue, "\n".join(shown.traceback))
        for index, cell in enumerate(code_cells(notebook))
        for shown in cell.outputs
        if shown.output_type == "error" and not _may_raise(cell)
    ]
    return sorted([*shown, *hidden], key=lambda error: error.number)


def _death(notebook: nbformat.NotebookNode, index: int, last_words: str) -> CellError:
    """Return the error of the cell in which the kernel died."""
    advice = (
        "The kernel died, most often for want of memory. Close other programs, or try\n"
        "the quick profile (--quick).\n"
    )
    last_words = "\n".join(last_words.splitlines()[2 - LAST_LINES :])
    return CellError(notebook, index, "DeadKernelError", "The kernel died", advice + last_words)


def environment(profile: str, report_folder: Path) -> dict[str, str]:
    """Return the environment of a kernel that nobody watches, wherever it starts.

    Args:
        profile: ``"quick"`` or ``"full"``.
        report_folder: where a chapter puts pages of its own.
    """
    variables = {
        **os.environ,
        "CIFARLIB_PROFILE": profile,
        "CIFARLIB_CACHE": str(settings.cache_folder()),
        "CIFARLIB_UNATTENDED": "1",
        "CIFARLIB_REPORT": str(report_folder),
    }
    if source := settings.source():
        variables["CIFARLIB_SOURCE"] = source
    return variables


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    *,
    environment: dict[str, str],
    label: str,
    facts: dict[str, str],
    keep_going: bool = False,
    cell_seconds: int | None = None,
) -> list[CellError]:
    """Execute a notebook in place, in a fresh kernel.

    Args:
        notebook: gets its outputs and, when all cells have run, ``metadata["cifarlib"]`` with
            the facts, the seconds and the peak memory in bytes.
        folder: where the kernel starts.
        environment: of the kernel.
        label: what the progress bar and the closing line call it.
        facts: profile, kind of data and hardware, as the report tells them.
        keep_going: execute what follows a cell that raised an error, too.
        cell_seconds: what a cell may take; it is interrupted then, which is its error. None for
            as long as it likes.

    Returns:
        What failed, by cell; the last is the kernel's death, if it died; empty if all ran.

    Raises:
        CellError: unless it keeps going, if a cell raised an error or the kernel died; outputs up
            to there are kept.
    """
    notebook.metadata.pop("cifarlib", None)  # what is said of an earlier run
    cells = code_cells(notebook)
    for cell in cells:
        cell.update(outputs=[], execution_count=None)  # those of a cell that is never reached
    begun = 0  # index of the cell begun last
    hidden = []  # errors that a cell does not show, as where its traceback is drawn by a library
    began = time.monotonic()
    peak = 0
    # What a kernel writes below Python is TensorFlow's chatter, or the cause of its death.
    with (
        progress.bar(len(cells), label, "cell") as bar,
        tempfile.TemporaryFile() as native_log,
    ):

        def note_cell(cell, cell_index) -> None:
            nonlocal begun
            begun = next(index for index, known in enumerate(cells) if known is cell)

        def note_error(cell, cell_index, execute_reply) -> None:
            is_shown = any(shown.output_type == "error" for shown in cell.outputs)
            if not is_shown and not _may_raise(cell):
                answer = execute_reply["content"]
                lines = "\n".join(answer.get("traceback", ()))
                told = answer.get("ename", "Error"), answer.get("evalue", ""), lines
                hidden.append(CellError(notebook, begun, *told))

        def count_cell(cell, cell_index, execute_reply) -> None:
            nonlocal peak
            bar.update()
            if execute_reply["content"].get("ename") == out_of_time["ename"]:
                # What it shows is the interrupt that stopped it.
                shown = [output for output in cell.outputs if output.output_type != "error"]
                cell.outputs = [*shown, nbformat.v4.new_output("error", **out_of_time)]
            peak = _peak_memory(client) or peak

        told = f"stopped after {cell_seconds} seconds"
        lines = [f"CellTimeoutError: {told}"]
        out_of_time = {"ename": "CellTimeoutError", "evalue": told, "traceback": lines}
        client = nbclient.NotebookClient(
            notebook,
            timeout=cell_seconds,
            interrupt_on_timeout=True,
            error_on_timeout=out_of_time,
            allow_errors=keep_going,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=note_cell,
            on_cell_executed=count_cell,
            on_cell_error=note_error,
            extra_arguments=KERNEL_ARGUMENTS,
        )
        client.log = QUIET
        try:
            execute_client(client, environment, native_log)
        except DeadKernelError as error:
            native_log.seek(0)
            last_words = _NATIVE_LOG.sub("", native_log.read().decode(errors="replace"))
            death = _death(notebook, begun, last_words)
            if not keep_going:
                raise death from error
            drop_native_logs(notebook)
            return [*_failed(notebook, hidden), death]
        except CellExecutionError as error:
            raise _failed(notebook, hidden)[-1] from error
    drop_native_logs(notebook)
    failed = _failed(notebook, hidden)
    if failed and not keep_going:
        raise failed[-1]  # the kernel called it well: a magic had caught it
    seconds = time.monotonic() - began + _remembered(notebook)
    notebook.metadata["cifarlib"] = {
        **facts,
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak,
    }
    memory = f", {peak / 2**30:.1f} GiB" if peak else ""
    progress.say(f"{label}: {len(cells)} cells in {seconds:.0f} s{memory}")
    return failed


def execute_client(
    client: nbclient.NotebookClient, environment: dict[str, str], log: BinaryIO
) -> None:
    """Execute a client's notebook in a kernel of its own, which does not outlive the call.

    Args:
        client: its ``on_cell_start`` is taken.
        environment: as `environment` returns it.
        log: file for what the kernel writes below Python.

    Raises:
        KeyboardInterrupt: on Ctrl-C; nbclient's own handler kills the kernel and then fails
            somewhere in its own code.
    """
    interrupted = False

    def listen_for_interrupt(cell, cell_index) -> None:
        if os.name == "posix":
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            # Below a notebook this runs in a thread, which hears no signals.
            with contextlib.suppress(RuntimeError, ValueError):
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.add_signal_handler(number, interrupt, task)

    def interrupt(task: asyncio.Task) -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    client.on_cell_start = listen_for_interrupt
    client.skip_cells_with_tag = uuid.uuid4().hex  # none: every cell counts as executed
    try:
        client.execute(env=environment, stderr=log)
    except (Exception, asyncio.CancelledError) as error:
        # While a kernel starts the handler is nbclient's, which leaves a trace of its own.
        stopped = getattr(client, "_async_cleanup_kernel_future", None) is not None
        if interrupted or stopped or isinstance(error, asyncio.CancelledError):
            raise KeyboardInterrupt from error
        raise


# How TensorFlow's C++ code writes: level, time, thread, file and line.
_NATIVE_LOG = re.compile(
    r"^(WARNING: All log messages before absl|[IWEF]\d{4} [\d:.]+ +\d+ \S+:\d+\]"
    r"|To enable the following instructions: .*rebuild TensorFlow).*\n?",
    re.MULTILINE,
)


def drop_native_logs(notebook: nbformat.NotebookNode) -> None:
    """Remove what TensorFlow says of processor and graphics card whenever it starts."""
    for cell in notebook.cells:
        for shown in cell.get("outputs", ()):
            if shown.get("name") == "stderr":  # in lines, where a cell sends its own message
                shown.text = _NATIVE_LOG.sub("", "".join(shown.text))
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" or o.text.strip()]


def _remembered(notebook: nbformat.NotebookNode) -> float:
    """Return what a chapter read from earlier calls instead of computing it, in seconds."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    told = [output.get("data", {}).get(progress.REMEMBERED_TYPE) for output in outputs]
    return sum(entry["seconds"] for entry in told if entry)


def _peak_memory(client: nbclient.NotebookClient) -> int:
    """Return the kernel's peak resident memory in bytes, 0 where the system does not tell."""
    try:
        return devices.peak_memory(client.km.provisioner.pid)
    except AttributeError:  # a kernel that is not a process of this machine
        return 0


def remove_paths(executed: nbformat.NotebookNode) -> None:
    """Replace the folders of this machine in all outputs by what they are."""
    for cell in executed.cells:
        for shown in cell.get("outputs", ()):
            for holder in (shown, shown.get("data", {})):
                for key, value in holder.items():
                    if isinstance(value, str) and not key.startswith("image/"):
                        holder[key] = without_paths(value)
            if "traceback" in shown:
                shown.traceback = [without_paths(line) for line in shown.traceback]


def without_paths(text: str) -> str:
    """Replace the folders of this machine by what they are."""
    folders = {  # the first that fits counts, since one may be within another
        str(settings.cache_folder()): "<cache>",
        sys.prefix: "<environment>",
        str(settings.checkout_folder() or Path.cwd()): "<checkout>",
        tempfile.gettempdir(): "<temporary>",
        str(settings.expand("~")): "~",
    }
    folders = {  # on Windows also with slashes, and with its own as repr doubles them
        spelt: name
        for folder, name in folders.items()
        for spelt in (folder, folder.replace("\\", "/"), folder.replace("\\", r"\\"))
    }
    known = "|".join(re.escape(folder) for folder in folders if len(folder) > 1)
    # Not in the middle of another path; but after a colour, or a line's end as repr writes it.
    before, after = r"^|[^\w.~-]|\\[nrt]|\x1b\[[\d;]*m", r"[/\\\s\"'.,;:)\x1b]|$"
    pattern = rf"({before})({known})(?={after})"
    return re.sub(pattern, lambda match: match[1] + folders[match[2]], text)
