"""Patch whitening beside plain NumPy, identity kernels by what they do to an image."""

import keras
import numpy as np
import pytest
from keras import layers

from cifarlib import models, whitening


def numpy_of(tensor) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def smooth_images(n=200, size=8, channels=3, seed=0) -> np.ndarray:
    """Return images whose neighbouring pixels are alike, as those of photographs."""
    noise = np.random.default_rng(seed).normal(size=(n, size + 1, size + 1, channels))
    return (noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1]).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_adapted_outputs_are_uncorrelated_and_vary_alike(channels):
    pictures = smooth_images(channels=channels)
    layer = whitening.PatchWhitening(epsilon=0.0)
    layer.build(pictures.shape)
    layer.adapt(pictures)
    outputs = numpy_of(layer(pictures))
    num_values = 4 * channels
    assert outputs.shape == (200, 7, 7, 2 * num_values)
    half = outputs[..., :num_values].reshape(-1, num_values)
    np.testing.assert_allclose(half.T @ half / len(half), np.eye(num_values), atol=1e-3)
    np.testing.assert_allclose(outputs[..., num_values:], -outputs[..., :num_values], atol=1e-5)


def test_epsilon_keeps_what_hardly_varies_small():
    pictures = smooth_images()
    pictures[..., 2] = pictures[..., 1]  # half of the directions do not vary at all
    layer = whitening.PatchWhitening()
    layer.build(pictures.shape)
    layer.adapt(pictures)
    assert np.abs(numpy_of(layer.kernel)).max() < 1 / np.sqrt(5e-4) + 1


def test_only_its_biases_are_trained():
    layer = whitening.PatchWhitening()
    layer.build((None, 32, 32, 3))
    assert [tuple(weight.shape) for weight in layer.trainable_weights] == [(24,)]


def test_it_is_saved_with_what_it_learned(tmp_path):
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, whitening.PatchWhitening()(inputs))
    pictures = smooth_images()
    whitening.adapt(network, pictures, np.arange(len(pictures)))
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(
        again.predict(pictures, verbose=0), network.predict(pictures, verbose=0)
    )


def test_adapting_a_network_shows_the_layer_what_reaches_it():
    keras.utils.set_random_seed(0)
    pictures = smooth_images(size=32) * 20 + 128
    network = models.build("fast", scaling=layers.Rescaling(1 / 20, -128 / 20))
    whitening.adapt(network, pictures, np.arange(len(pictures)))
    (layer,) = (x for x in network.layers if isinstance(x, whitening.PatchWhitening))
    alone = whitening.PatchWhitening()
    alone.build((None, 32, 32, 3))
    alone.adapt((pictures - 128) / 20)
    np.testing.assert_allclose(
        np.abs(numpy_of(layer.kernel)), np.abs(numpy_of(alone.kernel)), rtol=0.05, atol=0.01
    )


def test_adapting_changes_nothing_where_nothing_whitens():
    network = models.build("dense_net")
    before = network.get_weights()
    whitening.adapt(network, np.zeros((3, 32, 32, 3), np.float32), np.arange(3))
    for was, weight in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(was, weight)


@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(3, 8), (8, 8), (8, 3)])
def test_identity_kernels_pass_on_the_image(num_inputs, num_outputs):
    image = np.random.default_rng(0).normal(size=(2, 6, 6, num_inputs)).astype(np.float32)
    layer = layers.Conv2D(
        num_outputs, 3, padding="same", kernel_initializer=whitening.IdentityKernel(seed=1)
    )
    outputs = numpy_of(layer(image))
    num_passed = min(num_inputs, num_outputs)
    np.testing.assert_allclose(outputs[..., :num_passed], image[..., :num_passed], atol=1e-6)
    rest = numpy_of(layer.kernel)[..., num_passed:]
    bound = (9 * num_inputs) ** -0.5
    assert np.abs(rest).max(initial=0) <= bound
    assert not rest.size or rest.std() > 0.5 * bound


def test_identity_kernels_follow_keras_seed():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        drawn.append(numpy_of(whitening.IdentityKernel()((3, 3, 2, 6))))
    np.testing.assert_array_equal(*drawn)
    again = whitening.IdentityKernel.from_config(whitening.IdentityKernel(5).get_config())
    assert again.seed == 5


def test_a_network_whitens_by_the_places_it_is_given_only():
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, whitening.PatchWhitening()(inputs))
    pictures = smooth_images()
    whitening.adapt(network, pictures, np.arange(100, 200))
    before = network.get_weights()
    pictures[:100] *= 50
    whitening.adapt(network, pictures, np.arange(100, 200))
    for one, other in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
