"""What fitting scikit-learn's models needs in several places: quiet, seconds, convergence.

Not for choosing models (`classical`, `search`) nor for networks (`training`).
"""

import contextlib
import time
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits


def timed_fit(model: BaseEstimator, X: np.ndarray, y: np.ndarray) -> float:
    """Fit and return the seconds."""
    began = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - began


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Fit on one BLAS thread and without warnings: whether a fit converged is a result here.

    The products of a logistic regression are so narrow, ten columns, that several threads wait
    for each other more than they compute: two were half as fast as one.
    """
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def has_converged(model: BaseEstimator) -> bool | None:
    """Tell whether a fitted model stopped before its last iteration, None if it counts none."""
    if isinstance(model, Pipeline):
        return has_converged(model[-1])
    if hasattr(model, "estimators_"):  # one for each class
        return all_converged(has_converged(part) for part in model.estimators_)
    if not hasattr(model, "n_iter_") or (getattr(model, "max_iter", None) or -1) < 0:
        return None
    if hasattr(model, "n_trees_per_iteration_"):  # boosting: as many trees as were asked for
        return None
    return bool(np.max(model.n_iter_) < model.max_iter)


def all_converged(parts: Iterable[bool | None]) -> bool | None:
    """Return whether all parts did, None if that is unknown of one."""
    parts = list(parts)
    return None if None in parts else all(parts)
