"""What a finished run is worth: one look at the test set, in figures and on a page.

Writes ``evaluation.json`` and ``report.html`` into the run's folder; the page is one file and
opens offline. Not for choosing: whoever trains again because of this page has used the test
set up.
"""

import base64
import html
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.special
from matplotlib.figure import Figure

from cifarlib import (
    compute,
    data,
    evaluation,
    explain,
    files,
    models,
    plotting,
    report,
    runs,
    views,
)
from cifarlib.errors import InputError
from cifarlib.images import to_grayscale
from cifarlib.splits import CLASS_NAMES, Split, validation_places

NUM_MISTAKES = 16


class Report(NamedTuple):
    """What `evaluate` found.

    Attributes:
        figures: JSON values.
        answers: the class that the run gave to each test image, shape (n,).
        page: the HTML file.
    """

    figures: dict[str, Any]
    answers: np.ndarray
    page: Path

    def __str__(self) -> str:
        figures = self.figures
        classes = pd.DataFrame(figures["per_class"]).T.astype({"images": int})
        confusions = "\n".join(
            f"  {item['true_class']} taken for {item['answer']}: {item['percent']:.1f} %"
            for item in figures["top_confusions"]
        )
        confusions = confusions or "  none"
        return (
            f"{figures['model']}, {figures['color']}, seed {figures['seed']}: "
            f"{_told_accuracy(figures)} ({figures['data_kind']})\n\n"
            f"{classes.to_string(float_format='{:.3f}'.format)}\n\n"
            f"Most often confused, of a class:\n{confusions}\n\n"
            f"Calibration error {figures['calibration_error']:.3f}, "
            f"{figures['calibration_error_scaled']:.3f} at temperature "
            f"{figures['temperature']:.2f}\n"
            f"Report: {self.page}"
        )


def evaluate(folder: str | Path, *, with_views: bool = False) -> Report:
    """Judge a finished run on the test set and write the report.

    Args:
        folder: what `training.train` or ``cifarlib train`` wrote.
        with_views: look at each image six times (test-time augmentation, see `views`); figures
            and page say so.

    Returns:
        The answers, the page, and the figures: accuracy with a 95 % interval, precision, recall
        and F1 of each class, the confusion matrix, calibration before and after scaling by a
        temperature that was fitted on the validation images.

    Raises:
        InputError: if the run is not finished, is damaged, may not be written to, or was trained
            on other images than there are.
    """
    run = runs.read(folder)
    if not os.access(run.folder, os.W_OK):
        found = "a read-only one"
        raise InputError(run.folder, "a folder to write the report to", found, "Copy it.")
    train, test = data.load_cifar10()
    description = data.current()
    if (fingerprint := run.metrics.get("data_fingerprint")) != description.fingerprint:
        raise InputError(
            run.folder,
            f"a run on the images in use, {description.kind}",
            f"one on others, {run.metrics.get('data_kind')}",
            "Set CIFARLIB_SOURCE to what it was trained on."
            if fingerprint
            else "Train it without images of your own, or judge its model by yours (evaluation).",
        )
    pictures = _in_color(test.images, run)
    network = views.averaged(run.model) if with_views else run.model
    logits = compute.predict(network, pictures)
    figures = _figures(run, test.labels, logits, _temperature(run, network, train))
    figures["with_views"] = with_views
    files.write_json(run.folder / "evaluation.json", figures)
    page = run.folder / "report.html"
    files.write_text(page, _page(run, figures, pictures, test.labels, logits))
    return Report(figures, logits.argmax(axis=1), page)


def _in_color(pictures: np.ndarray, run: runs.Run) -> np.ndarray:
    return to_grayscale(pictures) if run.metrics["color"] == "gray" else np.asarray(pictures)


def _temperature(run: runs.Run, network: keras.Model, train: Split) -> float:
    """Fit the temperature on the images that the run held out; 1 if there were none."""
    fraction = run.metrics["config"]["validation_fraction"]
    if not fraction:
        return 1.0
    _, held_out = validation_places(train.labels, fraction)
    logits = compute.predict(network, _in_color(train.images[held_out], run))
    return evaluation.fit_temperature(train.labels[held_out], logits)


def _figures(run: runs.Run, labels, logits, temperature: float) -> dict[str, Any]:
    answers = logits.argmax(axis=1)
    accuracy = evaluation.accuracy(labels, answers)
    plain, scaled = (scipy.special.softmax(logits / t, axis=1) for t in (1, temperature))
    confusions = evaluation.confusions(labels, answers)
    top = evaluation.top_confusions(confusions)
    kept = ("model", "color", "seed", "data_kind", "data_fingerprint", "command")
    return {
        **{name: run.metrics[name] for name in kept},
        "hardware": trained_on(run.metrics),
        "accuracy": float(accuracy.value),
        "interval_95": [float(accuracy.low), float(accuracy.high)],
        "num_test_images": accuracy.n,
        "cross_entropy": evaluation.cross_entropy(labels, logits),
        "per_class": evaluation.per_class(labels, answers).to_dict("index"),
        "confusions": evaluation.confusions(labels, answers, normalize=False).to_dict("index"),
        "top_confusions": [
            {"true_class": true, "answer": answer, "percent": float(percent)}
            for (true, answer), percent in top.items()
            if percent > 0
        ],
        "calibration_error": evaluation.calibration_error(labels, plain),
        "temperature": temperature,
        "calibration_error_scaled": evaluation.calibration_error(labels, scaled),
    }


def _told_accuracy(figures: dict[str, Any]) -> str:
    low, high = figures["interval_95"]
    views = " in six views each (test-time augmentation)" if figures["with_views"] else ""
    return (
        f"{figures['accuracy']:.2%} of {figures['num_test_images']:,} test images right{views}, "
        f"95 % interval {low:.2%} to {high:.2%}"
    )


def _told_learning(config: Mapping[str, Any]) -> str:
    """Return how the two curves differ, and which epoch was saved."""
    is_changed = bool(config["augmentation"] and config["augmentation_strength"])
    looks = "changed before each look" if is_changed else "shown as they are"
    sizes = config.get("image_sizes", (models.IMAGE_SIZE,))  # older runs have none
    is_smaller = min(sizes) < models.IMAGE_SIZE
    if is_smaller:
        looks += ", at first smaller" if sizes[-1] == models.IMAGE_SIZE else ", smaller"
    loss = "counts the labels themselves"
    if config["label_smoothing"]:
        loss = "counts smoothed labels"
    elif is_changed and {"cutmix", "mixup"} & set(config["augmentation"]):
        loss = "counts mixed labels"
    told = f"Training images are {looks}, and their loss {loss}"
    if not config["validation_fraction"]:
        return f"{told}. No images were held out: the saved network is that of the last epoch."
    is_other = is_changed or is_smaller
    others = "; validation images are shown as they are" if is_other else ""
    return f"{told}{others}. The saved network is that of the best epoch."


def _told_confusions(figures: dict[str, Any]) -> str:
    if not figures["top_confusions"]:
        return "No image is taken for another class."
    worst = figures["top_confusions"][0]
    return (
        f"The largest number off the diagonal: {worst['percent']:.1f} % of "
        f"{worst['true_class']} images are taken for {worst['answer']}."
    )


def _told_confidence(config: Mapping[str, Any], figures: dict[str, Any]) -> str:
    line = "Above the dotted line it is right more often than it believes."
    error = figures["calibration_error"]
    if not config["validation_fraction"]:
        return (
            f"{line} The calibration error is {error:.3f}; no images were held out to mend it on."
        )
    return (
        f"{line} Dividing the scores by {figures['temperature']:.2f}, a number fitted on "
        f"validation images, changes the calibration error from {error:.3f} to "
        f"{figures['calibration_error_scaled']:.3f} and no answer."
    )


def _page(run: runs.Run, figures, pictures, labels, logits) -> str:
    """Return the report as one HTML file."""
    plotting.use_style()
    probabilities = scipy.special.softmax(logits, axis=1)
    scaled = scipy.special.softmax(logits / figures["temperature"], axis=1)
    matrix = evaluation.confusions(labels, logits.argmax(axis=1))
    confusion, ax = plotting.subplots(size=(8.5, 6.8), title="Who is taken for whom")
    plotting.plot_matrix(matrix, ax, fmt=".1f", bar_label="share of the true class (%)")
    config = run.metrics["config"]
    reliability = {"as trained": evaluation.reliability(labels, probabilities)}
    if config["validation_fraction"]:
        reliability["temperature-scaled"] = evaluation.reliability(labels, scaled)
    classes = pd.DataFrame(figures["per_class"]).T.astype({"images": int})
    parts = [
        (
            "Learning",
            _told_learning(config),
            _picture(plotting.plot_history(run.history)),
        ),
        (
            "Classes",
            "Precision: how many of the images called so are such. Recall: how many of such "
            "images are called so. In the last row each class counts the same.",
            classes.to_html(float_format="{:.3f}".format, border=0),
        ),
        (
            "Confusions",
            _told_confusions(figures),
            _picture(confusion),
        ),
        (
            "Confidence",
            _told_confidence(config, figures),
            _picture(plotting.plot_reliability(reliability)),
        ),
        (
            "Its surest mistakes",
            "Of all its wrong answers, those it was surest of.",
            _mistakes(run, pictures, labels, probabilities),
        ),
        (
            "Repeat it",
            "The command, and everything that was known when the run ended.",
            f"<pre>{html.escape(json.dumps(run.metrics, indent=2))}</pre>",
        ),
    ]
    title = f"{figures['model']}, {figures['color']}, seed {figures['seed']}"
    kind = ' class="synthetic"' if figures["data_kind"] == "synthetic" else ' class="facts"'
    body = "".join(
        f"<section><h2>{name}</h2><p>{html.escape(told)}</p>{content}</section>"
        for name, told, content in parts
    )
    told = f"{_told_accuracy(figures)}. {figures['data_kind']}; "
    told += f"trained on {trained_on(run.metrics)}"
    return report.page(
        title, f"<h1>{html.escape(title)}</h1><p{kind}>{html.escape(told)}</p>{body}"
    )


def trained_on(metrics: Mapping[str, Any]) -> str:
    """Return what a run's figures say that it was trained on: the first accelerator, or the CPU."""
    return next(iter(metrics["accelerators"]), metrics["hardware"])


def _mistakes(run: runs.Run, pictures, labels, probabilities) -> str:
    """Show the wrong answers it was surest of and, where it can, what they rested on."""
    worst = evaluation.most_confident_mistakes(labels, probabilities, NUM_MISTAKES)
    if not len(worst):
        return "<p>None.</p>"
    captions = [
        f"{CLASS_NAMES[labels[i]]}\ntaken for {CLASS_NAMES[probabilities[i].argmax()]}\n"
        f"{probabilities[i].max() * 100:.0f} % sure"
        for i in worst
    ]
    layout = {"num_columns": 8, "inches": 1.15}
    shown = _picture(plotting.show_images(pictures[worst], captions, **layout))
    try:
        answers = probabilities[worst].argmax(axis=1)  # those of six views may be others
        heat = explain.grad_cam(run.model, pictures[worst].astype(np.float32), answers)
    except InputError:  # a network of dense layers looks nowhere in particular
        return shown
    dimmed = pictures[worst] / 255 * (0.25 + 0.75 * heat[..., None])
    maps = plotting.show_images(dimmed.astype(np.float32), **layout)
    return (
        f"{shown}<p>The same, dark where Grad-CAM finds nothing that speaks for the answer:</p>"
        f"{_picture(maps)}"
    )


def _picture(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    plt.close(figure)
    return (
        f'<img alt="" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
    )
