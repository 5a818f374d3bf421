"""Calls at once: each in a process of its own, told as they end."""

import os
import time
from pathlib import Path

import pytest

from cifarlib import at_once


def divided(dividend, divisor):
    return dividend / divisor, os.getpid()


def waited_for(path):
    deadline = time.monotonic() + 60  # so that a test fails instead of waiting for ever
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def written(path):
    Path(path).touch()


def ended(status):
    if status:
        os._exit(status)
    return "well"


def test_room_is_left_on_a_gpu_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "")  # so that it is put back
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH")
    at_once.leave_room()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_what_fails_is_told_and_the_others_are_called(num_jobs):
    calls = [(6, 2), (1, 0), (8, 2)]
    found = {place: rest for place, *rest in at_once.each(divided, calls, num_jobs)}
    assert {place: outcome[0] for place, (outcome, _) in found.items() if outcome} == {0: 3, 2: 4}
    assert isinstance(found[1][1], ZeroDivisionError)
    processes = {outcome[1] for outcome, _ in found.values() if outcome}
    assert (processes == {os.getpid()}) == (num_jobs == 1)
    assert len(processes) == num_jobs


def called(name, argument):
    return globals()[name](argument)


def test_what_ends_first_is_told_first(tmp_path):
    path = tmp_path / "written"
    told = at_once.each(called, [("waited_for", str(path)), ("ended", 0)], 2)
    assert next(told) == (1, "well", None)
    path.touch()  # not before the second was told, or both processes might end at once
    assert list(told) == [(0, None, None)]


def test_a_process_that_is_killed_is_an_error_and_the_others_go_on():
    found = {place: rest for place, *rest in at_once.each(ended, [(1,), (0,), (0,)], 2)}
    outcome, error = found.pop(0)
    assert outcome is None and error is not None
    assert found == {1: ["well", None], 2: ["well", None]}


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_what_its_check_forbids_is_not_begun(num_jobs, tmp_path):
    paths = [tmp_path / str(number) for number in range(4)]
    answers = iter([None, TimeoutError("over"), TimeoutError("over"), TimeoutError("over")])

    def check():
        if answer := next(answers):
            raise answer

    calls = [(str(path),) for path in paths]
    told = {place: error for place, _, error in at_once.each(written, calls, num_jobs, check)}
    assert [isinstance(told[place], TimeoutError) for place in range(4)].count(True) == 3
    assert [path.exists() for path in paths].count(True) == 1


def test_who_is_interrupted_begins_nothing_more(tmp_path):
    paths = [tmp_path / str(number) for number in range(20)]
    with pytest.raises(KeyboardInterrupt):
        for _ in at_once.each(written, [(str(path),) for path in paths], 2):
            raise KeyboardInterrupt
    # One has ended, one was under way, and a few may have begun in between.
    assert not any(path.exists() for path in paths[10:])
