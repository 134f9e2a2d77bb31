"""One voice, one line."""

from __future__ import annotations

from pipeline.errors import SeqtrackError


def test_parts_come_in_a_fixed_order() -> None:
    error = SeqtrackError("it is bad.", where="a.csv:3", expected="good", found="bad;", fix="Make it good.")
    assert str(error) == "a.csv:3: it is bad; expected good; found bad; Make it good."
    assert str(SeqtrackError("it is bad")) == "it is bad."


def test_quoted_messages_of_libraries_become_one_line() -> None:
    assert str(SeqtrackError("no (first\n\n  second\r\nthird\n)", fix="x\n")) == "no (first second third ); x."
