"""The command line: ``cifarlib data``, ``run``, ``models``, ``train``, ``tune`` and so on.

Reads arguments, calls the module that does the work, prints what it returns. Modules are
imported by the command that needs them, so that ``cifarlib --help`` answers at once.
"""

import argparse
import contextlib
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from cifarlib import __version__
from cifarlib.arguments import COMMANDS, Parser, add_debug, named_path
from cifarlib.errors import CifarlibError, InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``cifarlib``; None for those of this process.

    Returns:
        Exit status: 0, or 1 for a failure, 2 for bad input, 130 when interrupted.
    """
    if hasattr(sys.stdout, "reconfigure"):  # Windows redirects in a code page that lacks most names
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options, options.rest = parser.parse_known_args(arguments)
    if options.rest and options.command not in (_train, _tune):
        options.parser.error(f"unrecognized arguments: {' '.join(options.rest)}")
    warnings.showwarning = _show_warning
    return _after_output(_run_command(options))


def _run_command(options: argparse.Namespace) -> int:
    """Run a command, and say in a line what went wrong."""
    debug = getattr(options, "debug", False)
    try:
        options.command(options)
        return 0
    except KeyboardInterrupt:
        continued = dict.fromkeys((_data_fetch, _data_info, _run, _tune), "continues")
        how = {**continued, _train: "with --resume continues"}
        told = how.get(options.command, "starts again")
        print(f"cifarlib: interrupted; the same command {told}.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `cifarlib data info | head -1` is no error
        return 0
    except CifarlibError as error:
        if debug:
            traceback.print_exc()
        print(f"cifarlib: {error}", file=sys.stderr)
        return error.exit_status
    except Exception as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # a library tripped over Ctrl-C
            print("cifarlib: interrupted.", file=sys.stderr)
            return 130
        if debug:
            traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"cifarlib: {line} (--debug shows the traceback)", file=sys.stderr)
        return 1


def _after_output(status: int) -> int:
    """Write out what was printed, here and not at exit, where an error would take more than a line.

    Returns:
        The exit status: the one given, or 1 if what was printed could not be written.
    """
    if not sys.stdout:
        return status
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left of it would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError) and status == 0:
            print(f"cifarlib: standard output: {error.strerror}", file=sys.stderr)
            return 1
    return status


def _show(text: object) -> None:
    """Print what a command has found; that nobody reads it must not change its exit status."""
    with contextlib.suppress(BrokenPipeError):
        print(text)


def _show_warning(message, category, filename, line_number, file=None, line=None) -> None:
    print(f"cifarlib: {message}", file=sys.stderr)


_NO_SANDBOX = (
    " THE LIMITS ARE NO SANDBOX: what was handed in runs with your rights, so use a container or"
    " virtual machine for people you do not trust."
)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add_debug(common)
    parser = Parser(
        prog="cifarlib",
        description="Learn image classification by doing it: CIFAR-10 notebooks and their library.",
        epilog="Example: cifarlib data fetch && cifarlib run",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"cifarlib {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        group, name: str, command, summary: str, example: str, **settings
    ) -> argparse.ArgumentParser:
        added = group.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"Example: {example}",
            parents=[common],
            **settings,
        )
        added.set_defaults(command=command, parser=added)
        return added

    def add_budget(command: argparse.ArgumentParser) -> None:
        budget = command.add_mutually_exclusive_group()
        for profile in ("quick", "full"):
            budget.add_argument(
                f"--{profile}",
                dest="profile",
                action="store_const",
                const=profile,
                help=f"the {profile} budgets, whatever CIFARLIB_PROFILE says",
            )

    def add_group(name: str, summary: str, example: str):
        added = commands.add_parser(
            name, help=summary, epilog=f"Example: {example}", parents=[common]
        )
        return added.add_subparsers(title="commands", required=True, metavar="COMMAND")

    data = add_group("data", "get or describe the data set", "cifarlib data info")
    source = {"metavar": "S", "help": "archive, folder, http address or 'synthetic'"}
    fetch = add(
        data,
        "fetch",
        _data_fetch,
        "get, verify, decode and cache the data set",
        "cifarlib data fetch --source ~/cifar-10-python.tar.gz",
    )
    fetch.add_argument("--source", **source)
    fetch.add_argument("--force", action="store_true", help="read it again, whatever is cached")
    info = add(
        data,
        "info",
        _data_info,
        "tell what the data set is and where it came from, getting it first if need be",
        "cifarlib data info --json",
    )
    info.add_argument("--source", **source)
    info.add_argument("--json", action="store_true", help="print JSON")

    run = add(
        commands,
        "run",
        _run,
        "execute the notebooks in order and make a report",
        "cifarlib run 01 02 --quick",
    )
    run.add_argument("chapters", nargs="*", metavar="NN", help="chapter numbers (default: all)")
    add_budget(run)
    run.add_argument(
        "--output", type=named_path, metavar="DIR", help="folder of the report (default: build)"
    )
    run.add_argument(
        "--record",
        action="store_true",
        help="record the times and, in the full profile, the outputs in notebooks/",
    )

    submit = add(
        commands,
        "submit",
        _submit,
        "execute, check and pack notebooks to hand in; --verify checks what was handed in",
        "cifarlib submit notebooks/02_color_to_grayscale.ipynb --name Ada --id 12345",
    )
    submit.description += (
        " All cells must run in order and without errors in a fresh kernel, name and id be"
        " filled, and no file be named by a folder of one machine. If something is missing, no"
        " zip is written, so that nobody hands in a broken notebook by mistake; --incomplete"
        " writes one that says so. With --verify: checksums, and every notebook executed again in"
        f" the quick profile, with limits.{_NO_SANDBOX} A"
        " write outside its folder is refused and told if Python code of the notebook makes it;"
        " what another program, or a compiled library such as HDF5, writes is seen only beside"
        " the folder or in its (substitute) home folder."
    )
    submit.add_argument(
        "paths",
        nargs="+",
        type=named_path,
        metavar="PATH",
        help="a notebook or a folder with notebooks; with --verify, zips or folders with zips",
    )
    submit.add_argument("--name", help="your name, where no notebook assigns STUDENT_NAME")
    submit.add_argument("--id", help="your number, where no notebook assigns STUDENT_ID")
    submit.add_argument(
        "--output",
        type=named_path,
        metavar="FILE.zip",
        help="the zip (default: named after the notebook and id)",
    )
    add_budget(submit)
    submit.add_argument(
        "--incomplete",
        action="store_true",
        help="write the zip even if something is missing, and mark it; the exit status stays 1",
    )
    verify = submit.add_argument_group("for teachers")
    verify.add_argument(
        "--verify", action="store_true", help="check and execute what was handed in; see above"
    )
    verify.add_argument(
        "--no-execute", action="store_true", help="only read them and compare the checksums"
    )
    verify.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for each submission (default: 900)"
    )
    verify.add_argument(
        "--memory",
        type=float,
        metavar="GIB",
        help="resident memory of all processes of a submission (default: 6); an allocation beyond "
        "it fails at once on Linux only",
    )
    verify.add_argument("--jobs", type=int, metavar="N", help="so many at once (default: 1)")
    verify.add_argument("--json", action="store_true", help="print JSON")

    models = add(
        commands,
        "models",
        _models,
        "list every model, its parameters and what it reproduces",
        "cifarlib models --json",
    )
    models.add_argument("--json", action="store_true", help="print JSON")

    # What they take are the fields of training.Config, which would import Keras for each --help.
    add(commands, "train", _train, *COMMANDS["train"], add_help=False)
    add(commands, "tune", _tune, *COMMANDS["tune"], add_help=False)

    evaluate = add(
        commands,
        "evaluate",
        _evaluate,
        "judge a finished run on the test set and write a report",
        "cifarlib evaluate runs/baseline-gray-0",
    )
    evaluate.add_argument(
        "run", type=named_path, metavar="RUN", help="folder that cifarlib train wrote"
    )
    evaluate.add_argument(
        "--views",
        action="store_true",
        help="test-time augmentation: weighted mean over six views of each image, at six times "
        "the work",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    assignment = add_group(
        "assignment",
        "make the notebooks that students get, or grade what they hand in",
        "cifarlib assignment release 01",
    )
    release = add(
        assignment,
        "release",
        _assignment_release,
        "write the notebooks that students get, without solutions and hidden tests",
        "cifarlib assignment release 01 --output handout",
    )
    release.add_argument("names", nargs="*", metavar="NAME", help="assignments (default: all)")
    release.add_argument(
        "--output",
        type=named_path,
        metavar="DIR",
        help="folder to write to (default: build/assignments)",
    )
    grade = add(
        assignment,
        "grade",
        _assignment_grade,
        "grade submitted notebooks by the tests of the sources, without a database",
        "cifarlib assignment grade submissions",
    )
    grade.description += _NO_SANDBOX
    grade.add_argument(
        "paths",
        nargs="+",
        type=named_path,
        metavar="PATH",
        help="notebook or zip file, or a folder with such",
    )
    for limit, what, usual in (("cell", "a cell", 120), ("total", "a notebook", 600)):
        told = f"seconds that {what} may take (default: {usual})"
        grade.add_argument(f"--{limit}-seconds", type=float, metavar="S", help=told)
    grade.add_argument("--json", action="store_true", help="print JSON")

    results = add(
        commands,
        "results",
        _results,
        "print the recorded results, each with the command that repeats it",
        "cifarlib results --json",
    )
    results.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _data_fetch(options: argparse.Namespace) -> None:
    from cifarlib import data

    description = data.fetch(options.source, force=options.force)
    print(description)
    print(f"Decoded arrays in {description.cache}")


def _data_info(options: argparse.Namespace) -> None:
    from cifarlib import data

    description = data.describe(options.source)
    fields = {**description._asdict(), "official": description.kind == "official"}
    if options.json:
        print(json.dumps(fields, indent=2))
        return
    counts = fields.pop("class_counts")
    for name, value in fields.items():
        print(f"{name.replace('_', ' '):<15}{value}")
    for split in counts:
        told = ", ".join(f"{name} {count:,}" for name, count in counts[split].items())
        print(f"{split + ' images':<15}{told}")


def _run(options: argparse.Namespace) -> None:
    if options.record:
        _import_keras(options)  # README's table of networks tells which of them are stale
    from cifarlib import running

    running.run(
        options.chapters, profile=options.profile, output=options.output, record=options.record
    )


def _submit(options: argparse.Namespace) -> None:
    for_verify = {"no_execute", "timeout", "memory", "jobs", "json"}
    for_submit = {"name", "id", "output", "profile", "incomplete"}
    for option in sorted(for_submit if options.verify else for_verify):
        value = getattr(options, option)
        if value is not None and value is not False:
            flag = "--" + (value if option == "profile" else option).replace("_", "-")
            beside = ("no --verify", "it") if options.verify else ("--verify", "none")
            advice = "See cifarlib submit --help."
            raise InputError(flag, f"{beside[0]} beside it", beside[1], advice)
    if options.verify:
        _verify(options)
        return
    from cifarlib import submission

    path, *others = options.paths
    if others:
        advice = "Put the notebooks into one folder, or hand in one after the other."
        raise InputError(others[0], "one notebook or folder at a time", "a second", advice)
    made = submission.submit(
        path,
        name=options.name,
        student_id=options.id,
        output=options.output,
        profile=options.profile,
        incomplete=options.incomplete,
    )
    for remark in made.remarks:
        print(remark)
    if made.problems:
        raise CifarlibError(str(made))
    print(made)


def _verify(options: argparse.Namespace) -> None:
    from cifarlib import verification

    limits = {"seconds": options.timeout, "gibibytes": options.memory, "num_jobs": options.jobs}
    verdicts = verification.verify(
        options.paths,
        is_executed=not options.no_execute,
        **{name: value for name, value in limits.items() if value is not None},
    )
    if options.json:
        told = [{**verdict._asdict(), "is_fine": verdict.is_fine} for verdict in verdicts]
        _show(json.dumps(told, indent=2))
    else:
        _show(verification.table(verdicts))
    if num_others := sum(not verdict.is_fine for verdict in verdicts):
        raise CifarlibError(f"{num_others} of {len(verdicts)} submissions need to be looked into.")


def _import_keras(options: argparse.Namespace) -> None:
    """Import Keras and find its devices, without the backend's chatter on standard error.

    TensorFlow writes it below Python, whatever its own settings say.
    """
    from cifarlib import devices, settings

    settings.check_backend()
    if getattr(options, "debug", False):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        kept = os.dup(2)
    except OSError:  # closed: nobody listens
        return
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        devices.accelerators()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


def _models(options: argparse.Namespace) -> None:
    _import_keras(options)
    from cifarlib import models

    described = [models.describe(name) for name in models.DESIGNS]
    if options.json:
        print(json.dumps([model._asdict() for model in described], indent=2))
        return
    print(f"{'model (in colour)':<22}{'parameters':>12}{'trainable':>12}  reproduces")
    for model in described:
        counts = f"{model.parameters:>12,}{model.trainable:>12,}"
        print(f"{model.name:<22}{counts}  {model.reproduces}")


def _train(options: argparse.Namespace) -> None:
    _import_keras(options)
    from cifarlib import training_commands

    training_commands.train(options.rest)


def _tune(options: argparse.Namespace) -> None:
    _import_keras(options)
    from cifarlib import training_commands

    training_commands.tune(options.rest)


def _evaluate(options: argparse.Namespace) -> None:
    _import_keras(options)
    from cifarlib import run_report

    report = run_report.evaluate(options.run, with_views=options.views)
    print(json.dumps(report.figures, indent=2) if options.json else report)


def _assignment_release(options: argparse.Namespace) -> None:
    from cifarlib import assignments

    for path in assignments.release(options.names, options.output):
        print(path)


def _assignment_grade(options: argparse.Namespace) -> None:
    from cifarlib import assignments

    limits = {name: getattr(options, name) for name in ("cell_seconds", "total_seconds")}
    limits = {name: seconds for name, seconds in limits.items() if seconds is not None}
    graded = []
    try:
        for one in assignments.grade(options.paths, **limits):
            graded.append(one)
            print(f"{one.submission}: {one}", file=sys.stderr)
    finally:  # an interruption does not take away what has been graded
        if graded and options.json:
            _show(json.dumps([one.as_json() for one in graded], indent=2))
        elif graded:
            _show(assignments.table(graded))
    if all(one.assignment is None for one in graded):
        raise CifarlibError(f"none of {len(graded)} files could be graded.")


def _results(options: argparse.Namespace) -> None:
    _import_keras(options)  # a network's code tells whether its record is stale
    from cifarlib import results, staleness

    recorded = results.read_all()
    stale = staleness.stale(recorded)
    if options.json:
        told = [{**result._asdict(), "is_stale": result.name in stale} for result in recorded]
        print(json.dumps(told, indent=2))
        return
    # A command is too long for a column: it stands under its row, with the data and the machine.
    width = max((len(result.name) for result in recorded), default=len("result"))
    print(f"{'result':<{width}}{'mean':>10}{'sd':>10}{'n':>5}  what")
    for result in recorded:
        spread = "" if result.sd is None else f"{result.sd:.3g}"
        mark = "  [stale: of other code]" if result.name in stale else ""
        figures = f"{result.mean:>10.4g}{spread:>10}{len(result.values):>5}"
        print(f"{result.name:<{width}}{figures}  {result.metric}{mark}")
        print(f"    {result.data_kind}; {result.hardware}; {result.command}")
