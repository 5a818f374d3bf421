"""How a network is computed on this machine: number format, kernels, compilation, devices.

Networks are built plain, in float32. `prepare` makes a copy that computes the same function in
the format in which this hardware is fast; after training its weights go back into the plain
one, so that a saved model knows nothing of the machine that trained it. Not for training itself.
"""

import contextlib
import functools
import inspect
import math
import random
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from cifarlib import devices, winograd
from cifarlib.errors import InputError

PRECISIONS = ("float32", "bfloat16", "float16")
PREDICTION_BATCH = 512


@functools.cache
def fast_precisions() -> tuple[str, ...]:
    """Return the number formats in which this hardware and backend compute at speed, best first.

    bfloat16 on GPUs that have it (compute capability 8 and later, TPUs) and on CPUs that are
    fast in it, where the backend uses it: TensorFlow and PyTorch do, JAX computes it in detours.
    float16 on GPUs with tensor cores, best on those without bfloat16, such as a T4. float32
    everywhere.
    """
    if devices.accelerators():
        capability = _compute_capability()
        if capability is None:
            return ("bfloat16", "float32")
        if capability >= (8, 0):
            return ("bfloat16", "float16", "float32")
        return ("float16", "float32") if capability >= (7, 0) else ("float32",)
    has_kernels = keras.backend.backend() in ("tensorflow", "torch")
    is_fast = has_kernels and _is_cpu_fast_in_bfloat16()
    return ("bfloat16", "float32") if is_fast else ("float32",)


def choose_precision(asked: str, network: keras.Model | None = None) -> str:
    """Return the number format to train in.

    Args:
        asked: one of ``PRECISIONS``, or ``"auto"`` for the one in which convolutions are fastest
            here without losing accuracy.
        network: what is to be trained; None for one of ordinary layers.

    Raises:
        InputError: for one that would be computed in detours, slower than float32.
    """
    fast, advice = fast_precisions(), "It has no units for it, and would be many times as slow."
    if network is not None and "bfloat16" in fast and _has_slow_gradients(network):
        fast, advice = ("float32",), "Depthwise convolutions with strides would be far slower."
    if asked == "auto":
        return fast[0]
    if asked not in fast:
        told = f"auto or {' or '.join(fast)} on {devices.describe()} with {keras.backend.backend()}"
        raise InputError("precision", told, asked, advice)
    return asked


class Peak(NamedTuple):
    """What the device can do at best in a second.

    Attributes:
        multiply_adds: multiplications, each with an addition.
        bytes: read or written.
    """

    multiply_adds: float
    bytes: float


def source() -> bytes:
    """Return the source of what decides how fast networks are computed, and how it is rounded.

    How the hardware is asked does not: the number format that follows is told apart.
    """
    text = "".join(map(inspect.getsource, (sys.modules[__name__], winograd)))
    asking = fast_precisions, choose_precision, _is_cpu_fast_in_bfloat16, _compute_capability
    for part in (source, *asking, _has_slow_gradients):
        text = text.replace(inspect.getsource(part), "")
    return "\n".join(filter(None, text.splitlines())).encode()  # nor blank lines around them


def measure_peak(precision: str) -> Peak:
    """Measure what no training can surpass: a large matrix product, and a pass over memory.

    Takes seconds. The best of several attempts, since other work only slows down; of random
    numbers, since some processors multiply ones and zeros faster.

    Args:
        precision: number format of both.
    """
    size, seconds = 512, 0.0
    while seconds < 0.02 and size < 16_384:  # so large that starting it does not count
        size *= 2
        square = keras.random.uniform((size, size), dtype=precision)
        seconds = _best_seconds(ops.matmul, square, square)
    values = keras.random.uniform((2**26,), dtype=precision)
    num_bytes = 2 * values.shape[0] * (4 if precision == "float32" else 2)
    return Peak(size**3 / seconds, num_bytes / _best_seconds(ops.negative, values))


def _best_seconds(operation, *operands) -> float:
    """Return how long an operation takes, called so often that waiting for it does not count."""

    def seconds(num_calls: int) -> float:
        began = time.perf_counter()
        for _ in range(num_calls):
            outcome = operation(*operands)
        ops.convert_to_numpy(ops.reshape(outcome, (-1,))[:1])
        return (time.perf_counter() - began) / num_calls

    num_calls = max(1, math.ceil(0.05 / min(seconds(1) for _ in range(3))))
    return min(seconds(num_calls) for _ in range(5))


def jit_compile() -> bool | str:
    """Return what ``Model.compile`` should be told: Keras's choice, but no XLA on a CPU.

    XLA halves the speed of TensorFlow's convolutions on a CPU; Keras before 3.15 chose it.
    """
    on_cpu = keras.backend.backend() == "tensorflow" and not devices.accelerators()
    return False if on_cpu else "auto"


def prepare(network: keras.Model, precision: str) -> keras.Model:
    """Return a copy of a network that computes fast here, with the same weights.

    Every layer but the first scaling and the outputs computes in ``precision``; weights stay
    float32. On TensorFlow, batch normalisation takes one fused kernel where Keras takes a dozen
    passes over memory; on a CPU an activation such as GELU takes one pass where Keras takes ten,
    so does the gradient of pooling, which does on JAX, too, and kernels of small maps get theirs
    in a fraction of the time. The first two can be half the time of a training step in bfloat16,
    the last a quarter. In float32 on a CPU wide convolutions take a third of the multiplications
    (`winograd`), and a training step three fifths of the time.

    Args:
        network: a plain functional or sequential model, float32.
        precision: one of ``PRECISIONS``.

    Returns:
        An uncompiled model with the same layers' names and order of weights.
    """
    last = {id(tensor._keras_history.operation) for tensor in network.outputs}
    scalings = (keras.layers.Rescaling, keras.layers.Normalization)
    kept = {id(layer) for layer in network.layers if isinstance(layer, scalings)}

    def copy(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):
            return type(layer).from_config(layer.get_config())  # such as x + y
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=copy)
        settings = layer.get_config()
        if precision != "float32" and id(layer) not in last | kept:
            settings["dtype"] = f"mixed_{precision}"
        if "seed" in settings and settings["seed"] is None:
            # Without a seed Keras lets PyTorch draw from a state that no checkpoint holds.
            settings["seed"] = random.randrange(2**31)
        if _can_fuse(layer):
            return _FusedBatchNormalization.from_config(settings)
        if precision == "bfloat16" and _is_small_on_cpu(layer):
            return _SideBySideConv2D.from_config(settings)
        if precision == "float32" and _is_wide_on_cpu(layer):
            return _WinogradConv2D.from_config(settings)
        if _is_tiled(layer):
            return _TiledMaxPooling2D.from_config(settings)
        copied = type(layer).from_config(settings)
        if jit_compile() is False and getattr(copied, "activation", None) in _COMPOSED:
            copied.activation = _in_one_pass(copied.activation)
        return copied

    prepared = keras.models.clone_model(network, clone_function=copy)
    prepared.set_weights(network.get_weights())
    return prepared


def at_size(network: keras.Model, size: int) -> keras.Model:
    """Return the same network, with the same weights, for images of another size.

    Args:
        network: a functional or sequential model for images (n, height, width, C).
        size: height and width in pixels.

    Raises:
        ValueError: if a layer needs images of a certain size, as one behind a Flatten does.
    """
    inputs = keras.Input((size, size, network.input_shape[-1]))
    return keras.models.clone_model(
        network, input_tensors=inputs, clone_function=lambda layer: layer
    )


def predict(network: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """Return a network's outputs, without the compilation that slows a CPU down.

    Args:
        network: any Keras model.
        pictures: its inputs, n of them.

    Returns:
        Its outputs, such as logits of shape (n, 10).
    """
    if jit_compile() is False:
        network.jit_compile = False
    return network.predict(**batches(pictures, PREDICTION_BATCH), verbose=0)


def batches(inputs: np.ndarray, batch_size: int) -> dict[str, Any]:
    """Return what ``fit`` and ``predict`` should be told to take inputs in their order.

    On TensorFlow Keras turns arrays into a pipeline whose parts tune themselves, and whose end
    waits for the tuner to wake up. It sleeps twice as long each time, so that a call that has
    run for 21 seconds may return after 41. This pipeline has nothing to tune.

    Args:
        inputs: array of shape (n, ...).
        batch_size: inputs a step.

    Returns:
        Keyword arguments.
    """
    if keras.backend.backend() != "tensorflow":
        return {"x": inputs, "batch_size": batch_size}
    import tensorflow

    options = tensorflow.data.Options()
    options.autotune.enabled = False
    sharding = tensorflow.data.experimental.AutoShardPolicy.DATA  # among devices, as Keras does
    options.experimental_distribute.auto_shard_policy = sharding
    pipeline = tensorflow.data.Dataset.from_tensor_slices(inputs).batch(batch_size)
    return {"x": pipeline.prefetch(1).with_options(options)}


def free(variables: Iterable[keras.Variable]) -> None:
    """Give back the memory of variables that nobody will read again.

    TensorFlow keeps it for as long as a compiled function that once read them, and some of
    those that Keras makes are never let go.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow

    for variable in variables:
        for part in getattr(variable.value, "values", [variable.value]):  # one a device
            empty = tensorflow.zeros([0], part.dtype)
            tensorflow.raw_ops.AssignVariableOp(resource=part.handle, value=empty)


@contextlib.contextmanager
def parallel(num_devices: int) -> Iterator[None]:
    """Within this context, models are built on several devices, each with a share of the batch.

    ``keras.distribution.DataParallel`` on JAX, ``tf.distribute.MirroredStrategy`` on TensorFlow.
    One device changes nothing.

    Raises:
        InputError: if there are not so many devices, or the backend is PyTorch.
    """
    if num_devices == 1:
        yield
        return
    backend = keras.backend.backend()
    if backend == "torch":
        advice = "Set KERAS_BACKEND, or use one device."
        raise InputError("num_devices", "TensorFlow or JAX for more than one", "torch", advice)
    if backend == "jax":
        names = keras.distribution.list_devices()
    else:
        import tensorflow

        listed = tensorflow.config.list_logical_devices
        names = [device.name for device in listed("GPU") or listed("CPU")]
    if num_devices > len(names):
        advice = "Ask for fewer."
        raise InputError("num_devices", f"at most {len(names)}", str(num_devices), advice)
    if backend == "tensorflow":
        with tensorflow.distribute.MirroredStrategy(names[:num_devices]).scope():
            yield
        return
    previous = keras.distribution.distribution()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=names[:num_devices], auto_shard_dataset=False)
    )
    try:
        yield
    finally:
        keras.distribution.set_distribution(previous)


def _has_slow_gradients(network: keras.Model) -> bool:
    """Tell whether a processor computes gradients of this network in bfloat16 in detours.

    Those of depthwise convolutions with strides take oneDNN on an EPYC 25 to 90 times as long as
    in float32, and a step of efficientnet_small, which has three, 1.8 times.
    """
    kinds = keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D
    return not devices.accelerators() and any(
        isinstance(layer, kinds) and max(layer.strides) > 1 for layer in network._flatten_layers()
    )


def _is_cpu_fast_in_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 faster than float32, going by its features.

    Units made for it do: AMX, and Arm's. Of those with AVX-512, AMD's do; Intel's take 1.15 to
    1.5 times as long (measured on a Xeon whose AMX is switched off).
    """
    found = devices.cpu_features()
    return bool(found & {"amx_bf16", "bf16"}) or found >= {"avx512_bf16", "AuthenticAMD"}


def _compute_capability() -> tuple[int, int] | None:
    """Return the compute capability of the first NVIDIA GPU, None for TPUs and the like.

    (0, 0) for what PyTorch finds otherwise, such as an Apple GPU: nobody has measured yet whether
    short formats are faster there.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        gpus = tensorflow.config.list_physical_devices("GPU")
        details = tensorflow.config.experimental.get_device_details(gpus[0]) if gpus else {}
        return details.get("compute_capability")
    if backend == "torch":
        import torch

        return torch.cuda.get_device_capability(0) if torch.cuda.is_available() else (0, 0)
    import jax

    capability = getattr(jax.devices()[0], "compute_capability", None)
    if not capability or not capability.replace(".", "").isdigit():  # AMD's are "gfx90a"
        return None
    return tuple(int(part) for part in capability.split("."))


def _can_fuse(layer: keras.Layer) -> bool:
    return (
        keras.backend.backend() == "tensorflow"
        and type(layer) is keras.layers.BatchNormalization
        and len(layer.output.shape) == 4
        and layer.axis in (-1, 3)
        and layer.center
        and not getattr(layer, "renorm", False)
        and not layer.synchronized
    )


class _FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer with TensorFlow's fused kernel for images in training."""

    def call(self, inputs, training=None, mask=None):
        if not training or not self.trainable:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow

        offset = tensorflow.convert_to_tensor(self.beta)
        scale = self.gamma if self.scale else tensorflow.ones_like(offset)
        outputs, mean, variance = tensorflow.compat.v1.nn.fused_batch_norm(
            inputs,
            tensorflow.convert_to_tensor(scale),
            offset,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel's variance is that of a sample, Keras remembers that of the batch.
        shape = tensorflow.shape(inputs)
        count = tensorflow.cast(math.prod((shape[0], shape[1], shape[2])), variance.dtype)
        variance = variance * (count - 1) / count
        for moving, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + new * (1 - self.momentum))
        return outputs


def _is_small_on_cpu(layer: keras.Layer) -> bool:
    """Tell whether a layer's kernel is large and its maps are small."""
    if not _is_usual_on_cpu(layer):
        return False
    height, width, num_filters = layer.output.shape[1:]
    num_inputs = layer.input.shape[-1]
    return (
        min(layer.kernel_size) > 1
        and width <= 8
        # Measured on a CPU with AMX: 0.6 of the time at 18 times as large, a quarter at 130.
        and math.prod(layer.kernel.shape) >= 16 * height * width * (num_inputs + num_filters)
    )


def _is_wide_on_cpu(layer: keras.Layer) -> bool:
    """Tell whether a layer's channels are so many that fewer products pay for the detour."""
    if not _is_usual_on_cpu(layer):
        return False
    height, width, num_filters = layer.output.shape[1:]
    return (
        layer.kernel_size == (3, 3)
        and 1 < height == width <= 16
        # Measured with AVX2 and batches of 32 to 1,000: 1 to 4 times as fast, below 64 channels
        # or beyond 16 pixels half to 1.5 times.
        and min(layer.input.shape[-1], num_filters) >= 64
    )


def _is_usual_on_cpu(layer: keras.Layer) -> bool:
    """Tell whether a layer is a convolution as most are, padded and without steps, on a CPU."""
    return (
        jit_compile() is False
        and type(layer) is keras.layers.Conv2D
        and None not in layer.output.shape[1:]
        and (layer.strides, layer.dilation_rate, layer.groups) == ((1, 1), (1, 1), 1)
        and (layer.padding, layer.data_format) == ("same", "channels_last")
    )


class _WinogradConv2D(keras.layers.Conv2D):
    """Keras's layer with fewer multiplications, the same but for rounding."""

    def convolution_op(self, inputs, kernel):
        return winograd.convolve(inputs, ops.convert_to_tensor(kernel))


class _SideBySideConv2D(keras.layers.Conv2D):
    """Keras's layer with another way to its kernel's gradient, the same but for rounding.

    The CPU's matrix unit multiplies stretches of a row of pixels, and stays idle for most of a
    map that is four pixels wide. For the gradient of a kernel, which adds up over all images
    anyhow, several images are put side by side, with room between them.
    """

    WIDTH = 64  # of what is put together, in pixels

    def convolution_op(self, inputs, kernel):
        import tensorflow

        gap = self.kernel_size[1] // 2
        same = {"strides": [1, 1, 1, 1], "padding": "SAME"}

        def side_by_side(maps):
            height, width, depth = maps.shape[1:]
            num_together = self.WIDTH // (width + gap)
            missing = -tensorflow.shape(maps)[0] % num_together
            maps = tensorflow.pad(maps, [[0, missing], [0, 0], [0, gap], [0, 0]])
            maps = tensorflow.reshape(maps, (-1, num_together, height, width + gap, depth))
            maps = tensorflow.transpose(maps, (0, 2, 1, 3, 4))
            return tensorflow.reshape(maps, (-1, height, num_together * (width + gap), depth))

        @tensorflow.custom_gradient
        def convolved(inputs, kernel):
            def gradients(upstream):
                for_inputs = tensorflow.raw_ops.Conv2DBackpropInput(
                    input_sizes=tensorflow.shape(inputs),
                    filter=kernel,
                    out_backprop=upstream,
                    **same,
                )
                for_kernel = tensorflow.raw_ops.Conv2DBackpropFilter(
                    input=side_by_side(inputs),
                    filter_sizes=kernel.shape,
                    out_backprop=side_by_side(upstream),
                    **same,
                )
                return for_inputs, for_kernel

            return tensorflow.nn.conv2d(inputs, kernel, **same), gradients

        return convolved(inputs, tensorflow.convert_to_tensor(kernel))


def _is_tiled(layer: keras.Layer) -> bool:
    return (
        (jit_compile() is False or keras.backend.backend() == "jax")
        and type(layer) is keras.layers.MaxPooling2D
        and layer.strides == layer.pool_size
        and (layer.padding, layer.data_format) == ("valid", "channels_last")
    )


class _TiledMaxPooling2D(keras.layers.MaxPooling2D):
    """Keras's layer with a gradient in one pass over memory.

    Where several pixels of a tile are its largest, each gets its share of the gradient.
    """

    def call(self, inputs):
        if keras.backend.backend() == "tensorflow":
            return _tiled_max(self.pool_size)(inputs)
        height, width = self.pool_size
        rows, columns, depth = inputs.shape[1] // height, inputs.shape[2] // width, inputs.shape[3]
        covered = inputs[:, : rows * height, : columns * width]
        return ops.max(ops.reshape(covered, (-1, rows, height, columns, width, depth)), (2, 4))


@functools.cache
def _tiled_max(pool_size: tuple[int, int]):
    import tensorflow

    height, width = pool_size

    @tensorflow.function(jit_compile=True)
    def backward(inputs, largest, gradient):
        rows, columns, depth = largest.shape[1:]
        covered = inputs[:, : rows * height, : columns * width]
        tiles = tensorflow.reshape(covered, (-1, rows, height, columns, width, depth))
        is_largest = tiles == largest[:, :, None, :, None]
        count = tensorflow.reduce_sum(tensorflow.cast(is_largest, "float32"), (2, 4))
        share = gradient / tensorflow.cast(count, gradient.dtype)
        found = tensorflow.where(is_largest, share[:, :, None, :, None], 0)
        found = tensorflow.reshape(found, tensorflow.shape(covered))
        rest = [[0, inputs.shape[axis] - covered.shape[axis]] for axis in (1, 2)]
        return tensorflow.pad(found, [[0, 0], *rest, [0, 0]])

    @tensorflow.custom_gradient
    def pooled(inputs):
        largest = tensorflow.nn.max_pool2d(inputs, pool_size, pool_size, "VALID")
        return largest, lambda gradient: backward(inputs, largest, gradient)

    return pooled


# Activations that backends compute in several passes over memory.
_COMPOSED = (
    keras.activations.gelu,
    keras.activations.silu,
    keras.activations.hard_silu,
    keras.activations.mish,
)


@functools.cache
def _in_one_pass(activation):
    """Return an activation that XLA compiles, forwards and backwards, on TensorFlow.

    Its gradient computes what it needs anew: cheaper than remembering it. In float32, which
    costs nothing in between.
    """
    import tensorflow

    @tensorflow.function(jit_compile=True)
    def forward(inputs):
        return tensorflow.cast(activation(tensorflow.cast(inputs, "float32")), inputs.dtype)

    @tensorflow.function(jit_compile=True)
    def backward(inputs, gradient):
        values = tensorflow.cast(inputs, "float32")
        with tensorflow.GradientTape() as tape:
            tape.watch(values)
            outputs = activation(values)
        found = tape.gradient(outputs, values, tensorflow.cast(gradient, "float32"))
        return tensorflow.cast(found, inputs.dtype)

    @tensorflow.custom_gradient
    def in_one_pass(inputs):
        return forward(inputs), lambda gradient: backward(inputs, gradient)

    return in_one_pass
