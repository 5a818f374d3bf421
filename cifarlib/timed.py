"""Times of code beside what it replaces: a stopwatch, and which code a benchmark's times are of.

Without Keras, which the benchmarks of data and of a program's start must not wait for. Races of
the fast recipe are told apart by what learns and computes, see `staleness`.
"""

import ast
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from cifarlib import settings
from cifarlib.errors import InputError

# By the beginning of a record's name: the benchmark, and the modules whose code it times.
_DATA = ("data", ("data", "archives", "containers", "cache", "images"))
BENCHMARKS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        (
            *("benchmark-copy-grayscale", "benchmark-decode", "benchmark-grayscale"),
            "benchmark-warm-cache",
        ),
        _DATA,
    ),
    "benchmark-grid-search": ("grid", ("search", "fitting", "features")),
    "benchmark-start": ("data", ("__init__", "__main__", "cli", "arguments", "errors")),
    "benchmark-training": ("training", ("training", "compute", "winograd", "augmentation")),
}


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes by the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def code_digest(name: str) -> str:
    """Return what tells apart the code that a benchmark's record is about, and its own.

    Comments on lines of their own and docstrings do not count, nor do libraries.

    Args:
        name: of the record.

    Raises:
        InputError: without a checkout, where the benchmarks are, or if that one is no more.
    """
    benchmark, modules = next(
        files for beginning, files in BENCHMARKS.items() if name.startswith(beginning)
    )
    root = settings.checkout_folder()
    own = root and root / "benchmarks" / f"{benchmark}.py"
    if not own or not own.is_file():
        told = f"a checkout with benchmarks/{benchmark}.py", "none"
        raise InputError(name, *told, "Clone the repository.")
    timed = (Path(__file__).with_name(f"{module}.py") for module in modules)
    return hashlib.sha256("\n".join(map(_code, (own, *timed))).encode()).hexdigest()[:12]


def _code(path: Path) -> str:
    """Return a file's lines without docstrings and comments."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            for number in range(docstring.lineno, docstring.end_lineno + 1):
                lines[number - 1] = ""
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
