"""Test accuracy of networks of the registry, each with several seeds.

    python benchmarks/networks.py MODEL [--color gray|rgb] [--recipe R] [--seeds 0 1 2] [--record]
                                        [--time-budget SECONDS] [--jobs N]
    python benchmarks/networks.py --missing [--time-budget SECONDS] [--jobs N]
    python benchmarks/networks.py --list

The epoch is chosen on held-out training images; each finished run sees the test set once. Runs
are kept beside the decoded data, as those of the chapters are: the same command goes on after an
interruption, and what was trained is not trained again. With ``--record`` the accuracies go to
``results/``; ``--missing`` records whatever of `entries.ENTRIES` is not there, or was made by
other code, cheapest first. ``--jobs`` trains several networks at once, which fills a large GPU.
JAX 0.11.2 could not choose kernels on an H200 unless XLA_FLAGS=--xla_gpu_enable_triton_gemm=false.
"""

import functools
import statistics
import sys

from cifarlib import arguments, at_once, data, entries, errors, measuring, models, pages, recipes


def main() -> None:
    """Train, judge, print, and record if asked to."""
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", nargs="?")
    parser.add_argument("--color", choices=models.CHANNELS, help="of the model (default: rgb)")
    parser.add_argument("--recipe", choices=recipes.NAMES, help="its recipe (default: modern)")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2")
    parser.add_argument("--record", action="store_true", help="write to results/")
    parser.add_argument("--missing", action="store_true", help="record all that is missing")
    parser.add_argument("--list", action="store_true", help="say what is missing, in order")
    parser.add_argument(
        "--time-budget", type=float, metavar="SECONDS", help="then stop, and go on next time"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at once")
    options = parser.parse_args()
    seeds = tuple(options.seeds or entries.SEEDS)
    if len(set(seeds)) < len(seeds):
        parser.error("--seeds: expected different ones")
    if not options.model and (options.color or options.recipe or options.seeds):
        parser.error("--color, --recipe, --seeds: expected a MODEL that they are about")
    if sum(map(bool, (options.model, options.missing, options.list))) != 1:
        parser.error("expected a MODEL, --missing or --list")
    if options.list and (options.record or options.jobs > 1 or options.time_budget):
        parser.error("--list: expected nothing beside it, since it trains nothing")
    if options.model:
        models.find(options.model)
        if options.model not in models.DESIGNS:
            parser.error(f"MODEL: expected a name of cifarlib models, found {options.model}")
    if options.jobs < 1:
        parser.error("--jobs: expected at least 1")
    if options.time_budget is not None and not options.time_budget > 0:
        parser.error("--time-budget: expected seconds, more than none")
    asked = []
    if options.model:
        of_model = options.model, options.color or "rgb", options.recipe or "modern"
        asked = [(entries.Entry(*of_model, seeds), seed) for seed in seeds]
    for entry, seed in asked:
        entry.config(seed)  # what cannot be trained is refused before anything is
    if options.jobs > 1:
        at_once.leave_room()
    data.load_cifar10()  # what is recorded of other images is missing of these
    if options.list:
        for entry, seed in measuring.missing():
            print(f"{entry.cost() / 1e15:8.3f} PMAC  {entry.name}, seed {seed}")
        return
    if options.missing:
        asked = measuring.missing()
    measured = measuring.compute(
        asked,
        options.time_budget,
        options.jobs,
        is_recorded=options.missing or options.record,
        after_each=pages.stamp_readme,
        say=functools.partial(print, flush=True),  # a line may be hours before the next
    )
    found = [row for row in measured.values() if not isinstance(row, Exception)]
    accuracies = [row["accuracy"] for row in found]
    if options.model and len(accuracies) > 1:
        mean, sd = statistics.fmean(accuracies), statistics.stdev(accuracies)
        print(f"{asked[0][0].name}: {mean:.2%} ± {sd:.2%} (n = {len(accuracies)})")
    num_recorded = sum(row.get("is_recorded", True) for row in found)
    sys.exit(num_recorded < len(measured))


if __name__ == "__main__":
    with errors.told():
        main()
