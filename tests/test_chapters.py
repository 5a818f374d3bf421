"""The chapters as files."""

import nbformat

from cifarlib import chapters


def test_the_code_of_a_chapter_is_its_code_cells_whatever_stands_beside_them():
    def digest(*cells):
        return chapters.code_digest(nbformat.v4.new_notebook(cells=cells))

    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    shown = nbformat.v4.new_output("stream", text="1")
    assert digest(text("a"), code("1")) == digest(code("1", outputs=[shown]), text("b"))
    assert len({digest(code("1")), digest(code("2")), digest(code("1"), code("2"))}) == 3
