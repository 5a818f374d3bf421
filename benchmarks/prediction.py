"""Prediction on one core: milliseconds for one image, images a second in batches, size on disk.

    python benchmarks/prediction.py [MODEL ...] [--repeats N] [--record]

Each network in colour but ``layered_cnn``, where searches begin, and the best linear model,
``mirrored-patches``, with its features. Their weights are random or fitted to noise, since speed
does not depend on them. Each runs in a process of its own that has one core; the smallest network
of the registry runs beside each and is what ratios are to.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cifarlib import arguments, errors, timed

BESIDE = "baseline"
BATCH = 250
REPEATS = 7


def main() -> None:
    """Measure each model in a process of its own, print, and record if asked to."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--record", action="store_true", help="write to results/")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats: expected at least 1")
    if options.record and options.repeats != REPEATS:
        parser.error(f"--record: expected --repeats {REPEATS}, as its command says")
    if options.here:
        print(json.dumps(_measure(options.here, options.repeats)))
        return
    from cifarlib import entries, models, pages, results

    for name in options.models:
        if name != entries.LINEAR:
            models.find(name)
        if options.record and name not in (*models.DESIGNS, entries.LINEAR):
            parser.error(f"--record: expected names of cifarlib models, found {name}")
    if options.record:
        results.check_recordable()
    everything = [*(name for name in models.DESIGNS if name != "layered_cnn"), entries.LINEAR]
    with results.undisturbed(options.record):
        try:
            for name in options.models or everything:
                commit = results.current_commit()  # now: somebody may commit while it measures
                figures = _in_a_process(name, options.repeats)
                print(_told(name, figures), flush=True)
                if options.record:
                    _record(name, figures, commit)
        finally:  # what was recorded before a failure is there
            if options.record:
                pages.stamp_readme()


def _told(name: str, figures: dict) -> str:
    """Return what was measured of a model in a line."""
    speed = statistics.median(figures["images_per_second"])
    beside = statistics.median(figures["beside_images_per_second"])
    return (
        f"{name}: {statistics.median(figures['milliseconds']):.1f} ms an image, "
        f"{speed:,.0f} images/s in batches ({speed / beside:.2f} of {BESIDE}), "
        f"{figures['megabytes']:.1f} MB"
    )


def _record(name: str, figures: dict, commit: str) -> None:
    """Write what was measured of a model to results/."""
    from cifarlib import results

    details = dict(figures)
    results.write(
        f"prediction-{name.replace('_', '-')}",
        chapter="06",
        metric="prediction on one core, images a second",
        values=details.pop("images_per_second"),
        color="rgb",
        commit=commit,
        command=results.on_backend(
            f"python benchmarks/prediction.py {name} --record", [figures["backend"]]
        ),
        details={
            "model": name,
            "beside": BESIDE,
            **details,
        },
    )


def _in_a_process(name: str, repeats: int) -> dict:
    one = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    one |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}  # a core, and nothing beside it
    one |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--here", name, "--repeats", str(repeats)]
    done = subprocess.run(
        command, env={**os.environ, **one}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message; out of memory?"])[-1]
        sys.exit(f"{name}: exit status {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(name: str, repeats: int) -> dict:
    if hasattr(os, "sched_setaffinity"):  # what libraries start besides then waits for its turn
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np

    from cifarlib import staleness

    rng = np.random.default_rng(0)
    many = rng.random((BATCH, 32, 32, 3), np.float32)
    predict, save = _prepared(name, many)
    predict_beside, _ = _prepared(BESIDE, many)
    figures = {"milliseconds": [], "images_per_second": [], "beside_images_per_second": []}
    figures["backend"] = _backend()
    for _ in range(repeats):
        figures["milliseconds"].append(_seconds(predict, many[:1]) * 1e3)
        figures["images_per_second"].append(BATCH / _seconds(predict, many))
        figures["beside_images_per_second"].append(BATCH / _seconds(predict_beside, many))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save(path)
        figures["megabytes"] = path.stat().st_size / 1e6
    figures["code"] = staleness.prediction_digest(name)  # of what this process has imported
    return figures


def _backend() -> str:
    import keras

    return keras.backend.backend()


def _prepared(name: str, pictures) -> tuple[Callable, Callable]:
    """Return what predicts with a model, and what saves it."""
    import joblib

    from cifarlib import classical, compute, entries, fitting, images, models

    if name != entries.LINEAR:
        network = models.build(name)
        network.jit_compile = compute.jit_compile() is not False
        return network.predict_on_batch, network.save
    pipeline = classical.build(name.replace("-", " "))
    with fitting.quietly():  # noise has nothing that could be learned
        pipeline.fit(images.flatten(pictures), [place % 10 for place in range(len(pictures))])

    def predict(some):
        return pipeline.predict(images.flatten(some))

    return predict, functools.partial(joblib.dump, pipeline)


def _seconds(predict: Callable, pictures) -> float:
    predict(pictures)  # what is compiled, or fetched from memory, is so now
    return timed.seconds(lambda: predict(pictures))


if __name__ == "__main__":
    with errors.told():
        main()
