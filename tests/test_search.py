"""The grid search beside scikit-learn's own; its journal, its time budget, its workers."""

import contextlib
import copy
import errno
import functools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError
from linear_problem import NO_WARNINGS
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.svm import SVC

from cifarlib import features, fitting, progress, search
from cifarlib.errors import CifarlibError, InputError
from cifarlib.search import ResumableGridSearchCV

TIMES = ["mean_fit_time", "std_fit_time", "mean_score_time", "std_score_time"]

pytestmark = NO_WARNINGS


def write_down(diary: str) -> int:
    """Add a line to a diary, which all processes share, and return how many there are."""
    with Path(diary).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return num_lines(diary)


def num_lines(path) -> int:
    return len(Path(path).read_text().splitlines()) if Path(path).exists() else 0


class Plain(BaseEstimator):
    """A transformer with no more than it needs."""

    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        return self

    def transform(self, X):
        return X - self.mean_


class Diarist(TransformerMixin, BaseEstimator):
    """Multiplies, and writes down every time it is fitted."""

    def __init__(self, diary, factor=1.0):
        self.diary = diary
        self.factor = factor

    def fit(self, X, y=None):
        write_down(self.diary)
        self.fitted_ = True
        return self

    def transform(self, X):
        return X * self.factor


class Witness(LogisticRegression):
    """Writes every fit down, and dies in one if the file ``<diary>.dies`` says in which."""

    def __init__(self, diary=None, C=1.0):
        super().__init__(C=C)
        self.diary = diary

    def fit(self, X, y):
        number = write_down(self.diary)
        dies = Path(f"{self.diary}.dies")
        if dies.exists() and number >= int(dies.read_text()):
            dies.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(X, y)


class Clock:
    """Stands in for the module ``time``: it moves on only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = time = monotonic


class Slow(ClassifierMixin, BaseEstimator):
    """Takes ten seconds for a fit, by a clock that does not make anybody wait."""

    clock = None
    num_fits = 0

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y):
        type(self).num_fits += 1
        self.clock.now += 10
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


@pytest.fixture
def clock(monkeypatch):
    stopped = Clock()
    monkeypatch.setattr(search, "time", stopped)
    monkeypatch.setattr(fitting, "time", stopped)
    monkeypatch.setattr(Slow, "clock", stopped)
    monkeypatch.setattr(Slow, "num_fits", 0)
    return stopped


class SlowScaler(StandardScaler):
    """Takes seven seconds to fit and three to apply, by the same clock."""

    def fit(self, X, y=None):
        Slow.clock.now += 7
        return super().fit(X)

    def transform(self, X):
        Slow.clock.now += 3
        return super().transform(X)


def test_a_candidate_takes_as_long_as_all_of_its_steps_though_others_share_them(clock, problem):
    pipeline = Pipeline([("scale", SlowScaler()), ("slow", Slow())])
    found = ResumableGridSearchCV(pipeline, {"slow__C": [1, 2]}, cv=3, refit=False).fit(*problem)
    assert found.cv_results_["mean_fit_time"].tolist() == [7 + 3 + 10] * 2
    assert found.cv_results_["mean_score_time"].tolist() == [3] * 2


# --- the grid search beside scikit-learn's


def scale_and_classify(*steps):
    return Pipeline([("scale", StandardScaler()), *steps, ("clf", LogisticRegression())])


SEARCHES = {
    "plain": (LogisticRegression(), {"C": [0.001, 0.1, 10]}),
    "pipeline": (
        scale_and_classify(("pca", PCA())),
        {"pca__n_components": [2, 4, 6], "clf__C": [0.001, 1]},
    ),
    "first step varies": (
        scale_and_classify(),
        {"scale__with_std": [True, False], "clf__C": [0.001, 1]},
    ),
    "passthrough": (
        scale_and_classify(("pca", PCA())),
        {
            "scale": [StandardScaler(), "passthrough", MinMaxScaler()],
            "pca": ["passthrough", PCA(2), PCA(3)],
            "clf__C": [0.01, 1],
        },
    ),
    "step and its parameter": (
        scale_and_classify(),
        {"scale": [StandardScaler()], "scale__with_mean": [True, False]},
    ),
    "last step": (
        scale_and_classify(),
        {"clf": [LogisticRegression(C=0.01), KNeighborsClassifier(3), SVC()]},
    ),
    "one versus rest": (
        OneVsRestClassifier(LogisticRegression()),
        {"estimator__C": [0.001, 0.1, 10]},
    ),
    "pipeline in one versus rest": (
        make_pipeline(
            StandardScaler(), OneVsRestClassifier(make_pipeline(PCA(), LogisticRegression()))
        ),
        {"onevsrestclassifier__estimator__pca__n_components": [1, 3]},
    ),
    "several grids": (
        scale_and_classify(),
        [
            {"clf__C": [0.001, 1]},
            {"clf": [KNeighborsClassifier()], "clf__n_neighbors": [1, 9]},
            {"scale": ["passthrough"], "clf__C": [0.1]},
        ],
    ),
    "the same twice": (scale_and_classify(), [{"clf__C": [1, 0.1]}, {"clf__C": [0.1, 1]}]),
    "all steps": (
        scale_and_classify(),
        {"steps": [[("only", LogisticRegression())], [("a", PCA(2)), ("b", SVC())]]},
    ),
    "regression": (make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1, 100, 10_000]}),
}


def assert_same(ours, theirs, exact: bool = False) -> None:
    """Check that two searches found the same, apart from how long it took."""
    ours_table, theirs_table = ours.cv_results_, theirs.cv_results_
    assert str(ours_table["params"]) == str(theirs_table["params"])
    for name, expected in theirs_table.items():
        found = ours_table[name]
        if name.startswith("param_"):
            mask = np.ma.getmaskarray(expected)
            np.testing.assert_array_equal(np.ma.getmaskarray(found), mask)
            # Estimators are equal to nothing but themselves.
            for one, other in zip(found[~mask], expected[~mask], strict=True):
                assert one == other or str(one) == str(other)
        elif name.endswith("_score"):
            np.testing.assert_allclose(found, expected, rtol=0 if exact else 1e-5, err_msg=name)
    assert ours.best_index_ == theirs.best_index_
    assert str(ours.best_params_) == str(theirs.best_params_)
    np.testing.assert_allclose(ours.best_score_, theirs.best_score_, rtol=1e-5)
    assert ours.n_splits_ == theirs.n_splits_
    assert ours.multimetric_ == theirs.multimetric_


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_that_of_scikit_learn_finds(problem, name):
    X, y = problem
    estimator, grid = SEARCHES[name]
    cv = KFold(3) if name == "regression" else StratifiedKFold(3, shuffle=True, random_state=0)
    theirs = GridSearchCV(estimator, grid, cv=cv).fit(X, y)
    ours = ResumableGridSearchCV(estimator, grid, cv=cv).fit(X, y)
    assert_same(ours, theirs)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))
    if hasattr(theirs, "n_features_in_"):  # not where the first step is "passthrough"
        assert ours.n_features_in_ == 6
    assert ours.num_unfinished_ == ours.num_remembered_ == 0


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "f1_macro", "roc_auc_ovr"])
def test_any_metric_may_decide(problem, scoring):
    estimator, grid = SEARCHES["pipeline"]
    theirs = GridSearchCV(estimator, grid, scoring=scoring, cv=3).fit(*problem)
    ours = ResumableGridSearchCV(estimator, grid, scoring=scoring, cv=3).fit(*problem)
    assert_same(ours, theirs)
    assert ours.score(*problem) == pytest.approx(theirs.score(*problem))


def test_several_metrics_at_once_are_refused_clearly(problem):
    search = ResumableGridSearchCV(
        LogisticRegression(), {"C": [1]}, scoring=["accuracy", "f1_macro"], refit="accuracy"
    )
    with pytest.raises(ValueError, match="scoring"):
        search.fit(*problem)


def test_the_table_has_the_columns_of_scikit_learn_in_their_order(problem):
    estimator, grid = SEARCHES["several grids"]
    theirs = pd.DataFrame(GridSearchCV(estimator, grid, cv=3).fit(*problem).cv_results_)
    ours = pd.DataFrame(ResumableGridSearchCV(estimator, grid, cv=3).fit(*problem).cv_results_)
    assert list(ours.columns) == [*theirs.columns, "converged"]
    assert len(ours) == len(theirs) == 5
    assert (ours[TIMES] >= 0).all(axis=None)
    assert ours["rank_test_score"].dtype == theirs["rank_test_score"].dtype


def test_without_labels_a_search_needs_none(problem):
    X, _ = problem
    grid = {"n_components": [1, 2, 3]}
    theirs = GridSearchCV(PCA(), grid, cv=3).fit(X)
    assert_same(ResumableGridSearchCV(PCA(), grid, cv=3).fit(X), theirs)


def test_tables_of_pandas_are_searched_like_arrays(problem):
    X, y = problem
    table = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(90)[::-1])
    labels = pd.Series(np.array(["cat", "dog", "frog"])[y], index=table.index)
    estimator, grid = SEARCHES["pipeline"]
    theirs = GridSearchCV(estimator, grid, cv=3).fit(table, labels)
    ours = ResumableGridSearchCV(estimator, grid, cv=3).fit(table, labels)
    assert_same(ours, theirs)
    assert ours.predict(table).tolist() == theirs.predict(table).tolist()
    assert list(ours.feature_names_in_) == list("abcdef")


def test_lists_are_searched_like_arrays(problem):
    X, y = problem
    theirs = GridSearchCV(LogisticRegression(), {"C": [1]}, cv=3).fit(X.tolist(), y.tolist())
    ours = ResumableGridSearchCV(LogisticRegression(), {"C": [1]}, cv=3)
    assert_same(ours.fit(X.tolist(), y.tolist()), theirs)


@pytest.mark.parametrize(
    "cv",
    [None, 4, KFold(3, shuffle=True, random_state=1), "pairs"],
    ids=["default", "number", "splitter", "pairs"],
)
def test_folds_are_those_of_scikit_learn(problem, cv):
    X, y = problem
    cv = list(KFold(3).split(X)) if cv == "pairs" else cv
    theirs = GridSearchCV(LogisticRegression(), {"C": [0.01, 1]}, cv=cv).fit(X, y)
    ours = ResumableGridSearchCV(LogisticRegression(), {"C": [0.01, 1]}, cv=cv).fit(X, y)
    assert_same(ours, theirs)


def test_without_refit_there_are_scores_but_no_predictions(problem):
    search = ResumableGridSearchCV(LogisticRegression(), {"C": [0.01, 1]}, refit=False)
    search.fit(*problem)
    means = search.cv_results_["mean_test_score"]
    assert search.best_params_ == search.cv_results_["params"][int(np.argmax(means))]
    assert not hasattr(search, "best_estimator_")
    with pytest.raises(AttributeError, match="predict"):
        search.predict(problem[0])


def test_a_search_can_be_cloned_set_and_pickled(problem, tmp_path):
    search = ResumableGridSearchCV(
        LogisticRegression(), {"C": [0.01, 1]}, cv=3, journal=tmp_path / "j", time_budget=60
    )
    copied = clone(search).set_params(estimator__max_iter=77, n_jobs=1)
    assert copied.get_params()["journal"] == tmp_path / "j"
    assert copied.get_params()["time_budget"] == 60
    assert (copied.estimator.max_iter, search.estimator.max_iter) == (77, 100)
    search.fit(*problem)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(problem[0]), search.predict(problem[0]))
    assert "time_budget=60" in repr(search)


# --- shared work


def test_shared_steps_are_fitted_once_a_fold(problem, tmp_path):
    model = Pipeline(
        [
            ("first", Diarist(str(tmp_path / "first"))),
            ("second", Diarist(str(tmp_path / "second"))),
            ("clf", Witness(str(tmp_path / "last"))),
        ]
    )
    grid = {"clf__C": [0.01, 0.1, 1], "second__factor": [1.0, 2.0]}
    search = ResumableGridSearchCV(model, grid, cv=3).fit(*problem)
    assert num_lines(tmp_path / "first") == 3 + 1  # and once more for the final fit
    assert num_lines(tmp_path / "second") == 3 * 2 + 1
    assert num_lines(tmp_path / "last") == 3 * 6 + 1
    assert_same(search, GridSearchCV(model, grid, cv=3).fit(*problem))


def test_shared_features_are_not_spoiled_by_a_step_that_works_in_place(problem):
    X, y = problem
    model = Pipeline(
        [
            ("shared", PCA(4)),
            ("scale", StandardScaler(copy=False)),
            ("clf", KNeighborsClassifier()),
        ]
    )
    grid = {"scale__with_std": [True, False], "clf__n_neighbors": [3, 9]}
    before = X.copy()
    theirs = GridSearchCV(model, grid, cv=3).fit(X.copy() * 5, y)
    ours = ResumableGridSearchCV(model, grid, cv=3).fit(X.copy() * 5, y)
    assert_same(ours, theirs)
    np.testing.assert_array_equal(X, before)


def test_functions_without_a_name_are_refused_since_nothing_tells_them_apart(problem):
    model = make_pipeline(FunctionTransformer(), LogisticRegression())
    grid = {"functiontransformer__func": [lambda X: X, lambda X: np.zeros_like(X)]}
    with pytest.raises(ValueError, match=r"lambda.*with def"):
        ResumableGridSearchCV(model, grid, cv=3).fit(*problem)


# --- the journal


@pytest.fixture
def witness(tmp_path):
    return Witness(str(tmp_path / "diary"))


@pytest.fixture
def num_fits(tmp_path):
    """Return a function that tells how many fits there were since it was last asked."""
    told = 0

    def since() -> int:
        nonlocal told
        now = num_lines(tmp_path / "diary")
        now, told = now - told, now
        return now

    return since


def search_over(witness, tmp_path, strengths=(0.01, 1), **options):
    options = {"cv": 3, "refit": False, "journal": tmp_path / "journal", **options}
    return ResumableGridSearchCV(witness, {"C": list(strengths)}, **options)


def test_what_is_in_the_journal_is_not_computed_again(problem, tmp_path, witness, num_fits):
    first = search_over(witness, tmp_path).fit(*problem)
    assert (num_fits(), first.num_remembered_) == (6, 0)
    second = search_over(clone(witness), tmp_path).fit(*map(np.copy, problem))
    assert (num_fits(), second.num_remembered_) == (0, 6)
    assert_same(second, first, exact=True)
    for name in [*TIMES, "converged"]:
        np.testing.assert_array_equal(second.cv_results_[name], first.cv_results_[name])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_in_the_journal_is_counted_with_the_time_it_took(
    problem, tmp_path, witness, monkeypatch, n_jobs
):
    monkeypatch.setattr(progress, "_remembered", {})
    first = search_over(witness, tmp_path, n_jobs=n_jobs).fit(*problem)
    search_over(witness, tmp_path).fit(*problem)
    assert progress.Remembered().seconds == 0, "this process did it"
    monkeypatch.setattr(progress, "_remembered", {})  # as in another
    search_over(witness, tmp_path, [0.01]).fit(*problem)
    part = progress.Remembered().seconds
    monkeypatch.setattr(progress, "_remembered", {})
    search_over(witness, tmp_path).fit(*problem)
    assert 0 < part < progress.Remembered().seconds <= first.search_time_


def test_a_journal_of_before_without_times_is_still_read(problem, tmp_path, witness, num_fits):
    search_over(witness, tmp_path).fit(*problem)
    journal = tmp_path / "journal"
    journal.write_text(re.sub('"seconds": [^,]*, ', "", journal.read_text()))
    assert "seconds" not in journal.read_text() and num_fits() == 6
    search_over(witness, tmp_path).fit(*problem)
    assert num_fits() == 0


def test_a_larger_grid_computes_only_what_is_new(problem, tmp_path, witness, num_fits):
    search_over(witness, tmp_path).fit(*problem)
    num_fits()
    larger = search_over(witness, tmp_path, [0.001, 0.01, 0.1, 1]).fit(*problem)
    assert (num_fits(), larger.num_remembered_) == (6, 6)
    whole = search_over(witness, tmp_path, [0.001, 0.01, 0.1, 1], journal=None)
    assert_same(larger, whole.fit(*problem))
    smaller = search_over(witness, tmp_path, [0.1]).fit(*problem)
    assert smaller.cv_results_["params"] == [{"C": 0.1}]


def test_the_same_number_is_the_same_whether_numpy_or_python_made_it(
    problem, tmp_path, witness, num_fits
):
    search_over(witness, tmp_path, [0.01, 1.0]).fit(*problem)
    num_fits()
    search_over(witness, tmp_path, np.array([0.01, 1.0])).fit(*problem)
    assert num_fits() == 0


def test_a_line_that_was_being_written_is_dropped_and_the_rest_kept(
    problem, tmp_path, witness, num_fits
):
    first = search_over(witness, tmp_path).fit(*problem)
    journal = tmp_path / "journal"
    whole = journal.read_text()
    for torn in (whole[:-1], whole[:-20]):
        journal.write_text(torn)
        num_fits()
        again = search_over(witness, tmp_path).fit(*problem)
        assert num_fits() == 1
        assert_same(again, first, exact=True)
        assert num_lines(journal) == 7
        assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_an_empty_journal_and_a_missing_folder_are_a_beginning(
    problem, tmp_path, witness, num_fits
):
    (tmp_path / "empty").touch()
    for name in ("empty", "new/folder/journal"):
        for expected in (6, 0):
            search_over(witness, tmp_path, journal=str(tmp_path / name)).fit(*problem)
            assert num_fits() == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:2], lines[2][:-9], *lines[3:]],
        lambda lines: [*lines[:2], "[1, 2]", *lines[3:]],
        lambda lines: [*lines[:2], '{"candidate": "C=1"}', *lines[3:]],
        lambda lines: [lines[0][5:], *lines[1:]],
        lambda lines: ["[1]"],
        lambda lines: lines[1:],
        lambda lines: ["My notes", "on everything"],
    ],
    ids=["cut", "a list", "half", "first line", "a list first", "no first line", "notes"],
)
def test_a_damaged_journal_is_refused_and_left_alone(problem, tmp_path, witness, damage):
    search_over(witness, tmp_path).fit(*problem)
    journal = tmp_path / "journal"
    journal.write_text("".join(f"{line}\n" for line in damage(journal.read_text().splitlines())))
    damaged = journal.read_bytes()
    with pytest.raises(InputError, match=str(journal)):
        search_over(witness, tmp_path).fit(*problem)
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize(
    "content", [b"My only line of notes", b'{"a": 1}', b"\x93NUMPY\xff\xfe\n\x00"]
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(problem, tmp_path, witness, content):
    journal = tmp_path / "journal"
    journal.write_bytes(content)
    with pytest.raises(InputError, match=str(journal)):
        search_over(witness, tmp_path).fit(*problem)
    assert journal.read_bytes() == content


@pytest.mark.parametrize("what", ["data", "labels", "estimator", "folds", "scoring"])
def test_a_journal_of_another_search_is_refused_and_says_why(problem, tmp_path, witness, what):
    search_over(witness, tmp_path).fit(*problem)
    journal = tmp_path / "journal"
    before = journal.read_bytes()
    X, y = map(np.copy, problem)
    other = search_over(witness, tmp_path)
    if what == "data":
        X[5, 3] += 1e-9
    elif what == "labels":
        y = y[::-1].copy()
    elif what == "estimator":
        other.set_params(estimator=LogisticRegression())
    else:
        other.set_params(**{"folds": {"cv": 4}, "scoring": {"scoring": "f1_macro"}}[what])
    told = {"labels": "data"}.get(what, what)
    with pytest.raises(InputError, match=rf"another .*{told}.*Name another journal") as caught:
        other.fit(X, y)
    assert str(journal) in str(caught.value)
    assert journal.read_bytes() == before


def test_a_parameter_of_the_estimator_outside_the_grid_makes_another_search(problem, tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    options = {"cv": 3, "journal": tmp_path / "journal"}
    grid = {"logisticregression__C": [0.01, 1]}
    ResumableGridSearchCV(model, grid, **options).fit(*problem)
    model.set_params(standardscaler__with_mean=False)
    with pytest.raises(InputError, match="another estimator"):
        ResumableGridSearchCV(model, grid, **options).fit(*problem)


def test_a_search_that_is_killed_goes_on_where_it_was(
    problem, tmp_path, witness, num_fits, run_python
):
    (tmp_path / "diary.dies").write_text("5")
    process = run_python(
        "import sys; sys.path.insert(0, sys.argv[1]); import test_search as t; "
        "from linear_problem import make_problem; "
        "from pathlib import Path; "
        "witness = t.Witness(sys.argv[2] + '/diary'); "
        "t.search_over(witness, Path(sys.argv[2])).fit(*make_problem())",
        Path(__file__).parent,
        tmp_path,
    )
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, complaints
    assert num_fits() == 5
    assert num_lines(tmp_path / "journal") == 1 + 4
    resumed = search_over(witness, tmp_path).fit(*problem)
    assert (num_fits(), resumed.num_remembered_) == (2, 4)
    assert_same(resumed, search_over(witness, tmp_path, journal=None).fit(*problem))


def test_of_fits_that_share_features_a_kill_loses_those_of_one_fold(
    problem, tmp_path, num_fits, run_python
):
    kill_in_a_fit(run_python, tmp_path, 4)
    num_fits()
    resumed = pipeline_search(tmp_path).fit(*problem)
    # Three of six fits were finished, in whatever order; those of one fold at most are lost.
    assert resumed.num_remembered_ >= 2
    assert num_fits() == 6 - resumed.num_remembered_


def test_finished_fits_are_kept_before_all_that_share_features_are(
    problem, tmp_path, num_fits, run_python, monkeypatch
):
    at_once = "t.search.RETURN_SECONDS = t.search.RETURN_FACTOR = 0; "
    kill_in_a_fit(run_python, tmp_path, 6, at_once)
    num_fits()
    resumed = pipeline_search(tmp_path).fit(*problem)
    assert (resumed.num_remembered_, num_fits()) == (5, 1)
    (tmp_path / "journal").unlink()
    whole = pipeline_search(tmp_path).fit(*problem)
    assert_same(resumed, whole)
    monkeypatch.setattr(search, "RETURN_SECONDS", 0)
    monkeypatch.setattr(search, "RETURN_FACTOR", 0)
    (tmp_path / "journal").unlink()
    for num_jobs in (1, 2):
        assert_same(pipeline_search(tmp_path).set_params(n_jobs=num_jobs).fit(*problem), whole)
        (tmp_path / "journal").unlink()


def kill_in_a_fit(run_python, folder, number, setting="") -> None:
    """Run `pipeline_search` in a process that is killed in the fit of that number."""
    (folder / "diary.dies").write_text(str(number))
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import test_search as t; {setting}"
        "from linear_problem import make_problem; "
        "t.pipeline_search(sys.argv[2]).fit(*make_problem())"
    )
    process = run_python(code, Path(__file__).parent, folder)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, complaints


def pipeline_search(folder):
    model = make_pipeline(StandardScaler(), Witness(f"{folder}/diary"))
    grid = {"witness__C": [0.01, 1]}
    return ResumableGridSearchCV(model, grid, cv=3, refit=False, journal=f"{folder}/journal")


def test_a_second_search_at_the_same_journal_is_refused_and_nothing_is_lost(
    problem, tmp_path, witness, num_fits, monkeypatch
):
    monkeypatch.setattr(search, "LOCK_SECONDS", 0)
    with search._Journal(tmp_path / "journal", {"estimator": "another"}):
        with pytest.raises(InputError, match="another search at it"):
            search_over(witness, tmp_path).fit(*problem)
        assert num_fits() == 0
    (tmp_path / "journal").unlink()
    search_over(witness, tmp_path).fit(*problem)
    assert search_over(witness, tmp_path).fit(*problem).num_remembered_ == 6


@pytest.mark.parametrize("line", ["5", "null", '"s"', "[]"])
def test_a_journal_with_lines_of_something_else_is_refused(problem, tmp_path, witness, line):
    search_over(witness, tmp_path).fit(*problem)
    with (tmp_path / "journal").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match="expected a journal of fits"):
        search_over(witness, tmp_path).fit(*problem)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other words for it")
def test_a_journal_of_a_name_that_no_disk_takes_is_refused(problem, tmp_path, witness):
    grid = {"C": [0.01, 1]}
    journal = tmp_path / ("j" * 300)
    asked = ResumableGridSearchCV(witness, grid, cv=3, refit=False, journal=journal)
    with pytest.raises(InputError, match="expected a journal, found File name too long"):
        asked.fit(*problem)


class Sized:
    """A scorer whose answers depend on what it holds."""

    def __init__(self, size):
        self.size = size

    def score(self, model, X, y):
        return self.size


def wrapping(function):
    @functools.wraps(scored)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


def scored(model, X, y):
    return 0.0


def test_what_a_function_holds_tells_it_from_others():
    described = [search._describe(Sized(size).score) for size in (1, 2, 1)]
    assert described[0] != described[1] and described[0] == described[2]
    assert search._describe(wrapping(abs)) != search._describe(wrapping(len))
    assert search._describe({1: 2}) != search._describe({"1": 2})
    assert search._describe({0: 1, "a": 2}) == search._describe({"a": 2, 0: 1})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SIZE = 8", "SIZE = 16"),
        ("def size(self, by=1): return by", "def size(self, by=2): return by"),
        ("@staticmethod\n    def size(): return 1", "@staticmethod\n    def size(): return 2"),
        ("@classmethod\n    def size(cls): return 1", "@classmethod\n    def size(cls): return 2"),
        ("@property\n    def size(self): return 1", "@property\n    def size(self): return 2"),
        ("@cached\n    def size(self): return 1", "@cached\n    def size(self): return 2"),
    ],
)
def test_an_edit_of_any_member_of_a_class_is_noticed(before, after):
    described = []
    for member in (before, after, before):
        space = {"BaseEstimator": BaseEstimator, "__name__": "mine"}
        space["cached"] = functools.cached_property
        exec(f"class Own(BaseEstimator):\n    {member}", space)
        described.append(search._describe(space["Own"]()))
    assert described[0] != described[1] and described[0] == described[2]


def counted(function):
    count = 0

    @functools.wraps(function)
    def wrapper(*arguments):
        nonlocal count
        count += 1
        wrapper.calls = count
        return function(*arguments)

    return wrapper


class Guarded(BaseEstimator):
    """An estimator with what no pickle holds, and with itself."""

    LOCK = threading.Lock()

    def fit(self, X, y, out=sys.stderr):
        return self


Guarded.USUAL = Guarded()


def test_what_nothing_tells_in_another_session_does_not_keep_anybody_from_searching():
    wrapped = counted(scored)
    before = search._describe(wrapped)
    wrapped(1, 2, 3)
    assert search._describe(wrapped) == before
    assert search._describe(Guarded()) == search._describe(Guarded())


def test_in_a_folder_each_search_has_a_journal_of_its_own(problem, tmp_path, witness, num_fits):
    folder = tmp_path / "journals"
    folder.mkdir()
    for _ in range(2):
        for cv in (3, 4):
            grid = {"C": [0.01, 1]}
            ResumableGridSearchCV(witness, grid, cv=cv, refit=False, journal=folder).fit(*problem)
    assert len(list(folder.glob("*.jsonl"))) == 2
    assert num_fits() == 2 * 3 + 2 * 4, "the second time all was remembered"


@pytest.mark.usefixtures("not_root")
def test_a_journal_that_cannot_be_written_is_told_in_one_line(problem, tmp_path, witness):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="where you may write"):
        search_over(witness, tmp_path).fit(*problem)


def test_a_journal_below_a_file_is_told_in_one_line(problem, tmp_path, witness):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="where you may write"):
        ResumableGridSearchCV(witness, {"C": [1]}, cv=3, journal=tmp_path / "file" / "journal").fit(
            *problem
        )


def test_values_whose_repr_is_the_same_are_told_apart():
    whole = pd.Series(np.ones(200))
    holed = whole.copy()
    holed[5:190] = 0
    assert repr(whole) == repr(holed) and search._describe(whole) != search._describe(holed)
    assert search._describe(np.array([1.0, 2.0])) != search._describe(np.array([1.0, 3.0]))


def test_data_are_the_same_whatever_their_layout_in_memory(problem, tmp_path, witness):
    X, y = problem
    search_over(witness, tmp_path).fit(X, y)
    assert search_over(witness, tmp_path).fit(np.asfortranarray(X), y).num_remembered_ == 6


def test_a_grid_of_nothing_is_told(problem):
    with pytest.raises(ValueError, match="param_grid: expected at least one candidate"):
        ResumableGridSearchCV(LogisticRegression(), []).fit(*problem)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_a_journal_that_is_no_regular_file_is_refused(problem, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a file"):
        ResumableGridSearchCV(
            LogisticRegression(), {"C": [1]}, cv=3, journal=tmp_path / "pipe"
        ).fit(*problem)


def test_a_function_that_was_edited_is_another_one():
    described = []
    for body in ("X", "[x for x in X]", "X * 0"):
        space = {}
        exec(f"def change(X):\n    return {body}", space)
        described.append(search._describe(space["change"]))
    assert len(set(described)) == 3
    exec("\n\ndef change(X):\n    return X", space)
    assert search._describe(space["change"]) == described[0], "wherever it stands"
    defaults = []
    for default in (2, 3):
        exec(f"def change(X, factor={default}):\n    return X * factor", space)
        change = space["change"]
        defaults.append([change, functools.partial(change, 1), make_scorer(change)])
    for first, second in zip(*defaults, strict=True):
        assert search._describe(first) != search._describe(second)


def test_a_class_whose_method_was_edited_is_another_one():
    described = []
    for body in ("X", "X * 0"):
        space = {"BaseEstimator": BaseEstimator, "__name__": "__main__"}
        exec(
            f"class Own(BaseEstimator):\n    def transform(self, X):\n        return {body}", space
        )
        described.append(search._describe(space["Own"]()))
    assert len(set(described)) == 2 and "#" not in search._describe(LogisticRegression())


def test_a_metric_without_a_name_is_told_so(problem):
    scoring = make_scorer(lambda y, told: 1.0)
    with pytest.raises(ValueError, match="told from others by its name"):
        ResumableGridSearchCV(LogisticRegression(), {"C": [1]}, scoring=scoring).fit(*problem)


def test_a_rule_that_chooses_the_best_is_refused_and_not_passed_over(problem):
    with pytest.raises(ValueError, match="refit: expected True or False"):
        ResumableGridSearchCV(LogisticRegression(), {"C": [1]}, refit=lambda r: 0).fit(*problem)


def test_trees_that_were_asked_for_are_no_lack_of_convergence(problem):
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2).fit(*problem)
    assert model.n_iter_ == 2 and fitting.has_converged(model) is None


@pytest.mark.parametrize(
    "options", [{"time_budget": "5"}, {"time_budget": np.nan}, {"time_budget": -1}, {"journal": ""}]
)
def test_a_budget_or_a_journal_that_is_none_is_refused_before_a_fit(problem, options):
    search = ResumableGridSearchCV(Slow(), {"C": [1]}, **options)
    Slow.num_fits = 0
    with pytest.raises(ValueError, match=f"{next(iter(options))}: expected "):
        search.fit(*problem)
    assert Slow.num_fits == 0


# --- the time budget


def test_nothing_finished_in_time_is_an_error_that_names_the_budget(problem, clock):
    search = ResumableGridSearchCV(Slow(), {"C": [1, 2]}, cv=3, time_budget=15)
    with pytest.raises(CifarlibError, match="time_budget=15"):
        search.fit(*problem)
    assert Slow.num_fits == 2


@pytest.mark.parametrize(("budget", "finished"), [(25, 1), (45, 1), (55, 2), (1000, 3)])
def test_the_best_of_the_finished_wins_and_the_rest_is_made_up_later(
    problem, clock, tmp_path, budget, finished
):
    search = ResumableGridSearchCV(
        Slow(), {"C": [1, 2, 3]}, cv=3, refit=False, journal=tmp_path / "j", time_budget=budget
    ).fit(*problem)
    assert search.num_unfinished_ == 3 - finished
    assert search.cv_results_["params"] == [{"C": C} for C in (1, 2, 3)][:finished]
    assert len(search.cv_results_["mean_test_score"]) == finished
    assert search.best_params_ == {"C": 1}
    done = Slow.num_fits
    assert done == min(9, -(-budget // 10))
    search.set_params(time_budget=None).fit(*problem)
    assert (search.num_unfinished_, search.num_remembered_) == (0, done)
    assert Slow.num_fits == 9
    assert len(search.cv_results_["params"]) == 3


def test_what_the_journal_holds_needs_no_time(problem, clock, tmp_path):
    options = {"cv": 3, "refit": False, "journal": tmp_path / "j"}
    ResumableGridSearchCV(Slow(), {"C": [1]}, **options).fit(*problem)
    search = ResumableGridSearchCV(Slow(), {"C": [1, 2]}, **options, time_budget=0).fit(*problem)
    assert search.num_unfinished_ == 1


def test_candidates_that_share_features_stop_in_time_too(problem, clock):
    model = make_pipeline(StandardScaler(), Slow())
    search = ResumableGridSearchCV(
        model, {"slow__C": [1, 2, 3, 4, 5, 6]}, cv=3, refit=False, time_budget=15
    )
    with contextlib.suppress(CifarlibError):  # whether one was finished is not the question
        search.fit(*problem)
    assert Slow.num_fits == 2


# --- failures


FAILING = {
    "features": (
        make_pipeline(features.FirstColumns(), LogisticRegression()),
        {"firstcolumns__count": [2, 600, 4]},
    ),
    "components": (
        make_pipeline(StandardScaler(), PCA(), LogisticRegression()),
        {"pca__n_components": [2, 61, 4]},
    ),
    "last step": (LogisticRegression(), {"C": [1, -1, 0.1]}),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_candidate_that_fails_scores_nan_and_never_wins(problem, tmp_path, name):
    model, grid = FAILING[name]
    search = ResumableGridSearchCV(model, grid, cv=3, journal=tmp_path / "j")
    for remembered in (0, 6):  # failures are tried anew
        with pytest.warns(FitFailedWarning, match="3 fits failed"):
            search.fit(*problem)
        assert search.num_remembered_ == remembered
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False]
    assert search.cv_results_["rank_test_score"][1] == 3
    assert search.cv_results_["converged"][1] is None
    assert search.best_index_ != 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = GridSearchCV(model, grid, cv=3).fit(*problem)
    assert_same(search, theirs)


def test_a_candidate_that_fails_first_does_not_win(problem):
    search = ResumableGridSearchCV(LogisticRegression(), {"C": [-1, 1]}, cv=3)
    with pytest.warns(FitFailedWarning, match="the first one said: .*'C'"):
        search.fit(*problem)
    assert search.best_params_ == {"C": 1}


def test_if_all_fail_the_first_error_is_told(problem, tmp_path):
    search = ResumableGridSearchCV(
        make_pipeline(features.FirstColumns(), LogisticRegression()),
        {"firstcolumns__count": [700, 800]},
        journal=tmp_path / "j",
    )
    with pytest.raises(ValueError, match="count=700: expected 1 to 6"):
        search.fit(*problem)
    assert num_lines(tmp_path / "j") == 1


def test_a_candidate_that_does_not_fit_is_refused_before_others_are_fitted(problem, tmp_path):
    grid = [{"clf": [KNeighborsClassifier()], "clf__C": [1.0]}, {"clf__C": [0.1, 1.0]}]
    with pytest.raises(ValueError, match="Invalid parameter 'C'"):
        ResumableGridSearchCV(scale_and_classify(), grid, journal=tmp_path / "j").fit(*problem)
    assert num_lines(tmp_path / "j") == 0


@pytest.mark.parametrize("name", ["nonsense", "clf__nonsense"])
def test_an_unknown_parameter_is_told(problem, name):
    with pytest.raises(ValueError, match="Invalid parameter 'nonsense'"):
        ResumableGridSearchCV(scale_and_classify(), {name: [1]}).fit(*problem)


# --- convergence


def test_what_did_not_converge_is_told_in_the_table_and_not_in_a_warning(problem):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    grid = {"logisticregression__max_iter": [1, 200]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        search = ResumableGridSearchCV(model, grid, cv=3).fit(*problem)
    assert search.cv_results_["converged"] == [False, True]


@pytest.mark.parametrize(
    "model", [KNeighborsClassifier(), SVC()], ids=lambda model: type(model).__name__
)
def test_models_without_a_last_iteration_are_not_said_to_have_missed_it(problem, model):
    search = ResumableGridSearchCV(make_pipeline(model), [{}], cv=3).fit(*problem)
    assert search.cv_results_["converged"][0] in (None, True)


def test_workers_do_not_warn_either(tmp_path, run_python):
    process = run_python(
        "import sys; sys.path.insert(0, sys.argv[1]); import test_search as t; "
        "from linear_problem import make_problem; "
        "search = t.ResumableGridSearchCV(t.LogisticRegression(), {'max_iter': [1, 200]}, "
        "n_jobs=2, cv=3); "
        "print(search.fit(*make_problem()).cv_results_['converged'])",
        Path(__file__).parent,
    )
    told, complaints = process.communicate(timeout=120)
    assert told.strip() == "[False, True]"
    assert complaints == ""


# --- workers


@pytest.fixture(scope="module")
def alone(problem):
    """Return the search that is to be spread, as one process does it."""
    estimator, grid = copy.deepcopy(SEARCHES["passthrough"])
    return ResumableGridSearchCV(estimator, grid, cv=3, scoring="neg_log_loss").fit(*problem)


def test_two_workers_find_what_one_finds(problem, alone, tmp_path):
    search = clone(alone).set_params(n_jobs=2, journal=tmp_path / "j").fit(*problem)
    assert_same(search, alone)
    np.testing.assert_allclose(search.predict_proba(problem[0]), alone.predict_proba(problem[0]))
    # What several workers wrote is of use to one.
    again = clone(search).set_params(n_jobs=1).fit(*problem)
    assert again.num_remembered_ == 3 * 18
    assert_same(again, search, exact=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as running,
        distributed.Client(running),
        warnings.catch_warnings(),
    ):
        yield running


def test_a_cluster_finds_what_one_process_finds(problem, alone, cluster):
    with joblib.parallel_config(backend="dask"):
        search = clone(alone).fit(*problem)
    assert_same(search, alone)


def fit_again_after_a_death(search, problem, tolerated):
    """Search; where that fails because a worker died, the same call must finish the search."""
    try:
        return search.fit(*problem)
    except tolerated:
        return search.fit(*problem)


def test_a_worker_that_dies_costs_no_finished_fit(problem, tmp_path, witness):
    (tmp_path / "diary.dies").write_text("4")
    search = search_over(witness, tmp_path, [0.001, 0.01, 0.1, 1], n_jobs=2)
    with pytest.raises((CifarlibError, TerminatedWorkerError)):
        search.fit(*problem)
    assert not (tmp_path / "diary.dies").exists()
    num_kept = num_lines(tmp_path / "journal") - 1
    assert search.fit(*problem).num_remembered_ == num_kept > 0
    whole = search_over(witness, tmp_path, [0.001, 0.01, 0.1, 1], journal=None)
    assert_same(search, whole.fit(*problem))


def test_a_journal_that_cannot_be_written_says_so(problem, tmp_path, witness, monkeypatch):
    full = SimpleNamespace(close=lambda: None)
    full.write = lambda line: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
    opened = search._Journal._open

    def open_on_a_full_disk(journal):
        opened(journal)
        journal._file.close()
        journal._file = full

    with monkeypatch.context() as patch, pytest.raises(CifarlibError, match="No space left"):
        patch.setattr(search._Journal, "_open", open_on_a_full_disk)
        search_over(witness, tmp_path).fit(*problem)
    search_over(witness, tmp_path).fit(*problem)  # nobody holds its lock


def test_a_search_outlives_one_worker_of_the_cluster(problem, tmp_path, witness, cluster):
    (tmp_path / "diary.dies").write_text("4")
    search = search_over(witness, tmp_path, [0.001, 0.01, 0.1, 1])
    with joblib.parallel_config(backend="dask"):
        search = fit_again_after_a_death(search, problem, CifarlibError)
    assert not (tmp_path / "diary.dies").exists()
    assert len(set((tmp_path / "diary").read_text().split())) >= 2
    whole = search_over(witness, tmp_path, [0.001, 0.01, 0.1, 1], journal=None)
    assert_same(search, whole.fit(*problem))


def test_a_transformer_without_fit_transform_is_used_as_by_a_pipeline(problem):
    arguments = make_pipeline(Plain(), LogisticRegression()), {"logisticregression__C": [0.1, 1]}
    ours = ResumableGridSearchCV(*arguments, cv=3).fit(*problem)
    theirs = GridSearchCV(*arguments, cv=3).fit(*problem)
    expected = theirs.cv_results_["mean_test_score"]
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], expected)


def test_a_function_with_a_set_in_it_is_the_same_in_every_session(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def is_vehicle(name):\n"
        "    return name in {'airplane', 'ship', 'truck'} or name in ('a', {'b', 'c'})\n"
    )
    package = Path(search.__file__).parents[1]
    lines = "import mine; from cifarlib import search; print(search._describe(mine.is_vehicle))"
    told = set()
    for seed in "123":
        places = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(package)])}
        session = {**os.environ, **places, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", lines], env=session, capture_output=True, check=True
        )
        told.add(done.stdout)
    assert len(told) == 1
