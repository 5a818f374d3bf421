"""The designs that tests of all networks go through."""

import keras

from cifarlib import models

# One for each kind of layer and each way to put them together. JAX compiles each operation of each
# shape, twenty seconds for a network of residual blocks; what differs there are kinds, not sizes.
KINDS = ("small_cnn", "residual_cnn", "wide_resnet", "vit_tiny", "efficientnet_small", "fast_deep")
TESTED = KINDS if keras.backend.backend() == "jax" else tuple(models.DESIGNS)
