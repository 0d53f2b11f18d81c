"""The chain of errors behind an error."""

import pytest

from rlhf.causes import causes, first_words


def raised(*, hides: bool) -> BaseException:
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer") from (None if hides else OSError("cause"))
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("hides", "suppressed", "kinds"),
    [
        (False, True, [ValueError, OSError]),
        (True, True, [ValueError, KeyError]),
        (True, False, [ValueError]),
    ],
)
def test_each_error_is_followed_by_its_cause_or_what_was_being_handled(hides, suppressed, kinds):
    assert [type(cause) for cause in causes(raised(hides=hides), suppressed=suppressed)] == kinds


def test_errors_that_are_each_others_causes_come_once():
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__context__ = other, one
    assert list(causes(one)) == [one, other]


def test_a_quoted_text_can_be_printed():
    assert first_words("half a pair: \ud83d\n 问") == "half a pair: ? 问"
    assert first_words(" \n") == "nothing"
