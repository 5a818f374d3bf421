"""Prediction on one core: milliseconds for one image, images a second in batches, size on disk.

    python benchmarks/prediction.py [MODEL ...] [--repeats N] [--record]

Each model in colour, with random weights, since speed does not depend on them, in a process of
its own that has one core. The smallest network of the registry runs beside each and is what
ratios are to.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BESIDE = "baseline"
BATCH = 250
REPEATS = 7


def main() -> None:
    """Measure each model in a process of its own, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--record", action="store_true", help="write to results/")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(_measure(options.here, options.repeats)))
        return
    from cifarlib import models, results

    for name in options.models:
        models.find(name)
    for name in options.models or [name for name in models.DESIGNS if name != "layered_cnn"]:
        figures = _in_a_process(name, options.repeats)
        speed = statistics.median(figures["images_per_second"])
        beside = statistics.median(figures["beside_images_per_second"])
        print(
            f"{name}: {statistics.median(figures['milliseconds']):.1f} ms an image, "
            f"{speed:,.0f} images/s in batches ({speed / beside:.2f} of {BESIDE}), "
            f"{figures['megabytes']:.1f} MB",
            flush=True,
        )
        if options.record:
            results.write(
                f"prediction-{name.replace('_', '-')}",
                chapter="06",
                metric="prediction on one core, images a second",
                values=figures.pop("images_per_second"),
                color="rgb",
                command=f"python benchmarks/prediction.py {name} --record",
                details={"model": name, "beside": BESIDE, **figures},
            )


def _in_a_process(name: str, repeats: int) -> dict:
    one = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    one |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--here", name, "--repeats", str(repeats)]
    done = subprocess.run(
        command, env={**os.environ, **one}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _measure(name: str, repeats: int) -> dict:
    if hasattr(os, "sched_setaffinity"):  # what libraries start besides then waits for its turn
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np

    from cifarlib import compute, models

    def prepared(model: str):
        network = models.build(model)
        network.jit_compile = compute.jit_compile() is not False
        return network

    def seconds(network, pictures) -> float:
        network.predict_on_batch(pictures)
        began = time.perf_counter()
        network.predict_on_batch(pictures)
        return time.perf_counter() - began

    network, beside = prepared(name), prepared(BESIDE)
    rng = np.random.default_rng(0)
    many = rng.random((BATCH, 32, 32, 3), np.float32)
    figures = {"milliseconds": [], "images_per_second": [], "beside_images_per_second": []}
    for _ in range(repeats):
        figures["milliseconds"].append(seconds(network, many[:1]) * 1e3)
        figures["images_per_second"].append(BATCH / seconds(network, many))
        figures["beside_images_per_second"].append(BATCH / seconds(beside, many))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        network.save(path)
        figures["megabytes"] = path.stat().st_size / 1e6
    return {**figures, "parameters": network.count_params()}


if __name__ == "__main__":
    main()
