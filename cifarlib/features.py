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
import scipy.linalg
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from cifarlib import devices, progress


class _Features(TransformerMixin, BaseEstimator):
    """What the transformers share: they make float32 of whatever numbers come in."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class HistogramOfGradients(_Features):
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


class PatchDictionary(_Features):
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
        if self.patch_size**2 * self.image_shape_[2] < 2:
            raise ValueError(f"patch_size={self.patch_size}: expected 2 or more on gray images")
        random = check_random_state(self.random_state)
        samples = self._normalise(self._sample(X, random))
        self.mean_ = samples.mean(axis=0)
        self.whitening_ = _whitening_matrix(np.cov((samples - self.mean_).T), self.whitening)
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
        # |x - p|² = |x|² - 2 x·p + |p|² is one matrix product of (x, |x|², 1) with
        # (-2 p, 1, |p|²). Rounding may leave it a little below zero.
        squares = np.einsum("ij,ij->i", patches, patches)[:, None]
        left = np.hstack([patches, squares, np.ones_like(squares)])
        left = left.reshape(len(rows), num_positions**2, -1)
        num_patches = len(self.patches_)
        right = np.empty((left.shape[2], num_patches), np.float32)
        right[:-2] = -2 * self.patches_.T
        right[-2] = 1
        right[-1] = (self.patches_**2).sum(axis=1)
        # Pooling is a product, too: a row of ones for each quarter of the positions.
        half = np.arange(num_positions) < (num_positions + 1) // 2
        quarters = [np.outer(down, across) for down in (half, ~half) for across in (half, ~half)]
        pool = np.array(quarters, np.float32).reshape(4, -1)
        mean = np.full(num_patches, 1 / num_patches, np.float32)
        pooled = np.empty((len(rows), 4, num_patches), np.float32)
        distance = np.empty((num_positions**2, num_patches), np.float32)
        for index in range(len(rows)):  # one image at a time stays in the processor's cache
            np.matmul(left[index], right, out=distance)
            np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
            similarity = np.subtract((distance @ mean)[:, None], distance, out=distance)
            np.maximum(similarity, 0, out=similarity)
            np.matmul(pool, similarity, out=pooled[index])
        return pooled.reshape(len(rows), -1)


class MirrorInvariant(_Features):
    """Describe an image and its mirror image by the same features: the mean of both.

    A photograph seen in a mirror shows the same thing. A linear model that is trained on every
    image and its mirror image learns weights that are symmetric, and symmetric weights see
    nothing but this mean: much of what the augmented training set gives, at the size of the plain
    one.

    Args:
        transformer: makes features of rows of pixels.

    Attributes:
        transformer_: the fitted transformer.
        image_shape_: (height, width, channels).
        n_features_in_: height · width · channels.
    """

    def __init__(self, transformer: TransformerMixin):
        self.transformer = transformer

    def fit(self, X, y=None):
        """Fit the transformer on the images as they are.

        Args:
            X: array of shape (n, height · width · channels).
            y: given to the transformer.
        """
        X = validate_data(self, X, dtype=np.float32)
        self.image_shape_ = square_image_shape(X.shape[1])
        self.transformer_ = clone(self.transformer).fit(X, y)
        return self

    def transform(self, X) -> np.ndarray:
        """Return the features, float32 of shape (n, features of the transformer)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        mirrored = X.reshape(-1, *self.image_shape_)[:, :, ::-1].reshape(X.shape)
        features = self.transformer_.transform(mirrored)
        features += self.transformer_.transform(X)
        features /= 2
        return features


class Whitening(_Features):
    """Standardised features made uncorrelated (ZCA), except for those that hardly vary.

    Solvers crawl where features resemble each other, as thousands of similarities to patches
    do; whitened, they arrive in a dozen steps. ``PCA(whiten=True)`` blows up directions that
    hold nothing but noise, or drops them. Here each is divided by the root of its variance
    *plus a floor*, so that directions far below the floor stay small.

    Args:
        floor: added to the variances of the principal directions, in units of the variance of
            one standardised feature. The default was the best of five for learned patches, on
            held-out training images.

    Attributes:
        mean_: mean of each feature, float32 of shape (d,).
        whitening_: float32 of shape (d, d), from centred features to whitened ones.
        n_features_in_: d.
    """

    def __init__(self, floor: float = 0.03):
        self.floor = floor

    def fit(self, X, y=None):
        """Measure mean and covariance.

        Args:
            X: array of shape (n, d); some seconds for d of a few thousand.
            y: ignored.
        """
        X = validate_data(self, X, dtype=np.float32, ensure_min_samples=2)
        if not self.floor > 0:
            raise ValueError(f"floor={self.floor}: expected a number above 0")
        self.mean_ = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        covariance = np.zeros((X.shape[1], X.shape[1]), np.float32)
        for start in range(0, len(X), 5_000):
            rows = X[start : start + 5_000] - self.mean_
            covariance += rows.T @ rows
        covariance /= len(X)
        deviation = np.sqrt(np.diag(covariance))
        scale = np.where(deviation > 0, 1 / np.maximum(deviation, 1e-30), 1)
        covariance *= scale
        covariance *= scale[:, None]
        self.whitening_ = _whitening_matrix(covariance, self.floor)
        self.whitening_ *= scale[:, None]
        return self

    def transform(self, X) -> np.ndarray:
        """Return the whitened features, float32 of shape (n, d)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        features = X @ self.whitening_
        features -= self.mean_ @ self.whitening_
        return features


class FirstColumns(_Features):
    """Keep the first features only, such as the leading principal components.

    A search over the number of components fits the components once and then varies this.

    Args:
        count: how many to keep; None for all.

    Attributes:
        n_features_in_: number of features before.
    """

    def __init__(self, count: int | None = None):
        self.count = count

    def fit(self, X, y=None):
        """Check that there are as many.

        Args:
            X: array of shape (n, d).
            y: ignored.
        """
        X = validate_data(self, X, dtype=np.float32)
        if self.count is not None and not 1 <= self.count <= X.shape[1]:
            raise ValueError(f"count={self.count}: expected 1 to {X.shape[1]}, the features")
        return self

    def transform(self, X) -> np.ndarray:
        """Return the first columns, float32 of shape (n, count)."""
        check_is_fitted(self, "n_features_in_")
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return np.ascontiguousarray(X[:, : self.count])


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


def _whitening_matrix(covariance: np.ndarray, floor: float) -> np.ndarray:
    """Return the symmetric root of (covariance + floor)⁻¹, float32.

    Symmetric, so that nothing depends on the arbitrary signs of eigenvectors.
    """
    # Divide and conquer: several times as fast as SciPy's default for thousands of features.
    values, vectors = scipy.linalg.eigh(covariance, driver="evd")
    scale = 1 / np.sqrt(np.maximum(values, 0) + floor)
    return ((vectors * scale) @ vectors.T).astype(np.float32)


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
