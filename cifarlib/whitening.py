"""What the fast recipes begin with: a frozen layer that whitens patches, and identity kernels.

Not for features of linear models (`features`), nor for designs (`models`).
"""

import keras
import numpy as np
from keras import layers, ops

from cifarlib import compute

NUM_IMAGES = 5_000  # enough for the covariance of small patches


@keras.saving.register_keras_serializable("cifarlib")
class PatchWhitening(layers.Layer):
    """Describe each patch of an image by numbers that are uncorrelated and vary alike.

    The filters are the eigenvectors of the patches' covariance, each divided by its standard
    deviation, and the same with the other sign, since what follows will drop one half. They are
    not trained, but `adapt` learns them from images beforehand, as Keras's preprocessing layers
    do; until then they are orthogonal at random. Biases are trained. After Page and Jordan
    (airbench, 2024).

    Args:
        size: width and height of a patch.
        epsilon: added to variances, so that what hardly varies is not blown up.
        **options: what every layer takes.
    """

    def __init__(self, size: int = 2, epsilon: float = 5e-4, **options):
        super().__init__(**options)
        self.size, self.epsilon = size, epsilon

    def build(self, input_shape):
        """Make filters and biases."""
        num_values = self.size**2 * input_shape[-1]
        self.kernel = self.add_weight(
            shape=(self.size, self.size, input_shape[-1], 2 * num_values),
            initializer="orthogonal",
            trainable=False,
            name="kernel",
        )
        self.bias = self.add_weight(shape=(2 * num_values,), initializer="zeros", name="bias")

    def adapt(self, pictures: np.ndarray) -> None:
        """Learn the filters.

        Args:
            pictures: as the layer will get them, float32 of shape (n, height, width, C).
        """
        window = (self.size, self.size)
        patches = np.lib.stride_tricks.sliding_window_view(pictures, window, axis=(1, 2))
        patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, np.prod(self.kernel.shape[:3]))
        covariance = (patches.T @ patches).astype(np.float64) / len(patches)
        variances, directions = np.linalg.eigh(covariance)
        filters = (directions / np.sqrt(variances + self.epsilon)).astype(np.float32)
        filters = np.concatenate([filters, -filters], axis=1)
        self.kernel.assign(filters.reshape(self.kernel.shape))

    def call(self, inputs):
        """Return images (n, height - size + 1, width - size + 1, 2 · size² · C)."""
        kernel, bias = (ops.cast(w, inputs.dtype) for w in (self.kernel, self.bias))
        return ops.conv(inputs, kernel, padding="valid") + bias

    def compute_output_shape(self, input_shape):
        """Tell Keras the shape."""
        *sides, num_channels = input_shape[1:]
        sides = [side - self.size + 1 for side in sides]
        return (input_shape[0], *sides, 2 * self.size**2 * num_channels)

    def get_config(self):
        """Return what makes an equal layer."""
        return {**super().get_config(), "size": self.size, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("cifarlib")
class IdentityKernel(keras.initializers.Initializer):
    """Filters that pass on the inputs as they are, as many as there are inputs; the rest random.

    A deep network then begins as a shallow one. The random rest is uniform, as wide as PyTorch
    draws it.

    Args:
        seed: of the random rest.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, shape, dtype=None):
        """Return a kernel of shape (height, width, inputs, outputs)."""
        height, width, num_inputs, num_outputs = shape
        bound = (height * width * num_inputs) ** -0.5
        drawn = keras.random.uniform(shape, -bound, bound, dtype=dtype, seed=self.seed)
        identity = np.zeros(shape, np.float32)
        num_passed = min(num_inputs, num_outputs)
        places = np.arange(num_passed)
        identity[height // 2, width // 2, places, places] = 1
        is_passed = np.arange(num_outputs) < num_passed
        return ops.where(is_passed, ops.cast(identity, drawn.dtype), drawn)

    def get_config(self):
        """Return what makes an equal initializer."""
        return {"seed": self.seed}


def adapt(network: keras.Model, pictures: np.ndarray, places: np.ndarray) -> None:
    """Let every layer that learns from images without labels do so.

    Args:
        network: any functional model.
        pictures: images, as the network takes them.
        places: of the training images among them; the first ``NUM_IMAGES`` are used.
    """
    for layer in network.layers:
        if isinstance(layer, PatchWhitening):
            before = keras.Model(network.inputs, layer.input)
            layer.adapt(compute.predict(before, pictures[places[:NUM_IMAGES]]))
