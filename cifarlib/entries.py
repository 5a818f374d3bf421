"""What is to be measured of every network: an entry is a network, a colour, a recipe and seeds.

Not for measuring them: `measuring` does. Not for tables of what came of it: `leaderboard`.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from cifarlib import models, recipes, results, training
from cifarlib.errors import InputError

SEEDS = (0, 1, 2)
LINEAR = "mirrored-patches"  # the best linear model, of `classical`


class Entry(NamedTuple):
    """What is trained, and how.

    Attributes:
        model: a key of the registry.
        color: ``"gray"`` or ``"rgb"``.
        recipe: one of ``recipes.NAMES``.
        seeds: different whole numbers.
    """

    model: str
    color: str = "rgb"
    recipe: str = "modern"
    seeds: tuple[int, ...] = SEEDS

    @property
    def name(self) -> str:
        """Return the name of its record."""
        return f"network-{self.model.replace('_', '-')}-{self.color}-{self.recipe}"

    @property
    def title(self) -> str:
        """Return how tables name it, beside its colour."""
        return f"{self.model}, {self.recipe}"

    @property
    def command(self) -> str:
        """Return the command that measures it again."""
        seeds = "" if self.seeds == SEEDS else f" --seeds {' '.join(map(str, self.seeds))}"
        return (
            f"python benchmarks/networks.py {self.model} --color {self.color} "
            f"--recipe {self.recipe}{seeds} --record"
        )

    def config(self, seed: int) -> training.Config:
        """Return the configuration of one of its runs."""
        recipe = recipes.find(self.recipe, self.model)
        return training.Config(self.model, color=self.color, seed=seed, **recipe)

    def cost(self) -> float:
        """Return the multiply-adds of training one seed, to compare entries with."""
        return cost(self.config(self.seeds[0]))


def entry_of(result: results.Result) -> Entry:
    """Return the entry that a record is about.

    Raises:
        InputError: if it does not tell its network.
    """
    try:
        model = result.details["config"]["model"]
    except (KeyError, TypeError) as error:
        path, advice = results.folder() / f"{result.name}.json", "Restore it, or measure again."
        raise InputError(path, "the configuration of a network", "none", advice) from error
    return Entry(model, result.color, result.name.rpartition("-")[2], result.seeds)


def cost(config: training.Config) -> float:
    """Return the multiply-adds of training once on CIFAR-10, to compare trainings with."""
    sizes = Counter(config.image_size(epoch + 1) for epoch in range(config.epochs))
    of_sizes = sum(n * counts(config.design, config.color, size)[1] for size, n in sizes.items())
    return 3.0 * of_sizes * (1 - config.validation_fraction) * 50_000


@functools.cache  # a table asks for each network several times
def counts(
    design: models.Design | Callable[..., Any], color: str, size: int = models.IMAGE_SIZE
) -> tuple[int, int]:
    """Return a network's parameters, and its multiply-adds for an image of that size."""
    network = models.build(design, color)
    return network.count_params(), models.multiply_adds(network, size)


_FAST = tuple(model for model in models.DESIGNS if recipes.usual(model) == "fast")
_WITH_OWN_RECIPE = ("layered_cnn", "tuned_cnn", *_FAST)
# What the projects published, with their recipe; every network with the modern one; those of which
# 88 % and more are claimed with the long one, too; one with a recipe of Muon and one with erased
# rectangles; the networks with a fast recipe of their own; and that of chapters 4 and 5, with
# the three seeds that these have trained and as many more as what colour is worth needs.
ENTRIES = (
    *(Entry(model, "rgb", "published") for model in recipes.PUBLISHED),
    *(Entry(model, "gray", "published") for model in ("baseline", "baseline_regularized")),
    *(Entry(model) for model in models.DESIGNS if model not in _WITH_OWN_RECIPE),
    *(Entry(model, "gray") for model in ("baseline", "baseline_regularized")),
    *(
        Entry(model, "rgb", "long")
        for model in ("deep_cnn", "residual_cnn", "custom_cnn", "resnet18")
    ),
    Entry("custom_cnn", "rgb", "muon"),
    Entry("resnet18", "rgb", "erase"),
    *(Entry(model, color, "fast") for model in _FAST for color in ("rgb", "gray")),
    *(Entry("tuned_cnn", color, "tuned", tuple(range(1, 8))) for color in ("gray", "rgb")),
)
