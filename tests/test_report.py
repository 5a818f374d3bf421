"""Pages that need nothing else, on the screen and on paper."""

import os
import re
import stat
import sys

import nbformat
import pytest

from cifarlib import colab, report

FAKE = """#!{python}
import pathlib, sys
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
assert "--headless" in sys.argv and sys.argv[-1].startswith("file:///")
pathlib.Path(options["--print-to-pdf"]).write_bytes(b"%PDF of " + sys.argv[-1].encode())
sys.exit({status})
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a program in place of Chromium, alone on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def install(name, status=0):
        path = tmp_path / "bin" / name
        path.write_text(FAKE.format(python=sys.executable, status=status))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return install


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a Unix script")
def test_a_page_is_printed_by_the_browser_on_the_path(install):
    assert report.browser() is None and report.printed("<p>") is None
    path = install("google-chrome")
    assert report.browser() == path
    assert report.printed("<p>").startswith(b"%PDF of file:///")
    install("chromium", status=1)
    assert report.printed("<p>") is None, "a browser that fails prints nothing"


def test_a_page_without_a_header_or_facts_is_whole():
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"})]
    page = report.notebook_page(nbformat.v4.new_notebook(cells=[cell]), "a title")
    assert "<title>a title</title>" in page and "<pre>2</pre>" in page
    assert "Quick profile" not in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page), "needs the network"


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_a_chapter_says_that_its_numbers_are_those_of_the_quick_profile(profile):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 1 · Title")])
    notebook.metadata["cifarlib"] = {"profile": profile}
    page = report._chapter_page(notebook, None, None, set())
    assert ("Quick profile" in page) == (profile == "quick")


def test_a_link_leads_to_a_chapter_that_is_in_the_report_or_nowhere():
    text = "# 1 · Title\n\nBack: [First](01_first.ipynb). Next: [Third](03_third.ipynb)."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    notebook.metadata["cifarlib"] = {"profile": "full"}
    page = report._chapter_page(notebook, None, None, {"01_first"})
    assert '<a href="01_first.html">First</a>' in page
    assert "Next: Third." in page and "03_third" not in page


def test_a_badge_is_on_no_page_but_stays_in_the_notebook():
    heading = nbformat.v4.new_markdown_cell(f"# 1 · Title\n\n{colab.badge('01_a.ipynb')}\n\nWell.")
    notebook = nbformat.v4.new_notebook(cells=[heading])
    page = report.notebook_page(notebook, "a title")
    assert "Well." in page and "colab" not in page
    assert "colab" in notebook.cells[0].source
