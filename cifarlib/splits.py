"""A split of the data set: images with their labels, and the record of test-set use.

Not for reading files (`archives`) nor for choosing a source (`data`).
"""

import linecache
import os
import sys
from collections.abc import Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import numpy as np

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class Split(NamedTuple):
    """Images and their labels: a pair, so that ``images, labels = split`` works.

    ``len(split.labels)`` is the number of images; ``len(split)`` is 2, as for any pair.

    Attributes:
        images: uint8 array of shape (n, 32, 32, C), values 0 to 255; C is 3 for colour
            (red, green, blue) and 1 for grayscale.
        labels: integer array of shape (n,), each an index into ``CLASS_NAMES``.
    """

    images: np.ndarray
    labels: np.ndarray

    def __repr__(self) -> str:
        images, labels = tuple.__iter__(self)
        return (
            f"{type(self).__name__}(images={images.dtype} {images.shape}, "
            f"labels={labels.dtype} {labels.shape})"
        )


class RecordedUse(NamedTuple):
    """One place that looked at the test set.

    Attributes:
        place: ``"script.py:34"``, or ``"cell: y = model.predict(test.images)"`` with the line
            of a notebook's cell that touched it first.
        parts: which of ``("images", "labels")`` it touched.
    """

    place: str
    parts: tuple[str, ...]


class RecordedSplit(Split):
    """A split that records every place it is used from.

    It is a ``Split`` in all else. The arrays stay on disk until they are touched, and each
    touch is written down, because a test set that has been looked at while choosing a model
    no longer tells how good the model is. (Not what code in C reads of a tuple by itself.)
    """

    __slots__ = ()

    @property
    def images(self) -> np.ndarray:
        """Return the images, and record the use."""
        return self[0]

    @property
    def labels(self) -> np.ndarray:
        """Return the labels, and record the use."""
        return self[1]

    def __getitem__(self, index):
        for part in np.atleast_1d(np.array(self._fields)[index]):
            _record_use(str(part))
        return tuple.__getitem__(self, index)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self[0], self[1]))

    def __add__(self, other):
        return tuple(self) + other

    def __radd__(self, other):
        return other + tuple(self)

    def __mul__(self, count):
        return tuple(self) * count

    __rmul__ = __mul__

    def __reduce__(self):
        return Split, tuple(self)


class _Place(NamedTuple):
    """Where a use came from: what tells it from others, and what a reader is told."""

    key: str
    told: str


_uses: dict[str, tuple[str, list[str]]] = {}


def uses_of_test_set() -> tuple[RecordedUse, ...]:
    """Return every place of this process that has looked at the test set, in order.

    A chapter that keeps its promise ends with one entry. A place is a notebook cell or a
    line of a script; calls made by ``cifarlib`` count for the place that called it.
    """
    return tuple(RecordedUse(told, tuple(parts)) for told, parts in _uses.values())


def forget_uses_of_test_set() -> None:
    """Empty the record, for tests and for a notebook that is run again from its top."""
    _uses.clear()


def _record_use(part: str) -> None:
    place = _calling_place()
    _, parts = _uses.setdefault(place.key, (place.told, []))
    if part not in parts:
        parts.append(part)


def _calling_place() -> _Place:
    """Return the innermost place outside this package that led here."""
    package = f"{Path(__file__).parent}{os.sep}"
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    cell = _outermost_cell(shell.user_ns) if shell else None
    if cell:
        # A cell is one place, and IPython gives each a file name of its own. It has no number
        # under nbval, which executes cells without a history; but its text is always known.
        file, line = cell
        return _Place(file, f"cell: {linecache.getline(file, line).strip()}")
    frame = sys._getframe()
    while frame.f_back and (
        frame.f_code.co_filename.startswith((package, "<frozen"))
        or frame.f_globals.get("__name__", "").partition(".")[0] in _LIBRARIES
    ):
        frame = frame.f_back
    file, line = frame.f_code.co_filename, frame.f_lineno
    return _Place(f"{file}:{line}", f"{Path(file).name}:{line}")


def _outermost_cell(user_namespace: dict) -> tuple[str, int] | None:
    """Return file name and line of the cell being executed, None outside a notebook.

    The outermost, since a function defined in one cell may look at the test set on behalf of
    many others.
    """
    found, frame = None, sys._getframe()
    while frame:
        if frame.f_globals is user_namespace:
            found = frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return found


# A use belongs to the code that hands the test set to a library, not to the library's line.
_LIBRARIES = frozenset(
    {"numpy", "pandas", "sklearn", "keras", "tensorflow", "jax", "torch"}
    | {"joblib", "collections", "copy", "pickle", "concurrent", "threading", "multiprocessing"}
)


def split_validation(train: Split, fraction: float = 0.1, seed: int = 0) -> tuple[Split, Split]:
    """Split a validation set off the training set, with equal shares of every class.

    Args:
        train: the training set.
        fraction: share of the images that goes to the validation set, between 0 and 1.
        seed: decides which images go where; the same seed gives the same two sets.

    Returns:
        The smaller training set and the validation set, each in the order of ``train``.

    Raises:
        ValueError: if a class has too few images for the fraction, there are not as many labels
            as images, or the seed is no whole number from 0.

    Example:
        >>> images = np.zeros((40, 32, 32, 3), np.uint8)
        >>> train, validation = split_validation(Split(images, np.arange(40) % 10), 0.25)
        >>> train.images.shape, np.bincount(validation.labels).tolist()
        ((30, 32, 32, 3), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    """
    images, labels = train
    if np.ndim(labels) != 1 or len(labels) != len(images):
        found = f"{len(images)} images, labels of shape {np.shape(labels)}"
        raise ValueError(f"train: expected a label for each image, found {found}")
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected a whole number from 0 below 2**32, found {seed!r}")
    if isinstance(fraction, Real) and not isinstance(fraction, Integral):
        fraction = float(fraction)  # scikit-learn takes no other
    kept, held_out = validation_places(labels, fraction, seed)
    return Split(images[kept], labels[kept]), Split(images[held_out], labels[held_out])


def validation_places(
    labels: np.ndarray, fraction: float | int = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return which images `split_validation` keeps for training, and which it holds out.

    Args:
        labels: class of each image, shape (n,).
        fraction: as for `split_validation`, or a whole number of images.
        seed: as for `split_validation`.

    Returns:
        Two integer arrays of places, each in rising order.

    Raises:
        ValueError: if one side would have no image of some class, or the share is none.
    """
    from sklearn.model_selection import train_test_split  # imported late: it takes a second

    try:
        kept, held_out = train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed
        )
    except ValueError as error:
        whole = len(labels) if isinstance(fraction, int) else 1
        if not (isinstance(fraction, Real) and 0 < fraction < whole):
            raise  # scikit-learn says what it may be
        found = f"{fraction} chosen of {len(labels):,} images of {len(np.unique(labels))} classes"
        raise ValueError(f"{found}, less than one of each on one side") from error
    if not all(np.isin(labels, labels[side]).all() for side in (kept, held_out)):
        raise ValueError(f"{fraction} chosen of {len(labels):,} images leave a class on one side")
    # Sorted, so that the memory-mapped images are read in the order of the disk.
    return np.sort(kept), np.sort(held_out)
