"""Recordings of any length: windows of all speech in bounded memory, one language for each document."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hilbert_ray.asr import (
    DocumentSpeech,
    Spoken,
    Window,
    document_speech,
    recognize,
    require_long_form,
    windows,
)
from hilbert_ray.asr.long_form import LANGUAGE_WINDOWS
from hilbert_ray.config import ConfigError
from hilbert_ray.segmentation import VAD_FRAME, VAD_RATE_HZ
from tests.asr.conftest import audio


@dataclass
class Plain:
    """A recogniser that writes where a window begins, and is told how likely Urdu is in it."""

    urdu: Callable[[Window], float] = lambda window: 0.0
    name: str = "plain"
    fingerprint: str = "plain"
    rate_hz: int = VAD_RATE_HZ
    longest_s: float = 30.0
    calls: list[list[float]] = field(default_factory=list)
    is_broken: bool = False
    is_mute: bool = False

    def describe(self) -> dict[str, Any]:
        return {}

    def rehearse(self) -> None:
        pass

    def detect_languages(self, windows: Sequence[Window]) -> list[dict[str, float]]:
        return [{"en": 1 - self.urdu(window), "ur": self.urdu(window)} for window in windows]

    def recognize(self, windows: Sequence[Window]) -> list[list[Spoken]]:
        self.calls.append([window.start for window in windows])
        if self.is_broken:
            raise ValueError("broken")
        if self.is_mute:
            return [[] for _ in windows]
        return [
            [Spoken(text=f"{window.language} {window.start:.0f}", start=window.start, end=window.start + 1)]
            for window in windows
        ]


def window(start: float, role: str | None = None) -> Window:
    return Window(samples=np.zeros(16_000, np.float32), start=start, role=role)


def test_windows_hold_all_speech_at_its_place_whatever_the_blocks() -> None:
    samples = np.concatenate([np.zeros(40 * 16_000, np.float32), audio("interview-004")])
    whole = [*windows(iter([samples]), 10.0)]
    pieces = [*windows(iter(np.split(samples, [7, 100_000, 100_001, 500_000])), 10.0)]
    assert [one.start for one in pieces] == [one.start for one in whole]
    for one, other in zip(whole, pieces, strict=True):
        first = round(one.start * VAD_RATE_HZ)
        assert np.array_equal(one.samples, samples[first : first + len(one.samples)])
        assert np.array_equal(one.samples, other.samples)
        assert len(one.samples) <= 10 * VAD_RATE_HZ
        assert one.speech is not None
        assert len(one.speech) == -(-len(one.samples) // VAD_FRAME)
    # The silence before, all but a margin, is in no window.
    assert 39 < whole[0].start < 41.5
    starts = [one.start for one in whole]
    assert starts == sorted(starts)
    assert all(
        one.start + len(one.samples) / VAD_RATE_HZ <= after.start + 1e-9 for one, after in pairwise(whole)
    )


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_quiet_speech_is_heard(gain: float) -> None:
    samples = audio("interview-005") * np.float32(gain)
    heard = sum(len(one.samples) for one in windows(iter([samples]), 30.0))
    assert heard > 0.9 * len(samples)


def test_each_channel_is_cut_by_itself() -> None:
    one, other = audio("interview-001")[: 16_000 * 20], audio("interview-002")[: 16_000 * 20]
    both = [*windows(iter([np.stack([one, other], 1)]), 8.0, ("agent", "customer"))]
    for speaker, samples in (("agent", one), ("customer", other)):
        alone = [*windows(iter([samples]), 8.0)]
        of_speaker = [window for window in both if window.role == speaker]
        assert [window.start for window in of_speaker] == [window.start for window in alone]
        for window, single in zip(of_speaker, alone, strict=True):
            assert np.array_equal(window.samples, single.samples)


def test_memory_does_not_grow_with_the_recording() -> None:
    speech = audio("interview-006")
    drawn = taken = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal drawn
        for _ in range(4):
            for begin in range(0, len(speech), 16_000):
                drawn += len(speech[begin : begin + 16_000])
                yield speech[begin : begin + 16_000]

    ahead = []
    for one in windows(blocks(), 10.0):
        ahead.append(drawn - round(one.start * VAD_RATE_HZ))
        taken += 1
    assert taken > 15
    # Twice the longest window, a block, and what the detector hears at once.
    assert max(ahead) <= (2 * 10 + 1 + 2 + 2) * VAD_RATE_HZ


def test_a_recording_without_speech_has_no_windows() -> None:
    assert [*windows(iter([np.zeros(100 * 16_000, np.float32)]), 30.0)] == []
    assert [*windows(iter([]), 30.0)] == []


def filled(starts: Sequence[float], language: str = "auto") -> DocumentSpeech:
    document = document_speech(language)
    document.waiting += [window(start) for start in starts]
    return document


def test_a_document_has_the_language_that_its_first_windows_speak_on_average() -> None:
    # A greeting in Urdu, then English.
    recognizer = Plain(urdu=lambda one: 0.9 if one.start == 0 else 0.1)
    document = filled([0, 30, 60, 90])
    document.is_complete = True
    recognize([document], recognizer)
    transcription = document.transcription()
    assert transcription.language == "en"
    assert [one.text for one in transcription.utterances] == ["en 0", "en 30", "en 60", "en 90"]


def test_a_language_does_not_depend_on_how_windows_come() -> None:
    recognizer = Plain(urdu=lambda one: 0.9 if one.start < 60 else 0.0)
    one_by_one = document_speech("auto")
    for start in range(0, 150, 30):
        one_by_one.waiting.append(window(start))
        recognize([one_by_one], recognizer)
        assert bool(one_by_one.utterances) == (start >= 30 * (LANGUAGE_WINDOWS - 1))
    one_by_one.is_complete = True
    together = filled(range(0, 150, 30))
    together.is_complete = True
    recognize([filled([5, 6, 7]), together], recognizer)
    assert one_by_one.transcription() == together.transcription()
    assert together.transcription().language == "ur"


def test_a_language_that_is_given_is_not_asked_for() -> None:
    document = filled([0], "ur")
    recognize([document], Plain())
    assert [one.text for one in document.utterances] == ["ur 0"]


def test_windows_wait_until_they_are_recognised() -> None:
    documents = [filled([0, 30], "en"), filled([0], "en")]
    with pytest.raises(ValueError, match="broken"):
        recognize(documents, Plain(is_broken=True))
    assert [len(one.waiting) for one in documents] == [2, 1]
    recognizer = Plain()
    recognize(documents, recognizer)
    assert recognizer.calls == [[0, 30, 0]]
    assert [len(one.utterances) for one in documents] == [2, 1]
    assert not any(one.waiting for one in documents)
    recognize(documents, recognizer)
    assert len(recognizer.calls) == 1


def test_speech_of_which_nothing_is_written_is_told() -> None:
    def heard(start: float, speech_s: float) -> Window:
        speech = np.zeros(20 * VAD_RATE_HZ // VAD_FRAME, np.float32)
        speech[: round(speech_s * VAD_RATE_HZ / VAD_FRAME)] = 0.9
        return Window(samples=np.zeros(20 * VAD_RATE_HZ, np.float32), start=start, speech=speech)

    found = []
    for is_mute in (True, False):
        document = document_speech("en")
        document.waiting += [heard(30.0, 6.0), heard(0.0, 10.0), heard(60.0, 4.0), window(90.0)]
        recognize([document], Plain(is_mute=is_mute))
        found.append(document.transcription().unwritten)
    assert found == [((0.0, 20.0), (30.0, 50.0)), ()]


def test_utterances_of_channels_are_merged_by_time() -> None:
    document = filled([60, 0, 30], "en")
    document.is_complete = True
    recognize([document], Plain())
    assert [one.start for one in document.transcription().utterances] == [0, 30, 60]


def test_a_recognizer_of_another_rate_is_refused() -> None:
    require_long_form(Plain())
    with pytest.raises(
        ConfigError, match="recogniser plain takes 8000 Hz; the pause detector takes 16000 Hz"
    ):
        require_long_form(Plain(rate_hz=8_000))
