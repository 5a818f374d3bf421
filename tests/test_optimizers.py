"""Muon beside NumPy: the published update, written out with a singular value decomposition."""

import math

import keras
import numpy as np
import pytest

from cifarlib import optimizers
from cifarlib.optimizers import Muon, MuonAdamW, orthogonal


def numpy_of(tensor) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def polynomial(values: np.ndarray, times: int) -> np.ndarray:
    """What each iteration makes of each singular value (Jordan et al., 2024)."""
    for _ in range(times):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@pytest.mark.parametrize("shape", [(5, 30), (30, 5), (8, 8)], ids=["wide", "tall", "square"])
@pytest.mark.parametrize("times", [1, 3, 5])
def test_directions_stay_and_singular_values_follow_the_polynomial(shape, times):
    matrix = noise(*shape)
    left, values, right = np.linalg.svd(matrix.astype(float), full_matrices=False)
    values = polynomial(values / np.sqrt((values**2).sum()), times)
    ours = numpy_of(orthogonal(keras.ops.convert_to_tensor(matrix), times))
    np.testing.assert_allclose(ours, left * values @ right, atol=1e-4)


def test_five_iterations_bring_all_that_matters_near_one():
    ours = numpy_of(orthogonal(keras.ops.convert_to_tensor(noise(64, 200)), 5))
    values = np.linalg.svd(ours, compute_uv=False)
    assert values.min() > 0.65 and values.max() < 1.25


def test_a_gradient_of_zeros_stays_zeros():
    assert not numpy_of(orthogonal(keras.ops.zeros((4, 6)))).any()


def muon_in_numpy(weight, gradients, rate, momentum, num_iterations):
    """Jordan's loop, with his layout: a row for each filter."""
    memory = np.zeros_like(weight)
    for gradient in gradients:
        memory = memory * momentum + gradient
        step = gradient + momentum * memory
        weight = weight * math.sqrt(weight.shape[-1]) / np.linalg.norm(weight)
        rows = step.reshape(-1, step.shape[-1]).T
        left, values, right = np.linalg.svd(rows, full_matrices=False)
        values = polynomial(values / np.linalg.norm(values), num_iterations)
        weight = weight - rate * (left * values @ right).T.reshape(weight.shape)
    return weight


def nesterov_in_numpy(weight, gradients, rate, momentum):
    memory = np.zeros_like(weight)
    for gradient in gradients:
        memory = memory * momentum + gradient
        weight = weight - rate * (gradient + momentum * memory)
    return weight


def after_steps(optimizer, start, gradients) -> np.ndarray:
    variable = keras.Variable(start)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return numpy_of(variable)


def test_kernels_move_as_in_the_published_loop():
    start = noise(3, 3, 4, 6)
    gradients = [noise(3, 3, 4, 6, seed=seed) for seed in (1, 2, 3)]
    ours = after_steps(Muon(0.24, momentum=0.6), start, gradients)
    np.testing.assert_allclose(ours, muon_in_numpy(start, gradients, 0.24, 0.6, 3), atol=1e-5)


@pytest.mark.parametrize(("shape", "ratio"), [((7, 5), 2.0), ((5,), 30.0)])
def test_other_weights_move_by_nesterovs_momentum(shape, ratio):
    start, gradients = noise(*shape), [noise(*shape, seed=seed) for seed in (1, 2, 3)]
    optimizer = Muon(0.01, matrix_ratio=2.0, vector_ratio=30.0, other_momentum=0.85)
    ours = after_steps(optimizer, start, gradients)
    expected = nesterov_in_numpy(start, gradients, 0.01 * ratio, 0.85)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_weight_decay_shrinks_matrices_and_leaves_kernels_their_norm():
    matrix, kernel = noise(7, 5), noise(3, 3, 4, 6)
    still = [np.zeros_like(matrix)]
    decayed = after_steps(Muon(0.1, weight_decay=0.5), matrix, still)
    np.testing.assert_allclose(decayed, matrix * (1 - 0.1 * 0.5), rtol=1e-5)
    ours = after_steps(Muon(0.1, weight_decay=0.5), kernel, [np.zeros_like(kernel)])
    np.testing.assert_allclose(np.linalg.norm(ours), math.sqrt(6), rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(3, 3, 4, 6), (1, 1, 16, 4), (1, 1, 4, 16)], ids=["3 by 3", "tall", "wide"]
)
def test_beside_adamw_kernels_take_orthogonal_steps_of_adamws_size(shape):
    start = noise(*shape)
    gradients = [noise(*shape, seed=seed) for seed in (1, 2, 3)]
    weight, memory = start.reshape(-1, shape[-1]).astype(float), 0.0
    for gradient in gradients:
        gradient = gradient.reshape(weight.shape)
        memory = memory * 0.9 + gradient
        left, values, right = np.linalg.svd(gradient + 0.9 * memory, full_matrices=False)
        values = polynomial(values / np.linalg.norm(values), 5)
        step = 0.2 * math.sqrt(max(weight.shape)) * (left * values @ right)
        assert 0.1 < np.sqrt(np.mean(step**2)) < 0.3, "as large as AdamW's"
        weight = weight * (1 - 0.01 * 0.5) - 0.01 * step
    ours = after_steps(MuonAdamW(0.01, weight_decay=0.5, momentum=0.9), start, gradients)
    np.testing.assert_allclose(ours, weight.reshape(shape), atol=1e-5)


def test_the_usual_momentum_is_muons():
    assert MuonAdamW().momentum == 0.95


def test_rates_of_what_is_no_kernel_are_for_gradients_summed_over_a_batch():
    half, whole = (optimizers.build("muon", 0.24, 0, size).get_config() for size in (1000, 2000))
    for name in ("vector_ratio", "matrix_ratio"):
        assert whole[name] == pytest.approx(2 * half[name])


@pytest.mark.parametrize("shape", [(7, 5), (5,)])
def test_what_is_no_kernel_moves_by_adamw(shape):
    start, gradients = noise(*shape), [noise(*shape, seed=seed) for seed in (1, 2, 3)]
    kinds = MuonAdamW, keras.optimizers.AdamW
    ours, theirs = (after_steps(kind(0.01, weight_decay=0.5), start, gradients) for kind in kinds)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)  # PyTorch's is its own


def test_its_momenta_are_saved_with_the_weights():
    """Else a training that goes on after an interruption would end in other bits."""
    kernel, bias = keras.Variable(noise(3, 3, 4, 6)), keras.Variable(noise(6))
    optimizer = MuonAdamW(0.01)
    optimizer.build([kernel, bias])
    optimizer.apply([keras.ops.ones((3, 3, 4, 6)), keras.ops.ones((6,))])
    moved = [v for v in optimizer.variables if "kernel_momentum" in v.path]
    assert len(moved) == 1 and numpy_of(moved[0]).all()


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_each_optimizer_is_built_under_its_name_with_its_rate_and_decay(name):
    built = optimizers.build(name, 0.01, 0.3, 128)
    assert type(built).__name__.lower() == name.replace("_", "")
    assert float(numpy_of(built.learning_rate)) == pytest.approx(0.01)
    assert built.weight_decay == 0.3
    assert not optimizers.build(name, 0.01, 0.0, 128).weight_decay


def test_of_other_optimizers_none_knows():
    sources = optimizers.SOURCES
    assert set(sources) == set(optimizers.NAMES)
    assert len(set(sources.values())) == len(sources)
    assert [name for name in sources if "class Muon(" in sources[name]] == ["muon"]
    assert [name for name in sources if "class MuonAdamW" in sources[name]] == ["muon_adamw"]


def test_it_is_made_again_from_its_configuration():
    optimizer = Muon(0.1, momentum=0.7, matrix_ratio=2.0, vector_ratio=3.0, num_iterations=5)
    again = Muon.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert (again.momentum, again.matrix_ratio, again.vector_ratio) == (0.7, 2.0, 3.0)
    assert again.num_iterations == 5
    other = MuonAdamW(0.1, weight_decay=0.3, momentum=0.7, update_size=0.4, num_iterations=3)
    again = MuonAdamW.from_config(other.get_config())
    assert again.get_config() == other.get_config()
    assert (again.momentum, again.update_size, again.num_iterations) == (0.7, 0.4, 3)
