"""Test accuracy of every rung of chapter 3's ladder, gray and colour, rung by rung.

    python benchmarks/linear.py [--rung R] [--color gray|rgb] [--seeds 0 1 2] [--record] [--missing]

C is chosen on held-out training images; each finished model sees the test set once. With
``--record`` the accuracies go to ``results/``, seed by seed, beside other seeds of the same images;
with ``--missing`` only what is not there, or was measured by other code: an interrupted run
continues.
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np

from cifarlib import arguments, classical, data, devices, errors, fitting, images, pages, results

RANDOM = ("patches", "mirrored patches")
SEEDS = [0, 1, 2]


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rung", choices=classical.RUNGS, help="one rung only")
    parser.add_argument("--color", choices=("gray", "rgb"), help="one of the two only")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--record", action="store_true", help="write to results/")
    parser.add_argument("--missing", action="store_true", help="record what is not there")
    options = parser.parse_args()
    if len(set(options.seeds)) < len(options.seeds) or min(options.seeds) < 0:
        parser.error("--seeds: expected different ones, from 0")
    is_recorded = options.record or options.missing
    train, test = data.load_cifar10()
    if is_recorded:
        results.check_recordable()
    commit = results.current_commit()  # now: somebody may commit while it fits
    print(data.current(), devices.describe_cpu(), sep="\n")
    rungs = (options.rung,) if options.rung else classical.RUNGS
    colors = (options.color,) if options.color else ("gray", "rgb")
    try:
        for rung, color in itertools.product(rungs, colors):
            known = recorded(rung, color) if options.missing else {}
            seeds = options.seeds if rung in RANDOM else [0]
            lacking = [seed for seed in seeds if seed not in known]
            if not lacking:
                print(f"{name_of_record(rung, color)}: recorded")
                continue
            for seed, row in measured(rung, color, lacking, train, test):
                if is_recorded:  # each seed, since the next may take half an hour
                    record(rung, color, seed, row, commit)
    finally:
        if is_recorded:
            pages.stamp_readme()


def name_of_record(rung: str, color: str) -> str:
    """Return the name of a rung's record."""
    return f"linear-{rung.replace(' ', '-')}-{color}"


def recorded(rung: str, color: str) -> dict[int, dict]:
    """Return what today's code made of each seed of these images, on whatever machine."""
    found = results.read(name_of_record(rung, color))
    if found is None or found.data_fingerprint != data.current().fingerprint:
        return {}
    seeds, details = found.seeds or (0,), found.details
    if details.get("code") != classical.code_digest(rung):
        return {}
    columns = {
        "accuracy": found.values,
        **{key: details[key] for key in ("C", "validation_accuracy", "seconds")},
        # Older records tell only of the model that chose C.
        "final_converged": details.get("final_converged", [None] * len(seeds)),
        "hardware": details.get("hardware", [found.hardware] * len(seeds)),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return dict(zip(seeds, rows, strict=True))


def measured(rung, color, seeds, train, test) -> Iterator[tuple[int, dict]]:
    """Fit one rung with every seed and judge it on the test set."""
    inputs = {}
    for split_name, split in (("train", train), ("test", test)):
        pictures = split.images if color == "rgb" else images.to_grayscale(split.images)
        inputs[split_name] = images.flatten(images.to_unit_range(pictures))
    for seed in seeds:
        began = time.monotonic()
        fitted = classical.fit(classical.build(rung, seed=seed), inputs["train"], train.labels)
        row = {
            "accuracy": float(np.mean(fitted.model.predict(inputs["test"]) == test.labels)),
            "C": fitted.C,
            "validation_accuracy": fitted.validation["accuracy"].max(),
            "seconds": time.monotonic() - began,
            "final_converged": fitting.has_converged(fitted.model),
            "hardware": devices.describe_cpu(),
        }
        print(
            f"{rung}, {color}, seed {seed}: {row['accuracy']:.2%} of {len(test.labels):,} test "
            f"images (validation {row['validation_accuracy']:.2%}), C = {fitted.C:g}, "
            f"{row['seconds']:.0f} s, peak {devices.peak_memory() / 2**30:.2f} GiB so far",
            flush=True,
        )
        yield seed, row


def record(rung: str, color: str, seed: int, row: dict, commit: str | None = None) -> None:
    """Add a seed to what is recorded of a rung."""
    with results.alone():  # another process may be adding one
        write(rung, color, {**recorded(rung, color), seed: row}, commit)


def write(rung: str, color: str, rows: dict[int, dict], commit: str | None = None) -> None:
    """Write what is known of a rung to results/."""
    seeds = sorted(rows)
    columns = {key: [rows[seed][key] for seed in seeds] for key in rows[seeds[0]]}
    listed = "" if rung not in RANDOM or seeds == SEEDS else f" --seeds {' '.join(map(str, seeds))}"
    results.write(
        name_of_record(rung, color),
        chapter="03",
        metric="test accuracy",
        values=columns.pop("accuracy"),
        seeds=seeds if rung in RANDOM else None,
        color=color,
        seconds=sum(columns["seconds"]),
        hardware=columns["hardware"],
        commit=commit,
        command=f"python benchmarks/linear.py --rung '{rung}' --color {color}{listed} --record",
        details={
            **columns,
            "code": classical.code_digest(rung),
            "num_test_images": data.current().num_test,
            "peak_memory_gib_of_process": round(devices.peak_memory() / 2**30, 2),
        },
    )


if __name__ == "__main__":
    with errors.told():
        main()
