"""The fast recipe beside any other program that trains on CIFAR-10: accuracy and seconds.

    python benchmarks/fast.py [--model fast|fast_deep] [--color gray|rgb] [--epochs N]
                              [--image-sizes N,N,…] [--num-runs N] [--in-a-process N]
                              [--peer "COMMAND"] [--peer-name NAME] [--record]

Ours and the peer train in turn on all training images of the data set in use; each finished run
is judged on the test images, plainly and with test-time augmentation (six views of each image).
The peer is any command line; {seed} in it becomes the number of the run. It finds the images in
the file named by the environment variable CIFARLIB_PEER_DATA (NumPy's .npz: x_train, y_train,
x_test, y_test; images uint8, n × 32 × 32 × C, and labels int64, n) and prints, as its last line, a
JSON object with "accuracy" and "accuracy_with_views" (shares, either may be missing) and "seconds"
of training, without what it took to compile.

Where starting and compiling take longer than training, as on a GPU, --in-a-process 5 lets each
process do five runs: {seed} becomes their numbers with commas in between, and a line of JSON is
expected for each.

With --record each run is written as soon as both sides have one, and a benchmark that was stopped,
or asked for more runs, goes on with those that are missing. Neither this file nor cifarlib may be
edited meanwhile: what is recorded is said to be of one code.
"""

import argparse
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifarlib import arguments, data, devices, errors, images, pages, results

MODELS = ("fast", "fast_deep")
SHOWN = {"accuracy": "accuracy", "accuracy_with_views": "with six views"}


def main() -> None:
    """Train in turn, print, and record if asked to."""
    began_with = source()
    parser = arguments.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="fast", help="ours (default: fast)")
    parser.add_argument("--color", choices=("gray", "rgb"), default="rgb")
    parser.add_argument("--epochs", type=int, help="of ours (default: the recipe's)")
    parser.add_argument(
        "--image-sizes",
        type=arguments.whole_numbers,
        metavar="N,N,…",
        help="of ours (default: the recipe's)",
    )
    parser.add_argument("--num-runs", type=int, default=3, help="of each side (default: 3)")
    parser.add_argument("--in-a-process", type=int, default=1, metavar="N", help="runs of a side")
    parser.add_argument("--peer", metavar="COMMAND", help="the other program")
    parser.add_argument("--peer-name", default="the peer", help="what to call it")
    parser.add_argument("--record", action="store_true", help="write both sides to results/")
    parser.add_argument("--ours", metavar="SEEDS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.record and not options.peer:
        parser.error("--record: expected --peer beside it; ours alone is benchmarks/networks.py")
    if options.in_a_process < 1 or options.num_runs < 1:
        parser.error("--num-runs, --in-a-process: expected at least 1")
    try:
        config = configuration(options, 0)
    except errors.InputError as error:  # before any side trains
        parser.error(str(error))
    if options.record and min(Counter(sizes_of(config)).values()) < 2:
        parser.error("--record: expected two epochs of each size, to tell compiling apart")
    try:
        words_of_peer = shlex.split(options.peer or "")
    except ValueError as error:
        parser.error(f"--peer: {error}")
    if options.peer is not None and not (words_of_peer and shutil.which(words_of_peer[0])):
        parser.error(f"--peer: expected a program and its arguments, found {options.peer!r}")
    if options.ours is not None:
        for seed in map(int, options.ours.split(",")):
            print(json.dumps(ours(configuration(options, seed))), flush=True)
        return
    if options.peer_name == "ours":
        parser.error("--peer-name: expected another name than ours")
    sides = {"ours": command_of_ours(options)}
    if options.peer:
        sides[options.peer_name] = words_of_peer
    with results.undisturbed(options.record):
        race(options, sides, began_with)


def race(options: argparse.Namespace, sides: dict[str, list[str]], began_with: bytes) -> None:
    """Let the sides train in turn; print, and record if asked to, what comes of it."""
    train, test = data.load_cifar10()
    runs = {side: [] for side in sides}
    if options.record:
        results.check_recordable()
        known, commit = facts(options), results.current_commit()
        runs = recorded(options, known, list(sides))
    print(data.current(), devices.describe(), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "cifar10.npz"
        x_train, x_test = (in_color(split.images, options.color) for split in (train, test))
        np.savez(place, x_train=x_train, y_train=train.labels, x_test=x_test, y_test=test.labels)
        complete = min(map(len, runs.values()))
        for first in range(complete, options.num_runs, options.in_a_process):
            last = min(first + options.in_a_process, options.num_runs)
            for side, command in sides.items():
                # One side is ahead if the benchmark was stopped while the other trained.
                seeds = range(len(runs[side]), last)
                if not seeds:
                    continue
                if options.record and source() != began_with:
                    sys.exit(
                        "The code has changed since this race began, so that the next run would "
                        "be of another. What has run is kept; race in a copy that nobody edits."
                    )
                numbers = ",".join(map(str, seeds))
                asked = [word.replace("{seed}", numbers) for word in command]
                for seed, run in zip(seeds, measured(asked, place, len(seeds)), strict=True):
                    runs[side].append(run)
                    print(f"run {seed}  {side:<12} {told(run)}", flush=True)
                if options.record and all(runs.values()):
                    record(options, known, commit, runs)
            if options.record:
                pages.stamp_readme()
    for side, of_side in runs.items():
        print(f"{side}: {summary(of_side)}")
    if options.peer:
        ratio = statistics.median(ratios(options, runs))
        print(f"ours is {ratio:.2f} times as fast as {options.peer_name}")


def source() -> bytes:
    """Return the source of all that ours may import: every run begins a process of its own."""
    modules = Path(results.__file__).parent.rglob("*.py")
    return b"".join(path.read_bytes() for path in sorted([*modules, Path(__file__)]))


def told(run: dict[str, float]) -> str:
    """Return what came of a run in a line."""
    shares = [f"{name} {run[key]:.2%}" for key, name in SHOWN.items() if key in run]
    return ", ".join([*shares, f"{run['seconds']:.2f} s"])


def in_color(pictures: np.ndarray, color: str) -> np.ndarray:
    """Return colour images in the colour that is asked for."""
    return images.to_grayscale(pictures) if color == "gray" else pictures


def words_of_ours(options: argparse.Namespace) -> list[str]:
    """Return what tells, on the command line, what ours trains."""
    words = [] if options.model == "fast" else ["--model", options.model]
    words += ["--color", options.color]
    if options.epochs is not None:
        words += ["--epochs", str(options.epochs)]
    if options.image_sizes is not None:
        words += ["--image-sizes", ",".join(map(str, options.image_sizes))]
    return words


def command_of_ours(options: argparse.Namespace) -> list[str]:
    """Return the command of runs of ours."""
    return [sys.executable, __file__, "--ours", "{seed}", *words_of_ours(options)]


def ours(config) -> dict[str, float]:
    """Train one network with a fast recipe and judge it."""
    from cifarlib import compute, training, views

    run = training.train(config)
    _, test = data.load_cifar10()
    pictures = in_color(test.images, config.color)

    def accuracy(network) -> float:
        return float(np.mean(compute.predict(network, pictures).argmax(axis=1) == test.labels))

    to_compile = seconds_to_compile(sizes_of(config), run.history["seconds"])
    return {
        "accuracy": accuracy(run.model),
        "accuracy_with_views": accuracy(views.averaged(run.model)),
        "seconds": float(run.history["seconds"].sum()) - (to_compile or 0.0),
        "seconds_to_compile": to_compile,
    }


def configuration(options: argparse.Namespace, seed: int):
    """Return what ours trains: the model's fast recipe on all training images."""
    from cifarlib import recipes, training

    recipe = {**recipes.find("fast", options.model), **changes(options)}
    return training.Config(
        options.model, color=options.color, seed=seed, **recipe, validation_fraction=0.0
    )


def changes(options: argparse.Namespace) -> dict:
    """Return what is asked of ours that its recipe says otherwise."""
    from cifarlib import recipes

    recipe = recipes.find("fast", options.model)
    asked = {"epochs": options.epochs, "image_sizes": options.image_sizes}
    return {name: value for name, value in asked.items() if value not in (None, recipe[name])}


def told_changes(options: argparse.Namespace) -> list[str]:
    """Return the same in words, such as ``["12 epochs"]``."""
    found = changes(options)
    told = [f"{found['epochs']} epochs"] if "epochs" in found else []
    if "image_sizes" in found:
        told.append(f"{', '.join(map(str, found['image_sizes']))} pixels")
    return told


def sizes_of(config) -> list[int]:
    """Return the side of the images in each epoch."""
    return [config.image_size(epoch) for epoch in range(1, config.epochs + 1)]


def seconds_to_compile(sizes: list[int], seconds: Sequence[float]) -> float | None:
    """Return what the first epoch of each image size takes longer than the others of that size.

    That is tracing and compilation; no less than nothing, should another epoch have been slower.
    None where a size has one epoch only, with nothing to compare it with.
    """
    by_size = {size: [] for size in sizes}
    for size, of_epoch in zip(sizes, seconds, strict=True):
        by_size[size].append(of_epoch)
    if any(len(of_size) == 1 for of_size in by_size.values()):
        return None
    return sum(max(0, first - statistics.median(others)) for first, *others in by_size.values())


def measured(command: list[str], place: Path, num_runs: int = 1) -> list[dict[str, float]]:
    """Run a side once and return what it printed last, an object for each run."""
    began = time.monotonic()
    environment = {**os.environ, "CIFARLIB_PEER_DATA": str(place)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    share = (time.monotonic() - began) / num_runs
    lines = done.stdout.strip().splitlines()
    try:
        found = [json.loads(line) for line in lines[-num_runs:]]
        if len(found) < num_runs or done.returncode:
            raise ValueError("fewer lines than runs, or an error after them")
        return [{**checked(run), "process_seconds": share} for run in found]
    except (KeyError, TypeError, ValueError):
        last = lines[-1] if lines else "nothing"
        sys.exit(
            f"{shlex.join(command)}: expected a JSON object with seconds as the last line of each "
            f"of {num_runs} runs, found {last!r} (exit status {done.returncode}). Make it print "
            "one, with accuracies as shares."
        )


def checked(run: dict) -> dict[str, float]:
    """Return what a run printed, with numbers where numbers belong.

    Raises:
        KeyError, TypeError, ValueError: if there are none.
    """
    seconds = float(run["seconds"])
    if not 0 < seconds < math.inf:
        raise ValueError("no time")
    shares = {key: float(run[key]) for key in SHOWN if run.get(key) is not None}
    if not all(0 <= share <= 1 for share in shares.values()):
        raise ValueError("no share")
    others = {key: value for key, value in run.items() if key not in SHOWN}
    return {**others, **shares, "seconds": seconds}


def summary(runs: list[dict[str, float]]) -> str:
    """Return a side's accuracy and seconds in a line."""
    told = []
    for key, name in SHOWN.items():
        if all(key in run for run in runs):
            told.append(f"{name} {results.in_percent(*moments([run[key] for run in runs]))}")
    seconds = [run["seconds"] for run in runs]
    told.append(
        f"{statistics.median(seconds):.2f} s (median; {min(seconds):.2f} to {max(seconds):.2f})"
    )
    return ", ".join(told)


def moments(values: list[float]) -> tuple[float, float | None, int]:
    """Return mean, standard deviation and number."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), sd, len(values)


def ratios(options: argparse.Namespace, runs: dict) -> list[float]:
    """Return how many times as fast ours was, pair by pair; a run without its pair waits."""
    pairs = zip(runs["ours"], runs[options.peer_name], strict=False)
    return [peer["seconds"] / our["seconds"] for our, peer in pairs]


def name_of_record(options: argparse.Namespace) -> str:
    """Return the name of the record, one for CPUs and one for each kind of accelerator."""
    told = ["benchmark", options.model, options.color, *told_changes(options)]
    told += dict.fromkeys(devices.accelerators())
    return "-".join(re.findall("[a-z0-9]+", " ".join(told).lower()))


def recorded(options: argparse.Namespace, known: dict, sides: list[str]) -> dict[str, list[dict]]:
    """Return the runs of both sides that are recorded of this code, machine, peer and images.

    What is known are `facts`.

    Of other code or images none are, and the record will be replaced.

    Raises:
        errors.InputError: if the record is of another peer or machine, and would be lost.
    """
    found = results.read(name_of_record(options))
    runs = {side: [] for side in sides}
    if found is None:
        return runs
    asked = {**known, "hardware": devices.describe()}
    there = {**found.details, "hardware": found.hardware}
    differing = [key for key in asked if there.get(key) != asked[key]]
    machine = "hardware", "accelerators", "backend", "precision"
    for key in (*machine, "peer", "command_of_peer", "in_a_process"):
        if key in differing:
            told = f"{key.replace('_', ' ')} {there.get(key)!r}, as in results/{found.name}.json"
            advice = "Race as the record says, or without --record, or move the file away."
            raise errors.InputError("--record", told, repr(asked[key]), advice)
    if differing or found.data_fingerprint != data.current().fingerprint:
        return runs
    for side, prefix in zip(sides, ("ours_", "peer_"), strict=True):
        columns = {
            key.removeprefix(prefix): values
            for key, values in found.details.items()
            if key.startswith(prefix)
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        runs[side] = [{key: row[key] for key in row if row[key] is not None} for row in rows]
    return runs


def facts(options: argparse.Namespace) -> dict:
    """Return what must be equal if two runs are to be in one record."""
    import keras

    from cifarlib import compute, training

    config = configuration(options, 0)
    return {
        "peer": options.peer_name,
        "command_of_peer": options.peer,
        "in_a_process": options.in_a_process,
        "code": training.code_digest(config),
        "kernels": training.kernels_digest(),
        "config": config.as_json(),
        "precision": compute.choose_precision(config.precision),
        "backend": keras.backend.backend(),
        "accelerators": devices.accelerators(),
    }


def record(options: argparse.Namespace, known: dict, commit: str, runs: dict) -> None:
    """Write both sides to results/; what a run does not tell is null."""
    found = ratios(options, runs)
    told_color = {"rgb": "colour"}.get(options.color, options.color)
    deep = " of the deep network" if options.model == "fast_deep" else ""
    told = told_changes(options)
    changed = f" ({'; '.join(told)})" if told else ""
    trained = f"the fast recipe{deep}{changed} in {told_color} on {devices.describe()}"
    num_runs = max(map(len, runs.values()))
    words = ["python benchmarks/fast.py", *words_of_ours(options), f"--num-runs {num_runs}"]
    if options.in_a_process > 1:
        words.append(f"--in-a-process {options.in_a_process}")
    words += [
        f"--peer {shlex.quote(options.peer)}",
        f"--peer-name {shlex.quote(options.peer_name)}",
    ]
    results.write(
        name_of_record(options),
        chapter="07",
        metric=f"{trained}, against {options.peer_name}",
        values=found,
        seeds=list(range(len(found))),
        color=options.color,
        hardware=devices.describe(),
        commit=commit,
        command=results.on_backend(f"{' '.join(words)} --record", [known["backend"]]),
        details={
            **known,
            **{
                f"{'ours' if side == 'ours' else 'peer'}_{key}": [run.get(key) for run in of_side]
                for side, of_side in runs.items()
                for key in dict.fromkeys(key for run in of_side for key in run)
            },
        },
    )


if __name__ == "__main__":
    with errors.told():
        main()
