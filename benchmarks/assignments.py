"""What grading a solved assignment takes: seconds, seconds of processor time, and memory.

    python benchmarks/assignments.py [--repeat N] [--record]

Each source is handed in as it stands, with its solutions, to ``cifarlib assignment grade``, whose
whole process is timed; that grades in the quick profile. With ``--record`` the figures go to
``results/``, whence the teaching guide has them. For Linux and macOS, which tell what a process and
all that it has started have used.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cifarlib import arguments, assignments, data, devices, errors, pages, results, timed
from cifarlib.chapters import Chapter

COMMAND = "python benchmarks/assignments.py --record"
REPEAT = 3
# The chapter after which the guide hands each of them out.
AFTER = {"01": "02", "02": "03", "03": "04"}


class Grading(NamedTuple):
    """What grading one notebook has taken.

    Attributes:
        seconds: by the clock.
        processor_seconds: the sum over all cores.
        peak_memory_gib: of the largest of its processes, which is the notebook's kernel.
    """

    seconds: float
    processor_seconds: float
    peak_memory_gib: float


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=REPEAT, help="gradings of each")
    parser.add_argument("--record", action="store_true", help="write to results/")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error("--repeat: expected at least 1")
    if options.record and options.repeat != REPEAT:
        parser.error(f"--record: expected --repeat {REPEAT}, as its command says")
    if not hasattr(os, "wait4"):
        parser.error("expected Linux or macOS, which tell what a process has used")
    print(data.fetch(), devices.describe_cpu(), sep="\n")  # in no grading's time
    if options.record:
        results.check_recordable()
    commit = results.current_commit()  # now: somebody may commit while it measures
    with results.undisturbed(options.record):
        try:
            for source in assignments.find():
                measure(source, options.repeat, options.record, commit)
        finally:  # what was recorded before an interruption is there
            if options.record:
                pages.stamp_readme()


def measure(source: Chapter, repeat: int, is_recorded: bool, commit: str) -> None:
    """Grade one assignment several times, print, and record if asked to."""
    name = source.path.stem
    path = f"assignments/source/{name}/{source.path.name}"
    code = timed.code("benchmarks/assignments.py", path)  # now: somebody may edit it
    began = time.monotonic()
    gradings = []
    for _ in range(repeat):
        gradings.append(grading := graded(source.path))
        print(
            f"{name}: {grading.seconds:.0f} s, {grading.processor_seconds:.0f} s of processor "
            f"time, {grading.peak_memory_gib:.1f} GiB",
            flush=True,
        )
    if is_recorded:
        results.write(
            f"assignment-{source.number}",
            chapter=AFTER[source.number],
            metric=f"seconds to grade assignment {source.number}, solved, in the quick profile",
            values=[grading.seconds for grading in gradings],
            commit=commit,
            seconds=time.monotonic() - began,
            command=COMMAND,
            details={
                "assignment": name,
                "processor_seconds": [grading.processor_seconds for grading in gradings],
                "peak_memory_gib": [grading.peak_memory_gib for grading in gradings],
                **code,
            },
        )


def graded(path: Path) -> Grading:
    """Grade a notebook in a process of its own.

    Raises:
        CifarlibError: if it has not earned all that tests can give.
    """
    command = [sys.executable, "-m", "cifarlib", "assignment", "grade", str(path), "--json"]
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=told, stderr=log)
        # Not Popen.wait, which does not say what the process has used.
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0), log.seek(0)
        if process.returncode:
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no word"]
            raise errors.CifarlibError(f"{path.name} could not be graded: {lines[-1]}")
        (found,) = json.load(told)
    if found["problem"] or found["points"] + found["by_hand"] != found["possible"]:
        lost = [mark["task"] for mark in found["marks"] if mark["reason"]]
        raise errors.CifarlibError(
            f"{path.name}: expected a solution that earns all points, found "
            f"{found['problem'] or ', '.join(lost)}. Grade it by itself to see why."
        )
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    memory = used.ru_maxrss * unit / 2**30
    return Grading(seconds, used.ru_utime + used.ru_stime, memory)


if __name__ == "__main__":
    with errors.told():
        main()
