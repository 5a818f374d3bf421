"""A grid search that shares work, remembers it, and stops in time.

scikit-learn's ``GridSearchCV`` to its users, with a journal behind it. Not for networks, whose
settings are too many for a grid: `tuning` has those.
"""

import collections
import contextlib
import copy
import functools
import json
import math
import pickle
import time
import types
import warnings
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import joblib
import numpy as np
import scipy.stats
import sklearn
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.metrics._scorer import _BaseScorer
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, indexable

from cifarlib import files, fitting, progress
from cifarlib.errors import CifarlibError, InputError

# How long a search waits for another at the same journal: then it finds the work done.
LOCK_SECONDS = 60
# After so long a worker hands over what it has finished, for the journal, and begins the rest anew,
# with the steps that are shared; so that these cost a tenth at most, not before so many times what
# the first fit took.
RETURN_SECONDS = 60
RETURN_FACTOR = 10


class ResumableGridSearchCV(GridSearchCV):
    """scikit-learn's ``GridSearchCV`` that shares work, remembers it, and stops in time.

    *Shares*: candidates that differ only in the later steps of a pipeline share the earlier
    ones, fitted once a fold. *Remembers*: finished fits are kept in a journal, every minute, or
    after ten times what the first fit took if that is longer; the same call after an interruption,
    or with a larger grid, computes what is missing.
    *Stops*: after the time budget no fit is begun, and the best of the finished candidates wins.
    Work is spread by joblib, one BLAS thread a worker, so that
    ``joblib.parallel_config(backend="dask")`` spreads it over several machines.

    Args:
        estimator: what to search over, usually a pipeline.
        param_grid: dict or list of dicts, as for ``GridSearchCV``.
        scoring: name of one metric, or a scorer, None for the estimator's own. It is given the
            last step of a pipeline and what that step gets.
        n_jobs: number of workers, None for 1 or what ``joblib.parallel_config`` says.
        refit: fit the best candidate on all data at the end.
        cv: number of folds or a splitter, None for 5. Shuffling needs a ``random_state``, or
            the journal belongs to other folds.
        journal: file of finished fits, one JSON line each; None to remember nothing. Only one
            search at a time can use it; another waits a minute for it. In a folder that is
            there each search has a file of its own, named after what is searched.
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
            InputError: if the journal is of another search, damaged, or in use.
            CifarlibError: if the time budget ended before one candidate was finished, a worker
                died, or the journal cannot be written.
            ValueError: if every candidate failed, with what the first one said, if the grid is
                empty, names a parameter that is not there or holds a function without a name, for
                several metrics, or for a time budget or a journal that is none.
        """
        X, y = indexable(X, y)
        if isinstance(self.scoring, list | tuple | set | dict):
            raise ValueError(f"scoring: expected one metric, found {self.scoring}")
        if callable(self.refit):
            advice = "choose among cv_results_ yourself, and fit that"
            raise ValueError(f"refit: expected True or False, found a function; {advice}")
        budget = self.time_budget
        if budget is not None and not (isinstance(budget, Real) and budget >= 0):
            raise ValueError(f"time_budget: expected seconds, from 0, found {budget!r}")
        if self.journal is not None and not str(self.journal):
            raise ValueError("journal: expected a path, or None, found nothing")
        began = time.monotonic()
        splitter = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        folds = list(splitter.split(X, y))
        candidates = list(ParameterGrid(self.param_grid))
        if not candidates:
            raise ValueError("param_grid: expected at least one candidate, found none")
        for candidate in candidates:  # what does not fit is refused, as by GridSearchCV
            _set(self.estimator, candidate)
        keys = [_key(candidate) for candidate in candidates]
        self.scorer_ = check_scoring(self.estimator, self.scoring)
        self.multimetric_ = False
        self.n_splits_ = len(folds)

        search = {
            "estimator": _describe(self.estimator),
            "data": joblib.hash([_plain(X), _plain(y)]),
            "folds": joblib.hash(folds),
            "scoring": _describe(self.scoring),
            "scikit-learn": sklearn.__version__,
        }
        with _Journal(self.journal, search) as journal:
            self._compute(X, y, folds, candidates, keys, journal, began)
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
            self.best_estimator_ = _set(self.estimator, self.best_params_)
            with fitting.quietly():
                self.best_estimator_.fit(X, y)
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
            self.refit_time_ = time.monotonic() - began
        return self

    def _compute(self, X, y, folds, candidates, keys, journal: "_Journal", began: float) -> None:
        """Fit what the journal does not hold yet, until the time is over."""
        missing = [
            _Work(fold, [c for c, key in enumerate(keys) if (key, fold) not in journal.fits])
            for fold in range(len(folds))
        ]
        num_fits = len(candidates) * len(folds)
        self.num_remembered_ = num_fits - sum(len(work.candidates) for work in missing)
        journal.say_what_is_remembered({(key, f) for key in keys for f in range(len(folds))})
        num_workers = joblib.effective_n_jobs(self.n_jobs)
        pieces = [piece for work in missing for piece in _split(work, self.estimator, candidates)]
        # The folds of one candidate side by side, so that a time budget leaves few torn.
        pieces = collections.deque(sorted(pieces, key=lambda piece: piece.candidates[0]))
        budget = math.inf if self.time_budget is None else self.time_budget
        is_kept = self.journal is not None

        def seconds_left() -> float:
            return budget - (time.monotonic() - began)

        def in_time() -> Iterator:
            while pieces and (left := seconds_left()) > 0:
                fold, indices = pieces.popleft()
                chosen = {index: candidates[index] for index in indices}
                yield joblib.delayed(_score)(
                    self.estimator, chosen, X, y, fold, folds[fold], self.scorer_, left, is_kept
                )

        parallel = joblib.Parallel(
            self.n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs"
        )
        with progress.bar(num_fits, "Grid", "fit", initial=self.num_remembered_) as bar:
            try:
                while pieces and seconds_left() > 0:
                    for fold, outcomes, rest, seconds in parallel(in_time()):
                        share = seconds / num_workers / max(1, len(outcomes))
                        for index, outcome in outcomes.items():
                            journal.add(keys[index], fold, outcome, share)
                        bar.update(len(outcomes))
                        if rest:
                            pieces.append(_Work(fold, rest))
            except CifarlibError:  # of the journal
                raise
            except Exception as error:  # fits report theirs; this is a worker that died
                raise CifarlibError(
                    f"a worker was lost ({type(error).__name__}: {error}). The finished fits "
                    "are kept if there is a journal: the same call goes on."
                ) from error

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
        for name in dict.fromkeys(name for candidate in candidates for name in candidate):
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
        ranks = scipy.stats.rankdata(-np.where(np.isnan(means), -np.inf, means), method="min")
        table["rank_test_score"] = ranks.astype(np.int32)
        table["converged"] = [
            fitting.all_converged(outcome.converged for outcome in row) for row in rows
        ]
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
        self._seconds: dict[tuple[str, int], float] = {}
        self._path = None if path is None else Path(path)
        self._search = search
        self._file = None

    def __enter__(self) -> "_Journal":
        if self._path is None:
            return self
        self._lock = None
        try:
            if self._path.is_dir():
                self._path /= f"search-{joblib.hash(self._search)[:12]}.jsonl"
            if self._path.exists() and not self._path.is_file():
                raise InputError(self._path, "a file", "something else", "Name another journal.")
            self._lock = filelock.FileLock(f"{self._path}.lock", timeout=LOCK_SECONDS)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._open()
        except filelock.Timeout as error:
            raise InputError(
                self._path,
                "a journal of its own",
                "another search at it",
                "Wait for it, or name another journal.",
            ) from error
        except OSError as error:
            advice = "Name a file, or a folder, where you may write."
            raise InputError(self._path, "a journal", f"{error.strerror}", advice) from error
        finally:
            if self._lock and self._file is None:
                self._lock.release()
        return self

    def __exit__(self, *exception) -> None:
        if self._file:
            with contextlib.suppress(OSError):  # of a line that `add` could not write
                self._file.close()
            self._lock.release()

    def _open(self) -> None:
        advice = "Name another journal, or delete this one."
        found = self._search
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
            # A line without its end was being written when the search was killed.
            whole = content[: content.rfind(b"\n") + 1]
            if whole:
                found = self._read(whole.decode("utf-8").splitlines())
            elif content:
                raise ValueError("no complete line")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                self._path, "a journal of fits", f"something else ({error})", advice
            ) from error
        differs = [name for name, value in self._search.items() if found[name] != value]
        if differs:
            told = f"one of another {' and '.join(differs)}"
            raise InputError(self._path, "the journal of this search", told, advice)
        if whole != content or not whole:
            whole = whole or json.dumps(self._search).encode() + b"\n"
            with files.replacing(self._path) as file:
                file.write(whole)
        self._file = self._path.open("a", encoding="utf-8")

    def _read(self, lines: list[str]) -> dict[str, str]:
        """Take the fits from the lines, and return what was searched."""
        search, *fits = [json.loads(line) for line in lines]
        if not isinstance(search, dict) or not search.keys() >= self._search.keys():
            raise ValueError("the first line says nothing of a search")
        for fit in fits:
            key = fit.pop("candidate"), fit.pop("fold")
            self._seconds[key] = float(fit.pop("seconds", 0))
            self.fits[key] = _Outcome(**fit)
        return search

    def say_what_is_remembered(self, asked: set[tuple[str, int]]) -> None:
        """Note how long those of the fits that are asked for had taken."""
        if self._path:
            seconds = sum(self._seconds[key] for key in self._seconds.keys() & asked)
            progress.remember(self._path, seconds)

    def add(self, candidate: str, fold: int, outcome: _Outcome, seconds: float) -> None:
        """Keep a fit, on disk before the next one is counted.

        Args:
            candidate: what tells it from others.
            fold: in which it was fitted.
            outcome: what came of it.
            seconds: its share of the search's time, where other fits share steps with it.

        Raises:
            CifarlibError: if it cannot be written.
        """
        self.fits[candidate, fold] = outcome
        if self._file and not outcome.error:  # what failed for want of memory may yet succeed
            told = {"candidate": candidate, "fold": fold, "seconds": seconds}
            line = {**told, **outcome._asdict()}
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                raise CifarlibError(
                    f"{self._path}: {error.strerror}. What it holds is kept: make room, and the "
                    "same call goes on."
                ) from error


def _plain(values: Any) -> Any:
    """Return an array whose hash depends on its values alone, not on its layout or its file."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values).view(np.ndarray)
    return values


def _key(candidate: dict[str, Any]) -> str:
    """Return what tells a candidate from others, equal in every session."""
    return ", ".join(f"{name}={_describe(value)}" for name, value in sorted(candidate.items()))


def _describe(value: Any) -> str:
    """Return a value with all its parameters; an estimator's repr leaves out the defaults.

    Raises:
        ValueError: if nothing tells the value from others of its kind in another session.
    """
    if isinstance(value, BaseEstimator):
        parameters = {k: _describe(v) for k, v in sorted(value.get_params(deep=False).items())}
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        return f"{name}({parameters}){_own_methods(type(value))}"
    if isinstance(value, functools.partial):
        return f"partial({_describe([value.func, value.args, value.keywords])})"
    if isinstance(value, _BaseScorer):  # of make_scorer
        parts = [value._score_func, value._sign, value._kwargs, str(value._response_method)]
        return f"{type(value).__name__}({_describe(parts)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_describe, value))}]"
    if isinstance(value, dict):
        entries = sorted(f"{_describe(key)}: {_describe(entry)}" for key, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes | slice | range):
        return repr(value)
    if callable(value) and hasattr(value, "__qualname__"):
        name = f"{value.__module__}.{value.__qualname__}"
        if "<" in name:  # <lambda>, <locals>
            raise ValueError(
                f"{name}: expected a function that can be told from others by its name; define "
                "it in a module or a cell, with def"
            )
        if isinstance(value, types.MethodType):  # of which object counts as well
            return f"{_describe(value.__func__)} of {_describe(value.__self__)}"
        code = getattr(value, "__code__", None)
        if code is None:
            return name
        enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
        # What a decorator has taken; the rest may be its counter.
        taken = [part for part in enclosed if callable(part) and part is not value]
        beside = value.__defaults__, value.__kwdefaults__, *taken
        told = f", {_describe(beside)}" if any(part is not None for part in beside) else ""
        return f"{name}({joblib.hash(_content(code))}{told})"
    if isinstance(value, np.random.RandomState | np.random.Generator):
        raise ValueError(f"{value}: expected an integer seed, which is the same in every session")
    try:
        # A repr may leave out what matters.
        return f"{type(value).__name__}({joblib.hash(value)})"
    except (pickle.PicklingError, TypeError, AttributeError) as error:  # of a lock, a stream
        raise ValueError(f"{value!r}: expected what pickle can write ({error})") from error


def _own_methods(kind: type) -> str:
    """Return what tells a class of ours or the reader's after an edit; its name stays the same."""
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in _LIBRARIES]
    members = [
        (name, told)
        for base in bases
        for name, value in sorted(vars(base).items())
        if (told := _member(name, value)) is not None
    ]
    return f"#{joblib.hash(members)}" if members else ""


def _member(name: str, value: Any) -> Any:
    """Return what tells a member of a class from another, None for what may change in a fit.

    Of what is no function only constants count, by their names: the rest may be a counter.
    """
    if isinstance(value, property):
        return [_member(name, part) for part in (value.fget, value.fset, value.fdel)]
    if isinstance(value, functools.cached_property):
        value = value.func
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    is_function = isinstance(value, types.FunctionType)
    if not is_function and not name.isupper():
        return None
    told = [value.__defaults__, value.__kwdefaults__] if is_function else value
    try:
        described = _describe(told)
    except (ValueError, RecursionError):  # nothing tells it in another session
        described = type(value).__name__
    return (_content(value.__code__), described) if is_function else described


# Whose versions are told otherwise, or which have no methods to edit.
_LIBRARIES = {"builtins", "sklearn"}


def _content(code: types.CodeType) -> tuple:
    """Return what a function does, without where it stands."""
    return code.co_code, code.co_names, _constants(code.co_consts)


def _constants(values: tuple) -> list:
    """Return a function's constants in the order of the text; that of a set changes by session."""
    return [
        _content(value)
        if isinstance(value, types.CodeType)
        else sorted(map(repr, value))
        if isinstance(value, frozenset)
        else tuple(_constants(value))
        if isinstance(value, tuple)
        else value
        for value in values
    ]


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


def _score(estimator, candidates, X, y, fold, rows, scorer, seconds, is_kept):
    """Fit and score candidates on one fold, in a worker, until the seconds are over.

    What shall be kept is returned before that, with what is left to do and what it took.
    """
    began, limit = time.monotonic(), seconds
    parts = [
        None if part is None else _safe_indexing(part, index) for index in rows for part in (X, y)
    ]
    outcomes: dict[int, _Outcome] = {}

    def is_over() -> bool:
        nonlocal limit
        passed = time.monotonic() - began
        if is_kept and len(outcomes) > 0 and limit == seconds:
            limit = min(seconds, max(RETURN_SECONDS, RETURN_FACTOR * passed))
        return passed >= limit

    with fitting.quietly():
        _score_from(0, estimator, candidates, *parts, scorer, is_over, (0.0, 0.0), outcomes)
    rest = [index for index in candidates if index not in outcomes]
    return fold, outcomes, rest, time.monotonic() - began


def _score_from(
    step, estimator, candidates, X, y, X_test, y_test, scorer, is_over, times, outcomes
):
    """Fit one step of a pipeline for all candidates that agree on it, then go on to the next.

    A tree: its trunk is the first step, its leaves are the candidates. ``times`` are the seconds
    of fitting and of transforming the test part, from the first step to here.
    """
    groups: dict[str, dict[int, dict]] = {}
    for index, candidate in candidates.items():
        key = _key(_own_parameters(estimator, step, candidate))
        groups.setdefault(key, {})[index] = candidate
    for number, group in enumerate(groups.values()):
        if is_over():
            return
        if number < len(groups) - 1:  # a step may work in place, as StandardScaler(copy=False)
            own, own_test = copy.copy(X), copy.copy(X_test)
        else:
            own, own_test = X, X_test
        try:
            # Parameters may replace the step itself, as in {"scale": ["passthrough", ...]}.
            model = _set(estimator, next(iter(group.values())))
            if not isinstance(model, Pipeline) or step == len(model.steps) - 1:
                last = model[step] if isinstance(model, Pipeline) else model
                outcome = _score_last(last, own, y, own_test, y_test, scorer, times)
                outcomes.update(dict.fromkeys(group, outcome))
                continue
            transformer = model.steps[step][1]
            seconds = test_seconds = 0.0
            if transformer is not None and transformer != "passthrough":
                began = time.perf_counter()
                if hasattr(transformer, "fit_transform"):
                    own = transformer.fit_transform(own, y)
                else:  # as of a class with no more than fit and transform
                    own = transformer.fit(own, y).transform(own)
                seconds = time.perf_counter() - began
                began = time.perf_counter()
                own_test = transformer.transform(own_test)
                test_seconds = time.perf_counter() - began
        except Exception as error:  # a candidate that cannot be fitted is a result, too
            told = str(error).strip().partition("\n")[0]
            failure = _Outcome(float("nan"), 0.0, 0.0, None, f"{type(error).__name__}: {told}")
            outcomes.update(dict.fromkeys(group, failure))
            continue
        times_here = times[0] + seconds, times[1] + test_seconds
        _score_from(
            step + 1, estimator, group, own, y, own_test, y_test, scorer, is_over, times_here,
            outcomes,
        )  # fmt: skip


def _set(estimator: BaseEstimator, parameters: dict[str, Any]) -> BaseEstimator:
    """Return a clone with parameters of its own."""
    own = {name: clone(value, safe=False) for name, value in parameters.items()}
    return clone(estimator).set_params(**own)


def _score_last(model, X, y, X_test, y_test, scorer, times) -> _Outcome:
    fit_time = times[0] + fitting.timed_fit(model, X, y)
    began = time.perf_counter()
    score = float(scorer(model, X_test, y_test))
    score_time = times[1] + time.perf_counter() - began
    return _Outcome(score, fit_time, score_time, fitting.has_converged(model), "")
