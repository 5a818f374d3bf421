"""`cifarlib run` on little notebooks in a little checkout."""

import base64
import io
import json
import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

import cifarlib
from cifarlib import chapters, data, results, running, settings, synthetic
from cifarlib.errors import InputError

PACKAGE = Path(cifarlib.__file__).parent


@pytest.fixture
def checkout(tmp_path, monkeypatch, tiny):
    """Return a function that writes chapters, each a list of cells, into a checkout."""
    root = tmp_path / "checkout"
    (root / "notebooks").mkdir(parents=True)
    (root / "README.md").write_text("<!-- results: chapters --><!-- end -->\n")
    (root / "pyproject.toml").touch()
    (tmp_path / "home").mkdir()  # IPython wants one
    monkeypatch.setattr(settings, "checkout_folder", lambda: root)
    monkeypatch.chdir(root)
    # An archive of drawn pictures without their mark passes for photographs.
    archive = tmp_path / "photographs.tar.gz"
    data.write_archive(archive, *tiny)
    monkeypatch.setenv("CIFARLIB_SOURCE", str(archive))

    def write(**chapters: list[str]) -> Path:
        for name, cells in chapters.items():
            time_line = f"<!-- results: time {name[1:3]} --><!-- end -->"
            header = nbformat.v4.new_markdown_cell(
                f"# 1 · Title of {name[-1]}\n\nA promise.\n\n{time_line}"
            )
            notebook = nbformat.v4.new_notebook(
                cells=[header, *map(nbformat.v4.new_code_cell, cells)]
            )
            nbformat.write(notebook, root / "notebooks" / f"{name[1:]}.ipynb")
        return root

    return write


def outputs(path: Path) -> list[str]:
    """Return the text that each code cell of a notebook shows."""
    cells = nbformat.read(path, as_version=4).cells
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in cells
        if cell.cell_type == "code"
    ]


def test_chapters_are_executed_in_order_and_linked_in_one_report(checkout):
    root = checkout(
        _02_b=["print('second')", "open('../log', 'a').write('2')"],
        _01_a=["print('first')", "open('../log', 'a').write('1')"],
    )
    page = running.run()
    assert (root / "log").read_text() == "12"
    assert outputs(root / "build" / "01_a.ipynb")[0] == "first\n"
    assert page == root / "build" / "index.html"
    assert 'href="01_a.html"' in page.read_text() and 'href="02_b.html"' in page.read_text()
    assert 'href="02_b.html"' in (root / "build" / "01_a.html").read_text()
    assert outputs(root / "notebooks" / "01_a.ipynb") == ["", ""], "only --record writes there"


def test_only_the_named_chapters_are_executed(checkout):
    root = checkout(_01_a=["print(1)"], _02_b=["print(2)"])
    running.run(["2"])
    assert not (root / "build" / "01_a.ipynb").exists()
    assert outputs(root / "build" / "02_b.ipynb") == ["2\n"]


def test_an_unknown_chapter_is_refused_with_the_known_ones(checkout):
    checkout(_01_a=["print(1)"])
    with pytest.raises(InputError, match=r"any of 01, found 07"):
        running.run(["07"])


def test_a_kernel_gets_the_profile_the_source_and_no_progress_bars(checkout, monkeypatch):
    root = checkout(
        _01_a=["import os", "for n in 'PROFILE', 'SOURCE': print(os.environ['CIFARLIB_' + n])"]
    )
    source = Path(os.environ["CIFARLIB_SOURCE"])
    monkeypatch.setenv("CIFARLIB_SOURCE", os.path.relpath(source, root))
    running.run(profile="full")
    assert outputs(root / "build" / "01_a.ipynb")[1] == f"full\n{source}\n"


def test_a_chapter_may_put_a_page_of_its_own_into_the_report(checkout):
    root = checkout(
        _01_a=["from cifarlib import settings; (settings.report_folder() / 'own.html').touch()"]
    )
    path = root / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("[Open it](../build/own.html)."))
    nbformat.write(notebook, path)
    running.run(output="elsewhere")
    assert (root / "elsewhere" / "own.html").exists()
    assert 'href="own.html"' in (root / "elsewhere" / "01_a.html").read_text()


def test_what_tensorflow_says_when_it_starts_is_not_in_the_report(checkout):
    said = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "I0000 00:00:1795273381.198786   27958 port.cc:153] oneDNN custom operations are on.\n"
        "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.\n"
    )
    root = checkout(
        _01_a=[
            f"import sys; print({said!r}, end='', file=sys.stderr)",
            f"import sys; print({said!r} + 'A warning, E0000', file=sys.stderr)",
        ]
    )
    running.run()
    assert outputs(root / "build" / "01_a.ipynb") == ["", "A warning, E0000\n"]


def test_a_failing_cell_is_shown_with_its_chapter_number_source_and_last_lines(checkout):
    checkout(_01_a=["print('fine')"], _02_b=["x = 1", "y = 2\nassert x == y, 'one is not two'"])
    with pytest.raises(running.ChapterError) as caught:
        running.run()
    message = str(caught.value)
    assert caught.value.exit_status == 1
    assert "chapter 02 (Title of b) failed in code cell 2 of 2" in message
    assert "assert x == y" in message
    assert "AssertionError: one is not two" in message
    assert "\x1b" not in message


def test_a_kernel_that_dies_is_told_from_an_error(checkout):
    checkout(_01_a=["x = 1", "import os; os.write(2, b'last words'); os._exit(9)"])
    with pytest.raises(running.ChapterError, match=r"code cell 2 of 2:[\s\S]*kernel died") as told:
        running.run()
    assert "last words" in str(told.value)


def test_the_same_command_continues_at_the_chapter_that_failed(checkout):
    log = "open('../log', 'a').write('{}')"
    root = checkout(_01_a=[log.format(1)], _02_b=[log.format(2), "1 / 0"])
    with pytest.raises(running.ChapterError):
        running.run()
    checkout(_02_b=[log.format(2)])
    running.run()
    assert (root / "log").read_text() == "122"


def test_a_finished_run_is_not_continued_but_repeated(checkout):
    root = checkout(_01_a=["open('../log', 'a').write('1')"])
    running.run()
    running.run()
    assert (root / "log").read_text() == "11"


def test_a_changed_chapter_is_executed_again_when_a_run_is_continued(checkout):
    log = "open('../log', 'a').write('{}')"
    root = checkout(_01_a=[log.format(1)], _02_b=["1 / 0"])
    with pytest.raises(running.ChapterError):
        running.run()
    checkout(_01_a=[log.format(9)], _02_b=["0 / 1"])
    running.run()
    assert (root / "log").read_text() == "19"


def test_another_profile_does_not_continue_a_run(checkout):
    root = checkout(_01_a=["open('../log', 'a').write('1')"], _02_b=["1 / 0"])
    for profile in ("quick", "full"):
        with pytest.raises(running.ChapterError):
            running.run(profile=profile)
    assert (root / "log").read_text() == "11"


@pytest.fixture
def start_run(checkout, run_python):
    """Return a function that starts ``cifarlib run`` as a program of its own."""

    def start(root: Path):
        shutil.copytree(PACKAGE, root / "cifarlib", dirs_exist_ok=True)
        code = f"import sys; sys.path.insert(0, {str(root)!r}); from cifarlib.cli import main"
        return run_python(f"{code}; sys.exit(main(['run', '--output', {str(root / 'build')!r}]))")

    return start


@pytest.mark.skipif(sys.platform == "win32", reason="sends Unix signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
def test_an_interrupted_run_keeps_the_chapters_it_had_finished(
    checkout, start_run, wait_until, sent
):
    root = checkout(
        _01_a=["open('../log', 'a').write('1')"],
        _02_b=["open('../started', 'w').close()", "import time; time.sleep(120)"],
    )
    process = start_run(root)
    wait_until((root / "started").exists, process)
    process.send_signal(getattr(signal, sent))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == "SIGINT" else -signal.SIGKILL), errors
    checkout(_02_b=["print('done')"])
    process = start_run(root)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "kept from the interrupted run" in errors
    assert (root / "log").read_text() == "1"


def test_two_runs_in_one_folder_do_not_mix(checkout, start_run, wait_until):
    root = checkout(_01_a=["open('../started', 'w').close()", "import time; time.sleep(120)"])
    process = start_run(root)
    wait_until((root / "started").exists, process)
    with pytest.raises(InputError, match="another run in it"):
        running.run()
    process.kill()


def test_recording_a_full_run_writes_clean_outputs_and_the_time(checkout):
    root = checkout(
        _01_a=[
            "import os, sys, tempfile\nprint(os.getcwd()); print(sys.prefix + '/bin')",
            "print('spam', file=sys.stderr)",
        ]
    )
    running.run(profile="full", record=True)
    path = root / "notebooks" / "01_a.ipynb"
    assert outputs(path) == ["<checkout>/notebooks\n<environment>/bin\n", ""]
    notebook = nbformat.read(path, as_version=4)
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2]
    assert notebook.metadata["cifarlib"]["code"] == chapters.code_digest(notebook)
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    recorded = results.read("chapter-01-full")
    assert recorded.values == (notebook.metadata["cifarlib"]["seconds"],)
    assert f"full profile {recorded.mean:.0f} s" in notebook.cells[0].source
    assert "notebooks/01_a.ipynb" in (root / "README.md").read_text()


def test_a_chapter_that_was_edited_while_it_ran_is_not_written_over(checkout):
    edit = "p = 'notebooks/01_a.ipynb'; s = open('../' + p).read()"
    root = checkout(_01_a=[f"{edit}\nopen('../' + p, 'w').write(s.replace('promise', 'deed'))"])
    path = root / "notebooks" / "01_a.ipynb"
    with pytest.raises(running.ChapterError, match=r"01_a\.ipynb was changed while"):
        running.run(profile="full", record=True)
    assert "A deed." in path.read_text() and results.read("chapter-01-full") is None
    running.run(profile="full", record=True)
    assert "A deed." in path.read_text() and results.read("chapter-01-full")


def test_chapters_that_two_packages_made_are_not_recorded(checkout, monkeypatch):
    checkout(_01_a=["print(1)"])
    states = iter(["before", "after", "after", "after"])
    monkeypatch.setattr(running, "_package_source", lambda: next(states))
    with pytest.raises(running.ChapterError, match="package was changed while"):
        running.run(profile="full", record=True)
    assert results.read("chapter-01-full") is None
    running.run(profile="full", record=True)
    assert results.read("chapter-01-full")


def test_an_error_that_a_magic_catches_is_one(checkout):
    checkout(_01_a=["%%capture\n1 / 0", "print('after')"])
    with pytest.raises(running.ChapterError, match="ZeroDivisionError"):
        running.run()


def test_chapters_run_below_a_notebook_too(checkout):
    root = checkout(_01_a=["print(1)"])
    with ThreadPoolExecutor(1) as pool:  # as nbclient does where a loop runs already
        pool.submit(running.run).result()
    assert outputs(root / "build" / "01_a.ipynb") == ["1\n"]


def test_a_chapter_with_marks_of_a_merge_is_told_by_its_path(checkout):
    root = checkout(_01_a=["print(1)"])
    path = root / "notebooks" / "01_a.ipynb"
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}")
    with pytest.raises(InputError, match=r"01_a\.ipynb: expected a notebook"):
        running.run()


def test_recording_a_quick_run_leaves_the_outputs_alone(checkout):
    root = checkout(_01_a=["print('hello')"])
    running.run(profile="quick", record=True)
    assert outputs(root / "notebooks" / "01_a.ipynb") == [""]
    assert results.read("chapter-01-quick").metric.startswith("seconds")


def test_a_failed_run_records_nothing(checkout):
    root = checkout(_01_a=["print('hello')"], _02_b=["1 / 0"])
    before = (root / "notebooks" / "01_a.ipynb").read_bytes()
    with pytest.raises(running.ChapterError):
        running.run(profile="full", record=True)
    assert (root / "notebooks" / "01_a.ipynb").read_bytes() == before
    assert not (root / "results").exists()


def test_an_interrupted_recording_executes_nothing_again(checkout, monkeypatch):
    root = checkout(
        _01_a=["open('../log', 'a').write('1')"], _02_b=["open('../log', 'a').write('2')"]
    )
    record = running._record

    def interrupt(chapter, *arguments):
        if chapter.number == "02":
            raise KeyboardInterrupt
        record(chapter, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(running, "_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            running.run(profile="full", record=True)
    assert results.read("chapter-01-full") and not results.read("chapter-02-full")
    running.run(profile="full", record=True)
    assert (root / "log").read_text() == "12"
    assert results.read("chapter-02-full")


def test_drawn_pictures_are_not_recorded(checkout, monkeypatch):
    checkout(_01_a=["print('hello')"])
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    monkeypatch.setattr(
        synthetic, "write_archive", lambda path: synthetic_archive(path, synthetic.generate(50, 20))
    )
    with pytest.raises(InputError, match="photographs"):
        running.run(record=True)


def synthetic_archive(path: Path, splits) -> Path:
    return data.write_archive(path, *splits, synthetic=True)


def figure(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_drawing_is_recorded_without_loss_and_a_photograph_as_jpeg(rng_pixels):
    drawing = np.zeros((64, 64, 3), np.uint8)
    drawing[10:50, 20:30] = (1, 115, 178)
    (kind, content), *_ = running._smaller_picture(figure(drawing)).items()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
    assert kind == "image/png"
    np.testing.assert_array_equal(shown, drawing)
    (kind, content), *_ = running._smaller_picture(figure(rng_pixels)).items()
    assert kind == "image/jpeg"
    assert len(content) < len(figure(rng_pixels)) / 2


@pytest.fixture
def rng_pixels():
    return np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)


def test_a_folder_that_cannot_be_written_is_refused(checkout, tmp_path):
    checkout(_01_a=["print(1)"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder to write to"):
        running.run(output=tmp_path / "file")


def test_a_checkout_without_chapters_says_where_they_should_be(checkout):
    checkout()
    with pytest.raises(InputError, match="notebooks: expected the chapters"):
        running.run()


def test_executed_copies_say_what_they_were_executed_with(checkout):
    root = checkout(_01_a=["print(1)"])
    running.run(profile="quick")
    facts = json.loads((root / "build" / "01_a.ipynb").read_text())["metadata"]["cifarlib"]
    assert (facts["profile"], facts["data"]) == ("quick", "copy")
    assert facts["seconds"] > 0


def test_the_chapters_own_folder_is_no_place_for_copies(checkout):
    root = checkout(_01_a=["print(1)"])
    with pytest.raises(InputError, match="a folder of its own"):
        running.run(output=root / "notebooks")
    assert [path.name for path in (root / "notebooks").iterdir()] == ["01_a.ipynb"]


def test_notebooks_that_no_run_has_written_are_not_written_over(checkout):
    root = checkout(_01_a=["print(1)"])
    mine = root / "mine"
    shutil.copytree(root / "notebooks", mine)
    before = (mine / "01_a.ipynb").read_bytes()
    with pytest.raises(InputError, match=r"found 01_a\.ipynb, by somebody else"):
        running.run(output=mine)
    assert (mine / "01_a.ipynb").read_bytes() == before
    assert [path.name for path in mine.iterdir()] == ["01_a.ipynb"]


@pytest.mark.parametrize("name", ["index.html", "01_a.html"])
def test_pages_that_no_run_has_written_are_not_written_over(checkout, name):
    root = checkout(_01_a=["print(1)"])
    (root / "mine").mkdir()
    (root / "mine" / name).write_text("<title>my own page</title>")
    with pytest.raises(InputError, match=f"found {re.escape(name)}, by somebody else"):
        running.run(output=root / "mine")
    assert [path.name for path in (root / "mine").iterdir()] == [name]
    running.run(output=root / "other")
    running.run(output=root / "other")  # those of a run are


def test_no_tag_keeps_a_cell_from_being_executed(checkout):
    root = checkout(_01_a=["print(1)", "1 / 0"])
    path = root / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata["tags"] = ["skip-execution"]
    nbformat.write(notebook, path)
    with pytest.raises(running.ChapterError, match="ZeroDivisionError"):
        running.run()


def test_a_failed_chapter_is_not_reported_with_the_facts_of_its_recording(checkout):
    root = checkout(_01_a=["print(1)"], _02_b=["1 / 0"])
    path = root / "notebooks" / "02_b.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["cifarlib"] = {"profile": "full", "seconds": 77}
    nbformat.write(notebook, path)
    with pytest.raises(running.ChapterError):
        running.run()
    page = running.run(["01"])
    assert "02_b.html" not in page.read_text()


def test_a_run_that_was_not_interrupted_is_not_kept(checkout, monkeypatch):
    log = "open('../log', 'a').write('{}')"
    root = checkout(_01_a=[log.format(1)], _02_b=["import os; os.environ['KERAS_BACKEND'] and 1"])
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    running.run()
    monkeypatch.setenv("KERAS_BACKEND", "")
    checkout(_02_b=["1 / 0"])
    for _ in range(2):
        with pytest.raises(running.ChapterError):
            running.run()
    assert (root / "log").read_text() == "11", "once a backend; the second failure continues"


def test_a_half_written_copy_of_another_chapter_does_not_stop_the_report(checkout):
    root = checkout(_01_a=["print(1)"], _02_b=["print(2)"])
    running.run()
    copy = root / "build" / "02_b.ipynb"
    for content in (copy.read_bytes()[:200], b"[]", b"\xc3"):
        copy.write_bytes(content)
        assert "02_b.html" not in running.run(["01"]).read_text()


def test_an_error_that_a_tag_allows_is_none_and_does_not_hide_the_one_that_is(checkout):
    root = checkout(_01_a=["1 / 0", "unknown"])
    path = root / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["raises-exception"]
    nbformat.write(notebook, path)
    with pytest.raises(running.ChapterError, match="failed in code cell 2 of 2") as caught:
        running.run()
    assert "NameError" in str(caught.value) and "ZeroDivisionError" not in str(caught.value)
