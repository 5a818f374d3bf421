"""The ladder of linear models, and cross-validation that keeps the answers."""

import numpy as np
import pytest
from linear_problem import NO_WARNINGS
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    cross_val_predict,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cifarlib import classical

pytestmark = NO_WARNINGS


class Recorder(TransformerMixin, BaseEstimator):
    """Changes nothing and remembers what it was fitted on."""

    def fit(self, X, y=None):
        self.X_, self.y_ = np.array(X), np.array(y)
        return self

    def transform(self, X):
        return X


class RecordingClassifier(LogisticRegression):
    """Logistic regression that remembers what it was fitted on."""

    def fit(self, X, y):
        self.X_, self.y_ = np.array(X), np.array(y)
        return super().fit(X, y)


@pytest.fixture(scope="module")
def pictures():
    """Return 150 gray images of 16×16 pixels as rows: three classes of noisy stripes."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(150) % 3)
    across, down = np.meshgrid(np.arange(16), np.arange(16))
    stripes = np.stack([np.sin(across), np.sin(down), np.sin(across + down)])
    drawn = 0.5 + 0.2 * stripes[labels] + rng.normal(0, 0.15, (150, 16, 16))
    return drawn.clip(0, 1).astype(np.float32).reshape(150, -1), labels


def build_small(rung: str) -> Pipeline:
    model = classical.build(rung, num_patches=6)
    few = {name: 500 for name in model.get_params() if name.endswith("num_samples")}
    return model.set_params(**few)


# --- the ladder


@pytest.mark.parametrize("rung", classical.RUNGS)
def test_every_rung_fits_and_predicts(pictures, rung):
    X, y = pictures
    model = build_small(rung)
    assert model.steps[-1][0] == "logisticregression"
    model.fit(X, y)
    assert model.score(X, y) > 0.9
    assert model.predict(X[:7]).shape == (7,)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("rung", classical.RUNGS)
def test_a_rung_built_twice_predicts_the_same(pictures, rung):
    X, y = pictures
    first, second = (build_small(rung).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_size_and_seed_reach_the_dictionary():
    for rung in ("patches", "mirrored patches"):
        parameters = classical.build(rung, num_patches=17, seed=5).get_params()
        assert 17 in [v for k, v in parameters.items() if k.endswith("num_patches")]
        assert 5 in [v for k, v in parameters.items() if k.endswith("__random_state")]


def test_mirrored_patches_predict_the_same_for_a_mirror_image(pictures):
    X, y = pictures
    model = build_small("mirrored patches").fit(X, y)
    mirrored = X.reshape(-1, 16, 16)[:, :, ::-1].reshape(X.shape)
    np.testing.assert_allclose(model.predict_proba(mirrored), model.predict_proba(X), atol=1e-5)


def test_the_digest_of_a_rungs_code_covers_features_where_there_are_any(monkeypatch):
    def digests():
        return {rung: classical.code_digest(rung) for rung in classical.RUNGS}

    before = digests()
    assert len(set(before.values())) == len(before)
    changed = {
        "_SOURCE_OF_FEATURES": ["gradients", "patches", "mirrored patches"],
        "_SOURCE_OF_FIT": [*before],
    }
    for source, touched in changed.items():
        with monkeypatch.context() as patch:
            patch.setattr(classical, source, getattr(classical, source) + "# edited")
            assert [rung for rung, code in digests().items() if code != before[rung]] == touched
    with pytest.raises(ValueError, match="rung: expected one of raw, "):
        classical.code_digest("pixels")


def test_an_unknown_rung_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match="'pathces'") as caught:
        classical.build("pathces")
    assert all(rung in str(caught.value) for rung in classical.RUNGS)


# --- C chosen on held-out images


def test_the_strength_is_the_one_that_a_plain_loop_chooses(problem):
    X, y = problem
    strengths = [10, 1e-3, 0.1, 1e-2]
    found = classical.fit(
        make_pipeline(Recorder(), StandardScaler(), LogisticRegression()),
        X, y, strengths, fraction=0.2, seed=3,
    )  # fmt: skip
    seen = {row.tobytes() for row in found.model[0].X_}
    kept = np.array([row.tobytes() in seen for row in X])
    np.testing.assert_array_equal(found.kept, np.flatnonzero(kept))
    np.testing.assert_array_equal(found.held_out, np.flatnonzero(~kept))
    accuracies = {}
    for strength in sorted(strengths):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength))
        model.fit(X[kept], y[kept])
        accuracies[strength] = np.mean(model.predict(X[~kept]) == y[~kept])
    assert list(found.validation["C"]) == list(accuracies)
    np.testing.assert_allclose(found.validation["accuracy"], list(accuracies.values()))
    assert len(set(accuracies.values())) > 1
    assert max(accuracies, key=accuracies.get) == found.C == found.model[-1].C
    assert np.bincount(y[~kept]).tolist() == [6, 6, 6]
    assert found.validation["converged"].all()
    assert (found.validation["train_accuracy"] > 0.5).all()


def test_features_see_the_kept_rows_only_and_the_last_step_sees_all(problem):
    X, y = problem
    before = X.copy()
    found = classical.fit(make_pipeline(Recorder(), RecordingClassifier()), X, y, [0.1, 1])
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(found.model[-1].X_, X)
    np.testing.assert_array_equal(found.model[-1].y_, y)
    np.testing.assert_array_equal(found.candidate.X_, X[found.kept])
    np.testing.assert_array_equal(found.features, X)
    assert found.candidate.C == found.C
    recorder = found.model[0]
    assert len(recorder.X_) == 81
    # Each kept row has its own label, and every class lost its equal share.
    labels = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
    assert [labels[row.tobytes()] for row in recorder.X_] == recorder.y_.tolist()
    assert np.bincount(recorder.y_).tolist() == [27, 27, 27]


def test_the_final_model_is_that_of_the_chosen_strength_fitted_by_hand(problem):
    X, y = problem
    found = classical.fit(make_pipeline(Recorder(), StandardScaler(), LogisticRegression()), X, y)
    scale = StandardScaler().fit(found.model[0].X_)
    by_hand = LogisticRegression(C=found.C).fit(scale.transform(X), y)
    np.testing.assert_allclose(
        found.model.predict_proba(X), by_hand.predict_proba(scale.transform(X)), atol=1e-6
    )


def test_the_given_model_stays_unfitted(problem):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=7))
    classical.fit(model, *problem, [0.1])
    assert model[-1].C == 7
    assert not hasattr(model[0], "mean_")


def test_the_seed_decides_which_rows_are_held_out(problem):
    kept = [
        classical.fit(make_pipeline(Recorder(), LogisticRegression()), *problem, [1], seed=seed)
        .model[0]
        .X_
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])


def test_a_solver_that_was_stopped_is_reported_without_a_warning(problem):
    found = classical.fit(make_pipeline(LogisticRegression(max_iter=1)), *problem, [1e-6, 100])
    assert found.validation["converged"].tolist() == [False, False]
    assert found.validation["iterations"].tolist() == [1, 1]


@pytest.mark.parametrize("rung", ["raw", "standardized", "gradients", "mirrored patches"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y: (X, np.zeros_like(y)), "class"),
        (lambda X, y: (np.where(X.max() == X, np.nan, X), y), "NaN"),
        (lambda X, y: (X[:-1], y), "inconsistent numbers of samples"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
    ],
    ids=["one class", "NaN", "too few rows", "too few labels"],
)
def test_what_does_not_fit_is_refused_clearly(pictures, rung, spoil, message):
    with pytest.raises(ValueError, match=message):
        classical.fit(build_small(rung), *spoil(*pictures), [0.1])


@pytest.mark.parametrize("rung", ["gradients", "patches", "mirrored patches"])
def test_rows_that_are_no_images_are_refused_clearly(pictures, rung):
    X, y = pictures
    with pytest.raises(ValueError, match="square image"):
        classical.fit(build_small(rung), X[:, :-1], y, [0.1])


@pytest.mark.parametrize("rung", classical.RUNGS)
def test_images_of_another_size_are_refused_clearly(pictures, rung):
    X, y = pictures
    found = classical.fit(build_small(rung), X, y, [0.1])
    with pytest.raises(ValueError, match="64 features"):
        found.model.predict(X[:, :64])


# --- cross-validation


def test_cross_validation_says_what_that_of_scikit_learn_says(problem):
    X, y = problem
    labels = np.array(["cat", "dog", "frog"])[y]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    found = classical.cross_validate(model, X, labels, num_folds=4, n_jobs=1)
    expected = cross_val_predict(model, X, labels, cv=4)
    assert found.predictions.tolist() == expected.tolist()
    np.testing.assert_allclose(found.accuracies, cross_val_score(model, X, labels, cv=4))
    assert found.seconds.shape == (4,)
    assert found.converged is True
    assert not hasattr(model[0], "mean_")


def test_cross_validation_tells_whether_all_parts_converged(problem):
    def converged(model):
        return classical.cross_validate(model, *problem, n_jobs=1).converged

    assert converged(LogisticRegression(max_iter=1)) is False
    assert converged(OneVsRestClassifier(LogisticRegression(max_iter=1))) is False
    assert converged(OneVsRestClassifier(make_pipeline(PCA(), LogisticRegression()))) is True
    assert converged(KNeighborsClassifier()) is None


def test_every_rung_is_made_of_what_its_name_says():
    def steps(rung):
        return [type(step).__name__ for step in classical.build(rung)[:-1]]

    assert steps("raw") == []
    assert steps("standardized") == ["StandardScaler"]
    assert steps("gradients") == ["HistogramOfGradients", "Whitening"]
    assert steps("patches") == ["PatchDictionary", "Whitening"]
    assert steps("mirrored patches") == ["MirrorInvariant", "Whitening"]
    components = classical.build("whitened")[0]
    assert components.whiten and components.n_components == 100
