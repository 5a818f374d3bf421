"""Measuring entries: what is missing, training it, judging it, and recording it seed by seed.

A record under ``results/`` grows by a seed at a time, on whatever machine there is. Each finished
run looks at the test set, which chooses no epoch and no recipe. (But for ``muon`` and ``erase`` it
said where one more recipe was wanted: the modern one had missed a claim. Chapter 6 says so.) Not
for saying what is measured (`entries`), nor for showing it (`leaderboard`).
"""

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cifarlib import (
    at_once,
    data,
    devices,
    entries,
    results,
    run_report,
    settings,
    staleness,
    training,
)
from cifarlib.entries import Entry

# A value a seed, each a list in the record's details.
OF_RUN = (
    *("epochs", "best_epoch", "validation_accuracy", "seconds", "images_per_second"),
    *("precision", "backend", "accelerators", "hardware", "versions"),
)
OF_TEST = ("cross_entropy", "calibration_error", "temperature", "calibration_error_scaled")
RECORDED = (*OF_RUN, *OF_TEST, "answers", "commit")


class OutOfTimeError(Exception):
    """The time budget is spent; the run's checkpoint is kept."""


def missing(asked: Iterable[Entry] = entries.ENTRIES) -> list[tuple[Entry, int]]:
    """Return what is not recorded, or stale: entries and seeds, in the order to train them.

    Cheapest first, and a further seed of an entry waits for the first ones of entries that cost
    up to four times as much.

    >>> missing([])
    []
    """
    lacking = []
    for entry in asked:
        recorded, of_seed = _recorded(entry), None
        for place, seed in enumerate(entry.seeds):
            if seed not in recorded:
                of_seed = of_seed or entry.cost()
                lacking.append((of_seed * 4**place, entry, seed))
    return [(entry, seed) for _, entry, seed in sorted(lacking, key=lambda item: item[0])]


def compute(
    pairs: Sequence[tuple[Entry, int]],
    time_budget: float | None = None,
    num_jobs: int = 1,
    is_recorded: bool = True,
    after_each: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> dict[tuple[Entry, int], dict[str, Any] | Exception]:
    """Measure seeds of entries, in the order given, and record them one by one.

    A training that fails is told, and the others go on.

    Args:
        pairs: entries and seeds, such as those that are `missing`.
        time_budget: seconds; what is being trained then goes on at the next call.
        num_jobs: trainings at once; their seconds are longer then, and the record says so.
        is_recorded: whether to write to ``results/``.
        after_each: called when a seed has been recorded, such as `pages.stamp_readme`.
        say: told a line for each seed.

    Returns:
        What `measure` found, or what it raised, for each of the pairs that has come to its end;
        ``is_recorded`` is False in what was to be recorded and could not be.
    """
    deadline = None if time_budget is None else time.monotonic() + time_budget
    data.load_cifar10()
    if is_recorded:
        results.check_recordable()
    say(f"{data.current()}\n{devices.describe()}")
    calls = [(entry, seed, deadline) for entry, seed in pairs]
    measured, is_out_of_time = {}, False
    check = functools.partial(_check_time, deadline)
    for place, row, error in at_once.each(measure, calls, num_jobs, check):
        entry, seed = pairs[place]
        if error is None:
            measured[entry, seed] = row
            say(told(entry, seed, row))
            if is_recorded and row["code"] != training.code_digest(entry.config(seed)):
                # In a process of its own, which imported it later.
                row["is_recorded"] = False
                say(
                    f"{entry.name}, seed {seed}: not recorded, since code that decides it was "
                    "edited meanwhile; the same command records it."
                )
            elif is_recorded:
                # At most so many; beside what was trained before, nobody wrote down how many.
                count = min(num_jobs, len(calls)) if row["is_whole"] else None
                record(entry, {seed: {**row, "num_at_once": count}})
                after_each()
        elif isinstance(error, OutOfTimeError):
            is_out_of_time = True
        else:
            measured[entry, seed] = error
            say(f"{entry.name}, seed {seed}: {type(error).__name__}: {error}")
    if is_out_of_time:
        say("The time is over; the same command goes on.")
    return measured


def told(entry: Entry, seed: int, row: dict[str, Any]) -> str:
    """Return what came of a seed, in a line."""
    return (
        f"{entry.name}, seed {seed}: {row['accuracy']:.2%} of {len(row['answers']):,} test images "
        f"(validation {row['validation_accuracy']:.2%} in epoch {row['best_epoch']} of "
        f"{row['epochs']}), {row['seconds']:.0f} s, {row['images_per_second']:,.0f} images/s"
    )


def measure(entry: Entry, seed: int, deadline: float | None = None) -> dict[str, Any]:
    """Train a seed of an entry, unless it has been trained, and judge it on the test set.

    Args:
        entry: what to train.
        seed: the seed.
        deadline: value of ``time.monotonic`` after which no further epoch is begun.

    Returns:
        The figures, with ``accuracy`` and, a digit an image, ``answers``; whether an epoch of it
        ``is_new``, trained in this call, and whether all are (``is_whole``); and the digest of the
        ``code`` that this process runs.

    Raises:
        OutOfTimeError: at the deadline; asked again, training goes on from there.
    """
    new_epochs = []

    def stop(row: dict[str, float]) -> None:
        new_epochs.append(row["epoch"])
        if row["epoch"] < config.epochs:
            _check_time(deadline)

    _check_time(deadline)
    config = entry.config(seed)
    commit = results.current_commit()  # now: somebody may commit while it trains
    run = training.train(config, kept_in=kept_runs(), on_epoch=stop)
    judged = run_report.evaluate(run.folder)
    if not new_epochs:  # a kept run, which tells itself what trained it, if it is not too old
        commit = run.metrics.get("commit")
        commit = None if commit == "unknown" else commit
    return {
        "accuracy": judged.figures["accuracy"],
        **{field: run.metrics[field] for field in OF_RUN},
        **{field: judged.figures[field] for field in OF_TEST},
        "answers": "".join(map(str, judged.answers)),
        "commit": commit,
        "is_new": bool(new_epochs),
        "is_whole": 1 in new_epochs,
        "code": training.code_digest(config),
    }


def _check_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTimeError


def kept_runs() -> Path:
    """Return the folder of the runs that are read instead of being trained again."""
    return settings.cache_folder() / "runs"


def record(entry: Entry, measured: dict[int, dict[str, Any]]) -> results.Result:
    """Write what was measured, by seed, beside the seeds that the record has already.

    Seeds of other code, configuration or images are not kept. What a kept run does not tell of
    itself is taken from the record, if that is about the same run.
    """
    with results.alone():  # another process may be adding a seed
        rows = _recorded(entry)
        for seed, row in measured.items():
            before = rows.get(seed, {})
            is_same = before.get("seconds") == row["seconds"]
            untold = [field for field in ("commit", "num_at_once") if row.get(field, "") is None]
            rows[seed] = {**row, **{field: before[field] for field in untold if is_same}}
        commits = [rows[seed]["commit"] for seed in measured]
        return _record(entry, dict(sorted(rows.items())), commits[-1] or "unknown")


def _record(entry: Entry, rows: dict[int, dict[str, Any]], commit: str) -> results.Result:
    config = entry.config(next(iter(rows)))
    return results.write(
        entry.name,
        chapter="06",
        metric="test accuracy",
        values=[row["accuracy"] for row in rows.values()],
        seeds=list(rows),
        color=entry.color,
        seconds=sum(row["seconds"] for row in rows.values()),
        hardware=[run_report.trained_on(row) for row in rows.values()],
        command=results.on_backend(
            entry._replace(seeds=tuple(rows)).command, [row["backend"] for row in rows.values()]
        ),
        commit=commit,
        details={
            **{field: [row[field] for row in rows.values()] for field in RECORDED},
            # Seconds of trainings that shared a machine are longer; None where that is unknown.
            "num_at_once": [row.get("num_at_once", 1) for row in rows.values()],
            "num_test_images": len(next(iter(rows.values()))["answers"]),
            "config": config.as_json(),
            "code": training.code_digest(config),
        },
    )


def _recorded(entry: Entry) -> dict[int, dict[str, Any]]:
    """Return the rows of a record, by seed; none if it is about other code or images."""
    found = results.read(entry.name)
    description = data.current()
    if found is None or staleness.is_stale(found):
        return {}
    if description and found.data_fingerprint != description.fingerprint:
        return {}
    alone = [1] * len(found.seeds)
    columns = {field: found.details[field] for field in RECORDED}
    columns |= {"accuracy": found.values, "num_at_once": found.details.get("num_at_once", alone)}
    return {
        seed: {field: values[place] for field, values in columns.items()}
        for place, seed in enumerate(found.seeds)
    }
