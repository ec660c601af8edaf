"""Cutting documents into segments: audio as a stream of windows or turns, text into units of bounded tokens.

Every segment keeps its start and end. Nothing falls between segments and the tail is kept; `embed` checks it
for each document with `wanted_seconds` and `characters`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Samples,
    Seconds,
    TextSegment,
    Utterance,
    check_times,
)


class Tokens(Protocol):
    """What cutting text asks of a text encoder."""

    max_tokens: int | None

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has, without special tokens."""

    def split(self, text: str, limit: int) -> list[str]:
        """Return consecutive pieces of a text, none above `limit` tokens."""


def audio_segments(
    document: Document, blocks: Iterator[np.ndarray], rate_hz: Hertz, config: SegmentConfig
) -> Iterator[AudioSegment]:
    """Yield the segments of a recording in order of their starts; memory is bounded by a segment and a block.

    `window`: windows of window_s every hop_s, the last one shorter; with `roles`, windows inside the
    stretches in which these speakers speak. `turns`: one segment an utterance, cut above max_s.

    Args:
        document: names the document, and holds the utterances for `turns` and `roles`.
        blocks: mono float32 samples, as `audio.stream` yields them; read to the end.
        rate_hz: their sampling rate.
        config: how to cut.

    Raises:
        DocumentError: when `turns` or `roles` find no times.
        TimesError: when a turn lies beyond the recording.
    """
    if config.audio == "pause":
        raise DocumentError(
            f"document {document.doc_id!r}: segment.audio is `pause`, which this version cannot do yet; use "
            "`window` or `turns`"
        )
    spans = _wanted_spans(document, config)
    if config.audio == "turns":
        window = hop = round(config.max_s * rate_hz)
    else:
        window, hop = round(config.window_s * rate_hz), round(config.hop_s * rate_hz)
    total = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal total
        for block in blocks:
            total += len(block)
            yield block

    limits = [(0, None)] if spans is None else [(round(a * rate_hz), round(b * rate_hz)) for a, b in spans]
    for start, samples in _take(counted(), limits, window, hop):
        yield AudioSegment(start=start / rate_hz, end=(start + len(samples)) / rate_hz, samples=samples)
    if spans is not None:
        check_times(document, _turns(document), total / rate_hz)


def wanted_seconds(document: Document, config: SegmentConfig, duration_s: Seconds) -> Seconds:
    """Return how much of a recording its segments must cover: all, or the union of the wanted turns."""
    spans = _wanted_spans(document, config)
    if spans is None:
        return duration_s
    return sum(min(end, duration_s) - min(start, duration_s) for start, end in _union(spans))


def _wanted_spans(document: Document, config: SegmentConfig) -> list[tuple[Seconds, Seconds]] | None:
    """Return the stretches to cut, sorted by start; None for the whole recording."""
    if config.audio != "turns" and not config.roles:
        return None
    asked = "segment.audio `turns`" if config.audio == "turns" else f"segment.roles {list(config.roles)}"
    spans = [
        (u.start, u.end)
        for u in _turns(document)
        if u.start is not None and u.end is not None and _is_wanted(u, config)
    ]
    if not spans:
        raise DocumentError(
            f"document {document.doc_id!r}: {asked} needs utterances with times (of these roles), and it has "
            "none; add times and roles to the transcript, or cut windows without roles"
        )
    spans = sorted((start, end) for start, end in spans if end > start)
    return spans if config.audio == "turns" else _union(spans)


def _turns(document: Document) -> tuple[Utterance, ...]:
    return document.text if isinstance(document.text, tuple) else ()


def _is_wanted(utterance: Utterance, config: SegmentConfig) -> bool:
    return not config.roles or utterance.role in config.roles


def _union(spans: Sequence[tuple[Seconds, Seconds]]) -> list[tuple[Seconds, Seconds]]:
    joined: list[tuple[Seconds, Seconds]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _take(
    blocks: Iterator[np.ndarray],
    limits: Sequence[tuple[Samples, Samples | None]],
    window: Samples,
    hop: Samples,
) -> Iterator[tuple[Samples, np.ndarray]]:
    """Yield (start, samples) of the windows inside each stretch, for stretches in order of their starts."""
    held = np.zeros(0, np.float32)
    first = 0  # sample number of held[0]
    is_over = False
    for at, (begin, limit) in enumerate(limits):
        keep_from = begin  # a later stretch may begin before this one ends
        start, covered = begin, begin
        while limit is None or covered < limit:
            end = start + window if limit is None else min(start + window, limit)
            while not is_over and first + len(held) < end:
                block = next(blocks, None)
                if block is None:
                    is_over = True
                    break
                needed = min(keep_from, first + len(held))
                held = np.concatenate([held[needed - first :], block])
                first = needed
            end = min(end, first + len(held))
            if end <= covered:
                break
            yield start, held[start - first : end - first].copy()
            covered, start = end, start + hop
            keep_from = start if at + 1 == len(limits) else min(start, limits[at + 1][0])
    for _ in blocks:  # the decoder's last checks come at the very end
        pass


def text_segments(
    document: Document, text: str | Sequence[Utterance], encoder: Tokens, config: SegmentConfig
) -> list[TextSegment]:
    """Return the units of a transcript in order: utterances as given, or sentences of a plain string.

    With `roles`, only these speakers' utterances. Units above the encoder's limit are split at token borders;
    neighbours of one role are merged while they stay within `target_tokens`. A part of a timed utterance gets
    its share of the time by characters; without times, positions in [0, 1] by characters.

    Args:
        document: names the document.
        text: what `document.load_text` returned.
        encoder: counts and splits tokens.
        config: how to cut.

    Raises:
        DocumentError: when `roles` leave nothing.
    """
    if isinstance(text, str):
        kept = [Utterance(text=sentence) for sentence in sentences(text)]
    else:
        kept = [utterance for utterance in text if utterance.text.strip() and _is_wanted(utterance, config)]
    if not kept:
        raise DocumentError(
            f"document {document.doc_id!r} has no utterance with words of segment.roles "
            f"{list(config.roles)}; look at the transcript's roles"
        )
    timed = [utterance if utterance.start is not None else None for utterance in kept]
    spans = (
        [(u.start or 0.0, u.end or 0.0) for u in kept] if all(timed) else _positions([u.text for u in kept])
    )
    units: list[tuple[Seconds, Seconds, str, str | None]] = []
    for utterance, (start, end) in zip(kept, spans, strict=True):
        for begin, stop, piece in _pieces(utterance.text, encoder):
            units.append((start + begin * (end - start), start + stop * (end - start), piece, utterance.role))
    return _merged(units, encoder, config.target_tokens)


def characters(texts: Sequence[str]) -> int:
    """Return how many characters other than white space some texts have; cutting keeps every one of them."""
    return sum(len("".join(text.split())) for text in texts)


def _positions(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Return each text's place in [0, 1] by its share of the characters."""
    ends = np.cumsum([max(len(text), 1) for text in texts])
    starts = np.concatenate([[0], ends[:-1]])
    return [(float(a / ends[-1]), float(b / ends[-1])) for a, b in zip(starts, ends, strict=True)]


def _pieces(text: str, encoder: Tokens) -> list[tuple[float, float, str]]:
    """Return a unit's pieces within the encoder's limit, each with its place in the unit, 0 to 1."""
    text = text.strip()
    if encoder.max_tokens is None or encoder.count_tokens(text) <= encoder.max_tokens:
        return [(0.0, 1.0, text)]
    pieces = encoder.split(text, encoder.max_tokens)
    return [(begin, stop, piece) for (begin, stop), piece in zip(_positions(pieces), pieces, strict=True)]


def _merged(
    units: Sequence[tuple[Seconds, Seconds, str, str | None]], encoder: Tokens, target: int
) -> list[TextSegment]:
    target = min(target, encoder.max_tokens or target)
    segments: list[TextSegment] = []
    role: str | None = None
    for start, end, text, speaker in units:
        if target and segments and speaker == role:
            together = f"{segments[-1].text} {text}"
            if encoder.count_tokens(together) <= target:
                segments[-1] = TextSegment(
                    start=segments[-1].start, end=max(end, segments[-1].end), text=together
                )
                continue
        segments.append(TextSegment(start=start, end=end, text=text))
        role = speaker
    return segments


_ENDING = re.compile(
    r"""(?<=[.!?…])["'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])["'\u201d\u2019)\]]*\s*|\n\s*\n"""
)
"""The end of a sentence: a Latin or a wide full stop or mark with its closing quotes, or an empty line."""
_TITLES = "Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Lt|Col|Gen|Sgt"
_SHORT = r"vs|etc|e\.g|i\.e|cf|approx|no|No|vol|fig|Fig|a\.m|p\.m"
_ABBREVIATION = re.compile(rf"""(?:^|[\s("'])(?:[A-Z]|{_TITLES}|{_SHORT})\.$""")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; abbreviations, initials, decimals and trailing dots stay whole.

    Together the sentences hold every character of the text except white space between them.
    """
    found, begin = [], 0
    for match in _ENDING.finditer(text):
        closing = match.group().rstrip()
        before = text[begin : match.start()] + closing
        after = text[match.end() : match.end() + 1]
        is_paragraph = "\n" in match.group().strip(" \t") and not match.group().strip()
        if not is_paragraph and (_ABBREVIATION.search(before) or after.islower()):
            continue
        if before.strip():
            found.append(before.strip())
        begin = match.end()
    rest = text[begin:].strip()
    return [*found, rest] if rest else found
