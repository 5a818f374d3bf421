"""An Optuna study whose journal can be stopped, continued, joined and trusted. Not for reading.

What Optuna leaves to its users: a study is continued only with the same question, a damaged
journal is refused, the default comes first, processes that share a study propose different
things, and a trial whose process was killed is tried again.
"""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import optuna
import psutil
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from cifarlib.errors import InputError

NAME = "cifarlib"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log and its notices about experimental parts off the reader's screen."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # The default may lie between the steps of what is searched.
            warnings.filterwarnings("ignore", "Fixed parameter .* is out of range")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def begin(
    journal: str | Path | None, asked: Mapping[str, Any], pruner: optuna.pruners.BasePruner
) -> optuna.Study:
    """Open the study of a journal, or begin it; the best trial is the one with most.

    Args:
        journal: the file; None for a study in memory.
        asked: what the study is about, JSON values.
        pruner: what ends trials early.

    Raises:
        InputError: if the file cannot be written, is damaged, or holds another study.
    """
    storage = None
    try:
        if journal is not None:
            path = Path(journal).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _check_whole(path)
            # Optuna's other lock is a symbolic link, which Windows does not let everybody make.
            lock = optuna.storages.journal.JournalFileOpenLock(str(path))
            backend = optuna.storages.journal.JournalFileBackend(str(path), lock)
            storage = optuna.storages.JournalStorage(backend)
        study = _open(storage, pruner, journal)
        if "asked" not in study.user_attrs:
            study.set_user_attr("asked", json.dumps(asked))
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError(journal, "a file for the study", found, "Name another.") from error
    check_same(study, asked, journal)
    return study


def _open(storage, pruner, journal) -> optuna.Study:
    """Return the study of a storage; what Optuna keeps there for others is left alone."""
    names = [found.study_name for found in storage.get_all_studies()] if storage else []
    if names == [NAME]:  # create_study would add a line, even to a study that is then refused
        return optuna.load_study(study_name=NAME, storage=storage, pruner=pruner)
    if names:
        found = f"Optuna's study {names[0]!r}"
        raise InputError(journal, "a study of cifarlib", found, "Name another file.")
    return optuna.create_study(
        study_name=NAME, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
    )


@contextlib.contextmanager
def alone(journal: str | Path | None) -> Iterator[None]:
    """Let one process at a time count the trials of a journal and begin one."""
    lock = filelock.FileLock(f"{journal}.asking") if journal else contextlib.nullcontext()
    with lock:
        yield


def check_same(study: optuna.Study, asked: Mapping[str, Any], journal: object) -> None:
    """Refuse to continue a study that is about something else.

    Raises:
        InputError: that says what differs.
    """
    before, now = json.loads(study.user_attrs["asked"]), json.loads(json.dumps(asked))
    for name in {**now, **before}:
        here, there = (about.get(name, "not searched") for about in (now, before))
        if here != there:
            advice = "Ask for the same to continue it, or name another journal."
            raise InputError(journal, f"a study with {name} = {here}", str(there), advice)


def begun(study: optuna.Study, default: Mapping[str, Any]) -> list[FrozenTrial]:
    """Return the trials that count, after those of dead processes were given up.

    A trial of a killed process stays running for ever; of this machine's processes we can tell.

    Args:
        study: the study.
        default: parameters of trial 0.
    """
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.RUNNING and _is_dead(trial):
            wanted = asked(trial) if trial.number else default
            give_up(study, trial, wanted)
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING and not was_given_up(trial)
    ]


def running_elsewhere(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Return those that another process of this machine is running, and that will end.

    Of another machine's nobody here knows whether they ever do.
    """
    here = _worker()
    return [
        trial
        for trial in trials
        if trial.state == TrialState.RUNNING
        and (worker := trial.user_attrs.get("worker"))
        and worker[0] == here[0]
        and worker[1] != here[1]
    ]


def was_given_up(trial: FrozenTrial) -> bool:
    """Tell whether a trial ended without a word, and was therefore tried again."""
    return trial.state == TrialState.FAIL and "failed" not in trial.user_attrs


def give_up(study: optuna.Study, trial: FrozenTrial | optuna.Trial, params: dict) -> None:
    """End a trial without a word, and have its parameters tried again.

    What kills its process twice, such as a lack of memory, would do so for ever; it then counts
    as pruned. To be interrupted by the user is not to be killed.
    """
    trials = [*filter(was_given_up, study.get_trials(deepcopy=False)), trial]
    killed = [t for t in trials if "interrupted" not in t.user_attrs and asked(t) == dict(params)]
    is_second = bool(params) and trial in killed and len(killed) > 1
    # Of several processes that notice it, the first to say so goes on to the second line.
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
        study.tell(trial.number, state=TrialState.PRUNED if is_second else TrialState.FAIL)
        if not is_second:
            _try_again(study, params)


def asked(trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
    """Return the parameters a trial has, or was to get: it may have died in between."""
    return trial.user_attrs.get("again") or trial.params


def _try_again(study: optuna.Study, params: Mapping[str, Any]) -> None:
    study.enqueue_trial(dict(params), user_attrs={"again": dict(params)})


def ask(
    study: optuna.Study,
    space: Mapping[str, BaseDistribution],
    default: Mapping[str, Any],
    seed: int,
) -> optuna.Trial:
    """Begin the next trial, with a value of every parameter; trial 0 has the default's.

    If that is interrupted, the next one is the same.
    """
    trial = study.ask()
    try:
        _propose(study, trial, space, default, seed)
    except BaseException:  # nobody will run it, though this process may live on
        trial.set_user_attr("interrupted", True)
        study.tell(trial, state=TrialState.FAIL)
        if params := trial.user_attrs.get("again"):
            _try_again(study, params)
        raise
    return trial


def _propose(
    study: optuna.Study,
    trial: optuna.Trial,
    space: Mapping[str, BaseDistribution],
    default: Mapping[str, Any],
    seed: int,
) -> None:
    trial.set_user_attr("worker", _worker())
    # Processes with one seed would propose the same; and a study that goes on would begin anew.
    # Nor may a trial that was given up, and is tried again, move those that follow.
    earlier = study.get_trials(deepcopy=False)[: trial.number]
    place = trial.number - sum(map(was_given_up, earlier))
    sampler = optuna.samplers.TPESampler(seed=(seed * 100_003 + place) % 2**32)
    if place == 0:
        sampler = optuna.samplers.PartialFixedSampler(dict(default), sampler)
    study.sampler = sampler
    for name, distribution in space.items():
        _suggest(trial, name, distribution)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
        return
    is_whole = isinstance(distribution, IntDistribution)
    suggest = trial.suggest_int if is_whole else trial.suggest_float
    suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _worker() -> list[Any]:
    return [socket.gethostname(), os.getpid(), psutil.Process().create_time()]


def _is_dead(trial: FrozenTrial) -> bool:
    """Tell whether the process of a trial is gone, or died before it said which it was."""
    worker = trial.user_attrs.get("worker")
    if not worker:
        began = trial.datetime_start
        return began is not None and time.time() - began.timestamp() > 60
    if worker[0] != socket.gethostname():
        return False
    try:
        process = psutil.Process(worker[1])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        # When a process began is told by the clock, which may have been set since.
        return abs(process.create_time() - worker[2]) > 60
    except psutil.NoSuchProcess:
        return True


def _check_whole(path: Path) -> None:
    """Refuse a damaged journal, and say how far it is good."""
    content, before = path.read_bytes(), None
    while not content.endswith(b"\n") and content != before:
        time.sleep(0.5)  # another process may be writing its last line
        content, before = path.read_bytes(), content
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if _is_record(line):
            continue
        if number == 1:
            advice = "Name another file."
            raise InputError(path, "a study's journal", "something else", advice)
        good = lines[: number - 1]
        found = f"a damaged line {number} of {len(lines)}"
        advice = (
            f"Its last good trial is {_last_finished(good)}. Nothing was changed; its first "
            f"{len(good)} lines, copied to a new file, are a study that can be continued."
        )
        raise InputError(path, "a whole journal", found, advice)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and isinstance(record, dict) and "op_code" in record


def _last_finished(lines: list[bytes]) -> str:
    records = [json.loads(line) for line in lines]
    told = [record for record in records if record.get("state") == TrialState.COMPLETE]
    if not told:
        return "none"
    # In a journal of one study Optuna's ids are the trials' numbers.
    return f"number {told[-1]['trial_id']}, with {told[-1]['values'][0]:.4g}"
