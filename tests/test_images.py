"""Arithmetic on images, against Pillow, scikit-learn and plain Python."""

import colorsys
import itertools

import numpy as np
import pytest
from PIL import Image
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from cifarlib import images
from cifarlib.images import ChannelStatistics

# From the course's own black-and-white files.
KNOWN_GRAYS = {
    (59, 62, 63): 61,
    (43, 46, 45): 45,
    (16, 20, 20): 19,
    (152, 125, 102): 130,
    (154, 177, 187): 171,
}
OTHER_FORMULAS = ("luma 709", "mean", "lightness", "luminance")


@pytest.fixture(scope="module")
def colors():
    """Return 32³ colours from all over the cube, shape (1, 32768, 3)."""
    levels = [*range(0, 248, 8), 255]
    return np.array(list(itertools.product(levels, repeat=3)), np.uint8)[None]


@pytest.fixture(scope="module")
def random_images():
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)


def pillow_gray(image):
    return np.asarray(Image.fromarray(image).convert("L"))


def linear(channel):
    """Return the light of an sRGB value, IEC 61966-2-1."""
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def encoded(light):
    return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def luma_709(red, green, blue):
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


ORACLES = {
    "luma 709": luma_709,
    "mean": lambda *rgb: sum(rgb) / 3,
    "lightness": lambda *rgb: colorsys.rgb_to_hls(*(value / 255 for value in rgb))[1] * 255,
    "luminance": lambda *rgb: encoded(luma_709(*(linear(value / 255) for value in rgb))) * 255,
}


# Grayscale


@pytest.mark.parametrize(("color", "gray"), KNOWN_GRAYS.items())
def test_grayscale_of_known_colours_is_known(color, gray):
    assert images.to_grayscale(np.array([color], np.uint8)).tolist() == [[gray]]


def test_grayscale_of_random_images_is_that_of_pillow(random_images):
    gray = images.to_grayscale(random_images)
    assert (gray.dtype, gray.shape) == (np.uint8, (20, 32, 32, 1))
    for found, image in zip(gray, random_images, strict=True):
        np.testing.assert_array_equal(found[..., 0], pillow_gray(image))


def test_grayscale_of_colours_all_over_the_cube_is_that_of_pillow(colors):
    np.testing.assert_array_equal(images.to_grayscale(colors)[..., 0], pillow_gray(colors))


def test_grayscale_of_colours_between_two_grays_is_that_of_the_integer_formula():
    # Where the fixed-point sum is just below and just above a whole gray.
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (200_000, 3), np.uint8)
    sums = rgb.astype(np.int64) @ [19595, 38470, 7471] + 32768
    close = (sums % 65536 < 50) | (sums % 65536 > 65536 - 50)
    assert close.sum() > 100
    np.testing.assert_array_equal(images.to_grayscale(rgb[close])[:, 0], sums[close] >> 16)


@pytest.mark.parametrize("formula", images.GRAYSCALE_FORMULAS)
def test_grayscale_of_every_gray_is_itself(formula):
    grays = np.arange(256, dtype=np.uint8)
    assert images.to_grayscale(np.stack([grays] * 3, -1), formula)[:, 0].tolist() == [*range(256)]


@pytest.mark.parametrize("formula", images.GRAYSCALE_FORMULAS)
def test_grayscale_of_white_is_white(formula):
    white = np.full((2, 32, 32, 3), 255, np.uint8)
    assert np.unique(images.to_grayscale(white, formula)).tolist() == [255]


@pytest.mark.parametrize("formula", OTHER_FORMULAS)
def test_other_formulas_agree_with_their_definitions(formula, colors):
    found = images.to_grayscale(colors, formula)[0, :, 0]
    exact = np.array([ORACLES[formula](*color) for color in colors[0].tolist()])
    # Half-way between two grays, either is right.
    halfway = np.abs(exact % 1 - 0.5) < 1e-3
    assert halfway.mean() < 0.6
    np.testing.assert_array_equal(found[~halfway], np.floor(exact + 0.5)[~halfway])
    assert np.abs(found - exact).max() <= 0.501


@pytest.mark.parametrize(
    ("formula", "color", "gray"),
    [
        ("luma 709", (255, 0, 0), 54),  # 0.2126 · 255 = 54.2
        ("luma 709", (0, 0, 255), 18),  # 0.0722 · 255 = 18.4
        ("mean", (255, 1, 0), 85),  # 85.33
        ("mean", (255, 1, 1), 86),  # 85.67
        ("lightness", (0, 90, 255), 128),  # 127.5
        ("lightness", (10, 90, 20), 50),
        ("luminance", (255, 0, 0), 127),  # 1.055 · 0.2126^(1/2.4) - 0.055 = 0.4985
        ("luminance", (0, 0, 255), 76),  # 1.055 · 0.0722^(1/2.4) - 0.055 = 0.2979
    ],
)
def test_other_formulas_of_known_colours_are_known(formula, color, gray):
    assert images.to_grayscale(np.array([color], np.uint8), formula).tolist() == [[gray]]


def test_formulas_are_the_default_and_four_others():
    assert set(images.GRAYSCALE_FORMULAS) == {"luma 601", *OTHER_FORMULAS}


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.combinations(images.GRAYSCALE_FORMULAS, 2))
)
def test_formulas_differ(first, second, colors):
    one, other = (images.to_grayscale(colors, formula) for formula in (first, second))
    assert (one != other).mean() > 0.1


@pytest.mark.parametrize("num_images", [0, 1, 499, 500, 501, 1000, 1001])
@pytest.mark.parametrize("formula", images.GRAYSCALE_FORMULAS)
def test_grayscale_does_not_depend_on_the_number_of_images(num_images, formula):
    rgb = np.random.default_rng(2).integers(0, 256, (num_images, 4, 4, 3), np.uint8)
    gray = images.to_grayscale(rgb, formula)
    assert (gray.dtype, gray.shape) == (np.uint8, (num_images, 4, 4, 1))
    one_row = images.to_grayscale(rgb.reshape(-1, 3), formula)
    np.testing.assert_array_equal(gray.ravel(), one_row.ravel())


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 6, 3), (2, 4, 6, 3), (2, 1, 4, 6, 3)])
def test_grayscale_keeps_any_shape(shape):
    gray = images.to_grayscale(np.full(shape, 7, np.uint8))
    assert gray.shape == (*shape[:-1], 1)
    assert np.unique(gray).tolist() == [7]


def test_grayscale_of_a_view_is_that_of_its_copy(random_images):
    view = random_images[::-2, :, ::3]
    copied = np.ascontiguousarray(view)
    np.testing.assert_array_equal(images.to_grayscale(view), images.to_grayscale(copied))


BAD_IMAGES = {
    "floats": np.zeros((2, 32, 32, 3), np.float32),
    "wide integers": np.zeros((2, 32, 32, 3), np.int64),
    "four channels": np.zeros((2, 32, 32, 4), np.uint8),
    "one channel": np.zeros((2, 32, 32, 1), np.uint8),
    "channels first": np.zeros((2, 3, 32, 32), np.uint8),
}


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_grayscale_of_anything_but_colour_bytes_is_refused(bad):
    with pytest.raises(ValueError, match="expected uint8 with 3 channels last, found"):
        images.to_grayscale(BAD_IMAGES[bad])


def test_unknown_formula_is_refused_with_the_known_ones(random_images):
    with pytest.raises(ValueError, match="luma 601, luma 709, mean, lightness, luminance"):
        images.to_grayscale(random_images, "luma")


# Scaling


def test_unit_range_divides_by_255():
    scaled = images.to_unit_range(np.arange(256, dtype=np.uint8))
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [float(np.float32(value / 255)) for value in range(256)]


def test_scaling_twice_is_refused(random_images):
    with pytest.raises(ValueError, match="expected uint8 from 0 to 255, found float32"):
        images.to_unit_range(images.to_unit_range(random_images))


def test_images_without_an_axis_for_channels_have_no_statistics():
    told = r"expected \(n, height, width, C\), found \(5, 32, 32\)"
    with pytest.raises(ValueError, match=told):
        images.channel_statistics(np.zeros((5, 32, 32), np.uint8))


@pytest.mark.parametrize("num_images", [1, 499, 500, 501])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_channel_statistics_are_those_of_scikit_learn(num_images, num_channels):
    shape = (num_images, 4, 4, num_channels)
    pixels = (np.random.default_rng(3).beta(2, 5, shape) * 255).astype(np.uint8)
    statistics = images.channel_statistics(pixels)
    scaler = StandardScaler().fit(pixels.reshape(-1, num_channels) / 255)
    assert statistics.mean.dtype == statistics.std.dtype == np.float32
    np.testing.assert_allclose(statistics.mean, scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(statistics.std, scaler.scale_, rtol=1e-6)


def test_standardize_is_the_standard_scaler_of_the_training_images(tiny):
    train = tiny[0].images
    scaler = StandardScaler().fit(train.reshape(-1, 3) / 255)
    statistics = images.channel_statistics(train)
    for split in tiny:
        found = images.standardize(split.images, statistics)
        expected = scaler.transform(split.images.reshape(-1, 3) / 255).reshape(found.shape)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_standardize_gives_the_training_images_mean_0_and_deviation_1(tiny):
    train = tiny[0].images
    found = images.standardize(train, images.channel_statistics(train)).astype(np.float64)
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=1e-6)


def test_standardize_leaves_a_constant_channel_at_0():
    constant = np.full((2, 4, 4, 3), 77, np.uint8)
    found = images.standardize(constant, images.channel_statistics(constant))
    np.testing.assert_allclose(found, 0, atol=1e-7)


def test_standardize_refuses_another_number_of_channels(tiny, tiny_gray):
    statistics = images.channel_statistics(tiny[0].images)
    with pytest.raises(ValueError, match="expected 3 channels as in the statistics, found 1"):
        images.standardize(tiny_gray[0].images, statistics)


def test_standardize_refuses_what_is_scaled_already(tiny):
    statistics = ChannelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="expected uint8"):
        images.standardize(images.to_unit_range(tiny[0].images), statistics)


def test_channel_statistics_refuse_floats(tiny):
    with pytest.raises(ValueError, match="expected uint8"):
        images.channel_statistics(tiny[0].images / 255)


# Labels and rows


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_one_hot_is_that_of_scikit_learn(dtype):
    labels = np.random.default_rng(4).integers(0, 10, 100).astype(dtype)
    encoder = OneHotEncoder(categories=[range(10)], sparse_output=False)
    found = images.one_hot(labels)
    assert (found.dtype, found.shape) == (np.float32, (100, 10))
    np.testing.assert_array_equal(found, encoder.fit_transform(labels[:, None]))


def test_one_hot_of_no_labels_has_no_rows():
    assert images.one_hot(np.array([], np.uint8), 4).shape == (0, 4)


@pytest.mark.parametrize(("labels", "num_classes"), [([10], 10), ([0, -1], 10), ([3], 3)])
def test_one_hot_refuses_labels_out_of_range(labels, num_classes):
    with pytest.raises(ValueError, match=f"expected 0 to {num_classes - 1}, found"):
        images.one_hot(np.array(labels), num_classes)


@pytest.mark.parametrize("labels", [[[1], [2]], [1.0, 2.0], ["cat"], [True, False], 3])
def test_one_hot_refuses_anything_but_a_row_of_integers(labels):
    with pytest.raises(ValueError, match="expected integers"):
        images.one_hot(np.array(labels))


def test_flatten_gives_one_row_an_image(random_images):
    rows = images.flatten(random_images)
    assert rows.shape == (20, 3072)
    assert rows[7].tolist() == [value for row in random_images[7] for px in row for value in px]


def test_flatten_of_no_images_has_no_rows():
    assert len(images.flatten(np.zeros((0, 32, 32, 3), np.uint8))) == 0


@pytest.mark.parametrize(
    "function",
    [
        *(lambda rgb, name=name: images.to_grayscale(rgb, name) for name in OTHER_FORMULAS),
        images.to_grayscale,
        images.to_unit_range,
        images.channel_statistics,
        lambda rgb: images.standardize(rgb, ChannelStatistics(np.ones(3), np.ones(3))),
        images.flatten,
    ],
)
def test_images_are_never_changed(function, random_images):
    frozen = random_images.copy()
    frozen.setflags(write=False)  # as the cache gives them
    function(frozen)
    np.testing.assert_array_equal(frozen, random_images)


def jfif_ycbcr(red, green, blue):
    """JFIF 1.02, page 3, unrounded."""
    return (
        0.299 * red + 0.587 * green + 0.114 * blue,
        128 - 0.1687 * red - 0.3313 * green + 0.5 * blue,
        128 + 0.5 * red - 0.4187 * green - 0.0813 * blue,
    )


def test_luma_and_chroma_are_those_of_jpeg_files(colors):
    channels = np.moveaxis(colors.astype(float), -1, 0)
    expected = np.clip(np.stack(jfif_ycbcr(*channels), axis=-1), 0, 255)
    assert np.abs(images.to_ycbcr(colors) - expected).max() < 1.02


def test_luma_is_grayscale_cut_off_instead_of_rounded(random_images):
    luma = images.to_ycbcr(random_images)[..., :1].astype(int)
    assert np.unique(images.to_grayscale(random_images) - luma).tolist() == [0, 1]


def test_grays_have_no_chroma():
    grays = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    assert (images.to_ycbcr(grays)[:, 1:] == 128).all()


def test_there_and_back_changes_next_to_nothing(random_images):
    before = random_images.copy()
    there = images.to_ycbcr(random_images)
    back = images.from_ycbcr(there)
    assert there.dtype == back.dtype == np.uint8 and there.shape == back.shape == before.shape
    assert np.abs(back.astype(int) - random_images).max() <= 3
    assert (random_images == before).all()


@pytest.mark.parametrize("shape", [(3,), (7, 3), (0, 32, 32, 3), (2, 3, 5, 3)])
def test_chroma_takes_every_shape_and_any_strides(shape):
    pictures = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    one_by_one = [images.to_ycbcr(pixel) for pixel in pictures.reshape(-1, 3)]
    converted = images.to_ycbcr(pictures)
    assert converted.shape == shape and converted.flags.writeable
    assert converted.tolist() == np.reshape(one_by_one, shape).astype(np.uint8).tolist()
    if len(shape) > 1:
        assert (images.to_ycbcr(pictures[::-1]) == converted[::-1]).all()


@pytest.mark.parametrize("convert", [images.to_ycbcr, images.from_ycbcr])
def test_chroma_of_anything_but_colour_bytes_is_refused(convert, random_images):
    for wrong in (random_images / 255, random_images[..., :1]):
        with pytest.raises(ValueError, match="expected uint8 with 3 channels last"):
            convert(wrong)
