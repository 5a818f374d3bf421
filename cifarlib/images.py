"""Arithmetic on images: grayscale, luma and chroma, scaling, one-hot labels, flattening.

Pure functions of NumPy arrays; the input is never changed. Not for augmentation, which
belongs to training, nor for learned features.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cifarlib import devices

# Images converted at a time: the 32-bit intermediate values stay in the processor's cache.
BLOCK = 500


def to_grayscale(images: np.ndarray, formula: str = "luma 601") -> np.ndarray:
    """Convert colour images to grayscale.

    The default is Pillow's ``convert("L")`` to the last bit: the luma of ITU-R BT.601 in
    16-bit fixed point, ``(19595 R + 38470 G + 7471 B + 32768) >> 16``.

    Args:
        images: uint8 array of shape (..., 3), red, green, blue.
        formula: a key of ``GRAYSCALE_FORMULAS``.

    Returns:
        uint8 array of shape (..., 1).

    Raises:
        TypeError: if the images are no array.
        ValueError: if they are not such an array or the formula is unknown.

    Example:
        >>> to_grayscale(np.array([[59, 62, 63], [255, 255, 255]], np.uint8)).tolist()
        [[61], [255]]
    """
    _check_images(images, num_channels=3)
    if formula not in GRAYSCALE_FORMULAS:
        known = ", ".join(GRAYSCALE_FORMULAS)
        raise ValueError(f"formula: expected one of {known}, found {formula!r}")
    convert = GRAYSCALE_FORMULAS[formula]
    if images.ndim != 4:
        return convert(images)[..., None]
    gray = np.empty((*images.shape[:-1], 1), np.uint8)

    def convert_block(start: int) -> None:
        gray[start : start + BLOCK, ..., 0] = convert(images[start : start + BLOCK])

    # NumPy lets go of the interpreter inside each operation, so threads do run side by side.
    with ThreadPoolExecutor(devices.num_cores()) as pool:
        list(pool.map(convert_block, range(0, len(images), BLOCK)))
    return gray


def _luma_601(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 (0.299, 0.587, 0.114), as Pillow's ``libImaging/Convert.c`` has it."""
    return _weighted(rgb, 19595, 38470, 7471)


def _luma_709(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.709 (0.2126, 0.7152, 0.0722), the weights of HDTV, on the stored values."""
    return _weighted(rgb, 13933, 46871, 4732)


def _weighted(rgb: np.ndarray, red: int, green: int, blue: int) -> np.ndarray:
    """Weigh the channels in units of 1/65536, rounded to the nearest byte.

    The largest sum, 65536 · 255 + 32768, is below 2**24, and float32 holds every integer up to
    there: the products and sums are exact, and the fast matrix product may be used.
    """
    gray = rgb @ np.array([red, green, blue], np.float32)
    gray += 32768
    gray *= 2**-16
    return gray.astype(np.uint8)


def _mean(rgb: np.ndarray) -> np.ndarray:
    """The plain mean of the three channels."""
    return _to_byte(rgb @ np.full(3, 1 / 3, np.float32))


def _lightness(rgb: np.ndarray) -> np.ndarray:
    """HSL lightness: half-way between the largest and the smallest channel."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    largest = np.maximum(np.maximum(red, green), blue).astype(np.uint16)
    smallest = np.minimum(np.minimum(red, green), blue)
    return ((largest + smallest + 1) // 2).astype(np.uint8)


def _luminance(rgb: np.ndarray) -> np.ndarray:
    """Physical luminance (CIE Y): BT.709 weights on linear light, then encoded as sRGB again.

    Transfer functions from IEC 61966-2-1.
    """
    code = np.arange(256, dtype=np.float32) / 255
    to_linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    light = to_linear.astype(np.float32)[rgb]
    linear = 0.2126 * light[..., 0] + 0.7152 * light[..., 1] + 0.0722 * light[..., 2]
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return _to_byte(encoded * 255)


def _to_byte(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


GRAYSCALE_FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "luma 601": _luma_601,
    "luma 709": _luma_709,
    "mean": _mean,
    "lightness": _lightness,
    "luminance": _luminance,
}


def to_ycbcr(images: np.ndarray) -> np.ndarray:
    """Take colour images apart into luma and chroma, as JPEG files do.

    Pillow's ``convert("YCbCr")``, the full-range BT.601 matrix of JFIF 1.02. Pillow cuts Y off
    where `to_grayscale` rounds, so it is up to 1 smaller.

    Args:
        images: uint8 array of shape (..., 3), red, green, blue.

    Returns:
        uint8 array of the same shape: Y, Cb and Cr; gray is where the last two are 128.

    Raises:
        TypeError: if the images are no array.
        ValueError: if the images are not such an array.

    Example:
        >>> to_ycbcr(np.array([[128, 128, 128], [0, 0, 255]], np.uint8)).tolist()
        [[128, 128, 128], [29, 255, 107]]
    """
    return _converted(images, "RGB", "YCbCr")


def from_ycbcr(images: np.ndarray) -> np.ndarray:
    """Put luma and chroma together again, the inverse of `to_ycbcr` up to 3 of 255.

    Args:
        images: uint8 array of shape (..., 3), Y, Cb, Cr. What lies outside the colours that a
            screen can show is clipped.

    Returns:
        uint8 array of the same shape, red, green, blue.

    Raises:
        TypeError: if the images are no array.
        ValueError: if the images are not such an array.
    """
    return _converted(images, "YCbCr", "RGB")


def _converted(images: np.ndarray, mode: str, to: str) -> np.ndarray:
    from PIL import Image

    _check_images(images, num_channels=3)
    if not images.size:
        return images.copy()
    width = images.shape[-2] if images.ndim > 1 else 1
    size = width, images.size // (3 * width)
    picture = Image.frombytes(mode, size, np.ascontiguousarray(images))
    return np.array(picture.convert(to)).reshape(images.shape)


def to_unit_range(images: np.ndarray) -> np.ndarray:
    """Scale bytes to the range from 0 to 1.

    Args:
        images: uint8 array of any shape. Floats are refused: scaling twice is a mistake that
            shows only as a model that does not learn.

    Returns:
        float32 array of the same shape, values ``image / 255``.

    Raises:
        ValueError: if the images are not uint8.

    Example:
        >>> to_unit_range(np.array([0, 51, 255], np.uint8)).round(6).tolist()
        [0.0, 0.20000000298023224, 1.0]
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images: expected uint8 from 0 to 255, found {images.dtype}")
    return np.divide(images, 255, dtype=np.float32)


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of every channel, in the unit range.

    Attributes:
        mean: float32 of shape (C,).
        std: float32 of shape (C,).
    """

    mean: np.ndarray
    std: np.ndarray


def channel_statistics(train_images: np.ndarray) -> ChannelStatistics:
    """Measure the mean and standard deviation of every channel, for `standardize`.

    Give it the training images only: what the validation and test images are like must not
    reach the model before they are judged by it.

    Args:
        train_images: uint8 array of shape (n, height, width, C).

    Returns:
        The statistics of the images in the unit range. They are exact: bytes are counted.

    Raises:
        ValueError: if the images are none or not such an array.

    Example:
        >>> images = np.array([0, 0, 255, 255], np.uint8).reshape(2, 1, 2, 1)
        >>> [statistic.tolist() for statistic in channel_statistics(images)]
        [[0.5], [0.5]]
    """
    _check_images(train_images)
    if train_images.ndim != 4:
        told = "(n, height, width, C)"
        raise ValueError(f"train_images: expected {told}, found {train_images.shape}")
    if not len(train_images):
        raise ValueError("train_images: expected at least one image, found none")
    num_channels = train_images.shape[-1]
    counts = np.zeros((num_channels, 256), np.int64)
    for start in range(0, len(train_images), BLOCK):
        block = train_images[start : start + BLOCK]
        for channel in range(num_channels):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return ChannelStatistics(mean.astype(np.float32), std.astype(np.float32))


def standardize(images: np.ndarray, statistics: ChannelStatistics) -> np.ndarray:
    """Shift and scale every channel by the statistics of the training images.

    Args:
        images: uint8 array of shape (..., C).
        statistics: from `channel_statistics`; a standard deviation of 0 counts as 1.

    Returns:
        float32 array of the same shape; on the training images each channel has mean 0 and
        standard deviation 1.

    Raises:
        ValueError: if the number of channels differs, or the images are not uint8.
    """
    if images.shape[-1] != len(statistics.mean):
        raise ValueError(
            f"images: expected {len(statistics.mean)} channels as in the statistics, "
            f"found {images.shape[-1]}"
        )
    scaled = to_unit_range(images)
    scaled -= statistics.mean
    scaled /= np.where(statistics.std > 0, statistics.std, 1)
    return scaled


def one_hot(labels: np.ndarray, num_classes: int = 10) -> np.ndarray:
    """Turn labels into rows with a single one.

    Args:
        labels: integer array of shape (n,), values from 0 to ``num_classes - 1``.
        num_classes: length of a row.

    Returns:
        float32 array of shape (n, num_classes).

    Raises:
        ValueError: if a label is out of range.

    Example:
        >>> one_hot(np.array([2, 0]), num_classes=3).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers (n,), found {labels.dtype} {labels.shape}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels: expected 0 to {num_classes - 1}, found {labels.min()} to {labels.max()}"
        )
    return np.eye(num_classes, dtype=np.float32)[labels]


def flatten(images: np.ndarray) -> np.ndarray:
    """Turn every image into one row, as scikit-learn wants it.

    Args:
        images: array of shape (n, height, width, C).

    Returns:
        Array of shape (n, height · width · C), a view where NumPy can make one.

    Example:
        >>> flatten(np.zeros((5, 32, 32, 3))).shape
        (5, 3072)
    """
    return images.reshape(len(images), math.prod(images.shape[1:]))


def _check_images(images: np.ndarray, num_channels: int | None = None) -> None:
    if not isinstance(images, np.ndarray):
        found = type(images).__name__
        raise TypeError(f"images: expected an array, as in split.images, found {found}")
    if images.dtype != np.uint8 or num_channels not in (None, *images.shape[-1:]):
        told = f"uint8 with {num_channels} channels" if num_channels else "uint8, channels"
        raise ValueError(f"images: expected {told} last, found {images.dtype} {images.shape}")
