"""A stopwatch, and which code a benchmark's times are of: what counts and what does not."""

import pytest

from cifarlib import pages, results, staleness, timed, training

CODE = '''"""What it is for."""
from cifarlib import timed  # and why

TABLE = """
# head

| a |
"""


# A remark.
class Search:
    """Searches."""

    def fit(self, X):
        """Fit."""
        return timed.seconds(lambda: X)
'''


def test_a_call_is_timed_once(monkeypatch):
    moments, calls = [3.0, 4.5], []
    monkeypatch.setattr(timed.time, "perf_counter", lambda: moments[len(calls)])
    assert timed.seconds(lambda: calls.append("called")) == 1.5 and calls == ["called"]


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Return a function that gives the digest of a benchmark and a module."""
    monkeypatch.setattr(timed, "_ROOT", tmp_path)

    def of(module=CODE, benchmark=CODE) -> str:
        (tmp_path / "search.py").write_text(module)
        (tmp_path / "grid.py").write_text(benchmark)
        return timed.code("grid.py", "search.py")["code"]

    return of


@pytest.mark.parametrize("where", ["module", "benchmark"])
@pytest.mark.parametrize(
    ("old", "new"),
    [("lambda: X", "lambda: 2"), ("def fit", "def fits"), ("# head\n", ""), ("\n| a", "| a")],
)
def test_what_is_computed_counts(digest, where, old, new):
    changed = CODE.replace(old, new)
    assert changed != CODE and digest(**{where: changed}) != digest() == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Searches.", 'Searches well.\n\n    See "search".\n    '),
        ('"""Fit."""', 'r"""Fit."""'),
        ("What it is for.", "Something else."),
        ("# A remark.\n", "\n"),
    ],
)
def test_what_is_said_of_it_does_not_count(digest, old, new):
    changed = CODE.replace(old, new)
    assert changed != CODE and digest(changed, changed) == digest()


@pytest.fixture
def record(checkout, tmp_path, monkeypatch):
    """Return a function that records a benchmark of a file of its own."""
    monkeypatch.setattr(timed, "_ROOT", tmp_path)
    (tmp_path / "grid.py").write_text(CODE)

    def written(**details) -> results.Result:
        told = {"chapter": "03", "metric": "a, against b", "command": "x", "values": [3.0]}
        return results.write("benchmark-grid-search", commit="c0ffee", details=details, **told)

    return written


def test_times_of_other_code_are_stale_and_marked(record, tmp_path):
    table = "<!-- results: benchmarks --><!-- end -->"
    found = record(**timed.code("grid.py"))
    assert staleness.stale([found]) == set()
    assert "| a, against b | 3.0 (3.0 to 3.0) | 1 |" in pages.stamp(table)
    (tmp_path / "grid.py").write_text(CODE + "print()\n")
    assert staleness.stale([found]) == {"benchmark-grid-search"}
    assert "| a, against b (stale: of other code) |" in pages.stamp(table)


@pytest.mark.parametrize("text", [None, "def half("])
def test_times_of_files_that_cannot_be_read_are_stale_and_no_error(record, tmp_path, text):
    found = record(**timed.code("grid.py"))
    (tmp_path / "grid.py").unlink()
    if text:
        (tmp_path / "grid.py").write_text(text)
    assert staleness.is_stale(found)


def test_times_that_tell_no_code_are_stale(record):
    assert staleness.is_stale(record())


@pytest.mark.parametrize("field", ["learning", "kernels"])
def test_times_of_training_are_stale_with_another_engine(record, field):
    told = {"optimizer": "adam", **timed.code("grid.py"), **training.learning_digests("adam")}
    assert not staleness.is_stale(record(**told))
    assert staleness.is_stale(record(**{**told, field: "other"}))
    assert staleness.is_stale(record(**{**told, "optimizer": "sgd"}))
    assert staleness.is_stale(record(**{**told, "optimizer": "gone"}))
