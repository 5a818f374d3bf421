"""Test-time augmentation: a network that looks at each image six times.

A little more accurate for six times the work, so whoever reports it says so. Not for training
(`augmentation`).
"""

import keras
from keras import ops

SHIFT = 1  # pixels


def averaged(network: keras.Model) -> keras.Model:
    """Return a network that averages another's scores over six views of each image.

    The image, moved up and left by a pixel, moved down and right by a pixel, each also
    mirrored; the two that are not moved count twice. After Jordan (airbench, 2024).

    Args:
        network: from images (n, height, width, C) to scores (n, classes).

    Returns:
        A network that takes the same and shares the other's weights.
    """
    images = keras.Input(network.input_shape[1:], name="images")
    height, width = network.input_shape[1:3]
    padded = ops.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    views = (
        (images, 1 / 4),
        (padded[:, 2 * SHIFT :, 2 * SHIFT :], 1 / 8),
        (padded[:, :height, :width], 1 / 8),
    )
    scores = sum(share * (network(view) + network(ops.flip(view, axis=2))) for view, share in views)
    return keras.Model(images, scores, name=f"{network.name}_in_views")
