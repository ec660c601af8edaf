"""Text as units of bounded tokens: utterances as given or the sentences of a string, split and merged."""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document import Document, DocumentError, Seconds, TextSegment, Utterance
from hilbert_ray.segmentation.audio import is_selected


class Tokens(Protocol):
    """What cutting text needs of a text encoder."""

    max_tokens: int | None

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without special tokens."""

    def split(self, text: str, limit: int) -> list[str]:
        """Return consecutive pieces of a text, none above `limit` tokens."""


class _Unit(NamedTuple):
    """A piece of text within the encoder's limit, not merged yet."""

    start: Seconds
    end: Seconds
    text: str
    role: str | None


def text_segments(
    document: Document, text: str | Sequence[Utterance], encoder: Tokens, config: SegmentConfig
) -> list[TextSegment]:
    """Return the units of a transcript in order: utterances as given, or sentences of a plain string.

    With `roles`, only these speakers' utterances. Units above the encoder's limit are split between tokens;
    neighbours of one role are merged while they stay within `target_tokens`. A piece of a timed utterance
    gets time in proportion to its characters; without times, units get positions in [0, 1] by characters.

    Args:
        document: names the document.
        text: what `transcript.load_text` returned.
        encoder: counts and splits tokens.
        config: how to cut.

    Raises:
        DocumentError: when no utterance is of `roles`.
    """
    if isinstance(text, str):
        utterances = [Utterance(text=sentence) for sentence in sentences(text)]
    else:
        utterances = [u for u in text if u.text.strip() and is_selected(u, config)]
    if not utterances:
        raise DocumentError(
            f"document {document.doc_id!r} has no utterance with words of segment.roles "
            f"{list(config.roles)}; check the roles in the transcript"
        )
    spans = [(u.start, u.end) for u in utterances if u.start is not None and u.end is not None]
    if len(spans) < len(utterances):
        spans = _positions([u.text for u in utterances])
    units: list[_Unit] = []
    texts = [utterance.text.strip() for utterance in utterances]
    counts = encoder.count_tokens(texts)  # of all texts in one call: a tokenizer is much faster that way
    for utterance, stripped, count, span in zip(utterances, texts, counts, spans, strict=True):
        for begin, stop, piece in _pieces(stripped, count, encoder):
            # Without word times, speech is taken to be equally fast throughout an utterance.
            start, end = np.interp((begin, stop), (0, 1), span).tolist()
            units.append(_Unit(start, end, piece, utterance.role))
    return _merge_neighbours(units, encoder, config.target_tokens)


def characters(texts: Sequence[str]) -> int:
    """Return how many characters other than white space texts have; cutting keeps every one of them."""
    return sum(len("".join(text.split())) for text in texts)


def _positions(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Return where each text starts and ends in [0, 1], in proportion to its characters."""
    # An empty text counts as one character, so that there is no division by zero and no empty span.
    ends = np.cumsum([max(len(text), 1) for text in texts])
    starts = np.concatenate([[0], ends[:-1]])
    return [(float(a / ends[-1]), float(b / ends[-1])) for a, b in zip(starts, ends, strict=True)]


def _pieces(text: str, tokens: int, encoder: Tokens) -> list[tuple[float, float, str]]:
    """Return a text's pieces within the encoder's limit, each with where it starts and ends, 0 to 1."""
    if encoder.max_tokens is None or tokens <= encoder.max_tokens:
        return [(0.0, 1.0, text)]
    pieces = encoder.split(text, encoder.max_tokens)
    return [(begin, stop, piece) for (begin, stop), piece in zip(_positions(pieces), pieces, strict=True)]


def _merge_neighbours(units: Sequence[_Unit], encoder: Tokens, target: int) -> list[TextSegment]:
    """Return units as segments, neighbours of one role joined while they have at most `target` tokens.

    A target of 0 merges nothing.
    """
    target = min(target, encoder.max_tokens or target)
    segments: list[TextSegment] = []
    role: str | None = None
    for unit in units:
        if target and segments and unit.role == role:
            last = segments[-1]
            joined = f"{last.text} {unit.text}"
            # Counted joined, not added up: tokens may span the border.
            if encoder.count_tokens([joined])[0] <= target:
                segments[-1] = TextSegment(start=last.start, end=max(unit.end, last.end), text=joined)
                continue
        segments.append(TextSegment(start=unit.start, end=unit.end, text=unit.text))
        role = unit.role
    return segments


# A stdlib splitter, because trained ones change with their versions, and so would every stored feature.
_CLOSING = r"""["'\u201d\u2019)\]\u300d\u300f\uff09]*"""
_WIDE = r"\u3002\uff01\uff1f"
_ENDING = re.compile(rf"(?<=[.!?…]){_CLOSING}\s+|(?<=[{_WIDE}])(?![{_WIDE}]){_CLOSING}\s*|\n\s*\n")
"""The end of a sentence: a Latin or a full-width stop or mark with its closing quotes, or an empty line."""
_PARAGRAPH = re.compile(r"\n\s*\n")
_INITIALS = r"[A-HJ-Z]|(?:[A-Z]\.)+[A-Z]"  # "so do I." ends a sentence more often than I is an initial
_TITLES = "Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Lt|Col|Gen|Sgt"
_SHORT = r"vs|etc|e\.g|i\.e|cf|approx|a\.m|p\.m"
_ABBREVIATION = re.compile(rf"""(?:^|[\s("'])(?:{_INITIALS}|{_TITLES}|{_SHORT})\.$""")
_NUMBERED = re.compile(r"""(?:^|[\s("'])(?:[Nn]o|[Vv]ol|[Ff]ig)\.$""")
"""Abbreviations where a number follows: number, volume, figure. `no.` before a word ends a sentence."""


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; abbreviations, initials, decimals and trailing dots stay whole.

    Together the sentences hold every character of the text except white space between them.
    """
    complete, begin = [], 0
    for match in _ENDING.finditer(text):
        # The match holds closing quotes, which belong to the sentence, then white space, which does not.
        before = text[begin : match.start()] + match.group().rstrip()
        after = text[match.end() : match.end() + 1]
        # Rather one sentence too long than one cut at an abbreviation: units are split and merged anyway.
        continues = (
            after.islower() or _ABBREVIATION.search(before) or (after.isdigit() and _NUMBERED.search(before))
        )
        if continues and not _PARAGRAPH.search(match.group()):
            continue
        if before.strip():
            complete.append(before.strip())
        begin = match.end()
    rest = text[begin:].strip()
    return [*complete, rest] if rest else complete
