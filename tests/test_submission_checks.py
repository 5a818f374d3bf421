"""What is missing from notebooks, told without executing them."""

import nbformat
import pytest

from cifarlib import submission_checks


def notebook(*sources: str, shown: str = "") -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    if shown:
        cells[-1].outputs = [nbformat.v4.new_output("stream", text=shown)]
    return nbformat.v4.new_notebook(cells=cells)


def student(*sources, name=None, number=None):
    given = {"name": name, "id": number}
    return submission_checks.student({"a.ipynb": notebook(*sources)}, given)


FILLED = 'STUDENT_NAME = "Ada Lovelace"\nSTUDENT_ID = "007"'


@pytest.mark.parametrize(
    ("source", "name", "number"),
    [
        (FILLED, "Ada Lovelace", "007"),
        ("STUDENT_NAME='Ada'  # me\nSTUDENT_ID = 12", "Ada", "12"),
        ('STUDENT_NAME: str = "Ada"; STUDENT_ID = "1"', "Ada", "1"),
        ('STUDENT_NAME = (\n    "Ada"\n)\nSTUDENT_ID = "1"', "Ada", "1"),
        ('%time 0\n!ls\nSTUDENT_NAME = "Ada"; STUDENT_ID = "7"', "Ada", "7"),
        ('STUDENT_NAME = (\n    "Ada"\n)\nSTUDENT_ID = "1"\n  %who', "Ada", "1"),
        ('STUDENT_NAME = "Ada"; STUDENT_ID = "1"\nok = (1\n      != 2)', "Ada", "1"),
        ('%matplotlib inline\nSTUDENT_NAME = "Zoë \\"Z\\" "\nSTUDENT_ID = "x"', 'Zoë "Z"', "x"),
    ],
)
def test_name_and_id_are_read_from_the_notebook(source, name, number):
    assert student("import numpy", source) == ({"name": name, "id": number}, [])


@pytest.mark.parametrize("value", ['""', '"  "', "None", "input()", "...", '"Ada', "'\0'", "0012"])
def test_what_is_not_filled_is_told(value):
    found, problems = student(f"STUDENT_NAME = {value}\nSTUDENT_ID = '1'")
    assert found == {"name": "", "id": "1"}
    (problem,) = problems
    assert problem.startswith("a.ipynb: STUDENT_NAME is empty")


def test_a_notebook_without_fields_gets_them_from_the_options():
    assert student("x = 1", name=" Ada ", number="1") == ({"name": "Ada", "id": "1"}, [])
    _, problems = student("x = 1", name="Ada")
    assert problems == ["your id is missing; give it with --id"]


def test_an_option_does_not_hide_that_the_notebook_is_not_filled():
    _, problems = student("STUDENT_NAME = ''\nSTUDENT_ID = '1'", name="Ada")
    assert "STUDENT_NAME is empty" in problems[0]


def test_two_names_are_a_problem_wherever_they_stand():
    _, problems = student(FILLED, name="Grace")
    assert problems == ["there is more than one name: Ada Lovelace, Grace"]
    both = {"a.ipynb": notebook(FILLED), "b.ipynb": notebook(FILLED.replace("007", "008"))}
    _, problems = submission_checks.student(both, {"name": None, "id": None})
    assert problems == ["there is more than one id: 007, 008"]


def test_an_assignment_in_text_fills_nothing():
    cell = nbformat.v4.new_markdown_cell(FILLED)
    written = {"a.ipynb": nbformat.v4.new_notebook(cells=[cell])}
    _, problems = submission_checks.student(written, {"name": None, "id": None})
    assert len(problems) == 2


MACHINE_PATHS = (
    "open('/home/ada/data.csv')",
    'open("/Users/ada/data.csv")',
    r'open("C:\\Users\\ada\\data.csv")',
    r'open(r"C:\Users\ada\data.csv")',
    "open('D:/data.csv')",
    "open('c:/Users/ada/data.csv')",
    r'open(r"c:\Users\ada")',
    r'open(r"D:\kurs\data.csv")',
    r'open("d:\\kurs\\data.csv")',
    "path=/content/drive/MyDrive/x",
    "!cp a.csv /tmp/b.csv",
)


@pytest.mark.parametrize("source", MACHINE_PATHS)
def test_a_folder_of_one_machine_is_told_with_its_place(source):
    (problem,) = submission_checks.machine_paths({"a.ipynb": notebook("x = 1", source)}, {})
    assert problem.startswith("a.ipynb, code cell 2: '")
    (problem,) = submission_checks.machine_paths({"a.ipynb": notebook("x", shown=source)}, {})
    assert problem.startswith("a.ipynb, output of code cell 1: '")
    (problem,) = submission_checks.machine_paths({}, {"help.py": source.encode()})
    assert problem.startswith("help.py: '")


@pytest.mark.parametrize(
    "source",
    [
        "https://example.org/home/ada/data.csv",
        "open('data/home/x.csv')",
        "open('../home/x.csv')",
        "a/tmp/b; images / 255",
        r'print("Pixels of X:\n", X)',
        "<temporary>/home/x and ~/tmp/x",
        "see root/ and /homely",
        "the ratios A:/B and W:/H",
        r'print("x:\tvalue\ty:\n\n", x)',
        r'print("C:\n0.25", "n:\nnp.mean(x)", "x:\tvalue\ty.mean")',
        r"w:/h. and a:\\ b",
    ],
)
def test_what_only_looks_like_one_is_let_through(source):

    assert (
        submission_checks.machine_paths({"a.ipynb": notebook(source)}, {"a.csv": b"/tmp/x"}) == []
    )


@pytest.mark.parametrize(
    "text", [r"$X:\Omega \to \mathbb{R}$", r"$$" "\n" r"T:\Delta t" "\n$$", r"from $2 to $3"]
)
def test_a_formula_names_no_folder(text):
    cells = [nbformat.v4.new_markdown_cell(text)]
    written = {"a.ipynb": nbformat.v4.new_notebook(cells=cells)}
    assert submission_checks.machine_paths(written, {}) == []
    cells[0].source += r" costs $5, in C:\Users\ada for $6"
    assert len(submission_checks.machine_paths(written, {})) == 1


def test_text_cells_are_looked_at_too():
    cells = [nbformat.v4.new_markdown_cell("From /home/ada/x")]
    (problem,) = submission_checks.machine_paths(
        {"a.ipynb": nbformat.v4.new_notebook(cells=cells)}, {}
    )
    assert problem.startswith("a.ipynb, markdown cell 1: '/home/ada/x' exists on one machine only")


@pytest.mark.parametrize(
    "output",
    [
        nbformat.v4.new_output("stream", name="stderr", text="In /home/ada/x: a warning"),
        nbformat.v4.new_output("display_data", {"text/html": "<img src='/home/ada/x'>"}),
        nbformat.v4.new_output("error", evalue="No such file: /home/ada/x", traceback=[]),
    ],
    ids=lambda output: output.output_type,
)
def test_outputs_of_all_kinds_are_looked_at(output):
    written = notebook("x")
    written.cells[0].outputs = [output]
    (problem,) = submission_checks.machine_paths({"a.ipynb": written}, {})
    assert problem.startswith("a.ipynb, output of code cell 1: '/home/ada/x'")


def test_a_picture_is_no_text():
    written = notebook("x")
    picture = {"image/png": "abc/home/ada", "text/plain": "<Figure>"}
    written.cells[0].outputs = [nbformat.v4.new_output("display_data", picture)]
    assert submission_checks.machine_paths({"a.ipynb": written}, {}) == []


def test_what_a_cell_shows_leaves_warnings_and_pictures_out():
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="warning"),
        nbformat.v4.new_output("stream", text="printed"),
        nbformat.v4.new_output("display_data", {"text/plain": "<Figure>", "image/png": "abc"}),
    ]
    assert submission_checks.shown(cell) == "printed\n<Figure>"


def test_it_does_not_matter_in_how_many_pieces_text_came():
    cells = []
    for pieces in (["1\n2\n"], ["1\n", "2\n"]):
        outputs = [nbformat.v4.new_output("stream", text=piece) for piece in pieces]
        cells.append(nbformat.v4.new_code_cell("x", outputs=outputs))
    assert submission_checks.shown(cells[0]) == submission_checks.shown(cells[1]) == "1\n2\n"
