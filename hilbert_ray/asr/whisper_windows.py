"""From what Whisper writes of windows to utterances: checks, second tries, rests, times that speech confirms.

The same for both engines of Whisper, which differ in how they turn windows into tokens (`Decoder`). The
checks are those of Radford et al. 2022, section 4.5.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hilbert_ray.asr.protocol import Spoken, Window
from hilbert_ray.asr.whisper_tokens import Stretch, Vocabulary, parse
from hilbert_ray.document import DocumentError, Seconds
from hilbert_ray.segmentation import VAD_FRAME, VAD_RATE_HZ, VAD_SPEECH, seconds_of_speech, vad_identity

MOST_COMPRESSION = 2.4
"""Text that gzip shortens by more repeats itself."""
LEAST_LOG_PROBABILITY = -1.0
"""Below this mean log probability of its tokens, text is doubtful."""
MOST_NO_SPEECH = 0.6
"""Above this probability of no speech, text that is doubtful too may be of none."""
SECOND_TEMPERATURE = 0.4
"""Doubtful windows are decoded again, drawing tokens at this temperature."""
SHORTEST_SPLIT_S: Seconds = 4.0
"""Windows of at least this length in which both tries fall into a loop are heard again in two halves."""
LOOP_TOKENS, LOOP_PERIOD = 48, 12
"""Tokens, and the longest period with which they repeat, that make a loop; Whisper seldom leaves one."""
LEAST_REST_S: Seconds = 1.0
"""More speech than this after the last timestamp makes what is left of a window a window of its own. Less may
be the end of its last word, in which Whisper would hear another."""
LEAST_CHARACTERS_PER_S, LONG_SPEECH_S = 2.0, 5.0
"""Below this rate of letters, over speech of at least this length, a text lacks some of it: slow speakers
have five a second, and scripts without an alphabet three or four signs."""
_FRAME_S: Seconds = VAD_FRAME / VAD_RATE_HZ
_REACH_S: Seconds = 0.5
"""How far before a timestamp speech may begin that belongs to it."""
_SHORTEST_GAP = 3
"""Frames without speech, 0.1 s, before one where speech begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What a window is, in tokens with their log probabilities, without prompt and end.

    no_speech: the probability that nobody speaks. is_ended: the end token was written, and not only the
    longest row.
    """

    tokens: list[int]
    log_probabilities: list[float]
    no_speech: float
    is_ended: bool


class WindowTooLongError(DocumentError):
    """A window longer than the model takes; nothing is cut off to make it fit."""


class Decoder(Protocol):
    """An engine of Whisper."""

    name: str
    longest_s: Seconds
    vocabulary: Vocabulary

    def decode(self, windows: Sequence[Window], is_second: bool) -> list[Decoded]:
        """Return the tokens of each window, in a first or in a second try, which goes another way."""

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return tokens as text."""


def rules() -> dict[str, Any]:
    """Return what utterances depend on besides weights and windows, as plain values."""
    return {
        "version": 1,
        "compression": MOST_COMPRESSION,
        "log_probability": LEAST_LOG_PROBABILITY,
        "no_speech": MOST_NO_SPEECH,
        "second_temperature": SECOND_TEMPERATURE,
        "rest_s": LEAST_REST_S,
        "split_s": SHORTEST_SPLIT_S,
        "loop": [LOOP_TOKENS, LOOP_PERIOD],
        "few_words": [LEAST_CHARACTERS_PER_S, LONG_SPEECH_S],
        "pauses": vad_identity(),
    }


def recognize_windows(decoder: Decoder, windows: Sequence[Window]) -> list[list[Spoken]]:
    """Return the utterances in each window, those without any speech not being heard at all.

    Raises:
        WindowTooLongError: when a window is longer than the model takes.
    """
    for window in windows:
        length_s = len(window.samples) / VAD_RATE_HZ
        if length_s > decoder.longest_s:
            raise WindowTooLongError(
                f"the window from {window.start:.2f} s lasts {length_s:.2f} s, but recogniser {decoder.name} "
                f"takes at most {decoder.longest_s:g} s: cut it with `windows`"
            )
    spoken: list[list[Spoken]] = [[] for _ in windows]
    # What is left of a window, or its halves, are heard after it, so a long one may come several times,
    # shorter each time.
    waiting = [(number, window) for number, window in enumerate(windows) if _has_speech(window)]
    while waiting:
        heard = _heard(decoder, [window for _, window in waiting])
        numbers = [number for number, _ in waiting]
        waiting = []
        for number, (utterances, rests) in zip(numbers, heard, strict=True):
            spoken[number] += utterances
            waiting += [(number, rest) for rest in rests if _has_speech(rest)]
    return [sorted(utterances, key=lambda one: (one.start, one.end)) for utterances in spoken]


def is_loop(tokens: Sequence[int]) -> bool:
    """Return whether a row ends in a loop."""
    return _period(tokens) is not None


def first_round(tokens: Sequence[int]) -> int:
    """Return how many tokens of a row are left where the loop that it ends in goes round but once."""
    period, length = _period(tokens), len(tokens)
    if period is not None:
        while tokens[max(length - 2 * period, 0) : length - period] == tokens[length - period : length]:
            length -= period
    return length


def _period(tokens: Sequence[int]) -> int | None:
    last = list(tokens[-LOOP_TOKENS:])
    if len(last) < LOOP_TOKENS:
        return None
    return next((n for n in range(1, LOOP_PERIOD + 1) if last[n:] == last[:-n]), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    decoded: Decoded
    stretches: list[Stretch]
    texts: list[str]

    @property
    def mean_log_probability(self) -> float:
        scores = self.decoded.log_probabilities
        return sum(scores) / (len(scores) + 1)

    @property
    def is_repetitive(self) -> bool:
        return is_loop(self.decoded.tokens) or compression("".join(self.texts)) > MOST_COMPRESSION

    @property
    def is_failed(self) -> bool:
        """Whether it is a loop rather than a text."""
        return self.is_repetitive or not self.decoded.is_ended

    @property
    def is_doubtful(self) -> bool:
        return self.is_failed or self.mean_log_probability < LEAST_LOG_PROBABILITY


def compression(text: str) -> float:
    """Return how many times shorter zlib makes a text."""
    data = text.strip().encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _heard(decoder: Decoder, windows: Sequence[Window]) -> list[tuple[list[Spoken], list[Window]]]:
    """Return the utterances of each window, and what of it is left to hear."""
    attempts = _attempts(decoder, windows, is_second=False)
    doubtful = [number for number, attempt in enumerate(attempts) if attempt.is_doubtful]
    if doubtful:
        second = _attempts(decoder, [windows[number] for number in doubtful], is_second=True)
        for number, attempt in zip(doubtful, second, strict=True):
            attempts[number] = better(attempts[number], attempt)
    heard: list[tuple[list[Spoken], list[Window]]] = []
    for window, attempt in zip(windows, attempts, strict=True):
        if attempt.is_failed and len(window.samples) >= SHORTEST_SPLIT_S * VAD_RATE_HZ:
            heard.append(([], halves(window)))
        else:
            heard.append(_utterances(window, attempt))
    return heard


def better(first: _Attempt, second: _Attempt) -> _Attempt:
    """Return the attempt that passes the checks, else one that is no loop, else the likelier one."""
    # Loops are likely: each round makes the next one surer.
    return max(
        first, second, key=lambda one: (not one.is_doubtful, not one.is_failed, one.mean_log_probability)
    )


def _attempts(decoder: Decoder, windows: Sequence[Window], is_second: bool) -> list[_Attempt]:
    attempts = []
    for decoded in decoder.decode(windows, is_second):
        # Of a loop one round, which may have been said; nobody says it a hundred times.
        length = first_round(decoded.tokens)
        tokens, scores = decoded.tokens[:length], decoded.log_probabilities[:length]
        stretches = parse(tokens, scores, decoder.vocabulary)
        texts = decoder.texts([stretch.tokens for stretch in stretches])
        attempts.append(_Attempt(decoded=decoded, stretches=stretches, texts=texts))
    return attempts


def _utterances(window: Window, attempt: _Attempt) -> tuple[list[Spoken], list[Window]]:
    length_s = len(window.samples) / VAD_RATE_HZ
    doubts = _doubts(attempt)
    spoken: list[Spoken] = []
    covered = 0.0
    for stretch, text in zip(attempt.stretches, attempt.texts, strict=True):
        end = length_s if stretch.end is None else min(stretch.end, length_s)
        start = min(stretch.start, end)
        covered = end
        # What is timed after the last sample is written of the silence that fills a window up.
        if not text.strip() or stretch.start >= length_s:
            continue
        is_heard, speech_s = True, 0.0
        if window.speech is not None:
            start, end, is_heard = confirmed(window.speech, start, end, covered)
            speech_s = seconds_of_speech(window.speech[int(start / _FRAME_S) : math.ceil(end / _FRAME_S)])
        score = sum(stretch.log_probabilities) / len(stretch.log_probabilities)
        spoken.append(
            Spoken(
                text=text.strip(),
                start=window.start + start,
                end=window.start + end,
                confidence=math.exp(score),
                doubts=(
                    *doubts,
                    *(("low confidence",) if score < LEAST_LOG_PROBABILITY else ()),
                    *(() if is_heard else ("no speech",)),
                    *(("few words",) if has_few_words(text, speech_s) else ()),
                ),
                role=window.role,
            )
        )
    return spoken, _rest(window, covered)


def has_few_words(text: str, speech_s: Seconds) -> bool:
    """Return whether a text cannot be all that was said in some seconds of speech."""
    letters = len("".join(text.split()))
    return speech_s >= LONG_SPEECH_S and letters < LEAST_CHARACTERS_PER_S * speech_s


def _doubts(attempt: _Attempt) -> tuple[str, ...]:
    """Return what makes the text of a whole window doubtful."""
    is_unlikely = attempt.mean_log_probability < LEAST_LOG_PROBABILITY
    doubts = {
        "repetition": attempt.is_repetitive,
        "cut off": not attempt.decoded.is_ended,
        "no speech": is_unlikely and attempt.decoded.no_speech > MOST_NO_SPEECH,
    }
    return tuple(doubt for doubt, holds in doubts.items() if holds)


def confirmed(
    speech: np.ndarray, start: Seconds, end: Seconds, limit: Seconds
) -> tuple[Seconds, Seconds, bool]:
    """Return the start and end of an utterance where speech begins and ends, and whether there is any.

    Whisper's timestamps are often those of the utterance before, or of the window: so silence at both ends
    is left out, and where speech under way began shortly before, its beginning is taken.

    Args:
        speech: probabilities of each 32 ms, float32 [frames].
        start: in seconds of the window.
        end: likewise.
        limit: the latest end.
    """
    is_speech = speech >= VAD_SPEECH
    first, last = int(start / _FRAME_S), min(math.ceil(end / _FRAME_S), len(speech))
    within = np.flatnonzero(is_speech[first:last])
    if not len(within):
        return start, end, False
    if within[0] > 0:
        start = (first + int(within[0])) * _FRAME_S
    else:
        begins = [
            frame
            for frame in range(max(first - round(_REACH_S / _FRAME_S), 0), first + 1)
            if is_speech[frame] and not is_speech[max(frame - _SHORTEST_GAP, 0) : frame].any()
        ]
        start = begins[-1] * _FRAME_S if begins else start
    end = min((first + int(within[-1]) + 1) * _FRAME_S, limit)
    return min(start, end), end, True


def _has_speech(window: Window) -> bool:
    return window.speech is None or bool((window.speech >= VAD_SPEECH).any())


def _rest(window: Window, covered: Seconds) -> list[Window]:
    """Return what comes after the last timestamp, if there is speech and time has moved on."""
    frame = int(covered / _FRAME_S)
    if window.speech is None or frame * _FRAME_S < 1.0:
        return []
    rest = part(window, frame, None)
    return [rest] if seconds_of_speech(window.speech[frame:]) >= LEAST_REST_S else []


def halves(window: Window) -> list[Window]:
    """Return a window cut in two where speech is least likely, in its middle half."""
    frames = -(-len(window.samples) // VAD_FRAME)
    cut = frames // 2
    if window.speech is not None:
        first = frames // 4
        # Over 0.3 s: a pause between words, and not a closure inside one.
        smooth = np.convolve(window.speech, np.full(9, 1 / 9, np.float32), "same")
        cut = first + int(smooth[first : frames - first].argmin())
    return [part(window, 0, cut), part(window, cut, None)]


def part(window: Window, first: int, end: int | None) -> Window:
    """Return the part of a window from a frame of 32 ms up to another."""
    stop = None if end is None else end * VAD_FRAME
    return replace(
        window,
        samples=window.samples[first * VAD_FRAME : stop],
        start=window.start + first * _FRAME_S,
        speech=None if window.speech is None else window.speech[first:end],
    )
