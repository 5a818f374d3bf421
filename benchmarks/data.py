"""Measure the data layer beside what it replaces, in one run, and print the ratios.

    python benchmarks/data.py [--repeat N] [--record]

Each pair is measured in turn, so that a noisy machine disturbs both sides alike. With
``--record`` the ratios go to ``results/``.
"""

import io
import pickle
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlib import archives, arguments, data, errors, images, pages, results, timed

COMMAND = "python benchmarks/data.py --record"
REPEAT = 5


def _code(*modules: str) -> dict[str, object]:
    """Return what a record tells of the code whose times it holds."""
    return timed.code("benchmarks/data.py", *(f"cifarlib/{module}.py" for module in modules))


# Read at once: somebody may edit them while it measures.
OPENING = _code("data", "archives", "containers", "cache", "splits", "settings")
GRAYSCALE = _code("images", "devices")
DECODING = _code("archives", "containers", "splits", "progress")
STARTING = {
    "import": (["-c", "import cifarlib"], _code("__init__")),
    "help": (
        ["-m", "cifarlib", "--help"],
        _code("__init__", "__main__", "cli", "arguments", "errors"),
    ),
}


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=REPEAT, help="measurements of each side")
    parser.add_argument("--record", action="store_true", help="write the ratios to results/")
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error("--repeat: expected at least 1")
    if options.record and options.repeat != REPEAT:
        parser.error(f"--record: expected --repeat {REPEAT}, as its command says")
    description = data.fetch()
    if options.record:
        results.check_recordable()
    commit = results.current_commit()  # now: somebody may commit while it measures
    print(description, "\n")

    def compare(
        name: str,
        metric: str,
        ours: Callable,
        theirs: Callable,
        repeat: int,
        code: dict[str, object],
        *,
        fastest_of: int = 1,
        with_images: bool = True,
    ) -> None:
        began = time.monotonic()
        ours(), theirs()  # the first time pays for page faults and imports
        pairs = [_pair(ours, theirs, fastest_of) for _ in range(repeat)]
        seconds = time.monotonic() - began
        ratios = [reference / own for own, reference in pairs]
        own, reference = (statistics.median(side) for side in zip(*pairs, strict=True))
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}, n = {repeat}"
        print(metric)
        print(f"    {statistics.median(ratios):8.1f} ({spread}): {own:.4f} s, {reference:.4f} s")
        if options.record:
            details = {"seconds": own, "reference_seconds": reference, **code}
            results.write(
                f"benchmark-{name}",
                chapter="01",
                metric=metric,
                values=ratios,
                commit=commit,
                seconds=seconds,
                with_images=with_images,
                command=COMMAND,
                details=details,
            )

    with results.undisturbed(options.record):
        try:
            compare_all(compare, description, options.repeat)
        finally:  # what was recorded before an interruption is there
            if options.record:
                pages.stamp_readme()


def compare_all(compare: Callable, description: data.Description, repeat: int) -> None:
    """Compare one pair after the other."""
    train, test = data.load_cifar10()
    with tempfile.TemporaryDirectory() as folder:
        batches = _write_pickled_batches(Path(folder), train, test)
        compare(
            "warm-cache",
            "opening the warm cache, against unpickling six official batches",
            data.load_cifar10,
            lambda: _unpickle(batches),
            repeat,
            OPENING,
        )
        compare(
            "warm-cache-read",
            "the same and reading every byte",
            lambda: [split.images.sum() for split in data.load_cifar10()],
            lambda: [planes.sum() for planes in _unpickle(batches)],
            repeat,
            OPENING,
        )
    everything = np.concatenate([train.images, test.images])
    compare(
        "grayscale",
        f"grayscale of {len(everything):,} images, against Pillow image by image",
        lambda: images.to_grayscale(everything),
        lambda: [np.asarray(Image.fromarray(p).convert("L")) for p in everything],
        repeat,
        GRAYSCALE,
    )
    compare(
        "copy-grayscale",
        "grayscale, against copying the RGB array (the floor)",
        lambda: images.to_grayscale(everything),
        everything.copy,
        repeat,
        GRAYSCALE,
        fastest_of=20,  # as below
    )
    if description.layout == "class folders" and _is_tar(description.origin):
        compare(
            "decode",
            "decoding the class-folder archive, against a plain tarfile and Pillow loop",
            lambda: archives.read(description.origin),
            lambda: _plain_decode(description.origin),
            max(2, repeat // 2),
            DECODING,
        )
        print(f"    peak memory of decoding: {_peak_memory_of_decoding(description.origin)}")
    for name, (words, code) in STARTING.items():
        compare(
            f"start-{name}",
            f"`python {' '.join(words)}`, against an empty program",
            lambda words=words: _python(words),
            lambda: _python(["-c", "pass"]),
            repeat,
            code,
            fastest_of=20,  # each is over in a moment, and anything else disturbs it
            with_images=False,
        )


def _is_tar(path: str) -> bool:
    return Path(path).is_file() and tarfile.is_tarfile(path)


def _pair(ours: Callable, theirs: Callable, fastest_of: int) -> tuple[float, float]:
    """Return the seconds of both, in turn; the fewest of several, since other work adds to them."""
    pairs = [(timed.seconds(ours), timed.seconds(theirs)) for _ in range(fastest_of)]
    own, reference = map(min, zip(*pairs, strict=True))
    return own, reference


def _python(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def _write_pickled_batches(folder: Path, train: data.Split, test: data.Split) -> list[Path]:
    """Write six files as in the official python archive."""
    paths = []
    size = len(train.labels) // 5
    parts = [(train, slice(part * size, (part + 1) * size)) for part in range(5)]
    for index, (split, part) in enumerate([*parts, (test, slice(None))]):
        planes = split.images[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
        labels = split.labels[part].tolist()
        paths.append(folder / f"batch_{index}")
        with paths[-1].open("wb") as file:
            pickle.dump({b"data": np.ascontiguousarray(planes), b"labels": labels}, file)
    return paths


def _unpickle(paths: list[Path]) -> list[np.ndarray]:
    batches = []
    for path in paths:
        with path.open("rb") as file:
            batches.append(pickle.load(file, encoding="bytes")[b"data"])
    return batches


def _plain_decode(archive: str) -> list[np.ndarray]:
    with tarfile.open(archive) as members:
        return [
            np.asarray(Image.open(io.BytesIO(members.extractfile(member).read())).convert("RGB"))
            for member in members
            if member.isfile()
        ]


def _peak_memory_of_decoding(archive: str) -> str:
    """Return the peak resident memory of a program that does nothing else (Linux only)."""
    program = (
        "from cifarlib import archives, devices\n"
        f"archives.read({archive!r})\n"
        "print(devices.peak_memory() // 1024, 'kB')"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    with errors.told():
        main()
