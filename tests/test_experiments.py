"""Comparisons: equal seeds for all, arithmetic by hand, and nothing trained twice."""

import dataclasses

import keras
import numpy as np
import pandas as pd
import pytest
from tuning_problem import TINY, make_split

from cifarlib import experiments, runs, training
from cifarlib.errors import InputError


def config(**changes) -> training.Config:
    fields = {
        "model": TINY,
        "color": "gray",
        "epochs": 2,
        "batch_size": 20,
        "validation_fraction": 0.25,
        "learning_rate": 0.02,
        "precision": "float32",
        # What makes little work for compilers, since nothing here is about how a network learns.
        "augmentation": (),
        "optimizer": "sgd",
    }
    return training.Config(**{**fields, **changes})


# Validation accuracies of each epoch, and the accuracies on training images, by variant and seed.
CURVES = {
    ("first", 3): ([0.5, 0.6], [0.4, 0.7]),
    ("first", 5): ([0.7, 0.6], [0.5, 0.9]),
    ("second", 3): ([0.8, 0.8], [0.6, 0.8]),
    ("second", 5): ([0.6, 0.7], [0.7, 0.8]),
}


@pytest.fixture
def trained(monkeypatch):
    """Pretend to train, with the curves above; return what was asked for."""
    asked = []

    def pretend(config, train_split=None, *, kept_in=None):
        asked.append((config, train_split, kept_in))
        name = "first" if config.ema else "second"
        validation, training_ = CURVES[name, config.seed]
        epochs = range(1, len(validation) + 1)
        columns = {"epoch": epochs, "accuracy": training_, "validation_accuracy": validation}
        metrics = {
            "best_epoch": 1 + int(np.argmax(validation)),
            "parameters": 1000 if name == "first" else 2000,
            "seconds": 10.0 * config.seed,
        }
        return runs.Run(None, pd.DataFrame(columns), metrics, None)

    monkeypatch.setattr(training, "train", pretend)
    return asked


VARIANTS = {"first": config(), "second": config(ema=0.0, seed=99)}


def test_each_variant_is_trained_with_the_same_seeds_one_seed_after_the_other(trained):
    split = make_split()
    experiments.compare(VARIANTS, [3, 5], split, kept_in="kept")
    expected = [
        dataclasses.replace(VARIANTS[name], seed=seed)
        for seed in (3, 5)
        for name in ("first", "second")
    ]
    assert [asked for asked, _, _ in trained] == expected
    assert all(found is split and kept_in == "kept" for _, found, kept_in in trained)


def test_variants_may_have_images_of_their_own(trained):
    mine = make_split()
    experiments.compare(VARIANTS, [3], {"second": mine})
    assert [found for _, found, _ in trained] == [None, mine]
    with pytest.raises(InputError, match=r"train_split: .*'secnd'\. Did you mean second"):
        experiments.compare(VARIANTS, [3], {"secnd": mine})
    assert len(trained) == 2


def test_the_table_is_what_one_calculates_by_hand(trained):
    table = experiments.compare(VARIANTS, [3, 5]).table()
    assert list(table.index) == ["first", "second"] and table.index.name == "variant"
    first, second = table.loc["first"], table.loc["second"]
    # The best epochs: 0.6 and 0.7; 0.8 (the first of two) and 0.7.
    assert first["validation"] == pytest.approx(65) and second["validation"] == pytest.approx(75)
    assert first["training"] == pytest.approx((70 + 50) / 2)
    assert second["training"] == pytest.approx((60 + 80) / 2)
    assert first["sd"] == pytest.approx(np.sqrt((5**2 + 5**2) / 1))
    assert second["sd"] == pytest.approx(np.sqrt(50))
    # Differences by seed: 80 - 60 and 70 - 70.
    assert (first["gain"], first["sd of gain"]) == (0, 0)
    assert second["gain"] == pytest.approx(10)
    assert second["sd of gain"] == pytest.approx(np.sqrt((10**2 + 10**2) / 1))
    assert table["parameters"].tolist() == [1000, 2000]
    assert table["seeds"].tolist() == [2, 2]
    assert table["seconds"].tolist() == [40, 40]


def test_one_seed_has_no_spread(trained):
    table = experiments.compare(VARIANTS, (3,)).table()
    assert table[["sd", "sd of gain"]].isna().all(axis=None)
    assert table.loc["second", "gain"] == pytest.approx(20)


def test_histories_name_variant_and_seed_of_each_epoch(trained):
    histories = experiments.compare(VARIANTS, [3, 5]).histories
    assert list(histories.columns[:2]) == ["variant", "seed"]
    assert list(histories.index) == list(range(8))
    for (variant, seed), (validation, _) in CURVES.items():
        rows = histories[(histories["variant"] == variant) & (histories["seed"] == seed)]
        assert rows["validation_accuracy"].tolist() == validation
        assert rows["epoch"].tolist() == [1, 2]


@pytest.mark.parametrize("seeds", [[], [1, 1], [1, 2, 1.0], np.array([4, 4])])
def test_seeds_that_are_none_or_occur_twice_are_refused(seeds, trained):
    with pytest.raises(InputError, match="seeds: expected different ones, at least one"):
        experiments.compare(VARIANTS, seeds)
    assert trained == []


def test_seeds_may_come_from_numpy_or_a_range(trained):
    for seeds in (range(3, 6, 2), np.array([3, 5])):
        table = experiments.compare(VARIANTS, seeds).table()
        assert table["seeds"].tolist() == [2, 2]


def test_nothing_to_compare_or_to_judge_by_is_refused(trained):
    with pytest.raises(InputError, match="variants: expected at least one"):
        experiments.compare({}, [1])
    with pytest.raises(InputError, match="variant second: expected validation images"):
        experiments.compare({**VARIANTS, "second": config(validation_fraction=0)}, [3])
    assert trained == []


@pytest.fixture
def epochs_trained(monkeypatch):
    """Count the epochs that are really trained."""
    counted = []
    honest = training._Session._train_epoch

    def count(self, epoch, bar):
        counted.append(epoch)
        return honest(self, epoch, bar)

    monkeypatch.setattr(training._Session, "_train_epoch", count)
    return counted


def test_what_is_kept_is_not_trained_again_unless_images_or_questions_differ(
    epochs_trained, tmp_path
):
    split, kept = make_split(), tmp_path / "kept"
    variants = {"plain": config(), "strided": config(model=dataclasses.replace(TINY, dense=0))}
    first = experiments.compare(variants, [0, 1], split, kept_in=kept)
    assert len(epochs_trained) == 8
    again = experiments.compare(variants, [0, 1], split, kept_in=kept)
    assert len(epochs_trained) == 8, "nothing is trained twice"
    pd.testing.assert_frame_equal(again.table(), first.table(), rtol=1e-12)
    pd.testing.assert_frame_equal(again.histories, first.histories, rtol=1e-12)
    # The names of variants decide nothing; one more seed is trained alone.
    renamed = {"other": variants["plain"]}
    experiments.compare(renamed, [1, 2], split, kept_in=kept)
    assert len(epochs_trained) == 10
    changed = make_split()
    changed.images[3, 0, 0, 0] ^= 1
    experiments.compare(renamed, [1], changed, kept_in=kept)
    assert len(epochs_trained) == 12
    assert len(list(kept.iterdir())) == 6
    assert keras.layers.ReLU().name == "re_lu", "Keras counts from the beginning"


def test_seeds_make_runs_differ_and_a_kept_run_is_what_training_returns(tmp_path):
    split = make_split()
    compared = experiments.compare({"a": config(epochs=1)}, [0, 1], split)
    losses = [run.history["loss"][0] for run in compared.runs["a"]]
    assert losses[0] != losses[1]
    alone = training.train(config(epochs=1, seed=1), split)
    assert alone.history["loss"][0] == losses[1]
