"""What the tests of records share: entries, and records that nobody measured."""

from cifarlib import data, entries, measuring, recipes, results, staleness, training
from cifarlib.entries import Entry

SMALL = Entry("baseline", "gray", "modern", (3, 5))
LARGE = Entry("vgg6", "rgb", "published")


def row(accuracy=0.7, seconds=60.0, speed=2000.4):
    fields = dict.fromkeys((*measuring.OF_RUN, *measuring.OF_TEST), 1.0)
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
        "is_whole": True,
    }


def described(kind):
    """Return a data set of that kind with a fingerprint of its own."""
    unknown = dict.fromkeys(data.Description._fields)
    return data.Description(**{**unknown, "kind": kind, "fingerprint": f"print of {kind}"})


def code_of(entry):
    return training.code_digest(entry.config(entry.seeds[0]))


def measured_as(accuracy, validation):
    return {**row(accuracy), "validation_accuracy": validation}


def record_prediction(name, values, **others):
    model = name if name == entries.LINEAR else name.replace("-", "_")
    today = {"model": model, "code": staleness.prediction_digest(model)}
    details = {"milliseconds": [1.0, 1.5, 9.0], "megabytes": 3.5, **today, **others}
    told = {"chapter": "06", "metric": "images a second", "command": "x", "details": details}
    return results.write(f"prediction-{name}", values=values, **told)


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
