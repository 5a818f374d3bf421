"""Training: every field does something, kills leave no trace, and the test set stays closed."""

import dataclasses
import functools
import inspect
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import filelock
import keras
import numpy as np
import pytest

from cifarlib import (
    compute,
    layered,
    models,
    progress,
    recipes,
    results,
    runs,
    splits,
    training,
    training_commands,
)
from cifarlib.errors import CifarlibError, InputError
from cifarlib.splits import Split

BACKEND = keras.backend.backend()
TIMES = ["seconds", "images_per_second"]
# The same Python decides on every backend, and one of them compiles for each of these runs.
once = pytest.mark.skipif(BACKEND != "tensorflow", reason="once is enough")
shared = pytest.mark.skipif(
    BACKEND == "torch", reason="Keras shares batches on TensorFlow and JAX only"
)


def narrow(x):
    """Do little, with one layer of every kind that keeps a state."""
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    return keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))


def narrower(x):
    """Do less."""
    return keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3, strides=4)(x))


class EnoughError(Exception):
    """What was to be seen has been seen."""


def make_split(count=80) -> Split:
    """Return images whose class is their brightness, more or less."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 10
    noise = rng.integers(-12, 13, (count, 32, 32, 3))
    return Split((labels[:, None, None, None] * 22 + 25 + noise).astype(np.uint8), labels)


@pytest.fixture(scope="module")
def split():
    return make_split()


BASE = {
    "model": narrow,
    "epochs": 3,
    "batch_size": 16,
    "validation_fraction": 0.25,
    "learning_rate": 0.02,
    "precision": "float32",
}


def config(**changes) -> training.Config:
    return training.Config(**{**BASE, **changes})


def outcome(run) -> tuple[list, list]:
    """Return everything that must be equal, bit for bit, if two runs are."""
    weights = [keras.ops.convert_to_numpy(weight).tolist() for weight in run.model.weights]
    return weights, run.history.drop(columns=TIMES).to_numpy().tolist()


@pytest.fixture(scope="module")
def base_run(split):
    return training.train(config(), split)


def test_a_run_learns_what_can_be_learned(split):
    run = training.train(config(epochs=25, learning_rate=0.05, ema=0.0), split)
    assert run.history["loss"].iloc[-1] < run.history["loss"].iloc[0]
    assert run.metrics["validation_accuracy"] > 0.25, "brightness tells the class"


def test_equal_configurations_end_in_the_same_bits(split, base_run):
    assert outcome(training.train(config(), split)) == outcome(base_run)


# Each field with another value than in BASE.
CHANGES = {
    "model": narrower,
    "color": "gray",
    "seed": 1,
    "epochs": 2,
    "batch_size": 20,
    "train_size": 50,
    "validation_fraction": 0.5,
    "scaling": "unit",
    "augmentation": ("rotate",),
    "augmentation_strength": 2.0,
    "image_sizes": (16, 32),
    "label_smoothing": 0.0,
    "optimizer": "rmsprop",
    "learning_rate": 0.01,
    "weight_decay": 1.0,
    "schedule": "cosine",
    "warmup": 0.5,
    "ema": 0.0,
    "patience": 1,
    "precision": "bfloat16",
    "num_devices": 2,
}


@pytest.fixture
def any_precision(monkeypatch):
    """Let number formats through that this machine would refuse to be slow in."""
    monkeypatch.setattr(compute, "fast_precisions", lambda: compute.PRECISIONS)


def test_every_field_of_the_configuration_is_tested_for_its_effect():
    assert list(CHANGES) == [field.name for field in dataclasses.fields(training.Config)]


@once
@pytest.mark.parametrize("field", [f for f in CHANGES if f not in ("patience", "num_devices")])
def test_a_field_has_an_effect(field, split, base_run, any_precision):
    run = training.train(config(**{field: CHANGES[field]}), split)
    assert outcome(run) != outcome(base_run)
    assert np.isfinite(run.history["loss"]).all()


@once
def test_patience_stops_a_run_that_gets_no_better(split):
    run = training.train(config(learning_rate=0.0, weight_decay=0.0, epochs=9, patience=2), split)
    assert len(run.history) < 9 and run.metrics["stopped_early"]
    assert len(run.history) == run.metrics["best_epoch"] + 2


@once
def test_the_other_schedules_set_the_rate(split):
    history = training.train(config(schedule="constant", epochs=6), split).history
    assert set(np.float32(history["learning_rate"])) == {np.float32(0.02)}
    still = config(schedule="plateau", epochs=6, optimizer="sgd", weight_decay=0.0, augmentation=())
    still = dataclasses.replace(still, learning_rate=1e-30)
    fallen = training.train(still, split).history["learning_rate"].to_numpy()
    assert fallen[-1] == pytest.approx(0.3e-30, rel=1e-3) and fallen[0] == pytest.approx(1e-30)


def test_float16_scales_the_loss_and_learns(split, any_precision):
    run = training.train(config(precision="float16", epochs=2), split)
    assert np.isfinite(run.history["loss"]).all()
    assert run.metrics["precision"] == "float16"
    assert {layer.compute_dtype for layer in run.model.layers} == {"float32"}


def test_a_number_format_that_would_be_slow_is_refused_and_nothing_is_written(
    split, tmp_path, monkeypatch
):
    monkeypatch.setattr(compute, "fast_precisions", lambda: ("float32",))
    with pytest.raises(
        InputError, match=r"precision: expected auto or float32.*many times as slow"
    ):
        training.train(config(precision="bfloat16"), split, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_tells_the_commit_that_its_training_began_with(split, tmp_path, monkeypatch):
    run = training.train(config(epochs=1), split, folder=tmp_path / "elsewhere")
    assert run.metrics["commit"] == "unknown", "without a checkout"
    commits = iter(["c0ffee", "somebody's"])
    monkeypatch.setattr(training.settings, "checkout_folder", lambda: tmp_path)
    monkeypatch.setattr(training.results, "current_commit", lambda: next(commits))
    training.train(config(epochs=1), split, folder=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["commit"] == "c0ffee"


def test_the_design_has_a_say_in_its_number_format(split, monkeypatch):
    def mobile(x):
        return keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3, 2)(x))

    monkeypatch.setattr(compute, "fast_precisions", lambda: compute.PRECISIONS[1:])
    monkeypatch.setattr(compute.devices, "accelerators", list)
    run = training.train(config(model=mobile, epochs=1), split)
    assert run.metrics["precision"] == "float32"


@once
@pytest.mark.parametrize("size", [10, 33])
def test_a_training_set_smaller_than_a_batch_is_one_batch(split, size):
    run = training.train(config(train_size=size, batch_size=64, epochs=1), split)
    assert run.metrics["num_training_images"] == size
    assert run.metrics["config"]["batch_size"] == size, "so that rates are made for it"


@once
def test_without_validation_images_the_last_epoch_is_kept(split):
    run = training.train(config(validation_fraction=0.0), split)
    assert "validation_loss" not in run.history and "validation_accuracy" not in run.metrics
    assert run.metrics["best_epoch"] == 3 and run.metrics["num_training_images"] == 80


def test_the_images_held_out_are_those_of_split_validation_whatever_the_seed(split, base_run):
    _, validation = splits.split_validation(split, 0.25)
    for run in (base_run, training.train(config(seed=5), split)):
        logits = run.model.predict(validation.images, verbose=0)
        found = np.mean(logits.argmax(axis=1) == validation.labels)
        assert found == pytest.approx(run.metrics["validation_accuracy"])


def test_validation_images_are_not_augmented_and_the_best_epoch_is_returned(split):
    strong = config(augmentation=("rotate", "crop", "erase", "cutmix"), augmentation_strength=2.0)
    run = training.train(strong, split)
    best = run.history.iloc[run.metrics["best_epoch"] - 1]
    assert best["validation_accuracy"] == run.history["validation_accuracy"].max()
    # The plain network on plain pixels, beside what the training network said.
    assert run.metrics["validation_loss"] == pytest.approx(best["validation_loss"], rel=1e-4)


def test_the_network_takes_pixels_as_they_are_in_any_type(split, base_run):
    pixels = split.images[:4]
    as_bytes = base_run.model.predict(pixels, verbose=0)
    as_floats = base_run.model.predict(pixels.astype(np.float32), verbose=0)
    np.testing.assert_allclose(as_bytes, as_floats, atol=1e-5)


@once
def test_grayscale_runs_take_colour_images_and_gray_ones_alike(split):
    from cifarlib import images

    gray = Split(images.to_grayscale(split.images), split.labels)
    runs_ = [training.train(config(color="gray", epochs=1), s) for s in (split, gray)]
    assert outcome(runs_[0]) == outcome(runs_[1])
    with pytest.raises(InputError, match="images in rgb"):
        training.train(config(epochs=1), gray)


def test_standardised_pixels_have_mean_0_and_deviation_1_on_the_images_trained_on(split):
    run = training.train(config(epochs=1), split)
    kept, _ = splits.split_validation(split, 0.25)
    scaled = keras.ops.convert_to_numpy(run.model.layers[1](kept.images.astype(np.float32)))
    np.testing.assert_allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-4)


def test_averaged_weights_follow_the_formula(split):
    asked = config(ema=0.9)
    learner = training._Learner(models.build(narrower), split.images, split.labels, asked, 10)
    weight = learner.network.trainable_variables[0]
    expected = np.array(keras.ops.convert_to_numpy(weight))
    for step in range(40):
        now = np.full(weight.shape, step, np.float32)
        weight.assign(now)
        assert float(keras.ops.convert_to_numpy(learner._count_step())) == step // 10
        momentum = min(0.9, (1 + step) / (10 + step))
        expected = expected * momentum + now * (1 - momentum)
    found = keras.ops.convert_to_numpy(learner.averages[0])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with learner.averaged():
        np.testing.assert_allclose(keras.ops.convert_to_numpy(weight), expected, rtol=1e-4)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), now)


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", {"kernel"}), ("muon", {"kernel", "bias", "gamma", "beta"})]
)
def test_weight_decay_spares_biases_and_normalisation(split, name, expected):
    """But for muon's, as airbench has it."""
    fields = {"optimizer": name, "learning_rate": 0.1, "weight_decay": 0.5, "ema": 0.0}
    session_config = config(**fields, schedule="constant", epochs=1)
    session = training._Session(
        session_config,
        models.build(narrow),
        "float32",
        split.images,
        split.labels.astype(np.int32),
        np.arange(60),
        np.arange(60, 80),
    )
    decayed = {
        variable.path.split("/")[-1]
        for variable in session.learner.network.trainable_variables
        if session.optimizer._use_weight_decay(variable)
    }
    assert decayed == expected


@once
def test_the_test_set_stays_closed(tiny, monkeypatch):
    from cifarlib import data

    train, test = tiny
    monkeypatch.setattr(data, "load_cifar10", lambda: (Split(*train), splits.RecordedSplit(*test)))
    training.train(config(validation_fraction=0.2, epochs=1))
    assert splits.uses_of_test_set() == ()


@once
def test_a_kept_run_on_images_of_ones_own_is_one_of_the_data_set_if_they_are_the_same(
    tiny, tmp_path, monkeypatch
):
    """Else whoever wants it judged is told to train it without images of their own, and has."""
    from cifarlib import data

    train, _ = tiny
    described = data.Description(*["tiny"] * len(data.Description._fields))
    monkeypatch.setattr(data, "load_cifar10", lambda: (Split(*train), None))
    monkeypatch.setattr(data, "current", lambda: described)
    asked = config(validation_fraction=0.2, epochs=1)
    own = training.train(asked, Split(*train), kept_in=tmp_path)
    assert own.metrics["data_kind"] == "own images" and own.metrics["data_fingerprint"] is None
    assert own.metrics["command"].endswith("in Python, on images of one's own")
    run = training.train(asked, kept_in=tmp_path)
    assert run.folder == own.folder
    assert run.metrics["data_kind"] == run.metrics["data_fingerprint"] == "tiny"
    on_backend = results.on_backend(training.command(asked), [keras.backend.backend()])
    assert run.metrics["command"] == on_backend
    assert runs.read(run.folder).metrics == run.metrics
    again = training.train(asked, Split(*train), kept_in=tmp_path)
    assert again.metrics == run.metrics, "by whatever name, they are those of the data set"


def test_a_folder_holds_the_run_and_reading_it_gives_the_same(split, base_run, tmp_path):
    run = training.train(config(), split, folder=tmp_path / "run")
    found = runs.read(tmp_path / "run")
    assert outcome(run) == outcome(base_run)
    assert outcome(found)[0] == outcome(run)[0]
    np.testing.assert_allclose(
        found.history.drop(columns=TIMES), run.history.drop(columns=TIMES), rtol=1e-15
    )
    assert found.metrics == json.loads(json.dumps(run.metrics))
    names = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {"config.json", "history.csv", "metrics.json", "model.keras"}


@once
def test_a_run_is_never_overwritten_and_a_finished_one_is_returned(split, tmp_path):
    training.train(config(epochs=1), split, folder=tmp_path / "run")
    model = (tmp_path / "run" / "model.keras").read_bytes()
    with pytest.raises(InputError, match="Resume it"):
        training.train(config(epochs=1), split, folder=tmp_path / "run")
    again = training.train(config(epochs=1), split, folder=tmp_path / "run", resume=True)
    assert len(again.history) == 1
    assert (tmp_path / "run" / "model.keras").read_bytes() == model


@pytest.fixture(scope="module")
def interrupted(split, tmp_path_factory):
    """Return the folder of a run that was interrupted after an epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        stop_after(1, split, folder)
    return folder


@once
@pytest.mark.parametrize("field", [f for f in CHANGES if f != "num_devices"])
def test_resuming_another_configuration_names_the_field(field, split, interrupted, any_precision):
    changed = config(**{field: CHANGES[field]})
    with pytest.raises(InputError, match=f"with {field} = "):
        training.train(changed, split, folder=interrupted, resume=True)


@once
def test_resuming_with_fewer_images_than_a_batch_names_what_was_asked_for(split, interrupted):
    with pytest.raises(InputError, match="with train_size = 10, found null"):
        training.train(config(train_size=10), split, folder=interrupted, resume=True)


@once
def test_only_the_code_that_began_a_run_goes_on_with_it(split, tmp_path, monkeypatch):
    folder, finished = tmp_path / "stopped", tmp_path / "finished"
    with pytest.raises(KeyboardInterrupt):
        stop_after(1, split, folder)
    before = training.train(config(epochs=1), split, folder=finished)
    asked = (finished / "config.json").read_bytes()
    monkeypatch.setattr(training, "_source_of_learning", lambda optimizer: b"another way")
    with pytest.raises(InputError, match="a run that this training code began"):
        training.train(config(), split, folder=folder, resume=True)
    again = training.train(config(epochs=1), split, folder=finished, resume=True)
    assert again.metrics == before.metrics, "it is read"
    assert (finished / "config.json").read_bytes() == asked


@once
def test_a_checkpoint_that_a_killed_process_left_is_removed(split, tmp_path, monkeypatch):
    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "remove_checkpoint", killed)
        training.train(config(epochs=1), split, kept_in=tmp_path)
    (left,) = tmp_path.glob("*/checkpoint.npz")
    run = training.train(config(epochs=1), split, kept_in=tmp_path)
    assert run.folder == left.parent and not left.exists()


def stop_after(num_epochs, split, folder, **changes):
    """Train, and be interrupted after so many epochs."""
    save = runs.RunFolder.save_checkpoint

    def save_and_stop(self, arrays, history):
        save(self, arrays, history)
        if len(history) == num_epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.RunFolder, "save_checkpoint", save_and_stop)
        training.train(config(**changes), split, folder=folder, resume=True)


@once
def test_resuming_another_design_of_the_same_name_is_refused(split, interrupted):
    def other(x):
        x = keras.layers.Conv2D(6, 3, strides=2, activation="tanh")(x)
        x = keras.layers.BatchNormalization(momentum=0.5)(x)
        return keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))

    other.__name__ = "narrow"
    with pytest.raises(InputError, match="with design = "):
        training.train(config(model=other), split, folder=interrupted, resume=True)


@once
def test_resuming_with_other_images_is_refused(split, interrupted):
    other = Split(split.images.copy(), split.labels)
    other.images[3, 0, 0, 0] ^= 1
    with pytest.raises(InputError, match="with data = ") as refused:
        training.train(config(), other, folder=interrupted, resume=True)
    assert "Set CIFARLIB_SOURCE to the images that it began with" in str(refused.value)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (8, [16, 16, 24, 24, 24, 32, 32, 32]),
        (6, [16, 16, 24, 24, 32, 32]),
        (2, [24, 32]),
        (1, [32]),
    ],
)
def test_sizes_share_the_epochs_and_the_last_epoch_has_the_last(epochs, expected):
    asked = config(epochs=epochs, image_sizes=(16, 24, 32))
    assert [asked.image_size(epoch) for epoch in range(1, epochs + 1)] == expected


def pooled(x):
    """Do what `narrow` does, to images of half the size."""
    return narrow(keras.layers.AveragePooling2D(2)(x))


def test_smaller_images_are_means_of_the_larger_ones(split):
    still = {"augmentation": (), "epochs": 2}
    run = training.train(config(image_sizes=(16,), **still), split)
    by_hand = training.train(config(model=pooled, **still), split)
    np.testing.assert_allclose(run.history["loss"], by_hand.history["loss"], rtol=1e-5)
    # Whatever they were trained on, all are judged on images of the usual size.
    assert run.model.input_shape == (None, 32, 32, 3)
    assert np.abs(run.history["validation_loss"] - by_hand.history["validation_loss"]).max() > 1e-4


def flat(x):
    """Need images of one size."""
    return keras.layers.Flatten()(keras.layers.Conv2D(3, 3, strides=4)(x))


def test_a_design_that_needs_whole_images_is_refused_before_anything_is_written(split, tmp_path):
    with pytest.raises(InputError, match="32 for flat, whose layers need it, found 16"):
        training.train(config(model=flat, image_sizes=(16, 32)), split, folder=tmp_path / "run")
    with pytest.raises(InputError, match="32 for vit_tiny, whose layers need it, found 24"):
        training.train(config(model="vit_tiny", image_sizes=(24, 32)), split)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "plateau"},
        {"schedule": "one_cycle"},
        # Each size is compiled anew: with what compiles fast.
        {"image_sizes": (16, 32), "augmentation": ("flip",)},
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(changes, split, tmp_path):
    changes = {"epochs": 6, "augmentation": ("flip", "mixup", "randaugment"), **changes}
    whole = training.train(config(**changes), split)
    with pytest.raises(KeyboardInterrupt):
        stop_after(3, split, tmp_path / "run", **changes)
    resumed = training.train(config(**changes), split, folder=tmp_path / "run", resume=True)
    assert outcome(resumed) == outcome(whole)


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from test_training import config, make_split
from cifarlib import training
asked = config(epochs=12, augmentation=("flip", "crop", "cutmix"))
training.train(asked, make_split(), folder={folder!r}, resume=True)
"""


def test_a_run_killed_at_random_moments_ends_bit_identical(tmp_path):
    folder = tmp_path / "run"
    worker = WORKER.format(tests=str(Path(__file__).parent), folder=str(folder))
    rng = random.Random(0)  # the moments are as random as processes are
    num_kills = 0
    for attempt in range(20):
        process = subprocess.Popen([sys.executable, "-c", worker], stderr=subprocess.DEVNULL)
        if attempt < 2:
            # Somewhere between the first checkpoint of this process and its end.
            before = checkpoint_time(folder)
            while process.poll() is None and checkpoint_time(folder) == before:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.1)
            process.send_signal(signal.SIGKILL)
        num_kills += process.wait() == -signal.SIGKILL
        if (folder / "metrics.json").exists():
            break
    assert num_kills, "every attempt finished before its kill"
    asked = config(epochs=12, augmentation=("flip", "crop", "cutmix"))
    whole = training.train(asked, make_split(), folder=tmp_path / "whole")
    found, expected = runs.read(folder), runs.read(tmp_path / "whole")
    assert outcome(found) == outcome(expected)
    assert len(whole.history) == 12


def checkpoint_time(folder: Path) -> int:
    for name in ("checkpoint.npz", "metrics.json"):
        try:
            return (folder / name).stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return 0


def poison(monkeypatch, epoch):
    """Make the weights of an epoch not a number."""
    train_epoch = training._Session._train_epoch

    def train_poisoned(self, number, bar):
        if number == epoch:
            weight = self.learner.network.trainable_variables[-2]  # of the logits
            weight.assign(np.full(weight.shape, np.nan, np.float32))
        return train_epoch(self, number, bar)

    monkeypatch.setattr(training._Session, "_train_epoch", train_poisoned)


def test_a_diverging_run_names_the_epoch_and_keeps_the_last_good_checkpoint(
    split, tmp_path, monkeypatch, base_run
):
    with monkeypatch.context() as patch:
        poison(patch, epoch=2)
        with pytest.raises(training.DivergedError, match=r"not finite in epoch 2.*epoch 1 is kept"):
            training.train(config(), split, folder=tmp_path / "run")
    finished = training.train(config(), split, folder=tmp_path / "run", resume=True)
    assert outcome(finished) == outcome(base_run)


def test_a_run_diverges_by_itself_when_its_rate_is_absurd(split):
    absurd = config(optimizer="sgd", learning_rate=100.0, schedule="constant", epochs=50)
    unstable = dataclasses.replace(absurd, model=unnormalised, weight_decay=10.0)
    with pytest.raises(training.DivergedError, match="smaller learning rate than 100"):
        training.train(unstable, split)


def unnormalised(x):
    """Grow without bounds, if it is told to."""
    for _ in range(3):
        x = keras.layers.Conv2D(4, 3, strides=2)(x)
    return keras.layers.GlobalAveragePooling2D()(x)


def test_two_processes_do_not_train_in_one_folder(split, tmp_path):
    with (
        runs.claim(tmp_path / "run", {}, resume=False),
        pytest.raises(CifarlibError, match="another process"),
    ):
        training.train(config(), split, folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "resnet"}, "Did you mean resnet18"),
        ({"color": "grey"}, "Did you mean gray"),
        ({"schedule": "onecycle"}, "Did you mean one_cycle"),
        ({"optimizer": "adamW"}, "Did you mean adamw"),
        ({"augmentation": ("flips",)}, "Did you mean flip"),
        ({"augmentation": ("flip", "flip")}, "each name once"),
        ({"image_sizes": (7, 32)}, "whole numbers from 8 to 32"),
        ({"image_sizes": (24, 40)}, "whole numbers from 8 to 32"),
        ({"image_sizes": 24}, "a tuple of whole numbers"),
        ({"image_sizes": ()}, "a tuple of whole numbers"),
        ({"precision": "float8"}, "Did you mean float"),
        ({"scaling": "standardised"}, "Did you mean standardized"),
        ({"epochs": 0}, "epochs: expected a whole number from 1"),
        ({"epochs": 2.5}, "whole number"),
        ({"epochs": True}, "whole number"),
        ({"epochs": None}, "whole number"),
        ({"batch_size": "32"}, "whole number"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"validation_fraction": 1.0}, "from 0 to 0.9"),
        ({"ema": 1.0}, "ema"),
        ({"num_devices": 3, "batch_size": 16}, "a multiple of num_devices = 3"),
        ({"patience": 3, "validation_fraction": 0}, "validation images beside it"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_what_would(changes, told):
    with pytest.raises(InputError, match=told):
        config(**changes)


def test_images_that_are_no_pixels_are_refused(split):
    with pytest.raises(InputError, match="scaling is part of the network"):
        training.train(config(), Split(split.images / 255, split.labels))


def test_too_few_images_for_the_shares_asked_are_refused(split):
    for changes, chosen in (
        ({"validation_fraction": 0.01}, "0.01 chosen of 80"),
        ({"train_size": 5}, "5 chosen of 60"),
        ({"train_size": 55}, "55 chosen of 60"),
    ):
        told = rf"some of every class, found {chosen} images of 10 classes, less than one of each"
        with pytest.raises(InputError, match=told):
            training.train(config(**changes), split)
    with pytest.raises(InputError, match="train_size: expected at most 60, found 61"):
        training.train(config(train_size=61), split)


def test_more_devices_than_there_are_are_refused(split):
    with pytest.raises(InputError, match="num_devices"):
        training.train(config(num_devices=16), split)


PARALLEL = """
import os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow
    cpu, = tensorflow.config.list_physical_devices("CPU")
    two = [tensorflow.config.LogicalDeviceConfiguration()] * 2
    tensorflow.config.set_logical_device_configuration(cpu, two)
sys.path.insert(0, {tests!r})
from test_training import config, make_split, narrower
from cifarlib import training
asked = config(model=narrower, num_devices={num_devices}, augmentation=())
history = training.train(asked, make_split()).history
print("losses", *history["loss"], *history["validation_loss"])
"""


@shared
def test_two_devices_have_the_losses_of_one(tmp_path):
    losses, flag = {}, "--xla_force_host_platform_device_count=2"
    for num_devices in (1, 2):
        program = PARALLEL.format(tests=str(Path(__file__).parent), num_devices=num_devices)
        environment = {
            **os.environ,
            "KERAS_BACKEND": BACKEND,
            "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), flag]),
        }
        command = [sys.executable, "-c", program]
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[-3000:]
        losses[num_devices] = [float(word) for word in found.stdout.split("losses")[1].split()]
    assert len(losses[1]) == 6
    np.testing.assert_allclose(losses[2], losses[1], rtol=2e-4)


@shared
def test_fewer_images_than_a_batch_are_shared_by_the_devices():
    """It is the devices that are missing here; 33 images would be no multiple of 16."""
    with pytest.raises(InputError, match="num_devices: expected at most"):
        training.train(config(num_devices=16, batch_size=64, train_size=33), make_split())


def test_fewer_images_than_devices_are_told_of_the_devices():
    """Another batch size would be cut to the images as well."""
    with pytest.raises(InputError, match="num_devices: expected at most 10, one for each"):
        training.train(config(num_devices=16, batch_size=16, train_size=10), make_split())


def test_the_command_of_a_quick_profile_names_the_epochs(monkeypatch):
    asked = training.Config("baseline")
    assert training.command(asked) == "cifarlib train baseline"
    monkeypatch.setenv("CIFARLIB_PROFILE", "quick")
    assert training.command(asked) == f"cifarlib train baseline --epochs {asked.epochs}"


def test_the_command_of_a_run_asks_for_the_same_configuration():
    asked = training.Config(
        "baseline",
        **recipes.find("published", "baseline"),
        color="gray",
        patience=3,
        train_size=900,
    )
    words = training.command(asked).split()
    assert words[:2] == ["cifarlib", "train"]
    parsed = vars(training_commands.train_parser().parse_args(words[2:]))
    for name in ("recipe", "output", "resume"):
        parsed.pop(name, None)
    assert training.Config(**parsed) == asked


# What a hostile user found


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.arange(80) % 10 + 1, "labels from 0 to 9, found 1 to 10"),
        (np.arange(80) % 10 - 1, "labels from 0 to 9, found -1 to 8"),
        (np.arange(79) % 10, "shape"),
        (np.arange(80)[:, None] % 10, "shape"),
        (np.arange(80) % 10 + 0.7, "float64"),
        (np.ones(80, bool), "bool"),
    ],
)
def test_labels_that_are_none_are_refused_before_training(split, labels, told):
    with pytest.raises(InputError, match=told):
        training.train(config(validation_fraction=0), Split(split.images, labels))


def test_what_regularisers_ask_for_is_part_of_the_loss(split):
    def regularised(x):
        penalty = keras.regularizers.L2(10.0)
        return keras.layers.GlobalAveragePooling2D()(
            keras.layers.Conv2D(3, 3, strides=4, kernel_regularizer=penalty)(x)
        )

    losses = [
        training.train(config(model=design, epochs=1), split).history["loss"][0]
        for design in (narrower, regularised)
    ]
    assert losses[1] > losses[0] + 1


def rewired(doubled):
    """Return a design of two branches, and one that adds the first to itself."""

    def branches(x):
        x = keras.layers.GlobalAveragePooling2D()(x)
        a, b = keras.layers.Dense(4)(x), keras.layers.Dense(4)(x)
        return keras.layers.Concatenate()([keras.layers.Add()([a, a if doubled else b]), b])

    return branches


@once
def test_designs_differ_by_their_wiring_and_not_by_names_that_count_up(split, tmp_path):
    asked = config(model=rewired(doubled=False), epochs=1)
    training.train(asked, split, folder=tmp_path / "run")
    again = dataclasses.replace(asked, model=rewired(doubled=False))
    assert training.train(again, split, folder=tmp_path / "run", resume=True)
    other = dataclasses.replace(asked, model=rewired(doubled=True))
    with pytest.raises(InputError, match="with design = "):
        training.train(other, split, folder=tmp_path / "run", resume=True)


@once
def test_a_start_that_failed_leaves_the_folder_to_the_next(split, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="num_devices"):
        training.train(config(num_devices=16), split, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        poison(patch, epoch=1)
        with pytest.raises(training.DivergedError, match="Nothing was kept"):
            training.train(config(), split, folder=tmp_path / "run")
    training.train(config(learning_rate=0.001, epochs=1), split, folder=tmp_path / "run")


def test_images_of_ones_own_are_not_called_cifar_10(split, base_run):
    assert base_run.metrics["data_kind"] == "own images"
    assert base_run.metrics["data_fingerprint"] is None


class Shifted(keras.layers.Layer):
    """A layer whose configuration does not say what it does."""

    def call(self, x):
        return x + 1


def test_a_layer_of_ones_own_that_does_something_else_is_another_design(monkeypatch):
    def digest():
        inputs = keras.Input((4,))
        return training.design_digest(keras.Model(inputs, Shifted()(inputs)))

    before = digest()
    assert digest() == before
    monkeypatch.setattr(Shifted, "call", lambda self, x: x + 2)
    assert digest() != before


def one(x):
    return x + 1


def other(x):
    return x + 2


@pytest.mark.parametrize("wrap", [staticmethod, classmethod, property, functools.cached_property])
def test_whatever_a_layer_of_ones_own_is_made_of_is_part_of_its_design(wrap, monkeypatch):
    def digest(value):
        monkeypatch.setattr(Shifted, "part", value, raising=False)
        inputs = keras.Input((4,))
        return training.design_digest(keras.Model(inputs, Shifted()(inputs)))

    values = [wrap(one), wrap(other), 2, 3, "linear", "cubic"]
    digests = list(map(digest, values))
    assert list(map(digest, values)) == digests and len(set(digests)) == len(values)


class Begun(keras.initializers.Initializer):
    """An initializer whose configuration does not say what it does."""

    changed = staticmethod(one)

    def __call__(self, shape, dtype=None):
        return self.changed(keras.ops.zeros(shape, dtype))


@pytest.mark.parametrize("kind", ["activation", "initializer"])
def test_a_registered_part_that_does_something_else_is_another_design(kind, monkeypatch):
    register = keras.saving.register_keras_serializable("test", "part")
    digests = []
    for function in (one, one, other):
        if kind == "initializer":
            monkeypatch.setattr(Begun, "changed", staticmethod(function))
        part = register(Begun if kind == "initializer" else function)
        options = {"kernel_initializer": part()} if kind == "initializer" else {"activation": part}
        inputs = keras.Input((4,))
        layer = keras.layers.Dense(2, **options)
        digests.append(training.design_digest(keras.Model(inputs, layer(inputs))))
    assert digests[0] == digests[1] != digests[2]


def test_weights_that_a_design_of_ones_own_begins_with_are_in_the_name_of_a_kept_run(
    split, tmp_path
):
    """As of a network that others have trained, whose convolutions stay as they are."""

    def name(value):
        def transferred(x):
            first = keras.layers.Conv2D(4, 3, trainable=False)
            maps = first(x)
            first.kernel.assign(keras.ops.full(first.kernel.shape, value))
            return keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(maps))

        return folder_of(config(model=transferred), split, tmp_path)

    assert name(0.0) == name(0.0) != name(1.0)


def test_a_design_that_shares_its_weights_is_refused_unless_they_stay_as_they_are(split):
    """A second run would begin where the first one ended, and change it."""
    inputs = keras.Input((32, 32, 3))
    first = keras.layers.Conv2D(4, 3, strides=4, name="shared")
    trunk = keras.Model(inputs, first(inputs))

    def wrapped(x):
        return keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(trunk(x)))

    with pytest.raises(InputError, match=r"wrapped: expected new layers .*shared.*clone_model"):
        training.train(config(model=wrapped, color="rgb"), split)
    trunk.trainable = False
    before = trunk.get_weights()
    training.train(config(model=wrapped, color="rgb", epochs=1), split)
    assert all(map(np.array_equal, trunk.get_weights(), before))


class Unregistered(keras.layers.Layer):
    """A layer that Keras cannot make from a file."""

    def call(self, x):
        return x * 2


def unloadable(x):
    """Use it."""
    return keras.layers.GlobalAveragePooling2D()(Unregistered()(x))


@pytest.mark.parametrize(
    ("design", "told"),
    [
        (unloadable, "register_keras_serializable"),
        (lambda x: x, "Give it a name"),
        (keras.layers.Flatten(), "a function with a name"),
    ],
)
def test_designs_that_cannot_be_kept_are_refused(design, told, split, tmp_path):
    with pytest.raises(InputError, match=told):
        training.train(config(model=design), split, folder=tmp_path / "run")


def test_a_design_that_ends_in_an_image_is_refused(split):
    def unfinished(x):
        return keras.layers.Conv2D(3, 3)(x)

    with pytest.raises(InputError, match="End the design with Flatten"):
        training.train(config(model=unfinished), split)


@pytest.mark.parametrize("size", [20, 47, 50])
def test_train_size_is_kept_to_the_image(split, size):
    kept, held_out = training._places(split.labels, config(train_size=size))
    assert (len(kept), len(held_out)) == (size, 20)
    assert len(set(kept)) == size and not set(kept) & set(held_out)
    counts = np.bincount(split.labels[kept], minlength=10)
    assert counts.max() - counts.min() <= 1, "equal shares of classes"
    others, same = training._places(split.labels, config(train_size=size, seed=1))
    assert set(others) != set(kept) and set(same) == set(held_out)


def test_each_epoch_and_seed_has_an_order_of_its_own(monkeypatch):
    orders = []

    def batches(order, batch_size):
        orders.append(order.tolist())
        raise EnoughError

    monkeypatch.setattr(training.compute, "batches", batches)
    learner = SimpleNamespace(set_size=lambda size: None, fit=None)
    for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1)):
        part = {"kept": np.arange(5, 55), "num_steps": 3, "batch_size": 16}
        session = SimpleNamespace(config=config(seed=seed), learner=learner, **part)
        with pytest.raises(EnoughError):
            training._Session._train_epoch(session, epoch, None)
    assert orders[0] == orders[1] and len({str(order) for order in orders}) == 3
    for order in orders:
        assert len(set(order)) == 48 and set(order) < set(range(5, 55))


def test_what_whitens_is_shown_the_images_it_learns_from_alone(split, monkeypatch):
    seen = []

    def adapt(network, pictures, places):
        seen.append((pictures, places))
        raise EnoughError

    monkeypatch.setattr(training.whitening, "adapt", adapt)
    with pytest.raises(EnoughError):
        training.train(config(), split)
    ((pictures, places),) = seen
    np.testing.assert_array_equal(pictures, split.images)
    np.testing.assert_array_equal(places, training._places(split.labels, config())[0])


def test_a_last_step_that_diverges_is_noticed():
    """Where no image is held out, and no further step shows it in the loss."""
    fitted = SimpleNamespace(history={"loss": [0.5], "accuracy": [1.0]})
    session = SimpleNamespace(
        config=config(),
        learner=SimpleNamespace(set_size=lambda size: None, fit=lambda **_: fitted),
        optimizer=SimpleNamespace(learning_rate=np.float32(0.1)),
        kept=np.arange(32),
        held_out=np.arange(0),
        num_steps=2,
        batch_size=16,
        _weights=lambda: [np.array([1.0, np.nan])],
    )
    with pytest.raises(training._NotFiniteError):
        training._Session._train_epoch(session, 1, None)


def test_figures_of_a_run_are_those_of_its_epochs():
    columns = "epoch", "loss", "seconds", "images_per_second"
    told = [(1, 2.0, 3.0, 10.0), (2, 1.0, 5.0, 30.0), (3, 0.5, 4.0, 25.0)]
    rows = [dict(zip(columns, row, strict=True)) for row in told]
    places = {"kept": np.arange(60), "held_out": np.arange(0)}
    session = SimpleNamespace(config=config(), history=rows, best_epoch=2, **places)
    network = SimpleNamespace(count_params=lambda: 7)
    found = training._Session.metrics(session, network, "float32")
    assert (found["seconds"], found["images_per_second"]) == (12, 25), "the sum, and the median"
    assert (found["last_training_loss"], found["stopped_early"]) == (0.5, False)


# What the search and the comparisons ask of training


@once
def test_each_new_epoch_is_told_as_the_history_has_it(split):
    rows = []
    run = training.train(config(), split, on_epoch=rows.append)
    assert rows == run.history.to_dict("records")


@once
def test_what_is_raised_after_an_epoch_ends_the_training_and_it_can_be_resumed(split, tmp_path):
    class EnoughError(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        training.train(config(), split, folder=tmp_path / "run", on_epoch=stop)
    epochs = []
    run = training.train(
        config(),
        split,
        folder=tmp_path / "run",
        resume=True,
        on_epoch=lambda row: epochs.append(row["epoch"]),
    )
    assert epochs == [3] and len(run.history) == 3


def test_a_kept_run_is_read_again_and_an_interrupted_one_resumed(split, base_run, tmp_path):
    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(config(), split, kept_in=tmp_path / "kept", on_epoch=stop)
    epochs = []
    resumed = training.train(config(), split, kept_in=tmp_path / "kept", on_epoch=epochs.append)
    assert [row["epoch"] for row in epochs] == [2, 3]
    assert outcome(resumed) == outcome(base_run)
    again = training.train(config(), split, kept_in=tmp_path / "kept", on_epoch=epochs.append)
    assert len(epochs) == 2, "nothing is trained twice"
    assert again.folder == resumed.folder and outcome(again)[0] == outcome(base_run)[0]
    assert again.folder.parent == tmp_path / "kept"
    with filelock.FileLock(again.folder / ".lock"):  # as of a process that reads it, too
        assert training.train(config(), split, kept_in=tmp_path / "kept").folder == again.folder


@once
def test_a_finished_run_that_is_read_counts_the_seconds_it_took(split, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_remembered", {})
    run = training.train(config(), split, folder=tmp_path / "run")
    assert sum(progress._remembered.values()) == 0, "they have been taken already"
    monkeypatch.setattr(progress, "_remembered", {})  # as in another process
    training.train(config(), split, folder=tmp_path / "run", resume=True)
    assert sum(progress._remembered.values()) == pytest.approx(run.metrics["seconds"])


def test_a_kept_run_that_another_process_trains_is_waited_for(
    split, base_run, tmp_path, monkeypatch
):
    class EnoughError(Exception):
        pass

    def stop(row):
        raise EnoughError

    with pytest.raises(EnoughError):
        training.train(config(), split, kept_in=tmp_path, on_epoch=stop)
    (folder,) = tmp_path.iterdir()
    other = filelock.FileLock(folder / ".lock")
    other.acquire()
    told, epochs = [], []

    def say(line):
        told.append(line)
        other.release()  # the other process was killed after an epoch

    monkeypatch.setattr(progress, "say", say)
    run = training.train(config(), split, kept_in=tmp_path, on_epoch=epochs.append)
    assert len(told) == 1 and str(folder) in told[0] and "waiting for it" in told[0]
    assert [row["epoch"] for row in epochs] == [2, 3] and outcome(run) == outcome(base_run)


def folder_of(asked, split, tmp_path):
    """Return the name under which a run is kept, without training it."""

    class EnoughError(Exception):
        pass

    claimed = []

    def claim(path, asked, **_):
        claimed.append(path.name)
        raise EnoughError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EnoughError):
        patch.setattr(runs, "claim", claim)
        training.train(asked, split, kept_in=tmp_path)
    return claimed[0]


@once
def test_whatever_decides_the_outcome_is_in_the_name_of_a_kept_run(split, tmp_path, any_precision):
    names = [folder_of(config(), split, tmp_path)]
    assert folder_of(config(), split, tmp_path) == names[0]
    for field, value in CHANGES.items():
        if field != "num_devices":
            names.append(folder_of(config(**{field: value}), split, tmp_path))
    changed = Split(split.images.copy(), split.labels.copy())
    changed.images[3, 0, 0, 0] ^= 1
    names.append(folder_of(config(), changed, tmp_path))
    relabelled = Split(split.images, split.labels[::-1].copy())
    names.append(folder_of(config(), relabelled, tmp_path))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": "a", "kept_in": "b"}, "nothing beside kept_in"),
        ({"folder": ""}, "folder: expected a path"),
        ({"kept_in": ""}, "kept_in: expected a path"),
    ],
)
def test_folders_that_do_not_fit_are_refused(options, message, split):
    with pytest.raises(InputError, match=message):
        training.train(config(), split, **options)


def test_the_digest_of_images_tells_every_pixel_label_and_shape_apart(split, tiny, monkeypatch):
    from cifarlib import data

    found = [training.data_digest(split)]
    assert training.data_digest(Split(split.images.copy(), list(split.labels))) == found[0]
    for change in ("images", "labels"):
        changed = Split(split.images.copy(), split.labels.copy())
        getattr(changed, change).flat[-1] ^= 1
        found.append(training.data_digest(changed))
    found.append(training.data_digest(Split(split.images[:-1], split.labels[:-1])))
    found.append(training.data_digest(Split(split.images.reshape(-1, 32, 96, 1), split.labels)))
    assert len(set(found)) == 5
    monkeypatch.setattr(data, "load_cifar10", lambda: tiny)
    assert training.data_digest() == training.data_digest(tiny[0])


@pytest.mark.parametrize(
    "model",
    [
        layered.LayeredCNN(),
        layered.LayeredCNN(width=8, pooling="stride", dropout=0.25, batch_normalization=True),
        '{"width": 8, "padding": "same"}',
        "a b/found.json",
    ],
    ids=str,
)
def test_the_command_of_layers_by_numbers_asks_for_the_same(model, tmp_path):
    if model == "a b/found.json":
        (tmp_path / "a b").mkdir()
        (tmp_path / model).write_text('{"model": {"width": 8}}')
    asked = training.Config(model, color="gray", augmentation=())
    words = shlex.split(training.command(asked))
    parsed = vars(training_commands.train_parser().parse_args(words[2:]))
    for name in ("recipe", "output", "resume"):
        parsed.pop(name, None)
    again = training.Config(**parsed)
    assert models.find(again.model).features == (
        model if callable(model) else models.find(model).features
    )
    assert dataclasses.replace(again, model=asked.model) == asked


def test_a_path_is_a_model_that_can_be_built(tmp_path):
    path = tmp_path / "found.json"
    path.write_text('{"model": {"width": 2}}')
    asked = training.Config(path)
    assert models.build(asked.model) and asked.model_name == "layered_cnn"


@once
def test_a_file_that_a_model_is_read_from_may_change_while_it_trains(split, tmp_path):
    path = tmp_path / "found.json"
    path.write_text('{"model": {"blocks": 2, "width": 2, "max_width": 4, "dense": 0}}')
    asked = config(model=path, epochs=2)
    run = training.train(asked, split, on_epoch=lambda row: path.unlink(missing_ok=True))
    assert len(run.history) == 2 and run.metrics["model"] == "layered_cnn"
    path.write_text('{"model": "baseline"}')
    assert asked.model_name == "layered_cnn"


@once
def test_the_figures_of_layers_by_numbers_hold_the_numbers(split):
    tiny_layers = layered.LayeredCNN(blocks=2, width=2, max_width=4, dense=0)
    run = training.train(config(model=tiny_layers, epochs=1), split)
    assert run.metrics["model"] == "layered_cnn"
    assert layered.from_json(run.metrics["config"]["model"]) == tiny_layers
    assert json.loads(json.dumps(run.metrics))["config"] == run.metrics["config"]


@once
def test_a_design_trains_alike_whether_it_is_named_or_given(split):
    """It is checked that one's own can be kept; that must take no seed of what follows."""
    layers = layered.LayeredCNN(blocks=2, width=2, max_width=4, dense=0, dropout=0.3)
    given = config(model=layers, epochs=1)
    named = dataclasses.replace(given, model=json.dumps(layers.as_json()))
    assert outcome(training.train(given, split)) == outcome(training.train(named, split))


def test_a_design_of_ones_own_has_no_command_that_repeats_it():
    def resnet18(x):
        return keras.layers.GlobalAveragePooling2D()(x)

    told = training.command(training.Config(resnet18))
    assert told == "cifarlib.training.train in Python, with the design resnet18"


def test_designs_that_are_named_like_their_activation_are_told_apart():
    def digest(name, **options):
        inputs = keras.Input((8, 8, 1))
        outputs = keras.layers.Conv2D(4, 3, name=name, **options)(inputs)
        return training.design_digest(keras.Model(inputs, outputs, name=name))

    assert digest("relu", activation="relu") != digest("tanh", activation="tanh")
    assert digest("a", activation="relu") == digest("b", activation="relu")
    formats = [digest("a", dtype=name) for name in ("float32", "float16", "bfloat16")]
    assert len(set(formats)) == 3


def test_the_digest_of_the_code_forgets_the_seed_and_nothing_else(monkeypatch):
    asked = training.Config("baseline", color="gray")
    digest = training.code_digest(asked)
    assert training.code_digest(dataclasses.replace(asked, seed=7)) == digest
    others = [
        training.code_digest(dataclasses.replace(asked, **change))
        for change in ({"model": "vgg6"}, {"color": "rgb"}, {"epochs": 31}, {"ema": 0.9})
    ]
    monkeypatch.setattr(training, "_source_of_learning", lambda optimizer: b"other code")
    assert len({digest, *others, training.code_digest(asked)}) == 6


def test_design_and_engine_decide_the_digest(monkeypatch):
    asked = training.Config("baseline", color="gray")
    digest, learning = training.code_digest(asked), training.learning_digests("adamw")["learning"]
    engine = training._SOURCE_OF_ENGINE
    parts = training.augmentation, training.schedules, training.whitening, training._Session
    for part in (*parts, training._Learner):
        assert inspect.getsource(part) in engine
    with monkeypatch.context() as patch:
        patch.setattr(training, "_described_design", lambda design, color: b"another")
        redesigned = training.code_digest(asked)
    monkeypatch.setattr(training, "_SOURCE_OF_ENGINE", "another")
    assert len({digest, redesigned, training.code_digest(asked)}) == 3
    assert training.learning_digests("adamw")["learning"] != learning


def test_a_design_is_the_same_whatever_options_a_version_of_keras_knows():
    """An option at its default is none, whether it is listed or not."""

    def described(**listed):
        layer = keras.layers.Conv2D(4, 3, padding="same", name="a")
        layer.get_config = lambda: {**keras.layers.Conv2D.get_config(layer), **listed}
        inputs = keras.Input((8, 8, 1))
        return training.design_digest(keras.Model(inputs, layer(inputs)))

    plain = described()
    assert described(groups=1) == described(strides=(1, 1)) == plain
    assert len({plain, described(groups=2), described(padding="valid"), described(odd=1)}) == 4
    initial = {"class_name": "GlorotUniform", "module": "keras.initializers"}
    same = {**initial, "config": {"seed": None}, "registered_name": None}
    other = {**initial, "config": {"seed": 3}, "registered_name": None}
    assert described(kernel_initializer=same) == plain != described(kernel_initializer=other)
