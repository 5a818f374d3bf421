"""Linear models on good features, and a grid search that survives.

`build` names the rungs of a ladder from raw pixels to learned patches, `fit` fits one of them
with its strength of regularisation chosen on held-out training images, and
`ResumableGridSearchCV` is scikit-learn's grid search with memory. Not for making features
(`features`) nor for networks (`models`, `training`).
"""

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import check_scoring
from sklearn.model_selection import (
    GridSearchCV,
    ParameterGrid,
    StratifiedKFold,
    check_cv,
    train_test_split,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import indexable
from threadpoolctl import threadpool_limits

from cifarlib import devices, features, progress
from cifarlib.errors import CifarlibError, InputError

RUNGS = ("raw", "standardized", "whitened", "gradients", "patches", "mirrored patches")


def build(rung: str, *, num_patches: int = 1600, seed: int = 0) -> Pipeline:
    """Build an unfitted pipeline: features, then multinomial logistic regression.

    The features of each rung are scaled so that the solver converges and C means about the
    same: 1,000 times stronger or weaker regularisation is 1,000 times smaller or larger C.

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
    C: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1),
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
    kept, held_out = train_test_split(
        np.arange(len(y)), test_size=fraction, stratify=y, random_state=seed
    )
    kept, held_out = np.sort(kept), np.sort(held_out)
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
    with _quietly():
        classifier.set_params(C=best.C).fit(described, y)
    seconds = time.monotonic() - began
    return Fit(model, best, table, best.C, described, kept, held_out, seconds)


def _try_strengths(
    classifier, C, X, y, X_held_out, y_held_out
) -> tuple[list[BaseEstimator], pd.DataFrame]:
    """Fit the classifier with each C, ascending; return the fits and a row about each."""

    def try_strength(strength: float) -> tuple[BaseEstimator, dict[str, Any]]:
        candidate = clone(classifier).set_params(C=strength)
        seconds = _fit(candidate, X, y)
        return candidate, {
            "C": strength,
            "accuracy": candidate.score(X_held_out, y_held_out),
            "train_accuracy": candidate.score(X, y),
            "iterations": int(np.max(candidate.n_iter_)),
            "converged": _has_converged(candidate),
            "seconds": seconds,
        }

    # Threads, since the features are large and NumPy lets go of the interpreter.
    parallel = joblib.Parallel(devices.num_cores(), prefer="threads", return_as="generator")
    candidates, rows = [], []
    with progress.bar(len(C), "Regularisation", "fit") as bar, _quietly():
        for candidate, row in parallel(joblib.delayed(try_strength)(c) for c in sorted(C)):
            candidates.append(candidate)
            rows.append(row)
            bar.update()
    return candidates, pd.DataFrame(rows)


class CrossValidation(NamedTuple):
    """What a model says about images that it was not fitted on.

    Attributes:
        predictions: labels, shape (n,): each from the one model that had not seen the image.
        accuracies: of each fold.
        seconds: to fit in each fold, on one thread.
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
        n_jobs: number of workers, each with one BLAS thread.

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
    return CrossValidation(predictions, accuracies, seconds, _all_converged(converged))


def _fit_and_predict(model, X, y, train, held_out):
    """Fit on one part and predict the other; runs in a worker."""
    with _quietly():
        fitted = clone(model)
        seconds = _fit(fitted, X[train], y[train])
        return fitted.predict(X[held_out]), seconds, _has_converged(fitted)


class ResumableGridSearchCV(GridSearchCV):
    """scikit-learn's ``GridSearchCV`` that shares work, remembers it, and stops in time.

    *Shares*: candidates that differ only in the later steps of a pipeline share the earlier
    ones, fitted once a fold. *Remembers*: finished fits are kept in a journal; the same call
    after an interruption, or with a larger grid, computes what is missing. *Stops*: after the
    time budget no fit is begun, and the best of the finished candidates wins. Work is spread by
    joblib, one BLAS thread a worker, so ``joblib.parallel_config(backend="dask")`` spreads it
    over several machines.

    Args:
        estimator: what to search over, usually a pipeline.
        param_grid: dict or list of dicts, as for ``GridSearchCV``.
        scoring: name of a metric or a scorer, None for the estimator's own.
        n_jobs: number of workers, None for 1 or what ``joblib.parallel_config`` says.
        refit: fit the best candidate on all data at the end.
        cv: number of folds or a splitter, None for 5. Shuffling needs a ``random_state``, or
            the journal belongs to other folds.
        journal: file of finished fits, one JSON line each; None to remember nothing.
        time_budget: seconds after which no fit is begun, None for no limit.

    Attributes:
        cv_results_: as of ``GridSearchCV``, for the finished candidates. Times are those of
            a fit alone: shared steps count for each candidate. ``converged`` tells whether
            the last step did in every fold, where it counts its iterations.
        num_unfinished_: candidates that the time budget left out.
        num_remembered_: fits that were found in the journal.
        search_time_: seconds of the search, without the final fit.
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        param_grid: dict | list[dict],
        *,
        scoring=None,
        n_jobs: int | None = None,
        refit: bool = True,
        cv=None,
        journal: str | Path | None = None,
        time_budget: float | None = None,
    ):
        super().__init__(estimator, param_grid, scoring=scoring, n_jobs=n_jobs, refit=refit, cv=cv)
        self.journal = journal
        self.time_budget = time_budget

    def fit(self, X, y=None):
        """Search, and fit the best candidate on everything.

        Args:
            X: array of shape (n, d).
            y: labels of shape (n,).

        Returns:
            The search itself.

        Raises:
            InputError: if the journal is of another search, or damaged.
            CifarlibError: if the time budget ended before one candidate was finished.
            ValueError: if every candidate failed, with what the first one said.
        """
        X, y = indexable(X, y)
        began, budget = time.monotonic(), self.time_budget
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        folds = list(splitter.split(X, y))
        candidates = list(ParameterGrid(self.param_grid))
        keys = [_key(candidate) for candidate in candidates]
        self.scorer_ = check_scoring(self.estimator, self.scoring)
        self.multimetric_ = False
        self.n_splits_ = len(folds)

        search = {
            "estimator": _describe(self.estimator),
            "data": joblib.hash((X, y)),
            "folds": joblib.hash(folds),
            "scoring": _describe(self.scoring),
        }
        with _Journal(self.journal, search) as journal:
            missing = [
                _Work(fold, [c for c, key in enumerate(keys) if (key, fold) not in journal.fits])
                for fold in range(len(folds))
            ]
            num_fits = len(candidates) * len(folds)
            self.num_remembered_ = num_fits - sum(len(work.candidates) for work in missing)
            pieces = [
                piece for work in missing for piece in _split(work, self.estimator, candidates)
            ]
            # The folds of one candidate side by side, so that a time budget leaves few torn.
            pieces.sort(key=lambda piece: piece.candidates[0])

            def in_time() -> Iterator:
                for fold, indices in pieces:
                    if budget is not None and time.monotonic() - began >= budget:
                        return
                    chosen = [candidates[index] for index in indices]
                    yield joblib.delayed(_score)(
                        self.estimator, chosen, X, y, *folds[fold], self.scorer_, (fold, indices)
                    )

            parallel = joblib.Parallel(
                self.n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs"
            )
            with progress.bar(num_fits, "Grid", "fit", initial=self.num_remembered_) as bar:
                for (fold, indices), outcomes in parallel(in_time()):
                    for index, outcome in zip(indices, outcomes, strict=True):
                        journal.add(keys[index], fold, outcome)
                    bar.update(len(indices))
            fits = journal.fits

        finished = [
            index
            for index, key in enumerate(keys)
            if all((key, fold) in fits for fold in range(len(folds)))
        ]
        self.search_time_ = time.monotonic() - began
        self.num_unfinished_ = len(candidates) - len(finished)
        if not finished:
            raise CifarlibError(
                f"time_budget={self.time_budget}: over before one candidate was finished. "
                "Give it more; what was finished is kept if there is a journal."
            )
        rows = [[fits[keys[index], fold] for fold in range(len(folds))] for index in finished]
        self._summarise([candidates[index] for index in finished], rows)
        if self.refit:
            began = time.monotonic()
            self.best_estimator_ = clone(self.estimator).set_params(
                **{name: clone(v, safe=False) for name, v in self.best_params_.items()}
            )
            with _quietly():
                self.best_estimator_.fit(X, y)
            self.refit_time_ = time.monotonic() - began
        return self

    def _summarise(self, candidates: list[dict], rows: list[list["_Outcome"]]) -> None:
        """Set what scikit-learn's search sets, from the outcomes of every candidate and fold."""
        errors = [outcome.error for row in rows for outcome in row if outcome.error]
        if errors:
            if all(any(outcome.error for outcome in row) for row in rows):
                raise ValueError(f"every candidate failed; the first one said: {errors[0]}")
            warnings.warn(
                f"{len(errors)} fits failed and score NaN; the first one said: {errors[0]}",
                FitFailedWarning,
                stacklevel=3,
            )
        scores = np.array([[outcome.score for outcome in row] for row in rows])
        table: dict[str, Any] = {}
        for name in ("fit_time", "score_time"):
            seconds = np.array([[getattr(outcome, name) for outcome in row] for row in rows])
            table[f"mean_{name}"] = seconds.mean(axis=1)
            table[f"std_{name}"] = seconds.std(axis=1)
        for name in sorted({name for candidate in candidates for name in candidate}):
            values = np.ma.masked_all(len(candidates), dtype=object)
            for index, candidate in enumerate(candidates):
                if name in candidate:
                    values[index] = candidate[name]
            table[f"param_{name}"] = values
        table["params"] = candidates
        for fold in range(scores.shape[1]):
            table[f"split{fold}_test_score"] = scores[:, fold]
        means = scores.mean(axis=1)
        table["mean_test_score"] = means
        table["std_test_score"] = scores.std(axis=1)
        # Rounded as scikit-learn does: ties in all but the last bits are ties.
        rounded = np.round(np.where(np.isnan(means), -np.inf, means), 9)
        ranks = pd.Series(-rounded).rank(method="min").astype(np.int32)
        table["rank_test_score"] = ranks.to_numpy()
        table["converged"] = [_all_converged(outcome.converged for outcome in row) for row in rows]
        self.cv_results_ = table
        self.best_index_ = int(np.argmin(table["rank_test_score"]))
        self.best_score_ = float(means[self.best_index_])
        self.best_params_ = candidates[self.best_index_]


class _Outcome(NamedTuple):
    """What one candidate did in one fold."""

    score: float
    fit_time: float
    score_time: float
    converged: bool | None
    error: str


class _Work(NamedTuple):
    """Candidates to be fitted in one fold, by one worker."""

    fold: int
    candidates: list[int]


class _Journal:
    """Finished fits on disk: a line that says what is searched, then a line for each fit."""

    def __init__(self, path: str | Path | None, search: dict[str, str]):
        self.fits: dict[tuple[str, int], _Outcome] = {}
        self._path = None if path is None else Path(path)
        self._search = search
        self._file = None

    def __enter__(self) -> "_Journal":
        if self._path is None:
            return self
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # A line without its end was being written when the search was killed.
        complete, _, _ = text.rpartition("\n")
        lines = complete.splitlines()
        if lines:
            self._read(lines)
        else:
            lines = [json.dumps(self._search)]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = "".join(f"{line}\n" for line in lines)
        if whole != text:
            temporary = self._path.with_name(f"{self._path.name}.new")
            temporary.write_text(whole, encoding="utf-8")
            temporary.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *exception) -> None:
        if self._file:
            self._file.close()

    def _read(self, lines: list[str]) -> None:
        advice = "Name another journal, or delete this one."
        try:
            search, *fits = [json.loads(line) for line in lines]
            self.fits = {(fit.pop("candidate"), fit.pop("fold")): _Outcome(**fit) for fit in fits}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                self._path, "a journal of fits", f"a damaged line ({error})", advice
            ) from error
        differs = [name for name, value in self._search.items() if search.get(name) != value]
        if differs:
            found = f"one of another {' and '.join(differs)}"
            raise InputError(self._path, "the journal of this search", found, advice)

    def add(self, candidate: str, fold: int, outcome: _Outcome) -> None:
        """Keep a fit, on disk before the next one is counted."""
        self.fits[candidate, fold] = outcome
        if self._file and not outcome.error:  # what failed for want of memory may yet succeed
            line = {"candidate": candidate, "fold": fold, **outcome._asdict()}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


def _key(candidate: dict[str, Any]) -> str:
    """Return what tells a candidate from others, equal in every session."""
    return ", ".join(f"{name}={_describe(value)}" for name, value in sorted(candidate.items()))


def _describe(value: Any) -> str:
    """Return a value with all its parameters; an estimator's repr leaves out the defaults."""
    if isinstance(value, BaseEstimator):
        parameters = {k: _describe(v) for k, v in sorted(value.get_params(deep=False).items())}
        return f"{type(value).__name__}({parameters})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_describe, value))}]"
    if isinstance(value, dict):
        return f"{{{_key(value)}}}"
    if isinstance(value, np.ndarray):
        return f"array({hashlib.sha256(value.tobytes()).hexdigest()[:16]})"
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}"
    return repr(value)


def _split(work: _Work, estimator: BaseEstimator, candidates: list[dict]) -> list[_Work]:
    """Return the work in pieces that share nothing: one for each setting of the first step."""
    groups: dict[str, list[int]] = {}
    for index in work.candidates:
        first = _own_parameters(estimator, 0, candidates[index])
        groups.setdefault(_key(first), []).append(index)
    return [_Work(work.fold, indices) for indices in groups.values()]


def _own_parameters(estimator: BaseEstimator, step: int, candidate: dict) -> dict[str, Any]:
    """Return those parameters of a candidate that concern one step of a pipeline."""
    if not isinstance(estimator, Pipeline) or "steps" in candidate:
        return candidate
    name = estimator.steps[step][0]
    return {k: v for k, v in candidate.items() if k == name or k.startswith(f"{name}__")}


def _score(estimator, candidates, X, y, train, test, scorer, label):
    """Fit and score candidates on one fold; runs in a worker."""
    outcomes: dict[int, _Outcome] = {}
    y_train, y_test = (None, None) if y is None else (y[train], y[test])
    with _quietly():
        _score_from(
            0, estimator, dict(enumerate(candidates)), X[train], y_train, X[test], y_test,
            scorer, 0.0, 0.0, outcomes,
        )  # fmt: skip
    return label, [outcomes[index] for index in range(len(candidates))]


def _score_from(
    step, estimator, candidates, X, y, X_test, y_test, scorer, fit_time, score_time, outcomes
):
    """Fit one step of a pipeline for all candidates that agree on it, then go on to the next.

    A tree: its trunk is the first step, its leaves are the candidates.
    """
    groups: dict[str, dict[int, dict]] = {}
    for index, candidate in candidates.items():
        key = _key(_own_parameters(estimator, step, candidate))
        groups.setdefault(key, {})[index] = candidate
    for group in groups.values():
        candidate = next(iter(group.values()))
        try:
            # Parameters may replace the step itself, as in {"scale": ["passthrough", ...]}.
            part = clone(estimator).set_params(
                **{name: clone(value, safe=False) for name, value in candidate.items()}
            )
            if not isinstance(part, Pipeline) or step == len(part.steps) - 1:
                last = part[step] if isinstance(part, Pipeline) else part
                outcome = _score_last(last, X, y, X_test, y_test, scorer, fit_time, score_time)
                outcomes.update(dict.fromkeys(group, outcome))
                continue
            transformer = part.steps[step][1]
            if transformer is None or transformer == "passthrough":
                described, described_test, seconds, test_seconds = X, X_test, 0.0, 0.0
            else:
                began = time.perf_counter()
                described = transformer.fit_transform(X, y)
                seconds = time.perf_counter() - began
                began = time.perf_counter()
                described_test = transformer.transform(X_test)
                test_seconds = time.perf_counter() - began
        except Exception as error:  # a candidate that cannot be fitted is a result, too
            told = str(error).strip().splitlines()[0] if str(error).strip() else ""
            failure = _Outcome(float("nan"), 0.0, 0.0, None, f"{type(error).__name__}: {told}")
            outcomes.update(dict.fromkeys(group, failure))
            continue
        _score_from(
            step + 1, estimator, group, described, y, described_test, y_test, scorer,
            fit_time + seconds, score_time + test_seconds, outcomes,
        )  # fmt: skip


def _score_last(model, X, y, X_test, y_test, scorer, fit_time, score_time) -> _Outcome:
    fit_time += _fit(model, X, y)
    began = time.perf_counter()
    score = float(scorer(model, X_test, y_test))
    score_time += time.perf_counter() - began
    return _Outcome(score, fit_time, score_time, _has_converged(model), "")


def _fit(model: BaseEstimator, X: np.ndarray, y: np.ndarray) -> float:
    """Fit and return the seconds."""
    began = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - began


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Fit on one BLAS thread and without warnings: whether a fit converged is a result here.

    The products of a logistic regression are so narrow, ten columns, that several threads wait
    for each other more than they compute: two were half as fast as one.
    """
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _has_converged(model: BaseEstimator) -> bool | None:
    """Tell whether a fitted model stopped before its last iteration, None if it counts none."""
    if isinstance(model, Pipeline):
        return _has_converged(model[-1])
    if hasattr(model, "estimators_"):  # one for each class
        return _all_converged(_has_converged(part) for part in model.estimators_)
    if not hasattr(model, "n_iter_") or not getattr(model, "max_iter", None):
        return None
    return bool(np.max(model.n_iter_) < model.max_iter)


def _all_converged(parts: Iterable[bool | None]) -> bool | None:
    parts = list(parts)
    return None if None in parts else all(parts)
