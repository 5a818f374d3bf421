"""Learning rates worked out by hand, and beside what Keras does."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from cifarlib import schedules
from cifarlib.schedules import OneCycle, after_plateaus


def rates(schedule, num_steps: int) -> np.ndarray:
    found = [keras.ops.convert_to_numpy(schedule(step)) for step in range(num_steps)]
    return np.array(found, np.float64)


# One cycle


def test_one_cycle_of_ten_steps_is_as_worked_out_by_hand():
    # The middle of each step, two of ten rising: 1/4 and 3/4 of the way up, then 15/16 ... down.
    expected = [4, 12, 15, 13, 11, 9, 7, 5, 3, 1]
    np.testing.assert_allclose(rates(OneCycle(16.0, 10, 0.2), 10), expected, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 0.2, 0.5, 0.9, 1])
def test_one_cycle_is_a_triangle(warmup):
    num_steps, peak = 200, 0.3
    found = rates(OneCycle(peak, num_steps, warmup), num_steps)
    middles = (np.arange(num_steps) + 0.5) / num_steps
    expected = np.interp(middles, [0, warmup, 1], [0, peak, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.max() <= peak and found.max() > 0.98 * peak
    assert found.min() > 0, "no step is wasted"
    assert found.sum() == pytest.approx(peak * num_steps / 2, rel=1e-4)


def test_one_cycle_is_never_negative_not_even_after_the_end():
    found = rates(OneCycle(0.1, 10, 0.3), 20)
    assert found.min() == 0 and not found[10:].any()


def test_weights_move_by_the_sum_of_the_rates():
    """In an optimizer: with a gradient of 1, plain descent adds the rates up."""
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer = keras.optimizers.SGD(OneCycle(1.0, 20, 0.25))
    optimizer.build([variable])
    for _ in range(20):
        optimizer.apply([keras.ops.ones(1)])
    assert keras.ops.convert_to_numpy(variable.value)[0] == pytest.approx(-10, rel=1e-4)


def test_one_cycle_survives_saving():
    schedule = OneCycle(0.1, 30, 0.4)
    serialized = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(serialized)
    assert isinstance(copy, OneCycle)
    np.testing.assert_array_equal(rates(copy, 30), rates(schedule, 30))
    optimizer = keras.optimizers.SGD(schedule)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert restored.get_config() == optimizer.get_config()


# Built by name


@pytest.mark.parametrize("name", ["constant", "plateau"])
def test_rates_that_training_sets_are_numbers(name):
    assert schedules.build(name, 0.01, 100, 0.2) == 0.01


def test_one_cycle_is_built_by_its_name():
    schedule = schedules.build("one_cycle", 0.01, 50, 0.2)
    np.testing.assert_array_equal(rates(schedule, 50), rates(OneCycle(0.01, 50, 0.2), 50))


def test_a_cosine_without_warmup_falls_from_the_largest_rate():
    found = rates(schedules.build("cosine", 0.2, 40, 0.0), 41)
    expected = 0.1 * (1 + np.cos(math.pi * np.arange(41) / 40))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_cosine_with_warmup_rises_in_a_line_before():
    found = rates(schedules.build("cosine", 0.2, 50, 0.2), 51)
    np.testing.assert_allclose(found[:11], 0.02 * np.arange(11), atol=1e-7)
    expected = 0.1 * (1 + np.cos(math.pi * np.arange(41) / 40))
    np.testing.assert_allclose(found[10:], expected, atol=1e-7)


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_rates_are_between_zero_and_the_largest_and_something_is_learned(name, num_steps, warmup):
    found = rates(schedules.build(name, 0.5, num_steps, warmup), num_steps)
    assert found.min() >= 0 and found.max() <= 0.5
    assert found.max() > 0


# Plateaus


@pytest.mark.parametrize(
    ("losses", "num_cuts"),
    [
        ([], 0),
        ([1.0], 0),
        ([1.0, 1.1, 1.2], 0),
        ([1.0, 1.1, 1.2, 1.3], 1),
        ([1.0, 1.0, 1.0, 1.0], 1),  # as good is not better
        ([1.0, 1.1, 1.2, 0.9, 1.0, 1.0], 0),
        ([1.0, 1.1, 1.2, 0.9, 1.0, 1.0, 1.0], 1),
        ([1.0, 1.1, 1.2, 1.05, 1.04, 1.03, 1.02], 2),  # better than the last, not than the best
        ([1.0] * 9, 2),
        ([1.0] * 10, 3),
        ([1.0, math.nan, math.nan, math.nan], 1),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 0),
    ],
)
def test_the_rate_is_cut_after_three_epochs_without_a_better_one(losses, num_cuts):
    assert after_plateaus(0.1, losses) == pytest.approx(0.1 * 0.3**num_cuts)


def test_plateaus_are_those_of_keras():
    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = rng.random(40).round(1).tolist()
        callback = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.3, patience=3, min_delta=0, min_lr=0
        )
        optimizer = SimpleNamespace(learning_rate=0.1)
        callback.set_model(SimpleNamespace(optimizer=optimizer))
        callback.on_train_begin()
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"loss": loss})
            found = after_plateaus(0.1, losses[: epoch + 1])
            assert found == pytest.approx(float(optimizer.learning_rate), rel=1e-4)
