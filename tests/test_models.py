"""One contract for every model of the registry, and the counts that others published."""

import functools
import math
from dataclasses import replace

import designs
import keras
import numpy as np
import pytest

from cifarlib import models
from cifarlib.errors import InputError

# As the five projects published them: parameters in gray, in colour, and trainable in colour.
PUBLISHED = {
    "baseline": (72_842, 73_418, None),
    "baseline_regularized": (126_666, 127_242, None),
    "small_cnn": (None, 3_693_066, 3_693_002),
    "small_cnn_two_blocks": (None, 1_205_066, 1_204_874),
    "vgg6": (None, 669_354, None),
    "vgg6_dropout": (None, 669_354, None),
    "residual_cnn": (None, 2_231_818, 2_229_248 + 10),  # published without the last bias
    "dense_net": (None, 1_748_554, 1_747_530),
    "resnet18": (None, None, 11_173_962),
}
# airbench94 by its source: six kernels, whitening's and normalisations' offsets, the last matrix.
FAST = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 24 + 2 * 64 + 4 * 256 + 2560
ABOUT = {"deep_cnn": 1.2e6, "custom_cnn": 1.8e6}
PROMISED = ("wide_resnet", "vit_tiny", "efficientnet_small")
OURS = ("layered_cnn", "tuned_cnn")
FASTS = ("fast", "fast_deep", "fast_wide")

every_model = pytest.mark.parametrize("name", designs.TESTED)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((4, 32, 32, 3), np.float32)


def num_weights(variables) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def test_the_registry_holds_every_published_model_and_every_promised_one():
    assert set(models.DESIGNS) == {*PUBLISHED, *ABOUT, *PROMISED, *OURS, *FASTS}


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="it would build all of them")
def test_the_designs_that_jax_is_tried_on_have_all_kinds_of_layers():
    def kinds(names):
        return {type(layer) for name in names for layer in models.build(name).layers}

    assert kinds(designs.KINDS) == kinds(models.DESIGNS)


def test_the_fast_network_is_as_large_as_the_one_it_reproduces():
    network = models.build("fast")
    assert num_weights(network.trainable_variables) == FAST == 1_971_352
    assert models.multiply_adds(network) == pytest.approx(118e6, rel=0.03)


def test_without_its_ideas_the_fast_network_is_as_large():
    plain = models.FastCNN(is_whitened=False, begins_as_identity=False)
    found, expected = models.build(plain), models.build("fast")
    assert found.name == expected.name == "fast"
    assert num_weights(found.weights) == num_weights(expected.weights)
    assert models.multiply_adds(found) == models.multiply_adds(expected)
    in_gray = models.build(plain, "gray")
    assert in_gray.layers[1].output.shape == models.build("fast", "gray").layers[1].output.shape


def test_a_smaller_image_needs_fewer_multiplications():
    network = models.build(models.FastCNN((4, 4, 4)))
    kernels = [math.prod(kernel.shape) for kernel in network.weights if len(kernel.shape) == 4]
    whitening, *pairs = kernels
    sides = (15, 7, 7, 3, 3, 1)  # of what convolutions see: halved after the first of each pair
    expected = whitening * 15**2 + sum(k * side**2 for k, side in zip(pairs, sides, strict=True))
    assert models.multiply_adds(network, 16) == expected + 4 * 10
    assert models.multiply_adds(network, 32) == models.multiply_adds(network)


def test_widths_of_the_fast_network_are_those_of_its_pairs():
    narrow = models.build(models.FastCNN((4, 6, 8)))
    depths = [layer.filters for layer in narrow.layers if isinstance(layer, keras.layers.Conv2D)]
    assert depths == [4, 4, 6, 6, 8, 8]


def test_deeper_the_fast_network_adds_what_it_had_before_the_last_two_convolutions():
    network = models.build("fast_deep")
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds.count("Conv2D") == 3 * 3 and kinds.count("Add") == 3
    for layer in network.layers:
        if isinstance(layer, keras.layers.Add):
            normalised, shortcut = (tensor._keras_history.operation for tensor in layer.input)
            assert isinstance(normalised, keras.layers.BatchNormalization)
            assert isinstance(shortcut, keras.layers.Activation)
    assert models.multiply_adds(network) == pytest.approx(452e6, rel=0.01)


def test_wider_it_has_the_same_layers_with_half_as_many_filters_again():
    deep, wide = (models.find(f"fast_{name}").features for name in ("deep", "wide"))
    assert wide.widths == tuple(width * 3 // 2 for width in deep.widths)
    assert replace(wide, widths=deep.widths) == deep


def test_a_design_without_a_name_is_told_so():
    def design(x, width):
        return keras.layers.Dense(width)(keras.layers.Flatten()(x))

    with pytest.raises(InputError, match="design: expected a function with a name"):
        models.build(functools.partial(design, width=2))


def test_a_design_of_ones_own_may_do_without_a_bias():
    def plain(x):
        return keras.layers.GlobalAveragePooling2D()(x)

    assert models.build(plain).layers[-1].use_bias
    plain.has_bias = False
    assert not models.build(plain).layers[-1].use_bias


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    gray, rgb, trainable = PUBLISHED[name]
    in_color = models.build(name, "rgb")
    if gray:
        assert models.build(name, "gray").count_params() == gray
    if rgb:
        assert in_color.count_params() == rgb
    if trainable:
        assert num_weights(in_color.trainable_variables) == trainable


@pytest.mark.parametrize("name", ABOUT)
def test_designs_of_our_own_are_about_as_large_as_claimed(name):
    assert models.build(name).count_params() == pytest.approx(ABOUT[name], rel=0.03)


@every_model
def test_images_become_ten_float32_logits_in_gray_and_in_colour(name, images):
    keras.utils.set_random_seed(0)  # with some weights all scores of an untrained network are > 0
    for color, num_channels in models.CHANNELS.items():
        model = models.build(name, color)
        assert model.name == name
        assert model.input_shape == (None, 32, 32, num_channels)
        assert model.output_shape == (None, 10)
        assert model.layers[-1].name == "logits"
    logits = keras.ops.convert_to_numpy(model(images))
    assert logits.shape == (4, 10) and logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.min() < 0, "scores before the softmax, not probabilities"


@every_model
def test_a_saved_model_predicts_the_same_when_loaded_in_safe_mode(name, images, tmp_path):
    model = models.build(name)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    expected, found = (keras.ops.convert_to_numpy(m(images)) for m in (model, loaded))
    np.testing.assert_array_equal(found, expected)


@every_model
def test_training_lowers_the_loss(name, images):
    keras.utils.set_random_seed(0)
    model = models.build(name)
    model.compile(
        keras.optimizers.Adam(2e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=keras.backend.backend() != "jax",  # which is slow at single operations
    )
    labels = np.array([3, 1, 4, 1])
    losses = [float(model.train_on_batch(images, labels)) for _ in range(8)]
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0]


@every_model
def test_equal_seeds_give_equal_weights_and_others_give_others(name):
    def weights(seed):
        keras.utils.set_random_seed(seed)
        model = models.build(name)
        return np.concatenate(
            [keras.ops.convert_to_numpy(w).ravel() for w in model.trainable_variables]
        )

    first = weights(0)
    np.testing.assert_array_equal(first, weights(0))
    assert not np.array_equal(first, weights(1))


@pytest.mark.parametrize(("asked", "meant"), [("resnet", "resnet18"), ("Baseline", "baseline")])
def test_an_unknown_name_is_told_the_nearest(asked, meant):
    with pytest.raises(InputError, match=f"Did you mean {meant}"):
        models.build(asked)


@pytest.mark.parametrize("asked", [None, 5, ["resnet18"], b"resnet18", '{"a":' * 100_000])
def test_what_is_no_name_at_all_is_refused(asked):
    with pytest.raises(InputError, match="model: expected"):
        models.build(asked)


@pytest.mark.parametrize("color", ["grey", ["gray"], None])
def test_an_unknown_colour_is_told_the_two(color):
    with pytest.raises(InputError, match="gray or rgb"):
        models.build("baseline", color)


def test_every_design_says_what_it_reproduces():
    for name, design in models.DESIGNS.items():
        assert design.name == name and design.reproduces and design.features.__doc__


def by_hand(layer) -> int:
    """Return a layer's multiplications from what it was told, without looking at its weights."""
    told, kind = layer.get_config(), type(layer).__name__
    if kind == "InputLayer":
        return 0
    shape = (layer.input[0] if isinstance(layer.input, list) else layer.input).shape
    if kind in ("Conv2D", "DepthwiseConv2D"):
        outputs = []
        for size, kernel, stride in zip(
            shape[1:3], told["kernel_size"], told["strides"], strict=True
        ):
            left = size if told["padding"] == "same" else size - kernel + 1
            outputs.append(-(-left // stride))
        a_place = told["kernel_size"][0] * told["kernel_size"][1] * shape[-1]
        a_place *= told["filters"] if kind == "Conv2D" else told["depth_multiplier"]
        return outputs[0] * outputs[1] * a_place
    if kind == "PatchWhitening":
        places = (shape[1] - told["size"] + 1) * (shape[2] - told["size"] + 1)
        return places * 2 * (told["size"] ** 2 * shape[-1]) ** 2
    if kind == "Dense":
        return int(np.prod(shape[1:])) * told["units"]
    if kind == "MultiHeadAttention":
        _, places, width = shape
        inner = told["num_heads"] * told["key_dim"]
        # Queries, keys, values and the way out; then all pairs, once to ask and once to answer.
        return 4 * places * width * inner + 2 * places * places * inner
    assert not [w for w in layer.weights if w.path.endswith("kernel")], f"{kind} is not counted"
    return 0


@every_model
@pytest.mark.parametrize("color", models.CHANNELS)
def test_multiplications_are_counted_as_by_hand(name, color):
    network = models.build(name, color)
    assert models.multiply_adds(network) == sum(map(by_hand, network.layers))


def test_multiplications_are_those_that_papers_tell():
    # Of ResNet-18 for CIFAR 0.56 billion, of ViT's kind mostly dense layers.
    assert models.multiply_adds(models.build("resnet18")) == pytest.approx(0.556e9, rel=0.01)


def test_a_network_within_a_network_is_counted():
    inner = models.build("baseline", "gray")
    outer = keras.Sequential([keras.Input((32, 32, 1)), inner, keras.layers.Dense(10)])
    assert models.multiply_adds(outer) == models.multiply_adds(inner) + 100


def test_a_layer_that_is_used_twice_is_counted_twice():
    layer = keras.layers.Conv2D(3, 3, padding="same")
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.MaxPooling2D()(layer(inputs))
    network = keras.Model(inputs, layer(pooled))
    layer(keras.Input((32, 32, 3)))  # which is no part of this network
    assert models.multiply_adds(network) == 3 * 3 * 3 * 3 * (8 * 8 + 4 * 4)
    assert models.multiply_adds(network, 16) == 4 * models.multiply_adds(network)


def test_a_separable_convolution_has_two_kernels():
    layer = keras.layers.SeparableConv2D(8, 3, strides=2, padding="same")
    network = keras.Sequential([keras.Input((32, 32, 4)), layer])
    assert models.multiply_adds(network) == 16 * 16 * (3 * 3 * 4 + 4 * 8)
