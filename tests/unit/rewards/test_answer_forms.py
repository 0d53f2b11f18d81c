"""Every form in which models write answers: right ones score 1, wrong ones 0, golds that cannot be read are refused."""

from fractions import Fraction

from benchmarks.answer_forms import table
from rlhf.rewards.answer import number_in


def test_no_form_is_scored_wrongly():
    assert table() == []


def test_a_text_of_nothing_but_openings_or_blanks_is_read_as_any_other():
    """Their cost grew with the square of their length, to seconds: what policies write that have gone astray."""
    blanks = number_in("The answer is" + " " * 30_000 + "16")
    assert blanks is not None
    assert blanks.value == Fraction(16)
    assert number_in(r"\[" * 3_000) is None
    assert number_in("answer" + " " * 30_000) is None
    assert number_in("__a " * 8_000) is None
