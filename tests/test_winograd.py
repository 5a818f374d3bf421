"""Winograd's convolution beside the definition, its rounding and its products counted.

Gradients are in test_compute, beside those of Keras's layer.
"""

import math

import keras
import numpy as np
import pytest

from cifarlib import winograd


def defined(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return the convolution as it is defined, in float64."""
    size = maps.shape[1]
    padded = np.pad(maps.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, row : row + size, column : column + size] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )


def drawn(size, num_images=3, num_inputs=5, num_outputs=4, seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(num_images, size, size, num_inputs)).astype(np.float32)
    return maps, rng.normal(size=(3, 3, num_inputs, num_outputs)).astype(np.float32)


@pytest.mark.parametrize("tile", range(2, winograd.LARGEST_TILE + 1))
def test_a_tile_takes_two_products_more_than_it_has_outputs(tile):
    for_inputs, for_weights, for_outputs = winograd.transforms(tile)
    assert for_weights.shape == (tile + 2, 3)
    rng = np.random.default_rng(tile)
    values, weights = rng.normal(size=tile + 2), rng.normal(size=3)
    products = (for_weights @ weights) * (for_inputs @ values)
    expected = np.correlate(values, weights, "valid")
    assert products.shape == (tile + 2,)
    np.testing.assert_allclose(for_outputs @ products, expected, rtol=1e-10, atol=1e-12)


def test_two_outputs_take_the_four_products_of_the_paper():
    # Lavin and Gray (2016), equation 5, up to a factor that products share out.
    for_inputs, for_weights, for_outputs = winograd.transforms(2)
    identity = np.einsum("ok,kw,kv->owv", for_outputs, for_weights, for_inputs)
    np.testing.assert_allclose(identity[0, :, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(identity[1, :, 1:], np.eye(3), atol=1e-12)
    ratios = for_inputs[0] / np.abs(for_inputs[0]).max()
    np.testing.assert_allclose(np.abs(ratios), [1, 0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("size", [*range(1, 9), 11, 15, 16, 23])
def test_it_is_the_convolution(size):
    maps, kernel = drawn(size)
    tensors = [keras.ops.convert_to_tensor(each) for each in (maps, kernel)]
    found = keras.ops.convert_to_numpy(winograd.convolve(*tensors))
    expected = defined(maps, kernel)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_rounding_is_within_thirty_times_that_of_the_definition():
    # Sixty-four channels: as narrow as the convolutions are that it is used for.
    maps, kernel = drawn(12, num_inputs=64, num_outputs=64)
    exact = defined(maps, kernel)
    tensors = [keras.ops.convert_to_tensor(each) for each in (maps, kernel)]
    errors = [
        np.sqrt(np.mean((keras.ops.convert_to_numpy(convolve(*tensors)) - exact) ** 2))
        for convolve in (winograd.convolve, lambda x, k: keras.ops.conv(x, k, padding="same"))
    ]
    assert errors[0] < 30 * errors[1]
    assert errors[0] < 2e-5 * exact.std()


@pytest.mark.parametrize("size", range(1, 40))
def test_no_tile_takes_fewer_products(size):
    def products(tile):
        return math.ceil(size / tile) * (tile + 2)

    tiles = range(2, winograd.LARGEST_TILE + 1)
    assert products(winograd.best_tile(size)) == min(map(products, tiles))
