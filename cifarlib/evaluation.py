"""How good a model is, how sure one may be of that, and what it gets wrong.

Functions of labels and answers, the same for scikit-learn and Keras: only `probabilities` ever
sees a model. What is not as many classes from 0 to 9 as there are images is a ValueError
everywhere. Not for choosing a model: give validation images while you choose, and the test
set once, at the end.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from cifarlib.splits import CLASS_NAMES


class Estimate(NamedTuple):
    """A figure with its interval.

    Attributes:
        value: the figure itself.
        low: lower end of the interval.
        high: upper end.
        n: number of images, or pairs of runs, that it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2%} ({self.low:.2%} to {self.high:.2%}, n = {self.n:,})"


def probabilities(model, X: np.ndarray) -> np.ndarray:
    """Ask a fitted model for the probability of each class.

    Args:
        model: a scikit-learn classifier with ``predict_proba``, or a Keras model that returns
            logits, as all of `models` do.
        X: what the model takes: rows or images, prepared as in its training.

    Returns:
        Array of shape (n, 10), each row adding up to 1.

    Raises:
        TypeError: if the model is neither.
        ValueError: if it was fitted to other classes than those from 0 to 9.
    """
    if hasattr(model, "predict_proba"):
        classes = np.asarray(model.classes_)
        if classes.dtype.kind == "f" and (classes == classes.round()).all():
            classes = classes.astype(int)  # of labels such as 3.0
        classes = _check_labels(classes, "classes of the model")
        told = np.asarray(model.predict_proba(X))
        every = np.zeros((len(told), len(CLASS_NAMES)), told.dtype)
        every[:, classes] = told  # not of classes that it never saw
        return every
    if hasattr(model, "predict") and hasattr(model, "layers"):
        return scipy.special.softmax(np.asarray(model.predict(X, verbose=0), np.float64), axis=1)
    raise TypeError(
        f"model: expected a classifier with predict_proba or a Keras model, found {type(model)}"
    )


def accuracy(labels: np.ndarray, answers: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Return the share of right answers, with Wilson's interval.

    The interval covers what chance did in drawing these images, not the chance in training:
    for that, train with several seeds.

    Args:
        labels: true classes, shape (n,).
        answers: classes that the model gave, shape (n,).
        confidence: coverage of the interval.

    Raises:
        ValueError: if there are no labels, or not as many answers, or the confidence is none.

    >>> print(accuracy(np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])))
    75.00% (30.06% to 95.44%, n = 4)
    """
    labels, answers = _check(labels, answers)
    _check_confidence(confidence)
    result = scipy.stats.binomtest(int((labels == answers).sum()), len(labels))
    interval = result.proportion_ci(confidence, method="wilson")
    return Estimate(result.statistic, interval.low, interval.high, len(labels))


def per_class(labels: np.ndarray, answers: np.ndarray) -> pd.DataFrame:
    """Return precision, recall, F1 and number of images of each class, and their mean.

    Args:
        labels: true classes, shape (n,).
        answers: classes that the model gave, shape (n,).

    Returns:
        A row a class and a last row ``"macro"``, in which every class counts the same. A class
        that was never answered has precision 0; one without images has zeros, and is no part of
        the last row.
    """
    labels, answers = _check(labels, answers)
    columns = precision_recall_fscore_support(
        labels, answers, labels=np.arange(len(CLASS_NAMES)), zero_division=0
    )
    table = pd.DataFrame(
        dict(zip(("precision", "recall", "F1", "images"), columns, strict=True)),
        index=pd.Index(CLASS_NAMES, name="class"),
    )
    table.loc["macro"] = table[table["images"] > 0].mean()
    table.loc["macro", "images"] = len(labels)
    return table.astype({"images": int})


def confusions(labels: np.ndarray, answers: np.ndarray, *, normalize: bool = True) -> pd.DataFrame:
    """Return who is taken for whom, with named axes.

    Args:
        labels: true classes, shape (n,).
        answers: classes that the model gave, shape (n,).
        normalize: give each row in percent of its class instead of counts.

    Returns:
        A row for each true class, a column for each answer.
    """
    labels, answers = _check(labels, answers)
    matrix = confusion_matrix(
        labels,
        answers,
        labels=np.arange(len(CLASS_NAMES)),
        normalize="true" if normalize else None,
    )
    return pd.DataFrame(
        matrix * 100 if normalize else matrix,
        index=pd.Index(CLASS_NAMES, name="true class"),
        columns=pd.Index(CLASS_NAMES, name="answer"),
    )


def top_confusions(matrix: pd.DataFrame, count: int = 6) -> pd.Series:
    """Return the largest entries off the diagonal of `confusions`, largest first.

    They are computed from the matrix, since the eye prefers what it expects.
    """
    wrong = matrix.where(~np.eye(len(matrix), dtype=bool)).stack().dropna()
    return wrong.sort_values(ascending=False, kind="stable").head(count)


def reliability(labels: np.ndarray, predicted: np.ndarray, num_bins: int = 10) -> pd.DataFrame:
    """Compare how sure the answers were with how many were right.

    Args:
        labels: true classes, shape (n,).
        predicted: probabilities, shape (n, 10).
        num_bins: equally wide bins of the largest probability.

    Returns:
        A row for each bin that holds images: mean ``confidence``, share ``right``, ``images``.

    Raises:
        ValueError: if these are no labels and probabilities, or there is not one bin.
    """
    labels, predicted = _check_probabilities(labels, predicted)
    if num_bins < 1:
        raise ValueError(f"num_bins: expected at least 1, found {num_bins}")
    confidence = predicted.max(axis=1)
    right = predicted.argmax(axis=1) == labels
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    table = pd.DataFrame({"bin": place, "confidence": confidence, "right": right})
    groups = table.groupby("bin")
    return groups.mean().assign(images=groups.size()).rename_axis("bin")


def calibration_error(labels: np.ndarray, predicted: np.ndarray, num_bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al., 2017), 0 at best, 1 at worst.

    The gap between confidence and share right in each bin of `reliability`, averaged with the
    number of images as weight.

    Args:
        labels: true classes, shape (n,).
        predicted: probabilities, shape (n, 10).
        num_bins: equally wide bins.
    """
    table = reliability(labels, predicted, num_bins)
    gaps = (table["confidence"] - table["right"]).abs()
    return float((gaps * table["images"]).sum() / table["images"].sum())


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean of minus the logarithm of the true class's probability.

    Args:
        labels: true classes, shape (n,).
        logits: scores before the softmax, shape (n, 10).

    >>> round(cross_entropy(np.array([0]), np.zeros((1, 10))), 3)
    2.303
    """
    labels, logits = _check_rows(labels, logits)
    told = scipy.special.log_softmax(logits, axis=1)
    return float(-told[np.arange(len(labels)), labels].mean())


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature that makes a model's probabilities fit best (Guo et al., 2017).

    Divide logits by it before the softmax. Above 1 it says that the model was too sure. No
    answer changes.

    Args:
        labels: true classes of validation images, shape (n,).
        logits: scores before the softmax, shape (n, 10); log-probabilities will do.

    Returns:
        The temperature with the smallest cross-entropy, from 0.05 to 20.
    """
    labels, logits = _check_rows(labels, logits)
    # The logarithm of a probability of 0 is no number to divide.
    least = np.where(np.isfinite(logits), logits, np.inf).min(axis=1, keepdims=True)
    floor = np.minimum(least, logits.max(axis=1, keepdims=True) - 100)
    logits = np.where(np.isneginf(logits), floor, logits)

    def loss(log_temperature: float) -> float:
        return cross_entropy(labels, logits / np.exp(log_temperature))

    bounds = np.log(0.05), np.log(20)
    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))


class McNemar(NamedTuple):
    """McNemar's exact test of two models on the same images.

    Attributes:
        only_first: images that only the first model has right.
        only_second: images that only the second has right.
        p: probability of a split at least as uneven, if both were equally good.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> McNemar:
    """Test whether two models that answered the same images are equally good.

    Only the images that one has right and the other wrong tell them apart; if the models are
    equally good, a coin decides which (McNemar, 1947, exact).

    Args:
        labels: true classes, shape (n,).
        first: answers of one model, shape (n,).
        second: answers of the other, shape (n,).
    """
    labels, first = _check(labels, first)
    labels, second = _check(labels, second)
    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((first != labels) & (second == labels)).sum())
    differing = only_first + only_second
    p = scipy.stats.binomtest(only_first, differing).pvalue if differing else 1.0
    return McNemar(only_first, only_second, float(p))


def accuracy_difference(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    num_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Return how much more accurate the second model is, with a paired bootstrap interval.

    The interval covers the chance in drawing these images; for that in training see
    `mean_difference`.

    Args:
        labels: true classes, shape (n,).
        first: answers of one model, shape (n,), or a row for each of its seeds, (seeds, n).
        second: answers of the other to the same images, likewise.
        num_samples: data sets drawn from this one, with replacement.
        confidence: coverage of the interval.
        seed: of the drawing.

    Raises:
        ValueError: if there are no labels, or a row has not as many answers, or there is no row,
            or the confidence is none.
    """
    _check_confidence(confidence)
    right = []
    for answers in (first, second):
        checked = [_check(labels, row) for row in np.atleast_2d(answers)]
        if not checked:
            raise ValueError("answers: expected a row for each seed, at least one, found none")
        right.append(np.mean([truth == said for truth, said in checked], axis=0))
    # Images that gain equally are interchangeable: drawing images is drawing from these values.
    values, counts = np.unique(right[1] - right[0], return_counts=True)
    size = counts.sum()
    draws = np.random.default_rng(seed).multinomial(size, counts / size, size=num_samples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ values / size, [tail, 1 - tail])
    return Estimate(float(counts @ values / size), float(low), float(high), int(size))


def mean_difference(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Return how much larger the second values are on average, with Student's paired interval.

    For the accuracies of two models trained with the same seeds: the interval covers the chance
    in training, on these images.

    Args:
        first: a value a seed, shape (n,), at least two.
        second: as many, in the same order.
        confidence: coverage of the interval.

    Raises:
        ValueError: if they are not pairs of numbers, or fewer than two, or the confidence is none.

    >>> print(mean_difference([0.80, 0.81, 0.82], [0.83, 0.84, 0.86]))
    3.33% (1.90% to 4.77%, n = 3)
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"expected two values or more on each side, in pairs, "
            f"found shapes {first.shape} and {second.shape}"
        )
    _check_confidence(confidence)
    gains = second - first
    if not np.isfinite(gains).all():
        raise ValueError("expected numbers on each side, found NaN or infinity")
    mean, count = float(gains.mean()), len(gains)
    quantile = scipy.stats.t.ppf((1 + confidence) / 2, count - 1)
    margin = float(quantile * gains.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - margin, mean + margin, count)


def shared_mistakes(labels: np.ndarray, answers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return how many of a model's mistakes another model makes, too.

    Args:
        labels: true classes, shape (n,).
        answers: by the name of a model, the classes that it gave, shape (n,).

    Returns:
        A row and a column for each model: of the images that the row's model has wrong, the
        share in percent that the column's has wrong as well. NaN in the row of a model without
        mistakes. Two models that err independently share as many as the column's model has
        wrong of all.

    >>> said = {"a": np.array([0, 0, 0, 3]), "b": np.array([1, 0, 0, 3])}
    >>> shared_mistakes(np.array([0, 1, 2, 3]), said).loc["b"].round(1).tolist()
    [66.7, 100.0]
    """
    wrong = {}
    for name, said in answers.items():
        truth, said = _check(labels, said)
        wrong[name] = truth != said
    table = pd.DataFrame(wrong).astype(float)
    shared = (table.T @ table).div(table.sum(), axis="index") * 100
    return shared.rename_axis(index="of the mistakes of", columns="are wrong for")


def most_confident_mistakes(
    labels: np.ndarray, predicted: np.ndarray, count: int = 16
) -> np.ndarray:
    """Return the indices of wrong answers, the surest first.

    Args:
        labels: true classes, shape (n,).
        predicted: probabilities, shape (n, 10).
        count: at most so many.

    Returns:
        Integer array of shape (count,), shorter if there are fewer mistakes.
    """
    labels, predicted = _check_probabilities(labels, predicted)
    wrong = np.flatnonzero(predicted.argmax(axis=1) != labels)
    return wrong[np.argsort(-predicted[wrong].max(axis=1), kind="stable")][:count]


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected more than 0 and less than 1, found {confidence}")


def _check(labels: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, answers = np.asarray(labels), np.asarray(answers)
    if labels.ndim != 1 or labels.shape != answers.shape or not len(labels):
        raise ValueError(
            f"labels and answers: expected two arrays of one shape (n,), n > 0, "
            f"found {labels.shape} and {answers.shape}"
        )
    return _check_labels(labels), _check_labels(answers, "answers")


def _check_labels(labels: np.ndarray, name: str = "labels") -> np.ndarray:
    top = len(CLASS_NAMES) - 1
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers from 0 to {top}, found {labels.dtype}")
    if labels.min() < 0 or labels.max() > top:
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"{name}: expected integers from 0 to {top}, found {found}")
    return labels


def _check_rows(labels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, rows = np.asarray(labels), np.asarray(rows, np.float64)
    if labels.ndim != 1 or rows.shape != (len(labels), len(CLASS_NAMES)) or not len(labels):
        raise ValueError(
            f"expected labels (n,) and {len(CLASS_NAMES)} values for each, n > 0, "
            f"found {labels.shape} and {rows.shape}"
        )
    if np.isnan(rows).any():
        raise ValueError("expected numbers in every row, found NaN")
    return _check_labels(labels), rows


def _check_probabilities(labels, predicted) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = _check_rows(labels, predicted)
    if predicted.min() < 0 or not np.allclose(predicted.sum(axis=1), 1, atol=1e-3):
        raise ValueError("expected probabilities that add up to 1 in each row; are these logits?")
    return labels, predicted
