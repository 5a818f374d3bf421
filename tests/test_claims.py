"""Claims, and what was measured."""

from pathlib import Path

import numpy as np
import pytest
from recorded import described, measured_as

from cifarlib import claims, data, entries, measuring, results, settings, training
from cifarlib.entries import Entry

pytestmark = pytest.mark.usefixtures("checkout")


def test_every_claim_is_about_a_model_that_is_measured():
    measured = {(entry.model, entry.color) for entry in entries.ENTRIES}
    claimed = [(claim.model, claim.color) for claim in claims.CLAIMS]
    assert set(claimed) <= measured and len(set(claimed)) == len(claimed)
    for claim in claims.CLAIMS:
        assert claim.claimed or claim.evidence
        assert all(0.1 < value < 1 for value in (claim.claimed, claim.evidence) if value)


def test_what_the_copy_costs_is_what_the_recorded_races_say(monkeypatch):
    folder = Path(claims.__file__).parents[1]
    monkeypatch.setattr(settings, "checkout_folder", lambda: folder)
    races = [results.read(f"benchmark-fast-rgb{gpu}") for gpu in ("", "-nvidia-h200")]
    assert {race.data_kind for race in races} == {"JPEG copy"}
    for race in races:
        assert race.details["peer"] == "airbench94_muon"
        lost = 0.94 - np.mean(race.details["peer_accuracy_with_views"])
        assert lost == pytest.approx(claims.COPY_HANDICAP, abs=0.001)


def test_a_claim_is_judged_by_the_recipe_that_is_better_on_validation_images(monkeypatch):
    published = Entry("vgg6_dropout", "rgb", "published")
    measuring.record(published, {0: measured_as(0.90, validation=0.6)})
    assert claims.verdicts().loc["vgg6_dropout", "rgb"]["verdict"] == "holds"
    measuring.record(published._replace(recipe="modern"), {0: measured_as(0.80, validation=0.7)})
    judged = claims.verdicts().loc["vgg6_dropout", "rgb"]
    assert judged[["claimed", "evidence", "measured", "n"]].tolist() == [0.83, 0.79, 0.80, 1]
    assert (judged["recipe"], judged["verdict"]) == ("modern", "does not hold")
    assert judged[["needed", "as_published"]].tolist() == [0.83, 0.90]
    # The images of a copy are re-encoded, which costs 3.3 points.
    monkeypatch.setattr(data, "_current", described("JPEG copy"))
    measuring.record(published._replace(recipe="modern"), {0: measured_as(0.80, validation=0.7)})
    judged = claims.verdicts().loc["vgg6_dropout", "rgb"]
    assert judged["verdict"] == "holds" and judged["needed"] == pytest.approx(0.797)


def test_a_claim_without_a_number_is_judged_by_its_evidence():
    measuring.record(Entry("dense_net"), {0: measured_as(0.46, validation=0.5)})
    assert claims.verdicts().loc["dense_net", "rgb"]["verdict"] == "does not hold"
    measuring.record(Entry("dense_net"), {0: measured_as(0.47, validation=0.5)})
    assert claims.verdicts().loc["dense_net", "rgb"]["verdict"] == "holds"


def test_claims_that_nothing_was_measured_for_and_those_about_unknown_layers():
    measuring.record(Entry("deep_cnn"), {0: measured_as(0.95, validation=0.9)})
    table = claims.verdicts()
    assert len(table) == len(claims.CLAIMS)
    assert table.loc["deep_cnn", "rgb"]["verdict"] == "cannot be checked"
    assert table.loc["deep_cnn", "rgb"]["measured"] == 0.95
    assert table.loc["custom_cnn", "rgb"]["verdict"] == "cannot be checked"
    assert table.loc["resnet18", "rgb"][["verdict", "n"]].tolist() == ["not run", 0]


def test_a_stale_record_proves_nothing(monkeypatch):
    measuring.record(Entry("dense_net"), {0: measured_as(0.5, validation=0.5)})
    monkeypatch.setattr(training, "_source_of_learning", lambda optimizer: b"other code")
    assert claims.verdicts().loc["dense_net", "rgb"]["verdict"] == "not run"


def test_what_the_published_recipe_reached_is_told_of_the_same_images(monkeypatch):
    published = Entry("vgg6_dropout", "rgb", "published")
    monkeypatch.setattr(data, "_current", described("official"))
    measuring.record(published, {0: measured_as(0.80, validation=0.6)})
    monkeypatch.setattr(data, "_current", described("JPEG copy"))
    measuring.record(published._replace(recipe="modern"), {0: measured_as(0.78, validation=0.7)})
    judged = claims.verdicts().loc["vgg6_dropout", "rgb"]
    assert judged["measured"] == 0.78 and np.isnan(judged["as_published"])
    measuring.record(published, {0: measured_as(0.77, validation=0.6)})
    assert claims.verdicts().loc["vgg6_dropout", "rgb"]["as_published"] == 0.77
