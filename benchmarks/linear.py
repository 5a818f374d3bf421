"""Test accuracy of every rung of chapter 3's ladder, gray and colour, cheapest first.

    python benchmarks/linear.py [--rung R] [--color gray|rgb] [--seeds 0 1 2] [--record] [--missing]

C is chosen on held-out training images; each finished model sees the test set once. With
``--record`` the accuracies go to ``results/``, seed by seed; with ``--missing`` only what is not
there is measured and recorded: an interrupted run continues.
"""

import argparse
import time
from collections.abc import Iterator

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
            seeds = options.seeds if rung in RANDOM else [0]
            found = results.read(name) if options.missing else None
            if found and set(seeds) <= set(found.seeds or (0,)):
                print(f"{name}: recorded")
                continue
            rows = recorded(found)
            for seed, row in measured(rung, color, seeds, train, test, rows):
                rows[seed] = row
                if is_recorded:  # each seed, since the next may take half an hour
                    record(name, rung, color, rows)
    if is_recorded:
        results.stamp_readme()


def recorded(found: results.Result | None) -> dict[int, dict]:
    """Return what is recorded of each seed of these images and this machine."""
    here = data.current().fingerprint, devices.describe_cpu()
    if found is None or (found.data_fingerprint, found.hardware) != here:
        return {}
    columns = {name: found.details[name] for name in ("C", "validation_accuracy", "seconds")}
    shared = {"converged": found.details["converged"]}
    rows = zip(found.values, *columns.values(), strict=True)
    told = [{**dict(zip(("accuracy", *columns), row, strict=True)), **shared} for row in rows]
    return dict(zip(found.seeds or (0,), told, strict=True))


def measured(rung, color, seeds, train, test, known) -> Iterator[tuple[int, dict]]:
    """Fit one rung with every seed that is not known and judge it on the test set."""
    inputs = {}
    for split_name, split in (("train", train), ("test", test)):
        pictures = split.images if color == "rgb" else images.to_grayscale(split.images)
        inputs[split_name] = images.flatten(images.to_unit_range(pictures))
    for seed in [seed for seed in seeds if seed not in known]:
        began = time.monotonic()
        fitted = classical.fit(classical.build(rung, seed=seed), inputs["train"], train.labels)
        chosen = fitted.validation.set_index("C").loc[fitted.C]
        row = {
            "accuracy": float(np.mean(fitted.model.predict(inputs["test"]) == test.labels)),
            "C": fitted.C,
            "validation_accuracy": fitted.validation["accuracy"].max(),
            "seconds": time.monotonic() - began,
            "converged": bool(chosen["converged"]),
        }
        print(
            f"{rung}, {color}, seed {seed}: {row['accuracy']:.2%} of {len(test.labels):,} test "
            f"images (validation {row['validation_accuracy']:.2%}), C = {fitted.C:g}, "
            f"{row['seconds']:.0f} s, peak {devices.peak_memory() / 2**30:.2f} GiB so far",
            flush=True,
        )
        yield seed, row


def record(name: str, rung: str, color: str, rows: dict[int, dict]) -> None:
    """Write what is known of a rung to results/."""
    seeds = sorted(rows)
    columns = {key: [rows[seed][key] for seed in seeds] for key in rows[seeds[0]]}
    listed = "" if rung not in RANDOM or seeds == SEEDS else f" --seeds {' '.join(map(str, seeds))}"
    results.write(
        name,
        chapter="03",
        metric="test accuracy",
        values=columns.pop("accuracy"),
        seeds=seeds if rung in RANDOM else None,
        color=color,
        seconds=sum(columns["seconds"]),
        command=f"python benchmarks/linear.py --rung '{rung}' --color {color}{listed} --record",
        details={
            **columns,
            "converged": all(columns["converged"]),
            "num_test_images": data.current().num_test,
            "peak_memory_gib_of_process": round(devices.peak_memory() / 2**30, 2),
        },
    )


if __name__ == "__main__":
    with errors.told():
        main()
