"""Transformers beside their definitions, written as plain loops."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cifarlib import features, images, synthetic

SHAPES = {"gray": 1, "colour": 3}


@pytest.fixture(scope="module", params=SHAPES)
def rows(request):
    """Return 12 random images of 16×16 pixels as rows, float32 in the unit range."""
    rng = np.random.default_rng(0)
    return rng.random((12, 16 * 16 * SHAPES[request.param]), np.float32)


@pytest.fixture(
    params=[
        features.HistogramOfGradients(),
        features.PatchDictionary(num_patches=7, num_samples=500, random_state=0),
    ],
    ids=lambda transformer: type(transformer).__name__,
)
def transformer(request):
    return clone(request.param)


def test_features_are_float32_and_as_many_as_promised(transformer, rows):
    found = transformer.fit_transform(rows)
    assert found.dtype == np.float32
    width = 3 * 3 * 4 * 9 if isinstance(transformer, features.HistogramOfGradients) else 4 * 7
    assert found.shape == (12, width)
    assert np.isfinite(found).all()


def test_features_do_not_depend_on_the_company_of_an_image(transformer, rows):
    together = transformer.fit(rows).transform(rows)
    alone = np.concatenate([transformer.transform(rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_the_input_is_not_changed(transformer, rows):
    before = rows.copy()
    transformer.fit_transform(rows)
    np.testing.assert_array_equal(rows, before)


def test_brightness_and_contrast_hardly_matter(transformer, rows):
    transformer = transformer.fit(rows)
    brighter = transformer.transform(rows + np.float32(0.2))
    np.testing.assert_allclose(brighter, transformer.transform(rows), rtol=1e-2, atol=1e-2)


def test_parameters_survive_a_clone_and_the_same_seed_gives_the_same_features(transformer, rows):
    first, second = (clone(transformer).fit_transform(rows) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def naive_gradients(picture: np.ndarray, cell: int = 4, bins: int = 9) -> np.ndarray:
    """Compute the features of one image pixel by pixel."""
    side = len(picture)
    cells = np.zeros((side // cell, side // cell, bins))
    for y in range(side):
        for x in range(side):
            edges = []
            for channel in range(picture.shape[2]):
                column, row = picture[:, x, channel], picture[y, :, channel]
                edges.append((np.gradient(column)[y], np.gradient(row)[x]))
            down, right = max(edges, key=lambda edge: np.hypot(*edge))
            position = (np.degrees(np.arctan2(down, right)) % 180) / 180 * bins
            share = position - np.floor(position)
            strength = np.hypot(down, right)
            cells[y // cell, x // cell, int(position) % bins] += strength * (1 - share)
            cells[y // cell, x // cell, (int(position) + 1) % bins] += strength * share
    found = []
    for y in range(side // cell - 1):
        for x in range(side // cell - 1):
            block = np.concatenate(
                [cells[y, x], cells[y, x + 1], cells[y + 1, x], cells[y + 1, x + 1]]
            )
            block = np.minimum(block / np.sqrt(block @ block + 1e-6), 0.2)
            found.append(block / np.sqrt(block @ block + 1e-6))
    return np.concatenate(found)


def test_histograms_of_gradients_are_those_of_the_plain_loop(rows):
    found = features.HistogramOfGradients().fit_transform(rows)
    for index in (0, 11):
        picture = rows[index].reshape(features.square_image_shape(rows.shape[1])).astype(float)
        np.testing.assert_allclose(found[index], naive_gradients(picture), atol=1e-4)


def test_similarities_to_patches_are_those_of_the_plain_loop(rows):
    dictionary = features.PatchDictionary(num_patches=5, num_samples=300, random_state=1)
    found = dictionary.fit_transform(rows)
    picture = rows[3].reshape(features.square_image_shape(rows.shape[1])).astype(float)
    expected = np.zeros((2, 2, 5))
    for y in range(11):
        for x in range(11):
            # The features' order within a patch is that of the windows: channel, row, column.
            patch = picture[y : y + 6, x : x + 6].transpose(2, 0, 1).ravel()
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10 / 255**2)
            white = (patch - dictionary.mean_) @ dictionary.whitening_
            distance = np.linalg.norm(white - dictionary.patches_, axis=1)
            expected[y // 6, x // 6] += np.maximum(distance.mean() - distance, 0)
    np.testing.assert_allclose(found[3], expected.ravel(), rtol=1e-3, atol=1e-3)


def test_whitened_patches_have_about_unit_covariance():
    drawn, _ = synthetic.generate(num_train=200, num_test=10)
    rows = images.flatten(images.to_unit_range(images.to_grayscale(drawn.images)))
    dictionary = features.PatchDictionary(
        num_patches=10, num_samples=5_000, whitening=1e-6, random_state=0
    ).fit(rows)
    random = np.random.RandomState(0)
    patches = dictionary._normalise(dictionary._sample(rows, random))
    white = (patches - dictionary.mean_) @ dictionary.whitening_
    # One direction, the mean of a patch, was taken out by the normalisation.
    values = np.linalg.eigvalsh(np.cov(white.T))
    assert values[0] < 0.1
    np.testing.assert_allclose(values[1:], 1, atol=0.25)


def test_patches_let_a_linear_model_see_what_pixels_hide():
    train, test = synthetic.generate(num_train=1_000, num_test=500)
    X_train, X_test = (
        images.flatten(images.to_unit_range(images.to_grayscale(split.images)))
        for split in (train, test)
    )
    scores = []
    for steps in ([], [features.PatchDictionary(50, num_samples=10_000, random_state=0)]):
        model = make_pipeline(*steps, StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        scores.append(model.fit(X_train, train.labels).score(X_test, test.labels))
    assert scores[1] > scores[0] + 0.15, scores


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda X: X[:, :-1], "square image"),
        (lambda X: np.where(X.max() == X, np.nan, X), "NaN"),
        (lambda X: X[:0], "minimum of 1 is required"),
    ],
)
def test_what_is_no_image_is_refused(transformer, rows, make, message):
    with pytest.raises(ValueError, match=message):
        transformer.fit(make(rows))


def test_another_number_of_features_is_refused(transformer, rows):
    transformer.fit(rows)
    with pytest.raises(ValueError, match="features"):
        transformer.transform(rows[:, : 8 * 8])


@pytest.mark.parametrize("cell_size", [5, 16])
def test_cells_that_do_not_fit_are_refused(rows, cell_size):
    with pytest.raises(ValueError, match=f"cell_size={cell_size}"):
        features.HistogramOfGradients(cell_size=cell_size).fit(rows)


def test_patches_larger_than_the_image_are_refused(rows):
    with pytest.raises(ValueError, match="patch_size=16"):
        features.PatchDictionary(patch_size=16).fit(rows)


def test_more_patches_than_samples_are_refused(rows):
    with pytest.raises(ValueError, match="n_samples=20"):
        features.PatchDictionary(num_patches=30, num_samples=20).fit(rows)


@pytest.mark.parametrize(("num_features", "shape"), [(1024, (32, 32, 1)), (3072, (32, 32, 3))])
def test_shape_of_square_images(num_features, shape):
    assert features.square_image_shape(num_features) == shape
