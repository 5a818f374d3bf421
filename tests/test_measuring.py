"""Records of networks: what is missing, seeds that come one by one."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from recorded import LARGE, SMALL, code_of, described, row

from cifarlib import (
    data,
    entries,
    measuring,
    pages,
    recipes,
    results,
    settings,
    staleness,
    training,
)
from cifarlib.entries import Entry
from cifarlib.errors import InputError
from cifarlib.splits import Split

pytestmark = pytest.mark.usefixtures("checkout")


@pytest.fixture
def measured(monkeypatch, checkout, few_entries):
    """Pretend to measure; return what was asked for."""
    asked = []

    def pretend(entry, seed, deadline=None):
        asked.append((entry.name, seed))
        return {**row(accuracy=seed / 10), "code": code_of(entry)}

    monkeypatch.setattr(measuring, "measure", pretend)
    monkeypatch.setattr(data, "load_cifar10", lambda: None)
    (checkout / "README.md").write_text("<!-- results: networks -->nothing yet<!-- end -->")
    return asked


def test_seeds_are_recorded_one_by_one_and_sorted(checkout):
    measuring.record(SMALL, {5: row(0.74)})
    written = measuring.record(SMALL, {3: row(0.70)})
    assert (written.seeds, written.values) == ((3, 5), (0.70, 0.74))
    assert written.mean == pytest.approx(0.72) and written.seconds == 120
    assert written.details["answers"] == ["0123456789"] * 2
    assert written.details["num_test_images"] == 10
    assert written.command == (
        "python benchmarks/networks.py baseline --color gray --recipe modern --seeds 3 5 --record"
    )
    assert entries.entry_of(results.read(SMALL.name)) == SMALL
    again = measuring.record(SMALL, {3: row(0.80)})
    assert again.values == (0.80, 0.74), "what is measured again replaces the old"


def test_two_that_record_at_once_lose_no_seed(monkeypatch):
    honest, others = measuring._recorded, []

    def recorded(entry):
        found = honest(entry)
        if not others:  # what is there has been read, and another process comes with its seed
            other = threading.Thread(target=measuring.record, args=(SMALL, {5: row(0.74)}))
            others.append(other)
            other.start()
            other.join(timeout=1)
        return found

    monkeypatch.setattr(measuring, "_recorded", recorded)
    measuring.record(SMALL, {3: row(0.70)})
    others[0].join()
    assert results.read(SMALL.name).values == (0.70, 0.74)


def test_each_seed_keeps_where_it_came_from():
    on_gpu = {**row(), "accelerators": ["NVIDIA H200"], "commit": "bead"}
    measuring.record(SMALL, {3: row()})
    written = measuring.record(SMALL, {5: on_gpu})
    assert written.hardware == "a processor; NVIDIA H200"
    assert written.details["commit"] == ["c0ffee", "bead"] and written.commit == "bead"
    assert written.details["versions"] == [{"keras": "3"}] * 2


def test_the_command_names_the_backend_that_all_seeds_ran_on():
    written = measuring.record(SMALL, {3: {**row(), "backend": "jax"}})
    assert written.command.startswith("KERAS_BACKEND=jax python benchmarks/networks.py baseline ")
    written = measuring.record(SMALL, {5: {**row(), "backend": "tensorflow"}})
    assert written.command.startswith("python "), "each seed's details tell its own"


def test_a_record_of_other_code_or_recipe_is_stale_and_begun_anew(monkeypatch):
    result = measuring.record(SMALL, {3: row()})
    assert not staleness.is_stale(result)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_source_of_learning", lambda optimizer: b"other code")
        assert staleness.is_stale(result)
        assert measuring.record(SMALL, {5: row()}).seeds == (5,)
    result = measuring.record(SMALL, {3: row()})
    monkeypatch.setattr(recipes, "find", lambda name, model: {"epochs": 31})
    assert staleness.is_stale(result)
    assert measuring.missing([SMALL]) == [(SMALL, 3), (SMALL, 5)]


def test_a_record_of_other_images_is_begun_anew(monkeypatch):
    measuring.record(SMALL, {3: row()})
    path = results.folder() / f"{SMALL.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_fingerprint": "else"}))
    assert measuring.missing([SMALL]) == [(SMALL, 5)], "no images are loaded that could differ"
    monkeypatch.setattr(data, "_current", described("official"))
    assert measuring.missing([SMALL]) == [(SMALL, 3), (SMALL, 5)]


def test_what_is_missing_is_measured_cheapest_first_and_once(measured, checkout, monkeypatch):
    said = []
    entries = [LARGE, SMALL]
    lacking = measuring.missing(entries)
    found = measuring.compute(lacking, after_each=pages.stamp_readme, say=said.append)
    assert found[SMALL, 5]["accuracy"] == 0.5 and len(found) == 5
    expected = [(SMALL.name, 3), (SMALL.name, 5), *((LARGE.name, seed) for seed in (0, 1, 2))]
    assert measured == expected
    assert results.read(SMALL.name).values == (0.3, 0.5)
    assert f"{SMALL.name}, seed 5: 50.00% of 10 test images" in said[2]
    assert results.read(SMALL.name).details["num_at_once"] == [1, 1]
    assert measuring.missing(entries) == [], "everything is there"
    assert "| baseline, modern | gray | 40.0 ± 14.1 (n = 2)" in (checkout / "README.md").read_text()
    kept = {**row(0.5), "is_new": False, "is_whole": False, "commit": None, "code": code_of(SMALL)}
    monkeypatch.setattr(measuring, "measure", lambda *_: kept)
    measuring.compute([(SMALL, 5)], say=said.append)
    details = results.read(SMALL.name).details
    assert details["num_at_once"] == [1, 1] and details["commit"] == ["c0ffee"] * 2, "the same run"
    monkeypatch.setattr(measuring, "measure", lambda *_: {**kept, "seconds": 61.0})
    measuring.compute([(SMALL, 5)], say=said.append)
    details = results.read(SMALL.name).details
    assert details["num_at_once"] == [1, None] and details["commit"][1] is None, "nobody knows"
    assert results.read(SMALL.name).commit == "unknown", "not that of today, nor of another seed"


def test_what_edited_code_trained_in_a_process_of_its_own_is_not_recorded(measured, monkeypatch):
    pretend, said = measuring.measure, []
    monkeypatch.setattr(measuring, "measure", lambda *asked: {**pretend(*asked), "code": "other"})
    (found,) = measuring.compute([(SMALL, 3)], say=said.append).values()
    assert results.read(SMALL.name) is None and found["is_recorded"] is False
    assert "not recorded" in said[-1] and "the same command records it" in said[-1]


def test_what_is_only_printed_is_not_recorded(measured, checkout):
    stamp, say = pages.stamp_readme, lambda line: None
    assert len(measuring.compute([(SMALL, 3)], is_recorded=False, after_each=stamp, say=say)) == 1
    assert results.read(SMALL.name) is None
    assert "nothing yet" in (checkout / "README.md").read_text()


def test_a_training_that_fails_is_told_and_the_others_go_on(measured, monkeypatch):
    pretend = measuring.measure

    def fail(entry, seed, deadline):
        if seed == 3:
            raise training.DivergedError("the loss is not finite")
        return pretend(entry, seed)

    monkeypatch.setattr(measuring, "measure", fail)
    said = []
    found = measuring.compute([(SMALL, 3), (SMALL, 5)], say=said.append)
    assert isinstance(found[SMALL, 3], training.DivergedError)
    assert found[SMALL, 5]["accuracy"] == 0.5
    assert results.read(SMALL.name).seeds == (5,)
    assert said[1] == f"{SMALL.name}, seed 3: DivergedError: the loss is not finite"


def test_a_further_seed_waits_for_first_seeds_up_to_four_times_as_dear(monkeypatch):
    costs = {"a": 1, "b": 3, "c": 5}
    monkeypatch.setattr(Entry, "cost", lambda entry: costs[entry.model])
    order = measuring.missing([Entry(model, seeds=(7, 8)) for model in "cba"])
    expected = [("a", 7), ("b", 7), ("a", 8), ("c", 7), ("b", 8), ("c", 8)]
    assert [(entry.model, seed) for entry, seed in order] == expected


def test_when_the_time_is_over_what_was_measured_is_kept(measured, monkeypatch):
    pretend = measuring.measure

    def stop(entry, seed, deadline):
        if entry == LARGE:
            raise measuring.OutOfTimeError
        return pretend(entry, seed)

    monkeypatch.setattr(measuring, "measure", stop)
    said = []
    lacking = measuring.missing([LARGE, SMALL])
    found = measuring.compute(lacking, time_budget=5, say=said.append)
    assert set(found) == {(SMALL, 3), (SMALL, 5)}
    assert results.read(SMALL.name).seeds == (3, 5)
    assert "the same command goes on" in said[-1]


def test_a_run_whose_last_epoch_ends_late_is_judged_all_the_same(monkeypatch):
    run = SimpleNamespace(folder=None, metrics=dict.fromkeys(measuring.OF_RUN))
    judged = SimpleNamespace(figures=dict.fromkeys((*measuring.OF_TEST, "accuracy")), answers=[1])

    def train(config, *, kept_in, on_epoch):
        on_epoch({"epoch": config.epochs})
        return run

    monkeypatch.setattr(measuring.training, "train", train)
    monkeypatch.setattr(measuring.run_report, "evaluate", lambda folder: judged)
    clock = SimpleNamespace(monotonic=iter([4.0, 6.0]).__next__)
    monkeypatch.setattr(measuring, "time", clock)
    assert measuring.measure(SMALL, 3, deadline=5.0)["is_new"]


def test_a_deadline_ends_training_after_an_epoch_and_the_next_call_goes_on(monkeypatch):
    rng = np.random.default_rng(0)
    train = Split(rng.integers(0, 256, (60, 32, 32, 3), np.uint8), np.arange(60) % 10)
    test = Split(train.images[:20], train.labels[:20])
    monkeypatch.setattr(data, "load_cifar10", lambda: (train, test))
    monkeypatch.setattr(data, "_current", described("JPEG copy"))
    quick = {"epochs": 3, "validation_fraction": 0.2, "batch_size": 16}
    monkeypatch.setattr(recipes, "find", lambda name, model: quick)
    clock = SimpleNamespace(monotonic=iter([4.0, 6.0]).__next__)  # at the start, after an epoch
    with monkeypatch.context() as patch, pytest.raises(measuring.OutOfTimeError):
        patch.setattr(measuring, "time", clock)
        measuring.measure(SMALL, 3, deadline=5.0)
    with pytest.raises(measuring.OutOfTimeError):
        measuring.measure(SMALL, 3, deadline=0)
    (folder,) = (settings.cache_folder() / "runs").iterdir()
    assert not (folder / "metrics.json").exists()
    found = measuring.measure(SMALL, 3)
    assert found["epochs"] == 3 and len(found["answers"]) == 20
    right = [int(digit) for digit in found["answers"]] == test.labels
    assert found["accuracy"] == pytest.approx(right.mean())
    assert set(found) == {"accuracy", "is_new", "is_whole", "code", *measuring.RECORDED}
    assert found["is_new"] and found["commit"]
    assert not found["is_whole"], "an epoch is of the call that was stopped"
    measuring.record(SMALL, {3: found})
    again = measuring.measure(SMALL, 3)
    assert not again["is_new"], "it is read"
    assert again["commit"] is None, "of whatever commit trained it"


def test_a_kept_run_tells_the_commit_that_trained_it(monkeypatch):
    run = SimpleNamespace(folder=None, metrics=dict.fromkeys(measuring.OF_RUN))
    figures = dict.fromkeys((*measuring.OF_TEST, "accuracy"))
    judged = SimpleNamespace(figures=figures, answers=[1])
    monkeypatch.setattr(measuring.training, "train", lambda config, **others: run)
    monkeypatch.setattr(measuring.run_report, "evaluate", lambda folder: judged)
    assert measuring.measure(SMALL, 3)["commit"] is None, "of runs that do not tell it"
    run.metrics["commit"] = "c0ffee"
    assert measuring.measure(SMALL, 3)["commit"] == "c0ffee"


def test_the_commit_is_that_of_the_code_that_trained(monkeypatch):
    """Somebody may commit while a training goes on."""
    commits = iter(["at the start", "later"])
    monkeypatch.setattr(results, "current_commit", lambda: next(commits))
    run = SimpleNamespace(folder=None, metrics=dict.fromkeys(measuring.OF_RUN))
    figures = dict.fromkeys((*measuring.OF_TEST, "accuracy"))
    judged = SimpleNamespace(figures=figures, answers=[1])

    def train(config, *, kept_in, on_epoch):
        assert results.current_commit() == "later"
        on_epoch({"epoch": config.epochs})
        return run

    monkeypatch.setattr(measuring.training, "train", train)
    monkeypatch.setattr(measuring.run_report, "evaluate", lambda folder: judged)
    assert measuring.measure(SMALL, 3)["commit"] == "at the start"


def test_the_commit_of_a_record_is_that_of_the_seed_measured_last():
    measuring.record(SMALL, {3: row(), 5: {**row(), "commit": "old"}})
    assert measuring.record(SMALL, {3: {**row(), "commit": "new"}}).commit == "new"


def test_what_could_not_be_recorded_is_refused_before_it_is_trained(monkeypatch, measured):
    monkeypatch.setattr(data, "_current", described("synthetic"))
    with pytest.raises(InputError, match="photographs"):
        measuring.compute([(SMALL, 3)])
    assert measured == []


@pytest.mark.parametrize(("num_jobs", "expected"), [(4, 2), (2, 2), (1, 1)])
def test_no_more_trained_at_once_than_there_were(measured, monkeypatch, num_jobs, expected):
    found = [(place, {**row(), "code": code_of(SMALL)}, None) for place in range(2)]
    monkeypatch.setattr(measuring.at_once, "each", lambda *_: found)
    measuring.compute([(SMALL, 3), (SMALL, 5)], num_jobs=num_jobs, say=lambda line: None)
    assert results.read(SMALL.name).details["num_at_once"] == [expected] * 2
