"""The search: stopped, continued, shared, killed and broken, it ends as it should."""

import dataclasses
import json
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tuning_problem as problem
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tuning_problem import SPACE, TINY, counted, make_split, search, start

from cifarlib import (
    experiments,
    layered,
    models,
    recipes,
    runs,
    studies,
    training,
    tuning,
)
from cifarlib.errors import CifarlibError, InputError

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
DEFAULT = {"width": 2, "dense_dropout": 0.0, "learning_rate": 3e-3}


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "study.journal"


@pytest.fixture(scope="module")
def whole():
    """Return a study of 14 trials that was never stopped."""
    return search(num_trials=14)


def states(tuned) -> list[str]:
    return tuned.trials["state"].tolist()


# What is searched


def test_the_default_is_trial_0(whole):
    assert whole.study.trials[0].params == DEFAULT
    assert DEFAULT not in [trial.params for trial in whole.study.trials[1:]]
    assert f"Default: {problem.score(start()):.2%}" in str(whole)


def test_equal_seeds_search_the_same_and_others_do_not(whole, journal):
    assert counted(search(journal, num_trials=14).study) == counted(whole.study)
    other = search(start=start(seed=1), num_trials=14)
    assert not {str(t.params) for t in other.study.trials[1:]} & {
        str(t.params) for t in whole.study.trials
    }


def test_the_best_is_the_configuration_of_the_best_finished_trial(whole):
    finished = whole.trials[whole.trials["state"] == "finished"]
    row = finished.loc[finished["accuracy"].idxmax()]
    assert whole.best_trial == row.name
    assert whole.best == dataclasses.replace(
        start(),
        model=dataclasses.replace(TINY, width=row["width"], dense_dropout=row["dense_dropout"]),
        learning_rate=row["learning_rate"],
    )
    assert problem.score(whole.best) == row["accuracy"] == whole.study.best_value


def test_without_a_space_everything_is_searched_that_the_model_has():
    assert list(tuning.space_for(TINY)) == [*tuning.LAYERS, *tuning.RECIPE]
    assert list(tuning.space_for("layered_cnn")) == [*tuning.LAYERS, *tuning.RECIPE]
    assert list(tuning.space_for("baseline")) == list(tuning.RECIPE)


def test_every_standard_value_is_one_that_layers_or_configuration_take():
    for name, distribution in {**tuning.LAYERS, **tuning.RECIPE}.items():
        if isinstance(distribution, CategoricalDistribution):
            values = distribution.choices
        else:
            values = (distribution.low, distribution.high)
        for value in values:
            params = {name: value}
            config = tuning._config(start(model=layered.LayeredCNN(padding="same")), params)
            assert getattr(config.model if name in tuning.LAYERS else config, name) == value


def test_what_the_registry_begins_with_is_inside_the_standard_space():
    assert tuning._default(training.Config("layered_cnn"), tuning.space_for("layered_cnn"))


def test_around_a_rate_of_nothing_nothing_is_searched():
    with pytest.raises(InputError, match="learning_rate: expected more than 0, found 0"):
        search(num_trials=1, start=start(learning_rate=0.0), space=["learning_rate"])


@pytest.mark.parametrize(("rate", "low", "high"), [(3e-3, 3e-4, 1e-2), (0.24, 0.024, 0.8)])
def test_rates_of_another_size_are_searched_around_the_default(rate, low, high):
    asked = {"start": start(learning_rate=rate), "space": ["learning_rate"]}
    trial = search(num_trials=1, **asked).study.trials[0]
    searched = trial.distributions["learning_rate"]
    assert trial.params["learning_rate"] == rate and searched.log
    assert (searched.low, searched.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("model", "space", "message"),
    [
        (TINY, ["widht"], r"any of depth, width.*schedule.*'widht'.*Did you mean width"),
        (TINY, {"widht": IntDistribution(1, 2)}, r"batch_size.*Did you mean width"),
        ("baseline", ["width"], r"any of learning_rate, schedule, augmentation_strength, found"),
        ("baseline", {"width": IntDistribution(1, 2)}, "any of .*weight_decay"),
        (TINY, {"seed": IntDistribution(1, 2)}, "any of .*found 'seed'"),
        (TINY, {"epochs": IntDistribution(1, 2)}, "any of .*found 'epochs'"),
        (TINY, {"train_size": IntDistribution(1, 2)}, "any of .*found 'train_size'"),
        (TINY, {"validation_fraction": FloatDistribution(0.1, 0.3)}, "any of .*found 'valid"),
        (TINY, {"model": CategoricalDistribution(["vgg6"])}, "any of .*found 'model'"),
        (TINY, {"color": CategoricalDistribution(["rgb", "gray"])}, "any of "),
        (TINY, "width", "parameters to search"),
        (TINY, [], "parameters to search"),
        (TINY, {}, "parameters to search"),
    ],
)
def test_a_parameter_that_cannot_be_searched_is_told_those_that_can(model, space, message):
    with pytest.raises(InputError, match=message):
        search(start=start(model=model), space=space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"width": IntDistribution(10, 20)}, "space width.*the default, 2,.*found 10 to 20"),
        ({"width": CategoricalDistribution([4, 8])}, "the default, 2,.*found 4, 8"),
        ({"learning_rate": FloatDistribution(1e-5, 1e-4, log=True)}, "0.003.*logarithmic"),
        ({"pooling": CategoricalDistribution(["stride"])}, "'max'"),
        # Of a kind that no default could be inside.
        ({"pooling": FloatDistribution(0, 1)}, "space pooling"),
        ({"patience": IntDistribution(1, 5)}, "space patience"),
        ({"width": [1, 2, 3]}, "width"),
    ],
)
def test_a_default_outside_the_space_is_refused(space, message, journal):
    with pytest.raises(InputError, match=message):
        search(journal, space=space)
    assert not journal.exists()


def test_a_space_of_tuples_is_kept_in_a_journal(journal):
    choices = [("flip",), ("flip", "crop"), ()]
    space = {"augmentation": CategoricalDistribution(choices), **SPACE}
    with pytest.raises(KeyboardInterrupt):
        search(journal, 4, space=space, stumbles={3: KeyboardInterrupt()})
    for num_trials in (4, 14):  # from the tenth on the sampler learns
        tuned = search(journal, num_trials, space=space)
    assert len(counted(tuned.study)) == 14
    assert tuned.best.augmentation in choices
    assert "Default: " in str(tuned)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_trials": 0}, "num_trials"),
        ({"num_trials": None}, "num_trials"),
        ({"num_trials": "3"}, "num_trials"),
        ({"num_trials": True}, "num_trials"),
        ({"num_trials": 1e2}, "num_trials: expected a whole number"),
        ({"time_budget": -1}, "time_budget"),
        ({"time_budget": float("nan")}, "time_budget"),
        ({"max_multiply_adds": 0}, "max_multiply_adds"),
        ({"start": start(validation_fraction=0)}, "validation_fraction.*images held out"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        search(**options)


# Stopped and continued


@pytest.mark.parametrize("call", [1, 2, 5, "last"])
def test_a_study_that_was_interrupted_ends_as_if_it_had_not_been(call, whole, journal):
    if call == "last":
        call = 1 + max(whole.trials.index[whole.trials["state"] == "finished"])
        assert call > 10, "the sampler has begun to learn"
    with pytest.raises(KeyboardInterrupt):
        search(journal, num_trials=14, stumbles={call: KeyboardInterrupt()})
    tuned = search(journal, num_trials=14)
    assert counted(tuned.study) == counted(whole.study)
    assert str(tuned).splitlines()[1:] == [
        line.replace(f"trial {whole.best_trial}", f"trial {tuned.best_trial}")
        for line in str(whole).splitlines()[1:]
    ]


def test_a_study_goes_on_trial_by_trial_as_in_one_go(whole, journal):
    for num_trials in (1, 2, 11, 13, 14):
        tuned = search(journal, num_trials)
    assert counted(tuned.study) == counted(whole.study)


def test_a_finished_study_trains_nothing_more(journal):
    search(journal, 3)
    with problem.pretending() as trained:
        tuned = tuning.tune(start(), SPACE, num_trials=2, journal=journal, train_split=make_split())
    assert trained.configs == [] and len(tuned.trials) == 3


def test_a_trial_that_was_interrupted_is_told_and_has_no_accuracy_of_its_own(journal):
    with pytest.raises(KeyboardInterrupt):
        search(journal, 2, stumbles={1: KeyboardInterrupt()})
    tuned = search(journal, 2)
    assert tuned.trials["why"][0] == "its process was killed; it was tried again"
    assert [tuned.trials["state"][number] for number in (0, 1, 2)] == [
        "failed",
        "finished",
        "finished",
    ]
    # The default is what its second try reached, not where the first one was stopped.
    assert f"Default: {problem.score(start()):.2%}" in str(tuned)


def test_a_trial_that_waits_for_its_second_try_is_configured_as_it_will_be(journal):
    with pytest.raises(KeyboardInterrupt):
        search(journal, 3, stumbles={3: KeyboardInterrupt()})
    tuned = search(journal, 2)  # which looks, and tries nothing again
    waiting = tuned.study.trials[3]
    assert waiting.state.name == "WAITING" and not waiting.params
    assert tuned.config(3) == tuned.config(2) != tuned.config(0)


def test_the_default_is_never_too_large_even_when_it_is_tried_again(journal):
    with pytest.raises(KeyboardInterrupt):
        search(journal, 1, max_multiply_adds=1, stumbles={1: KeyboardInterrupt()})
    tuned = search(journal, 1, max_multiply_adds=1)
    assert tuned.trials["state"].iloc[-1] == "finished"
    assert tuned.study.best_trial.params == DEFAULT


def in_a_process(run_python, *arguments):
    """Search in a process of its own, with `tuning_problem.work`."""
    tests = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
    return run_python(f"{code}import tuning_problem\ntuning_problem.work(*{arguments!r})")


@posix
def test_a_study_whose_process_was_killed_ends_as_if_it_had_not_been(
    run_python, wait_until, whole, journal, tmp_path
):
    worker = in_a_process(run_python, str(journal), 14, {4: "held"})
    wait_until((tmp_path / "held").exists, worker)
    worker.kill()
    worker.wait()
    tuned = search(journal, 14)
    assert counted(tuned.study) == counted(whole.study)
    first, again = (tuned.study.trials[number] for number in (3, 4))
    assert studies.was_given_up(first) and again.params == first.params


@posix
def test_of_two_processes_at_once_one_is_killed_and_the_other_finishes(
    run_python, wait_until, journal, tmp_path
):
    killed = in_a_process(run_python, str(journal), 8, {2: "first"})
    wait_until((tmp_path / "first").exists, killed)
    other = in_a_process(run_python, str(journal), 8, {3: "second"}, "go")
    wait_until((tmp_path / "second").exists, killed, other)
    killed.kill()
    killed.wait()
    (tmp_path / "go").touch()
    assert other.wait(120) == 0, other.communicate()[1]

    study = search(journal, 8).study
    assert len(counted(study)) == 8, "as many as were asked for"
    workers = {trial.user_attrs["worker"][1] for trial in study.trials}
    assert workers == {killed.pid, other.pid}
    (dead,) = [trial for trial in study.trials if studies.was_given_up(trial)]
    assert dead.user_attrs["worker"][1] == killed.pid
    proposed = [json.dumps(trial.params) for trial in study.trials]
    twice = [params for params in set(proposed) if proposed.count(params) > 1]
    assert twice == [json.dumps(dead.params)], "only the killed trial is tried again"
    assert len(proposed) == 9
    assert study.trials[0].params == DEFAULT


def test_two_that_begin_the_last_trial_at_once_begin_one(journal, monkeypatch):
    honest, others = studies.begun, []
    asked = {"num_trials": 4, "journal": journal, "train_split": make_split()}

    def search_for_four():
        return tuning.tune(start(), SPACE, **asked)

    def begun(study, default):
        found = honest(study, default)
        if len(found) == 3 and not others:  # now the other one looks, too
            others.append(threading.Thread(target=search_for_four))
            others[0].start()
            others[0].join(timeout=2)
        return found

    monkeypatch.setattr(studies, "begun", begun)
    with problem.pretending():
        search_for_four()
        others[0].join()
        assert len(counted(search_for_four().study)) == 4


# The last trials of other processes


@pytest.fixture
def other(run_python, wait_until, journal, tmp_path, monkeypatch):
    """Return a process that holds the third and last trial of a study until a file comes."""
    monkeypatch.setattr(tuning, "WAIT_SECONDS", 0.02)
    process = in_a_process(run_python, str(journal), 3, {3: "held"}, "go")
    wait_until((tmp_path / "held").exists, process)
    return process


def test_the_last_trial_of_another_process_is_waited_for(other, journal, tmp_path):
    told = []

    def tell(trial):
        told.append(tuning.told(trial))
        (tmp_path / "go").touch()

    tuned = search(journal, 3, on_trial=tell)
    assert told == ["trial 2: waiting for the process that is running it"]
    assert len(tuned.trials) == 3 and "running" not in states(tuned)
    assert other.wait(120) == 0


@posix
def test_what_is_waited_for_is_tried_again_when_its_process_is_killed(other, journal):
    def kill(trial):
        if trial.state == TrialState.RUNNING:
            other.kill()
            other.wait()

    tuned = search(journal, 3, on_trial=kill)
    assert counted(tuned.study) == counted(search(num_trials=3).study)


@pytest.mark.parametrize("why", ["budget", "machine", "own process"])
def test_a_trial_that_may_never_end_is_not_waited_for(other, journal, monkeypatch, why):
    options = {}
    if why == "budget":
        options["time_budget"] = 0.5
    elif why == "machine":
        monkeypatch.setattr(studies.socket, "gethostname", lambda: "another")
    else:
        monkeypatch.setattr(studies.os, "getpid", lambda: other.pid)
    tuned = search(journal, 3, **options)
    assert states(tuned)[2] == "running"
    assert tuned.best_trial in (0, 1), "what has finished counts"


# The time budget


class Clock:
    """Stands in for the module ``time``: it moves on only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    stopped = Clock()
    monkeypatch.setattr(tuning, "time", stopped)
    return stopped


def lasting(clock, seconds: float, calls=20) -> dict:
    """Return stumbles that make each training last so long."""

    def last():
        clock.now += seconds

    return dict.fromkeys(range(1, calls), last)


def test_no_trial_is_begun_after_the_time_budget(clock, journal, whole):
    tuned = search(journal, 14, time_budget=25, stumbles=lasting(clock, 10))
    assert len(tuned.trials) == 3 and tuned.trials["seconds"].tolist() == [10, 10, 10]
    tuned = search(journal, 14, time_budget=20, stumbles=lasting(clock, 10))
    assert len(tuned.trials) == 5, "each call has a budget of its own"
    tuned = search(journal, 14, time_budget=None)
    assert counted(tuned.study) == counted(whole.study)


def test_a_budget_that_is_no_time_at_all_says_that_nothing_has_finished():
    with pytest.raises(CifarlibError, match=r"No trial has finished\. Give it more time"):
        search(time_budget=0)


# Another study


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {**SPACE, "width": IntDistribution(1, 400)}}, "space of width = 1 to 400"),
        ({"space": {"width": SPACE["width"]}}, "space of dense_dropout = not searched"),
        ({"space": {**SPACE, "ema": FloatDistribution(0, 0.999)}}, "space of ema .*not searched"),
        ({"start": start(epochs=4)}, "epochs = 4, found 3"),
        ({"start": start(seed=1)}, "seed = 1, found 0"),
        ({"start": start(color="rgb")}, "color = rgb, found gray"),
        ({"start": start(model=dataclasses.replace(TINY, dense=3))}, "model = .*3.*found .*4"),
        ({"start": start(model="layered_cnn")}, "model = "),
        ({"start": start(augmentation=())}, r"augmentation = \[\], found .*flip"),
        ({"split": make_split(90)}, "data = "),
        ({"max_multiply_adds": 10**9}, "max_multiply_adds = 1000000000, found None"),
    ],
)
def test_another_study_is_not_continued_and_says_what_differs(options, message, journal):
    search(journal, 1)
    with pytest.raises(InputError, match=message), problem.pretending() as trained:
        search(journal, 2, **options)
    assert trained.configs == []
    assert len(search(journal, 1).trials) == 1


def test_a_changed_pixel_or_label_is_another_data_set(journal):
    search(journal, 1)
    for change in ("images", "labels"):
        changed = make_split()
        getattr(changed, change).flat[7] ^= 1
        with pytest.raises(InputError, match="data = "):
            search(journal, 2, split=changed)


def test_a_design_of_ones_own_that_has_changed_is_another_study(journal, monkeypatch):
    def design(num_units):
        def mine(x):
            return keras.layers.Dense(num_units)(keras.layers.Flatten()(x))

        return mine

    space = {"label_smoothing": FloatDistribution(0, 0.5)}
    monkeypatch.setattr(problem, "score", lambda config: 0.5)
    search(journal, 1, start=start(model=design(2)), space=space)
    with pytest.raises(InputError):
        search(journal, 2, start=start(model=design(3)), space=space)


def test_a_damaged_journal_is_reported_and_left_alone(journal):
    accuracy = search(journal, 2).trials["accuracy"][1]
    journal.write_bytes(journal.read_bytes() + b"{gar")
    before = journal.read_bytes()
    with pytest.raises(InputError, match=f"last good trial is number 1, with {accuracy:.4g}"):
        search(journal, 3)
    assert journal.read_bytes() == before


# Trials that fail


class ResourceExhaustedError(Exception):
    """As TensorFlow's is called."""


class OutOfMemoryError(RuntimeError):
    """As PyTorch's is called."""


class XlaRuntimeError(RuntimeError):
    """As JAX's was called."""


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (training.DivergedError("the loss is not finite in epoch 2"), "not finite in epoch 2"),
        (MemoryError(), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (np._core._exceptions._ArrayMemoryError((10**9,), np.dtype("f4")), "Unable to allocate"),
        (ResourceExhaustedError("OOM when allocating tensor"), "out of memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 3 bytes"), "out of memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
                "allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot allocate "
                "memory)"
            ),
            "out of memory",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_trial_that_diverges_or_needs_too_much_memory_is_recorded_and_the_study_goes_on(
    error, why, journal
):
    tuned = search(journal, 4, stumbles={2: error})
    assert states(tuned) == ["finished", "failed", "finished", "finished"]
    assert why in tuned.trials["why"][1]
    assert why in tuning.told(tuned.study.trials[1])
    assert len(search(journal, 4).trials) == 4, "it is not tried again"


@pytest.mark.parametrize("error", [KeyError("mistake"), OSError(28, "No space left on device")])
def test_any_other_exception_is_raised(error, journal):
    with pytest.raises(type(error)):
        search(journal, 4, stumbles={2: error})
    tuned = search(journal, 4)
    assert len(counted(tuned.study)) == 4


def test_if_the_first_trial_fails_the_others_still_count_and_if_all_do_the_last_reason_is_told():
    tuned = search(num_trials=3, stumbles={1: MemoryError()})
    assert states(tuned) == ["failed", "finished", "finished"]
    assert "Default" not in str(tuned)
    with pytest.raises(CifarlibError, match=r"No trial has finished\. The last one: too hot"):
        stumbles = {1: MemoryError(), 2: training.DivergedError("too hot")}
        search(num_trials=2, stumbles=stumbles)


def test_layers_that_leave_nothing_of_the_image_are_recorded():
    space = {"depth": IntDistribution(1, 8), "kernel": IntDistribution(3, 9)}
    tuned = search(num_trials=12, space=space)
    failed = tuned.trials[tuned.trials["state"] == "failed"]
    assert len(failed) and failed["why"].str.contains("something left of the image").all()
    for depth, kernel in failed[["depth", "kernel"]].itertuples(index=False):
        with pytest.raises(InputError):
            dataclasses.replace(TINY, depth=depth, kernel=kernel)


def test_a_network_that_is_too_large_is_pruned_with_the_reason_and_never_trained():
    with problem.pretending() as trained:
        tuned = tuning.tune(
            start(model=dataclasses.replace(TINY, max_width=64)),
            {"width": CategoricalDistribution([2, 60])},
            num_trials=12,
            max_multiply_adds=10**6,
            train_split=make_split(),
        )
    pruned = tuned.trials[tuned.trials["state"] == "pruned"]
    assert len(pruned) and set(pruned["width"]) == {60}
    assert pruned["why"].str.fullmatch(r"\d+ million multiply-adds, too many").all()
    assert {config.model.width for config in trained.configs} == {2}
    assert tuned.seconds_saved() == 0, "they were not begun"


def test_the_limit_itself_is_not_too_large():
    cost = models.multiply_adds(models.build(TINY, "gray"))
    space = {"dense_dropout": SPACE["dense_dropout"]}
    assert states(search(num_trials=3, space=space, max_multiply_adds=cost)) == ["finished"] * 3
    pruned = search(num_trials=3, space=space, max_multiply_adds=cost - 1)
    assert states(pruned) == ["finished", "pruned", "pruned"], "the default never"


def test_what_keras_remembers_is_cleared_after_every_trial_however_it_ends(monkeypatch):
    cleared = []
    monkeypatch.setattr(keras.utils, "clear_session", lambda *a, **k: cleared.append(1))
    search(num_trials=4, stumbles={2: MemoryError(), 3: training.DivergedError("")})
    assert len(cleared) == 4
    with pytest.raises(KeyboardInterrupt):
        search(num_trials=1, stumbles={1: KeyboardInterrupt()})
    assert len(cleared) == 5


# Pruning


def test_pruned_is_what_falls_below_the_median_of_the_finished_at_the_same_epoch():
    epochs = 6
    trials = search(start=start(epochs=epochs), num_trials=24).study.trials
    finished, num_pruned = [], 0
    for trial in trials:
        values = trial.intermediate_values
        expected = epochs
        for epoch in range(1, epochs):  # the last one is no longer worth it
            reached = [other.intermediate_values[epoch] for other in finished]
            is_judged = len(reached) >= 5 and epoch >= epochs // 3
            # Unlike the others' this one's values only rise: its best so far is the last.
            if is_judged and problem.score_of(trial, epoch, epochs) < np.median(reached):
                expected = epoch
                break
        assert len(values) == expected == trial.user_attrs["epochs"], trial.number
        assert trial.state == (TrialState.COMPLETE if expected == epochs else TrialState.PRUNED)
        num_pruned += expected < epochs
        if expected == epochs:
            finished.append(trial)
    assert num_pruned > 3, "or the test says nothing"


def table(rows) -> pd.DataFrame:
    columns = ["state", "accuracy", "epochs", "seconds", "why"]
    return pd.DataFrame(rows, columns=columns).rename_axis("trial")


def test_seconds_saved_are_what_pruned_trials_would_have_gone_on_to_cost(whole):
    trials = table(
        [
            ("finished", 0.5, 8, 80.0, ""),
            ("pruned", 0.3, 2, 10.0, "below the median"),  # 5 s an epoch, 6 left: 30
            ("pruned", 0.3, 5, 40.0, "below the median"),  # 8 s an epoch, 3 left: 24
            ("pruned", None, 0, 0.5, "too many"),  # never begun
            ("failed", None, 3, 9.0, "out of memory"),
        ]
    )
    longer = start(epochs=8)
    tuned = whole._replace(trials=trials, start=longer)
    assert tuned.seconds_saved() == 54
    assert tuned.counts() == {"finished": 1, "pruned": 3, "failed": 1}
    assert "140 s, pruning saved about 54 s" in str(tuned)
    assert whole._replace(trials=trials.iloc[:1], start=longer).seconds_saved() == 0


def test_saved_seconds_of_a_search_follow_from_its_clock(clock):
    def last():  # in the second epoch
        clock.now += 10

    tuned = search(start=start(epochs=6), num_trials=24, stumbles=dict.fromkeys(range(30), last))
    pruned = tuned.trials[tuned.trials["state"] == "pruned"]
    by_hand = sum(10 / epochs * (6 - epochs) for epochs in pruned["epochs"])
    assert by_hand > 0 and tuned.seconds_saved() == pytest.approx(by_hand)


# What is told


def test_importance_tells_the_parameter_that_decides(monkeypatch):
    monkeypatch.setattr(problem, "score", lambda config: config.model.width / 500)
    # Trials of one epoch are never pruned.
    tuned = search(start=start(epochs=1), num_trials=25)
    assert states(tuned) == ["finished"] * 25
    shares = tuned.importance()
    assert shares.index[0] == "width" and set(shares.index) == set(SPACE)
    assert shares["width"] > 0.5 and shares.sum() == pytest.approx(1)
    assert shares.is_monotonic_decreasing


def test_importance_of_too_few_trials_is_refused():
    stumbles = {2: MemoryError()}
    with pytest.raises(CifarlibError, match="four finished trials"):
        search(num_trials=4, stumbles=stumbles).importance()
    assert len(search(num_trials=5, stumbles=stumbles).importance()) == 3


def test_importance_of_trials_that_are_all_equal_is_told_or_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(problem, "score", lambda config: 0.5)
    tuned = search(num_trials=6)
    try:
        shares = tuned.importance()
    except CifarlibError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert (shares >= 0).all()


def test_each_trial_is_told_in_a_line(clock):
    lines = []
    search(
        num_trials=3,
        space={
            "dense_dropout": FloatDistribution(0, 0.9),
            "pooling": CategoricalDistribution(["max"]),
        },
        stumbles={**lasting(clock, 61), 2: MemoryError()},
        on_trial=lambda trial: lines.append(tuning.told(trial)),
    )
    accuracy = problem.score(start())
    assert lines[0] == f"trial 0: finished {accuracy:.2%}, 61 s; dense_dropout 0, pooling max"
    # What a trial reached before it failed is told, too.
    assert lines[1].startswith("trial 1: failed (out of memory)") and "0 s; dense" in lines[1]
    assert len(lines) == 3 and all("\n" not in line for line in lines)


def test_a_row_a_trial_has_what_is_promised(whole):
    trials = whole.trials
    assert list(trials.columns) == ["state", "accuracy", "epochs", "seconds", "why", *SPACE]
    assert list(trials.index) == list(range(14)) and trials.index.name == "trial"
    assert set(trials["state"]) <= {"finished", "pruned", "failed"}
    assert (trials["epochs"][trials["state"] == "finished"] == 3).all()
    assert (trials["why"][trials["state"] == "finished"] == "").all()


# What is written


@pytest.fixture
def written(whole, tmp_path):
    path = tmp_path / "deep" / "best.json"
    tuning.write(whole, path, "cifarlib tune layered_cnn")
    return path


def test_what_is_written_and_read_again_is_what_was_found(whole, written):
    found = layered.read(written)
    assert found.model == whole.best.model
    assert found.recipe == {"learning_rate": whole.best.learning_rate, "validation_fraction": 0.25}
    rebuilt = training.Config(str(written), **recipes.find("tuned", str(written)))
    assert rebuilt.learning_rate == whole.best.learning_rate
    built = models.build(str(written), "gray")
    assert built.count_params() == models.build(whole.best.model, "gray").count_params()
    assert found.search["command"] == "cifarlib tune layered_cnn"
    assert found.search["best_validation_accuracy"] == whole.study.best_value
    assert found.search["default_validation_accuracy"] == problem.score(start())
    assert found.search["trials"] == whole.counts()
    assert found.search["best_trial"] == whole.best_trial
    assert found.search["asked"]["space of width"] == "1 to 500, step 1"


def test_a_search_goes_on_from_what_was_written(written, whole):
    begun = start(model=str(written), learning_rate=whole.best.learning_rate)
    tuned = search(start=begun, num_trials=1)
    assert tuned.study.trials[0].params == whole.study.best_trial.params


def test_a_recipe_holds_what_was_searched_and_what_was_not_the_usual(monkeypatch):
    space = {"learning_rate": SPACE["learning_rate"], "ema": CategoricalDistribution([0.998])}
    asked = start(model="layered_cnn", augmentation=("flip",), train_size=40, patience=2, seed=4)
    monkeypatch.setattr(problem, "score", lambda config: 0.5)
    tuned = search(start=asked, space=space, num_trials=1)
    tuning.write(tuned, "best.json", "")
    recipe = layered.read("best.json").recipe
    assert recipe == {
        "learning_rate": 3e-3,
        "ema": 0.998,
        "augmentation": ["flip"],
        "validation_fraction": 0.25,
    }


def test_patience_is_written_if_it_was_searched_and_own_images_are_called_so(monkeypatch):
    monkeypatch.setattr(problem, "score", lambda config: 0.5)
    space = {"patience": IntDistribution(1, 3)}
    tuned = search(start=start(model="layered_cnn", patience=2), space=space, num_trials=1)
    tuning.write(tuned, "best.json", "")
    found = layered.read("best.json")
    assert found.recipe["patience"] == 2
    assert found.search["data_kind"] == "own images" and not found.search["data_fingerprint"]


def test_of_a_registered_model_the_name_is_written(monkeypatch):
    monkeypatch.setattr(problem, "score", lambda config: 0.5)
    tuned = search(start=start(model="baseline"), space=["schedule"], num_trials=2)
    tuning.write(tuned, "best.json", "")
    assert layered.read("best.json").model == "baseline"
    assert set(recipes.find("tuned", "best.json")) >= {"schedule"}


# Without pretending


def test_a_real_search_finds_what_training_the_same_finds(journal):
    fields = {"epochs": 2, "batch_size": 16, "learning_rate": 0.02, "precision": "float32"}
    split = make_split()
    space = {"dense": CategoricalDistribution([0, 4])}
    tuned = tuning.tune(start(**fields), space, num_trials=2, journal=journal, train_split=split)
    assert keras.layers.ReLU().name == "re_lu", "Keras counts from the beginning"
    assert states(tuned) == ["finished"] * 2 and (tuned.trials["seconds"] > 0).all()
    run = training.train(start(**fields), split)
    assert tuned.trials["accuracy"][0] == run.metrics["validation_accuracy"]
    values = tuned.study.trials[0].intermediate_values
    assert list(values) == [1, 2]
    np.testing.assert_allclose(list(values.values()), run.history["validation_accuracy"])


def test_a_real_trial_that_diverges_is_recorded():
    asked = start(optimizer="sgd", epochs=1, ema=0.0, schedule="constant", scaling="unit")
    # Nobody learns with weights that grow a hundredfold a step.
    space = {"weight_decay": CategoricalDistribution([0.05, 100.0])}
    fields = {"learning_rate": 100.0, "batch_size": 4}
    with pytest.raises(CifarlibError, match=r"No trial has finished\. The last one: .*not finite"):
        tuning.tune(
            dataclasses.replace(asked, **fields), space, num_trials=1, train_split=make_split()
        )


def test_the_test_set_stays_closed(tiny_gray, monkeypatch):
    from cifarlib import data, splits

    train, test = tiny_gray
    monkeypatch.setattr(data, "load_cifar10", lambda: (train, splits.RecordedSplit(*test)))
    with problem.pretending():
        tuning.tune(start(), SPACE, num_trials=2)
    assert splits.uses_of_test_set() == ()


# Finals


def test_finalists_are_the_default_and_the_best_and_train_longer(whole, monkeypatch):
    seen = {}

    def compare(variants, seeds, train_split, *, kept_in):
        seen.update(variants=variants, seeds=seeds, kept_in=kept_in, images=train_split)

    monkeypatch.setattr(tuning.experiments, "compare", compare)
    asked = dataclasses.replace(whole.start, epochs=5, train_size=20)
    budget = {"epochs": 7, "train_size": 40}
    other = whole._replace(start=asked)
    tuning.finals(other, 2, [4, 5], train_split="own", kept_in="here", **budget)
    finished = whole.trials[whole.trials["state"] == "finished"]["accuracy"].drop(0)
    first, second = finished.sort_values(ascending=False).index[:2]
    assert list(seen["variants"]) == ["default", f"trial {first}", f"trial {second}"]
    for config in seen["variants"].values():
        assert (config.epochs, config.train_size) == (7, 40)
    params = whole.study.trials[first].params
    assert seen["variants"][f"trial {first}"].model.width == params["width"]
    assert seen["variants"]["default"].learning_rate == whole.start.learning_rate
    assert (seen["seeds"], seen["kept_in"], seen["images"]) == ([4, 5], "here", "own")


def test_no_network_is_twice_in_the_finals(journal, monkeypatch):
    monkeypatch.setattr(experiments, "compare", lambda variants, *_, **__: list(variants))
    with pytest.raises(KeyboardInterrupt):  # trial 1 is the default, too
        search(journal, 1, space={"width": SPACE["width"]}, stumbles={1: KeyboardInterrupt()})
    space = {"width": IntDistribution(1, 3)}
    tuned = search(num_trials=12, space=space)
    widths = [tuned.config(int(name[6:])).model.width for name in tuning.finals(tuned, 5, [1])[1:]]
    assert len(tuned.finished()) > 3 and 3 in widths
    assert 2 not in widths, "the default's"
    assert len(set(widths)) == len(widths)
    tuned = search(journal, 3, space={"width": SPACE["width"]})
    assert tuning.finals(tuned, 5, [1]) == ["default", *names_of_others(tuned)]


def names_of_others(tuned) -> list[str]:
    others = tuned.finished()[[t.params != tuned.default for t in finished_trials(tuned)]]
    return [f"trial {number}" for number in others.sort_values(ascending=False).index]


def finished_trials(tuned):
    return [tuned.study.trials[number] for number in tuned.finished().index]


def test_what_was_found_does_not_change_when_others_go_on(journal):
    tuned = search(journal, 1)
    told, best = str(tuned), tuned.best
    better = search(journal, 14)
    assert better.best_value > tuned.best_value == better.trials["accuracy"][0]
    assert str(tuned) == told and tuned.best == best


def test_finals_with_the_seed_of_the_search_are_refused(whole):
    with pytest.raises(InputError, match="others than the search's"):
        tuning.finals(whole, 1, [whole.start.seed, 7])


def test_a_trial_that_is_none_is_refused(whole):
    with pytest.raises(InputError, match="a number up to 13"):
        whole.config(14)


def test_an_idea_is_the_default_with_what_it_changes(whole):
    idea = tuning.variant(whole.start, width=77, ema=0.5)
    assert tuning.variant(whole.start) == whole.start
    assert idea.model == dataclasses.replace(whole.start.model, width=77) and idea.ema == 0.5
    assert idea.learning_rate == whole.start.learning_rate
    with pytest.raises(InputError, match="Did you mean width"):
        tuning.variant(whole.start, widht=77)
    with pytest.raises(InputError, match=r"any of .* found 'start'"):
        tuning.variant(whole.start, start=1)
    with pytest.raises(InputError, match="width: expected a whole number"):
        tuning.variant(whole.start, width=0.5)


def test_ideas_meet_the_finalists_under_their_names(whole, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        tuning.experiments, "compare", lambda variants, *_, **__: seen.update(variants)
    )
    tuning.finals(whole, 0, [4], also={"wider": {"width": 77}}, epochs=9)
    assert list(seen) == ["default", "wider"]
    assert (seen["wider"].model.width, seen["wider"].epochs) == (77, 9)


def test_an_idea_is_not_called_like_another_finalist(whole):
    with pytest.raises(InputError, match="names that no other finalist has"):
        tuning.finals(whole, 0, [4], also={"default": {"width": 77}})


def test_a_design_that_no_file_can_stand_for_is_not_written(whole, tmp_path, monkeypatch):
    def fast(x):
        return keras.layers.Flatten()(x)

    own = dataclasses.replace(whole.start, model=fast)
    monkeypatch.setattr(tuning, "_finalist", lambda *_: own)
    with pytest.raises(InputError, match="a design by numbers, found the function fast"):
        tuning.write(whole, tmp_path / "found.json", "a command")
    assert not (tmp_path / "found.json").exists()


ALSO = {"wider": {"width": 77}}


@pytest.mark.parametrize("best", ["default", "trial 3", "wider"])
def test_the_winner_of_the_finals_is_what_is_written(whole, tmp_path, best):
    def finished(accuracy):
        about = {"best_epoch": 1, "parameters": 5, "seconds": 1.0, "validation_accuracy": accuracy}
        about["config"] = {"seed": 1, "epochs": 7, "train_size": 40}
        row = {"accuracy": 0.1, "validation_accuracy": accuracy}
        return runs.Run(None, pd.DataFrame([row]), about, None)

    names = ("default", "trial 3", "wider")
    chosen = {"default": whole.config(0), "trial 3": whole.config(3)}
    chosen["wider"] = tuning.variant(whole.start, width=77)
    done = {name: [finished(0.9 if name == best else 0.8)] for name in names}
    final = experiments.Comparison(done, pd.DataFrame())
    assert tuning.winner(final) == best
    path = tmp_path / "found.json"
    tuning.write(whole, path, "", final=final, also=ALSO, epochs=33)
    found = layered.read(path)
    assert found.model == chosen[best].model
    assert found.recipe["learning_rate"] == chosen[best].learning_rate
    assert found.recipe["epochs"] == 33
    assert found.search["chosen"] == best and found.search["also"] == ALSO
    assert found.search["finals"][best][0]["validation_accuracy"] == 0.9
