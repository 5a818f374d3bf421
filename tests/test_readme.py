"""What README shows can be typed as it stands."""

import functools
import re
import shlex
import warnings
from pathlib import Path

import pytest

from cifarlib import cli, data, synthetic, training_commands

README = Path(cli.__file__).parent.parent / "README.md"
TEXT = README.read_text("utf-8") if README.exists() else ""
COMMANDS = re.findall(r"^    (cifarlib .+?)(?: {2,}#.*)?$", TEXT, re.MULTILINE)
BLOCKS = re.findall(r"^```python\n(.+?)^```", TEXT, re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not TEXT, reason="an installed package has no README")


def test_there_are_commands_and_code_to_try():
    assert len(COMMANDS) >= 10 and len(BLOCKS) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command):
    words = shlex.split(command, comments=True)[1:]
    _, rest = cli._parser().parse_known_args(words)
    parsers = {"train": training_commands.train_parser, "tune": training_commands.tune_parser}
    if words[0] in parsers:
        parsers[words[0]]().parse_args(rest)
    else:
        assert not rest


@pytest.mark.parametrize("row", re.findall(r"^\| `cifarlib (.+?)` \|", TEXT, re.MULTILINE))
def test_the_flags_of_the_table_exist(row, capsys):
    words = [word for word in re.split(r"[ \[]", row.partition("PATH")[0]) if word.isalpha()]
    command = [word for word in words if word.islower()]
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    told = capsys.readouterr().out
    flags = re.findall("--[a-z-]+", row)
    assert [flag for flag in flags if flag not in told] == []


def test_the_python_code_runs_from_top_to_bottom(monkeypatch):
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    write = functools.partial(synthetic.write_archive.func, num_train=200, num_test=20)
    monkeypatch.setattr(synthetic, "write_archive", write)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", data.SyntheticDataWarning)
        for block in BLOCKS:
            exec(block, names)
    assert names["gray"].shape[1:] == (32, 32, 1)
    assert names["inputs"].dtype == "float32"
    assert len(names["run"].history) == 10
