"""Text tables as people write them: no stray quote loses a row, and what is guessed about a file is told or asked."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
import re
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrta_ext.tables import Table, TableError, open_table
from hrta_ext.tables.cells import Numbers
from hrta_ext.tables.lines import TextFormat

ROWS = [[k + 0.5, k * k, -k] for k in range(40)]
NUMBERS = np.array(ROWS, dtype=np.float64)


def opened(directory: Path, content: str | bytes, name: str = "t.csv", wanted=(), **options) -> Table:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_table(path, TextFormat(**options), wanted)


def lines(separator: str = ",", end: str = "\n", cell=str) -> str:
    return "".join(separator.join(map(cell, row)) + end for row in ROWS)


# ---- quotes ----


@given(st.integers(0, 39), st.integers(0, 2), st.integers(0, 6), st.integers(1, 2))
def test_a_stray_quote_never_loses_a_row(row, column, where, count):
    """At any place of any cell, alone or with a second one three rows later: an error, or every row is read."""
    import tempfile

    cells = [[str(k), str(k * k), f"item {k}"] for k in range(40)]
    for line in (row, (row + 3) % 40)[:count]:
        cell = cells[line][column]
        cells[line][column] = cell[:where] + '"' + cell[where:]
    content = "a,y,name\n" + "".join(",".join(row) + "\n" for row in cells)
    with tempfile.TemporaryDirectory() as directory:
        values, message = None, ""
        try:
            values = opened(Path(directory), content).values(["a", "y"])
        except TableError as error:
            message = str(error)
    if values is None:
        assert re.search(r"row \d+ \(line \d+\)", message)
    else:
        assert np.array_equal(values, [[k, k * k] for k in range(40)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('a,n\n1,"x\n2,y\n3,z\n', "row 1 (line 2): a quoted cell is still open at the end of the line"),
        ('a,n\n1,x\n2,"y', "row 2 (line 3): a quoted cell is still open"),
        ('a,n\n1,x\n2,"y"z\n', "row 2 (line 3): a cell goes on after its closing quote"),
        ('a,n\n1,"x\n2,y"\n', "row 1 (line 2): a quoted cell is still open"),  # well formed, and it eats a row
        ('a,"n\n1,x\n2,y\n', "row 1 (line 1): a quoted cell is still open"),
        ('a,n\n1,"say \\"x\\" "\n', "row 1 (line 2): a cell goes on after its closing quote"),
    ],
)
def test_malformed_quotes_are_named(tmp_path, content, message):
    with pytest.raises(TableError, match=re.escape(message)):
        opened(tmp_path, content).values(["a"])


def test_line_breaks_in_cells_are_an_option(tmp_path):
    content = '"a\nb",n\r\n1,"x\r\ny"\n2,"z"\n'
    table = opened(tmp_path, content, multiline=True)
    assert table.columns == ("a\nb", "n")
    assert table.values(["a\nb"])[:, 0].tolist() == [1.0, 2.0]
    with pytest.raises(TableError, match="still open"):
        opened(tmp_path, 'a,n\n1,"x\n2,y\n', multiline=True).values(["a"])


@given(st.lists(st.lists(st.text(alphabet='a1",; \t|#.', max_size=6), min_size=3, max_size=3), min_size=3, max_size=8))
def test_what_csv_writes_is_read_back(cells):
    """Text columns written by the standard library, whatever is in them, beside a column of numbers."""
    import tempfile

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["x", "p", "q", "r"])
    for k, row in enumerate(cells):
        writer.writerow([k + 0.25, *row])
    with tempfile.TemporaryDirectory() as directory:
        table = opened(Path(directory), stream.getvalue(), delimiter=",")
        assert table.values(["x"])[:, 0].tolist() == [k + 0.25 for k in range(len(cells))]


# ---- header ----


@pytest.mark.parametrize("header", ["1100,1102,1104", "0,1,2", "2019,2020,2021", "0.1,0.2,0.3"])
def test_a_first_row_of_numbers_in_equal_steps_is_asked_about(tmp_path, header):
    content = header + "\n" + lines()
    with pytest.raises(TableError, match="may hold names or numbers; say which with --header or --no-header"):
        opened(tmp_path, content)
    names = tuple(header.split(","))
    for table in (opened(tmp_path, content, header=True), opened(tmp_path, content, wanted=[names[1]])):
        assert table.columns == names
        assert table.header_is_known
        assert np.array_equal(table.values(names), NUMBERS)
    table = opened(tmp_path, content, header=False)
    assert table.values(["column_1"])[0, 0] == float(names[0])
    assert len(table.values(table.columns)) == 41


def test_guesses_are_told(tmp_path):
    """A table without a header can be read, and the line about it says what was taken for granted."""
    table = opened(tmp_path, lines(";"))
    assert not table.header_is_known
    assert np.array_equal(table.values(table.columns), NUMBERS)
    assert table.summary(40) == (
        f"Read {tmp_path / 't.csv'}: 40 rows of 3 columns without a header row (called column_1, column_2, column_3; "
        "--header if the first row holds names), separated by semicolons."
    )
    assert opened(tmp_path, "a,b,c\n" + lines()).summary(1).endswith("named by its first row, separated by commas.")
    table = opened(tmp_path, "country,2019,2020\nFrance,1,2\nItaly,3,4\n")
    with pytest.raises(TableError, match=r"'country' is not a number.*; --header if the first row holds names"):
        table.values(table.columns)


def test_names_are_compared_in_one_unicode_form(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    for inside in (composed, decomposed):
        for asked in (composed, decomposed):
            table = opened(tmp_path, f"{inside},b\n1,2\n", wanted=[asked])
            assert table.header_is_known
            assert table.values([asked]).tolist() == [[1.0]]
            assert table.features([asked]) == ("b",)
    with pytest.raises(TableError, match="listed twice"):
        opened(tmp_path, f"{composed},{decomposed}\n1,2\n").values([composed])


# ---- what people's programs write ----


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("T (C, mean);p (hPa);y\n" + lines(";"), {}),  # commas in the names of a semicolon table
        ("T, C;p;y\n" + lines(";", cell=lambda v: str(v).replace(".", ",")), {"numbers": Numbers(",")}),
        ("sep=;\na;b;c\n" + lines(";"), {}),
        ('"sep=|"\na|b|c\n' + lines("|"), {}),
        ("a|b|c\n" + lines("|"), {}),
        ("a:b:c\n" + lines(":"), {"delimiter": ":"}),
        ("a b c\n" + lines("   ", "  \n"), {}),
        ("  a\tb\t c\n" + lines(" \t "), {}),
        ("a,b,c,\n" + lines(",", ",\n"), {}),
        ("a,b,c\n" + lines(",", ",\n"), {}),
        ("a,b,c,,,\n" + lines(",", ",,,\n"), {}),
        ("a,b,c,\n" + lines(), {}),
        ("# made by a logger, version 2\n#\n\na,b,c\n" + lines(), {}),
        ("# a b c\n" + lines(" "), {}),  # numpy.savetxt
        ("##by x\n##on y\n#id\tb\tc\n" + lines("\t"), {}),  # genetics
        ("#,b,c\n" + lines(), {}),
        ("a, b, c\n" + lines(", "), {}),
        ('"a", "b", "c"\n' + lines(", ", cell=lambda v: f'"{v}"'), {}),
        ("a\rb\r".replace("\r", ",") + "c\r" + lines(end="\r"), {}),
        ("\ufeffa,b,c\r\n" + lines(end="\r\n"), {}),
    ],
)
def test_dialects(tmp_path, content, options):
    """Rows, columns and numbers are those that were written."""
    table = opened(tmp_path, content, **options)
    assert table.has_header
    assert len(table.columns) == 3
    assert np.array_equal(table.values(table.columns), NUMBERS)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv"])
def test_compressed_text(tmp_path, compress, name):
    content = compress(("a,b,c\n" + lines() * 100).encode())
    table = opened(tmp_path, content, name)
    assert np.array_equal(table.values(["a", "b", "c"]), np.tile(NUMBERS, (100, 1)))
    assert "compressed by" in table.layout
    for damaged in (content[:-20], content[:100] + b"\xff" * 20 + content[120:]):
        with pytest.raises(TableError):
            opened(tmp_path, damaged, name).values(["a"])


def test_a_pipe_is_read_once(tmp_path):
    """A FIFO, as `<(zcat new.csv.gz)` gives one, compressed or not."""
    for content in (("a,b,c\n" + lines()).encode(), gzip.compress(("a,b,c\n" + lines()).encode())):
        path = tmp_path / "fifo"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
        writer.start()
        table = open_table(path)
        assert np.array_equal(table.values(["a", "b", "c"]), NUMBERS)
        assert np.array_equal(table.values(["b"])[:, 0], NUMBERS[:, 1])
        writer.join(10)
        path.unlink()


def test_comments_are_no_rows_and_rows_no_comments(tmp_path):
    content = "# first\n# second\na,b,c\n" + lines()
    assert opened(tmp_path, content).layout.endswith("2 lines that begin with # skipped")
    with pytest.raises(TableError, match="begins with # and has 3 cells like a row"):
        opened(tmp_path, "#ff0000,1,2\n#00ff00,3,4\n" + lines())
    assert len(opened(tmp_path, "colour,x\n#ff0000,1\n#00ff00,2\n").values(["x"])) == 2
    with pytest.raises(TableError, match=r"row 2 \(line 3\).*comments are skipped at the top"):
        opened(tmp_path, "a,b\n1,2\n# a remark\n3,4\n").values(["a"])
    with pytest.raises(TableError, match="every line begins with #"):
        opened(tmp_path, "# one\n# two\n")


def test_cells_are_counted_in_every_row_and_column(tmp_path):
    """Also beyond the rows that the layout was found from, and in columns nobody asks for."""
    good = "a,b,c,\n" + "1,2,x,\n" * 100
    assert len(opened(tmp_path, good).values(["a"])) == 100
    for bad, cells in (("1,2,x,y\n", 4), ("1,2\n", 2), ("1,2,x,,\n", 5)):
        with pytest.raises(TableError, match=rf"row 101 \(line 102\) has {cells} cells where 3 columns"):
            opened(tmp_path, good + bad).values(["a"])
    with pytest.raises(TableError, match=r"separated by semicolons"):
        opened(tmp_path, "a;b\n1;2\n3\n").values(["a"])


def test_a_blank_line_of_a_single_column_is_an_empty_cell(tmp_path):
    with pytest.raises(TableError, match=r"row 2 \(line 3\), column 'a': the cell is empty"):
        opened(tmp_path, "a\n1\n\n3\n").values(["a"])
    assert opened(tmp_path, "a\n1\n3\n\n\n").values(["a"]).tolist() == [[1.0], [3.0]]


INDEXES = {
    "pandas": (",x,y\n" + "".join(f"{k},{k / 2},{k * k}\n" for k in range(9)), "column_1 (no name"),
    "pandas, read and written again": ("Unnamed: 0,x,y\n" + "".join(f"{k},{k / 2},{k * k}\n" for k in range(9)), "Unn"),
    "shuffled": (",x,y\n" + "".join(f"{k * 5 % 9},{k / 2},{k * k}\n" for k in range(9)), "column_1 (no name"),
    "pyarrow": ("x,__index_level_0__,y\n" + "".join(f"{k / 2},{k},{k * k}\n" for k in range(9)), "__index_level_0__"),
    "R's write.csv": ('"","x","y"\n' + "".join(f'"{k + 1}",{k / 2},{k * k}\n' for k in range(9)), "column_1 (no name"),
    "R's write.table": ('"x" "y"\n' + "".join(f'"{k + 1}" {k / 2} {k * k}\n' for k in range(9)), "column_1 (no name"),
    "names of rows": ('"x","y"\n' + "".join(f'"car {k}",{k / 2},{k * k}\n' for k in range(9)), "column_1 (no name"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_is_no_feature_and_a_note_says_so(tmp_path, case):
    content, note = INDEXES[case]
    table = opened(tmp_path, content)
    assert table.features([]) == ("x", "y")
    assert "as an index of the rows" in table.notes[0]
    assert note in table.notes[0]
    assert table.values(["x", "y"]).tolist() == [[k / 2, k * k] for k in range(9)]


def test_the_last_feature_is_never_left_out(tmp_path):
    table = opened(tmp_path, ",y\n" + "".join(f"{k},{k * k}\n" for k in range(9)))
    assert table.features(["y"]) == ("column_1",)
    assert table.notes == []
    with pytest.raises(TableError, match="3 cells where 2 columns"):  # no names of rows, so which name is missing?
        opened(tmp_path, "x,y\n1.5,1,2\n2.5,3,4\n").values(["x"])


def test_a_decimal_comma_is_no_delimiter_when_it_was_asked_for(tmp_path):
    table = opened(tmp_path, "1,5\n2,25\n", numbers=Numbers(","))
    assert table.values(table.columns).tolist() == [[1.5], [2.25]]


def test_a_header_of_any_length_is_read(tmp_path):
    """Longer than the csv module's limit of a cell; the time of many columns grows with their number."""
    n = 20000
    names = [f"GENE{k:011d}" for k in range(n)]
    table = opened(tmp_path, ",".join(names) + "\n" + (",".join(["0.5"] * n) + "\n") * 3)
    assert table.columns == tuple(names)
    assert table.values(names).shape == (3, n)


def test_wrong_delimiters_are_refused():
    for delimiter in ("", ";;", '"', "\n"):
        with pytest.raises(ValueError, match="delimiter must be one character"):
            TextFormat(delimiter=delimiter)


# ---- what was once taken for something else in silence ----


@pytest.mark.parametrize(
    ("content", "wanted", "message"),
    [
        ("a,b\n1,0.5,7.3\n2,0.5,7.3\n", ["a", "b"], "row 1 (line 2) has 3 cells where 2"),  # no row names: unquoted
        ("x\n1,5\n2,5\n", ["x"], "if the comma is a decimal one: --decimal ,"),
        (",0,1,2\n" + "".join(f"{k},{v},{k},{k}\n" for k, v in enumerate((0.0, 0.5, 0.1))), [], "may hold names or n"),
        ("1,0\n0,1\n0,0\n1,1\n", ["0", "1"], "may hold names or numbers"),  # a model of 0 and 1 is asked for by no name
        ("5,0.75,1\n2,1.25,4\n", ["5"], "may hold names or numbers"),
        ("399.20,401.13,403.06,404.98\n" + "1,0.2,4,2\n" * 3, [], "may hold names or numbers"),
        ("2019,2020\n1.5,0.2\n3,7\n", [], "may hold names or numbers"),
        ("Logger 7\nt,y\n1,2\n2,3\n", ["y"], "line 2 does; take away the lines above it"),
        ("a:b:y\n1:2:3\n", ["y"], "--delimiter says which"),
        ('{"a": 1}\n', ["a"], "is JSON"),
    ],
)
def test_what_may_be_two_things_is_refused(tmp_path, content, wanted, message):
    with pytest.raises(TableError, match=re.escape(message)):
        opened(tmp_path, content, wanted=wanted).values(wanted or ["column_1"])


@pytest.mark.parametrize("first", ["?,5.1,3.2", "NA,5.1,3.2", "True,1,2"])
def test_a_marker_in_the_first_row_makes_no_header(tmp_path, first):
    table = opened(tmp_path, first + "\n0.9,-1.4,0.7\n0.3,0.1,5\n")
    assert not table.has_header
    assert len(table.values(["column_3"])) == 3


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ('"a"\t"b"\n"1"\t\n"2"\t\n', "tabs"),
        ("0.5\t0\t\t0\n1.5\t\t1\t1\n2.5\t2\t\t4\n", "tabs"),
        ("id;name;x\nA0;n0;0,5\nA1;n1;1,7\n", "semicolons"),
        ('"id";"n";"y"\n1;"f";2,5\n2;"f";3,5\n', "semicolons"),
    ],
)
def test_the_delimiter_is_not_what_numbers_and_texts_hold(tmp_path, content, delimiter):
    assert f"separated by {delimiter}" in opened(tmp_path, content).layout


def test_names_asked_for_decide_between_delimiters(tmp_path):
    """Pixels in one cell are more numbers than the table has columns."""
    content = "x,y,image\n" + "".join(f"{k},{k * k},{' '.join(map(str, range(60)))}\n" for k in range(5))
    assert opened(tmp_path, content, wanted=["x"]).columns == ("x", "y", "image")
    options = {"numbers": Numbers(",")}
    table = opened(tmp_path, '"id";"n";"m";"y"\n1;"f";"b";2,5\n2;"f";"b";3,5\n', wanted=["y"], **options)
    assert table.values(["id", "y"]).tolist() == [[1, 2.5], [2, 3.5]]


def test_names_of_columns_without_one_do_not_clash(tmp_path):
    table = opened(tmp_path, ",column_1,y\n0,1,2\n3,4,5\n")
    assert table.columns == ("column_1_", "column_1", "y")
    assert table.values(["column_1"])[:, 0].tolist() == [1.0, 4.0]
    assert opened(tmp_path, ",y\n1,2\n3,4\n", wanted=["column_1"]).header_is_known


def test_places_in_files_of_many_lines(tmp_path):
    with pytest.raises(TableError, match="byte 0xe9 in line 5002"):
        opened(tmp_path, b"a,n\n" + b"1,x\n" * 5000 + b"2,caf\xe9\n").values(["a"])
    long_number = "0" * 5000 + "9007199254740995"
    table = opened(tmp_path, f"a,b\n{long_number},1\n2,{'x' * 200_000}\n")
    assert table.values(["a"])[0, 0] == 9007199254740996.0
    assert "'a'" in table.notes[0]
    table = opened(tmp_path, "id,x\n9007199254740993,1\n1234567890123456789.0,2\n")
    table.values(["id"])
    assert "rounded to float64 in 'id'" in table.notes[0]


def test_spaces_after_a_closing_quote_are_no_text(tmp_path):
    assert opened(tmp_path, '"a" ,"b" \n"1" ,"2"  \n').values(["a", "b"]).tolist() == [[1.0, 2.0]]
    assert opened(tmp_path, '"a\rb",n\r\n1,2\r\n', multiline=True).values(["n"]).tolist() == [[2.0]]
