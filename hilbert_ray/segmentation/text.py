"""Text as units of bounded tokens: utterances as given or the sentences of a string, split and merged."""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document import Document, DocumentError, Seconds, TextSegment, Utterance
from hilbert_ray.segmentation.audio import is_wanted


class Tokens(Protocol):
    """What cutting text asks of a text encoder."""

    max_tokens: int | None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""

    def split(self, text: str, limit: int) -> list[str]:
        """Return consecutive pieces of a text, none above `limit` tokens."""


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
        kept = [utterance for utterance in text if utterance.text.strip() and is_wanted(utterance, config)]
    if not kept:
        raise DocumentError(
            f"document {document.doc_id!r} has no utterance with words of segment.roles "
            f"{list(config.roles)}; look at the transcript's roles"
        )
    spans = [(u.start, u.end) for u in kept if u.start is not None and u.end is not None]
    if len(spans) < len(kept):
        spans = _positions([u.text for u in kept])
    units: list[tuple[Seconds, Seconds, str, str | None]] = []
    texts = [utterance.text.strip() for utterance in kept]
    counts = encoder.count_tokens(texts)
    for utterance, text, count, (start, end) in zip(kept, texts, counts, spans, strict=True):
        for begin, stop, piece in _pieces(text, count, encoder):
            begins, ends = np.interp((begin, stop), (0, 1), (start, end)).tolist()
            units.append((begins, ends, piece, utterance.role))
    return _merged(units, encoder, config.target_tokens)


def characters(texts: Sequence[str]) -> int:
    """Return how many characters other than white space some texts have; cutting keeps every one of them."""
    return sum(len("".join(text.split())) for text in texts)


def _positions(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Return each text's place in [0, 1] by its share of the characters."""
    ends = np.cumsum([max(len(text), 1) for text in texts])
    starts = np.concatenate([[0], ends[:-1]])
    return [(float(a / ends[-1]), float(b / ends[-1])) for a, b in zip(starts, ends, strict=True)]


def _pieces(text: str, tokens: int, encoder: Tokens) -> list[tuple[float, float, str]]:
    """Return a unit's pieces within the encoder's limit, each with its place in the unit, 0 to 1."""
    if encoder.max_tokens is None or tokens <= encoder.max_tokens:
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
            if encoder.count_tokens([together])[0] <= target:
                segments[-1] = TextSegment(
                    start=segments[-1].start, end=max(end, segments[-1].end), text=together
                )
                continue
        segments.append(TextSegment(start=start, end=end, text=text))
        role = speaker
    return segments


_CLOSING = r"""["'\u201d\u2019)\]\u300d\u300f\uff09]*"""
_WIDE = r"\u3002\uff01\uff1f"
_ENDING = re.compile(rf"(?<=[.!?…]){_CLOSING}\s+|(?<=[{_WIDE}])(?![{_WIDE}]){_CLOSING}\s*|\n\s*\n")
"""The end of a sentence: a Latin or a wide full stop or mark with its closing quotes, or an empty line."""
_PARAGRAPH = re.compile(r"\n\s*\n")
_INITIALS = r"[A-HJ-Z]|(?:[A-Z]\.)+[A-Z]"  # "so do I." ends a sentence more often than I is an initial
_TITLES = "Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Lt|Col|Gen|Sgt"
_SHORT = r"vs|etc|e\.g|i\.e|cf|approx|a\.m|p\.m"
_ABBREVIATION = re.compile(rf"""(?:^|[\s("'])(?:{_INITIALS}|{_TITLES}|{_SHORT})\.$""")
_NUMBERED = re.compile(r"""(?:^|[\s("'])(?:[Nn]o|[Vv]ol|[Ff]ig)\.$""")
"""Short for number, volume and figure where a number follows; `no.` before a word ends a sentence."""


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; abbreviations, initials, decimals and trailing dots stay whole.

    Together the sentences hold every character of the text except white space between them.
    """
    found, begin = [], 0
    for match in _ENDING.finditer(text):
        before = text[begin : match.start()] + match.group().rstrip()
        after = text[match.end() : match.end() + 1]
        goes_on = (
            after.islower() or _ABBREVIATION.search(before) or (after.isdigit() and _NUMBERED.search(before))
        )
        if goes_on and not _PARAGRAPH.search(match.group()):
            continue
        if before.strip():
            found.append(before.strip())
        begin = match.end()
    rest = text[begin:].strip()
    return [*found, rest] if rest else found
