"""What Whisper writes of windows, as utterances: checks, second tries, halves, rests, and confirmed times.

The decoder here writes what a test says, so that each rule is seen by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from hilbert_ray.asr.protocol import Window
from hilbert_ray.asr.whisper_tokens import Vocabulary
from hilbert_ray.asr.whisper_windows import (
    LOOP_TOKENS,
    Decoded,
    WindowTooLongError,
    compression,
    confirmed,
    halves,
    is_loop,
    recognize_windows,
)

FIRST = 1000
VOCABULARY = Vocabulary(
    size=FIRST + 1501, end=900, first_timestamp=FIRST, no_speech=901, suppressed=(), languages={}, start=902,
    task=None,
)  # fmt: skip
FRAME_S = 0.032


def stamp(seconds: float) -> int:
    return FIRST + round(seconds / 0.02)


@dataclass
class Scripted:
    """Writes letters: token 1 is `a`. `write` is told the window and whether the try is the second."""

    write: Callable[[Window, bool], Decoded]
    vocabulary: Vocabulary = VOCABULARY
    name: str = "scripted"
    longest_s: float = 30.0
    heard: list[tuple[float, bool]] = field(default_factory=list)

    def decode(self, windows: Sequence[Window], is_second: bool) -> list[Decoded]:
        self.heard += [(round(window.start, 2), is_second) for window in windows]
        return [self.write(window, is_second) for window in windows]

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(chr(96 + token) for token in row) for row in tokens]


def decoded(
    tokens: Sequence[int], score: float = -0.1, is_ended: bool = True, no_speech: float = 0.0
) -> Decoded:
    return Decoded(
        tokens=list(tokens), log_probabilities=[score] * len(tokens), no_speech=no_speech, is_ended=is_ended
    )


def window(speech: Sequence[tuple[float, float]], length_s: float = 20.0, start: float = 100.0) -> Window:
    """Return a window with speech between some seconds."""
    frames = round(length_s / FRAME_S)
    probabilities = np.zeros(frames, np.float32)
    for begin, end in speech:
        probabilities[round(begin / FRAME_S) : round(end / FRAME_S)] = 0.9
    return Window(samples=np.zeros(frames * 512, np.float32), start=start, role="guest", speech=probabilities)


def test_times_are_those_of_the_recording_and_silence_around_speech_is_no_part_of_an_utterance() -> None:
    words = decoded([stamp(0), 1, 2, stamp(5), stamp(5), 3, stamp(19)])
    decoder = Scripted(lambda *_: words)
    [[first, second]] = recognize_windows(decoder, [window([(1, 4), (8, 16)])])
    assert (first.text, second.text, first.role) == ("ab", "c", "guest")
    assert [first.start, first.end] == pytest.approx([101, 104], abs=FRAME_S)
    assert [second.start, second.end] == pytest.approx([108, 116], abs=FRAME_S)
    assert first.confidence == pytest.approx(np.exp(-0.1))
    assert (first.doubts, second.doubts) == ((), ("few words",))


def test_a_window_without_speech_is_never_heard() -> None:
    decoder = Scripted(lambda *_: decoded([stamp(0), 1, stamp(1)]))
    assert recognize_windows(decoder, [window([]), window([(1, 2)], start=0.0)])[0] == []
    assert decoder.heard == [(0.0, False)]


def test_an_utterance_where_nobody_speaks_is_doubted_and_kept() -> None:
    decoder = Scripted(lambda *_: decoded([stamp(0), 1, stamp(3), stamp(10), 2, stamp(12)]))
    [[heard, unheard]] = recognize_windows(decoder, [window([(0, 3)])])
    assert (heard.doubts, unheard.text, unheard.doubts) == ((), "b", ("no speech",))


def test_text_of_the_silence_that_fills_a_window_up_is_left_out() -> None:
    words = decoded([stamp(0), 1, stamp(4), stamp(5.5), 2, stamp(7), stamp(8), 3])
    [[spoken]] = recognize_windows(Scripted(lambda *_: words), [window([(0, 4)], length_s=5.0)])
    assert spoken.text == "a"


def test_an_unlikely_text_is_tried_again_and_the_second_try_counts_if_it_passes() -> None:
    def write(_: Window, is_second: bool) -> Decoded:
        return decoded([stamp(0), 2 if is_second else 1, stamp(3)], -0.2 if is_second else -3.0)

    decoder = Scripted(write)
    [[spoken]] = recognize_windows(decoder, [window([(0, 3)])])
    assert (spoken.text, spoken.doubts) == ("b", ())
    assert decoder.heard == [(100.0, False), (100.0, True)]


def test_what_stays_unlikely_is_marked_and_the_likelier_try_is_kept() -> None:
    def write(_: Window, is_second: bool) -> Decoded:
        return decoded(
            [stamp(0), 2 if is_second else 1, stamp(3)], -4.0 if is_second else -3.0, no_speech=0.9
        )

    [[spoken]] = recognize_windows(Scripted(write), [window([(0, 3)])])
    assert (spoken.text, spoken.doubts) == ("a", ("no speech", "low confidence"))


def test_a_window_that_loops_twice_is_heard_in_halves_and_nothing_of_it_is_lost() -> None:
    def write(one: Window, _: bool) -> Decoded:
        if len(one.samples) > 11 * 16_000:
            return decoded([stamp(0), *[1] * 200], is_ended=False)
        return decoded([stamp(0), 2, stamp(len(one.samples) / 16_000)])

    decoder = Scripted(write)
    [[first, second]] = recognize_windows(decoder, [window([(0, 9), (10.5, 20)])])
    assert (first.text, second.text) == ("b", "b")
    # Cut in the pause.
    assert first.end == pytest.approx(109, abs=2 * FRAME_S)
    assert second.start == pytest.approx(110.5, abs=2 * FRAME_S)
    assert [second for _, second in decoder.heard] == [False, True, False, False]


def test_a_short_window_that_loops_is_marked_and_its_loop_goes_round_once() -> None:
    decoder = Scripted(lambda *_: decoded([stamp(0), 3, *[1, 2] * 100], is_ended=False))
    [[spoken]] = recognize_windows(decoder, [window([(0, 3)], length_s=3.0)])
    assert (spoken.text, spoken.doubts) == ("cab", ("repetition", "cut off"))


def test_an_unlikely_text_is_better_than_a_likely_loop() -> None:
    def write(_: Window, is_second: bool) -> Decoded:
        if is_second:
            return decoded([stamp(0), 2, stamp(3)], -2.0)
        return decoded([stamp(0), *[1] * 200], -0.01, is_ended=False)

    [[spoken]] = recognize_windows(Scripted(write), [window([(0, 3)], length_s=3.5)])
    assert (spoken.text, spoken.doubts) == ("b", ("low confidence",))


@pytest.mark.parametrize(
    ("letters", "speech_s", "doubts"),
    [(19, 10.0, ("few words",)), (21, 10.0, ()), (1, 4.5, ()), (1, 5.5, ("few words",))],
)
def test_a_text_too_short_for_its_speech_is_doubted(
    letters: int, speech_s: float, doubts: Sequence[str]
) -> None:
    decoder = Scripted(lambda *_: decoded([stamp(0), *range(1, letters + 1), stamp(20)]))
    [[spoken]] = recognize_windows(decoder, [window([(0, speech_s)])])
    assert (len(spoken.text), spoken.doubts) == (letters, doubts)


def test_speech_after_the_last_timestamp_is_heard_as_a_window_of_its_own() -> None:
    def write(one: Window, _: bool) -> Decoded:
        return decoded([stamp(0), 1, stamp(8)] if one.start == 100 else [stamp(0), 2, stamp(11.5)])

    decoder = Scripted(write)
    [[first, second]] = recognize_windows(decoder, [window([(0, 8), (10, 19)])])
    assert (first.text, second.text) == ("a", "b")
    assert [second.start, second.end] == pytest.approx([110, 119], abs=2 * FRAME_S)
    assert decoder.heard == [(100.0, False), (108.0, False)]


def test_a_window_longer_than_the_model_takes_is_refused_and_not_cut_off() -> None:
    decoder = Scripted(lambda *_: decoded([]))
    with pytest.raises(
        WindowTooLongError, match=r"from 100.00 s lasts 30.\d+ s, but recogniser scripted takes"
    ):
        recognize_windows(decoder, [window([(0, 19)], length_s=30.1)])


def test_a_model_that_writes_nothing_ends() -> None:
    decoder = Scripted(lambda *_: decoded([]))
    assert recognize_windows(decoder, [window([(0, 19)])]) == [[]]


def test_halves_are_all_of_a_window() -> None:
    whole = window([(0, 9), (10, 20)])
    whole.samples[:] = np.arange(len(whole.samples))
    one, two = halves(whole)
    assert np.array_equal(np.concatenate([one.samples, two.samples]), whole.samples)
    assert one.speech is not None
    assert two.speech is not None
    assert whole.speech is not None
    assert np.array_equal(np.concatenate([one.speech, two.speech]), whole.speech)
    assert two.start == pytest.approx(100 + len(one.samples) / 16_000)
    assert 109 < two.start < 110


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, 10.0, (2.0, 5.0)),  # silence on both sides
        (2.3, 4.0, (2.0, 4.0)),  # within speech that began shortly before
        (3.5, 4.0, (3.5, 4.0)),  # within speech that began long before
        (6.0, 7.0, (6.0, 7.0)),  # no speech
    ],
)
def test_times_are_confirmed_by_speech(start: float, end: float, expected: tuple[float, float]) -> None:
    speech = window([(2, 5)], length_s=10.0).speech
    assert speech is not None
    *times, is_heard = confirmed(speech, start, end, 10.0)
    assert times == pytest.approx(expected, abs=2 * FRAME_S)
    assert is_heard == (start != 6.0)


def test_loops_are_told_from_lists() -> None:
    assert is_loop([7, *[1, 2, 3] * 20])
    assert not is_loop([1, 2, 3] * 10)
    assert not is_loop([*range(LOOP_TOKENS), *range(LOOP_TOKENS)])
    assert compression("six " * 50) > 2.4 > compression("The quick brown fox jumps over the lazy dog.")
