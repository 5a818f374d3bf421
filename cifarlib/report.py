"""One linked HTML report of the executed chapters.

A page a chapter (nbconvert) and a first page with what each promises, what it cost and one of
its figures. Everything is in the files: the report opens offline. Not for executing anything.
"""

import contextlib
import copy
import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nbconvert
import nbformat

from cifarlib import chapters, colab, files
from cifarlib.chapters import title_and_promise
from cifarlib.errors import InputError

FIRST = "index.html"
_FIRST_TITLE = "cifarlib: the chapters"

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; font: 17px/1.55 system-ui, sans-serif; color: #1c2430; background: #f6f7f9; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2.1rem; margin: 0 0 .3rem; }
.facts { color: #556; margin: 0 0 2rem; }
.synthetic { background: #ffe9c7; border: 2px solid #b35c00; padding: .7rem 1rem; }
a.chapter { display: grid; grid-template-columns: 1fr 20rem; gap: 1.5rem; align-items: center;
  background: white; border: 1px solid #dde1e7; border-radius: 10px; padding: 1.2rem 1.5rem;
  margin: 0 0 1.2rem; color: inherit; text-decoration: none; }
a.chapter:hover, a.chapter:focus { border-color: #0173b2; box-shadow: 0 2px 10px #0002; }
a.chapter h2 { margin: 0 0 .4rem; font-size: 1.3rem; color: #0173b2; }
a.chapter p { margin: 0 0 .5rem; }
a.chapter small { color: #556; }
a.chapter img { max-width: 100%; max-height: 13rem; justify-self: center; }
section { background: white; border: 1px solid #dde1e7; border-radius: 10px;
  padding: .4rem 1.5rem 1.2rem; margin: 0 0 1.2rem; overflow-x: auto; }
section h2 { font-size: 1.3rem; color: #0173b2; } section img { max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; text-align: right; }
tbody tr { border-top: 1px solid #dde1e7; } pre { white-space: pre-wrap; }
@media (max-width: 45rem) { a.chapter { grid-template-columns: 1fr; } }
"""

_PAGE_STYLE = """
<style>
nav.report { font: 15px system-ui, sans-serif; padding: .7rem 1.2rem; background: #f6f7f9;
  border-bottom: 1px solid #dde1e7; display: flex; gap: 1.5rem; justify-content: center; }
p.report { font: 15px system-ui, sans-serif; padding: .5rem 1.2rem; background: #fff6e0;
  margin: 0; text-align: center; }
nav.report a { color: #0173b2; text-decoration: none; }
body.jp-Notebook { max-width: 60rem; margin: 0 auto !important; }
</style>
"""


def write(folder: Path, description: str) -> Path:
    """Write the report of all executed chapters in a folder.

    Args:
        folder: holds the executed copies, ``01_….ipynb`` and so on.
        description: the data set, in a line.

    Returns:
        The first page, ``index.html``.
    """
    paths = chapters.in_folder(folder)
    finished = []
    for path in paths:
        with contextlib.suppress(InputError):
            notebook = chapters.read(path)
            if "cifarlib" in notebook.metadata:
                finished.append((path, notebook))
    stems = {path.stem for path, _ in finished}
    for index, (path, notebook) in enumerate(finished):
        previous = finished[index - 1] if index else None
        following = finished[index + 1] if index + 1 < len(finished) else None
        page = _chapter_page(notebook, previous, following, stems)
        files.write_text(path.with_suffix(".html"), page)
    index_page = folder / FIRST
    files.write_text(index_page, _first_page(finished, description))
    return index_page


def is_first_page(path: Path) -> bool:
    """Tell whether a file is the first page of a report, not somebody else's."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return f"<title>{_FIRST_TITLE}</title>" in file.read(1000)
    except OSError:
        return False


def cover(notebook: nbformat.NotebookNode) -> tuple[str, str] | None:
    """Return the figure that stands for a chapter: its MIME type and base64 content.

    It is the first of the cell tagged ``cover``, else the first of all; None without figures.
    """
    is_cover = ["cover" in cell.metadata.get("tags", ()) for cell in notebook.cells]
    cells = [c for _, c in sorted(zip(is_cover, notebook.cells, strict=True), key=lambda x: -x[0])]
    for cell in cells:
        for output in cell.get("outputs", ()):
            for kind in ("image/png", "image/jpeg"):
                if content := output.get("data", {}).get(kind):
                    return kind, content.replace("\n", "")
    return None


def page(title: str, body: str) -> str:
    """Return a page in the report's style.

    Args:
        title: plain text, shown by the browser.
        body: HTML.
    """
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _first_page(finished: list[tuple[Path, nbformat.NotebookNode]], description: str) -> str:
    cards = []
    for path, notebook in finished:
        facts = notebook.metadata["cifarlib"]
        figure = cover(notebook)
        picture = f'<img alt="" src="data:{figure[0]};base64,{figure[1]}">' if figure else ""
        title, promise = map(html.escape, title_and_promise(notebook))
        memory = facts["peak_memory_bytes"]
        cost = f"{facts['seconds']:.0f} s" + (f", {memory / 2**30:.1f} GiB" if memory else "")
        cards.append(
            f'<a class="chapter" href="{path.stem}.html"><div>'
            f"<h2>{int(path.name[:2])} · {title}</h2><p>{promise}</p>"
            f"<small>{facts['profile']} profile, {html.escape(facts['data'])}, {cost} on "
            f"{html.escape(facts['hardware'])}</small></div>{picture}</a>"
        )
    kind = ' class="synthetic"' if "(synthetic)" in description else ' class="facts"'
    return page(
        _FIRST_TITLE,
        f"<h1>Image classification by doing it</h1><p{kind}>{html.escape(description)}</p>"
        f"{''.join(cards)}",
    )


def _chapter_page(notebook: nbformat.NotebookNode, previous, following, stems: set[str]) -> str:
    def lead(link: re.Match) -> str:
        return f"[{link[1]}]({link[2]}.html)" if link[2] in stems else link[1]

    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # links to chapters and to pages of theirs lead there
            cell.source = re.sub(r"\[([^\]]+)\]\((\d\d_\w+)\.ipynb\)", lead, cell.source)
            cell.source = re.sub(r"\(\.\./build/(\w+\.html)\)", r"(\1)", cell.source)
    links = [f'<a href="{FIRST}">All chapters</a>']
    if previous:
        links.insert(0, f'<a href="{previous[0].stem}.html">← {_title(previous[1])}</a>')
    if following:
        links.append(f'<a href="{following[0].stem}.html">{_title(following[1])} →</a>')
    navigation = f'<nav class="report">{"".join(links)}</nav>'
    if notebook.metadata["cifarlib"]["profile"] == "quick":
        navigation += (
            '<p class="report">Quick profile: fewer images than the text speaks of. Its numbers '
            "are those of <code>cifarlib run --full</code>.</p>"
        )
    return notebook_page(notebook, title_and_promise(notebook)[0], navigation)


def _title(notebook: nbformat.NotebookNode) -> str:
    return html.escape(title_and_promise(notebook)[0])


def notebook_page(
    notebook: nbformat.NotebookNode, title: str, header: str = "", folder: Path = Path()
) -> str:
    """Return an executed notebook as a page that needs no other file and no network.

    But for pictures in its text that are elsewhere.

    Args:
        notebook: as `execution.execute` leaves it.
        title: plain text, shown by the browser.
        header: HTML that comes before the notebook.
        folder: below which the pictures of its text are put into the page.
    """
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:  # the badge's picture is elsewhere
        cell.source = colab.BADGE.sub("", cell.source)
    # No math in the chapters and no widgets: without these the page needs no network. (Formulas
    # of a submission are shown as they were typed.)
    exporter = nbconvert.HTMLExporter(
        embed_images=True, mathjax_url="", require_js_url="", jupyter_widgets_base_url=""
    )
    resources = {"metadata": {"name": title, "path": str(folder)}}
    page, _ = exporter.from_notebook_node(notebook, resources=resources)
    page = page.replace("</head>", f"{_PAGE_STYLE}</head>", 1)
    # A function, so that backslashes in the chapter are left alone.
    return re.sub(r"<body[^>]*>", lambda match: match[0] + header, page, count=1)


def shows_others(page: str) -> bool:
    """Tell whether a page shows pictures that are not in it."""
    return re.search(r'<img\b[^>]*\bsrc="(?!data:)', page) is not None


_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_BROWSER_SECONDS = 120


def browser() -> str | None:
    """Return the Chromium that `printed` would use, None if there is none on the PATH."""
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def printed(page: str) -> bytes | None:
    """Return a page as PDF, None if there is no browser to print it or that fails.

    Args:
        page: HTML that needs no other file.
    """
    if (program := browser()) is None:
        return None
    # A browser's helpers may still be writing to it.
    with tempfile.TemporaryDirectory(
        prefix="cifarlib-print-", ignore_cleanup_errors=True
    ) as temporary:
        source, target = Path(temporary) / "page.html", Path(temporary) / "page.pdf"
        source.write_text(page, encoding="utf-8")
        command = [program, "--headless", "--no-sandbox", "--no-pdf-header-footer"]
        # A profile of its own: two browsers do not share one.
        command += [f"--user-data-dir={temporary}/profile", f"--print-to-pdf={target}"]
        command.append(source.as_uri())
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=_BROWSER_SECONDS)
            return target.read_bytes()
        except (OSError, subprocess.SubprocessError):
            return None
