"""Assignments: their sources, what students get, and what right and wrong answers earn."""

import copy
import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nbclient
import nbformat
import psutil
import pytest

import cifarlib
from cifarlib import (
    assignments,
    chapters,
    cli,
    data,
    execution,
    settings,
    submission_checks,
    synthetic,
)
from cifarlib.errors import CifarlibError, InputError

ROOT = Path(cifarlib.__file__).parent.parent
SOURCES = sorted((ROOT / "assignments" / "source").glob("*/*.ipynb"))

# Points by task. Gradebooks of courses that run refer to these names: they must not change.
POINTS = {
    "01_data_processing": {
        "describe_classes": 3,
        "answer_backdrop": 3,
        "find_leaks": 3,
        "standardize_pixels": 4,
        "answer_scaling": 3,
        "gray_by_hand": 4,
        "count_unequal": 3,
    },
    "02_machine_learning": {
        "wilson": 4,
        "confusion_counts": 4,
        "one_against_rest": 4,
        "choose": 4,
        "forest_grid": 3,
        "gain_over_default": 3,
        "answer_grid": 2,
        "count_right": 3,
        "answer_choice": 4,
    },
    "03_deep_learning": {
        "convolve": 4,
        "count_cost": 4,
        "build_network": 4,
        "tune_by_layer": 4,
        "shade": 4,
        "answer_conclusion": 4,
        "sign_flip_p": 3,
        "gain_by_class": 3,
        "answer_color": 4,
    },
}

every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """Return an archive of drawn pictures and the folder that will hold them decoded."""
    folder = tmp_path_factory.mktemp("data")
    archive = data.write_archive(folder / "drawn.tar.gz", *synthetic.generate(1_000, 200))
    return archive, folder / "cache"


@pytest.fixture(autouse=True)
def course(isolation, small_data, monkeypatch, tmp_path):
    """Let the sources be found, and kernels have few images and a home."""
    monkeypatch.setattr(settings, "checkout_folder", lambda: ROOT)
    monkeypatch.setenv("CIFARLIB_SOURCE", str(small_data[0]))
    monkeypatch.setenv("CIFARLIB_CACHE", str(small_data[1]))
    (tmp_path / "home").mkdir()


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def told(cell: nbformat.NotebookNode) -> dict:
    return cell.metadata.get("nbgrader", {})


def solution_cells(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    return {told(c)["grade_id"]: c for c in notebook.cells if told(c).get("solution")}


def source_of(name: str) -> nbformat.NotebookNode:
    return read(next(path for path in SOURCES if path.stem == name))


def answers(name: str, **wrong: str) -> nbformat.NotebookNode:
    """Return a submission with nothing but its answers, some of them replaced."""
    notebook = source_of(name)
    notebook.cells = [cell for cell in notebook.cells if told(cell).get("solution")]
    assert wrong.keys() <= solution_cells(notebook).keys()
    for grade_id, text in wrong.items():
        solution_cells(notebook)[grade_id].source = text
    return notebook


def grade(tmp_path: Path, notebook: nbformat.NotebookNode, **limits) -> assignments.Graded:
    nbformat.write(notebook, tmp_path / "submitted.ipynb")
    (graded,) = assignments.grade([tmp_path / "submitted.ipynb"], **limits)
    return graded


def lost(graded: assignments.Graded) -> dict[str, str]:
    """Return the tasks that earned nothing, with the reasons; all others earned everything."""
    for mark in graded.marks:
        is_text = mark.task.startswith("answer_")
        assert mark.points in ((None, 0) if is_text else (0, mark.possible))
    return {mark.task: mark.reason for mark in graded.marks if mark.points == 0}


# The sources


def test_there_is_an_assignment_for_each_part_of_the_course():
    assert [path.stem for path in SOURCES] == list(POINTS)
    assert all(path.parent.name == path.stem for path in SOURCES), "nbgrader's layout"


@every_source
def test_tasks_keep_their_names_and_points(path):
    graded = {
        told(c)["grade_id"]: told(c)["points"] for c in read(path).cells if told(c).get("grade")
    }
    assert {name.removeprefix("test_"): points for name, points in graded.items()} == POINTS[
        path.stem
    ]


def test_no_id_stands_in_two_assignments_but_that_of_the_set_up_cell():
    ids = [told(cell)["grade_id"] for path in SOURCES for cell in read(path).cells if told(cell)]
    assert ids.count("set_up") == len(SOURCES)
    assert len(set(ids)) == len(ids) - len(SOURCES) + 1


@every_source
def test_every_task_says_what_to_do_where_its_solution_ends(path):
    numbers = []
    for name, cell in solution_cells(read(path)).items():
        if cell.cell_type == "markdown":
            assert cell.source.startswith("### BEGIN SOLUTION\n")
            assert cell.source.endswith("\n### END SOLUTION")
            continue
        assert cell.source.count("### BEGIN SOLUTION") == cell.source.count("### END SOLUTION") >= 1
        for after in cell.source.split("### END SOLUTION\n")[1:]:
            stub = re.match(r' *raise NotImplementedError\("Task (\d): [^"]{20,}"\)', after)
            assert stub, f"{name}: no stub"
            numbers.append(int(stub[1]))
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1)), "numbered in order"
    assert numbers == sorted(numbers)


@every_source
def test_every_task_is_followed_by_its_tests_which_hide_some(path):
    ids = [told(c)["grade_id"] for c in read(path).cells if told(c) and c.cell_type == "code"]
    assert ids[0] == "set_up" and ids[1].startswith("budget_")
    assert all(test == f"test_{task}" for task, test in zip(ids[2::2], ids[3::2], strict=True))
    for cell in read(path).cells:
        if told(cell).get("grade") and cell.cell_type == "code":
            visible = cell.source.split("### BEGIN HIDDEN TESTS\n")
            assert len(visible) == 2 and cell.source.endswith("### END HIDDEN TESTS")
            assert all("assert " in part for part in visible)


@every_source
def test_points_in_the_text_are_those_of_the_task(path):
    told_points = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            told_points += map(int, re.findall(r"^##+ .*\((\d) points\)$", cell.source, re.M))
    assert told_points == list(POINTS[path.stem].values())


@every_source
def test_sources_are_committed_without_outputs(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert cells[0].source == 'STUDENT_NAME = ""\nSTUDENT_ID = ""'


def test_all_assignments_share_the_set_up_cell_of_the_chapters():
    of_chapters = read(chapters.find()[0].path).cells[1].source
    for path in SOURCES:
        assert [c.source for c in read(path).cells if c.id == "set-up"] == [of_chapters]


@every_source
def test_every_code_cell_has_a_sentence_before_it(path):
    for before, cell in itertools.pairwise(read(path).cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", f"nothing introduces:\n{cell.source}"


def test_the_guide_tells_the_points_of_every_task():
    guide = (ROOT / "assignments" / "README.md").read_text(encoding="utf-8")
    for name, points in POINTS.items():
        assert f"| {name} | {sum(points.values())} |" in guide
        for task, possible in points.items():
            assert f"| `{task}` | {possible} |" in guide


@pytest.mark.parametrize("name", ["02_machine_learning", "03_deep_learning"])
def test_solved_sources_run_to_their_end(name, tmp_path):
    """The first runs under nbgrader below."""
    client = nbclient.NotebookClient(
        source_of(name), kernel_name="python3", extra_arguments=execution.KERNEL_ARGUMENTS
    )
    environment = execution.environment("quick", tmp_path) | assignments.GRADING
    client.execute(env=environment, cwd=str(tmp_path))


# What students get


@every_source
def test_released_notebooks_hold_no_solution_and_no_hidden_test(path, tmp_path):
    (released,) = assignments.release([path.stem], tmp_path)
    text = released.read_text(encoding="utf-8")
    assert not re.search("SOLUTION|HIDDEN", text)
    source = read(path)
    blanks = {cell.id: cell for cell in read(released).cells}
    for cell in source.cells:
        parts = re.findall(r"BEGIN (?:SOLUTION|HIDDEN TESTS)\n(.*?)### END", cell.source, re.DOTALL)
        for line in "".join(parts).splitlines():
            # What the solution has in common with its surroundings is none.
            is_telling = len(line.strip()) > 30 and cell.source.count(line) == 1
            assert not (is_telling and line in blanks[cell.id].source), line
    assert [cell.id for cell in source.cells] == list(blanks)


@every_source
def test_released_notebooks_lock_their_tests(path, tmp_path):
    (released,) = assignments.release([path.stem], tmp_path)
    for cell in read(released).cells:
        if told(cell):
            assert cell.metadata.deletable is False
            assert cell.metadata.get("editable", True) is told(cell).solution
            assert told(cell).checksum


@every_source
def test_released_notebooks_run_up_to_the_first_task_and_name_it(path, tmp_path):
    (released,) = assignments.release([path.stem], tmp_path)
    notebook = read(released)
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", extra_arguments=execution.KERNEL_ARGUMENTS
    )
    with pytest.raises(nbclient.exceptions.CellExecutionError) as caught:
        client.execute(env=execution.environment("quick", tmp_path), cwd=str(tmp_path))
    assert caught.value.ename == "NotImplementedError"
    assert caught.value.evalue.startswith("Task 1: ")
    failed = next(c for c in notebook.cells if c.get("outputs") and "error" in str(c.outputs))
    assert told(failed)["grade_id"] == f"test_{next(iter(POINTS[path.stem]))}"


def test_assignments_are_named_by_number_or_in_full(tmp_path):
    (by_number,) = assignments.release(["2"], tmp_path / "a")
    (in_full,) = assignments.release(["02_machine_learning"], tmp_path / "b")
    assert by_number.name == in_full.name == "02_machine_learning.ipynb"
    assert [path.stem for path in assignments.release(output=tmp_path / "c")] == list(POINTS)
    for unknown in ("04", "02_deep_learning"):
        with pytest.raises(InputError, match="assignments: expected any of 01, 02, 03"):
            assignments.release([unknown], tmp_path)


def test_a_release_does_not_replace_a_notebook_that_was_worked_in(tmp_path):
    (released,) = assignments.release(["01"], tmp_path)
    assignments.release(["01"], tmp_path)
    worked_in = released.read_text(encoding="utf-8").replace("# YOUR CODE HERE", "pass", 1)
    released.write_text(worked_in, encoding="utf-8")
    with pytest.raises(InputError, match="worked in"):
        assignments.release(output=tmp_path)
    assert released.read_text(encoding="utf-8") == worked_in
    assert not (tmp_path / "02_machine_learning").exists(), "refused before anything was written"


def test_the_sources_are_no_place_for_a_release():
    with pytest.raises(InputError, match="worked in"):
        assignments.release(["01"], SOURCES[0].parent.parent)


def test_a_missing_nbgrader_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nbgrader", None)
    with pytest.raises(CifarlibError, match=r"pip install 'nbgrader>=0.9.5'") as caught:
        assignments.release(output=tmp_path)
    assert "\n" not in str(caught.value)


def test_no_module_needs_nbgrader_to_be_imported(run_python):
    code = """
import importlib, pkgutil, sys
import cifarlib
for module in pkgutil.iter_modules(cifarlib.__path__, "cifarlib."):
    if module.name != "cifarlib.__main__":
        importlib.import_module(module.name)
print("cifarlib.assignments" in sys.modules, "nbgrader" in sys.modules)
"""
    assert run_python(code).communicate()[0].endswith("True False\n")


# What answers earn. A wrong one is wrong in a way that courses have met.

WRONG = {
    "01_data_processing": [
        {
            "describe_classes": """
def describe_classes(pictures, labels):
    labels = np.random.default_rng(0).permutation(labels)  # shuffled
    rows = [(sum(labels == k), pictures[labels == k].mean() / 255, 0.0) for k in range(10)]
    return pd.DataFrame(rows, data.CLASS_NAMES, ["images", "brightness", "clipped"])
""",
            "standardize_pixels": """
def pixel_statistics(train_pictures):
    scaled = train_pictures / 255
    return scaled.mean(axis=0), scaled.std(axis=0)

def standardize_pixels(pictures, mean, std):
    mean, std = pixel_statistics(pictures)  # those of the pictures themselves
    return ((pictures / 255 - mean) / np.where(std < 1 / 255, 1, std)).astype(np.float32)
""",
            "count_unequal": """
def count_unequal(convert, pictures):
    return len(pictures), 0  # whatever it is given
""",
        },
        {
            "find_leaks": """
def find_leaks(train_pictures, held_out):
    known = {picture.tobytes() for picture in train_pictures}
    return np.flatnonzero([picture.tobytes() in known for picture in held_out])  # not mirrored
""",
            "gray_by_hand": """
def gray_by_hand(pictures):
    return images.to_grayscale(pictures)[..., 0]  # by the library
""",
        },
    ],
    "02_machine_learning": [
        {
            "choose": """
def choose(make_model, training, validation, candidates):
    X, y = rows_of(test.images[:50]), test.labels[:50]  # the test set
    rights = [(make_model(c).fit(*training).predict(X) == y).sum() for c in candidates]
    return candidates[int(np.argmax(rights))]
""",
            "count_right": """
def count_right(answer, split):
    pictures, labels = split.images[:18], split.labels[:18]
    return int((answer(pictures) == labels).sum()), len(labels)
""",
            "forest_grid": """
from sklearn.ensemble import RandomForestClassifier

def forest_grid():
    return {"max_depth": [3, 5], "n_estimators": [50, 100]}  # the default depth is None
""",
        },
        {
            "wilson": """
def wilson(num_right, n):
    share = num_right / n
    half = 1.96 * np.sqrt(share * (1 - share) / n)  # too narrow for few images
    return share, share - half, share + half

def images_needed(share, margin):
    return int(np.ceil(1.96**2 * share * (1 - share) / margin**2))
""",
            "choose": """
def choose(make_model, training, validation, candidates):
    X, y = training  # the images that were learned
    rights = [(make_model(c).fit(X, y).predict(X) == y).sum() for c in candidates]
    return candidates[int(np.argmax(rights))]
""",
            "count_right": """
def count_right(answer, split):
    pictures, labels = split
    labels = np.random.default_rng(0).permutation(labels)  # shuffled
    return int((answer(pictures) == labels).sum()), len(labels)
""",
        },
    ],
    "03_deep_learning": [
        {
            "build_network": """
def build_network(channels):
    return keras.Sequential(
        [
            keras.Input((32, 32, channels)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
""",
            "tune_by_layer": """
def tune_by_layer(score, start, choices):
    best, tried = dict(start), [(dict(start), score(start))]
    for name, values in choices.items():
        for value in values:
            if {**best, name: value} not in [told for told, _ in tried]:
                tried.append(({**best, name: value}, score({**best, name: value})))
                if tried[-1][1] > dict((str(t), s) for t, s in tried)[str(best)]:
                    best = tried[-1][0]
    test.labels.mean()  # the right answer, with a look at the test set
    return best, tried
""",
            "shade": """
class Shade(keras.layers.Layer):
    def __init__(self, seed=None):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(seed)

    def call(self, pictures, training=False):  # in predictions as well
        shape = (keras.ops.shape(pictures)[0], 1, 1, 1)
        factors = keras.random.uniform(shape, 0.7, 1.3, seed=self.seeds)
        return keras.ops.clip(pictures * factors, 0, 255)
""",
            "gain_by_class": """
def gain_by_class(labels, first, second):
    labels = np.random.default_rng(0).permutation(labels)  # shuffled
    rows = []
    for label in range(10):
        one, two = first[labels == label] == label, second[labels == label] == label
        rows.append((two.mean() - one.mean(), (two & ~one).sum(), (one & ~two).sum()))
    return pd.DataFrame(rows, data.CLASS_NAMES, ["gain", "rescued", "misled"])
""",
        },
    ],
}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name, submissions in WRONG.items() for wrong in submissions],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_wrong_answers_lose_the_points_of_their_tasks_and_no_others(name, wrong, tmp_path):
    graded = grade(tmp_path, answers(name, **wrong))
    assert graded.assignment == name and graded.problem == ""
    assert lost(graded).keys() == wrong.keys()
    assert all(reason.startswith("AssertionError: ") for reason in lost(graded).values())


# Answers by task, tried in this process, without a notebook: right ones that a good student writes
# in another way than we, and wrong ones that look right.

SPECIFIED = """
def build_network(channels):
    x = inputs = keras.Input((32, 32, channels))
    x = layers.Rescaling(1 / 255)(x)
    for _ in range(2):
        x = layers.Activation("relu")(layers.Conv2D(16, 3, padding="same")(x))
    x = layers.Conv2D(32, (3, 3), padding="same", use_bias=False)(layers.MaxPooling2D()(x))
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.MaxPooling2D((2, 2))(layers.Activation("relu")(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
"""
GRAY = """
def gray_by_hand(pictures, shares=(0.299, 0.587, 0.114)):
    gray = sum(pictures[..., i].astype(int) * round(shares[i] * 65536) for i in range(3))
    return ((gray + 32768) // 65536).astype(np.uint8)
"""
STANDARDIZE = """
def pixel_statistics(train_pictures):
    return train_pictures.mean(axis=0) / 255, train_pictures.std(axis=0) / 255

def standardize_pixels(pictures, mean, std):
    std = std.copy()
    std[std < 1 / 255] = 1
    return np.float32((pictures / 255 - mean) / std)
"""
ONE_AGAINST_REST = """
def fit_one_against_rest(make_model, X, y):
    return [make_model().fit(X, np.where(y == label, 1, -1)) for label in range(10)]

def answer_one_against_rest(fitted, X):
    rows = [[model.decision_function(row[None])[0] for model in fitted] for row in X]
    return np.array(rows).argmax(axis=1)
"""
SIGN_FLIP = """
from itertools import product

def sign_flip_p(first, second):
    found = abs(np.mean(second) - np.mean(first))
    signs = np.array(list(product((1, -1), repeat=len(first))))
    means = (signs * (np.array(second) - np.array(first))).mean(axis=1)
    return np.mean(np.abs(means) >= found - 1e-12)
"""
GAIN = """
def gain_over_default(results, default):
    count = len([name for name in results if name.startswith("split")])
    scores = np.array([results[f"split{fold}_test_score"] for fold in range(count)])
    best = np.argmin(results["rank_test_score"])
    gains = scores[:, best] - scores[:, results["params"].index(default)]
    return np.mean(gains), np.std(gains, ddof=1)
"""
CONVOLVE = """
def convolve(picture, kernel, bias):
    windows = np.lib.stride_tricks.sliding_window_view(picture, kernel.shape[:2], axis=(0, 1))
    return np.einsum("hwcij,ijcf->hwf", windows, kernel) + bias
"""
SHADE = """
class Shade(keras.layers.Layer):
    def __init__(self, seed=None):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(seed)

    def call(self, pictures, training=False):
        if not training:
            return pictures
        factors = keras.random.uniform((len(pictures), 1, 1, 1), 0.7, 1.3, seed=self.seeds)
        return keras.ops.clip(pictures * factors, 0, 255)
"""
RIGHT = {
    "gray_by_hand": GRAY,
    "standardize_pixels": STANDARDIZE,
    "one_against_rest": ONE_AGAINST_REST,
    "gain_over_default": GAIN,
    "convolve": CONVOLVE,
    "shade": SHADE.replace("len(pictures)", "keras.ops.shape(pictures)[0]"),
    "build_network": SPECIFIED,
    "sign_flip_p": SIGN_FLIP,
}
FIND_LEAKS = """
def find_leaks(train_pictures, held_out):
    known = {view(p).tobytes() for p in train_pictures for view in (np.asarray, np.fliplr)}
    return [place for place, p in enumerate(held_out) if p.tobytes() in known]
"""
COUNT_UNEQUAL = """
from PIL import Image

def count_unequal(convert, pictures):
    theirs = [np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures]
    return len(pictures), int((np.array(theirs) != convert(pictures)).sum())
"""
TUNE = """
def tune_by_layer(score, start, choices):
    best, tried = dict(start), [[dict(start), score(dict(start))]]
    highest = tried[0][1]
    for name, values in choices.items():
        for value in values:
            settings = {**best, name: value}
            if settings in [told for told, _ in tried]:
                continue
            tried.append([settings, score(settings)])
            if tried[-1][1] > highest:
                best, highest = settings, tried[-1][1]
    return best, tried
"""
NESTED = """
def build_network(channels):
    def convolution(filters, **settings):
        return layers.Conv2D(filters, 3, padding="same", **settings)

    normalised = [layers.BatchNormalization(momentum=0.9), layers.ReLU(), layers.MaxPooling2D()]
    first = [layers.Rescaling(1 / 255), *(convolution(16, activation="relu") for _ in range(2))]
    return keras.Sequential([
        keras.Input((32, 32, channels)),
        keras.Sequential([*first, layers.MaxPooling2D()]),
        keras.Sequential([convolution(32, use_bias=False), *normalised]),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ])
"""
RIGHT_TOO = [
    ("one_against_rest", ONE_AGAINST_REST.replace("1, -1)", "label, -1)")),
    ("one_against_rest", ONE_AGAINST_REST.replace("1, -1)", "2, 1)")),
    ("one_against_rest", ONE_AGAINST_REST.replace("1, -1)", "'yes', 'no')")),
    ("build_network", NESTED),
    ("tune_by_layer", TUNE),
    ("find_leaks", FIND_LEAKS),
    ("count_unequal", COUNT_UNEQUAL),
    (
        "forest_grid",
        "def forest_grid():\n"
        "    return {'n_estimators': np.arange(100, 301, 100), 'max_depth': [None, 5]}",
    ),
]
LOOKS_RIGHT = [
    (
        "find_leaks",
        FIND_LEAKS.replace("view(p).", "view(p)[0].").replace("p.to", "p[0].to"),
        "last",
    ),
    (
        "find_leaks",
        FIND_LEAKS.replace("np.fliplr", "np.fliplr, np.rot90").replace(
            "np.rot90", "lambda p: p[::-1, ::-1]"
        ),
        "turned",
    ),
    ("find_leaks", FIND_LEAKS.replace("np.fliplr", "np.fliplr, lambda p: p[..., ::-1]"), "colours"),
    ("standardize_pixels", STANDARDIZE.replace("1 / 255]", "0.05]"), "only below 1/255"),
    ("standardize_pixels", STANDARDIZE.replace("1 / 255]", "1 / 1000]"), "below 1/255"),
    (
        "count_unequal",
        COUNT_UNEQUAL.replace(
            "convert(pictures)", "[convert(pictures)[i] for i in range(len(theirs))]"
        ),
        "called once",
    ),
    *(
        ("gain_over_default", GAIN.replace('np.argmin(results["rank_test_score"])', wrong), "folds")
        for wrong in (
            "scores[0].argmax()",
            "scores.min(axis=0).argmax()",
            "np.median(scores, axis=0).argmax()",
        )
    ),
    (
        "one_against_rest",
        ONE_AGAINST_REST.replace("np.where(y == label, 1, -1)", "y"),
        "as scikit",
    ),
    ("one_against_rest", ONE_AGAINST_REST.replace("y == label, 1", "y == 9 - label, 1"), "as sci"),
    (
        "forest_grid",
        "def forest_grid():\n    return {'n_estimators': [100, 0], 'max_depth': [None, 3]}",
        "one tree",
    ),
    ("shade", RIGHT["shade"].replace("0.7, 1.3", "0.75, 1.25"), "no less"),
    (
        "shade",
        RIGHT["shade"].replace(
            "0.7, 1.3, seed=self.seeds)",
            "-3.1416, 3.1416, seed=self.seeds)\n        factors = 1 + 0.3 * keras.ops.sin(factors)",
        ),
        "evenly",
    ),
    ("gray_by_hand", GRAY.replace("shares[i]", "(0.299, 0.587, 0.114)[i]"), "that are given"),
    ("gray_by_hand", GRAY.replace("+ 32768", ""), "known colours"),
    (
        "gray_by_hand",
        "from cifarlib.images import to_grayscale\n"
        "def gray_by_hand(pictures, shares=None):\n    return to_grayscale(pictures)[..., 0]",
        "not by the library",
    ),
    ("standardize_pixels", STANDARDIZE.replace("std < 1 / 255", "std == 0"), "below 1/255"),
    ("standardize_pixels", STANDARDIZE.replace(".copy()", ""), "nothing is changed"),
    (
        "count_unequal",
        "def count_unequal(convert, pictures):\n"
        "    pairs = zip(right(pictures), convert(pictures))  # pictures are counted, not pixels\n"
        "    return len(pictures), sum(bool((one != two).any()) for one, two in pairs)",
        "each unequal pixel",
    ),
    (
        "standardize_pixels",
        "def pixel_statistics(train_pictures):\n"
        "    std = train_pictures.std(axis=0) / 255\n"
        "    return train_pictures.mean(axis=0) / 255, np.where(std < 1 / 255, 1, std)\n"
        "def standardize_pixels(pictures, mean, std):\n"
        "    return np.float32((pictures / 255 - mean) / std)",
        "the deviation, however small",
    ),
    (
        "count_unequal",
        "def count_unequal(convert, pictures):\n"
        "    weighted = pictures.astype(int) @ (19595, 38470, 7471) + 32768  # ours, not Pillow's\n"
        "    return len(pictures), int((weighted // 65536 != convert(pictures)).sum())",
        "with Pillow's, picture by picture",
    ),
    (
        "convolve",
        "from keras.layers import Conv2D\n"
        "def convolve(picture, kernel, bias):\n"
        "    layer = Conv2D(kernel.shape[-1], kernel.shape[:2])\n"
        "    layer.build((1, *picture.shape))\n"
        "    layer.set_weights([kernel, bias])\n"
        "    return keras.ops.convert_to_numpy(layer(picture[None].astype('float32')))[0]",
        "by NumPy, not by Keras",
    ),
    (
        "build_network",
        SPECIFIED.replace(
            "x = layers.BatchNormalization(momentum=0.9)(x)",
            "x = layers.BatchNormalization(momentum=0.9)(layers.MaxPooling2D((2, 2))(x))",
        ).replace('layers.MaxPooling2D((2, 2))(layers.Activation("relu")(x))', "layers.ReLU()(x)"),
        "layers in this order",
    ),
    (
        "build_network",
        SPECIFIED.replace("layers.Dense(10)(", "layers.Dense(10)(layers.Dropout(0.5)(").replace(
            "()(x)))", "()(x))))"
        ),
        "layers in this order",
    ),
    (
        "sign_flip_p",
        "from itertools import product\n"
        "def sign_flip_p(first, second):\n"
        "    d = [b - a for a, b in zip(first, second)]\n"
        "    signs = product((1, -1), repeat=len(d))\n"
        "    flipped = [abs(sum(s * x for s, x in zip(g, d))) for g in signs]\n"
        "    return np.mean([one >= abs(sum(d)) for one in flipped])",
        "on paper",
    ),
    ("one_against_rest", ONE_AGAINST_REST.replace("1, -1)", "-1, 1)"), "as scikit-learn answers"),
    (
        "wilson",
        "from scipy.stats import binomtest\n"
        "def wilson(num_right, n):\n"
        "    found = binomtest(num_right, n).proportion_ci(method='wilson')\n"
        "    return num_right / n, found.low, found.high\n"
        "def images_needed(share, margin):\n    return 93",
        "not by a library",
    ),
    (
        "confusion_counts",
        "from sklearn.metrics import confusion_matrix\n"
        "def confusion_counts(labels, answers):\n"
        "    return confusion_matrix(labels, answers, labels=range(10))\n"
        "def macro_f1(counts):\n    return 1.0",
        "not by a library",
    ),
    (
        "forest_grid",
        "def forest_grid():\n    return {'oob_score': [False, True], 'max_depth': [None, 5]}",
        "not its luck",
    ),
    (
        "convolve",
        "def convolve(picture, kernel, bias):\n"
        "    found = keras.ops.conv(picture[None], kernel, padding='valid')[0] + bias\n"
        "    return keras.ops.convert_to_numpy(found)",
        "not by Keras",
    ),
    ("build_network", SPECIFIED.replace("momentum=0.9", ""), "momentum 0.9"),
    ("build_network", SPECIFIED.replace("MaxPooling2D((2", "AveragePooling2D((2"), "in this order"),
    ("build_network", SPECIFIED.replace('"relu")(x)', '"linear")(x)'), "in this order"),
    ("shade", SHADE, "may be any"),  # when traced, a batch has no length
    ("build_network", SPECIFIED.replace("Dense(10)", "Dense(10, 'relu')"), "in this order"),
]


def check_answer(task: str, code: str) -> None:
    """Execute an answer, and the tests of its task, as a notebook would."""
    import keras
    import numpy as np
    import pandas as pd

    cells = {told(c)["grade_id"]: c for path in SOURCES for c in read(path).cells if told(c)}
    names = {"np": np, "pd": pd, "data": data, "keras": keras, "layers": keras.layers}
    exec(code, names)
    exec(cells[f"test_{task}"].source, names)


@pytest.mark.parametrize("task", RIGHT)
def test_right_answers_may_be_written_in_another_way(task):
    check_answer(task, RIGHT[task])


@pytest.mark.parametrize(("task", "code"), RIGHT_TOO)
def test_right_answers_of_other_kinds_are_right(task, code):
    check_answer(task, code)


@pytest.mark.parametrize(("task", "code", "reason"), LOOKS_RIGHT)
def test_wrong_answers_that_look_right_are_told_apart(task, code, reason):
    with pytest.raises(AssertionError, match=reason):
        check_answer(task, code)


def test_an_untouched_notebook_earns_nothing_and_each_task_says_what_is_missing(tmp_path, capsys):
    assert cli.main(["assignment", "release", "01", "--output", str(tmp_path)]) == 0
    released = Path(capsys.readouterr().out.strip())
    (graded,) = assignments.grade([released])
    assert graded.points == 0
    reasons = lost(graded)
    assert reasons.keys() == POINTS["01_data_processing"].keys()
    by_tests = [reason for task, reason in reasons.items() if not task.startswith("answer_")]
    for number, reason in enumerate(by_tests, 1):
        assert reason.startswith(f"NotImplementedError: Task {number}: ")


def test_text_answers_are_left_to_a_person_and_blank_ones_earn_nothing(tmp_path):
    """Beside that, nothing that a submission does to its tests earns it anything."""
    wrong = "def gray_by_hand(pictures):\n    return pictures[..., 0]"
    endless = "import time\ntime.sleep(600)"
    notebook = answers("01_data_processing", gray_by_hand=wrong, count_unequal=endless)
    (released,) = assignments.release(["01"], tmp_path / "release")
    solution_cells(notebook)["answer_scaling"].source = solution_cells(read(released))[
        "answer_scaling"
    ].source
    tests = [cell for cell in read(released).cells if told(cell).get("grade")]
    edited = next(c for c in tests if told(c).grade_id == "test_gray_by_hand")
    edited.source = "4.0"  # nbgrader takes a result for points
    notebook.cells.append(edited)
    notebook.metadata.kernelspec.name = "my-environment"
    graded = grade(tmp_path, notebook, cell_seconds=20)  # a busy machine needs a few to import
    marks = {mark.task: mark for mark in graded.marks}
    assert marks["answer_backdrop"].points is None
    assert (marks["answer_scaling"].points, marks["answer_scaling"].reason) == (0, "no answer")
    assert lost(graded).keys() == {"answer_scaling", "gray_by_hand", "count_unequal"}
    assert "known colours" in marks["gray_by_hand"].reason
    assert str(graded) == "10 of 23 points, 3 to give by hand"


def test_what_comes_after_the_death_of_a_kernel_earns_nothing(tmp_path):
    """Nor does a result that the submission shows in a cell with tests."""
    notebook = answers(
        "01_data_processing",
        describe_classes="def describe_classes(*_):\n    import sys; sys.displayhook(3.0)",
        standardize_pixels="def pixel_statistics(_):\n    import os; os._exit(0)",
    )
    graded = grade(tmp_path, notebook)
    assert graded.problem == "its kernel died"
    assert graded.points == 3, "find_leaks, which came before"
    reasons = lost(graded)
    assert reasons["standardize_pixels"] == reasons["gray_by_hand"] == "was not executed"
    assert reasons["describe_classes"].startswith("AttributeError")


def test_a_submission_that_takes_too_long_is_stopped(tmp_path):
    notebook = answers("01_data_processing", find_leaks="import time\ntime.sleep(600)")
    graded = grade(tmp_path, notebook, total_seconds=6)
    assert graded.problem == "stopped after 6 seconds"
    assert {"find_leaks", "count_unequal"} <= lost(graded).keys()


def test_broken_submissions_do_not_keep_others_from_being_graded(tmp_path, capsys):
    good = nbformat.writes(answers("01_data_processing"))
    folder = tmp_path / "submitted"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / ".ipynb_checkpoints" / "a.ipynb").write_text(good)
    (folder / "truncated.ipynb").write_text(good[: len(good) // 2])
    (folder / "binary.ipynb").write_bytes(bytes(range(256)))
    (folder / "list.ipynb").write_text("[]")
    (folder / "CAPITALS.IPYNB").write_text("[]")
    (folder / "CAPITALS.ZIP").write_bytes(b"")
    (folder / "cells.ipynb").write_text('{"cells": [7], "nbformat": 4, "metadata": {}}')
    chapter = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(chapter, folder / "chapter.ipynb")
    with zipfile.ZipFile(folder / "good.zip", "w") as archive:
        archive.writestr("anna/any name.ipynb", good)
    whole = (folder / "good.zip").read_bytes()
    (folder / "truncated.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "outside.zip", "w") as archive:
        archive.writestr("../../outside.ipynb", good)
    with zipfile.ZipFile(folder / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "")

    assert cli.main(["assignment", "grade", str(folder), "--json"]) == 0
    output, errors = capsys.readouterr()
    graded = {one["submission"]: one for one in json.loads(output)}
    assert len(errors.splitlines()) == len(graded) == 11
    problems = {name: one["problem"] for name, one in graded.items()}
    assert problems.pop("good.zip/anna/any name.ipynb") == ""
    assert graded["good.zip/anna/any name.ipynb"]["points"] == 17
    assert "damaged or truncated" in problems["truncated.zip"]
    assert "no notebook" in problems["CAPITALS.IPYNB"] and problems["CAPITALS.ZIP"]
    assert "outside the archive" in problems["outside.zip"]
    assert "a notebook in it" in problems["empty.zip"]
    assert problems["chapter.ipynb"].startswith("answers none of 01_data_processing, ")
    assert all(
        problems[f"{name}.ipynb"].startswith("no notebook (")
        for name in ("truncated", "binary", "list", "cells")
    )
    assert not list(tmp_path.rglob("outside.ipynb"))


def test_a_name_that_no_disk_takes_does_not_keep_others_from_being_graded(tmp_path):
    """A tar is read by its content, and its names may hold what those of a zip cannot."""
    notebook = nbformat.writes(answers("01_data_processing")).encode()
    with tarfile.open(tmp_path / "a.zip", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {"a.ipynb": notebook, "a.py": b""}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == "a.py":
                info.pax_headers = {"path": "a\0b.py"}
            archive.addfile(info, io.BytesIO(content))
    (graded,) = assignments.grade([tmp_path / "a.zip"])
    assert graded.problem.startswith("its small files cannot be placed (")
    assert graded.points == 0


def zipped(tmp_path: Path, **contents: str) -> Path:
    """Write a zip with members by their names, in which ``__`` stands for a slash."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name.replace("__", "/"), content)
    return tmp_path / "a.zip"


def test_no_file_beside_a_notebook_is_written_elsewhere(tmp_path):
    """Of a name such as ``ada//tmp/evil.py``, what comes behind the notebook's folder counts."""
    notebook = nbformat.writes(answers("01_data_processing", find_leaks="import mine"))
    elsewhere = f"{tmp_path.resolve().as_posix().strip('/')}/escaped/evil.py"
    contents = {"ada/a.ipynb": notebook, f"ada//{elsewhere}": "", "ada/mine.py": ""}
    (found,) = assignments._contents("a.zip", zipped(tmp_path, **contents))
    assert list(found.helpers) == ["mine.py"]


def test_whatever_a_notebook_makes_us_stumble_over_the_next_one_is_graded(tmp_path, monkeypatch):
    def grade_one(found, *_):
        if found.name == "a.ipynb":
            raise ZeroDivisionError("of a kind that nobody has thought of")
        return assignments.Graded(found.name, "01_data_processing", (), "")

    monkeypatch.setattr(assignments, "_grade", grade_one)
    for name in ("a", "b"):
        nbformat.write(answers("01_data_processing"), tmp_path / f"{name}.ipynb")
    first, second = assignments.grade([tmp_path])
    assert first.problem.startswith("could not be graded (ZeroDivisionError: of a kind")
    assert (first.submission, first.points, second.problem) == ("a.ipynb", 0, "")


PRYING = """
import os, pathlib, subprocess, sys
assert "secret" not in os.environ.values()
kernel = get_ipython().kernel
in_lines = {{"name": "stderr", "text": ["as Jupyter ", "allows it"]}}
kernel.session.send(kernel.iopub_socket, "stream", in_lines, parent=kernel.get_parent("shell"))
decoded = next(pathlib.Path(os.environ["CIFARLIB_CACHE"], "decoded").iterdir())
# Where nobody may make links, it is a copy of one's own.
for folder in filter(None, (pathlib.Path({outside!r}), decoded.is_symlink() and decoded)):
    try:
        (folder / "mine").write_text("mine")
    except PermissionError:
        continue
    raise AssertionError(folder)
sleep = [sys.executable, "-c", "import time; time.sleep(1000)", {mark!r}]
subprocess.Popen(sleep, start_new_session=True)
"""


def test_a_submission_sees_no_secrets_writes_nowhere_else_and_leaves_nothing_running(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    mark = f"left by {tmp_path}"
    notebook = answers("01_data_processing")
    cell = solution_cells(notebook)["find_leaks"]  # which earns nothing if this fails
    cell.source = PRYING.format(outside=str(tmp_path), mark=mark) + cell.source
    graded = grade(tmp_path, notebook)
    assert (graded.problem, lost(graded), graded.points) == ("", {}, 17)
    left = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not any(mark in (words or ()) for words in left)
    assert not (tmp_path / "mine").exists()


def test_a_zip_may_hold_the_zips_of_a_class_and_what_notebooks_need(tmp_path):
    """As a learning platform packs what `cifarlib submit` has made, beside loose notebooks."""
    notebook = answers("01_data_processing")
    functions = solution_cells(notebook)["describe_classes"].source
    helper = f"import numpy as np\nimport pandas as pd\nfrom cifarlib import data\n{functions}"
    solution_cells(notebook)["describe_classes"].source = "from mine import describe_classes"
    of_windows = "\ufeff" + nbformat.writes(answers("01_data_processing", find_leaks=""))
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
        archive.writestr("notebooks/a.ipynb", nbformat.writes(notebook))
        archive.writestr("notebooks/mine.py", helper)
        archive.writestr("manifest.json", "{}")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "Lovelace/a.zip")
        archive.writestr("Turing/b.ipynb", of_windows)
        archive.writestr("Zuse/damaged.zip", b"PK nothing else")
    graded = {one.submission: one for one in assignments.grade([tmp_path / "all.zip"])}
    assert {name: one.points for name, one in graded.items()} == {
        "all.zip/Lovelace/a.zip/notebooks/a.ipynb": 17,
        "all.zip/Turing/b.ipynb": 14,
        "all.zip/Zuse/damaged.zip": 0,
    }
    assert graded["all.zip/Zuse/damaged.zip"].problem


def test_warnings_and_bars_cost_nothing_and_what_failed_before_is_told(tmp_path):
    notebook = answers(
        "01_data_processing",
        describe_classes="def describe_classes(pictures, labels)\n    return 1",
        answer_backdrop=submission_checks.BLANK_ANSWER,
    )
    cells = solution_cells(notebook)
    cells["find_leaks"].source += """
find_silently = find_leaks

def find_leaks(*asked):
    import sys, tqdm, warnings
    warnings.simplefilter("always")
    warnings.warn("from now on of everything")
    print("leaks?", file=sys.stderr)
    list(tqdm.tqdm(range(3)))
    return find_silently(*asked)
"""
    place = notebook.cells.index(cells["answer_backdrop"]) + 1
    notebook.cells.insert(place, nbformat.v4.new_markdown_cell("Blue, as of the sky."))
    own = 'STUDENT_NAME = "Ada"; STUDENT_ID = "007"'
    notebook.cells.insert(0, nbformat.v4.new_code_cell(own))
    hungry = nbformat.v4.new_code_cell("hoard = bytearray(7 * 2**30)")  # what is never touched
    notebook.cells.insert(1, hungry)
    graded = grade(tmp_path, notebook)
    marks = {mark.task: mark for mark in graded.marks}
    assert lost(graded).keys() == {"describe_classes"}
    reason = lost(graded)["describe_classes"]
    assert reason.startswith("NameError: ")
    if sys.platform == "linux":
        assert "(before it, MemoryError" in reason
    assert (
        marks["answer_backdrop"].points is None and "cell below" in marks["answer_backdrop"].reason
    )
    assert (graded.student, graded.student_id) == ("Ada", "007")
    assert re.search(r"submitted.ipynb .* Ada, 007$", assignments.table([graded]), re.M)


def test_if_no_file_could_be_graded_the_command_has_failed(tmp_path, capsys):
    (tmp_path / "a.ipynb").write_text("{")
    (tmp_path / "b.zip").write_bytes(b"")
    assert cli.main(["assignment", "grade", str(tmp_path)]) == 1
    output, errors = capsys.readouterr()
    assert "a.ipynb" in output and errors.endswith("none of 2 files could be graded.\n")


def test_what_cannot_be_graded_at_all_is_bad_input(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, told_found in (("nowhere", "nothing there"), ("empty", "found none")):
        assert cli.main(["assignment", "grade", str(tmp_path / path)]) == 2
        output, errors = capsys.readouterr()
        assert output == "" and told_found in errors and errors.count("\n") == 1


def test_no_time_at_all_is_bad_input(tmp_path):
    for limit in ("cell_seconds", "total_seconds"):
        with pytest.raises(InputError, match="more than 0"):
            grade(tmp_path, nbformat.v4.new_notebook(), **{limit: 0})


def test_all_the_time_in_the_world_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="at most 1,000,000,000, found inf"):
        grade(tmp_path, nbformat.v4.new_notebook(), cell_seconds=math.inf)


def test_the_table_tells_points_by_task_and_why_some_were_not_given():
    marks = (
        assignments.Mark("gray_by_hand", 4.0, 4.0, ""),
        assignments.Mark("answer_scaling", None, 3.0, ""),
        assignments.Mark("count_unequal", 0.0, 3.0, "AssertionError: one pixel is wrong"),
    )
    anna = assignments.Graded("anna/01.ipynb", "01_data_processing", marks, "")
    broken = assignments.Graded("ben/01.ipynb", None, (), "no notebook (…)")
    told_table = assignments.table([anna, broken])
    assert re.search(r"^01_data_processing, 10 points$", told_table, re.M)
    assert re.search(r"^ +3  count_unequal \(3\)$", told_table, re.M)
    assert re.search(r"^anna/01.ipynb +4 +· +0 +4 +3$", told_table, re.M)
    assert "ben/01.ipynb\n    no notebook (…)" in told_table
    assert "anna/01.ipynb\n    count_unequal: AssertionError: one pixel is wrong" in told_table


# nbgrader itself


def nbgrader(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "nbgrader", *arguments]
    # It starts alembic, which is where Python is.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nbgrader_releases_and_grades_the_same_sources(tmp_path):
    name = "01_data_processing"
    course = tmp_path / "course"
    shutil.copytree(ROOT / "assignments" / "source" / name, course / "source" / name)
    shutil.copy(ROOT / "assignments" / "nbgrader_config.py", course)
    nbgrader(course, "generate_assignment", name)
    (ours,) = assignments.release([name], tmp_path / "ours")
    released = course / "release" / name / f"{name}.ipynb"
    assert released.read_bytes() == ours.read_bytes(), "the same with and without a database"

    wrong = copy.deepcopy(source_of(name))
    for grade_id, text in WRONG[name][0].items():
        solution_cells(wrong)[grade_id].source = text
    for student, notebook in {"anna": source_of(name), "ben": wrong}.items():
        folder = course / "submitted" / student / name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    nbgrader(course, "autograde", name)
    nbgrader(course, "export")
    with (course / "grades.csv").open() as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    by_tests = sum(p for task, p in POINTS[name].items() if not task.startswith("answer_"))
    by_wrong = sum(POINTS[name][task] for task in WRONG[name][0])
    assert scores == {"anna": by_tests, "ben": by_tests - by_wrong}
