"""What waits for the store is measured by the characters of its texts."""

import time

from serve.gateway.recorder import num_characters


def test_texts_are_counted_and_nothing_else():
    call = {"id": "c1", "function": {"name": "add", "arguments": {"a": 12, "b": [True, None, 1.5]}}}
    message = {"role": "user", "content": "几点了？", "tool_calls": [call]}
    names = ("role", "content", "tool_calls", "id", "function", "name", "arguments", "a", "b")
    texts = ("user", "几点了？", "c1", "add")
    assert num_characters([message]) == sum(map(len, (*names, *texts)))
    assert num_characters([message, message]) == 2 * num_characters([message])
    assert num_characters(None) == num_characters([]) == num_characters(7) == 0


def test_a_long_text_is_measured_without_being_printed():
    long = [{"role": "user", "content": "\0" * 4_000_000}]
    begun = time.process_time()
    assert num_characters(long) == 4_000_000 + len("roleusercontent")
    measured = time.process_time() - begun
    begun = time.process_time()
    assert len(str(long)) == 16_000_000 + len(str([{"role": "user", "content": ""}]))
    assert measured < (time.process_time() - begun) / 5
