"""The registry of models: networks under their names, for grayscale and colour.

`build` makes a fresh, uncompiled network that maps images to ten scores. Pure Keras, so that it
runs on TensorFlow, JAX and PyTorch. Each design is a function from the image tensor to the
features of its last layer but one; the last layer is the same for all. Not for training
(`training`) nor for linear models (`classical`).

The first eleven are what five public projects published; their claims and what became of them
are chapter 6. Where a project left out its layers, the design here is ours, and says so.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
from keras import layers, ops

from cifarlib import layered, whitening
from cifarlib.errors import InputError, nearest
from cifarlib.splits import CLASS_NAMES

CHANNELS = {"gray": 1, "rgb": 3}
IMAGE_SIZE = 32


class Design(NamedTuple):
    """An entry of the registry.

    Attributes:
        name: the key, such as ``"resnet18"``.
        reproduces: what it reproduces or who proposed it, one line.
        features: maps an image tensor (n, 32, 32, C) to features (n, d).
        has_bias: whether the last layer adds a number to each score.
    """

    name: str
    reproduces: str
    features: Callable[[keras.KerasTensor], keras.KerasTensor]
    has_bias: bool = True


DESIGNS: dict[str, Design] = {}


def build(
    model: str | Design | Callable[[keras.KerasTensor], keras.KerasTensor],
    color: str = "rgb",
    scaling: keras.Layer | None = None,
) -> keras.Model:
    """Build a network with fresh random weights.

    For repeatable weights, call ``keras.utils.set_random_seed`` first, as training does.

    Args:
        model: what `find` takes or returns, or a design of your own: a function from the image
            tensor to the features of the last layer but one, such as a `layered.LayeredCNN`.
            Scores get a bias, unless it has an attribute ``has_bias`` that is false.
        color: ``"gray"`` or ``"rgb"``.
        scaling: a layer put before the first, for a network that takes pixels as they are.

    Returns:
        An uncompiled model from float images (n, 32, 32, C) to logits (n, 10), float32 whatever
        the compute type: scores before the softmax, as losses with ``from_logits=True`` want
        them.

    Raises:
        InputError: for a name or colour that is not there, with the nearest one that is; for a
            design without a name, or one that does not end in features of shape (n, d).
    """
    if callable(model):
        if not hasattr(model, "__name__"):
            advice = "Give it a __name__, or define it with def."
            raise InputError("design", "a function with a name", repr(model), advice)
        name, features, has_bias = model.__name__, model, getattr(model, "has_bias", True)
    else:
        name, _, features, has_bias = model if isinstance(model, Design) else find(model)
    if not isinstance(color, str) or color not in CHANNELS:
        raise InputError("color", " or ".join(CHANNELS), repr(color), nearest(color, CHANNELS))
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, CHANNELS[color]), name="images")
    x = features(scaling(inputs) if scaling else inputs)
    if not isinstance(x, keras.KerasTensor) or len(x.shape) != 2:
        found = f"shape {x.shape}" if hasattr(x, "shape") else repr(x)
        advice = "End the design with Flatten or GlobalAveragePooling2D, and return that."
        raise InputError(f"design {name}", "features of shape (n, d)", found, advice)
    options = {"use_bias": has_bias, "dtype": "float32", "name": "logits"}
    logits = layers.Dense(len(CLASS_NAMES), **options)(x)
    return keras.Model(inputs, logits, name=name)


def find(name: str | Path) -> Design:
    """Return the design of that name.

    Args:
        name: a key of ``DESIGNS``; or the path, ending in ``.json``, of what `tuning` found; or
            the numbers of a `layered.LayeredCNN` as JSON, such as ``'{"width": 64}'``.

    Raises:
        InputError: if there is none, with the nearest name that is there, or if the file or the
            numbers do not fit.
    """
    if isinstance(name, Path):
        name = str(name)
    if not isinstance(name, str):
        advice = "cifarlib models lists the names."
        raise InputError("model", "a name such as 'resnet18'", repr(name), advice)
    if name.endswith(".json"):
        found = layered.read(name).model
        if found in DESIGNS:
            return DESIGNS[found]
        if isinstance(found, str):
            told = f"a model of {', '.join(DESIGNS)}"
            raise InputError(name, told, repr(found), nearest(found, DESIGNS))
        return Design(*_UNNAMED, found)
    if name.startswith("{"):
        return Design(*_UNNAMED, layered.from_json(_parsed(name)))
    if name not in DESIGNS:
        raise InputError(
            "model", f"one of {', '.join(DESIGNS)}", repr(name), nearest(name, DESIGNS)
        )
    return DESIGNS[name]


_UNNAMED = ("layered_cnn", "layers told by numbers")


def _parsed(text: str) -> dict:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        advice = """Write it as '{"depth": 2, "padding": "same"}'."""
        raise InputError("model", "numbers of layers as JSON", str(error), advice) from error


class Description(NamedTuple):
    """What `describe` tells of a model, counted in colour unless said.

    Attributes:
        name: the key.
        parameters: all of them.
        trainable: those that training changes; the rest are statistics.
        parameters_gray: all of them, for grayscale images.
        reproduces: what it reproduces or who proposed it.
    """

    name: str
    parameters: int
    trainable: int
    parameters_gray: int
    reproduces: str


def describe(name: str) -> Description:
    """Build a model in both colours and count its parameters."""
    rgb, gray = build(name, "rgb"), build(name, "gray")
    trainable = sum(math.prod(variable.shape) for variable in rgb.trainable_variables)
    reproduces = find(name).reproduces
    return Description(name, rgb.count_params(), trainable, gray.count_params(), reproduces)


def multiply_adds(network: keras.Model, size: int | None = None) -> int:
    """Count the multiplications, each with an addition, that a network needs for one image.

    Counted are convolutions, dense layers and attention, as is usual; everything else costs
    next to no arithmetic. Training an image costs three times as many.

    Args:
        network: a functional or sequential model, built.
        size: height and width of the image in pixels; None for those that the network is for.

    >>> multiply_adds(build("baseline", "gray"))
    3981056
    """
    if size not in (None, network.input_shape[1]):
        inputs = keras.Input((size, size, network.input_shape[-1]))
        network = keras.models.clone_model(network, input_tensors=inputs)
    # By calls, of which a layer may have several; a sequential model keeps them in another.
    calls = getattr(network, "_functional", network)._nodes_by_depth.values()
    return sum(
        _multiply_adds(call.operation, call.outputs[0].shape)
        for call in itertools.chain.from_iterable(calls)
    )


def _multiply_adds(layer: keras.Layer, shape: tuple[int | None, ...]) -> int:
    """Count those of a layer, or of a network within one, whose output has a shape."""
    if isinstance(layer, keras.Model):
        return multiply_adds(layer)
    if isinstance(layer, layers.MultiHeadAttention):
        places = shape[1]
        projections = sum(math.prod(v.shape) for v in layer.weights if v.path.endswith("kernel"))
        # Every place asks every other, and adds up what they answer.
        return projections * places + 2 * places**2 * layer.num_heads * layer.key_dim
    names = ("kernel", "depthwise_kernel", "pointwise_kernel")  # a separable convolution has two
    kernels = [kernel for name in names if (kernel := getattr(layer, name, None)) is not None]
    if not kernels:
        return 0
    places = math.prod(shape[1:-1])  # () is 1: a dense layer without places
    return sum(math.prod(kernel.shape) for kernel in kernels) * places


def _design(reproduces: str):
    """Enter a function into the registry under its own name."""

    def enter(features):
        DESIGNS[features.__name__] = Design(features.__name__, reproduces, features, has_bias=True)
        return features

    return enter


def _conv(x, num_filters, size=3, padding="same", **options):
    """Convolve, with ReLU unless told otherwise."""
    options = {"activation": "relu", **options}
    return layers.Conv2D(num_filters, size, padding=padding, **options)(x)


def _dense(x, num_units):
    return layers.Dense(num_units, activation="relu")(x)


def _pool(x):
    return layers.MaxPooling2D(2)(x)


def _normalised(x):
    return layers.BatchNormalization()(x)


def _normalised_conv(x, num_filters, size=3, stride=1, activation="relu"):
    """Convolve without a bias, normalise, and only then activate, unless told not to."""
    x = _conv(x, num_filters, size, strides=stride, activation=None, use_bias=False)
    x = _normalised(x)
    return layers.Activation(activation)(x) if activation else x


def _drop(x, rate):
    return layers.Dropout(rate)(x)


@_design("the course's baseline; 65.4 % in gray at its last epoch")
def baseline(x):
    """Three convolutions with pooling, then a dense layer."""
    for num_filters in (32, 64, 64):
        x = _pool(_conv(x, num_filters, padding="valid"))
    return _dense(layers.Flatten()(x), 64)


@_design("the course's final model; 63.7 % in gray, 69.2 % in colour")
def baseline_regularized(x):
    """Wider at the end, with batch normalisation and dropout."""
    for num_filters in (32, 64, 128):
        x = _pool(_conv(x, num_filters, padding="valid"))
    return _drop(_dense(layers.Flatten()(_normalised(x)), 64), 0.5)


@_design('a project that claims "0.73 %", meaning 73 %')
def small_cnn(x):
    """One convolution, then most of its weights in a dense layer."""
    x = _drop(_normalised(_pool(_conv(x, 32, padding="valid"))), 0.2)
    return _drop(_dense(layers.Flatten()(x), 512), 0.5)


@_design("its second version; which of the two reached 73 % is unknown")
def small_cnn_two_blocks(x):
    """The former with a second block of convolution and pooling."""
    for num_filters, rate in ((32, 0.2), (64, 0.3)):
        x = _drop(_normalised(_pool(_conv(x, num_filters, padding="valid"))), rate)
    return _drop(_dense(layers.Flatten()(x), 512), 0.5)


@_design("a small VGG without regularisation; train 98.3 %, validation 72.3 %")
def vgg6(x):
    """Three blocks of two convolutions."""
    for num_filters in (32, 64, 64):
        x = _pool(_conv(_conv(x, num_filters), num_filters))
    return _dense(layers.Flatten()(x), 512)


@_design('the former with dropout; "83 % on unseen" were 15 of 18 images, test 79.0 %')
def vgg6_dropout(x):
    """The former with dropout after each block and after the dense layer."""
    for num_filters in (32, 64, 64):
        x = _drop(_pool(_conv(_conv(x, num_filters), num_filters)), 0.25)
    return _drop(_dense(layers.Flatten()(x), 512), 0.5)


@_design("a residual network; 88.7 %. Its layers are unpublished; these match its counts")
def residual_cnn(x):
    """Residual blocks at three widths, normalised after each addition."""

    def block(x, num_filters):
        shortcut = x
        if x.shape[-1] != num_filters:
            shortcut = _normalised(_conv(x, num_filters, 1, activation=None))
        x = _conv(_conv(x, num_filters), num_filters)
        return _normalised(layers.Add()([x, shortcut]))

    x = _pool(_normalised(_conv(x, 64)))
    for num_filters, num_blocks in ((64, 3), (128, 3), (256, 1)):
        for _ in range(num_blocks):
            x = block(x, num_filters)
        if num_filters > 64:
            x = _pool(x)
    return _dense(layers.Flatten()(layers.AveragePooling2D(2)(x)), 256)


@_design("a network without convolutions; test 46.7 %")
def dense_net(x):
    """Dense layers only; not DenseNet, whose convolutions are densely connected."""
    x = _drop(_normalised(_dense(layers.Flatten()(x), 512)), 0.3)
    x = _drop(_dense(x, 256), 0.3)
    return _dense(_dense(x, 128), 64)


def _normalised_blocks(x, widths, rates):
    """Blocks of two convolutions, each normalised before its ReLU, then pooling and dropout."""
    for num_filters, rate in zip(widths, rates, strict=True):
        for _ in range(2):
            x = _normalised_conv(x, num_filters)
        x = _drop(_pool(x), rate)
    return x


@_design('"88.4 %" from about 1.2 M parameters; layers unpublished, design ours')
def deep_cnn(x):
    """Four blocks that double in width, averaged over what is left of the image."""
    x = _normalised_blocks(x, (32, 64, 128, 256), (0.1, 0.2, 0.3, 0.4))
    return layers.GlobalAveragePooling2D()(x)


@_design('"93.3 %" from about 1.8 M parameters, three blocks; layers unpublished, design ours')
def custom_cnn(x):
    """Three wide blocks and a dense layer."""
    # As little dropout as chapter 4's search chose; with several times as much it learned too
    # little.
    x = _normalised_blocks(x, (64, 128, 256), (0.1, 0.1, 0.1))
    x = _pool(x)
    return _drop(_dense(layers.Flatten()(x), 640), 0.1)


@_design("ResNet-18 as CIFAR-10 uses it (He et al., 2016); 93.3 %")
def resnet18(x):
    """Eight residual blocks; a 3×3 stem without pooling, as images are small."""

    def block(x, num_filters, stride):
        shortcut = x
        if stride > 1 or x.shape[-1] != num_filters:
            shortcut = _normalised_conv(x, num_filters, 1, stride, activation=None)
        x = _normalised_conv(x, num_filters, 3, stride)
        x = _normalised_conv(x, num_filters, activation=None)
        return layers.ReLU()(layers.Add()([x, shortcut]))

    x = _normalised_conv(x, 64)
    for num_filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = block(block(x, num_filters, stride), num_filters, 1)
    return layers.GlobalAveragePooling2D()(x)


@_design("Wide ResNet 16-4 (Zagoruyko and Komodakis, 2016); 95.0 % in the paper")
def wide_resnet(x):
    """Six pre-activated residual blocks, four times as wide as the first ResNets for CIFAR."""

    def activated(x):
        return layers.ReLU()(_normalised(x))

    def plain(x, num_filters, size=3, stride=1):
        return _conv(x, num_filters, size, strides=stride, activation=None, use_bias=False)

    x = plain(x, 16)
    for num_filters, stride in ((64, 1), (128, 2), (256, 2)):
        for index in range(2):
            stride = stride if index == 0 else 1
            before = activated(x)
            shortcut = x if index else plain(before, num_filters, 1, stride)
            x = plain(activated(plain(before, num_filters, 3, stride)), num_filters)
            x = layers.Add()([x, shortcut])
    return layers.GlobalAveragePooling2D()(activated(x))


@keras.saving.register_keras_serializable("cifarlib")
class PositionEmbedding(layers.Layer):
    """Add a learned vector to each place of a sequence, (n, places, d) to the same shape."""

    def build(self, input_shape):
        """Make the vectors, one a place."""
        self.positions = self.add_weight(
            shape=input_shape[1:], initializer=keras.initializers.TruncatedNormal(0.02)
        )

    def call(self, inputs):
        """Add them."""
        return inputs + ops.cast(self.positions, inputs.dtype)


@_design("a Vision Transformer for 32×32 (Dosovitskiy et al., 2021), which projects promised")
def vit_tiny(x):
    """Sixty-four patches of 4×4 pixels, nine blocks of attention, mean over the patches."""
    width, num_heads, num_blocks = 192, 3, 9
    x = layers.Conv2D(width, 4, strides=4)(x)
    x = PositionEmbedding()(layers.Reshape((-1, width))(x))
    for _ in range(num_blocks):
        normalised = layers.LayerNormalization(epsilon=1e-6)(x)
        attention = layers.MultiHeadAttention(num_heads, width // num_heads)
        x = layers.Add()([x, attention(normalised, normalised)])
        hidden = layers.Dense(2 * width, activation="gelu")(
            layers.LayerNormalization(epsilon=1e-6)(x)
        )
        x = layers.Add()([x, layers.Dense(width)(hidden)])
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))


@_design("EfficientNet's blocks (Tan and Le, 2019) at the size of CIFAR, which projects promised")
def efficientnet_small(x):
    """Inverted bottlenecks with squeeze and excitation, at strides that suit 32×32."""

    def block(x, num_filters, expansion, size, stride):
        num_inputs = x.shape[-1]
        hidden = x
        if expansion > 1:
            hidden = _normalised_conv(x, num_inputs * expansion, 1, activation="silu")
        hidden = layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False)(hidden)
        hidden = layers.Activation("silu")(_normalised(hidden))
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(hidden)
        squeezed = _conv(squeezed, max(1, num_inputs // 4), 1, activation="silu")
        excited = _conv(squeezed, hidden.shape[-1], 1, activation="sigmoid")
        hidden = layers.Multiply()([hidden, excited])
        hidden = _normalised_conv(hidden, num_filters, 1, activation=None)
        same = stride == 1 and num_inputs == num_filters
        return layers.Add()([hidden, x]) if same else hidden

    # EfficientNet-B0's widths and repeats, but for its end, which is shorter here; only three of
    # its five halvings.
    x = _normalised_conv(x, 32, activation="silu")
    for expansion, num_filters, repeats, size, stride in (
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 1),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 2, 5, 2),
    ):
        for index in range(repeats):
            x = block(x, num_filters, expansion, size, stride if index == 0 else 1)
    x = _normalised_conv(x, 512, 1, activation="silu")
    return _drop(layers.GlobalAveragePooling2D()(x), 0.2)


@dataclasses.dataclass(frozen=True)
class FastCNN:
    """The network of the fast recipe, airbench94 (Jordan, 2024), and what it is without its ideas.

    A whitening layer that is not trained, then three pairs of convolutions. The first of each
    pair is pooled before it is normalised: less arithmetic at full size. No bias is added to
    the scores.

    Args:
        widths: filters of each pair.
        is_whitened: begin with patches whitened; else with a trained convolution of that shape.
        begins_as_identity: convolutions begin by passing on what they get; else at random.
        depth: convolutions of a pair, two; if more, as in airbench96, the first one's outcome is
            added to that of the others.
    """

    widths: tuple[int, int, int] = (64, 256, 256)
    is_whitened: bool = True
    begins_as_identity: bool = True
    depth: int = 2

    has_bias = False

    @property
    def __name__(self) -> str:
        """Return the name a network gets, as a design that is a function has one."""
        return "fast"

    def __call__(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Lay the layers on an image tensor (n, 32, 32, C)."""
        if self.is_whitened:
            x = whitening.PatchWhitening()(x)
        else:
            x = layers.Conv2D(8 * x.shape[-1], 2)(x)
        x = layers.Activation("gelu")(x)
        for num_filters in self.widths:
            x = self._normalised(layers.MaxPooling2D(2)(self._convolved(x, num_filters)))
            x = shortcut = layers.Activation("gelu")(x)
            for _ in range(self.depth - 2):
                x = self._normalised(self._convolved(x, num_filters))
                x = layers.Activation("gelu")(x)
            x = self._normalised(self._convolved(x, num_filters))
            if self.depth > 2:
                x = layers.Add()([x, shortcut])
            x = layers.Activation("gelu")(x)
        # Small scores at the start: what is large is sure, and wrong.
        return layers.Rescaling(1 / 22)(layers.GlobalMaxPooling2D()(x))

    def _convolved(self, x, num_filters: int):
        kernel = whitening.IdentityKernel() if self.begins_as_identity else "glorot_uniform"
        return _conv(x, num_filters, activation=None, use_bias=False, kernel_initializer=kernel)

    def _normalised(self, x):
        return layers.BatchNormalization(scale=False, momentum=0.6, epsilon=1e-7)(x)


DESIGNS["fast"] = Design(
    "fast",
    "the public record of 2024 for CIFAR-10 (airbench94_muon, Jordan), 94.0 % in 8 epochs",
    FastCNN(),
    has_bias=False,
)
DESIGNS["fast_deep"] = Design(
    "fast_deep",
    "its larger sibling (airbench96, Jordan, 2024), 96.0 % in 45 epochs of another recipe",
    FastCNN((128, 384, 512), depth=3),
    has_bias=False,
)
DESIGNS["fast_wide"] = Design(
    "fast_wide",
    "the same, half as wide again; design ours",
    FastCNN((192, 576, 768), depth=3),
    has_bias=False,
)
DESIGNS["layered_cnn"] = Design(
    "layered_cnn",
    "six convolutions told by numbers, where chapter 4 begins its search; design ours",
    layered.LayeredCNN(
        depth=2, max_width=128, padding="same", batch_normalization=True, dropout=0.1, dense=128
    ),
)
DESIGNS["tuned_cnn"] = Design(
    "tuned_cnn",
    "the winner of the finals of chapter 4's search, in gray; --recipe tuned goes with it",
    layered.read(layered.TUNED).model,
)
