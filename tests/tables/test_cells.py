"""The grammar of numbers: Decimal and Fraction are the reference, and no writing is advised that may be wrong."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrta_ext.tables.cells import Numbers, looks_like_number

WRITINGS = [(".", ""), (".", ","), (".", " "), (".", "'"), (",", ""), (",", "."), (",", " "), (",", "'")]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_digits_that_round_trip_are_read_to_the_same_float(value):
    for cell in (repr(value), f"{value:.17g}", f"  {value!r} "):
        assert np.array_equal(Numbers().read([cell]), [value])


@given(
    st.integers(-(10**12), 10**12),
    st.integers(0, 999),
    st.sampled_from(WRITINGS),
)
def test_separators_of_thousands_and_decimal_commas(whole, thousandths, writing):
    """Against exact fractions, rounded once."""
    decimal, thousands = writing
    cell = f"{whole:,}".replace(",", thousands) + f"{decimal}{thousandths:03d}"
    exact = Fraction(abs(whole)) + Fraction(thousandths, 1000)
    value = float(-exact if whole < 0 else exact)
    assert Numbers(decimal, thousands).read([cell]).tolist() == [value]
    assert looks_like_number(cell)


@pytest.mark.parametrize(
    "cell",
    ["1_7", "\u0663", "\uff11\uff12", "0x10", "1d5", "1e", "e5", "--1", "1.2.3", "1 2", "5%", "$5", "\u22125"]
    + ["1,00", "12,34,567", "01,000"],
)
def test_what_other_grammars_take_is_no_number(cell):
    """Python's float takes the first three; 1_7 in a column of codes is no 17."""
    assert np.isnan(Numbers().read([cell, "1"]))[0]
    assert np.isnan(Numbers(thousands=",").read([cell]))[0]


@pytest.mark.parametrize("cell", ["True", "TRUE", "true", "False", "false"])
def test_truth_is_one_and_zero_as_in_parquet(cell):
    assert Numbers().read([cell, "2"]).tolist() == [float(cell.lower() == "true"), 2.0]


@pytest.mark.parametrize(
    ("cell", "numbers", "message"),
    [
        ("1,5", Numbers(), "'1,5' has a decimal comma; --decimal , reads it"),
        (
            "0,942",
            Numbers(),
            "'0,942' has a decimal comma; --decimal , reads it",
        ),  # not 0 thousands
        ("1,000", Numbers(), "(--decimal , reads 1) or separators of thousands (--thousands , reads 1000); say which"),
        ("1,234,567", Numbers(), "separators of thousands; --thousands , reads it"),
        ("1.234,5", Numbers(), "decimal comma and separators of thousands; --decimal , --thousands . reads it"),
        ("1.234", Numbers(","), "a decimal point (--decimal . reads 1.234) or a decimal comma and separators of"),
        ("1.5", Numbers(","), "has a decimal point; write all numbers of the table alike"),
        ("\u22125", Numbers(), "has a minus sign that is no hyphen; write -"),
        ("5 %", Numbers(), "has a percent sign"),
        ("1 234", Numbers(), "separators of thousands; --thousands ' ' reads it"),
        ("1\u202f234", Numbers(), "--thousands ' ' reads it"),
        ("", Numbers(), "the cell is empty"),
        (".", Numbers(), "'.' is a missing value"),
        ("<NA>", Numbers(), "is a missing value"),
        ("#N/A", Numbers(), "is a missing value"),
        ("N.A.", Numbers(), "is a missing value"),
        ("-inf", Numbers(), "is not finite"),
        ("1e999", Numbers(), "is not finite"),
        ("1,5e999", Numbers(","), "is not finite"),
        ("item", Numbers(), "'item' is not a number"),
    ],
)
def test_complaints_name_the_cause(cell, numbers, message):
    assert np.isnan(numbers.read([cell]))[0]
    assert message in str(numbers.complaint(cell))


@given(st.text(alphabet="0123456789.,' -+eE_xna", max_size=8))
def test_advice_is_true(cell):
    """A writing that a complaint advises reads the cell, and no other writing reads another number from it."""
    values = {v for v in (Numbers(*w).value(cell.strip()) for w in WRITINGS) if v is not None}
    if not np.isnan(Numbers().read([cell]))[0]:
        return
    complaint = Numbers().complaint(cell)
    if "reads it" in complaint.advice:
        assert len(values) == 1
    elif complaint.by_option:
        assert len(values) > 1
        assert all(f"{value:.15g}" in complaint.what for value in values)


def test_wrong_separators_are_refused():
    for decimal, thousands in [(";", ""), (".", "."), (",", ","), (".", "x")]:
        with pytest.raises(ValueError, match=r"^(decimal|thousands)"):
            Numbers(decimal, thousands)
