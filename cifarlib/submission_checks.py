"""What is missing from notebooks that are to be handed in, in plain words.

Who wrote them, and whether they name folders that exist on one machine only. Not for executing
them: `submission` does, and adds what failed.
"""

import ast
import re
from collections.abc import Iterator

import nbformat

BLANK_ANSWER = "*Your answer here.*"  # what `assignments` leaves for an answer in words

_FIELDS = {"name": "STUDENT_NAME", "id": "STUDENT_ID"}

# Folders of one machine. In a web address a letter or a slash comes before the slash, in a word
# that `execution.remove_paths` left, such as <cache>, a bracket.
_MACHINE_PATH = re.compile(
    r"(?<![\w./:~<>-])"
    r"(?:/(?:home|Users|root|tmp|mnt|media|content|Volumes|private|work)/"
    r"|[A-Z]:(?:\\\\|/(?=[^\s/]+[/.])|\\(?=Users|[Tt]emp|TEMP|[A-Z][a-z]))"
    # A drive or folder in small letters: what cannot be a tab or the end of a line.
    r"|[A-Za-z]:(?:\\{1,2}|/)(?=(?i:users)\b|(?![ntr])[\w-]{2,}(?:\\{1,2}|/)[\w-]+\.\w))"
    r"[^\s\"'`)\],;:<>]*"
)

# In which X:\Omega is no folder.
_FORMULA = re.compile(r"\$\$.+?\$\$|\$(?!\s)[^$\n]+(?<!\s)\$(?!\d)", re.DOTALL)

_TEXTS = ("text", "evalue")  # printed; message of an error


def student(
    notebooks: dict[str, nbformat.NotebookNode], given: dict[str, str | None]
) -> tuple[dict[str, str], list[str]]:
    """Return whose notebooks these are.

    Args:
        notebooks: by the name of their file.
        given: ``"name"`` and ``"id"``, for notebooks that assign neither ``STUDENT_NAME`` nor
            ``STUDENT_ID``.

    Returns:
        Name and id, empty where they are not known, and what is wrong with them.
    """
    found, problems = {}, []
    for field, variable in _FIELDS.items():
        assigned = {file: _assigned(notebook, variable) for file, notebook in notebooks.items()}
        assigned = {file: value for file, value in assigned.items() if value is not None}
        problems += [
            f'{file}: {variable} is empty or no text; write yours in quotes: {variable} = "…"'
            for file, value in assigned.items()
            if not value
        ]
        option = (given[field] or "").strip()
        if not assigned and not option:
            problems.append(f"your {field} is missing; give it with --{field}")
        values = sorted({value for value in (option, *assigned.values()) if value})
        if len(values) > 1:
            problems.append(f"there is more than one {field}: {', '.join(values)}")
        found[field] = values[0] if values else ""
    return found, problems


def _assigned(notebook: nbformat.NotebookNode, variable: str) -> str | None:
    """Return what the first cell that assigns a variable gives it, None if there is none.

    Read, not executed: a task that is not solved yet must not hide the name.
    """
    for cell in notebook.cells:
        if cell.cell_type != "code" or (told := _told(cell.source, variable)) is None:
            continue
        try:
            value = ast.literal_eval(told)
            return str(value).strip() if isinstance(value, str | int) else ""
        except _NO_LITERAL:
            return ""
    return None


# What IPython understands, and Python does not: %time, !ls, ?print.
_MAGIC = re.compile(r"^\s*[%!?].*$", re.MULTILINE)

# Of code that is none, holds a zero byte, is nested too deep, or has a number too long to print.
_NO_LITERAL = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


def _told(source: str, variable: str) -> ast.expr | str | None:
    """Return what stands behind the equals sign, None if a variable is not assigned."""
    if variable not in source:
        return None
    try:
        lines = _parsed(source).body
    except _NO_LITERAL:  # a number such as 0012, or another language
        match = re.search(rf"^{variable}\s*=(?!=)(.*)$", source, re.MULTILINE)
        return match[1].strip() if match else None
    for line in lines:
        if isinstance(line, ast.Assign | ast.AnnAssign):
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            if line.value and any(getattr(target, "id", None) == variable for target in targets):
                return line.value
    return None


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse(_MAGIC.sub("", source))


def blank_answers(notebooks: dict[str, nbformat.NotebookNode]) -> list[str]:
    """Return which questions of an assignment have no answer in words yet."""
    problems = []
    for file, notebook in notebooks.items():
        for cell in notebook.cells:
            told = cell.metadata.get("nbgrader")
            is_question = isinstance(told, dict) and told.get("solution")
            is_blank = cell.source.strip() in ("", BLANK_ANSWER)
            if is_question and is_blank and cell.cell_type == "markdown":
                which = told.get("grade_id", "a question")
                where = f"where it says {BLANK_ANSWER!r}" if cell.source.strip() else "there"
                problems.append(f"{file}: {which} is not answered; write it {where}")
    return problems


def machine_paths(
    notebooks: dict[str, nbformat.NotebookNode], helpers: dict[str, bytes]
) -> list[str]:
    """Return where sources or outputs name a folder that exists on one machine only.

    Args:
        notebooks: executed, by the name of their file.
        helpers: contents of the files beside them; only Python is looked at.
    """
    return [
        f"{where}: {match[0]!r} exists on one machine only; name files relative to the notebook"
        for where, text in _texts(notebooks, helpers)
        if (match := _MACHINE_PATH.search(text))
    ]


def _texts(notebooks, helpers) -> Iterator[tuple[str, str]]:
    for file, notebook in notebooks.items():
        numbers = {"code": 0, "markdown": 0, "raw": 0}
        for cell in notebook.cells:
            numbers[cell.cell_type] += 1
            where = f"{cell.cell_type} cell {numbers[cell.cell_type]}"
            is_text = cell.cell_type == "markdown"
            yield f"{file}, {where}", _FORMULA.sub("", cell.source) if is_text else cell.source
            for output in cell.get("outputs", ()):
                told = {**output, **output.get("data", {})}
                texts = [told[key] for key in told if key in _TEXTS or key.startswith("text/")]
                yield f"{file}, output of {where}", "\n".join(map(str, texts))
    for file, content in helpers.items():
        if file.endswith(".py"):
            yield file, content.decode(errors="replace")


def shown(cell: nbformat.NotebookNode) -> str:
    """Return the text that a cell shows, without what it wrote to standard error."""
    parts, is_printed = [], False
    for output in cell.get("outputs", ()):
        if output.get("name") == "stderr":
            continue
        told = {**output, **output.get("data", {})}
        texts = [str(told[key]) for key in (*_TEXTS, "text/plain") if key in told]
        was_printed, is_printed = is_printed, output.get("name") == "stdout"
        if was_printed and is_printed:  # the kernel cuts what is printed by its clock
            parts[-1] += "".join(texts)
        else:
            parts += texts
    return "\n".join(parts)
