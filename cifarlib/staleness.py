"""Which records are about other code or another configuration than today's.

A record of a network, a race, a linear model, a prediction, an assignment or another benchmark
holds a digest of what decides its figures; here it is compared with today's. Not for an ablation,
whose variants its benchmark alone knows, and does not ask, nor for times of a chapter, which are
about the day they were measured.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from cifarlib import classical, entries, models, recipes, results, timed, training
from cifarlib.errors import InputError


def is_stale(result: results.Result) -> bool:
    """Tell whether a record is about other code or another configuration than today's.

    One of ``_QUESTIONS``: that of a network, a race, a linear model, how fast a model predicts, or
    of code that is timed, that of a graded assignment among it.
    For races and times of training, how networks are computed counts as well.
    """
    return _question(result)(result)


def stale(recorded: Iterable[results.Result]) -> set[str]:
    """Return the names of the results that are stale.

    Times of chapters and the like cannot be, and whether an ablation is nobody asks.
    """
    asked = ((result, _question(result)) for result in recorded)
    return {result.name for result, question in asked if question and question(result)}


def _question(result: results.Result) -> Callable[[results.Result], bool] | None:
    """Return what tells whether such a record is stale, None if its kind cannot be."""
    return next(
        (question for kind, question in _QUESTIONS.items() if result.name.startswith(kind)), None
    )


def _is_network_stale(result: results.Result) -> bool:
    entry = entries.entry_of(result)
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
    if model == entries.LINEAR:
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


def _is_timed_stale(result: results.Result) -> bool:
    details = result.details
    try:
        today = timed.code(*details["code_of"])
        if "optimizer" in details:
            today |= training.learning_digests(details["optimizer"])
    except (KeyError, OSError, SyntaxError, ValueError):  # of what is no more, or half edited
        return True
    return any(details.get(field) != value for field, value in today.items())


# By the beginning of a record's name.
_QUESTIONS: dict[str, Callable[[results.Result], bool]] = {
    "network-": _is_network_stale,
    "benchmark-fast": _is_race_stale,
    "linear-": _is_linear_stale,
    "prediction-": _is_prediction_stale,
    "assignment-": _is_timed_stale,
    "benchmark-": _is_timed_stale,  # after that of races
}
