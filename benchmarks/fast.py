"""The fast recipe beside any other program that trains on CIFAR-10: accuracy and seconds.

    python benchmarks/fast.py [--color gray|rgb] [--epochs N] [--num-runs N]
                              [--peer "COMMAND"] [--peer-name NAME] [--record]

Ours and the peer train in turn, each run in a process of its own, on all training images of the
data set in use; each finished run is judged on the test images, plainly and with test-time
augmentation (six views of each image). The peer is any command line; {seed} in it becomes the
number of the run. It finds the images in the file named by the environment variable
CIFARLIB_PEER_DATA (NumPy's .npz: x_train, y_train, x_test, y_test; uint8, n × 32 × 32 × C) and
prints, as its last line, a JSON object with "accuracy" and "accuracy_with_views" (shares, either
may be missing) and "seconds" of training.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cifarlib import data, devices, images, results

SHOWN = {"accuracy": "accuracy", "accuracy_with_views": "with six views"}


def main() -> None:
    """Train in turn, print, and record if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--color", choices=("gray", "rgb"), default="rgb")
    parser.add_argument("--epochs", type=int, help="of ours (default: the recipe's)")
    parser.add_argument("--num-runs", type=int, default=3, help="of each side (default: 3)")
    parser.add_argument("--peer", metavar="COMMAND", help="the other program")
    parser.add_argument("--peer-name", default="the peer", help="what to call it")
    parser.add_argument("--record", action="store_true", help="write both sides to results/")
    parser.add_argument("--one", type=int, metavar="SEED", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record and not options.peer:
        parser.error("--record: expected --peer beside it; ours alone is benchmarks/networks.py")
    if options.one is not None:
        print(json.dumps(ours(options.color, options.epochs, options.one)))
        return
    sides = {"ours": command_of_ours(options)}
    if options.peer:
        sides[options.peer_name] = shlex.split(options.peer)
    train, test = data.load_cifar10()
    print(data.current(), devices.describe_cpu(), sep="\n", flush=True)
    runs = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "cifar10.npz"
        x_train, x_test = (in_color(split.images, options.color) for split in (train, test))
        np.savez(place, x_train=x_train, y_train=train.labels, x_test=x_test, y_test=test.labels)
        for seed in range(options.num_runs):
            for side, command in sides.items():
                run = measured([word.replace("{seed}", str(seed)) for word in command], place)
                runs[side].append(run)
                told = ", ".join(
                    f"{name} {run[key]:.2%}" for key, name in SHOWN.items() if key in run
                )
                print(f"run {seed}  {side:<12}{told}, {run['seconds']:.1f} s", flush=True)
    for side, of_side in runs.items():
        print(f"{side}: {summary(of_side)}")
    if options.peer:
        ratios = [
            peer["seconds"] / our["seconds"]
            for our, peer in zip(runs["ours"], runs[options.peer_name], strict=True)
        ]
        print(f"ours is {statistics.median(ratios):.2f} times as fast as {options.peer_name}")
    if options.record:
        record(options, ratios, runs)


def in_color(pictures: np.ndarray, color: str) -> np.ndarray:
    """Return colour images in the colour that is asked for."""
    return images.to_grayscale(pictures) if color == "gray" else pictures


def command_of_ours(options: argparse.Namespace) -> list[str]:
    """Return the command of one run of ours."""
    command = [sys.executable, __file__, "--one", "{seed}", "--color", options.color]
    return command if options.epochs is None else [*command, "--epochs", str(options.epochs)]


def ours(color: str, epochs: int | None, seed: int) -> dict[str, float]:
    """Train one network with the fast recipe and judge it."""
    from cifarlib import compute, recipes, training, views

    recipe = {**recipes.find("fast", "fast"), "validation_fraction": 0.0}
    if epochs is not None:
        recipe["epochs"] = epochs
    run = training.train(training.Config("fast", color=color, seed=seed, **recipe))
    _, test = data.load_cifar10()
    pictures = in_color(test.images, color)

    def accuracy(network) -> float:
        return float(np.mean(compute.predict(network, pictures).argmax(axis=1) == test.labels))

    seconds = run.history["seconds"]
    return {
        "accuracy": accuracy(run.model),
        "accuracy_with_views": accuracy(views.averaged(run.model)),
        "seconds": float(seconds.sum()),
        # What the first epoch takes longer than the others: tracing and compilation.
        "seconds_to_compile": float(seconds.iloc[0] - seconds.iloc[1:].median()),
    }


def measured(command: list[str], place: Path) -> dict[str, float]:
    """Run a side once and return what it printed last."""
    began = time.monotonic()
    environment = {**os.environ, "CIFARLIB_PEER_DATA": str(place)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1])
        found["seconds"] = float(found["seconds"])
    except (IndexError, KeyError, TypeError, ValueError):
        last = lines[-1] if lines else "nothing"
        sys.exit(
            f"{shlex.join(command)}: expected a JSON object with seconds as the last line, found "
            f"{last!r} (exit status {done.returncode}). Make it print one."
        )
    return {**found, "process_seconds": time.monotonic() - began}


def summary(runs: list[dict[str, float]]) -> str:
    """Return a side's accuracy and seconds in a line."""
    told = []
    for key, name in SHOWN.items():
        if all(key in run for run in runs):
            told.append(f"{name} {results.in_percent(*moments([run[key] for run in runs]))}")
    seconds = [run["seconds"] for run in runs]
    told.append(
        f"{statistics.median(seconds):.1f} s (median; {min(seconds):.1f} to {max(seconds):.1f})"
    )
    return ", ".join(told)


def moments(values: list[float]) -> tuple[float, float | None, int]:
    """Return mean, standard deviation and number."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), sd, len(values)


def record(options: argparse.Namespace, ratios: list[float], runs: dict) -> None:
    """Write both sides to results/."""
    words = ["python benchmarks/fast.py", f"--color {options.color}", f"--num-runs {len(ratios)}"]
    if options.epochs is not None:
        words.append(f"--epochs {options.epochs}")
    words += [
        f"--peer {shlex.quote(options.peer)}",
        f"--peer-name {shlex.quote(options.peer_name)}",
    ]
    results.write(
        f"benchmark-fast-{options.color}",
        chapter="07",
        metric=f"training {options.color} on a CPU, against {options.peer_name}",
        values=ratios,
        seeds=list(range(len(ratios))),
        color=options.color,
        command=f"{' '.join(words)} --record",
        details={
            "peer": options.peer_name,
            **{
                f"{'ours' if side == 'ours' else 'peer'}_{key}": [run[key] for run in of_side]
                for side, of_side in runs.items()
                for key in of_side[0]
            },
        },
    )
    results.stamp_readme()


if __name__ == "__main__":
    main()
