"""Features that a linear classifier can use: gradients and learned patches.

Transformers as scikit-learn has them: rows of pixels in, rows of features out. Standardising and
whitened principal components need nothing new (``StandardScaler``, ``PCA(whiten=True)``). Images
pass through in small blocks, so that memory stays bounded however many there are. Not for
convolutional networks, which learn their features: `models` has those.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from cifarlib import devices, progress


class HistogramOfGradients(TransformerMixin, BaseEstimator):
    """Histograms of oriented gradients (Dalal and Triggs, 2005).

    Where does brightness change, and in which direction? Each cell of the image gets a histogram
    of the directions of its edges, weighted by their strength, and is normalised with each of
    the four 2×2 blocks of cells it belongs to, so that lighting and contrast hardly matter.

    Args:
        cell_size: side of a cell in pixels; divides the side of the image.
        num_orientations: bins over 180°.
        clip: upper bound of a normalised value, against single strong edges.

    Attributes:
        n_features_in_: pixels of an image, height · width · channels.
        image_shape_: (height, width, channels), square, gray (1) or colour (3).
    """

    def __init__(self, cell_size: int = 4, num_orientations: int = 9, clip: float = 0.2):
        self.cell_size = cell_size
        self.num_orientations = num_orientations
        self.clip = clip

    def fit(self, X, y=None):
        """Learn the shape of the images; nothing else is learned.

        Args:
            X: array of shape (n, height · width · channels).
            y: ignored.
        """
        X = validate_data(self, X, dtype=np.float32)
        self.image_shape_ = square_image_shape(X.shape[1])
        if self.image_shape_[0] % self.cell_size or self.image_shape_[0] < 2 * self.cell_size:
            raise ValueError(
                f"cell_size={self.cell_size}: expected a divisor of the image's side "
                f"{self.image_shape_[0]} that leaves two cells or more"
            )
        return self

    def transform(self, X) -> np.ndarray:
        """Return the features, float32 of shape (n, blocks · 4 · num_orientations)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return _in_blocks(self._transform_block, X, block=250, description="Gradients")

    def _transform_block(self, rows: np.ndarray) -> np.ndarray:
        pictures = rows.reshape(-1, *self.image_shape_)
        down, right = np.gradient(pictures, axis=(1, 2))
        strength = np.hypot(down, right)
        # Of several channels the strongest edge counts.
        channel = strength.argmax(axis=-1)[..., None]
        strength = np.take_along_axis(strength, channel, axis=-1)[..., 0]
        angle = np.arctan2(
            np.take_along_axis(down, channel, axis=-1)[..., 0],
            np.take_along_axis(right, channel, axis=-1)[..., 0],
        )
        # Each edge is shared between the two nearest directions.
        position = (angle / np.pi % 1) * self.num_orientations
        lower = np.floor(position).astype(int)
        share = position - lower
        bins = np.zeros((*strength.shape, self.num_orientations), np.float32)
        for index, part in ((lower, 1 - share), (lower + 1, share)):
            index = (index % self.num_orientations)[..., None]
            current = np.take_along_axis(bins, index, axis=-1)
            np.put_along_axis(bins, index, current + (strength * part)[..., None], axis=-1)
        num_cells = self.image_shape_[0] // self.cell_size
        cells = bins.reshape(
            len(rows), num_cells, self.cell_size, num_cells, self.cell_size, -1
        ).sum(axis=(2, 4))
        blocks = np.concatenate(
            [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], axis=-1
        )
        blocks /= np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + 1e-6)
        np.minimum(blocks, self.clip, out=blocks)
        blocks /= np.sqrt((blocks**2).sum(axis=-1, keepdims=True) + 1e-6)
        return blocks.reshape(len(rows), -1)


class PatchDictionary(TransformerMixin, BaseEstimator):
    """Similarity to small patches learned without labels (Coates, Lee and Ng, 2011).

    k-means on whitened patches of the training images finds edges, blobs and colour contrasts.
    An image is described by how much each quarter of it resembles each of them. The similarity
    is the paper's *triangle*: the mean distance to all patches less the distance to this one,
    if positive, so that about half are zero.

    Args:
        num_patches: size of the dictionary.
        patch_size: side of a patch in pixels.
        num_samples: patches that k-means sees.
        contrast: added to the variance of a patch before dividing by its root, in the square of
            the pixels' unit range, so that flat patches stay flat. The paper's 10 of 255².
        whitening: added to the eigenvalues when whitening, so that noise is not blown up.
        random_state: seed of sampling and k-means.

    Attributes:
        patches_: float32 of shape (num_patches, patch_size² · channels), in whitened space.
        mean_: mean of the normalised patches, float32 of shape (patch_size² · channels,).
        whitening_: symmetric (ZCA) whitening matrix of the normalised patches, float32.
        image_shape_: (height, width, channels).
        n_features_in_: height · width · channels.
    """

    def __init__(
        self,
        num_patches: int = 400,
        patch_size: int = 6,
        num_samples: int = 100_000,
        contrast: float = 10 / 255**2,
        whitening: float = 0.1,
        random_state: int | None = None,
    ):
        self.num_patches = num_patches
        self.patch_size = patch_size
        self.num_samples = num_samples
        self.contrast = contrast
        self.whitening = whitening
        self.random_state = random_state

    def fit(self, X, y=None):
        """Learn the dictionary from random patches.

        Args:
            X: array of shape (n, height · width · channels), pixels in the unit range.
            y: ignored.
        """
        X = validate_data(self, X, dtype=np.float32)
        self.image_shape_ = square_image_shape(X.shape[1])
        side = self.image_shape_[0]
        if not 1 <= self.patch_size < side:
            raise ValueError(f"patch_size={self.patch_size}: expected 1 to {side - 1}")
        random = check_random_state(self.random_state)
        samples = self._normalise(self._sample(X, random))
        self.mean_ = samples.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov((samples - self.mean_).T, dtype=np.float64))
        scale = 1 / np.sqrt(np.maximum(values, 0) + self.whitening)
        self.whitening_ = ((vectors * scale) @ vectors.T).astype(np.float32)
        clustering = MiniBatchKMeans(
            self.num_patches, batch_size=4096, n_init=1, max_iter=20, random_state=random
        )
        clustering.fit((samples - self.mean_) @ self.whitening_)
        self.patches_ = clustering.cluster_centers_.astype(np.float32)
        return self

    def transform(self, X) -> np.ndarray:
        """Return the features, float32 of shape (n, 4 · num_patches): a block a quarter."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return _in_blocks(self._transform_block, X, block=4, description="Patches")

    def _sample(self, X: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """Return random patches of random images, float32 (num_samples, patch_size² · C)."""
        pictures = X.reshape(-1, *self.image_shape_)
        windows = self._windows(pictures)
        side = windows.shape[1]
        index = random.randint(len(X), size=self.num_samples)
        top, left = random.randint(side, size=(2, self.num_samples))
        return windows[index, top, left].reshape(self.num_samples, -1)

    def _windows(self, pictures: np.ndarray) -> np.ndarray:
        """Return a view of all patches, (n, positions, positions, C, patch_size, patch_size)."""
        size = (self.patch_size, self.patch_size)
        return np.lib.stride_tricks.sliding_window_view(pictures, size, axis=(1, 2))

    def _normalise(self, patches: np.ndarray) -> np.ndarray:
        """Take brightness and contrast out of each patch."""
        patches = patches - patches.mean(axis=1, keepdims=True)
        patches /= np.sqrt(patches.var(axis=1, keepdims=True) + self.contrast)
        return patches

    def _transform_block(self, rows: np.ndarray) -> np.ndarray:
        windows = self._windows(rows.reshape(-1, *self.image_shape_))
        num_positions = windows.shape[1]
        patches = self._normalise(windows.reshape(-1, self.patches_.shape[1]))
        patches = (patches - self.mean_) @ self.whitening_
        # |x - p|² = |x|² - 2 x·p + |p|², in one matrix product and in place from there on.
        distance = patches @ (-2 * self.patches_.T)
        distance += (patches**2).sum(axis=1, keepdims=True)
        distance += (self.patches_**2).sum(axis=1)
        np.maximum(distance, 0, out=distance)
        np.sqrt(distance, out=distance)
        similarity = np.subtract(distance.mean(axis=1, keepdims=True), distance, out=distance)
        np.maximum(similarity, 0, out=similarity)
        # Pooling by a product: a row of ones for each quarter of the positions.
        half = np.arange(num_positions) < (num_positions + 1) // 2
        quarters = [np.outer(down, right) for down in (half, ~half) for right in (half, ~half)]
        pool = np.array(quarters, np.float32).reshape(4, -1)
        pooled = pool @ similarity.reshape(len(rows), num_positions**2, -1)
        return pooled.reshape(len(rows), -1)


def square_image_shape(num_features: int) -> tuple[int, int, int]:
    """Return (height, width, channels) of square images that were flattened into rows.

    Args:
        num_features: length of a row.

    Raises:
        ValueError: if no square image, gray or colour, has so many values.

    >>> square_image_shape(1024), square_image_shape(3072)
    ((32, 32, 1), (32, 32, 3))
    """
    for num_channels in (1, 3):
        side = math.isqrt(num_features // num_channels)
        if side**2 * num_channels == num_features:
            return side, side, num_channels
    raise ValueError(
        f"X: expected rows of a square image, gray or colour, found {num_features} features"
    )


def _in_blocks(
    transform: Callable[[np.ndarray], np.ndarray], X: np.ndarray, block: int, description: str
) -> np.ndarray:
    """Transform rows a block at a time, so small that the intermediate values stay in cache.

    Blocks run on all cores in threads; BLAS gets one thread in each, or they would fight.
    """
    first = transform(X[:block])
    features = np.empty((len(X), first.shape[1]), np.float32)
    features[:block] = first

    def work(start: int) -> int:
        rows = X[start : start + block]
        features[start : start + block] = transform(rows)
        return len(rows)

    with (
        progress.bar(len(X), description, "image", initial=len(first)) as bar,
        threadpool_limits(1),
        ThreadPoolExecutor(devices.num_cores()) as pool,
    ):
        for num_done in pool.map(work, range(block, len(X), block)):
            bar.update(num_done)
    return features
