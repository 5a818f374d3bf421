"""The designs that tests of all networks go through."""

import keras

from cifarlib import models

# One for each kind of layer and each way to put them together. What other backends may do
# differently are kinds, not sizes; JAX compiles each operation of each shape, twenty seconds for
# a network of residual blocks.
KINDS = ("small_cnn", "residual_cnn", "wide_resnet", "vit_tiny", "efficientnet_small", "fast_deep")
# The widest is fast_deep with more filters, and takes twice the time.
TESTED = (
    tuple(name for name in models.DESIGNS if name != "fast_wide")
    if keras.backend.backend() == "tensorflow"
    else KINDS
)
