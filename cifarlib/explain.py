"""What a network looks at: its filters, its feature maps, and Grad-CAM.

On any backend of Keras. Not for drawing (`plotting`) nor for figures of merit (`evaluation`).
"""

import math

import keras
import numpy as np
from keras import ops

from cifarlib.errors import InputError


def filters(model: keras.Model) -> np.ndarray:
    """Return the filters of the first convolution as images.

    Args:
        model: any whose first convolution sees the image, as those of `models` do but for the
            whitened ones, whose filters have more channels than an image.

    Returns:
        float32 array of shape (num_filters, height, width, C) in the unit range, each filter
        stretched so that zero is 0.5.

    Raises:
        InputError: if the model has no convolution.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = ops.convert_to_numpy(layer.kernel).transpose(3, 0, 1, 2)
            largest = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True)
            return (0.5 + kernel / np.maximum(largest, 1e-12) / 2).astype(np.float32)
    advice = "Those of networks that are layers of it are not looked into."
    raise InputError(f"model {model.name}", "a convolution among its layers", "none", advice)


def feature_maps(model: keras.Model, images: np.ndarray, layer: str | None = None) -> np.ndarray:
    """Return what a layer makes of images.

    Args:
        model: a network of `models`.
        images: as in its training, shape (n, height, width, C).
        layer: name of a layer; None for the last that still has places, as in `grad_cam`.

    Returns:
        float32 array of shape (n, rows, columns, maps).

    Raises:
        InputError: if there is no such layer, or none with places.
    """
    maps = keras.Model(model.input, _find(model, layer).output)(images, training=False)
    return ops.convert_to_numpy(_as_grid(maps)).astype(np.float32)


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    classes: np.ndarray | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Return where a network sees evidence for a class (Selvaraju et al., 2017).

    Each feature map is weighed by how much the score of the class rises with it, and what is
    positive of their sum is stretched over the image.

    Args:
        model: a network of `models`.
        images: as in its training, shape (n, height, width, C).
        classes: class of each image, shape (n,); None for the one the model gives.
        layer: name of a layer that every later one depends on; None for the last that still
            has places.

    Returns:
        float32 array of shape (n, height, width) from 0 to 1, all zero where nothing speaks for
        the class.

    Raises:
        InputError: if there is no such layer, none with places, or a way around it.
    """
    maps_layer = _find(model, layer)
    maps = keras.Model(model.input, maps_layer.output)(images, training=False)
    try:
        head = keras.Model(maps_layer.output, model.outputs[0])
    except ValueError as error:  # Keras finds no way from there alone
        expected = f"all that the scores rest on to pass through {maps_layer.name}"
        advice = "Choose a layer behind the last place where branches join."
        raise InputError(f"model {model.name}", expected, "other branches", advice) from error
    if classes is None:
        classes = ops.convert_to_numpy(head(maps, training=False)).argmax(axis=1)
    chosen = ops.one_hot(ops.convert_to_tensor(np.asarray(classes)), model.outputs[0].shape[-1])

    def score(maps):
        logits = head(maps, training=False)
        return ops.sum(logits * ops.cast(chosen, logits.dtype))

    weights = ops.mean(_as_grid(_gradient(score, maps)), axis=(1, 2), keepdims=True)
    evidence = ops.relu(ops.sum(weights * _as_grid(maps), axis=-1, keepdims=True))
    size = tuple(np.shape(images)[1:3])
    stretched = ops.image.resize(ops.cast(evidence, "float32"), size, interpolation="bilinear")
    stretched = ops.convert_to_numpy(stretched)[..., 0]
    largest = stretched.max(axis=(1, 2), keepdims=True)
    return np.divide(stretched, largest, out=np.zeros_like(stretched), where=largest > 0)


def _find(model: keras.Model, name: str | None) -> keras.layers.Layer:
    if name is not None:
        names = [layer.name for layer in model.layers]
        if name not in names:
            advice = "Choose one of these."
            raise InputError("layer", f"one of {', '.join(names)}", repr(name), advice)
        layer = model.get_layer(name)
        if not _has_places(layer):
            advice = "Choose one before the images are flattened or averaged."
            raise InputError("layer", "one with places", repr(name), advice)
        return layer
    # Places end where images are flattened or averaged: at the first output of two dimensions.
    # What comes just before has no way around it, as residual blocks have.
    found = None
    for layer in model.layers:
        if len(_shape(layer)) == 2:
            break
        is_map = not isinstance(layer, (keras.layers.InputLayer, keras.layers.Rescaling))
        # Pooled to one place it says nothing.
        if is_map and _has_places(layer) and math.prod(_shape(layer)[1:-1]) > 1:
            found = layer
    if found is None:
        advice = "Networks of dense layers have no feature maps."
        raise InputError(f"model {model.name}", "a layer with places", "none", advice)
    return found


def _shape(layer: keras.layers.Layer) -> tuple[int | None, ...]:
    """Return the shape of a layer's output; none of one that has several outputs."""
    return getattr(layer.output, "shape", ())


def _has_places(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer's output is a map, or a sequence that was one: as long as a square."""
    shape = _shape(layer)
    if len(shape) != 3:
        return len(shape) == 4
    return shape[1] is not None and math.isqrt(shape[1]) ** 2 == shape[1]


def _as_grid(maps):
    """Lay the sequence of a transformer out as the square it was."""
    if len(maps.shape) == 4:
        return maps
    side = round(maps.shape[1] ** 0.5)
    return ops.reshape(maps, (-1, side, side, maps.shape[2]))


def _gradient(function, x):
    """Return the gradient of a number with respect to a tensor, on the backend in use."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow

        with tensorflow.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    x = x.detach().requires_grad_(True)
    function(x).backward()
    return x.grad
