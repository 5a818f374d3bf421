"""Training: one configuration in, one finished run out, the same from a cell and from a shell.

The training images lie where the network computes; each step is told only which of them to
take. What changes from step to step is drawn from the seed, the epoch and state that is saved
with the weights, so that a run that was killed and resumed ends in the same bits as one that
was not. The test set is not known here.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import math
import numbers
import random
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from cifarlib import (
    augmentation,
    compute,
    data,
    devices,
    evaluation,
    files,
    images,
    layered,
    models,
    optimizers,
    progress,
    recipes,
    results,
    runs,
    schedules,
    settings,
    whitening,
)
from cifarlib.errors import CifarlibError, InputError, nearest
from cifarlib.splits import CLASS_NAMES, Split, validation_places

SCALINGS = ("standardized", "unit")
CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device


def _field(default: Any, told: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": told})


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides how a run ends; what is not said is a recipe that suits most.

    Raises:
        InputError: for a value that does not fit, when it is made.
    """

    model: str | Callable[[keras.KerasTensor], keras.KerasTensor] = dataclasses.field(
        metadata={
            "help": "a name of cifarlib models, a file of cifarlib tune, or numbers of layers as "
            """JSON: '{"width": 64}'; in Python also a design of your own"""
        }
    )
    color: str = _field("rgb", "gray or rgb")
    seed: int = _field(0, "of weights, order, augmentation and the choice of train_size")
    epochs: int = _field(30, "how often the training images are gone through")
    batch_size: int = _field(256, "images a step; the last, incomplete step is left out")
    train_size: int | None = _field(None, "train on so many images only, equal shares of classes")
    validation_fraction: float = _field(0.1, "share of the training set held out; 0 for none")
    scaling: str = _field("standardized", "pixels: standardized by channel, or to the unit range")
    augmentation: tuple[str, ...] = _field(
        ("flip", "crop"), f"any of {', '.join(augmentation.NAMES)}; none for none"
    )
    augmentation_strength: float = _field(1.0, "scales turns, shifts and the like; 0 to 2")
    image_sizes: tuple[int, ...] = _field(
        (32,), "sides of the training images in turn, each for an equal part of the epochs"
    )
    label_smoothing: float = _field(0.1, "share of each label spread over all classes")
    optimizer: str = _field("adamw", ", ".join(optimizers.NAMES))
    learning_rate: float = _field(3e-3, "the largest one")
    weight_decay: float = _field(0.05, "decoupled; only muon decays biases and normalisation, too")
    schedule: str = _field("one_cycle", ", ".join(schedules.NAMES))
    warmup: float = _field(0.2, "share of the steps in which cosine and one_cycle rise")
    ema: float = _field(0.998, "weights are averaged with this momentum; 0 for the last ones")
    patience: int | None = _field(None, "stop after so many epochs without a better one")
    precision: str = _field("auto", f"auto, {', '.join(compute.PRECISIONS)}")
    num_devices: int = _field(1, "share each batch among so many devices")

    def __post_init__(self):
        if not callable(self.model):
            object.__setattr__(self, "model", str(self.model))  # it may be a path
        elif not getattr(self.model, "__name__", "").isidentifier():
            advice = "Give it a name with def."
            raise InputError("model", "a function with a name", repr(self.model), advice)
        # Not when it is trained: what a path names may be another file by then, or gone.
        found = self.model if callable(self.model) else models.find(self.model)
        object.__setattr__(self, "_design", found)
        if not isinstance(self.augmentation, (tuple, list)):
            advice = "Write ('flip',) for one."
            raise InputError("augmentation", "a tuple of names", repr(self.augmentation), advice)
        object.__setattr__(self, "augmentation", tuple(self.augmentation))
        augmentation.check_names(self.augmentation)
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                told = f"one of {', '.join(known)}"
                raise InputError(name, told, repr(value), nearest(value, known))
        for name, (low, high, kind) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("train_size", "patience"):
                continue
            is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not is_number or not low <= value <= high or kind(value) != value:
                kind_told, form = ("a whole", ",") if kind is int else ("a", "g")
                told = f"{kind_told} number from {low:{form}} to {high:{form}}"
                raise InputError(name, told, repr(value), "Correct it.")
            object.__setattr__(self, name, kind(value))
        self._check_image_sizes()
        if self.patience and not self.validation_fraction:
            advice = "Set validation_fraction, or leave patience out."
            raise InputError("patience", "validation images beside it", "none", advice)
        if self.batch_size % self.num_devices:
            raise InputError(
                "batch_size",
                f"a multiple of num_devices = {self.num_devices}",
                str(self.batch_size),
                "Change one of the two.",
            )

    def _check_image_sizes(self) -> None:
        sizes = self.image_sizes
        if (
            not isinstance(sizes, (tuple, list))
            or not sizes
            or not all(
                isinstance(size, numbers.Integral) and 8 <= size <= models.IMAGE_SIZE
                for size in sizes
            )
        ):
            told = f"a tuple of whole numbers from 8 to {models.IMAGE_SIZE}"
            raise InputError("image_sizes", told, repr(sizes), "Correct it.")
        object.__setattr__(self, "image_sizes", tuple(int(size) for size in sizes))

    def image_size(self, epoch: int) -> int:
        """Return the side of the training images in an epoch, counted from 1.

        Counted from the end, so that however few epochs there are, the last has the last size.
        """
        num_left = self.epochs - epoch
        return self.image_sizes[-1 - num_left * len(self.image_sizes) // self.epochs]

    @property
    def design(self) -> models.Design | Callable[[keras.KerasTensor], keras.KerasTensor]:
        """Return what its model stands for, and `models.build` takes."""
        return self._design

    @property
    def model_name(self) -> str:
        """Return the name of the model, that of its function for a design of your own."""
        return self.model.__name__ if callable(self.model) else self._design.name

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; a design of one's own by its name, or its fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        model = self.model if isinstance(self.model, str) else self.model_name
        if isinstance(self.model, layered.LayeredCNN):
            model = self.model.as_json()
        elif dataclasses.is_dataclass(self.model):
            model = repr(self.model)
        lists = {name: list(fields[name]) for name in ("augmentation", "image_sizes")}
        return {**fields, "model": model, **lists}


_CHOICES = {
    "color": tuple(models.CHANNELS),
    "scaling": SCALINGS,
    "optimizer": optimizers.NAMES,
    "schedule": schedules.NAMES,
    "precision": ("auto", *compute.PRECISIONS),
}
_RANGES = {
    "seed": (0, 2**31 - 1, int),
    "epochs": (1, 100_000, int),
    "batch_size": (1, 65_536, int),
    "train_size": (1, 10_000_000, int),
    "validation_fraction": (0, 0.9, float),
    "augmentation_strength": (0, 2, float),
    "label_smoothing": (0, 0.9, float),
    "learning_rate": (0, 100, float),
    "weight_decay": (0, 100, float),
    "warmup": (0, 0.9, float),
    "ema": (0, 0.99999, float),
    "patience": (1, 100_000, int),
    "num_devices": (1, 1024, int),
}


class DivergedError(CifarlibError):
    """The loss is no longer a number."""


def train(
    config: Config,
    train_split: Split | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    kept_in: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> runs.Run:
    """Train a network and return its best epoch.

    The history has a row an epoch: ``epoch`` counted from 1, ``learning_rate`` after its last step,
    ``loss`` and ``accuracy`` on the augmented training images while they are learned,
    ``validation_loss`` and ``validation_accuracy`` after it, ``seconds`` and
    ``images_per_second``. Best is the highest validation accuracy, the first of equals; without
    validation images, the last epoch.

    The random generators of Python, NumPy and Keras are seeded anew.

    Args:
        config: what to do.
        train_split: images and labels of your own to train on, uint8 of shape (n, 32, 32, 3), or
            (n, 32, 32, 1) for a grayscale run, and integers of shape (n,); None for the training
            set of `data.load_cifar10`. Validation images are split off them.
        folder: where to keep checkpoints and outcome, see `runs`; None to keep nothing.
        resume: go on with the run in that folder; start it if there is none.
        kept_in: instead of a folder for this run, one for many: each lies under a name made
            from everything that decides its outcome, and is read, or resumed, when the same is
            asked for again of the same code; what another process trains is waited for. Of a
            design of your own its configuration counts, its first weights, and the code of layers
            and registered parts of your own; what such code refers to elsewhere does not.
        on_epoch: called with each new row of the history; what it raises ends the training.

    Returns:
        The finished run. Its model takes pixels and computes in float32, whatever it was
        trained in.

    Raises:
        InputError: if design, folder, images, their sizes, devices or number format do not fit.
        CifarlibError: if another process trains in the folder, or a checkpoint cannot be written.
        DivergedError: if the loss is no longer finite; the last checkpoint is kept.
    """
    for name, path in (("folder", folder), ("kept_in", kept_in)):
        if path is not None and not str(path):
            raise InputError(name, "a path, or None", "nothing", "Name a folder.")
    if folder is not None and kept_in is not None:
        raise InputError("folder", "nothing beside kept_in", repr(folder), "Give one of the two.")
    description = None
    if train_split is None:
        train_split, _ = data.load_cifar10()
        description = data.current()
    pictures, labels = train_split
    labels = _checked_labels(labels, len(pictures))
    pictures = _in_color(pictures, config.color)
    kept, held_out = _places(labels, config)
    if len(kept) < config.num_devices:
        told = f"at most {len(kept)}, one for each training image"
        raise InputError("num_devices", told, str(config.num_devices), "Use fewer devices.")
    # No batch is larger than the training set, and recipes scale their rates with the batch.
    largest = len(kept) // config.num_devices * config.num_devices
    config = dataclasses.replace(config, batch_size=min(config.batch_size, largest))
    network, begun_with = _build(config, pictures, kept)
    precision = compute.choose_precision(config.precision, network)
    claim = contextlib.nullcontext()
    if folder is not None or kept_in is not None:
        asked = _decisive(config, network, precision, pictures, labels)
        learning = _source_of_learning(config.optimizer)
        if kept_in is None:
            asked[runs.CODE] = _digest(learning)
        else:
            del asked["model"]  # under whatever name, the design is the same
            told = json.dumps(asked, sort_keys=True).encode()
            name = _digest(told, *begun_with, learning, _SOURCE_OF_KERNELS)
            folder, resume = Path(kept_in) / name, True
            if runs.is_finished(folder):  # several processes may read it
                return _read(folder, config, description)
        claim = runs.claim(Path(folder), asked, resume=resume, wait=kept_in is not None)
    with contextlib.ExitStack() as held:
        with compute.parallel(config.num_devices):
            # What cannot be trained fails here, before the folder is made.
            session = _Session(config, network, precision, pictures, labels, kept, held_out)
            held.callback(compute.free, [session.learner.pictures, session.learner.labels])
            run_folder = held.enter_context(claim)
            if run_folder and runs.is_finished(run_folder.path):
                if kept_in is not None:
                    # Another process trained it: waiting for that has taken its time already.
                    progress.remember(run_folder.path, 0)
                return _read(run_folder.path, config, description)
            if run_folder and (checkpoint := run_folder.load_checkpoint()):
                session.restore(*checkpoint)
                seconds = sum(row["seconds"] for row in session.history)
                progress.remember(run_folder.path, seconds)
            # Now: somebody may commit while it trains.
            commit = results.current_commit() if settings.checkout_folder() else "unknown"
            session.run(run_folder, on_epoch)
        network.set_weights(session.best_weights)
        told = {"commit": commit, **_about_images(config, description)}
        metrics = {**session.metrics(network, precision), **told}
        if run_folder:
            run_folder.finish(network, session.history, metrics)
            progress.remember(run_folder.path, 0)
    return runs.Run(network, pd.DataFrame(session.history), metrics, run_folder and run_folder.path)


def _build(
    config: Config, pictures: np.ndarray, kept: np.ndarray
) -> tuple[keras.Model, list[np.ndarray]]:
    """Return a new network, and the weights it began with if its design is somebody's own."""
    scaling = _scaling(pictures, kept, config)
    keras.utils.set_random_seed(config.seed)
    network = models.build(config.design, config.color, scaling)
    # What a function does beside building layers no configuration tells: it may load weights.
    is_own = callable(config.model) and _is_own(config.model)
    begun_with = [_value(variable) for variable in network.weights] if is_own else []
    whitening.adapt(network, pictures, kept)
    if callable(config.model):
        state = random.getstate()  # Keras seeds each layer from it, the checks' as well
        runs.check_loadable(network)
        if is_own:
            _check_new(config, network)
        random.setstate(state)
    return network, begun_with


def _decisive(
    config: Config,
    network: keras.Model,
    precision: str,
    pictures: np.ndarray,
    labels: np.ndarray,
) -> dict[str, Any]:
    """Return what decides a run's outcome, apart from the code that trains."""
    asked = config.as_json()
    # Last, since it follows from the training set's size: that is told first if both differ.
    asked["batch_size"] = asked.pop("batch_size")
    return asked | {
        "precision": precision,
        "backend": keras.backend.backend(),
        "design": design_digest(network),
        "data": _digest(pictures, labels),
    }


def _about_images(config: Config, description: data.Description | None) -> dict[str, Any]:
    """Return what a run's figures say of its images, and so of the command that repeats it."""
    if description is None:
        told = "cifarlib.training.train in Python, on images of one's own"
        return {"data_kind": "own images", "data_fingerprint": None, "command": told}
    kind, fingerprint = description.kind, description.fingerprint
    told = command(config)
    if told.startswith("cifarlib train "):
        told = results.on_backend(told, [keras.backend.backend()])
    return {"data_kind": kind, "data_fingerprint": fingerprint, "command": told}


def _read(folder: Path, config: Config, description: data.Description | None) -> runs.Run:
    run = runs.read(folder)
    runs.remove_checkpoint(folder)  # whoever finished it may have been killed just before
    progress.remember(folder, run.metrics["seconds"])
    if description and run.metrics["data_fingerprint"] is None:
        # Somebody gave these very images as their own. Who wants it judged must hear what they are.
        metrics = {**run.metrics, **_about_images(config, description)}
        files.write_json(folder / "metrics.json", metrics)
        return run._replace(metrics=metrics)
    return run


class _Learner(keras.Model):
    """A network with what only training needs: images, augmentation, targets, averaged weights.

    Takes places of images instead of images, so that one device-side gather replaces a pipeline.
    """

    def __init__(self, network, pictures, labels, config: Config, steps_per_epoch: int):
        super().__init__(name="learner")
        self.steps_per_epoch = steps_per_epoch
        self.network = network
        self.size = models.IMAGE_SIZE
        # A function, since Keras would count the weights of each network that it sees.
        self.network_at = {self.size: network, **_smaller_networks(network, config)}.get
        self.augment = augmentation.Augmentation(config.augmentation, config.augmentation_strength)
        self.ema = config.ema
        is_summed = keras.backend.backend() == "tensorflow"
        self.num_replicas = config.num_devices if is_summed else 1
        self.pictures, self.labels = (
            self.add_weight(
                shape=array.shape,
                dtype=str(array.dtype),
                trainable=False,
                initializer=lambda shape, dtype, array=array: ops.convert_to_tensor(array, dtype),
            )
            for array in (pictures, labels)
        )
        self.num_steps = self.add_weight(
            shape=(), initializer="zeros", trainable=False, aggregation="mean"
        )
        self.averages = []
        if self.ema:
            self.averages = [
                self.add_weight(
                    shape=weight.shape,
                    initializer=lambda shape, dtype, weight=weight: ops.convert_to_tensor(
                        _value(weight), dtype
                    ),
                    trainable=False,
                    aggregation="mean",
                )
                for weight in network.trainable_variables
            ]
        self.cross_entropy = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=config.label_smoothing
        )
        self.accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")

    def build(self, places_shape):
        """Do nothing: all parts are built, but Keras asks."""

    def call(self, places, training=False):
        places = ops.cast(places, "int32")  # Keras tries with floats on several devices
        pictures = ops.cast(ops.take(self.pictures, places, axis=0), "float32")
        targets = ops.one_hot(ops.take(self.labels, places, axis=0), len(CLASS_NAMES))
        if training:
            epoch = self._count_step()
            pictures, targets = self.augment(pictures, targets, places, epoch)
            pictures = augmentation.shrink(pictures, self.size)
        network = self.network_at(self.size) if training else self.network
        return {"logits": network(pictures, training=training), "targets": targets}

    def set_size(self, size: int) -> None:
        """Train on images of another size from now on."""
        if size != self.size:
            self.size = size
            self.make_train_function(force=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = self.cross_entropy(y_pred["targets"], y_pred["logits"])
        # What regularisers of a design ask for; TensorFlow adds up the devices' losses.
        return loss + sum(self.losses) / self.num_replicas

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.accuracy.update_state(y_pred["targets"], y_pred["logits"])
        return self.get_metrics_result()

    def _count_step(self):
        """Move the averages towards the weights that the last step left; return the epoch."""
        steps = ops.convert_to_tensor(self.num_steps)
        epoch = steps // self.steps_per_epoch
        # A young average forgets faster, or the random weights of the start stay in it.
        momentum = ops.minimum(self.ema, (1 + steps) / (10 + steps))
        for weight, average in self._pairs():
            average.assign(average * momentum + ops.cast(weight, "float32") * (1 - momentum))
        self.num_steps.assign(steps + 1)
        return epoch

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Return weights with their averages, none if nothing is averaged."""
        weights = self.network.trainable_variables
        return list(zip(weights, self.averages, strict=True)) if self.averages else []

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages in place of the weights."""
        pairs = self._pairs()
        kept = [_value(weight) for weight, _ in pairs]
        for weight, average in pairs:
            weight.assign(_value(average))
        yield
        for (weight, _), value in zip(pairs, kept, strict=True):
            weight.assign(value)


def _smaller_networks(network: keras.Model, config: Config) -> dict[int, keras.Model]:
    """Return the network for each size of training images below the usual."""
    smaller = {}
    for size in {*config.image_sizes} - {models.IMAGE_SIZE}:
        try:
            smaller[size] = compute.at_size(network, size)
        except (ValueError, RuntimeError) as error:  # as the backend has it
            raise InputError(
                "image_sizes",
                f"{models.IMAGE_SIZE} for {config.model_name}, whose layers need it",
                str(size),
                f"Use {models.IMAGE_SIZE} alone, or larger sizes; a design that ends in a global "
                "pooling takes most.",
            ) from error
    return smaller


class _Watch(keras.callbacks.Callback):
    """Moves the bar and looks at the loss."""

    # So that Keras calls it from threads. It would wait for the device after each step else, and
    # the device for the next.
    async_safe = True

    def __init__(self, bar, batch_size: int):
        super().__init__()
        self.bar, self.batch_size = bar, batch_size
        self.lock = threading.Lock()

    def on_train_batch_end(self, batch, logs=None):
        with self.lock:
            self.bar.update(self.batch_size)
        if batch % CHECK_EVERY == 0 and not math.isfinite(float(logs["loss"])):
            raise _NotFiniteError


class _NotFiniteError(Exception):
    """The loss of this epoch is not finite."""


class _Session:
    """What one call of `train` has in memory."""

    def __init__(self, config, network, precision, pictures, labels, kept, held_out):
        self.config, self.kept, self.held_out = config, kept, held_out
        self.pictures, self.validation_labels = pictures, labels[held_out]
        self.batch_size = min(config.batch_size, len(kept))
        self.num_steps = len(kept) // self.batch_size
        prepared = compute.prepare(network, precision)
        self.learner = _Learner(prepared, pictures, labels, config, self.num_steps)
        rate = schedules.build(
            config.schedule, config.learning_rate, self.num_steps * config.epochs, config.warmup
        )
        self.optimizer = optimizers.build(
            config.optimizer, rate, config.weight_decay, config.batch_size
        )
        weights = self.learner.network.trainable_variables
        if config.optimizer != "muon":
            self.optimizer.exclude_from_weight_decay([v for v in weights if len(v.shape) < 2])
        outer = self.optimizer
        if precision == "float16":
            outer = keras.optimizers.LossScaleOptimizer(self.optimizer)
        self.learner.compile(outer, jit_compile=compute.jit_compile())
        outer.build(weights)
        self.history: list[dict] = []
        self.best_weights = self._weights()

    def run(self, run_folder: runs.RunFolder | None, on_epoch: Callable | None) -> None:
        """Train the epochs that are missing."""
        images_an_epoch = self.num_steps * self.batch_size
        with progress.bar(
            self.config.epochs * images_an_epoch,
            self.config.model_name,
            unit="image",
            initial=len(self.history) * images_an_epoch,
        ) as bar:
            while len(self.history) < self.config.epochs and not self._is_patience_over():
                epoch = len(self.history) + 1
                bar.set_description(f"{self.config.model_name}, epoch {epoch}")
                try:
                    row = self._train_epoch(epoch, bar)
                except _NotFiniteError:
                    raise DivergedError(self._told_divergence(epoch, run_folder)) from None
                self.history.append(row)
                bar.set_postfix_str(", ".join(f"{k} {row[k]:.3f}" for k in _SHOWN if k in row))
                if self.best_epoch == epoch:
                    with self.learner.averaged():
                        self.best_weights = self._weights()
                if run_folder:
                    run_folder.save_checkpoint(self._state(), self.history)
                if on_epoch:
                    on_epoch(row)

    def _train_epoch(self, epoch: int, bar) -> dict[str, float]:
        if self.config.schedule == "plateau":
            losses = [row.get("validation_loss", row["loss"]) for row in self.history]
            rate = schedules.after_plateaus(self.config.learning_rate, losses)
            self.optimizer.learning_rate.assign(rate)
        began = time.monotonic()
        self.learner.set_size(self.config.image_size(epoch))
        order = np.random.default_rng((self.config.seed, epoch)).permutation(self.kept)
        order = order[: self.num_steps * self.batch_size].astype(np.int32)
        fitted = self.learner.fit(
            **compute.batches(order, self.batch_size),
            shuffle=False,
            verbose=0,
            callbacks=[_Watch(bar, self.batch_size)],
        ).history
        row = {
            "epoch": epoch,
            "learning_rate": float(ops.convert_to_numpy(self.optimizer.learning_rate)),
            "loss": float(fitted["loss"][0]),
            "accuracy": float(fitted["accuracy"][0]),
        }
        if not math.isfinite(row["loss"]):
            raise _NotFiniteError
        trained = time.monotonic() - began
        if len(self.held_out):
            with self.learner.averaged():
                logits = self._validation_logits()
            if not np.isfinite(logits).all():
                raise _NotFiniteError
            row.update(_validation_figures(self.validation_labels, logits))
        # The last step of an epoch is seen by no loss of that epoch.
        if not all(np.isfinite(weight).all() for weight in self._weights()):
            raise _NotFiniteError
        row["seconds"] = time.monotonic() - began
        row["images_per_second"] = len(order) / trained
        return row

    def _validation_logits(self) -> np.ndarray:
        places = self.held_out.astype(np.int32)
        return compute.predict(self.learner, places)["logits"]

    @property
    def best_epoch(self) -> int:
        """Return the number of the best epoch so far, 0 before the first."""
        if not self.history:
            return 0
        if "validation_accuracy" not in self.history[0]:
            return len(self.history)
        return 1 + int(np.argmax([row["validation_accuracy"] for row in self.history]))

    def _is_patience_over(self) -> bool:
        patience = self.config.patience
        return patience is not None and len(self.history) - self.best_epoch >= patience

    def _told_divergence(self, epoch: int, run_folder: runs.RunFolder | None) -> str:
        kept = "Nothing was kept."
        if run_folder and epoch > 1:
            kept = f"The checkpoint of epoch {epoch - 1} is kept in {run_folder.path}."
        return (
            f"{self.config.model_name}: the loss is not finite in epoch {epoch}. {kept} "
            f"A smaller learning rate than {self.config.learning_rate:g} may help."
        )

    def _weights(self) -> list[np.ndarray]:
        return [_value(weight) for weight in self.learner.network.weights]

    def _variables(self) -> Iterator[tuple[str, keras.Variable]]:
        data_held = {id(self.learner.pictures), id(self.learner.labels)}
        held = [v for v in self.learner.variables if id(v) not in data_held]
        for index, variable in enumerate([*held, *self.learner.optimizer.variables]):
            yield f"variable_{index:05}", variable

    def _state(self) -> dict[str, np.ndarray]:
        state = {name: _value(variable) for name, variable in self._variables()}
        best = enumerate(self.best_weights)
        return {**state, **{f"best_{index:05}": weight for index, weight in best}}

    def restore(self, arrays: dict[str, np.ndarray], history: list[dict]) -> None:
        """Go back to a checkpoint."""
        for name, variable in self._variables():
            variable.assign(arrays[name])
        self.best_weights = [arrays[name] for name in sorted(arrays) if name.startswith("best_")]
        self.history = history

    def metrics(self, network: keras.Model, precision: str) -> dict[str, Any]:
        """Return the figures of the finished run, the validation figures of the plain network."""
        config, last = self.config, self.history[-1]
        figures: dict[str, Any] = {
            "model": config.model_name,
            "color": config.color,
            "seed": config.seed,
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "stopped_early": len(self.history) < config.epochs,
            "last_training_loss": last["loss"],
            "num_training_images": len(self.kept),
            "num_validation_images": len(self.held_out),
        }
        if len(self.held_out):
            logits = compute.predict(network, self.pictures[self.held_out])
            figures.update(_validation_figures(self.validation_labels, logits))
            estimate = evaluation.accuracy(self.validation_labels, logits.argmax(axis=1))
            figures["validation_interval_95"] = [float(estimate.low), float(estimate.high)]
        return {
            **figures,
            "parameters": network.count_params(),
            "seconds": sum(row["seconds"] for row in self.history),
            "images_per_second": float(
                np.median([row["images_per_second"] for row in self.history])
            ),
            "peak_memory_bytes": devices.peak_memory(),
            "precision": precision,
            "backend": keras.backend.backend(),
            "accelerators": devices.accelerators(),
            "hardware": devices.describe_cpu(),
            "versions": devices.versions(),
            "config": config.as_json(),
            "command": command(config),
        }


def _value(variable: keras.Variable) -> np.ndarray:
    """Return a variable's value, copied: PyTorch's arrays change with the variable."""
    return np.array(ops.convert_to_numpy(variable))


_SHOWN = ("loss", "accuracy", "validation_accuracy")


def command(config: Config) -> str:
    """Return the command line that repeats a run, or that none does: a design of one's own."""
    if callable(config.model) and not isinstance(config.model, layered.LayeredCNN):
        return f"cifarlib.training.train in Python, with the design {config.model_name}"
    model = config.as_json()["model"]
    if not isinstance(model, str):
        model = _numbers(model)
    elif model.endswith(".json"):
        model = Path(model).as_posix()  # a shell on Windows takes slashes, too
    words = ["cifarlib train", shlex.quote(model)]
    if recipes.usual(config.model_name) != "modern":
        words.append("--recipe modern")  # what follows is what differs from it
    modern = recipes.find("modern", config.model_name)
    for field in dataclasses.fields(config)[1:]:
        value = getattr(config, field.name)
        # The quick profile would train for fewer, unless they are named.
        is_told = field.name == "epochs" and settings.asked_profile() == "quick"
        if value == modern.get(field.name, field.default) and not is_told:
            continue
        if isinstance(value, tuple):
            value = ",".join(map(str, value)) or "none"
        words.append(f"--{field.name.replace('_', '-')} {value}")
    return " ".join(words)


def _numbers(model: dict[str, Any]) -> str:
    """Return a design by numbers in short: those that are not the baseline's."""
    baseline = layered.LayeredCNN().as_json()
    return json.dumps({name: value for name, value in model.items() if value != baseline[name]})


def data_digest(train_split: Split | None = None) -> str:
    """Return what tells training images and labels apart, those of `data.load_cifar10` if None."""
    pictures, labels = train_split or data.load_cifar10()[0]
    pictures, labels = np.ascontiguousarray(pictures), np.ascontiguousarray(labels, np.int32)
    return _digest(str(pictures.shape).encode(), pictures, labels)


def _checked_labels(labels: np.ndarray, num_images: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu" or not num_images:
        raise InputError(
            "train_split",
            f"whole numbers of shape ({num_images},) as labels, at least one",
            f"{labels.dtype} {labels.shape}",
            "Give a class for each image.",
        )
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        found = f"{labels.min()} to {labels.max()}"
        advice = "Number the classes as CLASS_NAMES does."
        raise InputError("train_split", "labels from 0 to 9", found, advice)
    return np.ascontiguousarray(labels, np.int32)


def _in_color(pictures: np.ndarray, color: str) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:3] != (32, 32):
        raise InputError(
            "train_split",
            "uint8 images of shape (n, 32, 32, C)",
            f"{pictures.dtype} {pictures.shape}",
            "Give the images as load_cifar10 returns them; scaling is part of the network.",
        )
    if pictures.shape[-1] == models.CHANNELS[color]:
        return np.ascontiguousarray(pictures)
    if color == "gray" and pictures.shape[-1] == 3:
        return images.to_grayscale(pictures)
    found = f"{pictures.shape[-1]} channels"
    is_gray = pictures.shape[-1] == models.CHANNELS["gray"]
    advice = "Choose the other color." if is_gray else "Give images of 3 channels, or of 1."
    raise InputError("train_split", f"images in {color}", found, advice)


def _places(labels: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the training and of the validation images."""
    kept, held_out = np.arange(len(labels)), np.arange(0)
    try:
        if config.validation_fraction:
            # Whatever the seed: the images that `split_validation` holds out by itself.
            kept, held_out = validation_places(labels, config.validation_fraction)
        if config.train_size is not None and config.train_size < len(kept):
            _, chosen = validation_places(labels[kept], config.train_size, config.seed)
            kept = kept[chosen]
    except ValueError as error:
        advice = "Use more images or a larger share."
        raise InputError("images", "some of every class", str(error), advice) from error
    if config.train_size is not None and config.train_size > len(kept):
        advice = "Ask for fewer, or hold fewer out."
        raise InputError("train_size", f"at most {len(kept)}", str(config.train_size), advice)
    return kept, held_out


def code_digest(config: Config) -> str:
    """Return what tells apart the code that trains a configuration, whatever seed and images.

    Design, configuration, its optimizer and the engine decide it; comments and docstrings of the
    engine do, too.
    How it is computed (`compute`) does not: by whatever kernels, the function is the same but
    for rounding, as it is between machines.
    """
    asked = config.as_json()
    del asked["seed"]
    described = _described_design(config.design, config.color)
    learning = _source_of_learning(config.optimizer)
    return _digest(json.dumps(asked, sort_keys=True).encode(), described, learning)


def learning_digests(optimizer: str) -> dict[str, str]:
    """Return what tells apart the code that learns with an optimizer, whatever is learned.

    Returns:
        ``learning``, of the engine and the optimizer, and ``kernels``, of how it is computed.
    """
    return {"learning": _digest(_source_of_learning(optimizer)), "kernels": kernels_digest()}


def kernels_digest() -> str:
    """Return what tells apart how networks are computed: how fast, and how it is rounded."""
    return _digest(_SOURCE_OF_KERNELS)


def design_digest(network: keras.Model) -> str:
    """Return what tells networks apart, whatever their weights."""
    return _digest(_described(network))


@functools.cache  # it is asked again and again whether records are of today's designs
def _described_design(
    design: models.Design | Callable[[keras.KerasTensor], keras.KerasTensor], color: str
) -> bytes:
    return _described(models.build(design, color))


def _described(network: keras.Model) -> bytes:
    """Return what tells designs apart. Layers' names do not: they count up within a process."""
    text = json.dumps(_without_defaults(network.get_config()), default=str, sort_keys=True)
    names = dict.fromkeys(re.findall(r'"name": "([^"]+)"', text))
    for index, name in enumerate(names):  # a key may read the same, or an activation
        text = re.sub(f'(?<!"activation": )"{re.escape(name)}"(?!:)', f'"#{index}"', text)
    every = list(network._flatten_layers())
    own = {type(layer) for layer in every if _is_own(type(layer))}
    registered = keras.saving.get_custom_objects().items()  # activations, initializers
    kinds = [
        part if inspect.isclass(part) or inspect.isfunction(part) else type(part)
        for name, part in registered
        if json.dumps(name) in text
    ]
    own.update(filter(_is_own, kinds))
    # A number format is called by a name, too, and so is as good as lost above.
    formats = {layer.dtype_policy.name for layer in every} - {"float32"}
    return "".join([text, *sorted(formats), *sorted(map(_source_of, own))]).encode()


def _check_new(config: Config, network: keras.Model) -> None:
    """Refuse a design that gives each network the same layers to train: runs would go on."""
    again = models.build(config.design, config.color)
    known = {id(layer) for layer in network._flatten_layers()}
    shared = [
        variable
        for layer in again._flatten_layers()
        if id(layer) in known and layer.trainable
        for variable in layer.variables
    ]
    if shared:
        raise InputError(
            f"design {config.model_name}",
            "new layers at each call",
            f"weights that it gives to all of its networks ({shared[0].path})",
            "Make the layers inside of it, or a copy of them: keras.models.clone_model.",
        )


def _is_own(part: Any) -> bool:
    """Tell whether a part is somebody's own; a network's configuration does not tell its code."""
    return str(part.__module__).partition(".")[0] not in ("keras", "cifarlib")


def _source_of(part: type | Callable[..., Any]) -> str:
    """Return a function's source, or that of a class's methods, with its constants.

    A notebook has it, too, unlike that of classes.
    """
    if inspect.isclass(part):
        classes = itertools.takewhile(_is_own, part.__mro__)
        members = [entry for own in classes for entry in vars(own).items()]
    else:
        members = [("", part)]
    functions = [each for _, member in members for each in _functions(member)]
    constants = [
        f"{name} = {member!r}"
        for name, member in members
        if not name.startswith("_") and isinstance(member, (bool, int, float, str))
    ]
    name = f"{part.__module__}.{part.__qualname__}"
    try:
        return "\n".join([name, *constants, *map(inspect.getsource, functions)])
    except OSError:  # typed into Python's own prompt
        codes = [function.__code__ for function in functions]
        typed = [f"{code.co_code.hex()} {code.co_names} {code.co_consts}" for code in codes]
        return "\n".join([name, *constants, *typed])


def _functions(member: Any) -> list[Callable[..., Any]]:
    """Return the functions that a member of a class is made of."""
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if isinstance(member, functools.cached_property):
        member = member.func
    parts = [member]
    if isinstance(member, property):
        parts = [member.fget, member.fset, member.fdel]
    return [part for part in parts if inspect.isfunction(part)]


def _without_defaults(config: Any) -> Any:
    """Return a configuration without what Keras would do anyhow.

    Each version of Keras adds options, and a network that uses none of them is the same network.
    """
    if isinstance(config, dict):
        options = {name: _without_defaults(value) for name, value in config.items()}
        module, name = str(config.get("module")), config.get("class_name")
        if module.startswith("keras.") and isinstance(config.get("config"), dict):
            made = getattr(importlib.import_module(module), name).__init__
            known = inspect.signature(made).parameters
            options["config"] = {
                option: _without_defaults(value)
                for option, value in config["config"].items()
                if option not in known or known[option].default != value
            }
        return options
    if isinstance(config, (list, tuple)):
        return [_without_defaults(value) for value in config]
    return config


def _digest(*contents: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]


def _scaling(pictures: np.ndarray, kept: np.ndarray, config: Config) -> keras.layers.Rescaling:
    """Return the first layer of the network, which knows the training images' statistics."""
    if config.scaling == "unit":
        return keras.layers.Rescaling(1 / 255)
    statistics = images.channel_statistics(pictures[kept])
    sd = np.maximum(statistics.std, 1e-3)
    scale, offset = 1 / (255 * sd), -statistics.mean / sd
    return keras.layers.Rescaling(scale.tolist(), offset.tolist())


def _validation_figures(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    loss = evaluation.cross_entropy(labels, logits)
    right = np.mean(logits.argmax(axis=1) == labels)
    return {"validation_loss": loss, "validation_accuracy": float(right)}


# What decides, beside design, configuration and optimizer, what is learned. Read here, when it is
# imported: whoever edits a file while it trains does not change what has been said of that.
_SOURCE_OF_ENGINE = "".join(
    map(
        inspect.getsource,
        (
            *(Config.image_size, _Learner, _Session, _places, _scaling, _validation_figures),
            *(validation_places, images.to_grayscale, images.channel_statistics),
            *(evaluation.cross_entropy, models.PositionEmbedding),
            *(augmentation, schedules, whitening),
        ),
    )
)
_SOURCE_OF_KERNELS = compute.source()


def _source_of_learning(optimizer: str) -> bytes:
    """Return the source of what decides what is learned with an optimizer.

    Of other optimizers nothing, so that one can be added without making records stale.
    """
    return (_SOURCE_OF_ENGINE + optimizers.SOURCES[optimizer]).encode()
