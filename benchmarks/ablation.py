"""What each idea of the fast recipe is worth: the whole recipe, and the recipe without it.

    python benchmarks/ablation.py [--color gray|rgb] [--seeds 0 1 2 3 4] [--jobs N] [--record]

Accuracy on the images held out, never the test set, at full width and with all images. All
variants are trained with the same seeds, so that each difference is one of pairs. Runs are kept
beside the decoded data: what was trained is not trained again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from cifarlib import (
    arguments,
    at_once,
    data,
    devices,
    entries,
    errors,
    experiments,
    measuring,
    models,
    recipes,
    results,
    run_report,
    training,
)

# What the fast recipe does without one of its ideas, and does instead.
WITHOUT = {
    "whitening": {"model": models.FastCNN(is_whitened=False)},
    "identity kernels": {"model": models.FastCNN(begins_as_identity=False)},
    "Muon (AdamW)": {
        "optimizer": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 0.05,
        "warmup": 0.2,
    },
    "a falling rate": {"schedule": "constant"},
    "smoothed labels": {"label_smoothing": 0.0},
    "flips": {"augmentation": ("crop",)},
    "alternating (flips by chance)": {"augmentation": ("flip", "crop")},
    "shifts": {"augmentation": ("alternate",)},
    "smaller images first": {"image_sizes": (models.IMAGE_SIZE,)},
}
FEWER = "smaller images first, for fewer epochs"  # its control: as much arithmetic


def main() -> None:
    """Train, print, and record if asked to."""
    parser = arguments.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--color", choices=models.CHANNELS, default="rgb")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at once")
    parser.add_argument("--record", action="store_true", help="write to results/")
    options = parser.parse_args()
    if len(set(options.seeds)) < len(options.seeds) or options.jobs < 1:
        parser.error("expected different --seeds, and at least one of --jobs")
    if options.jobs > 1:
        at_once.leave_room()
    data.load_cifar10()
    if options.record:
        results.check_recordable()
    print(data.current(), devices.describe(), sep="\n", flush=True)
    asked, kept = variants(options.color), measuring.kept_runs()
    configs = [replace(config, seed=seed) for seed in options.seeds for config in asked.values()]
    calls = [(config, kept) for config in configs]
    are_new = []
    for num_done, (_, is_new, error) in enumerate(at_once.each(train, calls, options.jobs), 1):
        if error:
            raise error
        are_new.append(is_new)
        print(f"{num_done} of {len(configs)}", flush=True)
    compared = experiments.compare(asked, options.seeds, kept_in=kept)
    table = compared.table().assign(
        arithmetic=[entries.cost(config) / 1e12 for config in asked.values()]
    )
    columns = ["validation", "sd", "gain", "sd of gain", "seeds", "arithmetic"]
    print(table[columns].round(2).to_string())
    if options.record:
        count = min(options.jobs, len(calls)) if all(are_new) else None  # of kept ones nobody knows
        record(options, asked, compared, table, count)


def train(config: training.Config, kept_in: Path) -> bool:
    """Train one, to be read where it is kept, and tell whether an epoch of it was trained now."""
    epochs = []
    training.train(config, kept_in=kept_in, on_epoch=lambda row: epochs.append(row["epoch"]))
    return bool(epochs)


def variants(color: str) -> dict[str, training.Config]:
    """Return the whole recipe first, then the recipe without each of its ideas."""
    whole = training.Config("fast", color=color, **recipes.find("fast", "fast"))
    named = {f"without {idea}": replace(whole, **changes) for idea, changes in WITHOUT.items()}
    sizes = named["without smaller images first"]
    fewer = max(1, round(whole.epochs * entries.cost(whole) / entries.cost(sizes)))
    return {"whole": whole, **named, f"without {FEWER}": replace(sizes, epochs=fewer)}


def record(options, asked, compared, table, num_at_once: int | None) -> None:
    """Write a list for each variant, in the order of the seeds, in place of an earlier record."""
    every = [run.metrics for runs in compared.runs.values() for run in runs]
    commits = {metrics.get("commit", "unknown") for metrics in every}

    def by_seed(field: str) -> dict[str, list]:
        return {
            variant: [run.metrics[field] for run in runs] for variant, runs in compared.runs.items()
        }

    seeds = " ".join(map(str, options.seeds))
    results.write(
        f"ablation-fast-{options.color}",
        chapter="07",
        metric="validation accuracy of the whole fast recipe",
        values=by_seed("validation_accuracy")["whole"],
        seeds=options.seeds,
        color=options.color,
        hardware=[run_report.trained_on(metrics) for metrics in every],
        commit=commits.pop() if len(commits) == 1 else "unknown",
        command=results.on_backend(
            f"python benchmarks/ablation.py --color {options.color} --seeds {seeds} --record",
            [metrics["backend"] for metrics in every],
        ),
        details={
            "arithmetic": dict(table["arithmetic"].round(3)),
            "config": {variant: config.as_json() for variant, config in asked.items()},
            "code": {variant: training.code_digest(config) for variant, config in asked.items()},
            **{field: by_seed(field) for field in measuring.OF_RUN},
            "num_at_once": num_at_once,
            "num_validation_images": every[0]["num_validation_images"],
        },
    )


if __name__ == "__main__":
    with errors.told():
        main()
