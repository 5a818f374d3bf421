"""Which code a benchmark's times are of: what counts, what does not, what is recorded."""

import subprocess
import sys
from pathlib import Path

import pytest

from cifarlib import pages, results, settings, staleness, timed
from cifarlib.errors import InputError

ROOT = Path(__file__).parents[1]
CODE = '''"""What it is for."""
from cifarlib import timed  # and why


# A remark.
class Search:
    """Searches."""

    def fit(self, X):
        """Fit."""
        return timed.seconds(lambda: X)
'''


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Return a function that gives the digest of a package of one module and its benchmark."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "cifarlib").mkdir()
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path)
    monkeypatch.setattr(timed, "__file__", str(tmp_path / "cifarlib" / "timed.py"))
    monkeypatch.setattr(timed, "BENCHMARKS", {"benchmark-grid": ("grid", ("search",))})

    def of(module=CODE, benchmark=CODE) -> str:
        (tmp_path / "cifarlib" / "search.py").write_text(module)
        (tmp_path / "benchmarks" / "grid.py").write_text(benchmark)
        return timed.code_digest("benchmark-grid-search")

    return of


def test_a_call_is_timed_once(monkeypatch):
    moments, calls = [3.0, 4.5], []
    monkeypatch.setattr(timed.time, "perf_counter", lambda: moments[len(calls)])
    assert timed.seconds(lambda: calls.append("called")) == 1.5 and calls == ["called"]


@pytest.mark.parametrize("where", ["module", "benchmark"])
def test_what_is_computed_counts(digest, where):
    assert digest() == digest()
    changed = {CODE.replace(*pair) for pair in (("lambda: X", "lambda: 2"), ("fit", "fits"))}
    assert len({digest(), *(digest(**{where: code}) for code in changed)}) == 3


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


def test_without_its_benchmark_nothing_is_told_and_a_record_is_stale(digest, checkout, monkeypatch):
    found = results.write(
        "benchmark-grid-search", chapter="03", metric="x", values=[2.0], command="x"
    )
    with pytest.raises(InputError, match="benchmark-grid-search: expected a checkout with"):
        timed.code_digest("benchmark-grid-search")
    assert staleness.is_stale(found)
    monkeypatch.setattr(settings, "checkout_folder", lambda: None)
    with pytest.raises(InputError, match="Clone the repository"):
        timed.code_digest("benchmark-grid-search")


needs_checkout = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="benchmarks are part of the checkout"
)


@needs_checkout
@pytest.mark.parametrize("kind", timed.BENCHMARKS)
def test_a_benchmark_of_other_code_is_stale_and_marked(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "folder", lambda: tmp_path / "results")
    monkeypatch.setattr(settings, "checkout_folder", lambda: ROOT)

    def record(code: str) -> results.Result:
        told = {"chapter": "01", "metric": "a, against b", "command": "x", "values": [3.0]}
        return results.write(kind, commit="c0ffee", details={"code": code}, **told)

    table = "<!-- results: benchmarks --><!-- end -->"
    assert staleness.stale([record(timed.code_digest(kind))]) == set()
    monkeypatch.setattr(results, "read_all", lambda: [results.read(kind)])
    assert "| a, against b | 3.0 (3.0 to 3.0) | 1 |" in pages.stamp(table)
    assert staleness.stale([record("other")]) == {kind}
    assert "| a, against b (stale: of other code) |" in pages.stamp(table)


@needs_checkout
@pytest.mark.parametrize("words", [["-c", "import cifarlib"], ["-m", "cifarlib", "--help"]])
def test_the_code_of_a_programs_start_is_what_it_imports(words):
    command = [sys.executable, "-X", "importtime", *words]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
    names = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    ours = {name.removeprefix("cifarlib.") for name in names if name.startswith("cifarlib.")}
    assert "cifarlib" in names
    assert ours <= set(timed.BENCHMARKS["benchmark-start"][1])


@needs_checkout
def test_every_benchmark_that_is_recorded_can_be_stale(monkeypatch):
    monkeypatch.setattr(settings, "checkout_folder", lambda: ROOT)
    recorded = [found for found in results.read_all() if found.name.startswith("benchmark-")]
    assert recorded and all(map(staleness._question, recorded))
