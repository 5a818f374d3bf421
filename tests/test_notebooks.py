"""What is committed under ``notebooks/`` and quoted in README, without executing it."""

import ast
import graphlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import cifarlib
from cifarlib import chapters, pages, results, settings

ROOT = Path(cifarlib.__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
COMPARED = "nbval-check-output"

every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem[:2])


@pytest.fixture(autouse=True)
def real_checkout(isolation, monkeypatch):
    monkeypatch.setattr(settings, "checkout_folder", lambda: ROOT)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def compared_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in code_cells(path) if COMPARED in cell.metadata.get("tags", ())]


def not_really_compared(path: Path) -> list[str]:
    """Return the tagged cells that nbval passes over: without a count, or without text."""
    return [
        cell.source
        for cell in compared_cells(path)
        if not cell.execution_count
        or not any(o.get("text") or "text/plain" in o.get("data", {}) for o in cell.outputs)
    ]


def test_there_are_chapters():
    assert len(CHAPTERS) >= 2
    assert [path.name[:2] for path in CHAPTERS] == [f"{n:02}" for n in range(1, len(CHAPTERS) + 1)]


@every_chapter
def test_tagged_cells_are_really_compared(path):
    assert compared_cells(path), "a chapter has deterministic cells; tag them"
    assert not_really_compared(path) == []


def write_notebook(path: Path, said: str, count: int | None) -> Path:
    cell = nbformat.v4.new_code_cell("print(1 + 1)", execution_count=count)
    cell.metadata["tags"] = [COMPARED]
    cell.outputs = [nbformat.v4.new_output("stream", text=said)] if said else []
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def nbval(path: Path) -> subprocess.CompletedProcess:
    options = ["--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent)


def test_a_wrong_recorded_output_fails_under_nbval(tmp_path):
    assert nbval(write_notebook(tmp_path / "right.ipynb", "2\n", 1)).returncode == 0
    assert nbval(write_notebook(tmp_path / "wrong.ipynb", "3\n", 1)).returncode == 1


def test_the_guard_notices_a_cell_that_nbval_would_pass_over(tmp_path):
    path = write_notebook(tmp_path / "stripped.ipynb", "", None)
    assert nbval(path).returncode == 0, "nbval does not mind; that is why there is a guard"
    assert not_really_compared(path) == ["print(1 + 1)"]
    assert not_really_compared(write_notebook(path, "3\n", None)) == ["print(1 + 1)"]
    assert not_really_compared(write_notebook(path, "3\n", 1)) == []


@every_chapter
def test_outputs_are_of_one_recorded_full_run_on_photographs(path):
    facts = nbformat.read(path, as_version=4).metadata["cifarlib"]
    assert facts["profile"] == "full"
    assert facts["data"] in ("official", "JPEG copy")
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


# Of these the code has changed since: Colab's cell, what a quick run takes, a journal's name.
RECORDED_WITH_OTHER_CODE = ("04", "05")


@every_chapter
def test_outputs_are_of_the_code_beside_them(path):
    notebook = nbformat.read(path, as_version=4)
    if path.name[:2] in RECORDED_WITH_OTHER_CODE:
        assert "code" not in notebook.metadata["cifarlib"], "recorded anew: take it off the list"
    else:
        assert notebook.metadata["cifarlib"]["code"] == chapters.code_digest(notebook)


@every_chapter
def test_outputs_hold_no_error_no_machine_path_and_no_warning(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            text = "".join(
                str(v) for k, v in output.get("data", output).items() if "image" not in k
            )
            assert not re.search(r"(/work/|/root/|/home/|/tmp/|/Users/|[A-Z]:\\)", text), text


@every_chapter
def test_chapters_stay_small(path):
    assert path.stat().st_size < 1_000_000


def test_all_chapters_share_one_set_up_cell():
    assert len({code_cells(path)[0].source for path in CHAPTERS}) == 1


@every_chapter
def test_figures_come_from_the_library_so_that_synthetic_ones_are_marked(path):
    text = "\n".join(cell.source for cell in code_cells(path))
    assert not re.search(r"\bplt\.|pyplot|\.figure\(", text)


def test_a_search_that_is_kept_is_not_continued_on_other_images():
    """Whoever begins with drawn pictures and gets CIFAR-10 later executes the same cells."""
    journals = re.compile(r"journal=.*f\"([^\"]+)\"")
    named = [n for path in CHAPTERS for c in code_cells(path) for n in journals.findall(c.source)]
    assert named and all("{images_used}" in name and "profile" in name for name in named)


@every_chapter
def test_every_code_cell_has_a_sentence_before_it(path):
    cells = nbformat.read(path, as_version=4).cells
    for before, cell in itertools.pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"nothing introduces:\n{cell.source}"


@every_chapter
def test_numbers_in_the_heading_come_from_results(path):
    source = nbformat.read(path, as_version=4).cells[0].source
    assert "<!-- results: time" in source
    assert pages.stamp(source) == source


@pytest.mark.parametrize("folder", [".", "assignments"])
def test_numbers_in_readme_come_from_results(folder):
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert pages.stamp(text) == text, "run: python -m cifarlib.pages"
    unmarked = re.sub(r"<!-- results: .*?<!-- end -->", "", text, flags=re.DOTALL)
    assert not re.search(r"\d\s*(%|×|s\b|ms\b|seconds|GiB|MiB)", unmarked), "a typed measurement"


def test_readme_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = [path.stem for path in (ROOT / "cifarlib").glob("[!_]*.py")]
    assert len(modules) > 30
    assert [name for name in modules if f"`{name}`" not in text] == []


def test_no_two_modules_need_each_other():
    needed = {}
    for path in (ROOT / "cifarlib").glob("[!_]*.py"):
        needed[path.stem] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # in functions, too
            if isinstance(node, ast.ImportFrom) and node.module == "cifarlib":
                needed[path.stem] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("cifarlib."):
                needed[path.stem].add(node.module.removeprefix("cifarlib."))
    assert "results" in needed["leaderboard"]
    list(graphlib.TopologicalSorter(needed).static_order())  # raises a CycleError, which names them


def test_every_recorded_result_says_where_it_comes_from():
    recorded = results.read_all()
    assert recorded
    for result in recorded:
        assert result.command and result.hardware and result.versions and result.commit
        assert result.data_kind in ("official", "JPEG copy", "PNG copy", "copy", "none")
        assert result.seeds is None or len(result.seeds) == len(result.values)


def test_links_between_pages_lead_somewhere():
    for path in [ROOT / "README.md", *CHAPTERS]:
        made = ""  # pages that a chapter writes
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
            made = "\n".join(cell.source for cell in code_cells(path))
        else:
            text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            if link.startswith("../build/"):
                assert f'settings.report_folder() / "{Path(link).name}"' in made, link
            else:
                assert (path.parent / link).exists(), f"{path.name}: {link}"
