"""Recorded results, as files."""

import json
import re
import subprocess

import nbformat
import pytest

from cifarlib import data, results, settings
from cifarlib.errors import InputError

pytestmark = pytest.mark.usefixtures("checkout")


@pytest.fixture
def git(checkout):
    """Return what calls git in the checkout, as somebody."""
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    return lambda *words: subprocess.run(
        [*command, *words], cwd=checkout, check=True, capture_output=True
    )


def record(name="a-result", values=(0.5, 0.7), **changes):
    fields = {"chapter": "03", "metric": "test accuracy", "command": "cifarlib run 03", **changes}
    return results.write(name, values=values, **fields)


def test_a_result_is_read_as_it_was_written():
    written = record(seeds=(1, 2), color="gray", seconds=3.5, details={"C": 0.1})
    assert results.read("a-result") == written
    assert results.read_all() == [written]


def test_mean_and_deviation_are_those_of_the_sample():
    written = record(values=(0.5, 0.7))
    assert written.mean == pytest.approx(0.6)
    assert written.sd == pytest.approx(0.141421, abs=1e-6)
    assert record(values=(0.5,)).sd is None


def test_what_has_nothing_to_do_with_images_names_no_data(tiny):
    data.load_cifar10("synthetic")
    written = record(with_images=False)
    assert (written.data_kind, written.data_fingerprint) == ("none", None)
    with pytest.raises(InputError, match="photographs"):
        record()


def test_a_result_names_hardware_versions_command_and_data():
    written = record()
    assert "cores" in written.hardware
    assert {"python", "numpy"} <= set(written.versions)
    assert written.command == "cifarlib run 03"
    assert written.data_kind == "none"
    assert record(hardware="a card").hardware == "a card"
    assert record(hardware=["a card", "two cores", "a card"]).hardware == "a card; two cores"


@pytest.mark.parametrize(
    "changes",
    [
        {"values": ()},
        {"values": (float("nan"),)},
        {"values": (1.0, 2.0), "seeds": (1,)},
        {"name": "No Such/Name"},
    ],
)
def test_a_result_that_says_nothing_is_refused(changes, checkout):
    with pytest.raises(ValueError, match="expected"):
        record(**changes)
    assert not list(checkout.glob("results/*.json"))


def test_a_missing_result_is_none():
    assert results.read("nothing") is None


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"name": "x"})])
def test_a_damaged_result_is_named(content, checkout):
    record()
    (checkout / "results" / "a-result.json").write_text(content)
    with pytest.raises(InputError, match=r"a-result\.json: expected a recorded result"):
        results.read_all()


@pytest.mark.parametrize(("content", "told"), [("[]", "no object"), ("{}", "one without name")])
def test_what_a_damaged_result_lacks_is_told(content, told, checkout):
    record()
    (checkout / "results" / "a-result.json").write_text(content)
    with pytest.raises(InputError, match=f"found {told}"):
        results.read("a-result")


def test_the_commit_is_another_if_code_differs_not_if_records_do(checkout, git):
    def write(source, output):
        cell = nbformat.v4.new_code_cell(source)
        cell.outputs = [nbformat.v4.new_output("stream", text=output)]
        time = f"<!-- results: time 01 -->{output} s<!-- end -->"
        cells = [nbformat.v4.new_markdown_cell(time, id="a"), cell]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), checkout / "notebooks" / "01.ipynb")

    (checkout / "notebooks").mkdir()
    write("x = 1", "1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    first = results.current_commit()
    assert re.fullmatch("[0-9a-f]{12}", first)
    write("x = 1", "2")
    assert results.current_commit() == first
    write("x = 2", "2")
    assert results.current_commit() == f"{first}+"
    write("x = 1", "2")
    (checkout / "notebooks" / "02.ipynb").write_text("a chapter that git does not know")
    assert results.current_commit() == f"{first}+"
    (checkout / "notebooks" / "02.ipynb").unlink()
    assert results.current_commit() == first
    (checkout / "notebooks" / "01.ipynb").write_text("<<<<<<< HEAD")
    assert results.current_commit() == f"{first}+", "a merge that is not finished is a change"
    write("x = 1", "2")
    (checkout / "notebooks" / "01.ipynb").unlink()
    assert results.current_commit() == f"{first}+"


def test_the_commit_is_known_of_a_checkout_inside_another_repository(checkout, git, monkeypatch):
    def write(output):
        cell = nbformat.v4.new_code_cell("1", id="a", outputs=[])
        cell.execution_count = output
        path = checkout / "notebooks" / "01.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)

    (checkout / "notebooks").mkdir()
    write(1)
    git("-C", "..", "init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    first = results.current_commit()
    assert re.fullmatch("[0-9a-f]{12}", first)
    write(2)
    assert results.current_commit() == first


@pytest.mark.parametrize("folder", ["cifarlib", "benchmarks"])
def test_the_commit_is_another_if_the_package_or_a_benchmark_differs(checkout, git, folder):
    path = checkout / folder / "code.py"
    path.parent.mkdir()
    path.write_text("x = 1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    first = results.current_commit()
    assert re.fullmatch("[0-9a-f]{12}", first)
    path.write_text("x = 2")
    assert results.current_commit() == f"{first}+"
    git("checkout", "--", ".")
    assert results.current_commit() == first


def test_an_installed_package_has_no_results_and_writes_none(monkeypatch):
    monkeypatch.setattr(settings, "checkout_folder", lambda: None)
    assert results.read("x") is None
    with pytest.raises(InputError, match="a checkout"):
        record()


def test_figures_measured_on_drawn_pictures_are_not_recorded(checkout):
    with pytest.warns(data.SyntheticDataWarning):
        data.load_cifar10("synthetic")
    with pytest.raises(InputError, match="photographs"):
        record()
    assert not (checkout / "results").exists()


@pytest.mark.parametrize(
    ("sd", "told"),
    [(0.0138, "± 1.4"), (0.0005, "± 0.1"), (0.0004, "± 0.04"), (0.0, "± 0.0"), (None, "(")],
)
def test_a_small_spread_does_not_look_like_none(sd, told):
    assert results.in_percent(0.9217, sd, 2).startswith(f"92.2 {told}")
