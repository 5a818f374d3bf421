"""Test accuracy of networks of the registry, each with several seeds.

    python benchmarks/networks.py MODEL [--color gray|rgb] [--recipe R] [--seeds 0 1 2] [--record]

The epoch is chosen on held-out training images; each finished run sees the test set once. Runs
are kept beside the decoded data, as those of the chapters are: the same command goes on after an
interruption, and what was trained is not trained again. With ``--record`` the accuracies go to
``results/``.
"""

import argparse
import statistics

from cifarlib import data, devices, models, recipes, results, run_report, settings, training

SEEDS = [0, 1, 2]
OF_RUN = ("epochs", "best_epoch", "validation_accuracy", "seconds", "images_per_second")
OF_TEST = ("cross_entropy", "calibration_error", "temperature", "calibration_error_scaled")


def main() -> None:
    """Train, judge, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=models.DESIGNS, metavar="MODEL")
    parser.add_argument("--color", choices=models.CHANNELS, default="rgb")
    parser.add_argument("--recipe", choices=recipes.NAMES, default="modern")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--record", action="store_true", help="write to results/")
    options = parser.parse_args()
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("--seeds: expected different ones")
    data.load_cifar10()
    print(data.current(), devices.describe_cpu(), sep="\n")
    name = f"network-{options.model.replace('_', '-')}-{options.color}-{options.recipe}"
    accuracies, details = [], {field: [] for field in (*OF_RUN, *OF_TEST, "answers")}
    for seed in options.seeds:
        recipe = recipes.find(options.recipe, options.model)
        config = training.Config(options.model, color=options.color, seed=seed, **recipe)
        run = training.train(config, kept_in=settings.cache_folder() / "runs")
        judged = run_report.evaluate(run.folder)
        figures = judged.figures
        accuracies.append(figures["accuracy"])
        for field in OF_RUN:
            details[field].append(run.metrics[field])
        for field in OF_TEST:
            details[field].append(figures[field])
        # A digit an image, so that models can be compared image by image.
        details["answers"].append("".join(map(str, judged.answers)))
        print(
            f"{name}, seed {seed}: {figures['accuracy']:.2%} of {figures['num_test_images']:,} "
            f"test images (validation {run.metrics['validation_accuracy']:.2%} in epoch "
            f"{run.metrics['best_epoch']} of {run.metrics['epochs']}), "
            f"{run.metrics['seconds']:.0f} s, {run.metrics['images_per_second']:,.0f} images/s",
            flush=True,
        )
    if len(accuracies) > 1:
        mean, sd = statistics.fmean(accuracies), statistics.stdev(accuracies)
        print(f"{name}: {mean:.2%} ± {sd:.2%} (n = {len(accuracies)})")
    if options.record:
        details["num_test_images"] = figures["num_test_images"]
        details |= {field: run.metrics[field] for field in ("precision", "backend")}
        details |= {"config": config.as_json(), "code": training.code_digest(config)}
        seeds = "" if options.seeds == SEEDS else f" --seeds {' '.join(map(str, options.seeds))}"
        results.write(
            name,
            chapter="06",
            metric="test accuracy",
            values=accuracies,
            seeds=options.seeds,
            color=options.color,
            seconds=sum(details["seconds"]),
            command=(
                f"python benchmarks/networks.py {options.model} --color {options.color} "
                f"--recipe {options.recipe}{seeds} --record"
            ),
            details=details,
        )
        results.stamp_readme()


if __name__ == "__main__":
    main()
