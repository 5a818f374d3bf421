"""A convolutional network told by a few numbers, so that a search can choose them.

The family of the course's baseline: blocks of convolutions, each ending in a step that halves
the image, then a dense layer. ``LayeredCNN()`` is that baseline; chapter 4 changes one number
at a time. What a search found is kept in a small JSON file, layers and recipe together, and
such a file stands for a model wherever a name does. Not for searching (`tuning`) nor for
designs that are no plain stack of layers (`models`).
"""

import dataclasses
import json
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
from keras import layers

from cifarlib.errors import InputError, nearest

# What won the search of chapter 4; `cifarlib tune` wrote it.
TUNED = Path(__file__).with_name("tuned_cnn.json")
POOLINGS = ("max", "average", "stride")
PADDINGS = ("valid", "same")
ENDINGS = ("flatten", "average")
# Keras remembers statistics with 0.99, longer than a trial of a search lasts.
MOMENTUM = 0.95


def _field(default: Any, told: str, *range_: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": told, "range": range_})


@dataclasses.dataclass(frozen=True)
class LayeredCNN:
    """A design by numbers; call it with an image tensor for the features (n, d).

    Raises:
        InputError: for a value that does not fit, or blocks that leave nothing of the image.

    >>> dataclasses.replace(LayeredCNN(), width=16).width
    16
    """

    blocks: int = _field(3, "blocks, each halving width and height", 1, 5)
    depth: int = _field(1, "convolutions in a block", 1, 8)
    width: int = _field(32, "filters of the first block, doubled in each that follows", 1, 1024)
    max_width: int = _field(64, "but never more than so many", 1, 4096)
    kernel: int = _field(3, "width and height of a convolution", 1, 9)
    padding: str = _field("valid", "at the image's border: lose it (valid) or pad (same)", PADDINGS)
    pooling: str = _field("max", "how a block halves the image: max, average, stride", POOLINGS)
    batch_normalization: bool = _field(False, "between each convolution and its ReLU")
    dropout: float = _field(0.0, "share dropped after each block", 0, 0.9)
    ending: str = _field("flatten", "what follows the blocks: flatten, or average", ENDINGS)
    dense: int = _field(64, "units of the dense layer; 0 for none", 0, 8192)
    dense_dropout: float = _field(0.0, "share dropped before the scores", 0, 0.9)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = _checked(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        self._check_size()

    @property
    def __name__(self) -> str:
        """Return the name a network gets, as a design that is a function has one."""
        return "layered_cnn"

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return dataclasses.asdict(self)

    def __call__(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Lay the layers on an image tensor (n, 32, 32, C)."""
        for block in range(self.blocks):
            width = min(self.width * 2**block, self.max_width)
            for _ in range(self.depth - 1):
                x = self._convolve(x, width)
            if self.pooling == "stride":
                x = self._convolve(x, width, stride=2)
            else:
                pool = layers.MaxPooling2D if self.pooling == "max" else layers.AveragePooling2D
                x = pool(2)(self._convolve(x, width))
            if self.dropout:
                x = layers.Dropout(self.dropout)(x)
        x = (layers.Flatten if self.ending == "flatten" else layers.GlobalAveragePooling2D)()(x)
        if self.dense:
            x = layers.Dense(self.dense, activation="relu")(x)
        return layers.Dropout(self.dense_dropout)(x) if self.dense_dropout else x

    def _convolve(self, x, width: int, stride: int = 1):
        options = {"strides": stride, "padding": self.padding}
        if not self.batch_normalization:
            return layers.Conv2D(width, self.kernel, activation="relu", **options)(x)
        x = layers.Conv2D(width, self.kernel, use_bias=False, **options)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=MOMENTUM)(x))

    def _check_size(self) -> None:
        size = 32
        for block in range(1, self.blocks + 1):
            if self.padding == "valid":
                size -= self.depth * (self.kernel - 1)
            size = -(-size // 2) if self.pooling == "stride" else size // 2
            if size < 1:
                advice = "Use fewer or smaller layers, or padding same."
                raise InputError(
                    "layers", "something left of the image", f"nothing after block {block}", advice
                )


def _checked(field: dataclasses.Field, value: Any) -> Any:
    range_ = field.metadata["range"]
    if field.type is bool:
        if not isinstance(value, bool):
            raise InputError(field.name, "true or false", repr(value), "Correct it.")
        return value
    if field.type is str:
        if value not in range_[0]:
            told = " or ".join(range_[0])
            raise InputError(field.name, told, repr(value), nearest(value, range_[0]))
        return value
    low, high = range_
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or field.type(value) != value:
        told = f"{'a whole' if field.type is int else 'a'} number from {low} to {high}"
        raise InputError(field.name, told, repr(value), "Correct it.")
    return field.type(value)


def from_json(numbers_: Mapping[str, Any], origin: object = "layers") -> LayeredCNN:
    """Return the design of JSON values; those that are not named are the baseline's.

    Args:
        numbers_: values by their names.
        origin: what to call them in a message.

    Raises:
        InputError: for a name or value that does not fit.

    >>> from_json({"width": 16}).width
    16
    """
    known = [field.name for field in dataclasses.fields(LayeredCNN)]
    for name in numbers_:
        if name not in known:
            told = f"any of {', '.join(known)}"
            raise InputError(origin, told, repr(name), nearest(name, known))
    try:
        return LayeredCNN(**numbers_)
    except InputError as error:
        field, *others = error.args
        raise InputError(f"{origin}: {field}", *others) from error


class Found(NamedTuple):
    """What a search found.

    Attributes:
        model: a design by numbers, or the name of a registered model.
        recipe: what it tells `training.Config`.
        search: how it was found, JSON values.
    """

    model: LayeredCNN | str
    recipe: dict[str, Any]
    search: dict[str, Any]


def read(path: str | Path) -> Found:
    """Read what a search found.

    Args:
        path: a file that `tuning.write` wrote: ``model`` (numbers of layers, or a name) and
            ``recipe``, and how they were found.

    Raises:
        InputError: if there is no such file, or it holds something else.
    """
    expected, advice = "a model found by cifarlib tune", "Name a file that cifarlib tune wrote."
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        found = error.strerror or "none"
        raise InputError(path, expected, found, advice) from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, expected, f"no JSON ({error})", advice) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), (dict, str)):
        raise InputError(path, expected, "no model in it", advice)
    if others := [name for name in content if name not in Found._fields]:
        # The files of a run have a model, too, and so much else that another would be trained.
        raise InputError(path, expected, f"one with {others[0]!r} in it", advice)
    recipe, search = (content.get(name, {}) for name in ("recipe", "search"))
    if not isinstance(recipe, dict) or not isinstance(search, dict):
        raise InputError(path, expected, "a recipe that is no object", advice)
    model = content["model"]
    return Found(from_json(model, path) if isinstance(model, dict) else model, recipe, search)
