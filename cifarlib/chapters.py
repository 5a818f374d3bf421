"""The chapters as files: which there are, and what their first cell promises.

Not for executing them (`running`) nor for showing them (`report`).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat

from cifarlib import settings
from cifarlib.errors import InputError

# The repository that a set-up cell clones, and what digests of code take it for.
CLONED = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+ ")
OURS = "https://github.com/cifarlib/cifarlib "


class Chapter(NamedTuple):
    """One notebook of the series: its number, such as ``"01"``, and its file."""

    number: str
    path: Path


def find(numbers: Sequence[str] = ()) -> list[Chapter]:
    """Return chapters in order, from the checkout or the working directory.

    Args:
        numbers: such as ``("01", "2")``; none for all.

    Raises:
        InputError: if there are no chapters, or none of such a number.
    """
    folder = (settings.checkout_folder() or Path.cwd()) / "notebooks"
    return select(in_folder(folder), numbers, "chapters", folder)


def select(paths: Sequence[Path], numbers: Sequence[str], what: str, folder: Path) -> list[Chapter]:
    """Return the notebooks of these numbers.

    Args:
        paths: notebooks in order, each named by its number.
        numbers: such as ``("01", "2")``; none for all.
        what: what they are, a plural.
        folder: where they were looked for.

    Raises:
        InputError: if there are no notebooks, or none of such a number.
    """
    chapters = [Chapter(path.name[:2], path) for path in paths]
    if not chapters:
        raise InputError(
            folder,
            f"the {what}, as 01_*.ipynb",
            "none",
            "Run this in a checkout of the project; an installed package has no notebooks.",
        )
    numbers = [numbers] if isinstance(numbers, str) else numbers
    wanted = {number.zfill(2) for number in numbers}
    known = {chapter.number for chapter in chapters}
    if wanted - known:
        raise InputError(
            what,
            f"any of {', '.join(sorted(known))}",
            ", ".join(sorted(wanted - known)),
            "Leave the numbers out to have all.",
        )
    return [chapter for chapter in chapters if not wanted or chapter.number in wanted]


def in_folder(folder: Path) -> list[Path]:
    """Return the notebooks in a folder that are chapters, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook.

    Raises:
        InputError: if it is none, as after a merge that left its marks.
    """
    advice = "Open and save it in Jupyter, or get it from git again."
    try:
        # Editors on Windows begin with a mark.
        return nbformat.reads(path.read_text("utf-8-sig"), as_version=4)
    except Exception as error:  # nbformat fails in many ways at what is no notebook
        found = f"a file that cannot be read ({type(error).__name__})"
        raise InputError(path, "a notebook", found, advice) from error


def code_digest(notebook: nbformat.NotebookNode) -> str:
    """Return what tells apart the code of chapters, whatever is said or shown beside it.

    From which repository the set-up cell clones does not count: a fork's outputs are of this code.
    """
    sources = [CLONED.sub(OURS, c.source) for c in notebook.cells if c.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12]


def title_and_promise(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    r"""Return a chapter's heading without its number, and its first paragraph.

    >>> cell = nbformat.v4.new_markdown_cell("# 1 · Explore the data\n\nSixty thousand\nphotos.")
    >>> title_and_promise(nbformat.v4.new_notebook(cells=[cell]))
    ('Explore the data', 'Sixty thousand photos.')
    """
    text = notebook.cells[0].source if notebook.cells else ""
    first, *paragraphs = text.split("\n\n")
    title = re.sub(r"^#\s*(\d+\W+)?", "", first)
    # A line of badges, if there is one, comes before the promise.
    promise = next((p for p in paragraphs if not p.startswith(("[", "<", "!"))), "")
    return title.strip(), " ".join(promise.split())
