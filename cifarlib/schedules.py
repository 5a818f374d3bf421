"""How the learning rate changes during training.

A constant rate, one that falls when progress stops, a cosine, and one cycle up and down. The
first two are numbers that training sets; the others are functions of the step, computed where
the network is. Not for choosing a rate: that is tuning.
"""

from collections.abc import Sequence

import keras
from keras import ops

NAMES = ("constant", "plateau", "cosine", "one_cycle")

PLATEAU_FACTOR = 0.3
PLATEAU_PATIENCE = 3


def build(
    name: str, learning_rate: float, num_steps: int, warmup: float
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return what an optimizer takes as its learning rate.

    Args:
        name: one of ``NAMES``.
        learning_rate: the largest rate.
        num_steps: steps of the whole training.
        warmup: share of the steps in which ``cosine`` and ``one_cycle`` rise.

    Returns:
        A schedule for ``cosine`` and ``one_cycle``, the number itself for the others.
    """
    if name == "one_cycle":
        return OneCycle(learning_rate, num_steps, warmup)
    if name == "cosine":
        num_rising = min(round(warmup * num_steps), num_steps - 1)
        return keras.optimizers.schedules.CosineDecay(
            0.0 if num_rising else learning_rate,
            max(1, num_steps - num_rising),
            warmup_target=learning_rate if num_rising else None,
            warmup_steps=num_rising,
        )
    return learning_rate


@keras.saving.register_keras_serializable("cifarlib")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """A straight line up to the largest rate and a straight line down to zero.

    The triangle of Smith's super-convergence (2018), as the fast recipes for CIFAR-10 use it.

    Args:
        peak: the largest rate.
        num_steps: steps of the whole training.
        warmup: share of the steps in which the rate rises.
    """

    def __init__(self, peak: float, num_steps: int, warmup: float):
        self.peak, self.num_steps, self.warmup = peak, num_steps, warmup

    def __call__(self, step):
        """Return the rate of a step, counted from 0."""
        progress = (ops.cast(step, "float32") + 0.5) / self.num_steps
        rising = progress / max(self.warmup, 1e-9)
        falling = (1 - progress) / max(1 - self.warmup, 1e-9)
        return self.peak * ops.maximum(ops.minimum(rising, falling), 0.0)

    def get_config(self):
        """Return what makes an equal schedule."""
        return {"peak": self.peak, "num_steps": self.num_steps, "warmup": self.warmup}


def after_plateaus(learning_rate: float, losses: Sequence[float]) -> float:
    """Return the rate for the next epoch: cut whenever no epoch has been better for a while.

    A function of the past alone, so that an interrupted training goes on as it would have.

    Args:
        learning_rate: the rate of the first epoch.
        losses: loss of each epoch so far, validation loss where there is one.

    >>> after_plateaus(0.1, [1.0, 0.9, 0.95, 0.97, 0.99])
    0.03
    """
    best, waited = float("inf"), 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == PLATEAU_PATIENCE:
            learning_rate, waited = learning_rate * PLATEAU_FACTOR, 0
    return learning_rate
