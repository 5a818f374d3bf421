"""Augmentation beside numpy, scipy and drawings that tell where each pixel came from."""

import json
import math
from collections import Counter

import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from cifarlib import augmentation
from cifarlib.augmentation import NAMES, Augmentation, warp
from cifarlib.errors import InputError

BACKEND = keras.backend.backend()
MIXING = ("mixup", "cutmix")

each_alone = pytest.mark.parametrize("name", NAMES)
each_alone_and_all = pytest.mark.parametrize("names", [*zip(NAMES), NAMES], ids=[*NAMES, "all"])


def numpy_of(tensor) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def layer(*names, strength=1.0, seed=0) -> Augmentation:
    keras.utils.set_random_seed(seed)
    return Augmentation(names, strength)


def apply(augment, images, labels=None, epoch=0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return what becomes of images and of labels; without labels, a class for each image."""
    labels = np.eye(len(images), dtype=np.float32) if labels is None else labels
    changed = augment(images, labels, places=np.arange(len(images)), epoch=epoch)
    return tuple(numpy_of(part) for part in changed)


def change(names, images, labels=None, **options) -> tuple[np.ndarray, np.ndarray]:
    names = (names,) if isinstance(names, str) else names
    return apply(layer(*names, **options), images, labels)


def noise(*shape, seed=1, low=0, high=256) -> np.ndarray:
    """Return whole numbers, as pixels are."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def one_hot(count: int) -> np.ndarray:
    return np.eye(10, dtype=np.float32)[np.arange(count) % 10]


def ramps(size: int, slope: int, seed=1) -> np.ndarray:
    """Return an image whose first two channels say where a pixel is, and noise as the third."""
    places = 128 + slope * (np.arange(size, dtype=np.float32) - (size - 1) / 2)
    x, y = np.meshgrid(places, places)
    return np.stack([x, y, noise(size, size, seed=seed, low=40, high=210)], axis=-1)


def matrix_of(changed: np.ndarray, slope: int) -> np.ndarray:
    """Return the affine map that moved ``ramps``, from the middle, where no edge is seen."""
    size = len(changed)
    middle = slice(size // 4, size - size // 4)
    places = np.arange(size)[middle] - (size - 1) / 2
    x, y = np.meshgrid(places, places)
    rows = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    sources = (changed[middle, middle, :2].reshape(-1, 2) - 128) / slope
    return np.linalg.lstsq(rows, sources, rcond=None)[0].T


def warped_by_scipy(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Resample as `warp` promises to; scipy counts (row, column) from the corner."""
    (a, b, c), (d, e, f) = matrix.astype(np.float64)
    middle_y, middle_x = (np.array(image.shape[:2]) - 1) / 2
    linear = np.array([[e, d], [b, a]])
    offset = np.array([middle_y + f, middle_x + c]) - linear @ [middle_y, middle_x]
    channels = [
        scipy.ndimage.affine_transform(image[..., k], linear, offset, order=1, mode="nearest")
        for k in range(image.shape[-1])
    ]
    return np.stack(channels, axis=-1)


# The contract


@each_alone_and_all
@pytest.mark.parametrize("num_channels", [1, 3])
def test_shapes_types_and_ranges_stay(names, num_channels):
    for count, strength in ((1, 1.0), (2, 2.0), (7, 1.0)):
        images, labels = noise(count, 12, 12, num_channels), one_hot(count)
        images[0, :3], images[0, 3:6] = 0, 255
        given = keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels)
        changed, shares = change(names, *given, strength=strength)
        assert changed.shape == images.shape and changed.dtype == np.float32
        assert shares.shape == labels.shape and shares.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 255
        assert shares.min() >= 0
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(numpy_of(given[0]), images, "what was given has changed")
        np.testing.assert_array_equal(numpy_of(given[1]), labels, "what was given has changed")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MIXING])
def test_labels_stay_where_images_are_not_mixed(name):
    _, labels = change(name, noise(20, 8, 8, 3))
    np.testing.assert_array_equal(labels, np.eye(20))


@each_alone_and_all
def test_images_are_changed_and_differently_each_time(names):
    augment, images = layer(*names), noise(16, 12, 12, 3)
    first, _ = apply(augment, images)
    second, _ = apply(augment, images, epoch=1.0)
    assert not np.array_equal(first, images)
    assert not np.array_equal(first, second)


@each_alone
def test_images_of_a_batch_are_changed_differently(name):
    if name == "mixup":
        shares = np.diag(change(name, noise(20, 4, 4, 1))[1])
        assert len(np.unique(shares)) > 10
    elif name == "cutmix":
        images, _ = change(name, np.repeat([noise(8, 8, 1, seed=1), noise(8, 8, 1, seed=2)], 10, 0))
        assert len(np.unique(images, axis=0)) > 5
    else:
        images, _ = change(name, np.repeat(noise(1, 12, 12, 3), 20, axis=0))
        num_ways = 2 if name in ("flip", "alternate") else 5
        assert len(np.unique(images, axis=0)) >= num_ways


@each_alone_and_all
def test_restored_state_changes_images_as_before(names):
    augment, images = layer(*names), noise(8, 12, 12, 3)
    state = [numpy_of(variable) for variable in augment.variables]
    before = apply(augment, images)
    apply(augment, images)
    for variable, value in zip(augment.variables, state, strict=True):
        variable.assign(value)
    for found, expected in zip(apply(augment, images), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_equal_seeds_change_images_equally_and_others_otherwise():
    names, images = ("flip", "erase", "mixup"), noise(8, 12, 12, 3)
    first, _ = change(names, images, seed=3)
    np.testing.assert_array_equal(first, change(names, images, seed=3)[0])
    assert not np.array_equal(first, change(names, images, seed=4)[0])


def test_the_order_of_the_names_does_not_matter():
    names, images = ("shift", "crop", "flip", "cutmix"), noise(8, 12, 12, 3)
    expected = change(names, images)
    for found, wanted in zip(change(names[::-1], images), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_without_names_nothing_changes():
    images, labels = noise(5, 8, 8, 3) / 3, np.full((5, 10), 0.1, np.float32)
    for found, given in zip(change((), images, labels), (images, labels), strict=True):
        np.testing.assert_array_equal(found, given)


@each_alone
def test_strength_zero_is_none(name):
    images = noise(30, 12, 12, 3)
    found, labels = change(name, images, strength=0.0)
    np.testing.assert_allclose(found, images, atol=1e-3)
    np.testing.assert_allclose(labels, np.eye(30), atol=1e-6)


@pytest.mark.parametrize("strength", [0.01, 0.1])
@each_alone
def test_small_strengths_give_numbers(name, strength):
    for part in change(name, noise(300, 4, 4, 1), strength=strength):
        assert np.isfinite(part).all()


@each_alone
def test_it_works_compiled(name):
    augment, images, labels = layer(name), noise(6, 12, 12, 3), one_hot(6)
    apply(augment, images, labels)
    if BACKEND == "tensorflow":
        import tensorflow

        compiled = tensorflow.function(augment, jit_compile=True)
        results = [apply(compiled, images, labels, epoch) for epoch in (0.0, 1.0)]
    elif BACKEND == "jax":
        import jax

        compiled = jax.jit(lambda *given: augment.stateless_call([], *given))
        state = [variable.value for variable in augment.non_trainable_variables]
        results = []
        for epoch in (0.0, 1.0):
            changed, state = compiled(state, images, labels, np.arange(len(images)), epoch)
            results.append(tuple(map(numpy_of, changed)))
    else:
        pytest.skip("PyTorch computes as it is called")
    assert not np.array_equal(results[0][0], results[1][0]), "each time otherwise"
    for changed, shares in results:
        assert changed.shape == images.shape
        assert changed.min() >= 0 and changed.max() <= 255
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def are_mirrored(places: np.ndarray, epoch: int) -> np.ndarray:
    """Tell for each place whether "alternate" mirrors its image; nothing else may happen to it."""
    pictures = noise(len(places), 2, 2, 1)
    labels = np.tile(one_hot(1), (len(places), 1))
    found = numpy_of(layer("alternate")(pictures, labels, places=places, epoch=float(epoch))[0])
    mirrored = (found == pictures[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(found[~mirrored], pictures[~mirrored])
    return mirrored


def test_alternating_mirrors_each_image_in_every_second_epoch():
    places = np.array([0, 5, 2, 49_999, 8, 1, 10_000_000, 4])
    first, second, third = (are_mirrored(places, epoch) for epoch in range(3))
    np.testing.assert_array_equal(first, ~second)
    np.testing.assert_array_equal(first, third)


@pytest.mark.parametrize("step", [1, 2, 5, 10])
def test_alternating_mirrors_half_of_a_class_however_classes_are_ordered(step):
    places = np.arange(3, 50_000, step)
    assert 0.49 < are_mirrored(places, 0).mean() < 0.51


def test_compiled_it_does_the_same_as_called():
    """The least random of all tells: half of the images mirrored, the others as they were."""
    images, labels = noise(100, 6, 6, 1), one_hot(100)
    augment = layer("flip")
    apply(augment, images, labels)
    if BACKEND == "tensorflow":
        import tensorflow

        found, _ = apply(tensorflow.function(augment, jit_compile=True), images, labels)
    elif BACKEND == "jax":
        import jax

        state = [variable.value for variable in augment.non_trainable_variables]
        compiled = jax.jit(lambda *given: augment.stateless_call([], *given))
        found = numpy_of(compiled(state, images, labels)[0][0])
    else:
        pytest.skip("PyTorch computes as it is called")
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (found == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all() and 25 < mirrored.sum() < 75


def test_keras_is_told_the_shapes_without_computing():
    images, labels = layer(*NAMES)(keras.Input((12, 14, 3)), keras.Input((10,)))
    assert images.shape == (None, 12, 14, 3) and labels.shape == (None, 10)
    assert images.dtype == labels.dtype == "float32"


def test_it_computes_in_float32_whatever_the_policy():
    policy = keras.config.dtype_policy()
    names, images = ("rotate", "erase", "mixup"), noise(8, 12, 12, 3)
    expected = change(names, images)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = change(names, images)
    finally:
        keras.config.set_dtype_policy(policy)
    for part, wanted in zip(found, expected, strict=True):
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, wanted)


def test_its_configuration_makes_an_equal_layer():
    augment = Augmentation(("erase", "rotate"), 0.5, name="mine")
    config = json.loads(json.dumps(augment.get_config()))
    copy = Augmentation.from_config(config)
    assert (copy.name, copy.names, copy.strength) == ("mine", ("erase", "rotate"), 0.5)
    assert copy.get_config() == augment.get_config()
    images = noise(4, 12, 12, 3)
    for one, other in zip(augment.variables, copy.variables, strict=True):
        other.assign(one)
    np.testing.assert_array_equal(apply(copy, images)[0], apply(augment, images)[0])


@pytest.mark.parametrize(
    ("asked", "meant"), [("flips", "flip"), ("Cutmix", "cutmix"), ("rotation", "rotate")]
)
def test_an_unknown_name_is_told_the_nearest(asked, meant):
    for refuse in (augmentation.check_names, Augmentation):
        with pytest.raises(InputError, match=f"Did you mean {meant}"):
            refuse(("crop", asked))


def test_names_that_come_twice_are_refused():
    with pytest.raises(InputError, match="each name once"):
        augmentation.check_names(("flip", "crop", "flip"))
    augmentation.check_names(NAMES)
    augmentation.check_names(())


# Flips


def test_half_of_the_images_are_mirrored_and_the_others_stay():
    images = noise(2000, 3, 4, 3)
    found, _ = change("flip", images)
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (found == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 890 < mirrored.sum() < 1110, "1000 and 5 standard deviations of 22"


# Crops


@pytest.mark.parametrize(("strength", "padding"), [(1.0, 4), (0.5, 2), (2.0, 8)])
def test_crops_are_windows_of_the_reflected_image_and_reach_every_offset(strength, padding):
    size, num_moves = 10, 2 * padding + 1
    count = 20 * num_moves**2
    images = noise(count, size, size, 1)
    found, _ = change("crop", images, strength=strength)
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, around, mode="reflect")[..., 0]
    moves = np.full((count, 2), -1)
    for row in range(num_moves):
        for column in range(num_moves):
            window = padded[:, row : row + size, column : column + size]
            moves[(window == found[..., 0]).all(axis=(1, 2))] = row, column
    assert (moves >= 0).all(), "some image is no window"
    counts = np.zeros((num_moves, num_moves), int)
    np.add.at(counts, tuple(moves.T), 1)
    assert counts.min() > 0
    expected = count / num_moves
    for axis in (0, 1):
        assert np.abs(counts.sum(axis=axis) - expected).max() < 5 * math.sqrt(expected)


def test_crops_of_a_wide_image_are_windows_too():
    images = noise(30, 6, 11, 3)
    found, _ = change("crop", images)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    for changed, source in zip(found, padded, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(source, (6, 11, 3))[..., 0, :, :, :]
        assert (windows == changed).all(axis=(-1, -2, -3)).any()


# Resampling


def warped(images, matrices) -> np.ndarray:
    to_tensor = keras.ops.convert_to_tensor
    return numpy_of(warp(to_tensor(images), to_tensor(np.asarray(matrices, np.float32))))


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 7, 3)])
def test_an_identity_leaves_every_pixel(shape):
    images = noise(3, *shape) / 7
    identity = np.repeat([[[1, 0, 0], [0, 1, 0]]], 3, axis=0)
    np.testing.assert_array_equal(warped(images, identity), images)


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, 3), (-1, 2), (-3, -2), (20, 0)])
def test_a_shift_by_whole_pixels_continues_the_edge(x, y):
    image = noise(8, 9, 3)
    padded = np.pad(image, ((20, 20), (20, 20), (0, 0)), mode="edge")
    expected = padded[20 + y : 28 + y, 20 + x : 29 + x]
    np.testing.assert_array_equal(warped(image[None], [[[1, 0, x], [0, 1, y]]])[0], expected)


@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_those_of_numpy(size):
    image = noise(size, size, 2)
    for num_turns, (cos, sin) in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        found = warped(image[None], [[[cos, -sin, 0], [sin, cos, 0]]])[0]
        np.testing.assert_array_equal(found, np.rot90(image, num_turns))


@pytest.mark.parametrize("shape", [(12, 12, 1), (9, 14, 3), (15, 8, 3)])
def test_any_matrix_resamples_as_scipy_does(shape):
    rng = np.random.default_rng(0)
    images = noise(20, *shape)
    linear = np.eye(2) + rng.normal(0, 0.5, (20, 2, 2))
    matrices = np.concatenate([linear, rng.uniform(-4, 4, (20, 2, 1))], axis=2).astype(np.float32)
    expected = [warped_by_scipy(*pair) for pair in zip(images, matrices, strict=True)]
    np.testing.assert_allclose(warped(images, matrices), expected, atol=0.02)


def probed(*names, count=300, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return what becomes of a probe, and the maps that were drawn."""
    images = np.repeat(ramps(32, 4)[None], count, axis=0)
    found, _ = change(names, images, **options)
    return found, np.array([matrix_of(image, 4) for image in found])


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_turns_reach_fifteen_degrees_to_either_side_and_no_further(strength):
    _, matrices = probed("rotate", strength=strength)
    (cos, minus_sin), (sin, other_cos) = np.moveaxis(matrices[:, :, :2], 0, -1)
    np.testing.assert_allclose(cos, other_cos, atol=1e-4)
    np.testing.assert_allclose(sin, -minus_sin, atol=1e-4)
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=1e-4)
    np.testing.assert_allclose(matrices[:, :, 2], 0, atol=1e-3, err_msg="not about the centre")
    degrees = np.degrees(np.arctan2(sin, cos)) / strength
    assert -15.01 < degrees.min() < -14 and 14 < degrees.max() < 15.01
    assert scipy.stats.kstest(degrees, "uniform", (-15, 30)).pvalue > 1e-4


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_shifts_reach_a_tenth_of_the_side_in_each_direction_and_no_further(strength):
    _, matrices = probed("shift", strength=strength)
    np.testing.assert_allclose(matrices[:, :, :2] - np.eye(2), 0, atol=1e-4)
    shares = matrices[:, :, 2] / 32 / strength
    assert np.abs(shares).max() < 0.1001
    for share in shares.T:
        assert share.min() < -0.095 and share.max() > 0.095
        assert scipy.stats.kstest(share, "uniform", (-0.1, 0.2)).pvalue > 1e-4
    assert abs(np.corrcoef(shares.T)[0, 1]) < 0.3, "both directions are drawn"


def test_shifts_of_a_wide_image_are_a_tenth_of_each_side():
    places = np.arange(48, dtype=np.float32)
    images = np.broadcast_to(5 * places[None, None, :, None], (200, 16, 48, 1))
    found, _ = change("shift", images)
    moved = found[:, 8, 24, 0] / 5 - 24
    assert np.abs(moved).max() < 4.81
    assert np.abs(moved).max() > 4.3


def test_a_turn_and_a_shift_are_one_resampling_alike_in_all_channels():
    found, matrices = probed("rotate", "shift", count=40)
    assert np.abs(matrices[:, 0, 1]).max() > 0.1 and np.abs(matrices[:, :, 2]).max() > 2
    expected = [warped_by_scipy(ramps(32, 4), matrix) for matrix in matrices]
    np.testing.assert_allclose(found, expected, atol=0.1)


# Erasing


def boxes(changed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return heights and widths of what was changed, after a look that it is a rectangle."""
    rows, columns = changed.any(axis=2), changed.any(axis=1)
    np.testing.assert_array_equal(changed, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        starts = np.diff(np.pad(side.astype(int), ((0, 0), (1, 0))), axis=1) == 1
        assert starts.sum(axis=1).max() <= 1
    return rows.sum(axis=1), columns.sum(axis=1)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_erasing_leaves_all_but_a_rectangle_of_half_of_the_images(strength):
    images = noise(600, 32, 32, 3)
    found, _ = change("erase", images, strength=strength)
    differs = found != images  # whole numbers before, almost never afterwards
    changed = differs.any(axis=3)
    heights, widths = boxes(changed)
    erased = heights > 0
    assert 250 < erased.sum() < 350, "300 and 4 standard deviations of 12"
    assert differs[changed].mean() > 0.99, "in every channel"
    heights, widths = heights[erased], widths[erased]
    largest = 32 * 32 * strength / 3
    assert ((heights - 0.5) * (widths - 0.5)).max() <= largest
    assert (heights * widths).max() > 0.8 * largest
    assert (heights * widths).min() < 0.06 * 32 * 32
    whole = (heights < 32) & (widths < 32)  # else cut off at the border
    ratio = (heights[whole] - 0.5) / (widths[whole] + 0.5)
    assert ratio.max() <= 3 and (1 / ratio).max() > 2
    ratio = (widths[whole] - 0.5) / (heights[whole] + 0.5)
    assert ratio.max() <= 3 and (1 / ratio).max() > 2
    assert changed[:, [0, -1], :].any(axis=(0, 2)).all(), "up to the upper and lower border"
    assert changed[:, :, [0, -1]].any(axis=(0, 1)).all(), "up to the left and right border"


def test_what_is_erased_is_noise_of_the_whole_range():
    images = np.full((200, 16, 16, 3), 128, np.float32)
    found, _ = change("erase", images)
    drawn = found[found != 128]
    assert scipy.stats.kstest(drawn[:2000], "uniform", (0, 255)).pvalue > 1e-4
    assert len(np.unique(drawn)) > 0.99 * len(drawn)


# Mixing


def test_mixup_blends_pixels_in_the_shares_of_the_labels():
    images = noise(11, 6, 6, 3)
    found, shares = change("mixup", images)
    expected = np.einsum("nk,khwc->nhwc", shares.astype(np.float64), images)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert ((shares > 0).sum(axis=1) <= 2).all()
    assert ((shares > 0).sum(axis=1) == 2).any()


def test_mixup_draws_shares_from_a_beta_distribution():
    _, shares = change("mixup", np.zeros((1000, 1, 1, 1), np.float32))
    own = np.diag(shares)
    assert scipy.stats.kstest(own, scipy.stats.beta(0.2, 0.2).cdf).pvalue > 1e-4
    _, shares = change("mixup", np.zeros((1000, 1, 1, 1), np.float32), strength=2.0)
    assert scipy.stats.kstest(np.diag(shares), scipy.stats.beta(0.4, 0.4).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("strength", "probability"), [(0.5, 0.25), (1.0, 0.5), (2.0, 1.0)])
def test_cutmix_pastes_a_rectangle_and_as_much_of_the_label(strength, probability):
    count = 400
    images = noise(count, 32, 32, 1)
    found, shares = change("cutmix", images, strength=strength)
    own = np.diag(shares)
    others = shares - np.diag(own)
    assert ((others > 0).sum(axis=1) <= 1).all(), "one other image"
    partners = others.argmax(axis=1)
    differs = images != images[partners]
    changed = found != images
    np.testing.assert_array_equal(found[changed], images[partners][changed])
    # A pixel that both have in common does not show; the hull of the others does.
    heights, widths = np.zeros((2, count), int)
    for index in np.flatnonzero(others.max(axis=1)):
        rows = np.flatnonzero(changed[index, ..., 0].any(axis=1))
        columns = np.flatnonzero(changed[index, ..., 0].any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_array_equal(changed[index][box], differs[index][box])
        heights[index], widths[index] = changed[index, ..., 0][box].shape
    np.testing.assert_allclose(others.max(axis=1), heights * widths / 32**2, atol=1e-6)
    pasted = heights > 0
    assert abs(pasted.mean() - probability) < 5 * math.sqrt(0.25 / count)
    areas = (heights * widths / 32**2)[pasted]
    assert scipy.stats.kstest(areas, "uniform").pvalue > 1e-4, "areas are uniform"


@pytest.mark.parametrize("name", MIXING)
def test_an_image_alone_is_mixed_with_itself(name):
    images = noise(1, 8, 8, 3)
    for _ in range(3):
        found, shares = change(name, images)
        np.testing.assert_allclose(found, images, atol=1e-3)
        np.testing.assert_allclose(shares, 1, atol=1e-6)


# RandAugment


def _stretched(base):
    """Return a test for images moved away from or towards another one, and how far."""

    def factor(image, changed):
        start = base(image)
        inside = (changed > 0) & (changed < 255)
        way = np.broadcast_to(image - start, image.shape)[inside]
        share = (changed - start)[inside] @ way / (way @ way)
        return share, np.clip(start + share * (image - start), 0, 255)

    return factor


FACTORS = {
    "brightness": _stretched(np.zeros_like),
    "contrast": _stretched(lambda image: np.full_like(image, image.mean())),
    "colour": _stretched(lambda image: image.mean(axis=-1, keepdims=True)),
    "sharpness": _stretched(
        lambda image: scipy.ndimage.uniform_filter(image, (3, 3, 1), mode="wrap")
    ),
}


def explained(image, changed, slope) -> tuple[str, float] | None:
    """Return which one of the changes was made, and how strong; None for more than one."""
    image, changed = image.astype(np.float64), changed.astype(np.float64)

    def is_close(expected, tolerance=0.02):
        return np.abs(changed - expected).max() < tolerance

    if is_close(image, 1e-6):
        return "none", 0
    for name, factor in FACTORS.items():
        share, expected = factor(image, changed)
        if is_close(expected):
            return name, share - 1
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    if is_close((image - low) / (high - low) * 255):
        return "autocontrast", 1
    for num_bits in range(1, 5):
        if is_close(image.astype(int) >> num_bits << num_bits):
            return "posterize", num_bits
    for threshold in np.unique(image):
        if is_close(np.where(image >= threshold, 255 - image, image)):
            return "solarize", threshold
    matrix = matrix_of(changed, slope)
    if not is_close(warped_by_scipy(image, matrix), 0.2):
        return None
    moved = matrix - np.eye(2, 3)
    one = {"shear x": (0, 1), "shear y": (1, 0), "shift x": (0, 2), "shift y": (1, 2)}
    for name, place in one.items():
        if abs(moved[place]) > 0.99 * np.abs(moved).sum():
            return name, moved[place]
    is_turn = np.allclose(matrix[:, :2] @ matrix[:, :2].T, np.eye(2), atol=1e-3)
    return ("turn", math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))) if is_turn else None


@pytest.fixture
def one_round(monkeypatch):
    monkeypatch.setattr(augmentation.RandAugment, "NUM_ROUNDS", 1)


def test_randaugment_makes_twelve_changes_equally_often_and_no_other(one_round):
    image = ramps(16, 6)
    found, _ = change("randaugment", np.repeat(image[None], 600, axis=0))
    told = [explained(image, changed, 6) for changed in found]
    assert None not in told
    counts = Counter(name for name, _ in told)
    # Posterised to as many levels as before, or solarised above the brightest pixel.
    assert counts.pop("none", 0) < 60
    assert set(counts) == {
        *(*FACTORS, "autocontrast", "posterize", "solarize"),
        *("shear x", "shear y", "shift x", "shift y", "turn"),
    }
    assert min(counts.values()) > 15 and max(counts.values()) < 85, "about 50 of each"
    largest = dict.fromkeys(FACTORS, 0.6)
    largest |= {"shear x": 0.15, "shear y": 0.15, "shift x": 2.4, "shift y": 2.4, "turn": 15}
    for name, most in largest.items():
        amounts = [amount for what, amount in told if what == name]
        assert max(map(abs, amounts)) < 1.01 * most
        assert min(amounts) < -0.6 * most and max(amounts) > 0.6 * most, "to either side"
    thresholds = [amount for name, amount in told if name == "solarize"]
    assert min(thresholds) >= 127


def test_randaugment_changes_by_half_at_half_the_strength(one_round):
    image = ramps(16, 6)
    found, _ = change("randaugment", np.repeat(image[None], 600, axis=0), strength=0.5)
    told = [explained(image, changed, 6) for changed in found]
    largest = {"shear x": 0.15, "shear y": 0.15, "shift x": 2.4, "shift y": 2.4, "turn": 15}
    for name, most in largest.items():
        amounts = [abs(amount) for what, amount in filter(None, told) if what == name]
        assert 0.3 * most < max(amounts) < 0.51 * most


def test_randaugment_has_two_rounds(monkeypatch):
    calls, honest = [], augmentation.warp
    monkeypatch.setattr(augmentation, "warp", lambda *asked: calls.append(1) or honest(*asked))
    change("randaugment", noise(4, 8, 8, 3))
    num_usual = len(calls)  # more than once for each round: Keras asks for shapes, too
    monkeypatch.setattr(augmentation.RandAugment, "NUM_ROUNDS", 1)
    change("randaugment", noise(4, 8, 8, 3))
    assert num_usual == 2 * (len(calls) - num_usual) > 0


def test_randaugment_makes_two_changes():
    image = ramps(16, 6)
    found, _ = change("randaugment", np.repeat(image[None], 100, axis=0))
    told = [explained(image, changed, 6) for changed in found]
    assert told.count(None) > 50


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_randaugment_of_one_channel_is_that_of_three_equal_ones(one_round, strength):
    images = noise(60, 12, 12, 1)
    gray, _ = change("randaugment", images, strength=strength)
    rgb, _ = change("randaugment", np.repeat(images, 3, axis=3), strength=strength)
    np.testing.assert_allclose(rgb, np.repeat(gray, 3, axis=3), atol=0.01)


def test_randaugment_leaves_an_image_of_one_colour_of_one_colour():
    images = np.broadcast_to(np.float32([30, 200, 100]), (200, 8, 8, 3))
    found, _ = change("randaugment", images)
    assert (found.max(axis=(1, 2)) - found.min(axis=(1, 2))).max() < 0.01


def test_autocontrast_leaves_what_has_no_contrast_as_pillow_does(one_round):
    images = np.full((200, 8, 8, 3), 100, np.float32)
    found, _ = change("randaugment", images)
    # Brightness alone makes it darker than 96, by 60 % at most.
    assert found.min() > 39


def test_shrunken_pixels_are_means_of_the_areas_they_cover():
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 2)).astype(np.float32)
    halves = numpy_of(augmentation.shrink(images, 16))
    np.testing.assert_allclose(halves, images.reshape(3, 16, 2, 16, 2, 2).mean((2, 4)), rtol=1e-5)
    # 24 of 32: each new pixel covers one and a third, repeated each is four thirds wide.
    shrunken = numpy_of(augmentation.shrink(images, 24))
    fine = images.repeat(3, axis=1).repeat(3, axis=2).reshape(3, 24, 4, 24, 4, 2)
    np.testing.assert_allclose(shrunken, fine.mean((2, 4)), rtol=1e-5)


def test_shrinking_to_the_same_size_changes_nothing():
    images = keras.ops.ones((2, 32, 32, 1))
    assert augmentation.shrink(images, 32) is images
