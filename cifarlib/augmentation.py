"""Random changes of training images: flips, turns, crops, erasing, mixing.

Layers on `keras.ops` alone, so that they compile on every backend and run where the network
runs; Keras's own cannot be compiled by XLA on TensorFlow, and its RandAugment turns images
upside down. Each takes images and labels and returns both, since mixing images mixes labels.
Training calls them and nothing else does: validation and test images stay as they are.
"""

import math

import keras
import numpy as np
from keras import ops

from cifarlib.errors import InputError, nearest

MAX_DEGREES = 15
MAX_SHIFT = 0.1
CROP_PADDING = 4
MAX_ERASED = 1 / 3
MIXUP_ALPHA = 0.2


class Augmentation(keras.layers.Layer):
    """Several augmentations, one after the other, in the order of ``NAMES``.

    Args:
        names: which; any of ``NAMES``.
        strength: from 0 for none to 2; 1 is what the name promises: turns up to 15°, shifts up
            to 10 %, crops from 4 pixels of padding, half of the images with a cut from another.

    Raises:
        InputError: for a name that is not there, with the nearest that is.
    """

    def __init__(self, names: tuple[str, ...] = (), strength: float = 1.0, **options):
        super().__init__(**{"dtype": "float32", **options})
        check_names(names)
        self.names, self.strength = tuple(names), strength
        names = names if strength else ()
        self.alternates = "alternate" in names
        steps = []
        if {"rotate", "shift"} & set(names):  # one resampling for both: each of two would blur
            degrees = MAX_DEGREES * strength if "rotate" in names else 0
            steps.append(Affine(degrees, MAX_SHIFT * strength if "shift" in names else 0))
        steps += [make(strength) for name, make in _MAKERS.items() if name in names]
        self.steps = steps

    def call(self, images, labels, places=None, epoch=None):
        """Change a batch.

        Args:
            images: float32 pixels from 0 to 255, shape (n, height, width, C).
            labels: shares of each class, float32, shape (n, 10); each row adds up to 1.
            places: of the images in the training set, integers of shape (n,); for ``alternate``.
            epoch: number of the epoch, from 0; for ``alternate``.

        Returns:
            Both, of the same shapes and ranges.
        """
        if self.alternates:
            # Hashed (Knuth's multiplicative method), since neighbours may be of one class, or
            # classes may alternate.
            drawn = ops.cast(places, "int32") * 40_503 % 65_536 // 32_768
            is_mirrored = (drawn + ops.cast(epoch, "int32")) % 2 == 1
            images = _mirror(images, is_mirrored)
        for step in self.steps:
            images, labels = step(images, labels)
        return images, labels

    def compute_output_spec(self, images, labels, places=None, epoch=None):
        """Tell Keras that shapes stay."""
        return (
            keras.KerasTensor(images.shape, self.compute_dtype),
            keras.KerasTensor(labels.shape, self.compute_dtype),
        )

    def get_config(self):
        """Return what makes an equal layer."""
        return {**super().get_config(), "names": self.names, "strength": self.strength}


def check_names(names: tuple[str, ...]) -> None:
    """Refuse names that are not augmentations, and names that come twice."""
    for name in names:
        if name not in NAMES:
            raise InputError(
                "augmentation", f"any of {', '.join(NAMES)}", repr(name), nearest(name, NAMES)
            )
    if len(set(names)) < len(names):
        raise InputError("augmentation", "each name once", ", ".join(names), "Leave one out.")


class _Random(keras.layers.Layer):
    """A step that draws random numbers; its state is saved and restored with the training."""

    def __init__(self):
        super().__init__(dtype="float32")
        self.random = keras.random.SeedGenerator()

    def draw(self, images, *shape, low=0.0, high=1.0):
        """Draw uniform numbers, a row for each image."""
        shape = (ops.shape(images)[0], *shape)
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.random)


class Flip(_Random):
    """Mirror half of the images, left to right."""

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        return _mirror(images, self.draw(images) < 0.5), labels


class Affine(_Random):
    """Turn and shift, the edge continued outwards.

    Args:
        max_degrees: the largest turn to either side.
        max_shift: the largest shift in each direction, as a share of the side.
    """

    def __init__(self, max_degrees: float, max_shift: float):
        super().__init__()
        self.max_degrees, self.max_shift = max_degrees, max_shift

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        angle = self.draw(images, low=-1.0) * math.radians(self.max_degrees)
        size = ops.convert_to_tensor([images.shape[2], images.shape[1]], "float32")
        shift = self.draw(images, 2, low=-1.0) * self.max_shift * size
        cos, sin = ops.cos(angle), ops.sin(angle)
        matrices = ops.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], axis=1)
        return warp(images, ops.reshape(matrices, (-1, 2, 3))), labels


class Crop(_Random):
    """Reflect the borders outwards and cut a window of the old size somewhere.

    Args:
        padding: how far the window may move in each direction, in pixels.
    """

    def __init__(self, padding: int):
        super().__init__()
        self.padding = padding

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        height, width = images.shape[1:3]
        moves = ops.floor(self.draw(images, 2) * (2 * self.padding + 1)) - self.padding
        moves = ops.cast(moves, "int32")
        rows = _reflect(ops.arange(height) + moves[:, :1], height)
        columns = _reflect(ops.arange(width) + moves[:, 1:], width)
        return _pick(images, rows[:, :, None], columns[:, None, :]), labels


class RandAugment(_Random):
    """Two of twelve changes for each image, chosen and measured at random.

    RandAugment (Cubuk et al., 2020), with its strengths for 32×32 images. Equalising is left
    out: a histogram for each image would take longer than all the rest.

    Args:
        strength: scales all changes but autocontrast, which has no amount; 1 is about magnitude
            9 of 30.
    """

    NUM_ROUNDS = 2

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        for _ in range(self.NUM_ROUNDS):
            images = self._change_once(images)
        return images, labels

    def _change_once(self, images):
        amount = self.draw(images, low=-1.0) * self.strength  # signed: to either side
        a = amount[:, None, None, None]
        height, width = images.shape[1:3]
        changes = [
            ops.clip(images * (1 + 0.6 * a), 0, 255),  # brightness
            _blend(ops.mean(images, axis=(1, 2, 3), keepdims=True), images, 1 + 0.6 * a),
            _blend(ops.mean(images, axis=-1, keepdims=True), images, 1 + 0.6 * a),  # colour
            _blend(_blurred(images), images, 1 + 0.6 * a),  # sharpness
            _stretched(images),  # autocontrast
            _posterized(images, ops.abs(a)),
            ops.where(images > 255 * (1 - 0.5 * ops.abs(a)), 255 - images, images),  # solarise
        ]
        zero, one = ops.zeros_like(amount), ops.ones_like(amount)
        turn = amount * math.radians(15)
        moves = [
            (one, 0.15 * amount, zero, zero, one, zero),  # shear
            (one, zero, zero, 0.15 * amount, one, zero),
            (one, zero, 0.15 * width * amount, zero, one, zero),  # shift
            (one, zero, zero, zero, one, 0.15 * height * amount),
            (ops.cos(turn), -ops.sin(turn), zero, ops.sin(turn), ops.cos(turn), zero),
        ]
        choice = ops.floor(self.draw(images) * (len(changes) + len(moves)))
        changed, matrix = images, ops.stack([one, zero, zero, zero, one, zero], axis=1)
        for index, change in enumerate(changes):
            changed = ops.where(choice[:, None, None, None] == index, change, changed)
        for index, move in enumerate(moves, start=len(changes)):
            matrix = ops.where(choice[:, None] == index, ops.stack(move, axis=1), matrix)
        return warp(changed, ops.reshape(matrix, (-1, 2, 3)))


class Erase(_Random):
    """Replace a rectangle of half of the images with noise (Zhong et al., 2020).

    Args:
        max_area: the largest rectangle, as a share of the image.
    """

    def __init__(self, max_area: float):
        super().__init__()
        self.max_area = max_area

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        area = self.draw(images, low=min(0.02, self.max_area), high=self.max_area)
        # Sides between 1:3 and 3:1.
        stretch = ops.exp(0.5 * math.log(3) * self.draw(images, low=-1.0))
        box = _boxes(images, ops.sqrt(area) * stretch, ops.sqrt(area) / stretch, self)
        chosen = self.draw(images, 1, 1, 1) < 0.5
        noise = self.draw(images, *images.shape[1:], high=255.0)
        return ops.where(ops.logical_and(chosen, box), noise, images), labels


class MixUp(_Random):
    """Blend each image, and its label, with another (Zhang et al., 2018).

    Args:
        alpha: of the Beta distribution that the share is drawn from; 1 is uniform.
    """

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        share = self._share(images)[:, None]
        # Batches are drawn at random: the batch backwards is as good as shuffled.
        labels = _blend(ops.flip(labels, axis=0), labels, share)
        return _blend(ops.flip(images, axis=0), images, share[:, :, None, None]), labels

    def _share(self, images):
        """Draw from the Beta distribution, which XLA does not have on TensorFlow.

        Jöhnk's method (1964) in logarithms: of two powers of uniform numbers the first pair
        that adds up to less than 1. A pair is refused about once in twenty for 0.2, so that
        eight are enough.
        """
        uniform = self.draw(images, 2, 8, low=1e-7)
        powers = ops.log(uniform) / self.alpha
        accepted = ops.sum(ops.exp(powers), axis=1) <= 1
        first = ops.argmax(ops.cast(accepted, "int32"), axis=1)
        pair = ops.take_along_axis(powers, ops.reshape(first, (-1, 1, 1)), axis=2)[:, :, 0]
        return ops.sigmoid(pair[:, 0] - pair[:, 1])


class CutMix(_Random):
    """Paste a rectangle of another image, and as much of its label (Yun et al., 2019).

    Args:
        probability: share of the images that get one.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def call(self, images, labels):
        """Change a batch, as `Augmentation`."""
        side = ops.sqrt(self.draw(images))  # areas are uniform
        box = _boxes(images, side, side, self)
        box = ops.logical_and(box, self.draw(images, 1, 1, 1) < self.probability)
        images = ops.where(box, ops.flip(images, axis=0), images)
        kept = 1 - ops.mean(ops.cast(box, "float32"), axis=(1, 2))  # what was pasted, counted
        return images, _blend(ops.flip(labels, axis=0), labels, kept)


# Whole pixels for a crop, and at least one.
_MAKERS = {
    "crop": lambda strength: Crop(max(1, round(CROP_PADDING * strength))),
    "flip": lambda strength: Flip(),
    "randaugment": RandAugment,
    "erase": lambda strength: Erase(min(1.0, MAX_ERASED * strength)),
    "mixup": lambda strength: MixUp(MIXUP_ALPHA * strength),
    "cutmix": lambda strength: CutMix(min(1.0, 0.5 * strength)),
}
# "alternate" mirrors each image in every second epoch: nobody sees the same side twice in a row.
NAMES = ("alternate", "rotate", "shift", *_MAKERS)


def warp(images, matrices):
    """Resample images at places moved by an affine map, bilinearly, the edge continued.

    Args:
        images: float tensor of shape (n, height, width, C).
        matrices: float tensor of shape (n, 2, 3): for a place of the result, counted (x, y) in
            pixels from the centre, the place of the source is ``matrix @ (x, y, 1)``.

    Returns:
        Tensor of the same shape.
    """
    height, width = images.shape[1:3]
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    x = (ops.arange(width, dtype="float32") - middle_x)[None, None, :]
    y = (ops.arange(height, dtype="float32") - middle_y)[None, :, None]

    def source(row: int, middle: float, length: int):
        a, b, c = (matrices[:, row, column, None, None] for column in range(3))
        return ops.clip(a * x + b * y + c + middle, 0, length - 1)

    source_x, source_y = source(0, middle_x, width), source(1, middle_y, height)
    left, top = ops.floor(source_x), ops.floor(source_y)
    right_share, lower_share = (source_x - left)[..., None], (source_y - top)[..., None]
    left, top = ops.cast(left, "int32"), ops.cast(top, "int32")
    right, lower = ops.minimum(left + 1, width - 1), ops.minimum(top + 1, height - 1)
    upper_row = _blend(_pick(images, top, left), _pick(images, top, right), right_share)
    lower_row = _blend(_pick(images, lower, left), _pick(images, lower, right), right_share)
    return _blend(upper_row, lower_row, lower_share)


def shrink(images, size: int):
    """Make images smaller: each new pixel is the mean of the area that it covers.

    Args:
        images: float tensor of shape (n, side, side, C).
        size: the new side in pixels, at most the old.

    Returns:
        Tensor of shape (n, size, size, C).
    """
    side = images.shape[1]
    if size == side:
        return images
    edges = np.arange(size + 1)[:, None] * (side / size)
    until_edge = np.clip(edges - np.arange(side), 0, 1)  # share of each pixel before each edge
    shares = np.diff(until_edge, axis=0) * (size / side)
    shares = ops.convert_to_tensor(shares.astype(np.float32))
    return ops.einsum("ih,jw,nhwc->nijc", shares, shares, images)


def _mirror(images, chosen):
    """Mirror those images, left to right, for which ``chosen``, of shape (n,), is true."""
    height, width = images.shape[1:3]
    columns = ops.arange(width)
    columns = ops.where(chosen[:, None], width - 1 - columns, columns)
    return _pick(images, ops.arange(height)[None, :, None], columns[:, None, :])


def _pick(images, rows, columns):
    """Return the pixels at integer places, each of shape broadcasting to (n, height, width)."""
    height, width, num_channels = images.shape[1:]
    first = ops.arange(ops.shape(images)[0]) * (height * width)
    places = ops.reshape(first[:, None, None] + rows * width + columns, (-1,))
    # Whole pixels from one long row of them: a seventh of the time of a place for each value.
    picked = ops.take(ops.reshape(images, (-1, num_channels)), places, axis=0)
    return ops.reshape(picked, (-1, height, width, num_channels))


def _reflect(places, length: int):
    """Fold integer places from outside back into 0 … length - 1, the border not repeated."""
    last = length - 1
    return last - ops.abs(last - ops.abs(places))


def _blend(first, second, share):
    """Return ``first`` where the share is 0, ``second`` where it is 1."""
    return ops.clip(first + (second - first) * share, 0, 255)


def _boxes(images, height_share, width_share, random: _Random):
    """Return masks of rectangles of these shares of the sides, each somewhere inside."""

    def span(share, length: int):
        size = ops.minimum(share, 1.0) * length
        start = ops.round(random.draw(images) * (length - size))[:, None]
        places = ops.arange(length, dtype="float32")[None]
        return ops.logical_and(places >= start, places < start + ops.round(size)[:, None])

    rows, columns = span(height_share, images.shape[1]), span(width_share, images.shape[2])
    return ops.logical_and(rows[:, :, None, None], columns[:, None, :, None])


def _blurred(images):
    """Return each pixel averaged with its eight neighbours, wrapped around at the border."""
    rows = sum(ops.roll(images, step, axis=1) for step in (-1, 0, 1))
    return sum(ops.roll(rows, step, axis=2) for step in (-1, 0, 1)) / 9


def _stretched(images):
    """Return each image's channels stretched to the whole range, flat ones as they are."""
    low = ops.min(images, axis=(1, 2), keepdims=True)
    high = ops.max(images, axis=(1, 2), keepdims=True)
    stretched = (images - low) * (255 / ops.maximum(high - low, 1))
    return ops.where(high > low, stretched, images)


def _posterized(images, amount):
    """Return images with fewer levels: 256 for an amount of 0, 16 for 1."""
    step = ops.power(2.0, ops.round(4 * ops.minimum(amount, 1.0)))
    return ops.floor(images / step) * step
