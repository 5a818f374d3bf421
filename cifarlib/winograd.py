"""Convolutions of 3×3 with a fraction of the multiplications, after Winograd.

Two polynomials are multiplied by evaluating both at a few points, multiplying the values, and
finding the polynomial that passes through the products. A convolution is such a product, read
backwards; so a tile of m×m outputs needs (m + 2)² products where the definition takes 9 m² (for
m = 4, 36 for 144). Evaluating and finding are matrices of constants, shared by all channels
(Winograd, 1980; Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016).

Exact but for rounding, about ten times that of the definition. Where it pays is `compute`'s
knowledge.
"""

import functools

import numpy as np
from keras import ops

# Where polynomials are evaluated, and at infinity. Small ones and their inverses round least.
POINTS = (0, 1, -1, 1 / 2, -1 / 2, 2, -2)
LARGEST_TILE = len(POINTS) - 1


def transforms(tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three matrices of a convolution in one dimension, of a tile and three weights.

    Args:
        tile: number of outputs, m, at most ``LARGEST_TILE``.

    Returns:
        Float64 matrices for the inputs (m + 2, m + 2), the weights (m + 2, 3) and the outputs
        (m, m + 2).

    >>> for_inputs, for_weights, for_outputs = transforms(2)
    >>> values, weights = np.array([1.0, 2, 3, 5]), np.array([1.0, 0, -1])
    >>> for_outputs @ ((for_weights @ weights) * (for_inputs @ values))  # four products, not six
    array([-2., -3.])
    """
    num_products = tile + 2

    def at_points(num_coefficients: int) -> np.ndarray:
        finite = np.vander(POINTS[: num_products - 1], num_coefficients, increasing=True)
        return np.vstack([finite, np.eye(num_coefficients)[-1]])

    for_inputs = np.linalg.inv(at_points(num_products)).T
    for_weights = at_points(3)
    # A product may be scaled in one factor if it is scaled back in the other: both alike.
    scale = np.sqrt(np.abs(for_inputs).max(1) / np.abs(for_weights).max(1))[:, None]
    return for_inputs / scale, for_weights * scale, at_points(tile).T


def best_tile(size: int) -> int:
    """Return the tile that takes the fewest products for a map of that many pixels a side.

    >>> best_tile(15), best_tile(7)
    (5, 4)
    """
    return min(range(2, LARGEST_TILE + 1), key=lambda tile: -(-size // tile) * (tile + 2))


def convolve(maps, kernel):
    """Convolve square maps with a kernel of 3×3, padded with zeros, one step at a time.

    Gradients take as few multiplications: that of the inputs and that of the kernel pass
    through the same matrices, transposed.

    Args:
        maps: tensor of shape (n, size, size, inputs).
        kernel: tensor of shape (3, 3, inputs, outputs), of the same type.

    Returns:
        Tensor of shape (n, size, size, outputs).
    """
    size, num_inputs, num_outputs = maps.shape[1], *kernel.shape[2:]
    # Indices of products: i and j of the point, s and t of the tile, n of the image.
    tile = best_tile(size)
    num_points, num_tiles = tile + 2, -(-size // tile)
    num_sides = num_points * num_tiles
    for_inputs, for_weights, for_outputs = (
        ops.convert_to_tensor(matrix, kernel.dtype) for matrix in _of_map(size, tile)
    )
    x = ops.reshape(ops.transpose(maps, (1, 2, 0, 3)), (size, -1))
    x = ops.reshape(ops.matmul(for_inputs, x), (num_sides, size, -1))
    x = ops.matmul(for_inputs, x)
    x = ops.reshape(x, (num_points, num_tiles, num_points, -1, num_inputs))  # i, s, j, t n
    weights = ops.reshape(
        ops.matmul(for_weights, ops.reshape(kernel, (9, -1))),
        (num_points, 1, num_points, num_inputs, num_outputs),
    )
    x = ops.reshape(ops.matmul(x, weights), (num_sides, num_sides, -1))
    x = ops.reshape(ops.matmul(for_outputs, x), (num_sides, -1))
    x = ops.reshape(ops.matmul(for_outputs, x), (size, size, -1, num_outputs))
    return ops.transpose(x, (2, 0, 1, 3))


@functools.cache
def _of_map(size: int, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices for a side of a map, all its tiles at once, and for whole kernels."""
    for_inputs, for_weights, for_outputs = transforms(tile)
    num_tiles = -(-size // tile)
    spread = np.zeros((tile + 2, num_tiles, num_tiles * tile + 2))
    gathered = np.zeros((num_tiles * tile, tile + 2, num_tiles))
    for index in range(num_tiles):
        start = index * tile
        spread[:, index, start : start + tile + 2] = for_inputs
        gathered[start : start + tile, :, index] = for_outputs
    spread = spread[:, :, 1 : size + 1].reshape(-1, size)  # what lies outside is zero
    gathered = gathered[:size].reshape(size, -1)
    return spread, np.kron(for_weights, for_weights), gathered
