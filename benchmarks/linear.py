"""Test accuracy of every rung of chapter 3's ladder, gray and colour, cheapest first.

    python benchmarks/linear.py [--rung R] [--color gray|rgb] [--seeds 0 1 2] [--record] [--missing]

C is chosen on held-out training images; each finished model sees the test set once. With
``--record`` the accuracies go to ``results/``; with ``--missing`` only those that are not there
are measured and recorded: an interrupted run continues.
"""

import argparse
import time

import numpy as np

from cifarlib import classical, data, devices, errors, images, results

RANDOM = ("patches", "mirrored patches")
SEEDS = [0, 1, 2]


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rung", choices=classical.RUNGS, help="one rung only")
    parser.add_argument("--color", choices=("gray", "rgb"), help="one of the two only")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--record", action="store_true", help="write to results/")
    parser.add_argument("--missing", action="store_true", help="record what is not there")
    options = parser.parse_args()
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("--seeds: expected different ones")
    is_recorded = options.record or options.missing
    train, test = data.load_cifar10()
    if is_recorded:
        results.check_recordable()
    print(data.current(), devices.describe_cpu(), sep="\n")
    for rung in (options.rung,) if options.rung else classical.RUNGS:
        for color in (options.color,) if options.color else ("gray", "rgb"):
            name = f"linear-{rung.replace(' ', '-')}-{color}"
            if options.missing and results.read(name):
                print(f"{name}: recorded")
                continue
            seeds = options.seeds if rung in RANDOM else [0]
            measure(name, rung, color, seeds, train, test, is_recorded)
    if is_recorded:
        results.stamp_readme()


def measure(name, rung, color, seeds, train, test, record) -> None:
    """Fit one rung with every seed and judge it on the test set."""
    rows = {}
    for split_name, split in (("train", train), ("test", test)):
        pictures = split.images if color == "rgb" else images.to_grayscale(split.images)
        rows[split_name] = images.flatten(images.to_unit_range(pictures))
    began = time.monotonic()
    accuracies, details = [], {"C": [], "validation_accuracy": [], "seconds": []}
    for seed in seeds:
        seed_began = time.monotonic()
        fitted = classical.fit(classical.build(rung, seed=seed), rows["train"], train.labels)
        accuracies.append(float(np.mean(fitted.model.predict(rows["test"]) == test.labels)))
        details["C"].append(fitted.C)
        details["validation_accuracy"].append(fitted.validation["accuracy"].max())
        details["seconds"].append(time.monotonic() - seed_began)
        chosen = fitted.validation.set_index("C").loc[fitted.C]
        details["converged"] = details.get("converged", True) and bool(chosen["converged"])
        print(
            f"{rung}, {color}, seed {seed}: {accuracies[-1]:.2%} of {len(test.labels):,} test "
            f"images (validation {details['validation_accuracy'][-1]:.2%}), C = {fitted.C:g}, "
            f"{details['seconds'][-1]:.0f} s, peak {devices.peak_memory() / 2**30:.2f} GiB so far",
            flush=True,
        )
    details["num_test_images"] = len(test.labels)
    details["peak_memory_gib_of_process"] = round(devices.peak_memory() / 2**30, 2)
    if record:
        listed = " ".join(map(str, seeds))
        results.write(
            name,
            chapter="03",
            metric="test accuracy",
            values=accuracies,
            seeds=seeds if rung in RANDOM else None,
            color=color,
            seconds=time.monotonic() - began,
            command=(
                f"python benchmarks/linear.py --rung '{rung}' --color {color}"
                f"{'' if rung not in RANDOM or seeds == SEEDS else f' --seeds {listed}'} --record"
            ),
            details=details,
        )


if __name__ == "__main__":
    with errors.told():
        main()
