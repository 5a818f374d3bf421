"""Entries: their names, commands and costs."""

import pytest
from recorded import LARGE, SMALL

from cifarlib import entries, recipes

pytestmark = pytest.mark.usefixtures("checkout")


def test_every_entry_can_be_trained_and_has_a_name_of_its_own():
    names = [entry.name for entry in entries.ENTRIES]
    assert len(set(names)) == len(names)
    for entry in entries.ENTRIES:
        assert entry.config(entry.seeds[0]).color == entry.color
        assert len(set(entry.seeds)) == len(entry.seeds) >= 3
    published = {entry.model for entry in entries.ENTRIES if entry.recipe == "published"}
    assert published == set(recipes.PUBLISHED)


def test_costs_are_three_passes_over_the_images_learned():
    # 3,981,056 multiply-adds by test_models, thirty epochs of nine tenths of the images
    assert SMALL.cost() == pytest.approx(3 * 3_981_056 * 30 * 45_000)


def test_usual_seeds_are_not_named_in_the_command():
    assert LARGE.command == (
        "python benchmarks/networks.py vgg6 --color rgb --recipe published --record"
    )
