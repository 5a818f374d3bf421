"""README, the teaching guide and headings, where they quote records or name the repository.

    python -m cifarlib.pages                # fills README and the guide from results/
    python -m cifarlib.pages OWNER/NAME     # writes another repository wherever one is named

These pages never state a measured number of their own. They hold marked places, and `stamp` fills
those from the files under ``results/``, so that a number can always be traced to the command that
produced it. Not for the chapters' stored outputs: `running` records those.
"""

import re
import statistics
import sys
from collections.abc import Sequence

import nbformat

from cifarlib import assignments, chapters, colab, files, results
from cifarlib.errors import CifarlibError, InputError


def stamp(text: str) -> str:
    """Return a page of Markdown with its marked places filled from the recorded results.

    A place is ``<!-- results: WHAT -->…<!-- end -->``, where WHAT is ``chapters``,
    ``benchmarks``, ``linear``, ``networks``, ``assignments`` or ``time NN``.

    Raises:
        KeyError: if a place asks for something unknown.
    """

    def fill(match: re.Match) -> str:
        what, *arguments = match[2].split()
        content = _PLACES[what](*arguments)
        joint = "\n" if "\n" in content else ""
        return f"{match[1]}{joint}{content}{joint}<!-- end -->"

    return results.MARKED_PLACE.sub(fill, text)


def stamp_readme() -> None:
    """Fill the marked places of the checkout's README, and of that of its assignments."""
    root = results.folder().parent
    with results.alone():
        for path in (root / "README.md", *root.glob("assignments/README.md")):
            text = path.read_text(encoding="utf-8")
            if (stamped := stamp(text)) != text:
                files.write_text(path, stamped)


_PROFILES = "quick", "full"


def _chapter_seconds(number: str, profile: str) -> str:
    result = results.read(f"chapter-{number}-{profile}")
    return f"{result.mean:.0f} s" if result else "not measured"


def _data_of(result: results.Result) -> str:
    kind = result.data_kind
    return "official data" if kind == "official" else f"{kind} of the data"


def _time_line(number: str) -> str:
    parts = [f"{profile} profile {_chapter_seconds(number, profile)}" for profile in _PROFILES]
    found = [results.read(f"chapter-{number}-{profile}") for profile in _PROFILES]
    places = [f" on {each.hardware} ({_data_of(each)})" if each else "" for each in found]
    if places[0] == places[1]:
        places[0] = ""
    return ", ".join(part + place for part, place in zip(parts, places, strict=True))


_STALE = " (stale: of other code)"


def _chapters_table() -> str:
    rows = ["| | chapter | you will see | quick | full |", "|---|---|---|--:|--:|"]
    for chapter in chapters.find():
        title, promise = chapters.title_and_promise(chapters.read(chapter.path))
        name = chapter.path.name
        link = f"[{title}](notebooks/{name}) ([Colab]({colab.address(name)}))"
        times = " | ".join(_chapter_seconds(chapter.number, p) for p in _PROFILES)
        rows.append(f"| {int(chapter.number)} | {link} | {promise} | {times} |")
    return "\n".join(rows)


def _benchmarks_table() -> str:
    # Whether a record is stale is for Keras to say, which takes seconds to import.
    from cifarlib import staleness

    rows = ["| what | times as fast | n |", "|---|--:|--:|"]
    found = [result for result in results.read_all() if result.name.startswith("benchmark-")]
    of_other_code = staleness.stale(found)
    for result in found:
        ratio = _with_spread(result.values, 1)
        mark = _STALE if result.name in of_other_code else ""
        rows.append(f"| {result.metric}{mark} | {ratio} | {len(result.values)} |")
    return "\n".join(rows)


def _linear_table() -> str:
    from cifarlib import staleness

    found = [result for result in results.read_all() if result.name.startswith("linear-")]
    of_other_code = staleness.stale(found)
    rungs: dict[str, dict[str, results.Result]] = {}
    for result in sorted(found, key=lambda result: (result.color != "gray", result.mean)):
        rung = result.name.removeprefix("linear-").removesuffix(f"-{result.color}")
        rungs.setdefault(rung, {})[result.color] = result
    rows = ["| features | gray (%) | colour (%) | seconds (gray) |", "|---|--:|--:|--:|"]
    for rung, of_color in rungs.items():
        gray, color = of_color.get("gray"), of_color.get("rgb")
        accuracies = " | ".join(
            results.told_accuracy(each) + (_STALE if each and each.name in of_other_code else "")
            for each in (gray, color)
        )
        seconds = f"{gray.seconds / len(gray.values):.0f}" if gray else ""
        rows.append(f"| {rung.replace('-', ' ')} | {accuracies} | {seconds} |")
    return "\n".join(rows)


def _assignments_table() -> str:
    from cifarlib import staleness

    rows = [
        "| assignment | seconds | of processor time | GiB of memory | n | on |",
        "|---|--:|--:|--:|--:|---|",
    ]
    found = [result for result in results.read_all() if result.name.startswith("assignment-")]
    of_other_code = staleness.stale(found)
    for result in sorted(found, key=lambda result: result.name):
        details = result.details
        mark = _STALE if result.name in of_other_code else ""
        seconds = _with_spread(result.values, 0)
        processor = _with_spread(details["processor_seconds"], 0)
        memory = max(details["peak_memory_gib"])
        rows.append(
            f"| {details['assignment']}{mark} | {seconds} | {processor} | {memory:.1f} "
            f"| {len(result.values)} | {result.hardware} ({_data_of(result)}) |"
        )
    return "\n".join(rows)


def _with_spread(values: Sequence[float], num_digits: int) -> str:
    """Return the median, and from what to what the values go."""
    figures = statistics.median(values), min(values), max(values)
    median, low, high = (f"{figure:.{num_digits}f}" for figure in figures)
    return f"{median} ({low} to {high})"


def _networks_table() -> str:
    from cifarlib import leaderboard

    return leaderboard.table()


_PLACES = {
    "time": _time_line,
    "chapters": _chapters_table,
    "benchmarks": _benchmarks_table,
    "linear": _linear_table,
    "networks": _networks_table,
    "assignments": _assignments_table,
}


def point_to(owner_and_name: str) -> None:
    """Write a repository into pyproject.toml, README, every badge and every set-up cell.

    Those of assignments as well.

    Args:
        owner_and_name: as GitHub shows it, such as ``"cifarlib/cifarlib"``.

    Raises:
        InputError: for anything else, or a notebook that is none; nothing is written then.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", owner_and_name):
        advice = "Write it as GitHub shows it."
        raise InputError("repository", "OWNER/NAME", repr(owner_and_name), advice)
    results.folder()  # refuses where there is no checkout
    with_badge = [chapter.path for chapter in chapters.find()]
    # All are read before the first is written.
    paths = [*with_badge, *(assignment.path for assignment in assignments.find())]
    notebooks = {path: chapters.read(path) for path in paths}
    project = colab.ROOT / "pyproject.toml"
    line = f'Repository = "https://github.com/{owner_and_name}"'
    text = re.sub(r"^Repository = .*$", line, project.read_text(encoding="utf-8"), flags=re.M)
    files.write_text(project, text)
    cloned = f"https://github.com/{owner_and_name} "  # as chapters.CLONED has it
    for path, notebook in notebooks.items():
        if path in with_badge:
            first = notebook.cells[0]
            title, _, rest = colab.BADGE.sub("", first.source).partition("\n\n")
            first.source = f"{title}\n\n{colab.badge(path.name)}\n\n{rest}"
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = chapters.CLONED.sub(cloned, cell.source)
        files.write_text(path, nbformat.writes(notebook) + "\n")
    stamp_readme()


def _main(words: Sequence[str]) -> int:
    if len(words) > 1:
        print("usage: python -m cifarlib.pages [OWNER/NAME]", file=sys.stderr)
        return 2
    try:
        point_to(*words) if words else stamp_readme()
    except CifarlibError as error:
        print(f"cifarlib.pages: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
