"""Figures beside their definitions, counted by hand or taken from another library."""

import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from cifarlib import evaluation
from cifarlib.splits import CLASS_NAMES


@pytest.fixture
def answered():
    """Return 500 labels and the answers of a model that is right about half the time."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    return labels, np.where(rng.random(500) < 0.5, labels, rng.integers(0, 10, 500))


@pytest.fixture
def predicted(answered):
    """Return the labels, and probabilities that lean towards them."""
    labels, _ = answered
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(500, 10)) + 1.5 * np.eye(10)[labels]
    return labels, scipy.special.softmax(logits, axis=1)


def test_accuracy_is_the_share_of_right_answers_within_wilsons_interval(answered):
    labels, answers = answered
    found = evaluation.accuracy(labels, answers)
    share = np.mean(labels == answers)
    assert (found.value, found.n) == (share, 500)
    z = scipy.stats.norm.ppf(0.975)
    middle = (share + z**2 / 1000) / (1 + z**2 / 500)
    half = z / (1 + z**2 / 500) * np.sqrt(share * (1 - share) / 500 + z**2 / 4 / 500**2)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))


def test_eighteen_images_say_little():
    labels = np.zeros(18, int)
    answers = np.r_[np.zeros(15, int), np.ones(3, int)]
    found = evaluation.accuracy(labels, answers)
    assert found.value == pytest.approx(0.833, abs=1e-3)
    assert found.high - found.low > 0.3, "15 of 18 right may be 60 % or 94 %"


def test_every_class_has_its_precision_recall_and_f1(answered):
    labels, answers = answered
    table = evaluation.per_class(labels, answers)
    assert list(table.index) == [*CLASS_NAMES, "macro"]
    for label, name in enumerate(CLASS_NAMES):
        hits = np.sum((labels == label) & (answers == label))
        precision, recall = hits / np.sum(answers == label), hits / np.sum(labels == label)
        f1 = 2 * precision * recall / (precision + recall)
        assert table.loc[name].tolist() == pytest.approx(
            [precision, recall, f1, np.sum(labels == label)]
        )
    macro = metrics.f1_score(labels, answers, average="macro")
    assert table.loc["macro", "F1"] == pytest.approx(macro)
    assert table.loc["macro", "images"] == 500


def test_a_class_that_is_never_answered_has_precision_zero_and_no_warning():
    table = evaluation.per_class(np.arange(10), np.zeros(10, int))
    assert table.loc["truck", "precision"] == 0
    assert table.loc["airplane", "recall"] == 1


def test_a_class_without_images_is_no_part_of_the_mean():
    table = evaluation.per_class(np.arange(9), np.arange(9))
    assert table.loc["truck"].tolist() == [0, 0, 0, 0]
    assert table.loc["macro"].tolist() == [1, 1, 1, 9]


def test_rows_of_the_matrix_are_true_classes_and_columns_answers():
    matrix = evaluation.confusions(np.array([3, 3, 3, 5]), np.array([5, 5, 3, 5]))
    assert matrix.loc["cat", "dog"] == pytest.approx(200 / 3)
    assert matrix.loc["dog", "dog"] == 100
    assert (matrix.index.name, matrix.columns.name) == ("true class", "answer")
    counts = evaluation.confusions(np.array([3, 3]), np.array([5, 3]), normalize=False)
    assert counts.loc["cat", "dog"] == 1 and counts.to_numpy().sum() == 2


def test_top_confusions_are_the_largest_off_the_diagonal(answered):
    matrix = evaluation.confusions(*answered)
    found = evaluation.top_confusions(matrix, count=4)
    every = sorted(
        (matrix.loc[a, b] for a, b in itertools.product(CLASS_NAMES, repeat=2) if a != b),
        reverse=True,
    )
    assert found.tolist() == every[:4]
    for (true, answer), share in found.items():
        assert true != answer and matrix.loc[true, answer] == share
    every_one = evaluation.top_confusions(matrix, count=100)
    assert len(every_one) == 90 and every_one.tolist() == every


def test_reliability_counts_what_falls_into_each_bin(predicted):
    labels, rows = predicted
    table = evaluation.reliability(labels, rows, num_bins=5)
    assert table["images"].sum() == 500
    for number, row in table.iterrows():
        confidence = rows.max(axis=1)
        inside = (confidence > number / 5) & (confidence <= (number + 1) / 5)
        assert row["images"] == inside.sum()
        assert row["confidence"] == pytest.approx(confidence[inside].mean())
        assert row["right"] == pytest.approx(np.mean(rows.argmax(axis=1)[inside] == labels[inside]))


def test_one_who_says_always_and_is_right_half_the_time_is_off_by_a_half():
    rows = np.eye(10)[[0] * 4]
    assert evaluation.calibration_error(np.array([0, 0, 1, 1]), rows) == pytest.approx(0.5)
    assert evaluation.calibration_error(np.zeros(4, int), rows) == 0


def test_too_modest_is_as_wrong_as_too_sure_and_bins_are_fifteen():
    def rows(*largest):
        return np.array([[top] + [(1 - top) / 9] * 9 for top in largest])

    modest = evaluation.calibration_error(np.zeros(4, int), rows(0.6, 0.6, 0.6, 0.6))
    assert modest == pytest.approx(0.4)
    # Two bins of fifteen, one of ten.
    found = evaluation.calibration_error(np.array([0, 1]), rows(0.62, 0.68))
    assert found == pytest.approx((0.38 + 0.68) / 2)


def test_cross_entropy_is_a_mean_over_images():
    logits = np.log([[0.5] + [0.5 / 9] * 9] * 2)
    found = evaluation.cross_entropy(np.array([0, 1]), logits)
    assert found == pytest.approx(-(np.log(0.5) + np.log(0.5 / 9)) / 2)


def test_the_temperature_that_was_put_in_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 10)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # a calibrated model
    assert evaluation.fit_temperature(labels, logits) == pytest.approx(1, rel=0.03)
    assert evaluation.fit_temperature(labels, 3 * logits) == pytest.approx(3, rel=0.03)
    assert evaluation.fit_temperature(labels, 0.3 * logits) == pytest.approx(0.3, rel=0.03)
    # However far they lie apart: only the logarithm of 0 is replaced.
    assert evaluation.fit_temperature(labels, 18 * logits) == pytest.approx(18, rel=0.03)


def test_a_temperature_mends_calibration_and_changes_no_answer(predicted):
    labels, rows = predicted
    too_sure = scipy.special.softmax(4 * np.log(rows), axis=1)
    temperature = evaluation.fit_temperature(labels, np.log(too_sure))
    mended = scipy.special.softmax(np.log(too_sure) / temperature, axis=1)
    assert temperature > 2
    before, after = (evaluation.calibration_error(labels, p) for p in (too_sure, mended))
    assert after < before / 2
    np.testing.assert_array_equal(mended.argmax(axis=1), too_sure.argmax(axis=1))


def test_mcnemar_is_a_coin_thrown_for_every_image_they_differ_on():
    labels = np.zeros(20, int)
    first = np.r_[np.zeros(12, int), np.ones(8, int)]
    second = np.r_[np.ones(9, int), np.zeros(11, int)]
    found = evaluation.mcnemar(labels, first, second)
    assert (found.only_first, found.only_second) == (9, 8)
    throws = scipy.stats.binom(17, 0.5)
    assert found.p == pytest.approx(min(1, 2 * throws.cdf(8)))
    assert evaluation.mcnemar(labels, first, first).p == 1


def test_eight_images_of_eight_are_a_coin_that_fell_the_same_way_eight_times():
    labels, second = np.zeros(10, int), np.array([1] * 8 + [0] * 2)
    found = evaluation.mcnemar(labels, labels, second)
    assert (found.only_first, found.only_second) == (8, 0)
    assert found.p == pytest.approx(2 * 0.5**8)


def test_the_interval_of_a_difference_is_that_of_drawing_images_again(answered):
    labels, second = answered
    first = np.random.default_rng(3).permutation(second)
    found = evaluation.accuracy_difference(labels, first, second)
    gain = (second == labels) * 1.0 - (first == labels)
    assert found.value == pytest.approx(gain.mean())
    rng = np.random.default_rng(5)
    again = [gain[rng.integers(0, 500, 500)].mean() for _ in range(4000)]
    low, high = np.quantile(again, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
    same = evaluation.accuracy_difference(labels, second, second)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_difference_of_several_seeds_draws_images_with_all_their_answers():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 400)
    first, second = (
        np.where(rng.random((3, 400)) < share, labels, (labels + 1) % 10) for share in (0.7, 0.8)
    )
    found = evaluation.accuracy_difference(labels, first, second)
    gain = ((second == labels) * 1.0 - (first == labels)).mean(axis=0)
    again = [gain[rng.integers(0, 400, 400)].mean() for _ in range(4000)]
    expected = (gain.mean(), *np.quantile(again, [0.025, 0.975]))
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=0.01)
    assert found.value == pytest.approx(gain.mean()) and found.n == 400
    one = evaluation.accuracy_difference(labels, first[0], second[0])
    assert found.high - found.low < one.high - one.low
    with pytest.raises(ValueError, match="one shape"):
        evaluation.accuracy_difference(labels, first[:, :-1], second)


def test_mean_difference_is_students_paired_interval():
    first, second = np.array([0.80, 0.82, 0.81, 0.85]), np.array([0.84, 0.85, 0.86, 0.87])
    found = evaluation.mean_difference(first, second)
    expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(0.035) and found.n == 4
    narrower = evaluation.mean_difference(first, second, confidence=0.5)
    assert found.low < narrower.low < narrower.value < narrower.high < found.high
    turned = evaluation.mean_difference(second, first)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(
    ("first", "second"), [([1], [2]), ([1, 2], [1, 2, 3]), ([[1, 2]], [[3, 4]])]
)
def test_mean_difference_wants_two_pairs_or_more(first, second):
    with pytest.raises(ValueError, match="in pairs"):
        evaluation.mean_difference(first, second)


def test_shared_mistakes_are_counted_of_those_of_the_row():
    labels = np.array([0, 1, 2, 3, 4])
    said = {
        "good": np.array([9, 1, 2, 3, 4]),
        "poor": np.array([8, 0, 0, 0, 4]),
        "perfect": labels,
    }
    table = evaluation.shared_mistakes(labels, said)
    assert table.loc["good"].tolist() == [100, 100, 0]
    assert table.loc["poor"].tolist() == [25, 100, 0]
    assert table.loc["perfect"].isna().all()
    with pytest.raises(ValueError, match="one shape"):
        evaluation.shared_mistakes(labels, {"short": labels[1:]})


def test_mistakes_come_surest_first_and_are_mistakes(predicted):
    labels, rows = predicted
    found = evaluation.most_confident_mistakes(labels, rows, count=7)
    sure = rows.max(axis=1)
    assert len(found) == 7
    assert (rows.argmax(axis=1)[found] != labels[found]).all()
    assert (np.diff(sure[found]) <= 0).all()
    others = np.setdiff1d(np.flatnonzero(rows.argmax(axis=1) != labels), found)
    assert sure[others].max() <= sure[found].min()
    assert len(evaluation.most_confident_mistakes(np.arange(10), np.eye(10))) == 0


def test_a_class_that_was_missing_in_training_has_no_probability():
    rng = np.random.default_rng(0)
    y = np.delete(np.arange(10), 3)[np.arange(180) % 9]
    X = np.eye(10)[y] + 0.1 * rng.normal(size=(180, 10))
    told = evaluation.probabilities(LogisticRegression().fit(X, y), X)
    assert told.shape == (180, 10) and not told[:, 3].any()
    np.testing.assert_array_equal(told.argmax(axis=1), y)


def test_both_kinds_of_model_are_asked_alike():
    import keras

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 6)).astype(np.float32), np.arange(200) % 10
    linear = LogisticRegression().fit(X, y)
    network = keras.Sequential([keras.Input((6,)), keras.layers.Dense(10)])
    network.layers[0].set_weights([linear.coef_.T, linear.intercept_])
    rows = [evaluation.probabilities(model, X) for model in (linear, network)]
    np.testing.assert_allclose(*rows, atol=1e-5)
    with pytest.raises(TypeError, match="predict_proba"):
        evaluation.probabilities(object(), X)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: evaluation.accuracy(np.zeros(3, int), np.zeros(4, int)), "one shape"),
        (lambda: evaluation.accuracy(np.zeros(0, int), np.zeros(0, int)), "one shape"),
        (lambda: evaluation.confusions(*np.zeros((2, 2, 1), int)), "one shape"),
        (lambda: evaluation.mcnemar(*np.zeros((2, 3), int), np.zeros(2, int)), "one shape"),
        (lambda: evaluation.reliability(np.zeros(3, int), np.full((3, 9), 1 / 9)), "10 values"),
        (lambda: evaluation.fit_temperature(np.zeros(3, int), np.zeros((2, 10))), "10 values"),
        (lambda: evaluation.cross_entropy(np.zeros(0, int), np.zeros((0, 10))), "n > 0"),
        (lambda: evaluation.accuracy(np.zeros(3), np.zeros(3)), "expected integers"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_confidence_seed_and_number_of_samples_are_those_asked_for():
    labels = np.arange(500) % 10
    answers = np.where(np.arange(500) < 300, labels, (labels + 1) % 10)
    found, z = evaluation.accuracy(labels, answers, 0.5), scipy.stats.norm.ppf(0.75)
    assert found.high - found.low == pytest.approx(2 * z * (0.24 / 500) ** 0.5, rel=0.01)
    other = np.random.default_rng(0).permutation(answers)

    def difference(**options):
        return evaluation.accuracy_difference(labels, answers, other, **options)

    half, usual, one = difference(confidence=0.5), difference(), difference(num_samples=1)
    ratio = z / scipy.stats.norm.ppf(0.975)
    assert (half.high - half.low) / (usual.high - usual.low) == pytest.approx(ratio, rel=0.1)
    assert one.low == one.high and difference(seed=0) == usual != difference(seed=1)


def test_temperature_stays_within_its_bounds():
    labels, logits = np.arange(10), np.eye(10)
    assert evaluation.fit_temperature(labels, logits) == pytest.approx(0.05, rel=0.01)
    assert evaluation.fit_temperature((labels + 1) % 10, logits) == pytest.approx(20, rel=0.01)


def test_logits_are_not_taken_for_probabilities():
    with pytest.raises(ValueError, match="are these logits"):
        evaluation.calibration_error(np.zeros(3, int), np.full((3, 10), 2.0))


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.0, 1.0], [1, 10], [-1, 0]])
def test_labels_are_integers_from_0_to_9(labels):
    for call in (evaluation.accuracy, evaluation.per_class, evaluation.confusions):
        with pytest.raises(ValueError, match="labels: expected integers from 0 to 9"):
            call(np.array(labels), np.array(labels))
        with pytest.raises(ValueError, match="answers: expected integers from 0 to 9"):
            call(np.array([0, 1]), np.array(labels))


@pytest.mark.parametrize(
    ("values", "confidence", "told"),
    [([1, np.nan], 0.95, "found NaN"), ([1, 2], 95, "less than 1, found 95")],
)
def test_an_interval_of_no_numbers_is_refused(values, confidence, told):
    with pytest.raises(ValueError, match=told):
        evaluation.mean_difference([0, 1], values, confidence)


@pytest.mark.parametrize("confidence", [0, 1, -0.9, 95, np.nan])
def test_a_confidence_that_is_none_is_refused_everywhere(confidence):
    labels = np.arange(10)
    for call in (
        lambda: evaluation.accuracy(labels, labels, confidence),
        lambda: evaluation.accuracy_difference(labels, labels, labels, confidence=confidence),
    ):
        with pytest.raises(ValueError, match="confidence: expected more than 0"):
            call()


def test_a_difference_needs_answers_on_both_sides():
    labels = np.arange(10)
    with pytest.raises(ValueError, match="a row for each seed, at least one"):
        evaluation.accuracy_difference(labels, np.zeros((0, 10), int), labels)


def test_calibration_needs_a_bin(predicted):
    with pytest.raises(ValueError, match="num_bins: expected at least 1"):
        evaluation.calibration_error(*predicted, num_bins=0)


@pytest.mark.parametrize("classes", [[-1, 2], [3, 12], ["a", "b"]])
def test_probabilities_are_of_the_ten_classes(classes):
    model = LogisticRegression().fit(np.arange(20)[:, None], np.array(classes * 10))
    with pytest.raises(ValueError, match="classes of the model: expected integers from 0 to 9"):
        evaluation.probabilities(model, [[1]])


def test_a_probability_of_zero_does_not_decide_the_temperature(predicted):
    labels, rows = predicted
    with np.errstate(divide="ignore"):
        logits = np.log(np.where(rows == rows.min(axis=1, keepdims=True), 0, rows))
    expected = evaluation.fit_temperature(labels, np.log(rows))
    right = rows.argmin(axis=1) != labels
    found = evaluation.fit_temperature(labels[right], logits[right])
    assert found == pytest.approx(expected, rel=0.2)
