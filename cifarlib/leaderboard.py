"""What is recorded of all models, in tables: accuracy, what it costs, and the races of chapter 7.

Not for measuring: `measuring` does, and `entries` says what. Not for judging what others published:
`claims` does.
"""

import contextlib
import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cifarlib import data, entries, models, results
from cifarlib.entries import Entry, entry_of
from cifarlib.errors import InputError
from cifarlib.staleness import is_stale


def records() -> list[results.Result]:
    """Return what is recorded of networks, by colour and accuracy."""
    found = [result for result in results.read_all() if result.name.startswith("network-")]
    return sorted(found, key=lambda result: (result.color, result.mean))


def answers() -> dict[Entry, np.ndarray]:
    """Return the recorded answers to the test images of the data set in use.

    Returns:
        Integers of shape (seeds, n) for each record; none for those of other code, nor of other
        images, whose order is another.
    """
    description = data.current()
    return {
        entry: np.array([list(row) for row in result.details["answers"]], int)
        for entry, result in fresh().items()
        if description
        and result.data_fingerprint == description.fingerprint
        and "answers" in result.details
    }


def better_recipes() -> dict[Entry, results.Result]:
    """Return one record for each network and colour: of its recipes, the better one's.

    That is the one with the better validation accuracy. Records of other code or another
    configuration do not count, and of records of several data sets only those of one: the images
    in use if there are any, else those of most.
    """

    def validation(recorded: tuple[Entry, results.Result]) -> float:
        return statistics.fmean(recorded[1].details["validation_accuracy"])

    networks: dict[tuple[str, str], list[tuple[Entry, results.Result]]] = {}
    for entry, result in fresh().items():
        networks.setdefault((entry.model, entry.color), []).append((entry, result))
    in_use = description.fingerprint if (description := data.current()) else None
    chosen = {}
    for of_network in networks.values():
        kinds = [result.data_fingerprint for _, result in of_network]
        kind = in_use if in_use in kinds else max(kinds, key=kinds.count)
        comparable = [each for each in of_network if each[1].data_fingerprint == kind]
        entry, result = max(comparable, key=validation)
        chosen[entry] = result
    return chosen


def fresh() -> dict[Entry, results.Result]:
    """Return the records of today's code and configurations, by entry."""
    return {entry_of(result): result for result in records() if not is_stale(result)}


def overview() -> pd.DataFrame:
    """Return what each approach earns and costs: all recorded networks, and the linear model.

    Returns:
        A row for each record, by colour and accuracy, named ``"model, recipe"``, with ``color``,
        ``accuracy`` and its ``sd`` (fractions), ``n``, ``epochs``, ``parameters``,
        ``multiply_adds`` of an image, those of ``training`` a seed, its ``minutes`` (NaN if
        several machines trained the seeds, or one several at once, or nobody knows) and what they
        were ``trained_on``, ``milliseconds`` for one image on one core, ``images_per_second`` on
        one core in batches, ``megabytes`` on disk, ``calibration_error`` (a fraction),
        ``data_kind``, and ``is_stale``.
        Speed and size on disk are those of the network in colour; NaN for what is not recorded,
        and for those of another design than today's.
    """
    rows = {}
    for result in records():
        entry, details = entry_of(result), result.details
        rows[entry.title, entry.color] = {
            **_row_of(result, entry.model),
            "epochs": details["config"]["epochs"],
            **_size_of(entry),
            "calibration_error": statistics.fmean(details.get("calibration_error", [math.nan])),
            "is_stale": is_stale(result),
        }
    for color in models.CHANNELS:
        if result := results.read(f"linear-{entries.LINEAR}-{color}"):
            rows[entries.LINEAR.replace("-", " ") + ", linear", color] = {
                **_row_of(result, entries.LINEAR),
                "is_stale": is_stale(result),
            }
    columns = ["accuracy", "sd", "n", "epochs", "parameters", "multiply_adds", "training"]
    columns += ["minutes", "trained_on", "milliseconds", "images_per_second", "megabytes"]
    columns += ["calibration_error", "data_kind", "is_stale"]
    index = pd.MultiIndex.from_tuples(rows, names=["model", "color"])
    table = pd.DataFrame(list(rows.values()), index, columns)
    numbers = table.columns.difference(["n", "trained_on", "data_kind", "is_stale"])
    return table.astype(dict.fromkeys(numbers, float)).sort_values(["color", "accuracy"])


def _row_of(result: results.Result, model: str) -> dict[str, Any]:
    predicted = results.read(f"prediction-{model.replace('_', '-')}")
    if predicted and is_stale(predicted):
        predicted = None
    details = predicted.details if predicted else {}
    is_shared = any(count != 1 for count in result.details.get("num_at_once", []))
    is_mixed = is_shared or "; " in result.hardware  # of several machines
    return {
        "accuracy": result.mean,
        "sd": result.sd,
        "n": len(result.values),
        "minutes": math.nan if is_mixed else result.seconds / 60 / len(result.values),
        "trained_on": result.hardware,
        "data_kind": result.data_kind,
        "milliseconds": statistics.median(details["milliseconds"]) if predicted else None,
        "images_per_second": statistics.median(predicted.values) if predicted else None,
        "megabytes": details.get("megabytes"),
    }


def _size_of(entry: Entry) -> dict[str, float]:
    if entry.model not in models.DESIGNS:
        return {}
    parameters, multiply_adds = entries.counts(models.find(entry.model), entry.color)
    size = {"parameters": parameters, "multiply_adds": multiply_adds, "training": math.nan}
    with contextlib.suppress(InputError):  # of a recipe that is no more
        size["training"] = entry.cost()
    return size


def table() -> str:
    """Return the overview as Markdown, with what has not been run at its end.

    Stale records are marked, and several kinds of data.
    """
    lines = [
        "| model, recipe | colour | test accuracy (%) | parameters | 10⁶ multiply-adds an image "
        "| 10¹² multiply-adds to train | ms an image |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    rows = overview()
    are_alike = rows["data_kind"].nunique() < 2
    for (model, color), row in rows.iterrows():
        mark = "" if are_alike else f" ({row['data_kind']})"
        mark += " (stale: of other code)" if row["is_stale"] else ""
        accuracy = results.in_percent(row["accuracy"], row["sd"], row["n"])
        lines.append(_line(model + mark, color, accuracy, row))
    for entry in entries.ENTRIES:
        if (entry.title, entry.color) not in rows.index:
            lines.append(_line(entry.title, entry.color, "not run", _size_of(entry)))
    return "\n".join(lines)


def _line(model: str, color: str, accuracy: str, row: Mapping[str, float]) -> str:
    figures = (
        _told(row["parameters"], ",.0f"),
        _told(row["multiply_adds"] / 1e6, ",.1f"),
        _told(row["training"] / 1e12, ",.0f"),
        _told(row.get("milliseconds", math.nan), ",.1f"),
    )
    return f"| {model} | {color} | {accuracy} | {' | '.join(figures)} |"


def _told(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def races() -> pd.DataFrame:
    """Return what came of the recorded races of the fast recipe, as it is, and another program.

    Returns:
        Two rows for each race, ours and the other's: mean accuracy (percent) looking ``once`` and
        ``six times``, each with its ``sd``, the median ``seconds`` of training, its ``fastest``
        and ``slowest``, and ``n``. NaN for what is not recorded.
    """
    rows = {}
    for race in results.read_all():
        if not race.name.startswith("benchmark-fast") or is_stale(race):
            continue
        for side, key in (("ours", "ours"), (race.details["peer"], "peer")):
            columns = {
                name: pd.Series(race.details.get(f"{key}_{name}", []), dtype=float)
                for name in ("accuracy", "accuracy_with_views", "seconds")
            }
            once, six_times, seconds = columns.values()
            rows[race.name.removeprefix("benchmark-"), side] = {
                "once": once.mean() * 100,
                "sd": once.std() * 100,
                "six times": six_times.mean() * 100,
                "sd of six": six_times.std() * 100,
                "seconds": seconds.median(),
                "fastest": seconds.min(),
                "slowest": seconds.max(),
                "n": len(seconds),
            }
    return pd.DataFrame.from_dict(rows, orient="index")
