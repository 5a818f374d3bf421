"""The commands that take the fields of `training.Config` as flags: ``train`` and ``tune``."""

import argparse
import dataclasses
import errno
import functools
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from cifarlib import layered, models, progress, recipes, results, settings, training
from cifarlib.arguments import COMMANDS, Parser, add_debug, named_path, whole_numbers
from cifarlib.errors import CifarlibError, InputError, nearest

# A trial of a search is short, or there would be few of them.
TRIAL = {"epochs": 8, "train_size": 10_000}
# What CIFARLIB_PROFILE=quick asks for. Unlike a chapter, a training is quick only if asked to be:
# a recipe's own epochs are what makes its figures.
QUICK = {"epochs": 3}
_KINDS = {"int": int, "float": float, "str": str}


def train(arguments: Sequence[str]) -> None:
    """Train one network, in a folder of its own."""
    asked = vars(train_parser().parse_args(arguments))
    output, resume = asked.pop("output"), asked.pop("resume")
    config = _config(_within_profile(asked))
    folder = f"runs/{config.model_name}-{config.color}-{config.seed}" if output is None else output
    # A log has no use for a bar, but whoever reads it wants to know how far a training is.
    on_epoch = None if progress.is_watched() else functools.partial(_say_epoch, config)
    run = training.train(config, folder=folder, resume=resume, on_epoch=on_epoch)
    figures = run.metrics
    print(f"{figures['epochs']} epochs in {figures['seconds']:.0f} s; {figures['data_kind']}")
    if "validation_accuracy" in figures:
        print(
            f"Best epoch {figures['best_epoch']}: {figures['validation_accuracy']:.2%} of "
            f"{figures['num_validation_images']:,} validation images"
        )
    print(f"Everything in {folder}; next: cifarlib evaluate {_quoted(folder)}")


def _say_epoch(config: training.Config, row: dict[str, float]) -> None:
    told = [f"loss {row['loss']:.3f}", f"{row['seconds']:.0f} s"]
    if "validation_accuracy" in row:
        told.insert(1, f"validation {row['validation_accuracy']:.2%}")
    epoch = f"{config.model_name}, epoch {row['epoch']} of {config.epochs}"
    progress.say(f"{epoch}: {', '.join(told)}")


def tune(arguments: Sequence[str]) -> None:
    """Search, and write what was found."""
    from cifarlib import tuning

    asked = vars(tune_parser().parse_args(arguments))
    ours = ("search", "num_trials", "time_budget", "max_multiply_adds", "journal")
    search, num_trials, time_budget, max_multiply_adds, journal = map(asked.pop, ours)
    count, epochs, output = map(asked.pop, ("finalists", "final_epochs", "output"))
    also = {_in_short(changes): changes for changes in asked.pop("also")}
    for option, value, least in (("finalists", count, 0), ("final-epochs", epochs, 1)):
        if value is not None and value < least:  # refused now, not after the search
            advice = "Leave it out."
            raise InputError(f"--{option}", f"at least {least}", str(value), advice)
    start = _config({**TRIAL, **_within_profile(asked)})
    for changes in also.values():
        tuning.variant(start, **changes)  # refused now, too
    journal = journal or f"runs/tuned-{start.model_name}-{start.color}.journal"
    # Beside its journal, so that another search does not replace it.
    output = output or f"{journal.removesuffix('.journal').removesuffix('.json')}.json"
    _check_output(output, journal)  # now, not after the search
    tuned = tuning.tune(
        start,
        search,
        num_trials=num_trials,
        time_budget=time_budget,
        journal=journal,
        max_multiply_adds=max_multiply_adds,
        on_trial=lambda trial: print(tuning.told(trial), flush=True),
    )
    print(tuned)
    final = None
    if settings.asked_profile() == "quick":
        if count or also:
            epochs = epochs or QUICK["epochs"]
        # Said, since it repeats this in any profile.
        for option, number in (("--epochs", start.epochs), ("--final-epochs", epochs)):
            is_named = any(word.partition("=")[0] == option for word in arguments)
            if number and not is_named:
                arguments = [*arguments, option, str(number)]
    command = shlex.join(["cifarlib", "tune", *arguments])
    command = results.on_backend(command, [keras.backend.backend()])
    if count or also:
        budget = {"epochs": epochs or training.Config("baseline").epochs, "train_size": None}
        kept = settings.cache_folder() / "runs"
        seeds = [(start.seed + 1) % 2**31]
        try:
            final = tuning.finals(tuned, count, seeds, also=also, kept_in=kept, **budget)
        except training.DivergedError as error:
            tuning.write(tuned, output, command, epochs=epochs)
            told = f"{output} has the best trial instead of a finalist."
            raise CifarlibError(f"In the finals, {error} {told}") from error
        print(final.table().round(1).to_string())
    tuning.write(tuned, output, command, final=final, also=also, epochs=epochs)
    quoted = _quoted(output)
    print(f"{output} has it; next: cifarlib train {quoted} --recipe tuned --color {start.color}")


def _check_output(output: str, journal: str) -> None:
    """Refuse a file that could not be written, or that no command would take for a model."""
    if not output.endswith(".json"):
        advice = "It stands for a model only by this ending."
        raise InputError("output", "a name that ends in .json", repr(output), advice)
    if Path(output).resolve() == Path(journal).resolve():
        raise InputError("output", "another file than the journal", repr(output), "Name another.")
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        if Path(output).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder")
        if not os.access(Path(output).parent, os.W_OK):
            raise PermissionError(errno.EACCES, "a folder where you may not write")
    except OSError as error:
        told = f"{error.strerror}"
        raise InputError(output, "a file to write to", told, "Name another.") from error
    if Path(output).exists():
        try:
            layered.read(output)
        except InputError as error:
            told = "none yet, or what an earlier search has found", "another file"
            raise InputError(output, *told, "Name another.") from error


def _quoted(path: str | Path) -> str:
    """Return how a shell takes a path: with slashes, since Windows passes on quotes, too."""
    return shlex.quote(Path(path).as_posix())


def _within_profile(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked, with few epochs if the profile is quick and none were named."""
    if "epochs" in asked or settings.asked_profile() != "quick":
        return asked
    told = f"CIFARLIB_PROFILE is quick: {QUICK['epochs']} epochs (--epochs N decides otherwise)"
    print(told, file=sys.stderr)
    return asked | QUICK


def train_parser() -> argparse.ArgumentParser:
    """Return the parser of what follows ``cifarlib train``."""
    parser = _parser("train", {})
    parser.add_argument(
        "--output",
        type=named_path,
        metavar="DIR",
        default=None,
        help="folder of the run (default: runs/MODEL-COLOR-SEED)",
    )
    parser.add_argument("--resume", action="store_true", default=False, help="go on with the run")
    return parser


def tune_parser() -> argparse.ArgumentParser:
    """Return the parser of what follows ``cifarlib tune``."""
    from cifarlib import tuning

    parser = _parser("tune", TRIAL)
    parser.add_argument(
        "--search",
        type=_names,
        metavar="NAMES",
        default=None,
        help=f"what to search, of {', '.join([*tuning.LAYERS, *tuning.RECIPE])} (default: all "
        "that the model has)",
    )
    parser.add_argument(
        "--num-trials",
        type=int,
        metavar="N",
        default=40,
        help="trials of the study, earlier ones included (default: 40)",
    )
    parser.add_argument(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        default=None,
        help="begin no further trial after so many seconds",
    )
    parser.add_argument(
        "--max-multiply-adds",
        type=int,
        metavar="N",
        default=None,
        help="train no network that needs more for one image",
    )
    parser.add_argument(
        "--journal",
        type=named_path,
        metavar="FILE",
        default=None,
        help="file of the study; start the same command twice to search with two processes "
        "(default: runs/tuned-MODEL-COLOR.journal)",
    )
    parser.add_argument(
        "--finalists",
        type=int,
        metavar="N",
        default=0,
        help="train the N best and the default on all images, with another seed; the best of "
        "these is written, instead of the best trial (default: 0)",
    )
    parser.add_argument(
        "--also",
        type=_changes,
        action="append",
        metavar="JSON",
        default=[],
        help="an idea of your own to train with the finalists, told by what it changes in the "
        """default: '{"width": 64}'; may be given several times""",
    )
    parser.add_argument(
        "--final-epochs",
        type=int,
        metavar="N",
        default=None,
        help="epochs of each finalist, and of the recipe that is written (default: "
        f"{training.Config.epochs})",
    )
    parser.add_argument(
        "--output",
        type=named_path,
        metavar="FILE",
        default=None,
        help="what was found, as JSON (default: beside the journal)",
    )
    return parser


def _parser(name: str, defaults: dict[str, Any]) -> argparse.ArgumentParser:
    """Return a parser with a flag for each field of ``training.Config``."""
    summary, example = COMMANDS[name]
    parser = Parser(
        prog=f"cifarlib {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"Example: {example}",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add_debug(parser)  # for its help: `cli` has taken the flag by now
    model, *fields = dataclasses.fields(training.Config)
    parser.add_argument("model", metavar="MODEL", help=model.metadata["help"])
    for field in fields:
        default = defaults.get(field.name, field.default)
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        default = "" if default is None else f" (default: {default})"
        # A union has a name of its own since Python 3.14.
        is_plain = isinstance(field.type, type)
        kind = field.type.__name__ if is_plain else str(field.type).removesuffix(" | None")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=whole_numbers if field.type == tuple[int, ...] else _KINDS.get(kind, _names),
            metavar=field.name.rpartition("_")[2].upper(),
            help=f"{field.metadata['help']}{default}".replace("%", "%%"),
        )
    parser.add_argument(
        "--recipe",
        metavar="RECIPE",
        help=f"{' or '.join(recipes.NAMES)} (default: modern, for fast networks their own); the "
        "options above are set on top of it, and their defaults are those of modern for most "
        f"models. Without --epochs, {QUICK['epochs']} if CIFARLIB_PROFILE is quick",
    )
    return parser


def _changes(text: str) -> dict[str, Any]:
    try:
        changes = json.loads(text)
    except ValueError:
        changes = None
    if not isinstance(changes, dict) or not changes:
        raise argparse.ArgumentTypeError(f"expected parameters as JSON, found {text!r}")
    return changes


def _in_short(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("", "none") else tuple(name.strip() for name in text.split(","))


def _config(asked: dict[str, Any]) -> training.Config:
    models.find(asked["model"])
    asked_recipe = asked.pop("recipe", None) or recipes.usual(asked["model"])
    recipe = recipes.find(asked_recipe, asked["model"])
    known = [field.name for field in dataclasses.fields(training.Config)]
    for name in recipe:  # of a file that somebody has changed
        if name not in known:
            told = f"a recipe of {', '.join(known)}"
            raise InputError(asked["model"], told, repr(name), nearest(name, known))
    return training.Config(**{**recipe, **asked})
