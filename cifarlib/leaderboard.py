"""Every network's recorded accuracy: what is to be measured, what is missing, and measuring it.

An entry is a network, a colour and a recipe, trained with several seeds; its record under
``results/`` grows by a seed at a time, on whatever machine there is. Each finished run looks at the
test set, which chooses no epoch and no recipe. (But for ``muon`` it said where one more recipe was
wanted: the modern one had missed a claim. Chapter 6 says so.) Of the races of chapter 7, which
`benchmarks/fast.py` runs, there is a table.
"""

import contextlib
import functools
import hashlib
import inspect
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cifarlib import (
    at_once,
    classical,
    data,
    devices,
    models,
    recipes,
    results,
    run_report,
    settings,
    training,
)
from cifarlib.errors import InputError

SEEDS = (0, 1, 2)
# A value a seed, each a list in the record's details.
OF_RUN = (
    *("epochs", "best_epoch", "validation_accuracy", "seconds", "images_per_second"),
    *("precision", "backend", "accelerators", "hardware", "versions"),
)
OF_TEST = ("cross_entropy", "calibration_error", "temperature", "calibration_error_scaled")
RECORDED = (*OF_RUN, *OF_TEST, "answers", "commit")
LINEAR = "mirrored-patches"  # the best linear model, of `classical`


class Entry(NamedTuple):
    """What is trained, and how.

    Attributes:
        model: a key of the registry.
        color: ``"gray"`` or ``"rgb"``.
        recipe: one of ``recipes.NAMES``.
        seeds: different whole numbers.
    """

    model: str
    color: str = "rgb"
    recipe: str = "modern"
    seeds: tuple[int, ...] = SEEDS

    @property
    def name(self) -> str:
        """Return the name of its record."""
        return f"network-{self.model.replace('_', '-')}-{self.color}-{self.recipe}"

    @property
    def title(self) -> str:
        """Return how tables name it, beside its colour."""
        return f"{self.model}, {self.recipe}"

    @property
    def command(self) -> str:
        """Return the command that measures it again."""
        seeds = "" if self.seeds == SEEDS else f" --seeds {' '.join(map(str, self.seeds))}"
        return (
            f"python benchmarks/networks.py {self.model} --color {self.color} "
            f"--recipe {self.recipe}{seeds} --record"
        )

    def config(self, seed: int) -> training.Config:
        """Return the configuration of one of its runs."""
        recipe = recipes.find(self.recipe, self.model)
        return training.Config(self.model, color=self.color, seed=seed, **recipe)

    def cost(self) -> float:
        """Return the multiply-adds of training one seed, to compare entries with."""
        return cost(self.config(self.seeds[0]))


def cost(config: training.Config) -> float:
    """Return the multiply-adds of training once on CIFAR-10, to compare trainings with."""
    sizes = Counter(config.image_size(epoch + 1) for epoch in range(config.epochs))
    of_sizes = sum(n * _counts(config.design, config.color, size)[1] for size, n in sizes.items())
    return 3.0 * of_sizes * (1 - config.validation_fraction) * 50_000


@functools.cache  # a table asks for each network several times
def _counts(
    design: models.Design | Callable[..., Any], color: str, size: int = models.IMAGE_SIZE
) -> tuple[int, int]:
    """Return a network's parameters, and its multiply-adds for an image of that size."""
    network = models.build(design, color)
    return network.count_params(), models.multiply_adds(network, size)


_FAST = tuple(model for model in models.DESIGNS if recipes.usual(model) == "fast")
_WITH_OWN_RECIPE = ("layered_cnn", "tuned_cnn", *_FAST)
# What the projects published, with their recipe; every network with the modern one; those of which
# 88 % and more are claimed with the long one, too; the one with a recipe of Muon; the networks with
# a fast recipe of their own; and that of chapters 4 and 5, whose seeds are those that these have
# trained.
ENTRIES = (
    *(Entry(model, "rgb", "published") for model in recipes.PUBLISHED),
    *(Entry(model, "gray", "published") for model in ("baseline", "baseline_regularized")),
    *(Entry(model) for model in models.DESIGNS if model not in _WITH_OWN_RECIPE),
    *(Entry(model, "gray") for model in ("baseline", "baseline_regularized")),
    *(
        Entry(model, "rgb", "long")
        for model in ("deep_cnn", "residual_cnn", "custom_cnn", "resnet18")
    ),
    Entry("custom_cnn", "rgb", "muon"),
    *(Entry(model, color, "fast") for model in _FAST for color in ("rgb", "gray")),
    Entry("tuned_cnn", "gray", "tuned", (1, 2, 3, 4, 5)),
    Entry("tuned_cnn", "rgb", "tuned", (1, 2, 3, 4, 5)),
)


def records() -> list[results.Result]:
    """Return what is recorded of networks, by colour and accuracy."""
    found = [result for result in results.read_all() if result.name.startswith("network-")]
    return sorted(found, key=lambda result: (result.color, result.mean))


def answers() -> dict[Entry, np.ndarray]:
    """Return the recorded answers to the test images of the data set in use.

    Returns:
        Integers of shape (seeds, n) for each record; none for records of other images, whose
        order is another.
    """
    description = data.current()
    return {
        entry_of(result): np.array([list(row) for row in result.details["answers"]], int)
        for result in records()
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
    for entry, result in _fresh().items():
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


def _fresh() -> dict[Entry, results.Result]:
    """Return the records of today's code and configurations."""
    return {entry_of(result): result for result in records() if not is_stale(result)}


def overview() -> pd.DataFrame:
    """Return what each approach earns and costs: all recorded networks, and the linear model.

    Returns:
        A row for each record, by colour and accuracy, named ``"model, recipe"``, with ``color``,
        ``accuracy`` and its ``sd`` (fractions), ``n``, ``epochs``, ``parameters``,
        ``multiply_adds`` of an image, those of ``training`` a seed, its ``minutes`` and what it
        was ``trained_on``,
        ``milliseconds`` for one image on one core, ``images_per_second`` on one core in
        batches, ``megabytes`` on disk, ``calibration_error`` (a fraction), ``data_kind``, and
        ``is_stale``.
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
        if result := results.read(f"linear-{LINEAR}-{color}"):
            rows[LINEAR.replace("-", " ") + ", linear", color] = {
                **_row_of(result, LINEAR),
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
    return {
        "accuracy": result.mean,
        "sd": result.sd,
        "n": len(result.values),
        "minutes": result.seconds / 60 / len(result.values),
        "trained_on": result.hardware,
        "data_kind": result.data_kind,
        "milliseconds": statistics.median(details["milliseconds"]) if predicted else None,
        "images_per_second": statistics.median(predicted.values) if predicted else None,
        "megabytes": details.get("megabytes"),
    }


def _size_of(entry: Entry) -> dict[str, float]:
    if entry.model not in models.DESIGNS:
        return {}
    parameters, multiply_adds = _counts(models.find(entry.model), entry.color)
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
    for entry in ENTRIES:
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


class Claim(NamedTuple):
    """What a project says of a model, and what its own files show.

    Attributes:
        model: a key of the registry.
        color: ``"gray"`` or ``"rgb"``.
        claimed: test accuracy as published, None if none is.
        evidence: what the stored outputs show, None if nothing does.
        told: where the two come from.
        is_design_known: whether the layers are published, or fixed by what is.
    """

    model: str
    color: str
    claimed: float | None
    evidence: float | None
    told: str
    is_design_known: bool = True


# Gathered from the pages and notebooks of five public projects; chapter 6 judges them.
CLAIMS = (
    Claim("baseline", "gray", 0.654, 0.654, "last epoch; 69.1 % in the best, chosen on test"),
    Claim("baseline_regularized", "gray", 0.637, 0.637, "the course's final model"),
    Claim("baseline_regularized", "rgb", 0.692, 0.692, "the same in colour"),
    Claim("small_cnn", "rgb", 0.73, None, 'published as "0.73 %"'),
    Claim("small_cnn_two_blocks", "rgb", 0.73, None, "which of the two it was is unknown"),
    Claim("vgg6", "rgb", None, 0.723, "on validation images; 98.3 % on training images"),
    Claim("vgg6_dropout", "rgb", 0.83, 0.79, '"on unseen" images: 15 of 18; stored output'),
    Claim("residual_cnn", "rgb", 0.887, None, "layers unpublished, ours match its counts"),
    Claim("dense_net", "rgb", None, 0.4671, "stored output"),
    Claim("deep_cnn", "rgb", 0.884, None, "layers unpublished, design ours", False),
    Claim("custom_cnn", "rgb", 0.933, None, "layers unpublished, design ours", False),
    Claim("resnet18", "rgb", 0.9331, 0.9331, "its confusion matrix has 9,331 on the diagonal"),
)
# What figures lose on a re-encoded copy, as far as is known: the record of 2024, airbench94_muon,
# reaches 94.0 % on the official data and 90.7 % on the JPEG copy, in colour and with six views.
# For other networks, and for gray, the same is assumed.
COPY_HANDICAP = 0.033


def verdicts() -> pd.DataFrame:
    """Return each claim beside what was measured, with the better of the recipes tried.

    Which recipe is better is for `better_recipes` to say.

    Returns:
        A row for each of ``CLAIMS`` by ``model`` and ``color``: ``claimed`` and ``evidence``
        (fractions, NaN for none), ``needed`` for the claim to hold on these images,
        ``measured``, ``sd``, ``n``, ``recipe``, ``as_published``, which is what the published
        recipe reached on the same images, better or not, and ``verdict``: ``"holds"``,
        ``"does not hold"``, ``"cannot be checked"`` or ``"not run"``.
    """
    chosen = {(entry.model, entry.color): result for entry, result in better_recipes().items()}
    published = {
        (entry.model, entry.color): result
        for entry, result in _fresh().items()
        if entry.recipe == "published"
    }
    rows = {}
    for claim in CLAIMS:
        found = chosen.get((claim.model, claim.color))
        tried = published.get((claim.model, claim.color))
        are_same_images = tried and found.data_fingerprint == tried.data_fingerprint
        rows[claim.model, claim.color] = {
            "claimed": claim.claimed,
            "evidence": claim.evidence,
            "needed": found and _needed(claim, found),
            "measured": found and found.mean,
            "sd": found and found.sd,
            "n": len(found.values) if found else 0,
            "recipe": entry_of(found).recipe if found else "",
            "as_published": tried.mean if are_same_images else None,
            "verdict": _verdict(claim, found),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "color"])
    numbers = ["claimed", "evidence", "needed", "measured", "sd", "as_published"]
    return table.astype(dict.fromkeys(numbers, float))


def _verdict(claim: Claim, found: results.Result | None) -> str:
    if not claim.is_design_known:
        return "cannot be checked"
    if found is None:
        return "not run"
    return "holds" if found.mean >= _needed(claim, found) else "does not hold"


def _needed(claim: Claim, found: results.Result) -> float:
    handicap = COPY_HANDICAP if found.data_kind == "JPEG copy" else 0
    return (claim.evidence if claim.claimed is None else claim.claimed) - handicap


class OutOfTimeError(Exception):
    """The time budget is spent; the run's checkpoint is kept."""


def measure(entry: Entry, seed: int, deadline: float | None = None) -> dict[str, Any]:
    """Train a seed of an entry, unless it has been trained, and judge it on the test set.

    Args:
        entry: what to train.
        seed: the seed.
        deadline: value of ``time.monotonic`` after which no further epoch is begun.

    Returns:
        The figures, with ``accuracy`` and, a digit an image, ``answers``; whether an epoch of it
        ``is_new``, trained in this call; and the digest of the ``code`` that this process runs.

    Raises:
        OutOfTimeError: at the deadline; asked again, training goes on from there.
    """
    is_new = False

    def stop(row: dict[str, float]) -> None:
        nonlocal is_new
        is_new = True
        if deadline is not None and time.monotonic() > deadline and row["epoch"] < config.epochs:
            raise OutOfTimeError

    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTimeError
    config = entry.config(seed)
    commit = results.current_commit()  # now: somebody may commit while it trains
    run = training.train(config, kept_in=kept_runs(), on_epoch=stop)
    judged = run_report.evaluate(run.folder)
    return {
        "accuracy": judged.figures["accuracy"],
        **{field: run.metrics[field] for field in OF_RUN},
        **{field: judged.figures[field] for field in OF_TEST},
        "answers": "".join(map(str, judged.answers)),
        "commit": commit if is_new else None,  # a kept run does not tell
        "is_new": is_new,
        "code": training.code_digest(config),
    }


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
        command=entry._replace(seeds=tuple(rows)).command,
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
    if found is None or is_stale(found):
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


def is_stale(result: results.Result) -> bool:
    """Tell whether a record is about other code or another configuration than today's.

    One of ``_QUESTIONS``: that of a network, a race, a linear model or how fast a model predicts.
    For a race, how networks are computed counts as well.
    """
    return _question(result)(result)


def stale(recorded: Iterable[results.Result]) -> set[str]:
    """Return the names of the results that are stale.

    Times of chapters and the like cannot be, and of an ablation only its benchmark knows.
    """
    asked = ((result, _question(result)) for result in recorded)
    return {result.name for result, question in asked if question and question(result)}


def _question(result: results.Result) -> Callable[[results.Result], bool] | None:
    """Return what tells whether such a record is stale, None if its kind cannot be."""
    return next(
        (question for kind, question in _QUESTIONS.items() if result.name.startswith(kind)), None
    )


def _is_network_stale(result: results.Result) -> bool:
    entry = entry_of(result)
    try:
        config = entry.config(result.seeds[0])
    except InputError:  # of a model or a recipe that is no more
        return True
    return result.details.get("code") != training.code_digest(config)


def _is_linear_stale(result: results.Result) -> bool:
    rung = result.name.removeprefix("linear-").removesuffix(f"-{result.color}").replace("-", " ")
    is_known = rung in classical.RUNGS
    return not is_known or result.details.get("code") != classical.code_digest(rung)


def _is_prediction_stale(result: results.Result) -> bool:
    """Tell whether it was another design, or other features, that predicted."""
    try:
        model = str(result.details.get("model"))
        return result.details.get("code") != prediction_digest(model)
    except InputError:  # of a model that is no more
        return True


def prediction_digest(model: str) -> str:
    """Return what tells apart what a model computes, whatever its weights."""
    if model == LINEAR:
        return classical.code_digest(model.replace("-", " "))
    return _design_digest(models.find(model))


@functools.cache
def _design_digest(design: models.Design | Callable[..., Any]) -> str:
    network = models.build(design)
    kinds = {type(layer) for layer in network._flatten_layers()}
    # What a training's digest has of the engine.
    ours = sorted(
        inspect.getsource(kind) for kind in kinds if kind.__module__.startswith("cifarlib")
    )
    told = "".join([training.design_digest(network), *ours])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _is_race_stale(result: results.Result) -> bool:
    """Tell whether a race is about another fast recipe than today's, but for what it was asked."""
    details = result.details
    asked = ("model", "color", "epochs", "image_sizes", "validation_fraction")
    try:
        changed = {field: details["config"][field] for field in asked}
        config = training.Config(**{**recipes.find("fast", changed["model"]), **changed})
    except (InputError, KeyError):  # of a model that is no more
        return True
    digests = {"code": training.code_digest(config), "kernels": training.kernels_digest()}
    return any(details.get(field) != digest for field, digest in digests.items())


# By the beginning of a record's name.
_QUESTIONS: dict[str, Callable[[results.Result], bool]] = {
    "network-": _is_network_stale,
    "benchmark-fast": _is_race_stale,
    "linear-": _is_linear_stale,
    "prediction-": _is_prediction_stale,
}


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


def entry_of(result: results.Result) -> Entry:
    """Return the entry that a record is about.

    Raises:
        InputError: if it does not tell its network.
    """
    try:
        model = result.details["config"]["model"]
    except (KeyError, TypeError) as error:
        path, advice = results.folder() / f"{result.name}.json", "Restore it, or measure again."
        raise InputError(path, "the configuration of a network", "none", advice) from error
    return Entry(model, result.color, result.name.rpartition("-")[2], result.seeds)


def missing(entries: Iterable[Entry] = ENTRIES) -> list[tuple[Entry, int]]:
    """Return what is not recorded, or stale: entries and seeds, in the order to train them.

    Cheapest first, and a further seed of an entry waits for the first ones of entries that cost
    up to four times as much.

    >>> missing([])
    []
    """
    lacking = []
    for entry in entries:
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
        What `measure` found, or what it raised, for each of the pairs that has come to its end.
    """
    deadline = None if time_budget is None else time.monotonic() + time_budget
    data.load_cifar10()
    if is_recorded:
        results.check_recordable()
    say(f"{data.current()}\n{devices.describe()}")
    calls = [(entry, seed, deadline) for entry, seed in pairs]
    measured, is_out_of_time = {}, False
    for place, row, error in at_once.each(measure, calls, num_jobs):
        entry, seed = pairs[place]
        if error is None:
            measured[entry, seed] = row
            say(told(entry, seed, row))
            if is_recorded and row["code"] != training.code_digest(entry.config(seed)):
                # In a process of its own, which imported it later.
                say(
                    f"{entry.name}, seed {seed}: not recorded, since code that decides it was "
                    "edited meanwhile; the same command records it."
                )
            elif is_recorded:
                # At most so many; beside a kept run, nobody has written down how many.
                count = min(num_jobs, len(calls)) if row["is_new"] else None
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
