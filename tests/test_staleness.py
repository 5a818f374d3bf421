"""Records of other code or another configuration."""

import keras
import pytest
from recorded import SMALL, record_prediction, record_race, row

from cifarlib import (
    entries,
    leaderboard,
    measuring,
    models,
    pages,
    recipes,
    results,
    staleness,
    training,
)
from cifarlib.entries import Entry
from cifarlib.errors import InputError

pytestmark = pytest.mark.usefixtures("checkout")


@pytest.mark.parametrize("model", ["deep_cnn", "efficientnet_small"])
def test_the_digest_is_the_same_whatever_was_built_before(model):
    config = Entry(model).config(0)
    keras.utils.clear_session()  # layers are called "activation", then "activation_1", …
    digests = []
    for _ in range(2):
        training._described_design.cache_clear()
        digests.append(training.code_digest(config))
    assert digests[0] == digests[1]


def test_layers_of_ours_decide_what_predicts(monkeypatch):
    digest = staleness._design_digest.__wrapped__  # not what is remembered
    before = digest(models.find("vit_tiny"))
    monkeypatch.setattr(staleness.inspect, "getsource", lambda kind: "another")
    assert digest(models.find("vit_tiny")) != before


def test_a_linear_model_that_is_no_more_is_stale():
    told = {"chapter": "03", "metric": "test accuracy", "command": "x", "color": "gray"}
    gone = results.write("linear-gone-gray", values=[0.3], **told)
    assert staleness.stale([gone]) == {"linear-gone-gray"}


def test_a_record_without_a_digest_is_stale():
    result = measuring.record(SMALL, {3: row()})
    del result.details["code"]
    assert staleness.is_stale(result)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("baseline", {"code": "other"}),
        ("baseline", {"code": None}),
        ("baseline", {"model": "gone"}),
        (entries.LINEAR, {"code": "other"}),
    ],
)
def test_the_speed_of_another_design_is_stale_and_no_figure_of_todays(name, changed):
    measuring.record(SMALL, {3: row()})
    row_of = "baseline, modern", "gray"
    today = record_prediction(name, [1000.0])
    assert staleness.stale([today]) == set()
    assert leaderboard.overview().loc[row_of].isna()["milliseconds"] == (name != "baseline")
    other = record_prediction(name, [1000.0], **changed)
    assert staleness.stale([other]) == {f"prediction-{name}"}
    assert leaderboard.overview().loc[row_of].isna()["milliseconds"]


@pytest.mark.parametrize("field", ["code", "kernels"])
def test_a_race_of_other_code_is_stale_and_marked(field):
    assert staleness.stale([record_race()]) == set()
    table = "<!-- results: benchmarks --><!-- end -->"
    assert "| ours, against another | 3.0 (1.0 to 5.0) | 2 |" in pages.stamp(table)
    assert staleness.stale([record_race(**{field: "other"})]) == {"benchmark-fast-rgb"}
    assert "| ours, against another (stale: of other code) |" in pages.stamp(table)


def test_a_race_of_another_recipe_is_stale(monkeypatch):
    race = record_race()
    for config in ({}, {**race.details["config"], "model": "gone"}):
        assert staleness.is_stale(race._replace(details={**race.details, "config": config}))
    assert not staleness.is_stale(race)
    today = {**recipes.find("fast", "fast"), "learning_rate": 0.1}
    monkeypatch.setattr(recipes, "find", lambda name, model: today)
    assert staleness.is_stale(race)


def test_a_model_or_recipe_that_is_no_more_is_stale_and_not_an_error(monkeypatch, few_entries):
    result = measuring.record(SMALL, {3: row()})
    assert staleness.is_stale(result._replace(name="network-small-cnn-rgb-gone"))
    config = {**result.details["config"], "model": "gone"}
    assert staleness.is_stale(result._replace(details={**result.details, "config": config}))
    gone = result._replace(name="network-baseline-gray-gone")
    monkeypatch.setattr(leaderboard, "records", lambda: [gone])
    assert leaderboard.overview().loc[("baseline, gone", "gray"), "is_stale"]
    assert "(stale: of other code)" in leaderboard.table()
    with pytest.raises(InputError, match="model"):
        Entry("gone").config(0)
