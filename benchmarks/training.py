"""Training through `cifarlib.training` beside Keras's ``fit``, in one run: speed and accuracy.

    python benchmarks/training.py [--size N] [--epochs N] [--seeds 0 1 2] [--record]

Six normalised convolutions, the same images, optimizer, batch size and rate for all: ours, in the
number format that it chooses here, which is recorded; Keras as it comes; and Keras with XLA, as it
came before 3.15 and as Colab still has it. The first epoch, in which all of them compile, is left
out. What our augmentation and gathering of images cost is measured with a network that does next
to nothing.
"""

import statistics
import time

import keras
import numpy as np

from cifarlib import (
    arguments,
    compute,
    data,
    devices,
    errors,
    models,
    pages,
    results,
    timed,
    training,
)
from cifarlib.splits import Split, split_validation

OPTIMIZER = "adam"
CODE = timed.code("benchmarks/training.py") | training.learning_digests(OPTIMIZER)
SIZE, EPOCHS, SEEDS = 8_000, 4, [0, 1, 2]
HELD_OUT = 0.25
BATCH = 256
RATE = 2e-3
KINDS = {"ours": None, "Keras": "auto", "Keras with XLA": True}


def main() -> None:
    """Read what is asked for, and compare."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SIZE, help="training and validation images")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--record", action="store_true", help="write the ratios to results/")
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs: expected at least 2, since the first is not timed")
    if options.size < 2 * BATCH:
        parser.error(f"--size: expected at least {2 * BATCH}, a batch and what is held out")
    if options.record and devices.accelerators():
        parser.error("--record: expected a machine without accelerators, which it is about")
    if options.record and (options.size, options.epochs, options.seeds) != (SIZE, EPOCHS, SEEDS):
        parser.error("--record: expected the default --size, --epochs and --seeds")
    with results.undisturbed(options.record):
        compare(options)


def compare(options) -> None:
    """Train in turn, print, and record if asked to."""
    train, _ = data.load_cifar10()
    if options.record:
        results.check_recordable()
    commit = results.current_commit()  # now: somebody may commit while it trains
    split = Split(train.images[: options.size], train.labels[: options.size])
    print(data.current(), f"{devices.describe_cpu()}; Keras {keras.__version__}", sep="\n")
    began = time.monotonic()
    speeds, accuracies = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    for seed in options.seeds:
        for kind, jit in KINDS.items():
            if kind == "ours":
                speed, accuracy = ours(split, options.epochs, seed)
            else:
                speed, accuracy = theirs(split, options.epochs, seed, jit)
            speeds[kind].append(speed)
            accuracies[kind].append(accuracy)
            print(
                f"seed {seed}  {kind:<15}{speed:7.0f} images/s, validation {accuracy:.2%}",
                flush=True,
            )
    precision = compute.choose_precision("auto")
    overhead = input_share(split, statistics.median(speeds["ours"]))
    print(f"images and augmentation take {overhead:.1%} of our time, with flips and crops")
    seconds = time.monotonic() - began
    for kind in list(KINDS)[1:]:
        ratios = [a / b for a, b in zip(speeds["ours"], speeds[kind], strict=True)]
        print(f"{statistics.median(ratios):.2f} times as fast as {kind}")
        if options.record:
            results.write(
                f"benchmark-training-{kind.lower().replace(' ', '-')}",
                chapter="04",
                metric=f"training six convolutions in {precision} on {devices.describe_cpu()}, "
                f"against {kind}'s fit"
                + (" as it comes" if kind == "Keras" else " (Keras before 3.15)"),
                values=ratios,
                seeds=options.seeds,
                color="rgb",
                seconds=seconds,
                commit=commit,
                command=results.on_backend(
                    "python benchmarks/training.py --record", [keras.backend.backend()]
                ),
                details={
                    "precision": precision,
                    "backend": keras.backend.backend(),
                    "images_per_second": speeds["ours"],
                    "reference_images_per_second": speeds[kind],
                    "validation_accuracy": accuracies["ours"],
                    "reference_validation_accuracy": accuracies[kind],
                    "num_images": options.size,
                    "num_epochs": options.epochs,
                    "batch_size": BATCH,
                    "share_of_time_for_input": overhead,
                    "optimizer": OPTIMIZER,
                    **CODE,
                },
            )
    if options.record:
        pages.stamp_readme()


def six_convolutions(x):
    """Three blocks of two normalised convolutions: 0.92 GFLOP for each image learned."""
    for width in (64, 128, 256):
        for _ in range(2):
            x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
        x = keras.layers.MaxPooling2D(2)(x)
    return keras.layers.GlobalAveragePooling2D()(x)


def next_to_nothing(x):
    """Average the image."""
    return keras.layers.GlobalAveragePooling2D()(x)


def ours(split: Split, epochs: int, seed: int) -> tuple[float, float]:
    """Return images a second and the last epoch's validation accuracy of our training."""
    history = training.train(plain(six_convolutions, epochs=epochs, seed=seed), split).history
    speed = statistics.median(history["images_per_second"][1:])
    return speed, float(history["validation_accuracy"].iloc[-1])


def plain(model, **changes) -> training.Config:
    """Return a configuration that asks for no more than Keras does by itself."""
    fields = {
        "augmentation": (),
        "label_smoothing": 0.0,
        "optimizer": OPTIMIZER,
        "weight_decay": 0.0,
        "schedule": "constant",
        "learning_rate": RATE,
        "ema": 0.0,
        "batch_size": BATCH,
        "scaling": "unit",
        "validation_fraction": HELD_OUT,
    }
    return training.Config(model, **{**fields, **changes})


class EpochTimes(keras.callbacks.Callback):
    """Remembers how long each epoch took."""

    def on_epoch_begin(self, epoch, logs=None):
        """Look at the clock."""
        self.began = time.monotonic()
        self.seconds = [*getattr(self, "seconds", []), None]

    def on_epoch_end(self, epoch, logs=None):
        """Look again."""
        self.seconds[-1] = time.monotonic() - self.began


def theirs(split: Split, epochs: int, seed: int, jit: bool | str) -> tuple[float, float]:
    """Return the same of Keras's ``fit``."""
    kept, held_out = split_validation(split, HELD_OUT)
    keras.utils.set_random_seed(seed)
    network = models.build(six_convolutions, "rgb", keras.layers.Rescaling(1 / 255))
    network.compile(
        keras.optimizers.Adam(RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit,
    )
    times = EpochTimes()
    kept_images = kept.images[: len(kept.labels) // BATCH * BATCH]  # whole batches, as ours
    network.fit(
        kept_images,
        kept.labels[: len(kept_images)],
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[times],
    )
    answers = network.predict(held_out.images, batch_size=BATCH, verbose=0).argmax(axis=1)
    speed = len(kept_images) / statistics.median(times.seconds[1:])
    return speed, float(np.mean(answers == held_out.labels))


def input_share(split: Split, speed: float) -> float:
    """Return which share of a step goes into choosing, converting and augmenting images."""
    config = plain(next_to_nothing, epochs=3, augmentation=("flip", "crop"), precision="float32")
    alone = statistics.median(training.train(config, split).history["images_per_second"][1:])
    return speed / alone


if __name__ == "__main__":
    with errors.told():
        main()
