"""Figures: what they show, not how they look."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

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


def test_a_matrix_is_named_and_numbered():
    matrix = pd.DataFrame([[0.25, 0.75], [1, 0]], index=["cat", "dog"], columns=["cat", "dog"])
    figure, ax = plotting.subplots()
    plotting.plot_matrix(matrix, ax, bar_label="share")
    assert {"0.25", "0.75", "1.00", "0.00", "cat", "dog", "share"} <= set(texts(figure).split())


def test_a_map_shows_thumbnails_that_do_not_cover_each_other(tiny):
    positions = np.random.default_rng(0).uniform(0, 10, (50, 2))
    figure, ax = plotting.subplots(size=(8, 8))
    plotting.plot_image_map(positions, tiny[0].images, tiny[0].labels, ax, num_thumbnails=20)
    boxes = [a for a in ax.artists if isinstance(a, matplotlib.offsetbox.AnnotationBbox)]
    assert 5 < len(boxes) <= 20
    places = np.array([box.xy for box in boxes]) / 10
    gaps = np.abs(places[:, None] - places[None]).max(axis=-1) + np.eye(len(places))
    assert gaps.min() > 0.05
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
    assert [line.get_label() for line in loss.lines] == ["training, augmented", "validation"]
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [50, 70, 60])
    assert "best: epoch 2, 70.0%" in texts(figure) and "baseline" in texts(figure)
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_curves_without_validation_show_training_alone(num_epochs):
    figure = plotting.plot_history(make_history(num_epochs, validation=False))
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]
    is_marked = figure.axes[0].lines[0].get_marker() != "None"
    assert is_marked == (num_epochs == 1), "a single epoch would be invisible as a line"


def test_reliability_is_drawn_in_percent_beside_the_diagonal():
    table = pd.DataFrame({"confidence": [0.3, 0.9], "right": [0.2, 0.8], "images": [4, 6]})
    figure = plotting.plot_reliability({"as trained": table})
    diagonal, line = figure.axes[0].lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(line.get_xdata(), [30, 90])
    np.testing.assert_allclose(line.get_ydata(), [20, 80])
    assert "as trained" in texts(figure)
