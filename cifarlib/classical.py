"""Linear models on good features: from raw pixels to learned patches.

`build` names the rungs of a ladder, `fit` fits one of them with its strength of regularisation
chosen on held-out training images, and `cross_validate` keeps every answer. Not for making
features (`features`), nor for searching over several settings (`search`), nor for networks
(`models`, `training`).
"""

import hashlib
import inspect
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_X_y

from cifarlib import devices, features, fitting, images, progress
from cifarlib.splits import validation_places

RUNGS = ("raw", "standardized", "whitened", "gradients", "patches", "mirrored patches")


def build(rung: str, *, num_patches: int = 1600, seed: int = 0) -> Pipeline:
    """Build an unfitted pipeline: features, then multinomial logistic regression.

    From the third rung on the features are whitened, so that the solver converges.

    Args:
        rung: one of ``RUNGS``.
        num_patches: size of the patch dictionary; the rungs below have none.
        seed: of the patch dictionary; nothing else is random.

    Returns:
        A pipeline for rows of pixels in the unit range, shape (n, height · width · channels).
        Its last step is named ``logisticregression``.

    Raises:
        ValueError: if there is no such rung.

    >>> list(build("whitened").named_steps)
    ['pca', 'logisticregression']
    """
    dictionary = features.PatchDictionary(num_patches, random_state=seed)
    steps = {
        "raw": [],
        "standardized": [StandardScaler()],
        "whitened": [PCA(100, whiten=True, svd_solver="covariance_eigh")],
        "gradients": [features.HistogramOfGradients(), features.Whitening()],
        "patches": [dictionary, features.Whitening()],
        "mirrored patches": [features.MirrorInvariant(dictionary), features.Whitening()],
    }
    if rung not in steps:
        raise ValueError(f"rung: expected one of {', '.join(RUNGS)}, found {rung!r}")
    return make_pipeline(*steps[rung], LogisticRegression())


class Fit(NamedTuple):
    """A fitted classifier, and how its strength of regularisation was chosen.

    Attributes:
        model: the fitted pipeline, its last step fitted on all images.
        candidate: the last step fitted with the same C, but without the held-out images.
        validation: a row for each C tried, ascending: ``C``, ``accuracy`` on the held-out
            images, ``train_accuracy``, ``iterations``, ``converged`` and ``seconds``, those of
            the last step alone.
        C: the best of them.
        features: of all images, as the last step gets them, shape (n, d).
        kept: indices of the images that the candidates were fitted on.
        held_out: indices of the others.
        seconds: what everything took.
    """

    model: Pipeline
    candidate: BaseEstimator
    validation: pd.DataFrame
    C: float
    features: np.ndarray
    kept: np.ndarray
    held_out: np.ndarray
    seconds: float


def fit(
    model: Pipeline,
    X: np.ndarray,
    y: np.ndarray,
    C: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1),
    *,
    fraction: float = 0.1,
    seed: int = 0,
) -> Fit:
    """Choose C on held-out images, then fit the last step on all of them.

    The features are learned without the held-out images, and computed only once: for all
    strengths and for the final fit.

    Args:
        model: a pipeline whose last step has a parameter C, as `build` makes it.
        X: rows of pixels, shape (n, d).
        y: labels, shape (n,).
        C: the values to try.
        fraction: share of the images that is held out, with equal shares of every class.
        seed: decides which.

    Returns:
        The fitted model and the validation scores.

    Raises:
        ValueError: from scikit-learn, if the images or labels do not fit.
    """
    began = time.monotonic()
    X, y = check_X_y(X, y, dtype="numeric")
    if not len(C):
        raise ValueError("C: expected at least one value to try, found none")
    kept, held_out = validation_places(y, fraction, seed)
    model = clone(model)
    classifier = model[-1]
    described = X
    for transformer in model[:-1]:
        transformer.fit(described[kept], y[kept])
        described = transformer.transform(described)
    candidates, table = _try_strengths(
        classifier, C, described[kept], y[kept], described[held_out], y[held_out]
    )
    best = candidates[table["accuracy"].idxmax()]
    with fitting.quietly():
        classifier.set_params(C=best.C).fit(described, y)
    seconds = time.monotonic() - began
    return Fit(model, best, table, best.C, described, kept, held_out, seconds)


def _try_strengths(
    classifier, C, X, y, X_held_out, y_held_out
) -> tuple[list[BaseEstimator], pd.DataFrame]:
    """Fit the classifier with each C, ascending; return the fits and a row about each."""

    def try_strength(strength: float) -> tuple[BaseEstimator, dict[str, Any]]:
        candidate = clone(classifier).set_params(C=strength)
        seconds = fitting.timed_fit(candidate, X, y)
        return candidate, {
            "C": strength,
            "accuracy": candidate.score(X_held_out, y_held_out),
            "train_accuracy": candidate.score(X, y),
            "iterations": int(np.max(candidate.n_iter_)),
            "converged": fitting.has_converged(candidate),
            "seconds": seconds,
        }

    # Threads, since the features are large and NumPy lets go of the interpreter.
    parallel = joblib.Parallel(devices.num_cores(), prefer="threads", return_as="generator")
    candidates, rows = [], []
    with progress.bar(len(C), "Regularisation", "fit") as bar, fitting.quietly():
        for candidate, row in parallel(joblib.delayed(try_strength)(c) for c in sorted(C)):
            candidates.append(candidate)
            rows.append(row)
            bar.update()
    return candidates, pd.DataFrame(rows)


# Read here, when it is imported: whoever edits a file during a fit does not change what has been
# said of that.
_SOURCE_OF_FIT = "".join(
    map(
        inspect.getsource,
        (
            *(build, fit, _try_strengths, fitting, validation_places),
            *(images.to_grayscale, images.to_unit_range, images.flatten),
        ),
    )
)
_SOURCE_OF_FEATURES = inspect.getsource(features)


def code_digest(rung: str) -> str:
    """Return what tells apart the code that fits a rung, whatever colour, seed and images.

    Comments and docstrings count. The rungs without features of ours do not depend on `features`.

    Args:
        rung: one of ``RUNGS``.

    Raises:
        ValueError: if there is no such rung.
    """
    are_ours = [type(step).__module__ == features.__name__ for step in build(rung)[:-1]]
    source = rung + _SOURCE_OF_FIT + _SOURCE_OF_FEATURES * any(are_ours)
    return hashlib.sha256(source.encode()).hexdigest()[:12]


class CrossValidation(NamedTuple):
    """What a model says about images that it was not fitted on.

    Attributes:
        predictions: labels, shape (n,): each from the one model that had not seen the image.
        accuracies: of each fold.
        seconds: to fit in each fold, with one BLAS thread.
        converged: whether the solver did in every fold, None if it counts no iterations.
    """

    predictions: np.ndarray
    accuracies: np.ndarray
    seconds: np.ndarray
    converged: bool | None


def cross_validate(
    model: BaseEstimator, X: np.ndarray, y: np.ndarray, *, num_folds: int = 3, n_jobs: int = 2
) -> CrossValidation:
    """Fit a model on all folds but one, ask it about that one, and so in turn.

    scikit-learn's function of this name gives scores; this one gives the answers themselves,
    from which a confusion matrix can be made, and says whether the solver converged.

    Args:
        model: an unfitted classifier.
        X: array of shape (n, d).
        y: labels, shape (n,).
        num_folds: number of folds, in the order of the images, with equal shares of every
            class, as scikit-learn's ``cv=num_folds``.
        n_jobs: number of workers, each with one BLAS thread; `features` use all cores in each.

    Returns:
        Predictions, accuracies, times and convergence.
    """
    folds = list(StratifiedKFold(num_folds).split(X, y))
    work = (joblib.delayed(_fit_and_predict)(model, X, y, *fold) for fold in folds)
    predictions, converged = np.empty_like(y), []
    accuracies, seconds = np.empty(num_folds), np.empty(num_folds)
    done = joblib.Parallel(n_jobs, return_as="generator")(work)
    with progress.bar(num_folds, "Cross-validation", "fold") as bar:
        for fold, (said, seconds[fold], fold_converged) in enumerate(done):
            held_out = folds[fold][1]
            predictions[held_out] = said
            accuracies[fold] = np.mean(said == y[held_out])
            converged.append(fold_converged)
            bar.update()
    return CrossValidation(predictions, accuracies, seconds, fitting.all_converged(converged))


def _fit_and_predict(model, X, y, train, held_out):
    """Fit on one part and predict the other; runs in a worker."""
    with fitting.quietly():
        fitted = clone(model)
        seconds = fitting.timed_fit(fitted, X[train], y[train])
        return fitted.predict(X[held_out]), seconds, fitting.has_converged(fitted)
