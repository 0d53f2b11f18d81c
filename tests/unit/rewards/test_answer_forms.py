"""Every form in which models write answers: right ones score 1, wrong ones 0, golds that cannot be read are refused."""

from benchmarks.answer_forms import table


def test_no_form_is_scored_wrongly():
    assert table() == []
