"""Grad-CAM beside the case in which it can be worked out by hand."""

import designs
import keras
import numpy as np
import pytest

from cifarlib import explain, models
from cifarlib.errors import InputError


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((3, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def averaging():
    """Return a network whose head averages: its gradient is its weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(5, 3, strides=4, activation="relu", name="maps")(inputs)
    average = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(average))


def numpy_of(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def test_where_the_head_averages_grad_cam_is_the_maps_weighed_by_the_head(averaging, images):
    classes = np.array([4, 0, 9])
    maps = explain.feature_maps(averaging, images)
    head = numpy_of(averaging.get_layer("logits").kernel)
    evidence = np.maximum(np.einsum("nhwk,kn->nhw", maps, head[:, classes]), 0)
    expected = numpy_of(keras.ops.image.resize(evidence[..., None], (32, 32)))[..., 0]
    largest = expected.max(axis=(1, 2), keepdims=True)
    expected = expected / np.where(largest > 0, largest, 1)
    found = explain.grad_cam(averaging, images, classes)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_without_classes_it_asks_for_what_the_model_says(averaging, images):
    said = numpy_of(averaging(images)).argmax(axis=1)
    np.testing.assert_array_equal(
        explain.grad_cam(averaging, images), explain.grad_cam(averaging, images, said)
    )


@pytest.mark.parametrize("name", [name for name in designs.TESTED if name != "dense_net"])
def test_every_network_with_places_can_be_asked(name, images):
    keras.utils.set_random_seed(0)
    model = models.build(name)
    found = explain.grad_cam(model, images, np.array([1, 2, 3]))
    assert found.shape == (3, 32, 32) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    maps = explain.feature_maps(model, images)
    assert maps.ndim == 4 and maps.shape[0] == 3 and maps.shape[1] == maps.shape[2] > 1


@pytest.mark.parametrize(("num_places", "has_places"), [(64, True), (32, False)])
def test_a_sequence_has_places_if_it_was_a_square(num_places, has_places, images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    rows = keras.layers.Reshape((num_places, 32 * 32 * 3 // num_places), name="rows")(inputs)
    learned = keras.layers.Dense(4, name="learned")(rows)
    average = keras.layers.GlobalAveragePooling1D()(learned)
    model = keras.Model(inputs, keras.layers.Dense(10)(average))
    if has_places:
        assert explain.grad_cam(model, images).shape == (3, 32, 32)
        return
    with pytest.raises(InputError, match="a layer with places"):
        explain.grad_cam(model, images)
    with pytest.raises(InputError, match="one with places, found 'learned'"):
        explain.feature_maps(model, images, layer="learned")


def test_evidence_lies_where_the_object_is():
    """A network that counts bright pixels finds the bright square."""
    inputs = keras.Input((32, 32, 1))
    maps = keras.layers.Conv2D(1, 1, activation="relu")(inputs)
    logits = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(inputs, logits)
    model.set_weights([np.ones((1, 1, 1, 1)), np.full(1, -0.5), np.ones((1, 10)), np.zeros(10)])
    image = np.zeros((1, 32, 32, 1), np.float32)
    image[0, 8:16, 20:28] = 1
    found = explain.grad_cam(model, image)[0]
    np.testing.assert_array_equal(found > 0.5, image[0, ..., 0] > 0.5)


def test_nothing_speaks_for_a_class_whose_weights_are_negative():
    inputs = keras.Input((32, 32, 1))
    maps = keras.layers.Conv2D(1, 1, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(maps)))
    model.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1), -np.ones((1, 10)), np.zeros(10)])
    assert not explain.grad_cam(model, np.ones((1, 32, 32, 1), np.float32)).any()


def test_filters_are_images_with_zero_in_the_middle():
    model = models.build("baseline", "rgb")
    kernel = numpy_of(model.layers[1].kernel)
    found = explain.filters(model)
    assert found.shape == (32, 3, 3, 3)
    assert found.min() >= 0 and found.max() <= 1
    np.testing.assert_array_equal(found[7] > 0.5, kernel[..., 7] > 0)


def test_a_network_without_places_is_told_so(images):
    model = models.build("dense_net")
    for call in (explain.grad_cam, explain.feature_maps):
        with pytest.raises(InputError, match="dense_net"):
            call(model, images)
    with pytest.raises(InputError, match="a convolution"):
        explain.filters(model)


def test_evidence_that_has_a_way_around_the_layer_is_refused(images):
    inputs = keras.Input((32, 32, 3))
    branches = [keras.layers.Conv2D(2, 3, name=name)(inputs) for name in ("left", "right")]
    averages = [keras.layers.GlobalAveragePooling2D()(branch) for branch in branches]
    logits = keras.layers.Dense(10)(keras.layers.Concatenate()(averages))
    with pytest.raises(InputError, match="to pass through right, found other branches"):
        explain.grad_cam(keras.Model(inputs, logits), images)


def test_a_layer_with_several_outputs_is_passed_over(images):
    inputs = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(2, 4, strides=8, name="maps")(inputs)
    places = keras.layers.Reshape((-1, 2))(maps)
    attended, _ = keras.layers.MultiHeadAttention(1, 2, name="attention")(
        places, places, return_attention_scores=True
    )
    logits = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling1D()(attended))
    network = keras.Model(inputs, logits)
    assert explain.grad_cam(network, images).shape == images.shape[:3]
    with pytest.raises(InputError, match="one with places, found 'attention'"):
        explain.feature_maps(network, images, layer="attention")
    assert models.multiply_adds(network) > 0


def test_an_unknown_layer_is_told_the_others(averaging, images):
    with pytest.raises(InputError, match=r"one of .*maps.*logits"):
        explain.grad_cam(averaging, images, layer="nowhere")


def test_a_layer_without_places_is_refused(averaging, images):
    with pytest.raises(InputError, match="one with places, found 'logits'"):
        explain.feature_maps(averaging, images, layer="logits")


def test_a_map_counts_by_the_mean_of_its_gradient_where_places_differ():
    """A head that reads each place by itself, so that gradients differ from place to place."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.Conv2D(2, 1)(inputs)
    network = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(hidden)))
    weights = rng.normal(0.5, 1, (32, 10))
    network.set_weights([np.ones((1, 1, 1, 2)), np.zeros(2), weights, np.zeros(10)])
    image = rng.random((1, 4, 4, 1), np.float32)
    of_maps = weights.reshape(4, 4, 2, 10)[..., 3].mean(axis=(0, 1))
    expected = np.maximum(explain.feature_maps(network, image)[0] @ of_maps, 0)
    assert expected.any()
    found = explain.grad_cam(network, image, np.array([3]))[0]
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-5)
