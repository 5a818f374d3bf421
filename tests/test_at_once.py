"""Calls at once: each in a process of its own, told as they end."""

import os
import time

import pytest

from cifarlib import at_once


def divided(dividend, divisor):
    return dividend / divisor, os.getpid()


def waited(seconds):
    time.sleep(seconds)
    return seconds


def killed():
    os._exit(1)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_what_fails_is_told_and_the_others_are_called(num_jobs):
    calls = [(6, 2), (1, 0), (8, 2)]
    found = {place: rest for place, *rest in at_once.each(divided, calls, num_jobs)}
    assert {place: outcome[0] for place, (outcome, _) in found.items() if outcome} == {0: 3, 2: 4}
    assert isinstance(found[1][1], ZeroDivisionError)
    processes = {outcome[1] for outcome, _ in found.values() if outcome}
    assert (processes == {os.getpid()}) == (num_jobs == 1)
    assert len(processes) == num_jobs


def test_what_ends_first_is_told_first():
    told = [outcome for _, outcome, _ in at_once.each(waited, [(4.0,), (0.0,)], 2)]
    assert told == [0.0, 4.0]


def test_a_process_that_is_killed_is_an_error_and_no_hang():
    ((_, outcome, error),) = at_once.each(killed, [()], 2)
    assert outcome is None and error is not None
