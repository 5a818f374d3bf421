"""Prepared copies beside the plain network, fused kernels beside Keras's own, faked hardware."""

import inspect
import os
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

from cifarlib import compute, models
from cifarlib.errors import InputError

BACKEND = keras.backend.backend()
SHAPE = (8, 8, 3)
# One rounding each: 8, 11 and 24 bits; a few layers add up some of them.
TOLERANCE = {"float32": 0.0, "bfloat16": 0.05, "float16": 0.01}
LOW = ("bfloat16", "float16")

only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's fused kernel")
each_precision = pytest.mark.parametrize("precision", compute.PRECISIONS)


def numpy_of(tensor) -> np.ndarray:
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def values(variables) -> list[np.ndarray]:
    return [numpy_of(variable) for variable in variables]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0.5, 1, (6, *SHAPE)).astype(np.float32)


def filled(network: keras.Model) -> keras.Model:
    """Give every weight a value of its own, biases and statistics too."""
    rng = np.random.default_rng(1)
    for weight in network.weights:
        middle = 1.0 if "gamma" in weight.name or "variance" in weight.name else 0.0
        weight.assign(middle + rng.normal(0, 0.2, weight.shape))
    return network


# Small designs, each with kinds of layers of its own


def plain(x):
    x = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(0.5)(x)))
    return layers.Dropout(0.5)(layers.Dense(5, activation="relu")(layers.Flatten()(x)))


def residual(x):
    shortcut = layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False)(x))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = layers.AveragePooling2D(2)(layers.ReLU()(layers.Add()([x, shortcut])))
    return layers.GlobalAveragePooling2D()(x)


def squeezed(x):
    hidden = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(layers.Conv2D(4, 1)(x))
    hidden = layers.Activation("silu")(layers.BatchNormalization()(hidden))
    excited = layers.GlobalAveragePooling2D(keepdims=True)(hidden)
    excited = layers.Conv2D(4, 1, activation="sigmoid")(excited)
    return layers.GlobalMaxPooling2D()(layers.Multiply()([hidden, excited]))


def attending(x):
    x = models.PositionEmbedding()(layers.Reshape((-1, 6))(layers.Conv2D(6, 4, strides=4)(x)))
    normalised = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3)(normalised, normalised)])
    return layers.GlobalAveragePooling1D()(layers.Dense(6, activation="gelu")(x))


def dense(x):
    return layers.BatchNormalization()(layers.Dense(7)(layers.Flatten()(x)))


SMALL = (plain, residual, squeezed, attending, dense)


def functional(design) -> keras.Model:
    inputs = keras.Input(SHAPE, name="images")  # named as the registry does
    logits = layers.Dense(10, dtype="float32", name="logits")(design(inputs))
    return filled(keras.Model(inputs, logits, name=design.__name__))


each_design = pytest.mark.parametrize("design", SMALL, ids=lambda design: design.__name__)


def assert_computes_the_same(prepared, network, images, precision) -> None:
    expected, found = numpy_of(network(images)), numpy_of(prepared(images))
    if precision == "float32":
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        tolerance = TOLERANCE[precision] * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert not np.array_equal(found, expected), "nothing was computed in fewer bits"


def test_the_small_designs_have_every_kind_of_layer_of_the_registry():
    kinds = set(re.findall(r"\blayers\.(\w+)\(", inspect.getsource(models))) - {"Layer"}
    small = {type(layer).__name__ for design in SMALL for layer in functional(design).layers}
    assert kinds <= small


# Prepared copies


@each_precision
@each_design
def test_the_copy_computes_what_the_network_does(design, precision, images):
    network = functional(design)
    before = values(network.weights)
    prepared = compute.prepare(network, precision)
    assert prepared is not network and prepared.name == network.name
    assert [layer.name for layer in prepared.layers] == [layer.name for layer in network.layers]
    assert_computes_the_same(prepared, network, images, precision)
    for one, other in zip(network.weights, prepared.weights, strict=True):
        assert one is not other
        assert one.path.split("/")[0] == other.path.split("/")[0], "of the same layer"
        assert (one.shape, one.trainable) == (other.shape, other.trainable)
        assert other.dtype == "float32"
    for value, kept in zip(values(network.weights), before, strict=True):
        np.testing.assert_array_equal(value, kept)


@pytest.mark.parametrize("precision", LOW)
@each_design
def test_all_but_the_first_scaling_and_the_outputs_compute_in_few_bits(design, precision):
    for layer in compute.prepare(functional(design), precision).layers:
        if isinstance(layer, (layers.Rescaling, layers.InputLayer)) or layer.name == "logits":
            assert layer.compute_dtype == "float32"
        else:
            assert layer.compute_dtype == precision, layer.name


def test_the_network_itself_stays_in_float32(images):
    network = functional(residual)
    expected = numpy_of(network(images))
    prepared = compute.prepare(network, "bfloat16")
    for weight in prepared.weights:
        weight.assign(numpy_of(weight) + 1)
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    assert all(type(layer).__module__.startswith("keras.") for layer in network.layers)
    np.testing.assert_array_equal(numpy_of(network(images)), expected)


@each_precision
def test_outputs_are_float32_whatever_the_last_layer(precision, images):
    inputs = keras.Input(SHAPE)
    x = layers.Dense(4)(layers.Flatten()(inputs))
    for outputs in (layers.Dense(10)(x), layers.Softmax()(x), layers.BatchNormalization()(x)):
        network = filled(keras.Model(inputs, outputs))
        prepared = compute.prepare(network, precision)
        assert keras.backend.standardize_dtype(prepared(images).dtype) == "float32"
        assert_computes_the_same(prepared, network, images, precision)


@pytest.mark.parametrize("precision", LOW)
def test_pixels_are_scaled_before_they_are_rounded(precision):
    """200.3 and 200.4 are one number in few bits; in units of their difference they are not."""
    inputs = keras.Input(SHAPE)
    scaling = layers.Rescaling(10.0, -2003.0)
    network = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(scaling(inputs))))
    network.set_weights([np.ones((192, 1)) / 192, np.zeros(1)])
    prepared = compute.prepare(network, precision)
    found = numpy_of(prepared(np.stack([np.full(SHAPE, 200.3), np.full(SHAPE, 200.4)])))
    np.testing.assert_allclose(found.ravel(), [0, 1], atol=0.02)


@each_precision
def test_a_normalisation_keeps_its_statistics_and_its_precision(precision, images):
    inputs = keras.Input(SHAPE)
    normalization = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    hidden = layers.Dense(4)(layers.Flatten()(normalization(inputs)))
    network = keras.Model(inputs, layers.Dense(4)(hidden))
    prepared = compute.prepare(filled(network), precision)
    assert prepared.layers[1].compute_dtype == "float32"
    assert_computes_the_same(prepared, network, images, precision)


@each_precision
def test_a_sequential_network_can_be_prepared(precision, images):
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(0.5),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    prepared = compute.prepare(filled(network), precision)
    assert_computes_the_same(prepared, network, images, precision)
    assert keras.backend.standardize_dtype(prepared(images).dtype) == "float32"
    assert prepared.layers[1].compute_dtype == precision


def nested(x):
    inputs = keras.Input(SHAPE)
    inner = layers.BatchNormalization()(layers.Conv2D(4, 3, name="inside")(inputs))
    block = keras.Model(inputs, layers.Dropout(0.5)(inner), name="block")
    return layers.Flatten()(block(x))


@each_precision
def test_networks_within_the_network_are_prepared_too(precision, images):
    network = functional(nested)
    prepared = compute.prepare(network, precision)
    assert_computes_the_same(prepared, network, images, precision)
    block = prepared.get_layer("block")
    assert block.get_layer("inside").compute_dtype == precision
    assert network.get_layer("block").get_layer("inside").compute_dtype == "float32"


def shared(x):
    conv, normalise = layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization()
    return layers.Flatten()(normalise(conv(normalise(conv(x)))))


@each_precision
def test_layers_used_twice_stay_one_layer(precision, images):
    network = functional(shared)
    prepared = compute.prepare(network, precision)
    assert len(prepared.weights) == len(network.weights)
    assert_computes_the_same(prepared, network, images, precision)


@pytest.mark.parametrize("precision", LOW)
def test_outputs_of_a_layer_used_twice_are_float32(precision, images):
    inputs = keras.Input(SHAPE)
    layer = layers.Dense(3)
    network = filled(keras.Model(inputs, layer(layers.ReLU()(layer(inputs)))))
    prepared = compute.prepare(network, precision)
    assert keras.backend.standardize_dtype(prepared(images).dtype) == "float32"


def with_operators(x):
    """Add and multiply as Python does, which makes operations where others have layers."""
    hidden = ops.relu(layers.Conv2D(3, 3, padding="same")(x) + x)
    return layers.Flatten()(hidden * 0.5)


@each_precision
def test_operations_between_layers_are_no_obstacle(precision, images):
    network = functional(with_operators)
    assert_computes_the_same(compute.prepare(network, precision), network, images, precision)


@each_precision
def test_what_is_frozen_stays_frozen(precision):
    network = functional(residual)
    for layer in network.layers[1:3]:
        layer.trainable = False
    prepared = compute.prepare(network, precision)
    names = [variable.path for variable in network.trainable_variables]
    assert [variable.path for variable in prepared.trainable_variables] == names
    assert len(names) < len(functional(residual).trainable_variables)


def test_regularizers_and_settings_stay():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    x = layers.BatchNormalization(momentum=0.7, epsilon=0.01)(x)
    network = filled(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    prepared = compute.prepare(network, "bfloat16")
    kernel = numpy_of(network.layers[1].kernel)
    assert numpy_of(prepared.losses[0]) == pytest.approx(0.1 * np.square(kernel).sum(), rel=1e-3)
    assert (prepared.layers[2].momentum, prepared.layers[2].epsilon) == (0.7, 0.01)


def trained(network, images, num_steps=3) -> list[float]:
    """Train a few steps and return their losses."""
    labels = np.array([3, 1, 4, 1, 5, 9])
    network.compile(
        keras.optimizers.SGD(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=compute.jit_compile(),
    )
    losses = [float(network.train_on_batch(images, labels)) for _ in range(num_steps)]
    assert np.isfinite(losses).all()
    return losses


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("design", [residual, attending])
def test_what_the_copy_has_learned_can_be_put_back(design, precision, images):
    network = functional(design)
    before = values(network.weights)
    prepared = compute.prepare(network, precision)
    losses = trained(prepared, images, num_steps=4)
    assert losses[-1] < losses[0]
    network.set_weights(values(prepared.weights))
    changed = zip(before, values(network.weights), strict=True)
    assert any(not np.array_equal(*pair) for pair in changed)
    expected, found = numpy_of(prepared(images)), numpy_of(network(images))
    tolerance = {"float32": 1e-6, "bfloat16": 0.05}[precision] * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_training_the_copy_is_training_the_network(images):
    network = functional(residual)
    prepared = compute.prepare(network, "float32")
    expected, found = trained(network, images), trained(prepared, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for pair in zip(values(prepared.weights), values(network.weights), strict=True):
        np.testing.assert_allclose(*pair, atol=1e-4)


def test_random_layers_draw_from_a_seed_that_repeats():
    """Without one, PyTorch draws from a state that no checkpoint holds."""

    def dropped(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((500,))
        network = keras.Model(inputs, layers.Dropout(0.5)(inputs))
        prepared = compute.prepare(network, "float32")
        assert prepared.layers[1].get_config()["seed"] is not None
        state = [np.array(ops.convert_to_numpy(v)) for v in prepared.layers[1].variables]
        draw = [numpy_of(prepared(np.ones((1, 500)), training=True)) for _ in range(2)]
        assert not np.array_equal(*draw)
        keras.utils.set_random_seed(seed + 100)
        for variable, value in zip(prepared.layers[1].variables, state, strict=True):
            variable.assign(value)
        again = numpy_of(prepared(np.ones((1, 500)), training=True))
        np.testing.assert_array_equal(again, draw[0])
        return draw[0]

    np.testing.assert_array_equal(dropped(1), dropped(1))
    assert not np.array_equal(dropped(1), dropped(2))


def test_a_seed_that_was_given_stays():
    inputs = keras.Input((5,))
    network = keras.Model(inputs, layers.Dropout(0.5, seed=42)(inputs))
    assert compute.prepare(network, "float32").layers[1].seed == 42


# Fused batch normalisation


def normaliser(**options) -> keras.Model:
    inputs = keras.Input((None, None, 5))
    return filled(keras.Model(inputs, layers.BatchNormalization(**options)(inputs)))


def learned(network, batch, weights):
    """Return outputs in training mode and gradients of their weighted sum."""
    import tensorflow

    batch = tensorflow.constant(batch)
    with tensorflow.GradientTape() as tape:
        tape.watch(batch)
        outputs = network(batch, training=True)
        total = tensorflow.reduce_sum(tensorflow.cast(outputs, "float32") * weights)
    variables = [variable.value for variable in network.trainable_variables]
    return numpy_of(outputs), values(tape.gradient(total, [batch, *variables]))


@only_tensorflow
@pytest.mark.parametrize("shape", [(4, 6, 7, 5), (1, 3, 3, 5), (2, 1, 1, 5), (1, 2, 1, 5)])
@pytest.mark.parametrize("momentum", [0.99, 0.5])
def test_the_fused_kernel_does_what_keras_does(shape, momentum):
    rng = np.random.default_rng(2)
    batch = rng.normal(rng.normal(0, 2, 5), rng.uniform(0.5, 3, 5), shape).astype(np.float32)
    weights = rng.normal(size=shape).astype(np.float32)
    network = normaliser(momentum=momentum)
    prepared = compute.prepare(network, "float32")
    assert type(prepared.layers[1]) is compute._FusedBatchNormalization
    for _ in range(2):
        (expected, gradients), (found, others) = (
            learned(each, batch, weights) for each in (network, prepared)
        )
        np.testing.assert_allclose(found, expected, atol=1e-4)
        for pair in zip(others, gradients, strict=True):
            np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)
        for pair in zip(values(prepared.weights), values(network.weights), strict=True):
            np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy_of(prepared(batch)), numpy_of(network(batch)), atol=1e-5)


@only_tensorflow
@pytest.mark.parametrize("precision", compute.PRECISIONS)
def test_moving_statistics_are_those_of_numpy_in_float32(precision):
    batch = np.random.default_rng(3).normal(2, 3, (4, 5, 6, 5)).astype(np.float32)
    prepared = compute.prepare(normaliser(momentum=0.9), "float32")
    inner = prepared.layers[1]
    if precision != "float32":
        inner = type(inner).from_config({**inner.get_config(), "dtype": f"mixed_{precision}"})
        inner.build(batch.shape)
        inner.set_weights(prepared.get_weights())
    before = {name: numpy_of(getattr(inner, name)) for name in ("moving_mean", "moving_variance")}
    outputs = inner(batch, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == precision
    mean, variance = batch.mean(axis=(0, 1, 2)), batch.var(axis=(0, 1, 2))
    tolerance = 1e-5 if precision == "float32" else 2e-3
    for name, statistic in (("moving_mean", mean), ("moving_variance", variance)):
        expected = 0.9 * before[name] + 0.1 * statistic
        np.testing.assert_allclose(numpy_of(getattr(inner, name)), expected, rtol=tolerance)
    gamma, beta = numpy_of(inner.gamma), numpy_of(inner.beta)
    expected = gamma * (batch - mean) / np.sqrt(variance + 1e-3) + beta
    tolerance = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}[precision]
    np.testing.assert_allclose(numpy_of(outputs), expected, atol=tolerance)


@only_tensorflow
def test_a_frozen_normalisation_is_not_moved_by_training():
    batch = np.random.default_rng(3).normal(2, 3, (4, 5, 6, 5)).astype(np.float32)
    network = normaliser()
    network.layers[1].trainable = False
    prepared = compute.prepare(network, "float32")
    before = values(prepared.weights)
    np.testing.assert_array_equal(
        numpy_of(prepared(batch, training=True)), numpy_of(network(batch))
    )
    for pair in zip(values(prepared.weights), before, strict=True):
        np.testing.assert_array_equal(*pair)


@only_tensorflow
@pytest.mark.parametrize(
    "options",
    [
        {"axis": 3},
        {"axis": 1},
        {"axis": 2},
        {"scale": False},
        {"scale": False, "epsilon": 1e-6},
        {"center": False},
        {"epsilon": 1e-6},
        {"renorm": True, "renorm_clipping": {"rmin": 0.9, "rmax": 1.1, "dmax": 0.1}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_settings_that_the_kernel_does_not_know_are_still_obeyed(options):
    rng = np.random.default_rng(4)
    batch = rng.normal(1, 1e-3 if "epsilon" in options else 2, (2, 5, 5, 5)).astype(np.float32)
    inputs = keras.Input((5, 5, 5))
    try:
        network = keras.Model(inputs, layers.BatchNormalization(**options)(inputs))
    except (TypeError, ValueError):
        pytest.skip("this Keras does not know it")
    prepared = compute.prepare(filled(network), "float32")
    expected, found = (numpy_of(each(batch, training=True)) for each in (network, prepared))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    for pair in zip(values(prepared.weights), values(network.weights), strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6)


@only_tensorflow
def test_a_normalisation_across_devices_is_not_replaced_by_one_within_each():
    prepared = compute.prepare(normaliser(synchronized=True), "float32")
    assert type(prepared.layers[1]) is layers.BatchNormalization


@only_tensorflow
def test_a_normalisation_of_rows_or_of_somebody_elses_kind_is_left_alone():
    class Mine(layers.BatchNormalization):
        pass

    inputs = keras.Input((5, 5, 5))
    for outputs in (Mine()(inputs), layers.BatchNormalization()(layers.Reshape((25, 5))(inputs))):
        prepared = compute.prepare(keras.Model(inputs, outputs), "float32")
        assert type(prepared.layers[-1]) is not compute._FusedBatchNormalization


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has a fused kernel")
def test_elsewhere_keras_normalises_itself():
    prepared = compute.prepare(normaliser(), "float32")
    assert type(prepared.layers[1]) is layers.BatchNormalization


# Activations in one pass


def activated(name: str) -> keras.Model:
    inputs = keras.Input((6,))
    return filled(keras.Model(inputs, layers.Dense(5, activation=name)(inputs)))


on_a_processor = pytest.mark.skipif(
    compute.jit_compile() is not False, reason="TensorFlow on a processor"
)


@on_a_processor
@pytest.mark.parametrize("name", ["gelu", "silu", "hard_silu", "mish"])
def test_an_activation_in_one_pass_is_the_same_function(name):
    batch = np.linspace(-8, 8, 42, dtype=np.float32).reshape(7, 6)
    weights = np.random.default_rng(5).normal(size=(7, 5)).astype(np.float32)
    network = activated(name)
    prepared = compute.prepare(network, "float32")
    assert prepared.layers[1].activation is not network.layers[1].activation
    (expected, gradients), (found, others) = (
        learned(each, batch, weights) for each in (network, prepared)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for pair in zip(others, gradients, strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-4)


@on_a_processor
@pytest.mark.parametrize("name", ["relu", "tanh", "linear", "softmax"])
def test_what_takes_one_pass_anyhow_is_left_alone(name):
    network = activated(name)
    assert compute.prepare(network, "float32").layers[1].activation is network.layers[1].activation


# Kernels of small maps


def convolved(width, depth, num_filters, size=3, **options) -> keras.Model:
    inputs = keras.Input((4, width, depth))
    options = {"padding": "same", **options}
    return filled(keras.Model(inputs, layers.Conv2D(num_filters, size, **options)(inputs)))


def rounded(array):
    """Return an array with what bfloat16 keeps of it."""
    return numpy_of(ops.cast(array, "bfloat16"))


@on_a_processor
@pytest.mark.parametrize("count", [1, 12, 25])
@pytest.mark.parametrize(
    ("width", "size", "options"),
    [(4, 3, {}), (3, 5, {"use_bias": False}), (5, (3, 4), {"activation": "relu"})],
    ids=["3x3", "5x5", "3x4"],
)
def test_a_kernels_gradient_from_images_side_by_side_is_the_same(count, width, size, options):
    network = convolved(width, 80, 72, size, **options)
    outer = keras.Input((4, width, 80))
    prepared = compute.prepare(keras.Model(outer, layers.ReLU()(network(outer))), "bfloat16")
    inner = prepared.layers[1].layers[1]
    assert isinstance(inner, compute._SideBySideConv2D)
    plain = type(network.layers[1]).from_config(inner.get_config())
    plain.build((None, 4, width, 80))
    plain.set_weights(inner.get_weights())
    rng = np.random.default_rng(6)
    batch = rng.normal(size=(count, 4, width, 80)).astype(np.float32)
    weights = rng.normal(size=(count, 4, width, 72)).astype(np.float32)
    found, gradients = learned(inner, batch, weights)
    expected, wanted = learned(plain, batch, weights)
    np.testing.assert_array_equal(found, expected)
    # Beside sums in float32: some processors add up bfloat16 less exactly, either way.
    exact = type(plain).from_config({**inner.get_config(), "dtype": "float32"})
    exact.build((None, 4, width, 80))
    exact.set_weights([rounded(weight) for weight in inner.get_weights()])
    _, true = learned(exact, rounded(batch), weights)
    for one, other, best in zip(gradients, wanted, true, strict=True):
        error, usual = (np.abs(each - best).max() for each in (one, other))
        assert error <= 1.5 * usual + 0.005 * np.abs(best).max()


@on_a_processor
@pytest.mark.parametrize(
    ("options", "precision"),
    [
        *[
            (options, precision)
            for precision in ("bfloat16", "float32")
            for options in (
                {"padding": "valid"},
                {"strides": 2},
                {"dilation_rate": 2},
                {"groups": 4},
                {"size": 1},
                {"num_filters": 8},
            )
        ],
        ({"size": 5}, "float32"),
        ({"depth": 48}, "float32"),
        ({"width": 5}, "float32"),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(options, precision):
    network = convolved(**{"width": 4, "depth": 80, "num_filters": 72, **options})
    outer = keras.Input(network.input_shape[1:])
    prepared = compute.prepare(keras.Model(outer, layers.ReLU()(network(outer))), precision)
    assert type(prepared.layers[1].layers[1]) is layers.Conv2D


@on_a_processor
def test_images_of_any_size_can_be_prepared():
    inputs = keras.Input((None, None, 64))
    network = filled(keras.Model(inputs, layers.Conv2D(64, 3, padding="same")(inputs)))
    for precision in ("float32", "bfloat16"):
        assert type(compute.prepare(network, precision).layers[1]) is layers.Conv2D


# Wide convolutions with fewer multiplications


@on_a_processor
@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"activation": "relu"}], ids=str)
@pytest.mark.parametrize("size", [4, 3])  # as it was prepared, and as an epoch may shrink it
def test_a_wide_convolution_is_the_same_function(options, size):
    network = convolved(4, 64, 72, **options)
    prepared = compute.prepare(network, "float32")
    assert isinstance(prepared.layers[1], compute._WinogradConv2D)
    pair = [compute.at_size(each, size) for each in (network, prepared)]
    rng = np.random.default_rng(7)
    batch, weights = (rng.normal(size=(5, size, size, d)).astype(np.float32) for d in (64, 72))
    (expected, gradients), (found, others) = (learned(each, batch, weights) for each in pair)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    for one, other in zip(others, gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@on_a_processor
def test_the_fast_networks_wide_convolutions_all_take_fewer_multiplications():
    prepared = compute.prepare(models.build("fast"), "float32")
    kinds = [type(layer) for layer in prepared.layers if isinstance(layer, layers.Conv2D)]
    assert kinds == [layers.Conv2D] + 5 * [compute._WinogradConv2D]  # the first has 24 inputs


# What this machine is good at


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that fakes accelerators, their capability and /proc/cpuinfo."""

    def fake(accelerators=(), capability=None, cpu_info=None) -> str:
        monkeypatch.setattr(compute.devices, "accelerators", lambda: list(accelerators))
        path = tmp_path / "cpuinfo"
        if cpu_info is not None:
            path.write_text(cpu_info)
        monkeypatch.setattr(compute.devices, "Path", lambda name: path)
        _fake_capability(monkeypatch, capability)
        compute.fast_precisions.cache_clear()
        return compute.choose_precision("auto")

    yield fake
    compute.fast_precisions.cache_clear()


def _fake_capability(monkeypatch, capability) -> None:
    if BACKEND == "tensorflow":
        import tensorflow

        gpus = ["a GPU"] if capability else []
        details = {"compute_capability": capability} if capability else {}
        config = tensorflow.config
        monkeypatch.setattr(config, "list_physical_devices", lambda kind=None: gpus)
        monkeypatch.setattr(config.experimental, "get_device_details", lambda device: details)
    elif BACKEND == "jax":
        import jax

        device = SimpleNamespace()
        if capability:
            device.compute_capability = ".".join(map(str, capability))
        monkeypatch.setattr(jax, "devices", lambda: [device])
    else:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((6, 1), "float32"),
        ((7, 0), "float16"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((8, 9), "bfloat16"),
        ((9, 0), "bfloat16"),
        ((10, 0), "bfloat16"),
        ((12, 0), "bfloat16"),
    ],
)
def test_a_gpu_computes_in_what_its_generation_is_fast_in(machine, capability, expected):
    assert machine(["GPU:0"], capability) == expected


def test_an_accelerator_of_another_kind_computes_in_bfloat16(machine):
    """On PyTorch it is an Apple GPU or the like, of which nobody knows."""
    assert machine(["TPU:0"]) == ("float32" if BACKEND == "torch" else "bfloat16")


def test_what_an_accelerator_would_compute_in_detours_is_refused(machine):
    machine(["GPU:0"], (7, 5))
    with pytest.raises(
        InputError, match=r"auto or float16 or float32 on GPU:0 .*many times as slow"
    ):
        compute.choose_precision("bfloat16")
    assert compute.choose_precision("float16") == "float16"
    machine(["GPU:0"], (9, 0))
    assert [compute.choose_precision(name) for name in compute.PRECISIONS] == [*compute.PRECISIONS]


def test_a_processor_that_is_not_made_for_few_bits_refuses_them(machine):
    assert machine(cpu_info="flags : avx2\n") == "float32"
    for precision in ("bfloat16", "float16"):
        with pytest.raises(InputError, match=f"precision: expected auto or float32.*{precision}"):
            compute.choose_precision(precision)
    assert compute.choose_precision("float32") == "float32"


X86 = "processor\t: 0\nvendor_id\t: {}\nflags\t\t: fpu sse avx512f avx512bw {}amx_tile\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}svebf16\n"


@pytest.mark.parametrize(
    ("cpu_info", "is_fast"),
    [
        (X86.format("AuthenticAMD", "avx512_bf16 "), True),
        (X86.format("AuthenticAMD", ""), False),
        (X86.format("GenuineIntel", "avx512_bf16 "), False),
        (X86.format("GenuineIntel", "avx512_bf16 amx_bf16 "), True),
        (X86.format("GenuineIntel", ""), False),
        (X86.format("A vendor called amx_bf16x", ""), False),
        (ARM.format("bf16 "), True),
        (ARM.format(""), False),
        ("", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_processor_computes_in_bfloat16_where_it_and_the_backend_are_fast_in_it(
    machine, monkeypatch, cpu_info, is_fast, backend
):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    expected = "bfloat16" if is_fast and backend != "jax" else "float32"
    assert machine(cpu_info=cpu_info) == expected


def separable(x):
    return layers.GlobalAveragePooling2D()(layers.SeparableConv2D(4, 3, strides=2)(x))


def halving(x):
    return layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3, strides=2)(x))


@pytest.mark.parametrize("design", [separable, halving])
def test_depthwise_convolutions_with_strides_stay_in_float32_on_a_processor(
    machine, monkeypatch, design
):
    network, others = functional(design), [functional(residual), functional(squeezed)]
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    machine(cpu_info=ARM.format("bf16 "))
    for other in others:
        assert compute.choose_precision("auto", other) == "bfloat16"
    for precision in ("auto", "float32"):
        assert compute.choose_precision(precision, network) == "float32"
    with pytest.raises(InputError, match=r"auto or float32 on .*bfloat16\. Depthwise convolutions"):
        compute.choose_precision("bfloat16", network)
    machine(cpu_info=ARM.format(""))
    with pytest.raises(InputError, match="It has no units for it"):
        compute.choose_precision("bfloat16", network)


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_depthwise_convolutions_take_few_bits_on_a_gpu(machine, capability):
    few = machine(["GPU:0"], capability)
    assert few.endswith("float16") and few == compute.choose_precision("auto", functional(halving))


def test_tensorflow_leaves_xla_out_on_a_processor_only(monkeypatch):
    monkeypatch.setattr(compute.devices, "accelerators", list)
    assert compute.jit_compile() == (False if BACKEND == "tensorflow" else "auto")
    monkeypatch.setattr(compute.devices, "accelerators", lambda: ["GPU:0"])
    assert compute.jit_compile() == "auto"


def test_how_the_hardware_is_asked_makes_no_record_stale():
    told = compute.source().decode()
    assert "\n\n" not in told, "where something was left out"
    assert "def prepare(" in told and "def _best_seconds(" in told
    assert "def choose_precision(" not in told and "def fast_precisions(" not in told
    assert "def _is_cpu_fast_in_bfloat16(" not in told and "def _has_slow_gradients(" not in told
    assert "def _compute_capability(" not in told
    assert "def convolve(" in told, "of winograd"


@only_tensorflow
def test_what_is_freed_holds_nothing():
    import tensorflow

    variable = keras.Variable(np.ones((1000, 10), np.float32))
    compute.free([variable])
    held = tensorflow.raw_ops.ReadVariableOp(resource=variable.value.handle, dtype="float32")
    assert held.shape == (0,)


# Several devices


def test_batches_come_in_order_to_the_last_incomplete_one():
    inputs = np.arange(14, dtype=np.int32).reshape(7, 2)
    asked = compute.batches(inputs, 3)
    if keras.backend.backend() == "tensorflow":
        found = list(asked["x"].as_numpy_iterator())
        assert [batch.tolist() for batch in found] == [
            inputs[start : start + 3].tolist() for start in (0, 3, 6)
        ]
    else:
        assert asked["x"] is inputs and asked["batch_size"] == 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="there is no pipeline")
def test_the_end_of_a_pipeline_waits_for_no_tuner():
    options = compute.batches(np.zeros((4, 2)), 2)["x"].options()
    assert options.autotune.enabled is False


def test_prediction_answers_for_every_input_in_order():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    inputs = np.random.default_rng(0).normal(size=(compute.PREDICTION_BATCH + 5, 2))
    inputs = inputs.astype(np.float32)
    kernel, bias = network.get_weights()
    found = compute.predict(network, inputs)
    np.testing.assert_allclose(found, inputs @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_one_device_changes_nothing():
    with compute.parallel(1):
        network = functional(dense)
        assert keras.distribution.distribution() is None
    assert type(network.weights[0].value) is type(functional(dense).weights[0].value)


@pytest.mark.skipif(BACKEND == "torch", reason="refused altogether")
def test_more_devices_than_there_are_are_refused():
    with (
        pytest.raises(InputError, match=r"num_devices: expected at most \d+, found 99"),
        compute.parallel(99),
    ):
        raise AssertionError("not refused")


@pytest.mark.skipif(BACKEND != "torch", reason="TensorFlow and JAX can")
def test_several_devices_are_refused_on_pytorch():
    with pytest.raises(InputError, match="TensorFlow or JAX"), compute.parallel(2):
        raise AssertionError("not refused")


SCRIPT = """
import sys
if {backend!r} == "tensorflow":
    import tensorflow
    processor = tensorflow.config.list_physical_devices("CPU")[0]
    half = tensorflow.config.LogicalDeviceConfiguration()
    tensorflow.config.set_logical_device_configuration(processor, [half, half])
import keras
import numpy as np
from cifarlib import compute

def network():
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(2, kernel_initializer="ones")(inputs))

def trained(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.arange(24, dtype="float32").reshape(8, 3) / 24
    model.fit(x, x[:, :2], batch_size=8, shuffle=False, verbose=0, epochs=2)
    return keras.ops.convert_to_numpy(model.layers[1].kernel)

expected = trained(network())
with compute.parallel(2):
    model = network()
    if {backend!r} == "jax":
        assert keras.distribution.distribution().device_mesh.shape == (2,)
    else:
        assert tensorflow.distribute.get_strategy().num_replicas_in_sync == 2
        assert "Mirrored" in type(model.layers[1].kernel.value).__name__
    found = trained(model)
np.testing.assert_allclose(found, expected, rtol=1e-5)
try:
    with compute.parallel(2):
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert keras.distribution.distribution() is None
if {backend!r} == "tensorflow":
    assert tensorflow.distribute.get_strategy().num_replicas_in_sync == 1
print("two devices")
"""


@pytest.mark.skipif(BACKEND == "torch", reason="refused on PyTorch")
def test_two_devices_learn_what_one_does(run_python):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    options = {"XLA_FLAGS": flags, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    process = run_python(SCRIPT.format(backend=BACKEND), env={**os.environ, **options})
    output, errors = process.communicate(timeout=120)
    assert output.split() == ["two", "devices"], errors


# Pooling


def pooling(**options) -> keras.Model:
    inputs = keras.Input((7, 8, 3))
    scaled = layers.Rescaling(1.0)(inputs)
    return keras.Model(inputs, layers.ReLU()(layers.MaxPooling2D(**options)(scaled)))


tiled = pytest.mark.skipif(
    compute.jit_compile() is not False and BACKEND != "jax", reason="Keras's own is used"
)


def pooled(layer, images, upstream):
    """Return what a layer makes of images, and the gradient for them."""
    if BACKEND == "tensorflow":
        outputs, (gradient,) = learned(layer, images, upstream)
        return outputs, gradient
    import jax

    def weighted(images):
        outputs = layer(images)
        return ops.sum(ops.cast(outputs, "float32") * upstream), outputs

    images = ops.convert_to_tensor(images, "float32")
    (_, outputs), gradient = jax.value_and_grad(weighted, has_aux=True)(images)
    return numpy_of(outputs), numpy_of(gradient)


@tiled
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("pool_size", [2, (2, 3)])
def test_pooling_by_tiles_is_pooling(pool_size, precision):
    network = pooling(pool_size=pool_size)
    layer = compute.prepare(network, precision).layers[2]
    assert isinstance(layer, compute._TiledMaxPooling2D)
    assert layer.compute_dtype == precision
    rng = np.random.default_rng(0)
    # Whole numbers that differ within an image, exact in few bits.
    images = np.stack([rng.permutation(168).reshape(7, 8, 3) for _ in range(3)]) * 1.0
    upstream = rng.integers(-8, 8, (3, *network.layers[2].output.shape[1:]))
    plain = layers.MaxPooling2D(pool_size, dtype=precision)
    found, expected = (pooled(each, images, upstream) for each in (layer, plain))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@tiled
def test_pixels_that_are_equally_large_share_the_gradient():
    images = np.array([[3.0, 3.0], [3.0, 1.0]]).reshape(1, 2, 2, 1)
    _, gradient = pooled(compute._TiledMaxPooling2D(2), images, 6.0)
    np.testing.assert_allclose(gradient[0, ..., 0], [[2, 2], [2, 0]])


@pytest.mark.parametrize("options", [{"strides": 1}, {"padding": "same"}])
def test_other_pooling_is_left_as_it_is(options):
    network = pooling(**options)
    assert type(compute.prepare(network, "float32").layers[2]) is layers.MaxPooling2D


# The floor


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_is_what_a_product_and_a_pass_over_memory_take(precision, monkeypatch):
    asked = []

    def seconds(operation, *operands):
        asked.append((operation.__name__, operands[0].shape, operands[0].dtype))
        return 0.05 if operation is ops.matmul and operands[0].shape[0] == 2048 else 0.01

    monkeypatch.setattr(compute, "_best_seconds", seconds)
    peak = compute.measure_peak(precision)
    assert [name for name, *_ in asked] == ["matmul", "matmul", "negative"]
    assert all(keras.backend.standardize_dtype(dtype) == precision for *_, dtype in asked)
    assert peak.multiply_adds == 2048**3 / 0.05
    assert peak.bytes == 2 * 2**26 * {"float32": 4, "bfloat16": 2}[precision] / 0.01


def test_an_operation_is_timed_until_its_outcome_is_there(monkeypatch):
    clock = [0.0]

    def fetch(outcome):
        clock[0] += 3  # an accelerator answers at once, and computes while one waits for it
        return np.asarray(outcome)

    monkeypatch.setattr(compute, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(compute.ops, "convert_to_numpy", fetch)
    assert compute._best_seconds(ops.matmul, ops.ones((8, 8)), ops.ones((8, 8))) == 3


# Other sizes


def test_at_another_size_a_network_has_the_same_weights():
    def pooled_globally(x):
        x = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, activation="relu")(x))
        return layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))

    network = functional(pooled_globally)
    smaller = compute.at_size(network, 6)
    assert smaller.input_shape == (None, 6, 6, 3)
    assert {id(v) for v in smaller.weights} == {id(v) for v in network.weights}
    with pytest.raises(ValueError):
        compute.at_size(functional(plain), 6)
