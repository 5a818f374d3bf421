"""README and headings: what they quote of the records, and the repository they name."""

import json
from pathlib import Path

import nbformat
import pytest

from cifarlib import chapters, classical, colab, files, pages, results, settings, timed
from cifarlib.errors import InputError

ROOT = Path(colab.__file__).parent.parent


# Marked places


@pytest.fixture
def record(checkout):
    """Return a function that records figures of chapter 3, in a checkout that has nothing else."""

    def record(name, values, **changes):
        fields = {"metric": "test accuracy", "command": "cifarlib run 03", **changes}
        return results.write(name, chapter="03", values=values, **fields)

    return record


def test_a_marked_place_is_filled_and_filled_again(record):
    place = "before <!-- results: time 03 -->old<!-- end --> after"
    assert "not measured" in pages.stamp(place)
    record("chapter-03-quick", values=(12.3,))
    once = pages.stamp(place)
    assert once.startswith("before <!-- results: time 03 -->")
    assert "quick profile 12 s on " in once and ", full profile not measured<!-- end -->" in once
    assert once.endswith("<!-- end --> after")
    assert pages.stamp(once) == once


def test_where_a_chapter_was_timed_is_told_once_or_of_each_time(record):
    place = "<!-- results: time 03 --><!-- end -->"
    record("chapter-03-quick", values=(12.3,), hardware="a machine")
    record("chapter-03-full", values=(45.6,), hardware="a machine")
    told = pages.stamp(place)
    assert told.count(" on a machine (") == 1
    assert "quick profile 12 s, full profile 46 s on a machine (" in told
    record("chapter-03-full", values=(45.6,), hardware="another")
    told = pages.stamp(place)
    assert "quick profile 12 s on a machine (" in told and "full profile 46 s on another (" in told


@pytest.mark.parametrize(
    ("kind", "told"), [("JPEG copy", "JPEG copy of the data"), ("official", "official data")]
)
def test_the_data_of_a_time_are_named(record, kind, told):
    written = record("chapter-03-full", values=(45.6,), hardware="a machine")
    path = results.folder() / f"{written.name}.json"
    path.write_text(json.dumps({**written._asdict(), "data_kind": kind}), encoding="utf-8")
    assert f" on a machine ({told})" in pages.stamp("<!-- results: time 03 --><!-- end -->")


def test_benchmarks_are_tabled_with_their_spread(record):
    told = {"command": "python b.py", "details": timed.code("cifarlib/timed.py")}
    record("benchmark-x", values=(9.0, 11.0, 10.0), metric="faster than y", **told)
    table = pages.stamp("<!-- results: benchmarks --><!-- end -->")
    assert "| faster than y | 10.0 (9.0 to 11.0) | 3 |" in table


def test_linear_models_are_tabled_from_the_worst_to_the_best_with_their_spread(record):
    seeds = {"values": (0.7, 0.72, 0.74), "seeds": (0, 1, 2)}
    mirrored, raw = (
        {"details": {"code": classical.code_digest(rung)}} for rung in ("mirrored patches", "raw")
    )
    record("linear-mirrored-patches-gray", **seeds, color="gray", seconds=300.0, **mirrored)
    record("linear-raw-gray", values=(0.3,), color="gray", seconds=30.0, **raw)
    record("linear-raw-rgb", values=(0.4,), color="rgb", seconds=30.0)
    record("linear-whitened-rgb", values=(0.4,), color="rgb", seconds=30.0)
    table = pages.stamp("<!-- results: linear --><!-- end -->").splitlines()
    assert table[3] == "| raw | 30.0 | 40.0 (stale: of other code) | 30 |"
    assert table[4] == "| mirrored patches | 72.0 ± 2.0 (n = 3) | not run | 100 |"
    assert table[5] == "| whitened | not run | 40.0 (stale: of other code) |  |"


def test_an_unknown_place_is_an_error():
    with pytest.raises(KeyError):
        pages.stamp("<!-- results: nonsense --><!-- end -->")


def test_text_without_places_is_left_alone():
    assert pages.stamp("# A page <!-- comment -->\n") == "# A page <!-- comment -->\n"


# One place for the repository


def test_every_badge_and_set_up_cell_names_the_repository(monkeypatch):
    monkeypatch.setattr(settings, "checkout_folder", lambda: ROOT)
    cloned = f"git clone --quiet --depth 1 https://github.com/{colab.repository()} cifarlib\n"
    for chapter in chapters.find():
        heading, set_up_cell = nbformat.read(chapter.path, as_version=4).cells[:2]
        assert heading.source.split("\n\n")[1] == colab.badge(chapter.path.name)
        assert cloned in set_up_cell.source


def test_another_repository_is_written_everywhere_and_nowhere_else(copied_checkout, monkeypatch):
    monkeypatch.setattr(colab, "ROOT", copied_checkout)
    monkeypatch.setattr(settings, "checkout_folder", lambda: copied_checkout)
    stamped = []
    monkeypatch.setattr(pages, "stamp_readme", lambda: stamped.append(colab.repository()))
    old = colab.repository()
    before = {
        path: path.read_text("utf-8")
        for path in copied_checkout.rglob("*")
        if path.suffix == ".ipynb"
    }
    for _ in range(2):
        assert pages._main(["a-teacher/lessons.2027"]) == 0
        assert colab.repository() == "a-teacher/lessons.2027"
        for path, text in before.items():
            assert path.read_text("utf-8") == text.replace(old, "a-teacher/lessons.2027")
            now, then = chapters.read(path), nbformat.reads(text, as_version=4)
            assert chapters.code_digest(now) == chapters.code_digest(then), "of the same outputs"
            told = timed.code(str(path))["code"]
            files.write_text(copied_checkout / "before.ipynb", text)
            assert timed.code(str(copied_checkout / "before.ipynb"))["code"] == told
    assert stamped == ["a-teacher/lessons.2027"] * 2


def test_a_new_chapter_gets_its_badge(copied_checkout, monkeypatch):
    monkeypatch.setattr(colab, "ROOT", copied_checkout)
    monkeypatch.setattr(settings, "checkout_folder", lambda: copied_checkout)
    monkeypatch.setattr(pages, "stamp_readme", lambda: None)
    path = chapters.find()[0].path
    whole = path.read_text("utf-8")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = colab.BADGE.sub("", notebook.cells[0].source)
    assert "colab" not in notebook.cells[0].source
    files.write_text(path, nbformat.writes(notebook))
    pages.point_to(colab.repository())
    assert path.read_text("utf-8") == whole


def test_a_notebook_that_is_none_keeps_all_others_as_they_are(copied_checkout, monkeypatch):
    monkeypatch.setattr(colab, "ROOT", copied_checkout)
    monkeypatch.setattr(settings, "checkout_folder", lambda: copied_checkout)
    monkeypatch.setattr(pages, "stamp_readme", lambda: None)
    chapters.find()[-1].path.write_text("<<<<<<< HEAD")
    every = [path for path in copied_checkout.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in every}
    with pytest.raises(InputError):
        pages.point_to("someone/else")
    assert {path: path.read_bytes() for path in every} == before


@pytest.mark.parametrize("name", ["", "owner", "https://github.com/a/b", "a/b/c", "a b/c"])
def test_what_is_no_repository_is_refused(name, capsys):
    assert pages._main([name]) == 2
    assert "expected OWNER/NAME" in capsys.readouterr().err


def test_the_command_without_a_repository_fills_the_readme(monkeypatch):
    stamped = []
    monkeypatch.setattr(pages, "stamp_readme", lambda: stamped.append(1))
    assert pages._main([]) == 0 and stamped == [1]


def test_a_command_with_two_repositories_tells_its_usage(capsys):
    assert pages._main(["a/b", "c/d"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err


def test_an_installed_package_has_no_readme_to_fill(capsys):
    assert pages._main([]) == 2
    assert "expected a checkout" in capsys.readouterr().err
