"""Times of code beside what it replaces: a stopwatch, and which code the times are of.

Without Keras, for which benchmarks of the data and of a program's start should not wait. Not for
whether a record's code is today's: `staleness` compares.
"""

import ast
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cifarlib import chapters

_ROOT = Path(__file__).resolve().parents[1]  # of the checkout; elsewhere there are no benchmarks


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes by the clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def code(*paths: str) -> dict[str, object]:
    """Return what the record of a benchmark tells of the code whose times it holds.

    Args:
        *paths: files of Python or notebooks in which the time is spent, the benchmark's own among
            them, relative to the root of the checkout. Of Python docstrings and comments on lines
            of their own do not count, of notebooks all but the sources of code cells.

    Returns:
        ``code_of``, the paths, and ``code``, their digest.

    Raises:
        OSError: if there is no such file.
        SyntaxError: if one is half edited; of a notebook ValueError or KeyError.
    """
    told = "\n".join(_code(_ROOT / path) for path in paths)
    return {"code_of": list(paths), "code": hashlib.sha256(told.encode()).hexdigest()[:12]}


def _code(path: Path) -> str:
    """Return the lines that count of a file, of Python as ruff formats it.

    By lines, since what `ast` and `tokenize` make of a file differs between versions of Python.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        # Of a fork's set-up cell as of ours, as `chapters.code_digest` has it.
        return chapters.CLONED.sub(chapters.OURS, "\n".join(sources))
    tree = ast.parse(text)
    docstrings = set(_lines(_docstrings(tree)))
    strings = set(_lines(node for node in ast.walk(tree) if isinstance(node, ast.Constant)))
    lines = enumerate(text.splitlines(), 1)
    return "\n".join(
        line
        for number, line in lines
        if number not in docstrings
        and (number in strings or (line.strip() and not line.lstrip().startswith("#")))
    )


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            yield node.body[0]


def _lines(nodes: Iterable[ast.AST]) -> Iterator[int]:
    for node in nodes:
        yield from range(node.lineno, node.end_lineno + 1)
