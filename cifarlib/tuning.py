"""Searching for a good network: layers and recipe at once, judged on validation images.

Optuna proposes, `training` trains, and every trial is written to a journal file, so that a
study may be stopped, continued, and joined by other processes. The test set is not known here.
Not for grids over scikit-learn's models (`search`).
"""

import dataclasses
import gc
import json
import numbers
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import optuna
import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from cifarlib import (
    data,
    devices,
    experiments,
    files,
    layered,
    models,
    progress,
    schedules,
    studies,
    training,
)
from cifarlib.errors import CifarlibError, InputError, nearest
from cifarlib.splits import Split

LAYERS: dict[str, BaseDistribution] = {
    "depth": IntDistribution(1, 3),
    "width": CategoricalDistribution([16, 32, 48, 64]),
    "max_width": CategoricalDistribution([64, 128, 256]),
    "kernel": CategoricalDistribution([3, 5]),
    "pooling": CategoricalDistribution(layered.POOLINGS),
    "batch_normalization": CategoricalDistribution([False, True]),
    "dropout": FloatDistribution(0.0, 0.4, step=0.1),
    "ending": CategoricalDistribution(layered.ENDINGS),
    "dense": CategoricalDistribution([0, 64, 128, 256]),
    "dense_dropout": FloatDistribution(0.0, 0.5, step=0.1),
}
RECIPE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
    "schedule": CategoricalDistribution(schedules.NAMES),
    "augmentation_strength": FloatDistribution(0.0, 1.5, step=0.25),
}
# Trials that are judged against the median before it means anything would be pruned by chance.
NUM_UNPRUNED = 5
WAIT_SECONDS = 1.0  # between looks at what other processes still do
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


class Tuning(NamedTuple):
    """What `tune` returns.

    Attributes:
        trials: a row a trial, counted from 0, the default: ``state`` (finished, pruned, failed,
            running, waiting), ``accuracy`` on validation images in its best epoch, ``epochs``
            trained, ``seconds``, ``why`` it was pruned or failed, and a column for each parameter.
        study: Optuna's own object, for all that Optuna can do with it.
        space: what was searched.
        start: what it started from; its budget is that of a trial.
        default: the parameters of trial 0, and of its next try if its process was killed.
        images: the data set that was searched on; None for images of one's own.
    """

    trials: pd.DataFrame
    study: optuna.Study
    space: dict[str, BaseDistribution]
    start: training.Config
    default: dict[str, Any]
    images: data.Description | None = None

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.counts().items())
        lines = [
            f"{counts}; {self.trials['seconds'].sum():.0f} s, pruning saved about "
            f"{self.seconds_saved():.0f} s",
            f"Best: trial {self.best_trial}, {self.best_value:.2%} on validation images",
        ]
        if (default := _value_of_default(self)) is not None:
            lines.append(f"Default: {default:.2%}")
        return "\n".join(lines)

    def config(self, number: int) -> training.Config:
        """Return the configuration of a trial.

        Raises:
            InputError: if there is no such trial.
        """
        if number not in self.trials.index:
            told = f"a number up to {self.trials.index.max()}"
            raise InputError("trial", told, repr(number), "Look into .trials.")
        params = studies.asked(self.study.trials[number]) if number else self.default
        return _config(self.start, params)

    @property
    def best(self) -> training.Config:
        """Return the configuration of the best trial."""
        return self.config(self.best_trial)

    @property
    def best_trial(self) -> int:
        """Return the number of the best trial."""
        return int(self.finished().idxmax())

    @property
    def best_value(self) -> float:
        """Return the accuracy of the best trial."""
        return float(self.finished().max())

    def finished(self) -> pd.Series:
        """Return the accuracies of the trials that finished, by number.

        The study itself may know more by now, if other processes go on with it.
        """
        return self.trials[self.trials["state"] == "finished"]["accuracy"].astype(float)

    def counts(self) -> dict[str, int]:
        """Return how many trials ended in which state."""
        return self.trials["state"].value_counts().to_dict()

    def seconds_saved(self) -> float:
        """Return what pruned trials would have gone on to cost, at their own speed."""
        pruned = self.trials[(self.trials["state"] == "pruned") & (self.trials["epochs"] > 0)]
        left = self.start.epochs - pruned["epochs"]
        return float((pruned["seconds"] / pruned["epochs"] * left).sum())

    def importance(self) -> pd.Series:
        """Return how much each parameter by itself made trials differ, largest first (fANOVA).

        Of the trials that were not pruned, scaled to a sum of 1; what only several together did is
        left out. Hutter et al., 2014.

        Raises:
            CifarlibError: if there are fewer than four, which say nothing.
        """
        if self.counts().get("finished", 0) < 4:
            raise CifarlibError("importance: at least four finished trials are needed.")
        with studies.quiet():
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            try:
                shares = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
            except RuntimeError as error:  # no variance at all
                told = "importance: all finished trials are equally good."
                raise CifarlibError(told) from error
        return pd.Series(shares, name="importance").sort_values(ascending=False)


def space_for(
    model: str | Callable, space: Mapping[str, BaseDistribution] | Sequence[str] | None = None
) -> dict[str, BaseDistribution]:
    """Return what is searched for a model: of ``RECIPE``, and of ``LAYERS`` if it has numbers.

    Args:
        model: as in `training.Config`.
        space: names out of the two, or distributions of your own by the names of fields of
            `layered.LayeredCNN` and `training.Config`; None for all that applies.

    Raises:
        InputError: for a name that cannot be searched, with the valid ones.
    """
    standard = {**(LAYERS if _layers(model) else {}), **RECIPE}
    if space is None:
        return standard
    fixed = {"model", "seed", "color", "train_size", "validation_fraction", "epochs"}
    fields = {field.name for field in dataclasses.fields(training.Config)} - fixed
    if _layers(model):
        fields |= {field.name for field in dataclasses.fields(layered.LayeredCNN)}
    is_named = not isinstance(space, Mapping)
    known = standard if is_named else sorted(fields)
    if isinstance(space, str) or not len(space):
        told, advice = "parameters to search", "Name some, or None for all."
        raise InputError("space", told, repr(space), advice)
    for name in space:
        if name not in known:
            told = f"any of {', '.join(known)}"
            raise InputError("space", told, repr(name), nearest(name, known))
    return {name: standard[name] for name in space} if is_named else dict(space)


def variant(start: training.Config, /, **changes: Any) -> training.Config:
    """Return a configuration with other layers or another recipe, by the names of a search.

    Raises:
        InputError: for a name that cannot be searched, or a value that does not fit.

    >>> variant(training.Config("layered_cnn"), width=48, learning_rate=0.01).model.width
    48
    """
    if changes:
        space_for(start.model, dict.fromkeys(changes))
    return _config(start, changes)


def tune(
    start: training.Config,
    space: Mapping[str, BaseDistribution] | Sequence[str] | None = None,
    *,
    num_trials: int = 40,
    time_budget: float | None = None,
    journal: str | Path | None = None,
    max_multiply_adds: int | None = None,
    train_split: Split | None = None,
    on_trial: Callable[[FrozenTrial], None] | None = None,
) -> Tuning:
    """Search for layers and recipe with the highest validation accuracy.

    Tree-structured Parzen estimators propose (Bergstra et al., 2011), and a trial whose best
    accuracy so far is below the median of the finished ones' at that epoch is pruned. A proposal
    depends on the seed, the trial's number and the trials before it, so that a study that was
    stopped goes on as if it had not been. A trial that diverges or runs out of memory is recorded
    as failed; one whose process was killed is tried again, where the same machine goes on: of
    another machine's processes nobody here knows whether they live. After each trial
    `keras.utils.clear_session` frees its memory; what `keras.config.set_dtype_policy` had set is
    Keras's default again.

    Args:
        start: trial 0, the default, and all that is not searched: colour, epochs, train_size,
            seed. Its model is a registered name, a file of `write`, or a design by numbers; the
            layers of the latter two are searched as well.
        space: see `space_for`; where the rate is one of those, and that of the start is of another
            size, as of the fast networks, as many rates around it are searched.
        num_trials: trials that the study shall have in the end, with those of earlier calls;
            the last ones of other processes on this machine are waited for.
        time_budget: seconds after which this call begins no further trial.
        journal: the study's file, made if need be; None to keep nothing.
        max_multiply_adds: larger networks than this, see `models.multiply_adds`, are pruned
            without training; the default never.
        train_split: see `training.train`.
        on_trial: called with Optuna's record of each trial that ended, and of each that is
            waited for.

    Raises:
        InputError: if a number or the space does not fit, the start holds no validation images
            out, or the journal holds another study or is damaged.
        CifarlibError: if no trial has finished.
    """
    _check_numbers(num_trials, time_budget, max_multiply_adds)
    is_own = isinstance(space, Mapping)
    space = {name: _kept_as(each) for name, each in space_for(start.model, space).items()}
    if "learning_rate" in space and not is_own:
        space["learning_rate"] = _rates(start.learning_rate)
    default = _default(start, space)
    asked = {
        **start.as_json(),
        "model": _model_json(start.model),
        **{f"space of {name}": in_words(distribution) for name, distribution in space.items()},
        "max_multiply_adds": max_multiply_adds,
        "data": training.data_digest(train_split),
    }
    if callable(start.model) and not _layers(start.model):  # a name says nothing of what it does
        asked["design"] = training.design_digest(models.build(start.model, start.color))
    pruner = optuna.pruners.MedianPruner(NUM_UNPRUNED, n_warmup_steps=start.epochs // 3)
    tell = on_trial or (lambda trial: None)
    began = time.monotonic()
    with studies.quiet():
        study = studies.begin(journal, asked, pruner)
        earlier = sum(trial.user_attrs.get("seconds", 0) for trial in study.get_trials())
        progress.remember(journal, earlier)
        awaited: set[int] = set()
        while time_budget is None or time.monotonic() - began < time_budget:
            with studies.alone(journal):
                begun, trial = studies.begun(study, default)[:num_trials], None
                if len(begun) < num_trials:
                    studies.check_same(study, asked, journal)
                    trial = studies.ask(study, space, default, start.seed)
            if trial:
                limit = None if trial.params == default else max_multiply_adds
                _run(study, trial, start, limit, train_split)
                tell(study.trials[trial.number])
            elif running := studies.running_elsewhere(begun):
                for other in running:
                    if other.number not in awaited:
                        tell(other)
                awaited.update(other.number for other in running)
                time.sleep(WAIT_SECONDS)
            else:
                break
        images = data.current() if train_split is None else None
        return _outcome(study, start, space, default)._replace(images=images)


def finals(
    tuning: Tuning,
    count: int,
    seeds: Sequence[int],
    *,
    also: Mapping[str, Mapping[str, Any]] | None = None,
    train_split: Split | None = None,
    kept_in: str | Path | None = None,
    **budget: Any,
) -> experiments.Comparison:
    """Train the default and the best trials again, with other seeds and another budget.

    The best of many trials is best partly by luck, and what learns fastest need not go furthest.

    Args:
        tuning: the search.
        count: how many of its best trials, of those that tried the same the first.
        seeds: numbers that the search has not used.
        also: ideas that the search has not had, by a name each: what each changes, see `variant`.
        train_split: see `training.train`.
        kept_in: see `training.train`.
        **budget: fields of `training.Config` that are to be other than in the search, such as
            ``epochs`` and ``train_size``.

    Returns:
        A comparison of ``"default"`` with ``"trial N"``, best trial first, and with the ideas.

    Raises:
        InputError: if a seed is that of the search, or an idea does not fit or is called like
            another finalist.
    """
    if tuning.start.seed in seeds:
        raise InputError("seeds", "others than the search's", str(list(seeds)), "Change them.")
    names = ["default", *(f"trial {number}" for number in _best(tuning, count)), *(also or {})]
    if len(set(names)) < len(names):
        advice = "Call the idea otherwise."
        raise InputError("also", "names that no other finalist has", str(list(also)), advice)
    variants = {
        name: dataclasses.replace(_finalist(tuning, name, also), **budget) for name in names
    }
    return experiments.compare(variants, seeds, train_split, kept_in=kept_in)


def _best(tuning: Tuning, count: int) -> list[int]:
    """Return the best trials, best first: other ones than the default, and each once."""
    known, best = [tuning.default], []
    for number in tuning.finished().sort_values(ascending=False, kind="stable").index:
        if len(best) < count and (params := tuning.study.trials[number].params) not in known:
            known.append(params)
            best.append(int(number))
    return best


def winner(comparison: experiments.Comparison) -> str:
    """Return the name of what did best in the finals, on validation images."""
    return str(comparison.table()["validation"].idxmax())


def _finalist(tuning: Tuning, name: str, also: Mapping | None) -> training.Config:
    if also and name in also:
        return variant(tuning.start, **also[name])
    return tuning.config(0 if name == "default" else int(name.removeprefix("trial ")))


def write(
    tuning: Tuning,
    path: str | Path,
    command: str,
    *,
    final: experiments.Comparison | None = None,
    also: Mapping[str, Mapping[str, Any]] | None = None,
    epochs: int | None = None,
) -> None:
    """Write what was found as a file that stands for a model, see `layered.read`.

    The recipe is what the search decided and what its start said otherwise than
    `training.Config` does; but not the budget of a trial (epochs, train_size, patience), nor
    seed, colour and number of devices.

    Args:
        tuning: the outcome.
        path: where to write.
        command: the command line that repeats the search.
        final: the finals, to write their winner instead of the best trial.
        also: the ideas that `finals` was given.
        epochs: for how long the recipe is to train; None to leave that to `training.Config`.

    Raises:
        InputError: if the model is a design of one's own, which no file can stand for.
    """
    name = f"trial {tuning.best_trial}" if final is None else winner(final)
    chosen = _finalist(tuning, name, also)
    if callable(chosen.model) and not _layers(chosen.model):
        told, advice = "a registered name or a design by numbers", "Keep the function, too."
        raise InputError("model", told, f"the function {chosen.model_name}", advice)
    budget = ("model", "seed", "color", "epochs", "train_size", "patience", "num_devices")
    recipe = {}
    for field in dataclasses.fields(training.Config):
        value = getattr(chosen, field.name)
        is_other = field.name not in budget and value != field.default
        if is_other or field.name in (*tuning.space, *(also or {}).get(name, ())):
            recipe[field.name] = list(value) if isinstance(value, tuple) else value
    if epochs is not None:
        recipe["epochs"] = epochs
    description = tuning.images
    about = {
        "command": command,
        "metric": "validation accuracy of the best epoch",
        "best_trial": tuning.best_trial,
        "best_validation_accuracy": tuning.best_value,
        "default_validation_accuracy": _value_of_default(tuning),
        "chosen": name,
        "also": also,
        "finals": None if final is None else _told_finals(final),
        "trials": tuning.counts(),
        "seconds": float(tuning.trials["seconds"].sum()),
        "seconds_saved_by_pruning": tuning.seconds_saved(),
        "asked": json.loads(tuning.study.user_attrs["asked"]),
        "data_kind": description.kind if description else "own images",
        "data_fingerprint": description.fingerprint if description else None,
        "hardware": devices.describe(),
        "accelerators": devices.accelerators(),
        "versions": {**devices.versions(), "optuna": optuna.__version__},
    }
    model = _model_json(chosen.model)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_json(Path(path), {"model": model, "recipe": recipe, "search": about})


def told(trial: FrozenTrial) -> str:
    """Return what became of a trial, in a line."""
    if trial.state == TrialState.RUNNING:
        return f"trial {trial.number}: waiting for the process that is running it"
    row = _row(trial, trial.params)
    accuracy = "" if row["accuracy"] is None else f" {row['accuracy']:.2%}"
    why = f" ({row['why']})" if row["why"] else ""
    params = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.params.items()
    )
    return f"trial {trial.number}: {row['state']}{why}{accuracy}, {row['seconds']:.0f} s; {params}"


def _told_finals(final: experiments.Comparison) -> dict[str, Any]:
    def in_short(run) -> dict[str, Any]:
        asked = ("seed", "epochs", "train_size")
        about = {name: run.metrics["config"][name] for name in asked}
        return {**about, "validation_accuracy": run.metrics["validation_accuracy"]}

    return {name: [in_short(run) for run in finished] for name, finished in final.runs.items()}


def _check_numbers(num_trials, time_budget, max_multiply_adds) -> None:
    for name, value, least in (
        ("num_trials", num_trials, 1),
        ("time_budget", time_budget, 0),
        ("max_multiply_adds", max_multiply_adds, 1),
    ):
        is_counted = name == "num_trials"
        kind = numbers.Integral if is_counted else numbers.Real
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        is_optional = value is None and not is_counted
        if not is_optional and not (is_number and value >= least):
            told = f"a {'whole ' if is_counted else ''}number from {least}"
            raise InputError(name, told, repr(value), "Correct it.")


def _layers(model: str | Callable) -> layered.LayeredCNN | None:
    """Return the design by numbers that a model is, None for any other."""
    features = model if callable(model) else models.find(model).features
    return features if isinstance(features, layered.LayeredCNN) else None


def _model_json(model: str | Callable) -> str | dict[str, Any]:
    """Return a model as JSON tells it: numbers where it has them, else its name."""
    if layers := _layers(model):
        return layers.as_json()
    return model.__name__ if callable(model) else models.find(model).name


def _kept_as(distribution: BaseDistribution) -> BaseDistribution:
    """Return a distribution as it will be read from a journal, where tuples become lists."""
    if not isinstance(distribution, CategoricalDistribution):
        return distribution
    return CategoricalDistribution([_listed(choice) for choice in distribution.choices])


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _rates(start: float) -> FloatDistribution:
    """Return the rates to search: those of ``RECIPE``, or for rates of another size as many."""
    usual = RECIPE["learning_rate"]
    if usual.low <= start <= usual.high:
        return usual
    if not start:
        advice = "Name one to search around."
        raise InputError("learning_rate", "more than 0", f"{start:g}", advice)
    return FloatDistribution(start / 10, start * 10 / 3, log=True)


def _default(start: training.Config, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    if not start.validation_fraction:
        advice = "Set it; trials are judged on them."
        raise InputError("validation_fraction", "images held out", "none", advice)
    layers = _layers(start.model)
    default = {}
    for name, distribution in space.items():
        if not isinstance(distribution, BaseDistribution):
            advice = "Write CategoricalDistribution([1, 2]) or the like."
            raise InputError(
                f"space {name}", "a distribution of Optuna", repr(distribution), advice
            )
        value = _listed(getattr(layers if hasattr(layers, name) else start, name))
        if isinstance(distribution, CategoricalDistribution):
            is_inside = value in distribution.choices
        else:
            is_number = isinstance(value, numbers.Real)
            is_inside = is_number and distribution.low <= value <= distribution.high
        if not is_inside:
            told = f"the default, {value!r}, in what is searched"
            raise InputError(
                f"space {name}",
                told,
                in_words(distribution),
                "Widen it, leave it out, or start elsewhere.",
            )
        default[name] = value
    return default


def _config(start: training.Config, params: Mapping[str, Any]) -> training.Config:
    layers = _layers(start.model)
    of_layers = {name: value for name, value in params.items() if hasattr(layers, name)}
    others = {name: value for name, value in params.items() if name not in of_layers}
    model = dataclasses.replace(layers, **of_layers) if layers else start.model
    return dataclasses.replace(start, model=model, **others)


def in_words(distribution: BaseDistribution) -> str:
    """Return what a parameter is chosen from.

    >>> in_words(LAYERS["depth"])
    '1 to 3, step 1'
    """
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    step = f", step {distribution.step:g}" if distribution.step else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}" + (
        ", logarithmic" if distribution.log else ""
    )


def _run(study: optuna.Study, trial: optuna.Trial, start, max_multiply_adds, train_split) -> None:
    """Train one trial and tell the study what became of it."""
    began = time.monotonic()

    def end(state: TrialState, accuracy: float | None = None, **why: str) -> None:
        for name, value in {**why, "seconds": time.monotonic() - began}.items():
            trial.set_user_attr(name, value)
        study.tell(trial, accuracy, state)

    def on_epoch(row: dict[str, float]) -> None:
        trial.set_user_attr("epochs", row["epoch"])
        trial.report(row["validation_accuracy"], row["epoch"])
        if row["epoch"] < start.epochs and trial.should_prune():
            raise optuna.TrialPruned

    try:
        config = _config(start, trial.params)
    except InputError as error:  # layers that leave nothing of the image
        return end(TrialState.FAIL, failed=str(error))
    try:
        if max_multiply_adds:
            network = models.build(config.model, config.color)
            if (cost := models.multiply_adds(network)) > max_multiply_adds:
                told = f"{cost / 1e6:.0f} million multiply-adds, too many"
                return end(TrialState.PRUNED, pruned=told)
        run = training.train(config, train_split, on_epoch=on_epoch)
        # Before anything is cleaned up, which may be interrupted as well.
        return end(TrialState.COMPLETE, run.metrics["validation_accuracy"])
    except optuna.TrialPruned:
        return end(TrialState.PRUNED, pruned="below the median")
    except (training.DivergedError, MemoryError) as error:
        return end(TrialState.FAIL, failed=str(error) or "out of memory")
    except Exception as error:
        if not _is_out_of_memory(error):
            end(TrialState.FAIL, failed=f"{type(error).__name__}: {error}")
            raise
        return end(TrialState.FAIL, failed="out of memory")
    except BaseException:
        trial.set_user_attr("interrupted", True)
        studies.give_up(study, trial, trial.params)
        raise
    finally:
        keras.utils.clear_session()
        gc.collect()


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether a backend says so: each has an exception of its own."""
    told = f"{type(error).__name__} {error}".lower().replace("_", " ")
    return any(
        word in told
        for word in (
            *("resource exhausted", "resourceexhausted", "outofmemory", "out of memory"),
            *("t allocate memory", "bad alloc"),
        )
    )


def _outcome(study: optuna.Study, start: training.Config, space, default) -> Tuning:
    trials = study.get_trials(deepcopy=False)
    rows = [_row(trial, space) for trial in trials]
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        reasons = [row["why"] for row in rows if row["why"]]
        told = f" The last one: {reasons[-1]}" if reasons else " Give it more time."
        raise CifarlibError(f"No trial has finished.{told}")
    table = pd.DataFrame(rows).set_index("trial")
    return Tuning(table, study, space, start, default)


def _row(trial: FrozenTrial, space) -> dict[str, Any]:
    attributes = trial.user_attrs
    why = attributes.get("pruned") or attributes.get("failed") or ""
    if studies.was_given_up(trial):
        why = "its process was killed; it was tried again"
    elif trial.state == TrialState.PRUNED and not why:
        why = "its process was killed twice"
    values = trial.intermediate_values.values()
    return {
        "trial": trial.number,
        "state": _STATES[trial.state],
        "accuracy": trial.value
        if trial.state == TrialState.COMPLETE
        else max(values, default=None),
        "epochs": attributes.get("epochs", 0),
        "seconds": attributes.get("seconds", 0.0),
        "why": why,
        **{name: trial.params.get(name) for name in space},
    }


def _value_of_default(tuning: Tuning) -> float | None:
    trials = tuning.study.get_trials(deepcopy=False)
    for number, accuracy in tuning.finished().items():
        if trials[number].params == tuning.default:
            return accuracy
    return None
