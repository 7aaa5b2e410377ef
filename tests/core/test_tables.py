"""Tables line up, say what is left out of a row, and escape what they show in a notebook."""

from __future__ import annotations

import pytest

from vbppl.core.tables import Table, html_lines, label, labels


def test_columns_line_up_on_the_side_that_is_asked_for():
    table = Table(("name", "n", "says"), (("a", "1", "yes"), ("longer", "1000", "no")), ("end",), align="<><")
    assert str(table) == "name       n  says\na          1  yes\nlonger  1000  no\n\nend"


def test_a_row_with_fewer_cells_has_nothing_in_the_last_columns():
    assert str(Table(("", "x", "y"), (("short",),))).splitlines()[1] == "short"


def test_a_table_without_notes_ends_with_its_rows():
    assert str(Table(("", "x"), (("a", "1"),))) == "   x\na  1"


def test_html_names_rows_and_escapes_everything():
    page = Table(("", "m<n"), (("a<b", "1&2"),), ("<script>",))._repr_html_()
    assert "<th>m&lt;n</th>" in page and ">a&lt;b</th>" in page and "<td>1&amp;2</td>" in page
    assert "<script>" not in page and html_lines(["a<b", "c"]) == "a&lt;b<br>c"


@pytest.mark.parametrize(("index", "text"), [((), "w"), ((3,), "w[3]"), ((1, 2), "w[1,2]")])
def test_a_scalar_is_called_by_its_index(index, text):
    assert label("w", index) == text


def test_the_scalars_of_an_array_are_in_order():
    assert labels("w", (2, 2)) == ["w[0,0]", "w[0,1]", "w[1,0]", "w[1,1]"]
    assert labels("w", (0,)) == []
