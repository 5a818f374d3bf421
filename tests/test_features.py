"""Transformers beside their definitions, written as plain loops."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from threadpoolctl import threadpool_limits

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
        features.MirrorInvariant(features.HistogramOfGradients()),
        features.MirrorInvariant(
            features.PatchDictionary(num_patches=7, num_samples=500, random_state=0)
        ),
    ],
    ids=lambda transformer: repr(transformer).partition("(num")[0],
)
def transformer(request):
    return clone(request.param)


def test_features_are_float32_and_as_many_as_promised(transformer, rows):
    found = transformer.fit_transform(rows)
    assert found.dtype == np.float32
    width = 4 * 7 if "Patch" in repr(transformer) else 3 * 3 * 4 * 9
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
    with pytest.raises(ValueError, match="patch_size=1: expected 2 or more on gray images"):
        features.PatchDictionary(patch_size=1).fit(np.zeros((20, 8 * 8), np.float32))


def test_more_patches_than_samples_are_refused(rows):
    with pytest.raises(ValueError, match="n_samples=20"):
        features.PatchDictionary(num_patches=30, num_samples=20).fit(rows)


@pytest.mark.parametrize(("num_features", "shape"), [(1024, (32, 32, 1)), (3072, (32, 32, 3))])
def test_shape_of_square_images(num_features, shape):
    assert features.square_image_shape(num_features) == shape


@pytest.fixture(
    params=[features.Whitening(), features.FirstColumns(), features.FirstColumns(3)], ids=repr
)
def for_any_rows(request):
    return clone(request.param)


@pytest.fixture
def small_rows():
    """Return 12 random colour images of 8×8 pixels."""
    return np.random.default_rng(0).random((12, 8 * 8 * 3), np.float32)


@pytest.fixture(params=["images", "whitening", "first columns"])
def any_transformer(request):
    """Return one of each kind, for what all have in common."""
    return {
        "images": features.MirrorInvariant(
            features.PatchDictionary(num_patches=7, num_samples=500, random_state=0)
        ),
        "whitening": features.Whitening(),
        "first columns": features.FirstColumns(20),
    }[request.param]


def assert_conventions(estimator) -> None:
    with threadpool_limits(1):  # many tiny clusterings, whose threads would only wait
        results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    # float32 products round differently at other places of a block, on some processors' kernels:
    # scikit-learn allows 1e-7 of it, the test below what single precision can promise.
    failed.pop("check_methods_sample_order_invariance", None)
    assert not failed
    assert sum(result["status"] == "passed" for result in results) > 40


def test_transformers_of_any_rows_keep_all_conventions_of_scikit_learn(for_any_rows):
    if for_any_rows.get_params().get("count") == 3:
        for_any_rows.set_params(count=1)  # some checks have a single feature
    assert_conventions(for_any_rows)


def test_the_order_of_rows_does_not_matter(any_transformer, small_rows):
    fitted = any_transformer.fit(small_rows)
    order = np.random.default_rng(1).permutation(len(small_rows))
    found, expected = fitted.transform(small_rows[order]), fitted.transform(small_rows)[order]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "transformer",
    [
        features.HistogramOfGradients(),
        features.PatchDictionary(num_patches=4, num_samples=200, random_state=0),
        features.MirrorInvariant(features.HistogramOfGradients()),
    ],
    ids=lambda transformer: type(transformer).__name__,
)
def test_transformers_of_images_keep_them_where_rows_are_filled_up(transformer, monkeypatch):
    validate = features.validate_data

    def filled_up(*arguments, **options):
        """Validate rows as they came, then append zeros to make gray images of 8×8 pixels."""
        X = validate(*arguments, **options)
        return np.pad(X, [(0, 0), (0, max(0, 64 - X.shape[1]))])

    monkeypatch.setattr(features, "validate_data", filled_up)
    assert_conventions(transformer)


def test_what_is_not_fitted_says_so(any_transformer, small_rows):
    with pytest.raises(NotFittedError):
        any_transformer.transform(small_rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(any_transformer, small_rows, bad):
    spoiled = small_rows.copy()
    spoiled[3, 5] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        any_transformer.fit(spoiled)
    any_transformer.fit(small_rows)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        any_transformer.transform(spoiled)


def test_a_row_of_another_length_is_refused(any_transformer, small_rows):
    any_transformer.fit(small_rows)
    with pytest.raises(ValueError, match=r"is expecting .* features"):
        any_transformer.transform(small_rows[:, : 8 * 8])


def test_a_pickle_gives_the_same_features(any_transformer, small_rows):
    any_transformer.fit(small_rows)
    again = pickle.loads(pickle.dumps(any_transformer))
    np.testing.assert_array_equal(
        again.transform(small_rows), any_transformer.transform(small_rows)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X.astype(np.float64),
        lambda X: X.astype(np.uint8),
        lambda X: X.tolist(),
        np.asfortranarray,
        lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    ],
    ids=["float64", "uint8", "list", "columns first", "every other"],
)
def test_kind_and_layout_of_the_numbers_do_not_matter(any_transformer, small_rows, change):
    X = np.round(small_rows * 255)
    expected = any_transformer.fit_transform(X)
    found = clone(any_transformer).fit_transform(change(X))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def mirror(rows: np.ndarray) -> np.ndarray:
    """Turn each row of pixels left to right, pixel by pixel."""
    height, width, channels = features.square_image_shape(rows.shape[1])
    mirrored = np.empty_like(rows)
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                source = (y * width + width - 1 - x) * channels + c
                mirrored[:, (y * width + x) * channels + c] = rows[:, source]
    return mirrored


@pytest.mark.parametrize(
    "inner",
    [
        features.HistogramOfGradients(),
        features.PatchDictionary(num_patches=7, num_samples=500, random_state=0),
    ],
    ids=lambda transformer: type(transformer).__name__,
)
def test_an_image_and_its_mirror_image_have_the_same_features(rows, inner):
    invariant = features.MirrorInvariant(inner).fit(rows)
    found = invariant.transform(rows)
    np.testing.assert_allclose(invariant.transform(mirror(rows)), found, rtol=1e-5, atol=1e-6)
    plain = clone(inner).fit(rows)
    both = [plain.transform(rows).astype(float), plain.transform(mirror(rows)).astype(float)]
    assert np.abs(both[0] - both[1]).max() > 0.01
    np.testing.assert_allclose(found, (both[0] + both[1]) / 2, rtol=1e-5, atol=1e-6)


def test_making_features_invariant_leaves_the_given_transformer_unfitted(rows):
    inner = features.HistogramOfGradients()
    features.MirrorInvariant(inner).fit(rows)
    assert not hasattr(inner, "n_features_in_")


def test_a_transformer_that_passes_its_input_on_is_averaged_without_harm(rows):
    before = rows.copy()
    found = features.MirrorInvariant(features.FirstColumns()).fit_transform(rows)
    np.testing.assert_array_equal(rows, before)
    np.testing.assert_allclose(found, (rows + mirror(rows)) / 2, rtol=1e-6)


@pytest.fixture
def mixed():
    """Return 400 rows of 6 features that depend on each other and differ in scale."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 5
    return X * [0.01, 1, 1, 10, 1, 100]


def test_whitened_features_are_uncorrelated_where_the_floor_is_tiny(mixed):
    white = features.Whitening(floor=1e-6).fit_transform(mixed)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(np.cov(white.T, ddof=0), np.eye(6), atol=2e-2)


@pytest.mark.parametrize("floor", [1e-3, 0.03, 1.0])
def test_whitening_divides_by_the_root_of_variance_plus_floor(mixed, floor):
    white = features.Whitening(floor=floor).fit_transform(mixed)
    standard = (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)
    values, vectors = np.linalg.eigh(standard.T @ standard / len(mixed))
    np.testing.assert_allclose((white @ vectors).var(axis=0), values / (values + floor), rtol=1e-2)
    expected = standard @ vectors / np.sqrt(values + floor) @ vectors.T
    np.testing.assert_allclose(white, expected, atol=1e-2)


def test_whitening_does_not_depend_on_scale_and_offset(mixed):
    found = features.Whitening().fit_transform(mixed)
    moved = features.Whitening().fit_transform(mixed * [1, 2, 4, 8, 16, 32] - 3)
    np.testing.assert_allclose(moved, found, atol=1e-2)


def test_whitening_of_constant_and_of_repeated_columns_is_finite(mixed):
    for constant in (0.0, 1.0, 0.1, 1e6):
        X = np.column_stack([mixed, mixed[:, 0], np.full(len(mixed), constant)])
        found = features.Whitening().fit(X)
        white = found.transform(X)
        assert np.isfinite(white).all()
        np.testing.assert_allclose(white[:, -1], 0, atol=1e-3)
        # A pixel that was constant in training and is not later does not drown the others.
        X[:, -1] += 0.01
        assert np.abs(found.transform(X)).max() < 20


def test_rows_fewer_than_features_are_whitened_too(rows):
    found = features.Whitening().fit_transform(rows)
    assert found.shape == rows.shape
    assert np.isfinite(found).all()


@pytest.mark.parametrize("floor", [0, -1, float("nan")])
def test_a_floor_that_is_none_is_refused(rows, floor):
    with pytest.raises(ValueError, match=f"floor={floor}: expected a number above 0"):
        features.Whitening(floor=floor).fit(rows)


@pytest.mark.parametrize("count", [None, 1, 5, 6])
def test_the_first_columns_are_kept(mixed, count):
    found = features.FirstColumns(count).fit_transform(mixed)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, mixed.astype(np.float32)[:, slice(count)])


@pytest.mark.parametrize("count", [0, -1, 7])
def test_more_columns_than_there_are_or_none_at_all_are_refused(mixed, count):
    with pytest.raises(ValueError, match=f"count={count}: expected 1 to 6"):
        features.FirstColumns(count).fit(mixed)


def test_more_rows_than_are_read_at_once_are_whitened_alike():
    deviations = np.repeat([1.0, 3.0], 6_000)[:, None]
    X = np.random.default_rng(0).normal(size=(12_000, 3)) * deviations
    white = features.Whitening(floor=1e-6).fit_transform(X)
    np.testing.assert_allclose(np.cov(white.T, ddof=0), np.eye(3), atol=2e-2)
