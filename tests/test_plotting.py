"""Figures: what they show, not how they look."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.transforms import Bbox

from cifarlib import data, plotting

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures():
    plotting.use_style()
    yield
    plt.close("all")


def texts(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_figures_of_synthetic_images_are_marked_and_others_are_not(tiny):
    figure, _ = plotting.subplots()
    assert "SYNTHETIC" not in texts(figure)
    with pytest.warns(data.SyntheticDataWarning):
        data.load_cifar10("synthetic")
    figure, _ = plotting.subplots()
    assert "SYNTHETIC" in texts(figure)
    assert "SYNTHETIC" in texts(plotting.show_images(tiny[0].images[:3]))


def test_images_are_shown_as_they_are(tiny):
    pictures = tiny[0].images[:3]
    figure = plotting.show_images(pictures, ["a", "b", "c"], row_names=["row"], num_columns=2)
    shown = [ax.images[0] for ax in figure.axes if ax.images]
    np.testing.assert_array_equal([image.get_array() for image in shown], pictures)
    assert {image.get_clim() for image in shown} == {(0, 255)}
    assert {"a", "b", "c", "row"} <= set(texts(figure).split())


def test_no_images_are_a_figure_that_says_so(tiny):
    figure = plotting.show_images(tiny[0].images[:0], [], title="suspicious")
    assert "no images" in texts(figure) and "suspicious" in texts(figure)


@pytest.mark.parametrize("captions", [["a"], ["a", "b", "c"]])
def test_each_image_has_a_caption_or_none_has(captions, tiny):
    with pytest.raises(ValueError, match=f"expected 2 captions.*found {len(captions)}"):
        plotting.show_images(tiny[0].images[:2], captions)


def test_gray_images_are_not_stretched_to_their_own_range():
    figure = plotting.show_images(np.full((1, 4, 4, 1), 100, np.uint8))
    assert figure.axes[0].images[0].get_clim() == (0, 255)
    figure = plotting.show_images(np.full((1, 4, 4, 1), 0.4, np.float32))
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_histograms_are_shares_of_pixels():
    pictures = np.zeros((1, 2, 2, 3), np.uint8)
    pictures[0, 0, 0] = (255, 0, 128)
    _, ax = plotting.subplots()
    plotting.plot_channel_histograms(pictures, ax)
    red, green, blue = (line.get_ydata() for line in ax.lines)
    assert (red[0], red[255]) == (75, 25)
    assert green[0] == 100
    assert (blue[0], blue[128]) == (75, 25)
    assert ax.get_xlabel() and ax.get_ylabel()


def test_channels_differ_in_more_than_colour():
    assert len({line for _, _, line in plotting.CHANNELS}) == 3


def test_bars_have_the_height_of_the_counts():
    counts = pd.DataFrame({"train": [3, 5], "test": [1, 2]}, index=["cat", "dog"])
    figure = plotting.plot_class_counts(counts)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [3, 5, 1, 2]
    assert {"cat", "dog", "train", "test"} <= set(texts(figure).split())


def test_each_split_has_a_colour_of_its_own():
    counts = pd.DataFrame({"train": [3], "validation": [2], "test": [1]}, index=["cat"])
    figure = plotting.plot_class_counts(counts)
    assert len({bar.get_facecolor() for bar in figure.axes[0].patches}) == 3


def test_a_matrix_is_named_and_numbered():
    matrix = pd.DataFrame([[0.25, 0.75], [1, 0]], index=["cat", "dog"], columns=["cat", "dog"])
    figure, ax = plotting.subplots()
    plotting.plot_matrix(matrix, ax, bar_label="share")
    assert {"0.25", "0.75", "1.00", "0.00", "cat", "dog", "share"} <= set(texts(figure).split())


@pytest.mark.parametrize("colors", [plotting.AMOUNTS, plotting.DIFFERENCES])
def test_every_number_of_a_matrix_can_be_read(colors):
    """Contrast as the Web Content Accessibility Guidelines 2.2 define it."""

    def luminance(color):
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in matplotlib.colors.to_rgb(color)
        ]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    values = np.linspace(-1, 1, 40).reshape(2, 20)
    values[1, 3] = np.nan  # has no number
    _, ax = plotting.subplots()
    plotting.plot_matrix(pd.DataFrame(values), ax, colors=colors)
    shown, norm = matplotlib.colormaps[colors], ax.collections[0].norm
    assert len(ax.texts) == 39
    for text in ax.texts:
        column, row = map(int, text.get_position())
        cell = shown(norm(values[row, column]))
        darker, lighter = sorted(luminance(color) for color in (text.get_color(), cell))
        assert (lighter + 0.05) / (darker + 0.05) > 3.5, text.get_text()


@pytest.mark.parametrize(("fmt", "told"), [(",d", "1,234"), (".0%", "123400%"), ("+d", "+1234")])
def test_a_matrix_takes_every_format_of_a_number(fmt, told):
    figure, ax = plotting.subplots()
    plotting.plot_matrix(pd.DataFrame([[1234, 0], [0, -5]]), ax, fmt=fmt)
    shown = set(texts(figure).split())
    assert {told, format(0, fmt.replace("+", ""))} <= shown


def test_the_diagonal_of_differences_does_not_pale_what_is_beside_it():
    matrix = pd.DataFrame([[-16.0, 2.0], [-4.0, -9.0]], index=list("ab"), columns=list("ab"))
    _, ax = plotting.subplots()
    plotting.plot_matrix(matrix, ax, colors=plotting.DIFFERENCES, center=0)
    assert ax.collections[0].get_clim() == (-4, 4)
    _, ax = plotting.subplots()
    plotting.plot_matrix(matrix, ax)
    assert ax.collections[0].get_clim() == (-16, 2)


@pytest.mark.filterwarnings("error")
def test_a_map_of_images_in_one_line_shows_thumbnails_too(tiny):
    positions = np.stack([np.arange(10.0), np.full(10, 3.0)], axis=1)
    _, ax = plotting.subplots(size=(8, 8))
    plotting.plot_image_map(positions, tiny[0].images[:10], tiny[0].labels[:10], ax)
    assert [a for a in ax.artists if isinstance(a, matplotlib.offsetbox.AnnotationBbox)]


def test_a_map_shows_thumbnails_that_do_not_cover_each_other(tiny):
    positions = np.random.default_rng(0).uniform(0, 10, (50, 2))
    figure, ax = plotting.subplots(size=(8, 8))
    plotting.plot_image_map(positions, tiny[0].images, tiny[0].labels, ax, num_thumbnails=20)
    boxes = [a for a in ax.artists if isinstance(a, matplotlib.offsetbox.AnnotationBbox)]
    assert 5 < len(boxes) <= 20
    limits = {(box.offsetbox.image.norm.vmin, box.offsetbox.image.norm.vmax) for box in boxes}
    assert limits == {(0, 255)}, "a dark gray image stays dark"
    places = np.array([box.xy for box in boxes]) / 10
    gaps = np.abs(places[:, None] - places[None]).max(axis=-1) + np.eye(len(places))
    assert gaps.min() > 0.05
    marks = [handle.get_paths()[0].vertices.tolist() for handle in ax.get_legend().legend_handles]
    assert len({str(mark) for mark in marks}) == 10, "a shape for each class, not only a colour"
    assert set(data.CLASS_NAMES) <= set(texts(figure).split())


def make_history(num_epochs, *, validation=True) -> pd.DataFrame:
    history = {"epoch": range(1, num_epochs + 1)}
    for name in ("loss", "accuracy"):
        history[name] = np.linspace(0.2, 0.6, num_epochs)
        if validation:
            history[f"validation_{name}"] = [0.5, 0.7, 0.6][:num_epochs]
    return pd.DataFrame(history)


def test_curves_show_both_splits_in_percent_and_name_the_best_epoch():
    figure = plotting.plot_history(make_history(3), "baseline")
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["training, as learned", "validation"]
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [50, 70, 60])
    assert "best: epoch 2, 70.0%" in texts(figure) and "baseline" in texts(figure)
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_curves_without_validation_show_training_alone(num_epochs):
    figure = plotting.plot_history(make_history(num_epochs, validation=False))
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]
    is_marked = figure.axes[0].lines[0].get_marker() != "None"
    assert is_marked == (num_epochs == 1), "a single epoch would be invisible as a line"


def test_every_line_of_a_reliability_diagram_is_drawn():
    table = pd.DataFrame({"confidence": [0.2, 0.9], "right": [0.1, 0.8]})
    figure = plotting.plot_reliability({f"network {number}": table for number in range(12)})
    assert len(figure.axes[0].lines) == 1 + 12


def test_reliability_is_drawn_in_percent_beside_the_diagonal():
    table = pd.DataFrame({"confidence": [0.3, 0.9], "right": [0.2, 0.8], "images": [4, 6]})
    figure = plotting.plot_reliability({"as trained": table})
    diagonal, line = figure.axes[0].lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(line.get_xdata(), [30, 90])
    np.testing.assert_allclose(line.get_ydata(), [20, 80])
    assert "as trained" in texts(figure)


def make_comparison() -> pd.DataFrame:
    """Return two variants with two seeds and three epochs each."""
    rows = [
        (variant, seed, epoch, 0.1 * epoch + 0.01 * seed, 0.2 * epoch + level + 0.1 * seed)
        for variant, level in (("plain", 0.0), ("dropout", 0.05))
        for seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    columns = ["variant", "seed", "epoch", "accuracy", "validation_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def test_a_comparison_has_a_line_of_means_and_a_band_of_all_seeds_for_each_variant():
    figure = plotting.plot_comparison(make_comparison(), "Dropout")
    training, validation = figure.axes
    assert [line.get_label() for line in validation.lines] == ["plain", "dropout"]
    np.testing.assert_allclose(training.lines[0].get_ydata(), [10.5, 20.5, 30.5])
    np.testing.assert_allclose(validation.lines[1].get_ydata(), [30, 50, 70])
    np.testing.assert_array_equal(validation.lines[1].get_xdata(), [1, 2, 3])
    band = validation.collections[1].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(25) and band[:, 1].max() == pytest.approx(75)
    assert len({line.get_marker() for line in validation.lines}) == 2, "told apart without colour"
    assert "Dropout" in texts(figure) and "accuracy (%)" in texts(figure)
    assert training.get_xlabel() == validation.get_xlabel() == "epoch"


@pytest.mark.parametrize("plot", [plotting.plot_comparison, plotting.plot_race])
def test_where_a_seed_has_stopped_no_mean_is_drawn(plot):
    histories = make_comparison().assign(seconds=1.0)
    histories = histories[~((histories["seed"] == 0) & (histories["epoch"] == 3))]
    figure = plot(histories, *([{}] if plot is plotting.plot_race else []))
    assert all(len(line.get_xdata()) == 2 for ax in figure.axes for line in ax.lines)


def test_a_comparison_of_one_epoch_with_one_seed_is_visible():
    histories = make_comparison().query("epoch == 1 and seed == 0")
    figure = plotting.plot_comparison(histories)
    assert all(line.get_marker() != "None" for ax in figure.axes for line in ax.lines)


def test_a_race_adds_up_seconds_and_draws_what_nothing_can_surpass():
    histories = make_comparison()
    histories["seconds"] = np.where(histories["variant"] == "plain", 4.0, 2.0)
    figure = plotting.plot_race(histories, {"arithmetic": 3.0, "memory": 1.0}, "As fast as it can")
    (ax,) = figure.axes
    plain, dropout, *floors = ax.lines
    np.testing.assert_allclose(plain.get_xdata(), [4, 8, 12])
    np.testing.assert_allclose(dropout.get_xdata(), [2, 4, 6])
    np.testing.assert_allclose(dropout.get_ydata(), [30, 50, 70])
    assert [line.get_label() for line in floors] == ["arithmetic", "memory"]
    assert [line.get_xdata()[0] for line in floors] == [3, 1]
    assert ax.get_xlim()[0] == 0 and ax.get_ylabel() == "validation accuracy (%)"
    assert "As fast as it can" in texts(figure)


def make_trials() -> pd.DataFrame:
    rows = [
        ("finished", 0.50, 32, 0.001, "max", False),
        ("pruned", 0.30, 16, 0.01, "max", True),
        ("failed", None, 64, 0.03, "stride", True),
        ("finished", 0.60, 48, 0.002, "average", True),
        ("finished", 0.55, 16, 0.005, "max", False),
        ("running", None, 16, 0.004, "max", False),
    ]
    columns = ["state", "accuracy", "width", "learning_rate", "pooling", "batch_normalization"]
    return pd.DataFrame(rows, columns=columns).rename_axis("trial")


def test_intervals_are_rows_from_the_top_filled_where_they_do_not_reach_zero():
    columns = {"value": [2.0, 1.0, -1.5], "low": [1.0, -0.5, -2.5], "high": [3.0, 2.5, -0.5]}
    table = pd.DataFrame(columns, index=["frog", "cat", "deer"])
    figure = plotting.plot_intervals(table, "Gains", label="points")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["deer", "cat", "frog"]
    assert ax.get_xlabel() == "points" and "Gains" in texts(figure)
    drawn = {}
    for container in ax.containers:
        dots, _, (bars,) = container.lines
        is_filled = dots.get_markerfacecolor() != "white"
        for x, y, segment in zip(*dots.get_data(), bars.get_segments(), strict=True):
            drawn[y] = (x, *segment[:, 0], is_filled)
    assert drawn == {0: (-1.5, -2.5, -0.5, True), 1: (1, -0.5, 2.5, False), 2: (2, 1, 3, True)}


def test_claims_are_drawn_beside_evidence_and_measurement():
    columns = {
        "claimed": [83.0, np.nan, 93.0],
        "evidence": [79.0, 46.7, np.nan],
        "measured": [82.0, 48.0, np.nan],
        "sd": [0.5, np.nan, np.nan],
    }
    table = pd.DataFrame(columns, index=["a", "b", "c"])
    figure = plotting.plot_claims(table, 3.3, "Claims")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    bands = [
        (bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in ax.patches
    ]
    np.testing.assert_allclose(bands, [(79.7, 3.3, 2), (43.4, 3.3, 1), (89.7, 3.3, 0)])
    claimed, evidence = (np.ma.filled(dots.get_offsets(), np.nan) for dots in ax.collections[:2])
    np.testing.assert_allclose(claimed, [[83, 2], [np.nan, np.nan], [93, 0]])
    np.testing.assert_allclose(evidence, [[79, 2], [46.7, 1], [np.nan, np.nan]])
    (errors,) = ax.containers[-1:]
    np.testing.assert_allclose(np.asarray(errors.lines[0].get_xdata(), float), [82, 48, np.nan])
    for told in ("Claims", "claimed", "evidence", "claim, less 3.3 points"):
        assert told in texts(figure)


def test_the_front_is_what_nothing_cheaper_reaches():
    columns = {
        "cost": [1.0, 10.0, 20.0, 40.0, 40.0, np.nan],
        "gain": [50.0, 70.0, 60.0, 75.0, 80.0, 90.0],
    }
    table = pd.DataFrame(columns, index=["a", "b", "c", "e", "d", "unknown"])
    figure = plotting.plot_tradeoff(table.iloc[::-1], "cost", "gain", "What it costs")
    (ax,) = figure.axes
    on, off = ax.collections
    np.testing.assert_allclose(on.get_offsets(), [[1, 50], [10, 70], [40, 80]])
    np.testing.assert_allclose(off.get_offsets(), [[20, 60], [40, 75]])
    np.testing.assert_allclose(ax.lines[0].get_xydata(), on.get_offsets())
    assert {"a", "b", "c", "d", "e"} <= set(texts(figure).split())
    assert "unknown" not in texts(figure)
    figure.canvas.draw()
    assert {"2", "5", "10", "20"} <= {label.get_text() for label in ax.get_xticklabels()}
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("cost", "gain", "log")


def test_a_tradeoff_of_nothing_says_so():
    table = pd.DataFrame({"cost": [np.nan], "gain": [50.0]}, index=["a"])
    figure = plotting.plot_tradeoff(table, "cost", "gain")
    figure.canvas.draw()
    assert "nothing is known of these" in texts(figure)


@pytest.mark.parametrize("largest", [30, 900, 8_000, 90_000])
def test_the_numbers_of_costs_keep_apart_however_far_they_reach(largest):
    costs = [3, 3 * largest**0.5, 3 * largest]
    table = pd.DataFrame({"cost": costs, "gain": [1.0, 2.0, 3.0]}, index=["a", "b", "c"])
    figure = plotting.plot_tradeoff(table, "cost", "gain")
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    labels = [
        text.get_window_extent()
        for place, text in zip(
            figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True
        )
        if low <= place <= high
    ]
    assert len(labels) >= 4
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(labels))


def test_names_of_points_that_lie_together_do_not_cover_each_other():
    places = {"cost": [10.0, 10.1, 10.2, 90.0, 91.0], "gain": [50.0, 50.2, 50.1, 80.0, 80.0]}
    names = ["one of them", "another one", "the third", "at the right edge", "and another there"]
    figure = plotting.plot_tradeoff(pd.DataFrame(places, index=names), "cost", "gain")
    figure.canvas.draw()
    (ax,) = figure.axes
    named = [text for text in ax.texts if text.get_text()]  # the others are lines to points
    extents = [text.get_window_extent() for text in named]
    assert [text.get_text() for text in named] == names
    for first, second in itertools.combinations(extents, 2):
        assert not first.overlaps(second)
    assert max(extent.x1 for extent in extents) <= ax.get_window_extent().x1


def test_names_of_points_do_not_lie_on_the_front():
    points = {"cost": [1.0, 10.0, 100.0, 30.0], "gain": [50.0, 80.0, 90.0, 79.0]}
    names = ["first", "the second", "the third", "a little below the line"]
    table = pd.DataFrame(points, index=names)
    figure = plotting.plot_tradeoff(table, "cost", "gain")
    figure.canvas.draw()
    (ax,) = figure.axes
    for here, there in itertools.pairwise(table.to_numpy()[:3]):
        corner = (there[0], here[1])
        for ends in ((here, corner), (corner, there)):
            part = Bbox(ax.transData.transform(ends))
            assert not any(part.overlaps(text.get_window_extent()) for text in ax.texts)


def test_a_name_stands_beside_its_own_point_or_at_the_end_of_a_line_to_it():
    places = {"cost": [3.0, 18.0, 20.7, 20.9, 2000.0], "gain": [48.0, 78.2, 78.6, 79.3, 92.2]}
    names = ["first", "baseline", "small_cnn_two_blocks", "baseline_regularized", "last"]
    points = pd.DataFrame(places, index=names)
    figure = plotting.plot_tradeoff(points, "cost", "gain")
    figure.canvas.draw()
    (ax,) = figure.axes
    led = [text.xy for text in ax.texts if text.arrow_patch]
    for text in [text for text in ax.texts if text.get_text()]:
        extent = text.get_window_extent()
        places = ax.transData.transform([text.xy, *points.to_numpy()])
        own, *others = np.hypot(*(places - places.clip(extent.min, extent.max)).T)
        assert text.xy in led or own == min(others)


def test_rows_of_one_name_are_joined_and_named_once_at_the_best():
    columns = {"cost": [1.0, 4.0, 2.0, 9.0], "gain": [50.0, 60.0, 70.0, 90.0]}
    table = pd.DataFrame(columns, index=["twice", "once", "twice", "last"])
    figure = plotting.plot_tradeoff(table, "cost", "gain")
    (ax,) = figure.axes
    named = {text.get_text(): text.xy for text in ax.texts if text.get_text()}
    assert sorted(text.get_text() for text in ax.texts if text.get_text()) == sorted(named)
    assert named == {"twice": (2, 70), "once": (4, 60), "last": (9, 90)}
    _, joining = ax.lines
    np.testing.assert_allclose(joining.get_xydata(), [[1, 50], [2, 70]])
    assert "the same, in another way" in texts(figure)
    apart = plotting.plot_tradeoff(table.drop_duplicates("cost").iloc[1:], "cost", "gain")
    assert len(apart.axes[0].lines) == 1 and "the same, in another way" not in texts(apart)


def test_names_of_neighbours_are_told_apart():
    # As networks of chapter 6 lie: a name in the middle would be either's.
    names = ["baseline_regularized", "baseline", "last"]
    table = pd.DataFrame({"cost": [1.5, 1.8, 50], "gain": [79.5, 79.6, 90]}, names)
    (ax,) = plotting.plot_tradeoff(table, "cost", "gain").axes
    ax.figure.canvas.draw()
    led = [text.xy for text in ax.texts if text.arrow_patch]
    for text in [text for text in ax.texts if text.get_text()]:
        extent = text.get_window_extent()
        others = table.drop(index=text.get_text()).to_numpy()
        places = ax.transData.transform([text.xy, *others])
        own, *far = np.hypot(*(places - places.clip(extent.min, extent.max)).T)
        assert text.xy in led or min(far) > 1.5 * own


def test_a_search_shows_how_each_trial_ended_and_the_best_so_far():
    figure = plotting.plot_search(make_trials())
    (ax,) = figure.axes
    finished, pruned = ax.collections
    assert (finished.get_label(), pruned.get_label()) == ("finished", "pruned")
    np.testing.assert_allclose(finished.get_offsets(), [[0, 50], [3, 60], [4, 55]])
    np.testing.assert_allclose(pruned.get_offsets(), [[1, 30]])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [50, 50, 50, 60, 60, 60])
    assert "default" in texts(figure) and "validation accuracy (%)" in texts(figure)
    figure = plotting.plot_search(make_trials().iloc[1:])
    assert "default" not in texts(figure), "trial 0 is not there"
    trials = make_trials()
    trials.loc[0, "state"] = "failed"
    assert "default" not in texts(plotting.plot_search(trials)), "nobody knows what it is worth"


def test_importance_is_drawn_in_percent_the_largest_on_top():
    shares = pd.Series({"width": 0.7, "kernel": 0.3})
    (ax,) = plotting.plot_importance(shares).axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["kernel", "width"], "from below"
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([30, 70])


PARAMETERS = ["width", "learning_rate", "pooling", "batch_normalization"]


def test_finished_trials_are_lines_through_their_values_the_best_one_thick():
    figure = plotting.plot_parallel(make_trials(), PARAMETERS)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(PARAMETERS)]
    assert len(lines) == 3, "finished trials alone"
    *_, best = lines
    assert best.get_linewidth() > lines[0].get_linewidth()
    # Of 16, 32, 48; 0.001, 0.002, 0.005; average, max; False, True.
    np.testing.assert_allclose(best.get_ydata(), [1, 0.5, 0, 1])
    np.testing.assert_allclose(lines[0].get_ydata(), [0.5, 0, 1, 0])
    assert {"16", "48", "max", "average", "True", "False"} <= set(texts(figure).split())


def test_of_equal_trials_the_first_is_the_thick_one():
    trials = pd.concat([make_trials().iloc[[0]]] * 9, ignore_index=True)
    trials["width"] = range(9)
    figure = plotting.plot_parallel(trials, ["width", "learning_rate"])
    lines = [line for line in figure.axes[0].lines if line.get_xdata()[0] != line.get_xdata()[1]]
    (best,) = [line for line in lines if line.get_linewidth() > 2]
    assert best.get_ydata()[0] == 0 and best is lines[-1]


def test_the_ends_of_a_narrow_range_are_told_both():
    rates = np.linspace(0.003, 0.0030008, 9)
    trials = pd.DataFrame({"state": "finished", "accuracy": np.arange(9) / 9, "rate": rates})
    assert texts(plotting.plot_parallel(trials, ["rate"])).split().count("0.003") == 2


def test_the_ends_of_a_range_of_whole_numbers_are_whole_numbers():
    trials = pd.concat([make_trials().iloc[[0]]] * 9, ignore_index=True)
    trials["width"] = [16, 32, 48, 64, 128, 192, 256, 384, 512]
    told = texts(plotting.plot_parallel(trials, ["width", "learning_rate"])).split()
    assert {"16", "512"} <= set(told) and "5.1e+02" not in told


@pytest.mark.parametrize("num_trials", [1, 2])
def test_few_trials_that_are_all_equal_can_be_drawn(num_trials):
    trials = make_trials().iloc[[0] * num_trials].reset_index(drop=True)
    figure = plotting.plot_parallel(trials, PARAMETERS)
    figure.canvas.draw()
    plotting.plot_search(trials).canvas.draw()


def test_values_drawn_from_a_range_lie_where_their_logarithm_is():
    rates = np.geomspace(1e-4, 1e-2, 9)
    trials = pd.DataFrame({"state": "finished", "accuracy": np.arange(9) / 9, "rate": rates})
    figure = plotting.plot_parallel(trials, ["rate", "rate"])
    lines = [line for line in figure.axes[0].lines if line.get_xdata()[0] != line.get_xdata()[1]]
    np.testing.assert_allclose([line.get_ydata()[0] for line in lines], np.arange(9) / 8, atol=1e-9)
    assert {"0.0001", "0.01"} <= set(texts(figure).split())


def test_choices_that_are_lists_can_be_drawn():
    trials = pd.DataFrame({"state": "finished", "accuracy": [0.1, 0.2, 0.3]})
    trials["augmentation"] = [["flip"], [], ["flip", "crop"]]
    told = texts(plotting.plot_parallel(trials, ["augmentation"]))
    assert "none" in told and "flip, crop" in told


def test_a_choice_of_none_beside_numbers_can_be_drawn():
    trials = pd.DataFrame({"state": "finished", "accuracy": [0.1, 0.2], "patience": [None, 5]})
    assert "none" in texts(plotting.plot_parallel(trials, ["patience"]))


def test_many_choices_that_are_names_can_be_drawn():
    names = [f"choice{index}" for index in range(9)]
    trials = pd.DataFrame({"state": "finished", "accuracy": np.arange(9) / 9, "kind": names})
    plotting.plot_parallel(trials, ["kind"])
