"""Records of networks: what is missing, what is stale, seeds that come one by one."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("keras")

import keras

from cifarlib import classical, data, leaderboard, pages, recipes, results, settings, training
from cifarlib.errors import InputError
from cifarlib.leaderboard import Entry
from cifarlib.splits import Split

SMALL = Entry("baseline", "gray", "modern", (3, 5))
LARGE = Entry("vgg6", "rgb", "published")


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path)
    monkeypatch.setattr(data, "_current", None)
    return tmp_path


def row(accuracy=0.7, seconds=60.0, speed=2000.4):
    fields = dict.fromkeys((*leaderboard.OF_RUN, *leaderboard.OF_TEST), 1.0)
    return {
        **fields,
        "accelerators": [],
        "hardware": "a processor",
        "versions": {"keras": "3"},
        "commit": "c0ffee",
        "accuracy": accuracy,
        "seconds": seconds,
        "images_per_second": speed,
        "answers": "0123456789",
        "is_new": True,
    }


def described(kind):
    """Return a data set of that kind with a fingerprint of its own."""
    unknown = dict.fromkeys(data.Description._fields)
    return data.Description(**{**unknown, "kind": kind, "fingerprint": f"print of {kind}"})


@pytest.fixture
def few_entries(monkeypatch):
    """Ask for few networks, since each that has not been run is built for its row."""
    monkeypatch.setattr(leaderboard, "ENTRIES", (SMALL, SMALL._replace(recipe="published")))


def code_of(entry):
    return training.code_digest(entry.config(entry.seeds[0]))


@pytest.fixture
def measured(monkeypatch, checkout, few_entries):
    """Pretend to measure; return what was asked for."""
    asked = []

    def pretend(entry, seed, deadline=None):
        asked.append((entry.name, seed))
        return {**row(accuracy=seed / 10), "code": code_of(entry)}

    monkeypatch.setattr(leaderboard, "measure", pretend)
    monkeypatch.setattr(data, "load_cifar10", lambda: None)
    (checkout / "README.md").write_text("<!-- results: networks -->nothing yet<!-- end -->")
    return asked


def test_every_entry_can_be_trained_and_has_a_name_of_its_own():
    names = [entry.name for entry in leaderboard.ENTRIES]
    assert len(set(names)) == len(names)
    for entry in leaderboard.ENTRIES:
        assert entry.config(entry.seeds[0]).color == entry.color
        assert len(set(entry.seeds)) == len(entry.seeds) >= 3
    published = {entry.model for entry in leaderboard.ENTRIES if entry.recipe == "published"}
    assert published == set(recipes.PUBLISHED)


def test_every_claim_is_about_a_model_that_is_measured():
    measured = {(entry.model, entry.color) for entry in leaderboard.ENTRIES}
    claims = [(claim.model, claim.color) for claim in leaderboard.CLAIMS]
    assert set(claims) <= measured and len(set(claims)) == len(claims)
    for claim in leaderboard.CLAIMS:
        assert claim.claimed or claim.evidence
        assert all(0.1 < value < 1 for value in (claim.claimed, claim.evidence) if value)


def test_costs_are_three_passes_over_the_images_learned():
    # 3,981,056 multiply-adds by test_models, thirty epochs of nine tenths of the images
    assert SMALL.cost() == pytest.approx(3 * 3_981_056 * 30 * 45_000)


def test_seeds_are_recorded_one_by_one_and_sorted(checkout):
    leaderboard.record(SMALL, {5: row(0.74)})
    written = leaderboard.record(SMALL, {3: row(0.70)})
    assert (written.seeds, written.values) == ((3, 5), (0.70, 0.74))
    assert written.mean == pytest.approx(0.72) and written.seconds == 120
    assert written.details["answers"] == ["0123456789"] * 2
    assert written.details["num_test_images"] == 10
    assert written.command == (
        "python benchmarks/networks.py baseline --color gray --recipe modern --seeds 3 5 --record"
    )
    assert leaderboard.entry_of(results.read(SMALL.name)) == SMALL
    again = leaderboard.record(SMALL, {3: row(0.80)})
    assert again.values == (0.80, 0.74), "what is measured again replaces the old"


def test_two_that_record_at_once_lose_no_seed(monkeypatch):
    honest, others = leaderboard._recorded, []

    def recorded(entry):
        found = honest(entry)
        if not others:  # what is there has been read, and another process comes with its seed
            other = threading.Thread(target=leaderboard.record, args=(SMALL, {5: row(0.74)}))
            others.append(other)
            other.start()
            other.join(timeout=1)
        return found

    monkeypatch.setattr(leaderboard, "_recorded", recorded)
    leaderboard.record(SMALL, {3: row(0.70)})
    others[0].join()
    assert results.read(SMALL.name).values == (0.70, 0.74)


def test_each_seed_keeps_where_it_came_from():
    on_gpu = {**row(), "accelerators": ["NVIDIA H200"], "commit": "bead"}
    leaderboard.record(SMALL, {3: row()})
    written = leaderboard.record(SMALL, {5: on_gpu})
    assert written.hardware == "a processor; NVIDIA H200"
    assert written.details["commit"] == ["c0ffee", "bead"] and written.commit == "bead"
    assert written.details["versions"] == [{"keras": "3"}] * 2


def test_usual_seeds_are_not_named_in_the_command():
    assert LARGE.command == (
        "python benchmarks/networks.py vgg6 --color rgb --recipe published --record"
    )


def test_a_record_of_other_code_or_recipe_is_stale_and_begun_anew(monkeypatch):
    result = leaderboard.record(SMALL, {3: row()})
    assert not leaderboard.is_stale(result)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_source_of_learning", lambda optimizer: b"other code")
        assert leaderboard.is_stale(result)
        assert leaderboard.record(SMALL, {5: row()}).seeds == (5,)
    result = leaderboard.record(SMALL, {3: row()})
    monkeypatch.setattr(recipes, "find", lambda name, model: {"epochs": 31})
    assert leaderboard.is_stale(result)
    assert leaderboard.missing([SMALL]) == [(SMALL, 3), (SMALL, 5)]


@pytest.mark.parametrize("model", ["deep_cnn", "efficientnet_small"])
def test_the_digest_is_the_same_whatever_was_built_before(model):
    config = Entry(model).config(0)
    keras.utils.clear_session()  # layers are called "activation", then "activation_1", …
    digests = []
    for _ in range(2):
        training._described_design.cache_clear()
        digests.append(training.code_digest(config))
    assert digests[0] == digests[1]


def test_a_record_without_a_digest_is_stale():
    result = leaderboard.record(SMALL, {3: row()})
    del result.details["code"]
    assert leaderboard.is_stale(result)


def test_a_record_of_other_images_is_begun_anew(monkeypatch):
    leaderboard.record(SMALL, {3: row()})
    path = results.folder() / f"{SMALL.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_fingerprint": "else"}))
    assert leaderboard.missing([SMALL]) == [(SMALL, 5)], "no images are loaded that could differ"
    monkeypatch.setattr(data, "_current", described("official"))
    assert leaderboard.missing([SMALL]) == [(SMALL, 3), (SMALL, 5)]


def test_what_is_missing_is_measured_cheapest_first_and_once(measured, checkout, monkeypatch):
    said = []
    entries = [LARGE, SMALL]
    lacking = leaderboard.missing(entries)
    found = leaderboard.compute(lacking, after_each=pages.stamp_readme, say=said.append)
    assert found[SMALL, 5]["accuracy"] == 0.5 and len(found) == 5
    expected = [(SMALL.name, 3), (SMALL.name, 5), *((LARGE.name, seed) for seed in (0, 1, 2))]
    assert measured == expected
    assert results.read(SMALL.name).values == (0.3, 0.5)
    assert f"{SMALL.name}, seed 5: 50.00% of 10 test images" in said[2]
    assert results.read(SMALL.name).details["num_at_once"] == [1, 1]
    assert leaderboard.missing(entries) == [], "everything is there"
    assert "| baseline, modern | gray | 40.0 ± 14.1 (n = 2)" in (checkout / "README.md").read_text()
    kept = {**row(0.5), "is_new": False, "commit": None, "code": code_of(SMALL)}
    monkeypatch.setattr(leaderboard, "measure", lambda *_: kept)
    leaderboard.compute([(SMALL, 5)], say=said.append)
    details = results.read(SMALL.name).details
    assert details["num_at_once"] == [1, 1] and details["commit"] == ["c0ffee"] * 2, "the same run"
    monkeypatch.setattr(leaderboard, "measure", lambda *_: {**kept, "seconds": 61.0})
    leaderboard.compute([(SMALL, 5)], say=said.append)
    details = results.read(SMALL.name).details
    assert details["num_at_once"] == [1, None] and details["commit"][1] is None, "nobody knows"
    assert results.read(SMALL.name).commit == "unknown", "not that of today, nor of another seed"


def test_what_edited_code_trained_in_a_process_of_its_own_is_not_recorded(measured, monkeypatch):
    pretend, said = leaderboard.measure, []
    monkeypatch.setattr(leaderboard, "measure", lambda *asked: {**pretend(*asked), "code": "other"})
    leaderboard.compute([(SMALL, 3)], say=said.append)
    assert results.read(SMALL.name) is None
    assert "not recorded" in said[-1] and "the same command records it" in said[-1]


def test_what_is_only_printed_is_not_recorded(measured, checkout):
    stamp, say = pages.stamp_readme, lambda line: None
    assert len(leaderboard.compute([(SMALL, 3)], is_recorded=False, after_each=stamp, say=say)) == 1
    assert results.read(SMALL.name) is None
    assert "nothing yet" in (checkout / "README.md").read_text()


def test_a_training_that_fails_is_told_and_the_others_go_on(measured, monkeypatch):
    pretend = leaderboard.measure

    def fail(entry, seed, deadline):
        if seed == 3:
            raise training.DivergedError("the loss is not finite")
        return pretend(entry, seed)

    monkeypatch.setattr(leaderboard, "measure", fail)
    said = []
    found = leaderboard.compute([(SMALL, 3), (SMALL, 5)], say=said.append)
    assert isinstance(found[SMALL, 3], training.DivergedError)
    assert found[SMALL, 5]["accuracy"] == 0.5
    assert results.read(SMALL.name).seeds == (5,)
    assert said[1] == f"{SMALL.name}, seed 3: DivergedError: the loss is not finite"


def test_a_further_seed_waits_for_first_seeds_up_to_four_times_as_dear(monkeypatch):
    costs = {"a": 1, "b": 3, "c": 5}
    monkeypatch.setattr(Entry, "cost", lambda entry: costs[entry.model])
    order = leaderboard.missing([Entry(model, seeds=(7, 8)) for model in "cba"])
    expected = [("a", 7), ("b", 7), ("a", 8), ("c", 7), ("b", 8), ("c", 8)]
    assert [(entry.model, seed) for entry, seed in order] == expected


def test_when_the_time_is_over_what_was_measured_is_kept(measured, monkeypatch):
    pretend = leaderboard.measure

    def stop(entry, seed, deadline):
        if entry == LARGE:
            raise leaderboard.OutOfTimeError
        return pretend(entry, seed)

    monkeypatch.setattr(leaderboard, "measure", stop)
    said = []
    lacking = leaderboard.missing([LARGE, SMALL])
    found = leaderboard.compute(lacking, time_budget=5, say=said.append)
    assert set(found) == {(SMALL, 3), (SMALL, 5)}
    assert results.read(SMALL.name).seeds == (3, 5)
    assert "the same command goes on" in said[-1]


def test_a_deadline_ends_training_after_an_epoch_and_the_next_call_goes_on(monkeypatch):
    rng = np.random.default_rng(0)
    train = Split(rng.integers(0, 256, (60, 32, 32, 3), np.uint8), np.arange(60) % 10)
    test = Split(train.images[:20], train.labels[:20])
    monkeypatch.setattr(data, "load_cifar10", lambda: (train, test))
    monkeypatch.setattr(data, "_current", described("JPEG copy"))
    quick = {"epochs": 3, "validation_fraction": 0.2, "batch_size": 16}
    monkeypatch.setattr(recipes, "find", lambda name, model: quick)
    clock = SimpleNamespace(monotonic=iter([4.0, 6.0]).__next__)  # at the start, after an epoch
    with monkeypatch.context() as patch, pytest.raises(leaderboard.OutOfTimeError):
        patch.setattr(leaderboard, "time", clock)
        leaderboard.measure(SMALL, 3, deadline=5.0)
    with pytest.raises(leaderboard.OutOfTimeError):
        leaderboard.measure(SMALL, 3, deadline=0)
    (folder,) = (settings.cache_folder() / "runs").iterdir()
    assert not (folder / "metrics.json").exists()
    found = leaderboard.measure(SMALL, 3)
    assert found["epochs"] == 3 and len(found["answers"]) == 20
    right = [int(digit) for digit in found["answers"]] == test.labels
    assert found["accuracy"] == pytest.approx(right.mean())
    assert set(found) == {"accuracy", "is_new", "code", *leaderboard.RECORDED}
    assert found["is_new"] and found["commit"]
    leaderboard.record(SMALL, {3: found})
    again = leaderboard.measure(SMALL, 3)
    assert not again["is_new"], "it is read"
    assert again["commit"] is None, "of whatever commit trained it"


def test_the_commit_is_that_of_the_code_that_trained(monkeypatch):
    """Somebody may commit while a training goes on."""
    commits = iter(["at the start", "later"])
    monkeypatch.setattr(results, "current_commit", lambda: next(commits))
    run = SimpleNamespace(folder=None, metrics=dict.fromkeys(leaderboard.OF_RUN))
    figures = dict.fromkeys((*leaderboard.OF_TEST, "accuracy"))
    judged = SimpleNamespace(figures=figures, answers=[1])

    def train(config, *, kept_in, on_epoch):
        assert results.current_commit() == "later"
        on_epoch({"epoch": config.epochs})
        return run

    monkeypatch.setattr(leaderboard.training, "train", train)
    monkeypatch.setattr(leaderboard.run_report, "evaluate", lambda folder: judged)
    assert leaderboard.measure(SMALL, 3)["commit"] == "at the start"


def test_networks_are_tabled_by_colour_and_accuracy_and_stale_ones_are_marked(few_entries):
    small = {"seconds": 120.0, "speed": 2000.4}
    gray = Entry("small_cnn", "gray", "modern")
    for seed, accuracy in enumerate((0.7, 0.72, 0.74)):
        leaderboard.record(gray, {seed: row(accuracy, **small)})
    leaderboard.record(gray._replace(color="rgb"), {0: row(0.8, **small)})
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
    leaderboard.record(SMALL, {3: row()})
    table = leaderboard.table().splitlines()[2:]
    assert table[0].startswith("| baseline, modern | gray | 70.0 (n = 1) | 72,842 |")
    # 3,981,056 multiply-adds an image, three times, fifty epochs of nine tenths of the images
    assert table[1:] == ["| baseline, published | gray | not run | 72,842 | 4.0 | 27 |  |"]


def test_a_table_of_several_kinds_of_data_tells_them(monkeypatch, few_entries):
    leaderboard.record(SMALL, {3: row()})
    assert "| baseline, modern | gray |" in leaderboard.table()
    monkeypatch.setattr(data, "_current", described("official"))
    leaderboard.record(SMALL._replace(color="rgb"), {3: row()})
    assert "| baseline, modern (none) | gray |" in leaderboard.table()
    assert "| baseline, modern (official) | rgb |" in leaderboard.table()


def record_prediction(name, values, **others):
    model = name if name == leaderboard.LINEAR else name.replace("-", "_")
    today = {"model": model, "code": leaderboard.prediction_digest(model)}
    details = {"milliseconds": [1.0, 1.5, 9.0], "megabytes": 3.5, **today, **others}
    told = {"chapter": "06", "metric": "images a second", "command": "x", "details": details}
    return results.write(f"prediction-{name}", values=values, **told)


def test_the_overview_has_what_each_approach_earns_and_costs():
    leaderboard.record(SMALL, {3: row(0.7), 5: row(0.8)})
    record_prediction("baseline", [900.0, 1000.0, 2000.0])
    linear = {"chapter": "03", "metric": "test accuracy", "command": "x"}
    name = f"linear-{leaderboard.LINEAR}-gray"
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


def test_the_commit_of_a_record_is_that_of_the_seed_measured_last():
    leaderboard.record(SMALL, {3: row(), 5: {**row(), "commit": "old"}})
    assert leaderboard.record(SMALL, {3: {**row(), "commit": "new"}}).commit == "new"


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("baseline", {"code": "other"}),
        ("baseline", {"code": None}),
        ("baseline", {"model": "gone"}),
        (leaderboard.LINEAR, {"code": "other"}),
    ],
)
def test_the_speed_of_another_design_is_stale_and_no_figure_of_todays(name, changed):
    leaderboard.record(SMALL, {3: row()})
    row_of = "baseline, modern", "gray"
    today = record_prediction(name, [1000.0])
    assert leaderboard.stale([today]) == set()
    assert leaderboard.overview().loc[row_of].isna()["milliseconds"] == (name != "baseline")
    other = record_prediction(name, [1000.0], **changed)
    assert leaderboard.stale([other]) == {f"prediction-{name}"}
    assert leaderboard.overview().loc[row_of].isna()["milliseconds"]


def test_an_overview_of_nothing_is_empty():
    assert leaderboard.overview().empty


def measured_as(accuracy, validation):
    return {**row(accuracy), "validation_accuracy": validation}


def test_a_claim_is_judged_by_the_recipe_that_is_better_on_validation_images(monkeypatch):
    published = Entry("vgg6_dropout", "rgb", "published")
    leaderboard.record(published, {0: measured_as(0.90, validation=0.6)})
    assert leaderboard.verdicts().loc["vgg6_dropout", "rgb"]["verdict"] == "holds"
    leaderboard.record(published._replace(recipe="modern"), {0: measured_as(0.80, validation=0.7)})
    judged = leaderboard.verdicts().loc["vgg6_dropout", "rgb"]
    assert judged[["claimed", "evidence", "measured", "n"]].tolist() == [0.83, 0.79, 0.80, 1]
    assert (judged["recipe"], judged["verdict"]) == ("modern", "does not hold")
    assert judged[["needed", "as_published"]].tolist() == [0.83, 0.90]
    # The images of a copy are re-encoded, which costs 3.3 points.
    monkeypatch.setattr(data, "_current", described("JPEG copy"))
    leaderboard.record(published._replace(recipe="modern"), {0: measured_as(0.80, validation=0.7)})
    judged = leaderboard.verdicts().loc["vgg6_dropout", "rgb"]
    assert judged["verdict"] == "holds" and judged["needed"] == pytest.approx(0.797)


def test_recipes_are_compared_on_the_same_images_only(monkeypatch):
    copy, official = described("JPEG copy"), described("official")
    entries = [SMALL._replace(recipe=recipe) for recipe in ("modern", "published", "long")]
    for entry, kind, validation in zip(
        entries, (copy, copy, official), (0.7, 0.6, 0.8), strict=True
    ):
        monkeypatch.setattr(data, "_current", kind)
        leaderboard.record(entry, {0: measured_as(0.7, validation)})
    for in_use, best in ((official, "long"), (copy, "modern"), (None, "modern")):
        monkeypatch.setattr(data, "_current", in_use)
        assert [entry.recipe for entry in leaderboard.better_recipes()] == [best]


def test_recipes_are_compared_by_the_mean_over_their_seeds():
    leaderboard.record(SMALL, {3: measured_as(0.7, 0.80), 5: measured_as(0.7, 0.60)})
    published = SMALL._replace(recipe="published")
    leaderboard.record(published, {3: measured_as(0.7, 0.72), 5: measured_as(0.7, 0.72)})
    assert [entry.recipe for entry in leaderboard.better_recipes()] == ["published"]


def test_a_claim_without_a_number_is_judged_by_its_evidence():
    leaderboard.record(Entry("dense_net"), {0: measured_as(0.46, validation=0.5)})
    assert leaderboard.verdicts().loc["dense_net", "rgb"]["verdict"] == "does not hold"
    leaderboard.record(Entry("dense_net"), {0: measured_as(0.47, validation=0.5)})
    assert leaderboard.verdicts().loc["dense_net", "rgb"]["verdict"] == "holds"


def test_claims_that_nothing_was_measured_for_and_those_about_unknown_layers():
    leaderboard.record(Entry("deep_cnn"), {0: measured_as(0.95, validation=0.9)})
    table = leaderboard.verdicts()
    assert len(table) == len(leaderboard.CLAIMS)
    assert table.loc["deep_cnn", "rgb"]["verdict"] == "cannot be checked"
    assert table.loc["deep_cnn", "rgb"]["measured"] == 0.95
    assert table.loc["custom_cnn", "rgb"]["verdict"] == "cannot be checked"
    assert table.loc["resnet18", "rgb"][["verdict", "n"]].tolist() == ["not run", 0]


def test_a_stale_record_proves_nothing(monkeypatch):
    leaderboard.record(Entry("dense_net"), {0: measured_as(0.5, validation=0.5)})
    monkeypatch.setattr(training, "_source_of_learning", lambda optimizer: b"other code")
    assert leaderboard.verdicts().loc["dense_net", "rgb"]["verdict"] == "not run"


def test_answers_are_those_to_the_images_in_use(monkeypatch):
    leaderboard.record(SMALL, {3: row(), 5: row()})
    assert leaderboard.answers() == {}, "no images are in use"
    monkeypatch.setattr(data, "_current", described("official"))
    assert leaderboard.answers() == {}, "others are in use"
    leaderboard.record(SMALL, {3: row(), 5: {**row(), "answers": "9876543210"}})
    ((entry, found),) = leaderboard.answers().items()
    assert entry == SMALL
    assert found.tolist() == [list(range(10)), list(range(9, -1, -1))]


def test_what_could_not_be_recorded_is_refused_before_it_is_trained(monkeypatch, measured):
    monkeypatch.setattr(data, "_current", described("synthetic"))
    with pytest.raises(InputError, match="photographs"):
        leaderboard.compute([(SMALL, 3)])
    assert measured == []


def test_what_the_published_recipe_reached_is_told_of_the_same_images(monkeypatch):
    published = Entry("vgg6_dropout", "rgb", "published")
    monkeypatch.setattr(data, "_current", described("official"))
    leaderboard.record(published, {0: measured_as(0.80, validation=0.6)})
    monkeypatch.setattr(data, "_current", described("JPEG copy"))
    leaderboard.record(published._replace(recipe="modern"), {0: measured_as(0.78, validation=0.7)})
    judged = leaderboard.verdicts().loc["vgg6_dropout", "rgb"]
    assert judged["measured"] == 0.78 and np.isnan(judged["as_published"])
    leaderboard.record(published, {0: measured_as(0.77, validation=0.6)})
    assert leaderboard.verdicts().loc["vgg6_dropout", "rgb"]["as_published"] == 0.77


@pytest.mark.parametrize(("num_jobs", "expected"), [(4, 2), (2, 2), (1, 1)])
def test_no_more_trained_at_once_than_there_were(measured, monkeypatch, num_jobs, expected):
    found = [(place, {**row(), "code": code_of(SMALL)}, None) for place in range(2)]
    monkeypatch.setattr(leaderboard.at_once, "each", lambda *_: found)
    leaderboard.compute([(SMALL, 3), (SMALL, 5)], num_jobs=num_jobs, say=lambda line: None)
    assert results.read(SMALL.name).details["num_at_once"] == [expected] * 2


def record_race(name="fast-rgb", **changes):
    config = training.Config("fast", **recipes.find("fast", "fast"))
    details = {
        "peer": "another",
        "config": config.as_json(),
        "code": training.code_digest(config),
        "kernels": training.kernels_digest(),
        "ours_accuracy": [0.9, 0.92],
        "ours_seconds": [10.0, 30.0],
        "peer_accuracy": [None, 0.8],
        "peer_seconds": [50.0, 20.0, 40.0],
        **changes,
    }
    told = {"chapter": "07", "metric": "ours, against another", "command": "x", "seeds": [0, 1]}
    return results.write(f"benchmark-{name}", values=[5.0, 1.0], details=details, **told)


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


@pytest.mark.parametrize("field", ["code", "kernels"])
def test_a_race_of_other_code_is_stale_and_marked(field):
    assert leaderboard.stale([record_race()]) == set()
    table = "<!-- results: benchmarks --><!-- end -->"
    assert "| ours, against another | 3.0 (1.0 to 5.0) | 2 |" in pages.stamp(table)
    assert leaderboard.stale([record_race(**{field: "other"})]) == {"benchmark-fast-rgb"}
    assert "| ours, against another (stale: of other code) |" in pages.stamp(table)


def test_a_race_of_another_recipe_is_stale(monkeypatch):
    race = record_race()
    for config in ({}, {**race.details["config"], "model": "gone"}):
        assert leaderboard.is_stale(race._replace(details={**race.details, "config": config}))
    assert not leaderboard.is_stale(race)
    today = {**recipes.find("fast", "fast"), "learning_rate": 0.1}
    monkeypatch.setattr(recipes, "find", lambda name, model: today)
    assert leaderboard.is_stale(race)


def test_a_model_or_recipe_that_is_no_more_is_stale_and_not_an_error(monkeypatch, few_entries):
    result = leaderboard.record(SMALL, {3: row()})
    assert leaderboard.is_stale(result._replace(name="network-small-cnn-rgb-gone"))
    config = {**result.details["config"], "model": "gone"}
    assert leaderboard.is_stale(result._replace(details={**result.details, "config": config}))
    gone = result._replace(name="network-baseline-gray-gone")
    monkeypatch.setattr(leaderboard, "records", lambda: [gone])
    assert leaderboard.overview().loc[("baseline, gone", "gray"), "is_stale"]
    assert "(stale: of other code)" in leaderboard.table()
    with pytest.raises(InputError, match="model"):
        Entry("gone").config(0)
