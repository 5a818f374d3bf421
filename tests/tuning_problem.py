"""A search that takes no time: training is pretended, so that only the search is tested.

Subprocesses import it as well.
"""

import contextlib
import dataclasses
import gc
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cifarlib import layered, runs, studies, training, tuning
from cifarlib.splits import Split

TINY = layered.LayeredCNN(blocks=2, width=2, max_width=4, dense=4)
# Wide ranges: proposals are equal only if they were drawn by the same generator.
SPACE = {
    "width": IntDistribution(1, 500),
    "dense_dropout": FloatDistribution(0.0, 0.9),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
}


def make_split(count=80) -> Split:
    """Return gray images whose class is their brightness, more or less."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 10
    noise = rng.integers(-12, 13, (count, 32, 32, 1))
    return Split((labels[:, None, None, None] * 22 + 25 + noise).astype(np.uint8), labels)


def start(**changes) -> training.Config:
    """Return what the search starts with."""
    fields = {"model": TINY, "color": "gray", "epochs": 3, "validation_fraction": 0.25}
    return training.Config(**{**fields, **changes})


def score(config: training.Config) -> float:
    """Return an accuracy between 0 and 1, different for each configuration of ``SPACE``."""
    rate = -abs(np.log10(config.learning_rate) + 2.5)
    return float(0.5 + 0.1 * rate - 0.1 * config.model.dense_dropout + config.model.width / 5000)


def score_of(trial, epoch: int, epochs: int) -> float:
    """Return the accuracy that a trial has in an epoch, whether it got there or not."""
    width, dropout = trial.params["width"], trial.params["dense_dropout"]
    model = dataclasses.replace(TINY, width=width, dense_dropout=dropout)
    config = start(model=model, learning_rate=trial.params["learning_rate"])
    return score(config) * epoch / epochs


def pretend(config, train_split=None, *, on_epoch=None, **_) -> runs.Run:
    """Stand in for `training.train`."""
    for epoch in range(1, config.epochs + 1):
        on_epoch({"epoch": epoch, "validation_accuracy": score(config) * epoch / config.epochs})
    return runs.Run(None, pd.DataFrame(), {"validation_accuracy": score(config)}, None)


class Pretended:
    """Stands in for `training.train`; stumbles at some calls, counted from 1.

    Args:
        stumbles: what to raise, or call, in the second epoch of which call.
    """

    def __init__(self, stumbles=()):
        self.stumbles = dict(stumbles)
        self.configs: list[training.Config] = []

    def __call__(self, config, train_split=None, *, on_epoch=None, **_):
        self.configs.append(config)
        stumble = self.stumbles.get(len(self.configs))

        def watch(row):
            if row["epoch"] == min(2, config.epochs) and stumble is not None:
                if isinstance(stumble, BaseException):
                    raise stumble
                stumble()
            on_epoch(row)

        return pretend(config, on_epoch=watch)


@contextlib.contextmanager
def pretending(stumbles=()):
    """Pretend to train."""
    with pytest.MonkeyPatch.context() as patch:
        trained = Pretended(stumbles)
        patch.setattr(training, "train", trained)
        patch.setattr(gc, "collect", lambda *_: 0)  # the slowest part by far
        yield trained


def search(journal=None, num_trials=6, *, space=SPACE, stumbles=(), split=None, **options):
    """Search, pretending to train; ``start`` may be among the options."""
    asked = options.pop("start", None) or start()
    with pretending(stumbles):
        return tuning.tune(
            asked,
            space,
            num_trials=num_trials,
            journal=journal,
            train_split=split or make_split(),
            **options,
        )


def counted(study) -> list[tuple]:
    """Return what must be equal if two studies are: the trials that count, in their order."""
    return [
        (trial.params, trial.state, trial.value, dict(trial.intermediate_values))
        for trial in study.trials
        if trial.state != TrialState.WAITING and not studies.was_given_up(trial)
    ]


def work(journal, num_trials: int, holds: dict[int, str] = (), let_go="never") -> None:
    """Search in a process of its own, which waits in the middle of some trials.

    Args:
        journal: as for `search`.
        num_trials: as for `search`.
        holds: in which call of training to write which file, and wait.
        let_go: the file whose coming ends the waiting.
    """

    def hold(name):
        def wait():
            Path(name).touch()
            while not Path(let_go).exists():
                time.sleep(0.01)

        return wait

    search(journal, num_trials, stumbles={call: hold(name) for call, name in dict(holds).items()})
