"""Handing in: executed from clean, checked, and one zip or none."""

import hashlib
import json
import os
import signal
import zipfile
from pathlib import Path

import nbformat
import pytest

from cifarlib import containers, data, execution, report, submission
from cifarlib.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::cifarlib.data.SyntheticDataWarning")

WHO = 'STUDENT_NAME = "Ada Lovelace"\nSTUDENT_ID = "12"'


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Offer drawn pictures, a home for IPython, and no browser."""
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(report, "browser", lambda: None)


@pytest.fixture
def executed(monkeypatch):
    """Pretend that notebooks were executed, which takes seconds each; return which, and where."""
    calls = []

    def execute(notebook, folder, *, environment, label, facts, keep_going, cell_seconds):
        assert cell_seconds == (submission.CELL_SECONDS if facts["profile"] == "quick" else None)
        calls.append((label, sorted(path.name for path in folder.iterdir()), environment, facts))
        notebook.metadata["cifarlib"] = {**facts, "seconds": 1.5, "peak_memory_bytes": 2}
        return []

    monkeypatch.setattr(execution, "execute", execute)
    return calls


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def manifest(path: Path) -> dict:
    return json.loads(contents(path)[submission.MANIFEST])


def test_a_folder_becomes_one_zip_with_all_that_is_needed_to_judge_it(tmp_path, write_notebook):
    write_notebook("week 1/b.ipynb", "import helper\nprint(helper.ANSWER, open('from_a').read())")
    write_notebook("week 1/a.ipynb", WHO, "open('from_a', 'w').write('first'); print(1)")
    (tmp_path / "week 1" / "helper.py").write_text("ANSWER = 42\n")
    (tmp_path / "week 1" / "model.keras").write_bytes(b"large")
    before = containers.read_members(tmp_path / "week 1", lambda name: True)
    made = submission.submit("week 1", profile="quick")
    assert made.path == Path("week-1-12.zip") and made.problems == ()
    assert str(made) == "week-1-12.zip is complete: Ada Lovelace, 12"
    assert containers.read_members(tmp_path / "week 1", lambda name: True) == before
    members = contents(made.path)
    told = json.loads(members.pop("manifest.json"))
    assert set(members) == {
        *("notebooks/a.ipynb", "notebooks/b.ipynb", "notebooks/helper.py"),
        *("pages/a.html", "pages/b.html"),
    }
    shown = nbformat.reads(members["notebooks/b.ipynb"].decode(), 4).cells[0]
    assert shown.execution_count == 1 and shown.outputs[0].text == "42 first\n"
    assert b"42 first" in members["pages/b.html"] and b"quick profile" in members["pages/b.html"]
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    assert told["members"] == sums
    assert told["student"] == {"name": "Ada Lovelace", "id": "12"}
    assert (told["complete"], told["profile"], told["data"]["kind"]) == (True, "quick", "synthetic")
    assert len(told["data"]["fingerprint"]) == 64 and "numpy" in told["versions"]
    assert [(n["file"], n["status"]) for n in told["notebooks"]] == [
        ("a.ipynb", "ran"),
        ("b.ipynb", "ran"),
    ]
    assert all(n["seconds"] > 0 for n in told["notebooks"])
    assert made.remarks[0] == "Left out: model.keras."
    assert made.remarks[1].startswith("No PDF: there is no Chromium")


def test_what_is_missing_is_told_at_once_and_in_plain_words(write_notebook):
    path = write_notebook(
        "task.ipynb",
        'STUDENT_NAME = ""\nSTUDENT_ID = "12"',
        "print('/home/ada/x')",
        "raise NotImplementedError('Count the frogs.')",
        "frogs = 1 / 0",
        "print(frogs)",
        "raise NotImplementedError",
    )
    made = submission.submit(path)
    assert made.path is None and not list(Path().glob("*.zip"))
    told = str(made)
    assert "task.ipynb: STUDENT_NAME is empty" in told
    assert "task.ipynb: a task is not solved yet in code cell 3: Count the frogs.\n" in told
    assert "task.ipynb: a task is not solved yet in code cell 6: …\n" in told
    assert "does not run to its end, code cell 4 of 6:\n        frogs = 1 / 0\n" in told
    assert "ZeroDivisionError: division by zero" in told
    assert "further errors in code cells 5, perhaps because of the first" in told
    assert "task.ipynb, code cell 2: '/home/ada/x' exists on one machine only" in told
    assert "task.ipynb, output of code cell 2: '/home/ada/x'" in told
    assert told.endswith("hand in what there is with --incomplete.")


def test_what_is_not_complete_is_packed_by_choice_and_says_so(write_notebook):
    path = write_notebook(
        "task.ipynb", WHO, "print('first')", "raise NotImplementedError", "print('last')"
    )
    made = submission.submit(path, incomplete=True)
    assert made.path == Path("task-12.zip") and "says that it is incomplete" in str(made)
    told = manifest(made.path)
    assert told["complete"] is False
    assert told["notebooks"][0]["status"] == "failed in cell 3: NotImplementedError"
    (problem,) = told["problems"]
    assert "a task is not solved yet" in problem
    page = contents(made.path)["pages/task.html"]
    assert b"<pre>first" in page and b"<pre>last" in page, "what is solved is shown"


def test_a_loop_without_end_and_a_flood_are_told_and_the_rest_is_packed(
    write_notebook, monkeypatch, capsys
):
    monkeypatch.setattr(submission, "CELL_SECONDS", 2)
    flood = f"print('x' * {submission.MAX_SHOWN_BYTES + 1})"
    path = write_notebook("task.ipynb", WHO, "print('a')\nwhile True: pass", flood, "print('z')")
    made = submission.submit(path, incomplete=True)
    told = str(made)
    assert "code cell 2 of 4" in told and "CellTimeoutError: stopped after 2 seconds" in told
    assert "KeyboardInterrupt" not in told and "code cell 3 shows 8 MiB" in told
    members = contents(made.path)
    assert len(members["notebooks/task.ipynb"]) < 2**16 and b"<pre>z" in members["pages/task.html"]
    assert "Timeout waiting" not in capsys.readouterr().err


def test_a_name_is_not_asked_for_where_it_is_compared_only(write_notebook):
    path = write_notebook("task.ipynb", '%time 0\nSTUDENT_NAME == ""', WHO, "1 / 0")
    assert "STUDENT_NAME is empty" not in str(submission.submit(path))


def test_a_question_that_nobody_answered_is_missing(write_notebook, executed):
    path = write_notebook("task.ipynb", WHO, "print(1)")
    notebook = nbformat.read(path, as_version=4)
    for grade_id, text in (("answer_one", "*Your answer here.*\n"), ("answer_two", "Cats.")):
        cell = nbformat.v4.new_markdown_cell(text)
        cell.metadata["nbgrader"] = {"grade_id": grade_id, "grade": True, "solution": True}
        notebook.cells.append(cell)
    nbformat.write(notebook, path)
    (problem,) = submission.submit(path).problems
    assert problem.startswith("task.ipynb: answer_one is not answered; write it where it says")
    notebook.cells[-2].source = ""
    nbformat.write(notebook, path)
    (problem,) = submission.submit(path).problems
    assert problem == "task.ipynb: answer_one is not answered; write it there"


def test_a_task_that_others_need_is_told_once(write_notebook):
    unsolved = "raise NotImplementedError('Task 4: return the gray pictures')"
    untold = "raise NotImplementedError"
    path = write_notebook("task.ipynb", WHO, unsolved, unsolved, untold, untold)
    problem, *others = submission.submit(path).problems
    assert len(others) == 2, "nobody knows whether these are the same"
    assert problem.endswith(
        "a task is not solved yet in code cell 2: Task 4: return the gray pictures"
    )


def test_a_kernel_that_dies_is_told_and_nothing_that_was_saved_is_shown(write_notebook):
    path = write_notebook("a.ipynb", WHO, "import os; os._exit(9)", "x = 1")
    saved = nbformat.read(path, as_version=4)
    output = nbformat.v4.new_output("stream", text="an old result")
    saved.cells[2].update(execution_count=3, outputs=[output])
    nbformat.write(saved, path)
    made = submission.submit(path, incomplete=True)
    assert "does not run to its end, code cell 2 of 3:" in str(made)
    assert "kernel died" in str(made)
    assert b"an old result" not in contents(made.path)["notebooks/a.ipynb"]


def test_a_task_before_the_death_of_a_kernel_is_told_too(write_notebook):
    unsolved = "raise NotImplementedError('Task 1')"
    path = write_notebook("a.ipynb", WHO, unsolved, "1 / 0", "import os; os._exit(9)", "x = 1")
    made = submission.submit(path, incomplete=True)
    task, first, death = made.problems
    assert task.endswith("a task is not solved yet in code cell 2: Task 1")
    assert "code cell 3 of 5" in first and "ZeroDivisionError" in first
    assert "code cell 4 of 5" in death and "kernel died" in death
    assert manifest(made.path)["notebooks"][0]["seconds"] is None


def test_an_error_that_a_cell_does_not_show_is_one(write_notebook):
    unseen = "get_ipython().set_custom_exc((ValueError,), lambda *error, **options: None)"
    path = write_notebook("a.ipynb", WHO, unseen, "int('one')", "print('after')")
    made = submission.submit(path, incomplete=True)
    (problem,) = made.problems
    assert "code cell 3 of 4" in problem and "ValueError: invalid literal" in problem
    assert manifest(made.path)["notebooks"][0]["status"] == "failed in cell 3: ValueError"


def test_choosing_incomplete_does_not_make_it_so(write_notebook, executed):
    made = submission.submit(write_notebook("a.ipynb", WHO), incomplete=True)
    assert manifest(made.path)["complete"] is True and "is complete" in str(made)


def test_outputs_are_not_those_that_were_saved(write_notebook):
    path = write_notebook("a.ipynb", WHO, "print(1 + 1)")
    saved = nbformat.read(path, as_version=4)
    saved.cells[1].outputs = [nbformat.v4.new_output("stream", text="99.9 % right")]
    nbformat.write(saved, path)
    made = submission.submit(path)
    page = contents(made.path)["notebooks/a.ipynb"]
    assert b"99.9" not in page and b"2\\n" in page


def test_paths_of_this_machine_in_outputs_are_replaced_before_they_are_looked_for(write_notebook):
    made = submission.submit(write_notebook("a.ipynb", WHO, "import os; print(os.getcwd())"))
    assert made.problems == ()
    assert b"<temporary>/cifarlib-submit-" in contents(made.path)["notebooks/a.ipynb"]


def test_only_what_is_handed_in_is_there_when_it_is_executed(tmp_path, write_notebook, executed):
    write_notebook("task/a.ipynb", WHO)
    for name in ("a.csv", "b.bin", ".hidden.py", ".ipynb_checkpoints/a.ipynb", "__pycache__/x.pyc"):
        (tmp_path / "task" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "task" / name).write_text("x")
    (tmp_path / "task" / "large.csv").write_bytes(bytes(submission.MAX_HELPER_BYTES + 1))
    made = submission.submit("task", profile="full")
    ((label, there, environment, facts),) = executed
    assert label == "a.ipynb" and there == ["a.csv", "a.ipynb"]
    assert environment["CIFARLIB_PROFILE"] == facts["profile"] == "full"
    assert made.remarks[0] == "Left out: b.bin, large.csv."


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few people make links")
def test_linked_helpers_are_left_out(tmp_path, write_notebook, executed):
    write_notebook("task/a.ipynb", WHO)
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "task" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    made = submission.submit("task")
    assert "notebooks/notes.txt" not in contents(made.path)


def test_a_chapter_gets_name_and_id_from_the_options(write_notebook, executed):
    path = write_notebook("02_color.ipynb", "print(1)")
    made = submission.submit(path, name="Grace", student_id="a/b ../7")
    assert made.path == Path("02_color-a-b-..-7.zip")
    assert manifest(made.path)["student"] == {"name": "Grace", "id": "a/b ../7"}


def test_a_notebook_without_code_is_not_complete(write_notebook, executed):
    made = submission.submit(write_notebook("a.ipynb", ""), name="Ada", student_id="1")
    assert made.problems == ("a.ipynb: it has no code",)


def test_pictures_beside_a_notebook_are_in_its_page(tmp_path, build, executed, tiny):
    cell = nbformat.v4.new_markdown_cell("![a frog](frog.png)")
    code = nbformat.v4.new_code_cell(WHO)
    (tmp_path / "task").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, code]), tmp_path / "task" / "a.ipynb")
    (tmp_path / "task" / "frog.png").write_bytes(build.image_file(tiny[0].images[0]))
    page = contents(submission.submit("task").path)["pages/a.html"]
    assert b'src="frog.png"' not in page and b"data:image/png;base64," in page


def test_pictures_from_elsewhere_are_told(build, executed, tmp_path):
    cell = nbformat.v4.new_markdown_cell("![a frog](https://example.org/frog.png)")
    cells = [cell, nbformat.v4.new_code_cell(WHO)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    made = submission.submit("a.ipynb")
    told = "The page of a.ipynb shows pictures that are not in it, but elsewhere."
    assert told in made.remarks and made.path


def test_half_a_character_is_told_with_its_notebook(write_notebook, executed):
    path = write_notebook("a.ipynb", WHO, "print('XX')")
    path.write_text(path.read_text().replace("XX", "\\ud83d"))
    with pytest.raises(InputError, match=r"a\.ipynb: expected text, found half a character"):
        submission.submit(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other words for it")
def test_a_number_too_long_for_a_name_is_told_before_the_work(write_notebook, executed):
    path = write_notebook("a.ipynb", WHO.replace("12", "1" * 300))
    with pytest.raises(InputError, match="expected a name to write to, found File name too"):
        submission.submit(path)
    assert not executed


def test_a_number_that_nobody_can_print_is_missing(write_notebook, executed):
    path = write_notebook("a.ipynb", 'STUDENT_NAME = "Ada"', f"STUDENT_ID = 0x{'f' * 4000}")
    (problem,) = submission.submit(path).problems
    assert "STUDENT_ID is empty or no text" in problem


def test_a_pdf_is_added_where_a_browser_prints(write_notebook, executed, monkeypatch):
    monkeypatch.setattr(report, "browser", lambda: "chromium")
    monkeypatch.setattr(report, "printed", lambda page: page[:9].encode())
    path = write_notebook("a.ipynb", WHO)
    made = submission.submit(path)
    assert contents(made.path)["pages/a.pdf"] == b"<!DOCTYPE" and made.remarks == ()
    monkeypatch.setattr(report, "printed", lambda page: None)
    made = submission.submit(path, output="second.zip")
    assert made.remarks == ("No PDF of a.ipynb: the browser failed. The HTML page has it all.",)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_leads_elsewhere_on_windows_is_refused(write_notebook, executed):
    with pytest.raises(InputError, match=r"A:b\.ipynb: expected a name that every system takes"):
        submission.submit(write_notebook("A:b.ipynb", WHO))
    assert submission.submit(write_notebook("Week 1: b.ipynb", WHO)).problems == ()


def test_a_notebook_that_cannot_be_shown_is_packed_without_its_page(write_notebook, executed):
    path = write_notebook("week/a.ipynb", WHO)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("![gone](attachment:image.png)"))
    nbformat.write(notebook, path)
    write_notebook("week/b.ipynb", "print(1)")
    made = submission.submit(path.parent)
    assert made.problems == ()
    assert any("No page of a.ipynb: InvalidNotebook" in remark for remark in made.remarks)
    members = contents(made.path)
    assert "notebooks/a.ipynb" in members and "pages/b.html" in members
    assert "pages/a.html" not in members


# Where there is nothing to pack, or no place for it


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("nowhere", "nothing there"),
        ("text.txt", "another file"),
        ("empty", "none"),
        ("broken.ipynb", "cannot be read"),
        ("list.ipynb", "cannot be read"),
        (".hidden.ipynb", "the name of a hidden file"),
    ],
)
def test_what_is_no_notebook_is_refused(path, found):
    Path("empty").mkdir()
    Path("text.txt").touch()
    Path("broken.ipynb").write_text('{"cells": [')
    for name in ("list.ipynb", ".hidden.ipynb"):
        Path(name).write_text("[]")
    with pytest.raises(InputError, match=found):
        submission.submit(path)


def test_an_earlier_zip_is_never_written_over(write_notebook, executed):
    path = write_notebook("a.ipynb", WHO)
    made = submission.submit(path)
    before = made.path.read_bytes()
    with pytest.raises(InputError, match=r"a-12\.zip: expected a name that is free"):
        submission.submit(path)
    assert made.path.read_bytes() == before and len(executed) == 1, "refused before the work"
    assert submission.submit(path, output="b.zip").path == Path("b.zip")


def test_of_two_at_once_the_second_finds_the_first(write_notebook, executed, monkeypatch):
    path = write_notebook("a.ipynb", WHO)
    written = submission._write

    def write_after_another(target, content):
        Path("a-12.zip").write_bytes(b"another was faster")
        written(target, content)

    monkeypatch.setattr(submission, "_write", write_after_another)
    with pytest.raises(InputError, match="an earlier file"):
        submission.submit(path)
    assert Path("a-12.zip").read_bytes() == b"another was faster"
    assert not list(Path().glob(".*.zip*"))


@pytest.mark.parametrize(
    ("output", "told"),
    [("nowhere/a.zip", "a folder to write to"), ("a", "--output: expected a name that ends")],
)
def test_a_place_that_is_none_is_refused_before_the_work(write_notebook, executed, output, told):
    with pytest.raises(InputError, match=told):
        submission.submit(write_notebook("a.ipynb", WHO), output=output)
    assert not executed


@pytest.mark.parametrize(
    "limits", [(200, 100, 10**6), (200, 10**6, 5000), (2, 10**6, 10**6)], ids=str
)
def test_what_a_teacher_could_not_open_is_not_packed(write_notebook, executed, monkeypatch, limits):
    monkeypatch.setattr(submission, "LIMITS", containers.Limits(*limits))
    with pytest.raises(InputError, match="Clear large outputs"):
        submission.submit(write_notebook("a.ipynb", WHO))
    assert not list(Path().glob("*.zip"))


@pytest.mark.skipif(os.name == "nt", reason="sends Unix signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGKILL"])
def test_a_run_that_is_stopped_leaves_nothing(
    tmp_path, write_notebook, run_python, wait_until, monkeypatch, sent
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # who is killed cannot clear up
    path = write_notebook(
        "task/a.ipynb", WHO, f"open({str(tmp_path / 'started')!r}, 'w').close()", "while True: pass"
    )
    data.fetch()  # the other process would draw sixty thousand pictures
    process = run_python(
        "import sys; from cifarlib.cli import main; sys.exit(main(sys.argv[1:]))", "submit", path
    )
    wait_until((tmp_path / "started").exists, process)
    process.send_signal(getattr(signal, sent))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if sent == "SIGINT" else -signal.SIGKILL), errors
    assert sent == "SIGKILL" or "interrupted; the same command starts again." in errors
    assert not [p for p in tmp_path.rglob("*") if ".zip" in p.name]
    assert [p.name for p in path.parent.iterdir()] == ["a.ipynb"]
