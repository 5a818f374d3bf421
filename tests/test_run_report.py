"""The report of a finished run: its figures beside their definitions, its page as a file."""

import json
import re
import shutil

import keras
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from cifarlib import data, run_report, runs, splits, training
from cifarlib.errors import InputError
from cifarlib.splits import CLASS_NAMES

pytestmark = pytest.mark.filterwarnings("ignore::cifarlib.data.SyntheticDataWarning")


def small(x):
    """Look at the image once."""
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    return keras.layers.GlobalAveragePooling2D()(x)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return where the run is that all tests begin with."""
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def run(trained, monkeypatch, tmp_path):
    """Return a run in a folder of its own; it is trained for the first who asks."""
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    config = training.Config(small, color="gray", epochs=2, batch_size=10, validation_fraction=0.2)
    training.train(config, folder=trained, resume=True)
    return runs.read(shutil.copytree(trained, tmp_path / "run"))


def test_figures_are_those_of_the_saved_network_on_the_test_images(run):
    splits.forget_uses_of_test_set()
    report = run_report.evaluate(run.folder)
    assert len(splits.uses_of_test_set()) == 1, "one look at the test set"
    _, test = data.load_cifar10()
    from cifarlib import images

    logits = run.model.predict(images.to_grayscale(test.images), verbose=0)
    answers = logits.argmax(axis=1)
    assert report.answers.tolist() == answers.tolist()
    figures = report.figures
    assert figures["accuracy"] == pytest.approx(np.mean(answers == test.labels))
    assert figures["num_test_images"] == 20 and figures["data_kind"] == "synthetic"
    assert figures["interval_95"][0] < figures["accuracy"] < figures["interval_95"][1]
    for true, row in figures["confusions"].items():
        for answer, count in row.items():
            pair = CLASS_NAMES.index(true), CLASS_NAMES.index(answer)
            assert count == np.sum((test.labels == pair[0]) & (answers == pair[1]))
    worst = figures["top_confusions"][0]
    row = figures["confusions"][worst["true_class"]]
    assert worst["percent"] == pytest.approx(100 * row[worst["answer"]] / sum(row.values()))
    assert json.loads((run.folder / "evaluation.json").read_text()) == figures


def test_the_page_is_one_file_that_shows_curves_confusions_and_mistakes(run):
    page = run_report.evaluate(run.folder).page.read_text(encoding="utf-8")
    for heading in ("Learning", "Classes", "Confusions", "Confidence", "Its surest mistakes"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png;base64,") == 5, "three figures, mistakes and their maps"
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing to be fetched"
    assert 'class="synthetic"' in page


@pytest.mark.parametrize(
    ("fingerprint", "told"), [("0" * 64, "Set CIFARLIB_SOURCE"), (None, "images of your own")]
)
def test_a_run_on_other_images_is_not_judged_on_these(run, fingerprint, told):
    path = run.folder / "metrics.json"
    metrics = json.loads(path.read_text())
    path.write_text(json.dumps({**metrics, "data_fingerprint": fingerprint}))
    with pytest.raises(InputError, match=told):
        run_report.evaluate(run.folder)
    assert not (run.folder / "evaluation.json").exists()


def test_an_unfinished_run_is_not_judged(run):
    (run.folder / "metrics.json").unlink()
    with pytest.raises(InputError, match="--resume"):
        run_report.evaluate(run.folder)


def test_the_temperature_is_that_of_the_images_held_out(run):
    from cifarlib import evaluation, images

    train, _ = data.load_cifar10()
    _, held_out = splits.split_validation(train, fraction=0.2)
    logits = run.model.predict(images.to_grayscale(held_out.images), verbose=0)
    expected = evaluation.fit_temperature(held_out.labels, logits)
    answers = evaluation.fit_temperature(train.labels[:10], logits)
    assert expected != pytest.approx(answers, rel=1e-2), "it depends on the images"
    figures = run_report.evaluate(run.folder).figures
    assert figures["temperature"] == pytest.approx(expected, rel=1e-3)


def test_heat_maps_are_about_the_answers_that_are_told(run, monkeypatch):
    asked = []
    honest = run_report.explain.grad_cam

    def grad_cam(model, pictures, classes=None):
        asked.append(classes)
        return honest(model, pictures, classes)

    monkeypatch.setattr(run_report.explain, "grad_cam", grad_cam)
    answers = run_report.evaluate(run.folder, with_views=True).answers
    _, test = data.load_cifar10()
    (classes,) = asked
    assert len(classes) and set(classes.tolist()) <= set(answers[answers != test.labels].tolist())


def test_a_run_without_validation_images_keeps_its_temperature(monkeypatch, tmp_path):
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    config = training.Config(small, epochs=1, batch_size=10, validation_fraction=0)
    training.train(config, folder=tmp_path / "run")
    figures = run_report.evaluate(tmp_path / "run").figures
    assert figures["temperature"] == 1.0
    assert figures["calibration_error_scaled"] == figures["calibration_error"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "No images were held out" in page and "last epoch" in page
    assert "best epoch" not in page and "fitted on validation" not in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ("changed before each look", "smoothed labels", "best epoch")),
        ({"augmentation": []}, ("Training images are shown as they are", "smoothed labels")),
        ({"label_smoothing": 0.0}, ("changed before each look", "the labels themselves")),
        ({"augmentation_strength": 0.0}, ("Training images are shown as they are, and",)),
        ({"label_smoothing": 0.0, "augmentation": ["cutmix"]}, ("mixed labels",)),
        ({"image_sizes": [24, 32]}, ("changed before each look, at first smaller",)),
        ({"image_sizes": [24]}, ("changed before each look, smaller, and",)),
        ({"image_sizes": [24], "augmentation": []}, ("shown as they are, smaller", "validation")),
    ],
)
def test_the_page_tells_how_this_run_learned(changes, told, run):
    path = run.folder / "metrics.json"
    metrics = json.loads(path.read_text())
    config = {**metrics["config"], "augmentation": ["flip"], "label_smoothing": 0.1, **changes}
    path.write_text(json.dumps({**metrics, "config": config}))
    page = run_report.evaluate(run.folder).page.read_text(encoding="utf-8")
    learning = page[page.index("<h2>Learning") : page.index("<h2>Classes")]
    assert all(words in learning for words in told)


def test_a_run_of_a_time_when_all_images_were_whole_is_told(run):
    path = run.folder / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["config"]["image_sizes"]
    path.write_text(json.dumps(metrics))
    assert "smaller" not in run_report.evaluate(run.folder).page.read_text(encoding="utf-8")


def test_a_run_without_mistakes_has_nothing_most_often_confused(run, monkeypatch):
    _, test = data.load_cifar10()
    monkeypatch.setattr(
        run_report.compute, "predict", lambda network, pictures: 9.0 * np.eye(10)[test.labels]
    )
    monkeypatch.setattr(run_report, "_temperature", lambda *asked: 1.0)
    report = run_report.evaluate(run.folder)
    assert report.figures["accuracy"] == 1 and report.figures["top_confusions"] == []
    assert "Most often confused, of a class:\n  none" in str(report)
    assert "No image is taken for another class." in report.page.read_text(encoding="utf-8")
