"""Faults by reason: what differs from document to document does not make a reason of its own."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.document import InvalidRow, reason_lines, reasons_of


def fault(number: int, message: str, error: str = "DocumentError", doc_id: str | None = None) -> InvalidRow:
    doc_id = f"d{number}" if doc_id is None else doc_id
    message = message.replace("ID", repr(doc_id))
    return InvalidRow(row=number, doc_id=doc_id, stage="text", error=error, message=message)


def test_messages_that_differ_in_values_only_are_of_one_reason() -> None:
    same = [
        fault(1, "document ID: utterance 7 ends at 9.00 s, but the recording lasts 2.50 s; write seconds"),
        fault(2, "document ID: utterance 12 ends at 7300.25 s, but the recording lasts 1 s; write seconds"),
    ]
    [reason] = reasons_of(same)
    assert reason.text == "utterance … ends at … s, but the recording lasts … s; write seconds"
    assert (reason.count, reason.examples) == (2, tuple(same))
    listed = [
        fault(1, "doc_id ID is in rows 1, 3; ids must be unique"),
        fault(3, "doc_id ID is in rows 1, 3, 5, 8 and 12 more; ids must be unique", doc_id="it's"),
    ]
    assert [reason.count for reason in reasons_of(listed)] == [2]
    places = [fault(1, "no audio file at /data/a b.wav"), fault(2, "no audio file at s3://bucket/x.flac")]
    assert {reason.text for reason in reasons_of(places)} == {
        "no audio file at … b.wav",
        "no audio file at …",
    }


def test_nested_values_and_numbers_of_rows_are_values_too() -> None:
    labels = [
        fault(1, "document ID, task `t`: label is [['x']]; it must be a string"),
        fault(2, "document ID, task `t`: label is {'a': [1, 2], 'b': 3}; it must be a string"),
    ]
    assert [reason.text for reason in reasons_of(labels)] == ["task `t`: label is …; it must be a string"]
    lines = [fault(number, f"row {number} is a JSON int; write objects", doc_id="") for number in (4, 17)]
    assert list(reason_lines(lines, "row")) == [
        "  2 rows (text, DocumentError):",
        "    row 4: is a JSON int; write objects",
        "    row 17: is a JSON int",
    ]


def test_messages_that_say_something_else_are_of_other_reasons() -> None:
    faults = [
        fault(1, "document ID: text is empty"),
        fault(2, "document ID: text is of type dict"),
        fault(3, "document ID: text is empty", error="TranscriptError"),
    ]
    assert [reason.count for reason in reasons_of(faults)] == [1, 1, 1]


def test_the_most_frequent_reason_comes_first_and_three_examples_are_shown() -> None:
    faults = [fault(1, "document ID has no audio; add it")]
    faults += [fault(number, "document ID: there is no x/y; correct it") for number in range(2, 7)]
    assert list(reason_lines(faults, "row")) == [
        "  5 rows (text, DocumentError), the first 3:",
        "    row 2, 'd2': there is no x/y; correct it",
        "    row 3, 'd3': there is no x/y",
        "    row 4, 'd4': there is no x/y",
        "  1 row (text, DocumentError):",
        "    row 1, 'd1': has no audio; add it",
    ]


def test_lines_stay_lines_whatever_a_file_is_called() -> None:
    odd = fault(1, "no file at /data/\x1b[31mred\nnext line" + "x" * 10_000, doc_id="a\nb" + "c" * 500)
    heading, line = reason_lines([odd], "row")
    assert line.isprintable()
    assert "\\x1b[31mred\\nnext" in line
    assert len(line) < 600
    assert heading == "  1 row (text, DocumentError):"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**6)), max_size=50))
def test_every_fault_is_of_one_reason(kinds: list[tuple[str, int]]) -> None:
    faults = [fault(number, f"document ID: {kind} is wrong at {number}") for kind, number in kinds]
    reasons = reasons_of(faults)
    expected = Counter(kind for kind, _ in kinds)
    assert {reason.text[0]: reason.count for reason in reasons} == expected
    assert [reason.count for reason in reasons] == sorted(expected.values(), reverse=True)
    assert all(len(reason.examples) == min(3, reason.count) for reason in reasons)
