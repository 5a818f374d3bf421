"""Execute the notebooks as a reader would: in order, each in a fresh kernel.

Shows progress, continues an interrupted run, writes executed copies and their report, and
records outputs into ``notebooks/``. Not for testing: ``make test`` runs them under nbval.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import filelock
import nbclient
import nbformat
import numpy as np
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

from cifarlib import chapters, data, devices, files, progress, report, results, settings
from cifarlib.chapters import Chapter
from cifarlib.errors import CifarlibError, InputError

LAST_LINES = 15

# ipykernel 7 warns at every start that a kernel on this machine is not encrypted, and logs a
# traceback when it is stopped in the middle of a cell.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50"]


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
        InputError: for an unknown chapter, or a recording that would not be of photographs.
        ChapterError: with the cell that failed, its source and its last lines.
    """
    selected = chapters.find(numbers)
    profile = profile or settings.profile()
    output = Path(output or "build").resolve()
    description = data.describe()
    _say(f"{description}; profile {profile}")
    if record and description.kind == "synthetic":
        raise InputError(
            "--record",
            "photographs, since readers will see the outputs",
            "the synthetic stand-in",
            "Name an archive with CIFARLIB_SOURCE.",
        )
    if output == selected[0].path.parent.resolve():
        advice = "Choose another with --output; --record writes outputs into the chapters."
        raise InputError(output, "a folder of its own", "that of the chapters", advice)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = "Choose another with --output."
        raise InputError(output, "a folder to write to", f"{error.strerror}", advice) from error

    try:
        with filelock.FileLock(output / ".lock", timeout=0):
            return _run_into(output, selected, profile, description, record)
    except filelock.Timeout as error:
        advice = "Wait for it, or choose another folder with --output."
        raise InputError(output, "a folder of its own", "another run in it", advice) from error


def _run_into(
    output: Path,
    selected: list[Chapter],
    profile: str,
    description: data.Description,
    record: bool,
) -> Path:
    unfinished = output / ".unfinished"
    numbers = [chapter.number for chapter in selected]
    backend = os.environ.get("KERAS_BACKEND", "")
    run_key = _hash(_package_source(), description.fingerprint, profile, backend, *numbers)
    run_id = _unfinished_run(unfinished, run_key)
    if continued := run_id is not None:
        _say("Continuing the interrupted run")
    else:
        run_id = uuid.uuid4().hex
        unfinished.write_text(f"{run_key} {run_id}")
    for chapter in selected:
        key = _hash(run_id, chapter.path.read_text(encoding="utf-8"))
        copy = output / chapter.path.name
        if continued and _finished_key(copy) == key:
            _say(f"{chapter.number}  {chapter.path.stem[3:]}: kept from the interrupted run")
            continue
        facts = {"profile": profile, "data": description.kind, "hardware": devices.describe_cpu()}
        notebook = _execute(chapter, copy, profile, facts)
        notebook.metadata["cifarlib"]["key"] = key
        _write(notebook, copy)
    if record:
        for chapter in selected:
            _record(chapter, nbformat.read(output / chapter.path.name, as_version=4), profile)
        results.stamp_readme()
    page = report.write(output, str(description))
    unfinished.unlink()
    _say(f"Report: {page}")
    return page


def _execute(chapter: Chapter, copy: Path, profile: str, facts: dict) -> nbformat.NotebookNode:
    """Execute one chapter and return it with its outputs; keep what there is if it fails."""
    notebook = nbformat.read(chapter.path, as_version=4)
    notebook.metadata.pop("cifarlib", None)  # what is said of an earlier run
    name, _ = chapters.title_and_promise(notebook)
    num_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    environment = {**kernel_environment(profile), "CIFARLIB_REPORT": str(copy.parent)}
    began = time.monotonic()
    peak = 0
    # What a kernel writes below Python is TensorFlow's chatter, or the cause of its death.
    with (
        progress.bar(num_cells, f"{chapter.number}  {name}", "cell") as bar,
        tempfile.TemporaryFile() as native_log,
    ):

        def count_cell(cell, cell_index, execute_reply) -> None:
            nonlocal peak
            bar.update()
            peak = _peak_memory(client) or peak

        client = nbclient.NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": str(chapter.path.parent)}},
            on_cell_executed=count_cell,
            extra_arguments=KERNEL_ARGUMENTS,
        )
        try:
            execute(client, environment, native_log)
        except (CellExecutionError, DeadKernelError) as error:
            _write(notebook, copy)
            native_log.seek(0)
            last_words = _NATIVE_LOG.sub("", native_log.read().decode(errors="replace"))
            raise ChapterError(_tell_failure(chapter, name, notebook, error, last_words)) from error
    drop_native_logs(notebook)
    seconds = time.monotonic() - began + _remembered(notebook)
    notebook.metadata["cifarlib"] = {
        **facts,
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak,
    }
    memory = f", {peak / 2**30:.1f} GiB" if peak else ""
    _say(f"{chapter.number}  {name}: {num_cells} cells in {seconds:.0f} s{memory}")
    return notebook


def kernel_environment(profile: str) -> dict[str, str]:
    """Return the environment of a kernel that works unattended, wherever it starts.

    Args:
        profile: ``"quick"`` or ``"full"``.
    """
    environment = {
        **os.environ,
        "CIFARLIB_PROFILE": profile,
        "CIFARLIB_CACHE": str(settings.cache_folder()),
        "CIFARLIB_UNATTENDED": "1",
    }
    if source := settings.source():
        environment["CIFARLIB_SOURCE"] = source
    return environment


def execute(client: nbclient.NotebookClient, environment: dict[str, str], log: BinaryIO) -> None:
    """Execute a client's notebook in a kernel of its own, which does not outlive the call.

    Args:
        client: its ``on_cell_start`` is taken.
        environment: as `kernel_environment` returns it.
        log: file for what the kernel writes below Python.

    Raises:
        KeyboardInterrupt: on Ctrl-C; nbclient's own handler kills the kernel and then fails
            somewhere in its own code.
    """
    interrupted = False

    def listen_for_interrupt(cell, cell_index) -> None:
        if os.name == "posix":
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, interrupt, task)

    def interrupt(task: asyncio.Task) -> None:
        nonlocal interrupted
        interrupted = True
        task.cancel()

    client.on_cell_start = listen_for_interrupt
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
    r"^(WARNING: All log messages before absl|[IWEF]\d{4} [\d:.]+ +\d+ \S+:\d+\]).*\n?",
    re.MULTILINE,
)


def drop_native_logs(notebook: nbformat.NotebookNode) -> None:
    """Remove what TensorFlow says of processor and graphics card whenever it starts."""
    for cell in notebook.cells:
        for shown in cell.get("outputs", ()):
            if shown.get("name") == "stderr":
                shown.text = _NATIVE_LOG.sub("", shown.text)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" or o.text.strip()]


def _remembered(notebook: nbformat.NotebookNode) -> float:
    """Return what a chapter read from earlier calls instead of computing it, in seconds."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    told = [output.get("data", {}).get(progress.REMEMBERED_TYPE) for output in outputs]
    return sum(entry["seconds"] for entry in told if entry)


def _tell_failure(chapter: Chapter, name: str, notebook, error: Exception, last_words: str) -> str:
    """Return where a chapter failed: its number, the cell's number and source, the last lines."""
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    started = [cell for cell in code_cells if cell.get("execution_count") or cell.outputs]
    failed = next(
        (c for c in code_cells if any(o.output_type == "error" for o in c.outputs)),
        code_cells[min(len(started), len(code_cells) - 1)],
    )
    if isinstance(error, DeadKernelError):
        lines = ["The kernel died, most often for want of memory. Close other programs, or try"]
        lines += ["the quick profile: cifarlib run --quick"]
        lines += last_words.splitlines()[-LAST_LINES:]
    else:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).splitlines()[-LAST_LINES:]
    source = [f"    {line}" for line in failed.source.splitlines()]
    return "\n".join(
        [
            f"chapter {chapter.number} ({name}) failed in code cell {code_cells.index(failed) + 1} "
            f"of {len(code_cells)}:",
            *source,
            "with:",
            *(f"    {line}" for line in lines if line.strip()),
            f"The same command continues at chapter {chapter.number}.",
        ]
    )


def _peak_memory(client: nbclient.NotebookClient) -> int:
    """Return the kernel's peak resident memory in bytes, 0 where the system does not tell."""
    try:
        return devices.peak_memory(client.km.provisioner.pid)
    except AttributeError:  # a kernel that is not a process of this machine
        return 0


def _record(chapter: Chapter, executed: nbformat.NotebookNode, profile: str) -> None:
    """Record what a chapter took and, from a full run, what it showed."""
    facts = executed.metadata["cifarlib"]
    results.write(
        f"chapter-{chapter.number}-{profile}",
        chapter=chapter.number,
        metric="seconds to execute the chapter",
        values=[facts["seconds"]],
        command=f"cifarlib run {chapter.number} --{profile} --record",
        details={"peak_memory_bytes": facts["peak_memory_bytes"]},
    )
    if profile == "full":
        _clean(executed)
        if figure := report.cover(executed):
            picture = Image.open(io.BytesIO(base64.b64decode(figure[1]))).convert("RGB")
            picture.save(results.folder() / f"chapter-{chapter.number}-cover.jpg", quality=85)
    else:
        executed = nbformat.read(chapter.path, as_version=4)
    executed.cells[0].source = results.stamp(executed.cells[0].source)
    _write(executed, chapter.path)
    _say(f"{chapter.number}  recorded in {chapter.path.name}")


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
                for holder in (shown, shown.get("data", {})):
                    for key, value in holder.items():
                        if isinstance(value, str) and not key.startswith("image/"):
                            holder[key] = _without_paths(value)
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


def _without_paths(text: str) -> str:
    """Replace the folders of this machine by what they are."""
    folders = {
        str(settings.cache_folder()): "<cache>",
        sys.prefix: "<environment>",
        str(settings.checkout_folder() or Path.cwd()): "<checkout>",
        tempfile.gettempdir(): "<temporary>",
        str(settings.expand("~")): "~",
    }
    for folder, name in folders.items():
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?=[/\\\s\"'.,;:)]|$)", name, text)
    return text


def _finished_key(copy: Path) -> str | None:
    try:
        return json.loads(copy.read_text(encoding="utf-8"))["metadata"]["cifarlib"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def _package_source() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return _hash(*(file.read_text(encoding="utf-8") for file in files))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _say(line: str) -> None:
    progress.tqdm.write(line, file=sys.stderr)
