"""Tables of what is recorded."""

import numpy as np
import pytest
from recorded import SMALL, described, measured_as, record_prediction, record_race, row

from cifarlib import classical, data, entries, leaderboard, measuring, pages, results
from cifarlib.entries import Entry

pytestmark = pytest.mark.usefixtures("checkout")


def test_networks_are_tabled_by_colour_and_accuracy_and_stale_ones_are_marked(few_entries):
    small = {"seconds": 120.0, "speed": 2000.4}
    gray = Entry("small_cnn", "gray", "modern")
    for seed, accuracy in enumerate((0.7, 0.72, 0.74)):
        measuring.record(gray, {seed: row(accuracy, **small)})
    measuring.record(gray._replace(color="rgb"), {0: row(0.8, **small)})
    path = results.folder() / "network-small-cnn-rgb-modern.json"
    path.write_text(path.read_text().replace('"code": "', '"code": "x'))
    record_prediction("small-cnn", [900.0, 1000.0, 2000.0])
    table = pages.stamp("<!-- results: networks --><!-- end -->").splitlines()
    # the published 3,693,066 without two more channels of 32 filters of 3×3
    assert table[3] == (
        "| small_cnn, modern | gray | 72.0 ± 2.0 (n = 3) | 3,692,490 | 4.0 | 16 | 1.5 |"
    )
    assert table[4].startswith("| small_cnn, modern (stale: of other code) | rgb | 80.0 (n = 1) |")


def test_what_has_not_been_run_has_a_row_that_says_so(few_entries):
    measuring.record(SMALL, {3: row()})
    table = leaderboard.table().splitlines()[2:]
    assert table[0].startswith("| baseline, modern | gray | 70.0 (n = 1) | 72,842 |")
    # 3,981,056 multiply-adds an image, three times, fifty epochs of nine tenths of the images
    assert table[1:] == ["| baseline, published | gray | not run | 72,842 | 4.0 | 27 |  |"]


def test_a_table_of_several_kinds_of_data_tells_them(monkeypatch, few_entries):
    measuring.record(SMALL, {3: row()})
    assert "| baseline, modern | gray |" in leaderboard.table()
    monkeypatch.setattr(data, "_current", described("official"))
    measuring.record(SMALL._replace(color="rgb"), {3: row()})
    assert "| baseline, modern (none) | gray |" in leaderboard.table()
    assert "| baseline, modern (official) | rgb |" in leaderboard.table()


def test_the_overview_has_what_each_approach_earns_and_costs():
    measuring.record(SMALL, {3: row(0.7), 5: row(0.8)})
    record_prediction("baseline", [900.0, 1000.0, 2000.0])
    linear = {"chapter": "03", "metric": "test accuracy", "command": "x"}
    name = f"linear-{entries.LINEAR}-gray"
    today = {"details": {"code": classical.code_digest("mirrored patches")}}
    measured = {"values": [0.72, 0.73], "seeds": [0, 1], "color": "gray", "seconds": 600, **linear}
    results.write(name, **measured)
    assert leaderboard.overview().loc[("mirrored patches, linear", "gray"), "is_stale"]
    results.write(name, **measured, **today)
    table = leaderboard.overview()
    assert list(table.index) == [("mirrored patches, linear", "gray"), ("baseline, modern", "gray")]
    network = table.loc["baseline, modern", "gray"]
    assert network[["accuracy", "n", "minutes", "parameters"]].tolist() == [0.75, 2, 1, 72_842]
    assert network["multiply_adds"] == 3_981_056
    assert network["training"] == pytest.approx(3 * 3_981_056 * SMALL.config(3).epochs * 45_000)
    assert network[["milliseconds", "images_per_second", "megabytes"]].tolist() == [1.5, 1000, 3.5]
    assert network["calibration_error"] == 1 and not network["is_stale"]
    assert network[["trained_on", "data_kind"]].tolist() == ["a processor", "none"]
    linear = table.loc["mirrored patches, linear", "gray"]
    assert linear[["accuracy", "n", "minutes"]].tolist() == [0.725, 2, 5]
    assert linear[["parameters", "milliseconds"]].isna().all() and not linear["is_stale"]


def test_an_overview_of_nothing_is_empty():
    assert leaderboard.overview().empty


def test_recipes_are_compared_on_the_same_images_only(monkeypatch):
    copy, official = described("JPEG copy"), described("official")
    entries = [SMALL._replace(recipe=recipe) for recipe in ("modern", "published", "long")]
    for entry, kind, validation in zip(
        entries, (copy, copy, official), (0.7, 0.6, 0.8), strict=True
    ):
        monkeypatch.setattr(data, "_current", kind)
        measuring.record(entry, {0: measured_as(0.7, validation)})
    for in_use, best in ((official, "long"), (copy, "modern"), (None, "modern")):
        monkeypatch.setattr(data, "_current", in_use)
        assert [entry.recipe for entry in leaderboard.better_recipes()] == [best]


def test_recipes_are_compared_by_the_mean_over_their_seeds():
    measuring.record(SMALL, {3: measured_as(0.7, 0.80), 5: measured_as(0.7, 0.60)})
    published = SMALL._replace(recipe="published")
    measuring.record(published, {3: measured_as(0.7, 0.72), 5: measured_as(0.7, 0.72)})
    assert [entry.recipe for entry in leaderboard.better_recipes()] == ["published"]


def test_answers_are_those_to_the_images_in_use(monkeypatch):
    measuring.record(SMALL, {3: row(), 5: row()})
    assert leaderboard.answers() == {}, "no images are in use"
    monkeypatch.setattr(data, "_current", described("official"))
    assert leaderboard.answers() == {}, "others are in use"
    measuring.record(SMALL, {3: row(), 5: {**row(), "answers": "9876543210"}})
    ((entry, found),) = leaderboard.answers().items()
    assert entry == SMALL
    assert found.tolist() == [list(range(10)), list(range(9, -1, -1))]
    monkeypatch.setattr(leaderboard, "is_stale", lambda result: True)
    assert leaderboard.answers() == {}, "of other code"


@pytest.mark.parametrize(
    ("second", "is_told"),
    [
        ({}, True),
        ({"accelerators": ["NVIDIA H200"]}, False),
        ({"num_at_once": 4}, False),
        ({"num_at_once": None}, False),
    ],
)
def test_minutes_are_told_of_one_machine_that_trained_one_seed_at_a_time(second, is_told):
    measuring.record(SMALL, {3: {**row(), "num_at_once": 1}})
    measuring.record(SMALL, {5: {**row(), "num_at_once": 1, **second}})
    minutes = leaderboard.overview().loc[("baseline, modern", "gray"), "minutes"]
    assert np.isnan(minutes) != is_told


def test_a_race_tells_six_looks_in_percent_too():
    record_race(ours_accuracy_with_views=[0.93, 0.97])
    ours = leaderboard.races().iloc[0]
    assert ours["six times"] == pytest.approx(95)
    assert ours["sd of six"] == pytest.approx(4 / 2**0.5)


def test_a_race_has_a_row_for_either_side():
    record_race()
    table = leaderboard.races()
    assert list(table.index) == [("fast-rgb", "ours"), ("fast-rgb", "another")]
    ours, other = table.to_dict("records")
    assert ours["once"] == pytest.approx(91) and ours["sd"] == pytest.approx(2**0.5)
    assert [ours[name] for name in ("seconds", "fastest", "slowest", "n")] == [20, 10, 30, 2]
    assert [other[name] for name in ("once", "seconds", "n")] == [pytest.approx(80), 40, 3]
    assert np.isnan(other["six times"])
    record_race(kernels="other")
    assert leaderboard.races().empty
