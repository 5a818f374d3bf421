"""The grid search of chapter 3 beside scikit-learn's, in one run: seconds and best score.

    python benchmarks/grid.py [--size N] [--record]

Both search the same candidates: C, scaling and the number of whitened components, and among them
the usual recipe, standardised pixels with C = 1. Both get the same images, folds and workers. Ours
fits what candidates share once a fold; ``GridSearchCV`` fits it anew for each.
"""

import tempfile
import warnings

from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cifarlib import (
    arguments,
    data,
    devices,
    errors,
    features,
    images,
    pages,
    results,
    search,
    timed,
)

CODE = timed.code(
    "benchmarks/grid.py",
    *(f"cifarlib/{module}.py" for module in ("search", "fitting", "features", "progress", "files")),
)
COUNTS, STRENGTHS = [50, 100, 200], [1e-4, 1e-3, 1e-2, 1]
GRID = [
    {"classify__C": [1.0]},
    {
        "scale": ["passthrough", StandardScaler()],
        "whiten": [PCA(max(COUNTS), whiten=True, svd_solver="covariance_eigh")],
        "keep__count": COUNTS,
        "classify__C": STRENGTHS,
    },
]
NUM_CANDIDATES = 1 + 2 * len(COUNTS) * len(STRENGTHS)


def main() -> None:
    """Read what is asked for, and compare."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=50_000, help="training images")
    parser.add_argument("--record", action="store_true", help="write the ratio to results/")
    options = parser.parse_args()
    if options.size < 10 * max(COUNTS):
        parser.error(f"--size: expected at least {10 * max(COUNTS):,}")
    if options.record and options.size != 50_000:
        parser.error("--record: expected all images, without --size")
    with results.undisturbed(options.record):
        compare(options)


def compare(options) -> None:
    """Let both search, print, and record if asked to."""
    train, _ = data.load_cifar10()
    if options.record:
        results.check_recordable()
    commit = results.current_commit()  # now: somebody may commit while it fits
    X = images.flatten(images.to_unit_range(images.to_grayscale(train.images[: options.size])))
    y = train.labels[: options.size]
    workers = devices.num_cores()
    print(data.current(), f"{devices.describe_cpu()}; {workers} workers for either", sep="\n")

    pipeline = Pipeline(
        [
            ("scale", StandardScaler()),
            ("whiten", "passthrough"),
            ("keep", features.FirstColumns()),
            ("classify", LogisticRegression()),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        ours = search.ResumableGridSearchCV(
            pipeline, GRID, cv=3, n_jobs=workers, refit=False, journal=f"{folder}/journal"
        )
        our_seconds = timed.seconds(lambda: ours.fit(X, y))
    print(f"ours      {our_seconds:7.1f} s, best {ours.best_score_:.2%}: {ours.best_params_}")

    theirs = GridSearchCV(pipeline, GRID, cv=3, n_jobs=workers, refit=False)
    their_seconds = timed.seconds(lambda: theirs.fit(X, y))
    print(f"reference {their_seconds:7.1f} s, best {theirs.best_score_:.2%}: {theirs.best_params_}")
    print(f"{their_seconds / our_seconds:.1f} times as fast, {NUM_CANDIDATES} candidates each")
    if options.record:
        results.write(
            "benchmark-grid-search",
            chapter="03",
            metric=f"{NUM_CANDIDATES} candidates × 3 folds, against GridSearchCV with the same",
            values=[their_seconds / our_seconds],
            color="gray",
            seconds=our_seconds + their_seconds,
            commit=commit,
            command="python benchmarks/grid.py --record",
            details={
                "seconds": our_seconds,
                "reference_seconds": their_seconds,
                "best_score": ours.best_score_,
                "reference_best_score": theirs.best_score_,
                "num_images": len(y),
                "num_workers": workers,
                **CODE,
            },
        )
        pages.stamp_readme()


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)  # it is known of the reference
    with errors.told():
        main()
