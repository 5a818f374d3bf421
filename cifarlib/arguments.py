"""What the parts of the command line share. Not for doing anything: `cli` and what it calls."""

import argparse
from typing import NoReturn

# Summary and example of the commands whose arguments `training_commands` knows.
COMMANDS = {
    "train": (
        "train a model, with progress, checkpoints and a folder of its own",
        "cifarlib train baseline --color gray --epochs 10",
    ),
    "tune": (
        "search for good layers and a good recipe, in a study that can be stopped and shared",
        "cifarlib tune layered_cnn --color gray --num-trials 20",
    ),
}


def named_path(text: str) -> str:
    """Return the path that an argument names; an empty one is none, and no default either."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    return text


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that an argument names with commas in between, such as image sizes."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        told = f"expected whole numbers such as 24,32, found {text!r}"
        raise argparse.ArgumentTypeError(told) from None


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Let a command take ``--debug``, before its name or behind."""
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,  # or a subcommand would undo `cifarlib --debug data info`
        help="show the traceback of an error",
    )


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Print the message and end with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")
