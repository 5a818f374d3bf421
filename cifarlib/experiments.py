"""Comparing ways to train: each with the same seeds, so that noise is not taken for insight.

Not for searching (`tuning`) and not for the test set, which compares nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from cifarlib import runs, training
from cifarlib.errors import InputError, nearest
from cifarlib.splits import Split


class Comparison(NamedTuple):
    """What `compare` returns.

    Attributes:
        runs: by the variant's name, a finished run for each seed.
        histories: a row an epoch of each run, as `training.train` describes it, with the columns
            ``variant`` and ``seed`` before.
    """

    runs: dict[str, list[runs.Run]]
    histories: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """Return a row a variant.

        Accuracies are those of each run's best epoch on the validation images, in percent:
        their mean, sd over the seeds, and mean and sd of the difference to the first variant
        with the same seed. ``training`` is the accuracy in that epoch on the images learned, as
        they were augmented. ``seconds`` is the mean of a run.
        """
        rows, first = {}, None
        for variant, finished in self.runs.items():
            best = [run.history.iloc[run.metrics["best_epoch"] - 1] for run in finished]
            validation = np.array([row["validation_accuracy"] for row in best]) * 100
            first = validation if first is None else first
            rows[variant] = {
                "parameters": finished[0].metrics["parameters"],
                "training": np.mean([row["accuracy"] for row in best]) * 100,
                "validation": validation.mean(),
                "sd": _sd(validation),
                "gain": (validation - first).mean(),
                "sd of gain": _sd(validation - first),
                "seeds": len(finished),
                "seconds": np.mean([run.metrics["seconds"] for run in finished]),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")


def compare(
    variants: Mapping[str, training.Config],
    seeds: Sequence[int],
    train_split: Split | Mapping[str, Split] | None = None,
    *,
    kept_in: str | Path | None = None,
) -> Comparison:
    """Train each variant with each seed.

    At the end `keras.utils.clear_session` frees what the networks have left behind; what
    `keras.config.set_dtype_policy` had set is Keras's default again.

    Args:
        variants: a name and a configuration each; its own seed is not used.
        seeds: different whole numbers, at least one.
        train_split: see `training.train`; or one for each of some variants, by name, where it
            is the images that differ.
        kept_in: see `training.train`: what was trained before is not trained again.

    Raises:
        InputError: if there is nothing to train, a seed occurs twice, a variant holds no
            validation images out, or there are images for one that is not named.
    """
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError("seeds", "different ones, at least one", str(seeds), "Correct them.")
    if not variants:
        raise InputError("variants", "at least one", "none", "Name a configuration.")
    for name, config in variants.items():
        if not config.validation_fraction:
            advice = "Set validation_fraction."
            raise InputError(f"variant {name}", "validation images", "none", advice)
    is_own = isinstance(train_split, Mapping)
    splits = train_split if is_own else dict.fromkeys(variants, train_split)
    for name in splits:
        if name not in variants:
            told = f"images for any of {', '.join(variants)}"
            raise InputError("train_split", told, repr(name), nearest(name, variants))
    finished: dict[str, list[runs.Run]] = {name: [] for name in variants}
    # Seed by seed: who interrupts has all variants with fewer seeds, not fewer variants.
    for seed in seeds:
        for name, config in variants.items():
            asked = replace(config, seed=seed)
            finished[name].append(training.train(asked, splits.get(name), kept_in=kept_in))
    histories = [
        run.history.assign(variant=name, seed=seed)
        for name, done in finished.items()
        for seed, run in zip(seeds, done, strict=True)
    ]
    keras.utils.clear_session()
    columns = ["variant", "seed"]
    table = pd.concat(histories, ignore_index=True)
    return Comparison(finished, table[columns + [c for c in table if c not in columns]])


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
