"""What was read instead of done is told, and counted into a chapter's time."""

import nbformat
import pytest

from cifarlib import execution, progress


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(progress, "_remembered", {})


def test_what_was_remembered_adds_up():
    assert progress.Remembered().seconds == 0
    progress.remember("a", 1_200.4)
    progress.remember("b", 60)
    progress.remember("a", 7)  # again
    progress.remember("c", 0)  # done by this process
    progress.remember("c", 500)
    told = progress.Remembered()
    assert told.seconds == pytest.approx(1_260.4)
    assert str(told).endswith("1,260 s of work")


def test_a_chapters_time_counts_in_what_it_read_from_earlier_calls():
    progress.remember("a", 90)
    shown = progress.Remembered()._repr_mimebundle_()
    with_it, without = (nbformat.v4.new_code_cell("x", execution_count=1) for _ in range(2))
    with_it.outputs = [nbformat.v4.new_output("execute_result", data=shown)]
    without.outputs = [nbformat.v4.new_output("stream", text="90 s")]
    text = nbformat.v4.new_markdown_cell("90 s")
    assert execution._remembered(nbformat.v4.new_notebook(cells=[text, without, with_it])) == 90
    assert execution._remembered(nbformat.v4.new_notebook(cells=[text, without])) == 0
