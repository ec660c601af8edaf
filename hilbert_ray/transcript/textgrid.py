"""Praat's TextGrid, long and short: intervals with words become utterances, tiers speakers.

Praat's own rule reads both forms: numbers, texts in double quotes (a quote in them is doubled) and flags like
<exists> count where they stand free, all else is comment. Tiers of single words (`words`, `Ana - words`) are
joined by the rule of `words`, unless the same speaker has a tier of utterances. Tiers of sounds and points in
time are not read. A tier's name is its speaker, unless it only says what the tier holds.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.words import Word, by_start, join

WORDS = frozenset(("words", "word", "ort-mau", "tokens", "token", "wordtier", "word tier", "wrd"))
SOUNDS = frozenset(
    (
        *(
            "phones",
            "phone",
            "phonemes",
            "phoneme",
            "segments phonetic",
            "kan-mau",
            "mau",
            "mas",
            "syllables",
        ),
        *("syllable", "syll", "phonetic", "sampa", "ipa", "pitch", "intensity", "tones", "breaks", "kan"),
        *("notes", "note", "comments", "comment", "misc", "silences", "silence"),
    )
)
UTTERANCES = frozenset(
    (
        *(
            "utterances",
            "utterance",
            "utt",
            "text",
            "transcript",
            "transcription",
            "sentence",
            "sentences",
            "trn",
        ),
        *(
            "ipu",
            "ipus",
            "ort",
            "orthography",
            "orthographic",
            "speech",
            "turns",
            "phrase",
            "phrases",
            "segments",
        ),
    )
)
"""What tiers hold, as their names say, in lower case."""
SILENCES = frozenset(
    ("sil", "sp", "spn", "<sil>", "<p:>", "<p>", "<eps>", "silent", "silence", "#", "_", "<unk>", "{sl}")
)
"""Labels of intervals in which nobody speaks, in lower case."""
OTHER_TIERS = "tiers of Praat that are not the words of utterances (sounds, points, words again), not read"
_TOKEN = re.compile(r'"((?:[^"]++|"")*+)"|<(exists|absent)>|![^\n]*|[^\s"!<][^\s"]*|[<!"]')
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{0,40})?(?:[eE][+-]?\d{1,3})?%?")


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier of intervals: start, end, label; none if it holds points."""

    name: str
    intervals: Sequence[tuple[Seconds, Seconds, str]]
    num_points: int = 0

    @property
    def holds(self) -> str:
        """What it holds, in lower case: `words` of `Ana - words`."""
        return self.name.rpartition(" - ")[2].strip().lower()

    @property
    def speaker(self) -> str | None:
        """Who speaks; None if the name says only what the tier holds."""
        before, dash, _ = self.name.rpartition(" - ")
        known = WORDS | SOUNDS | UTTERANCES
        if dash and self.holds in known:
            return before.strip() or None
        return None if self.holds in known else self.name.strip() or None

    @property
    def has_words(self) -> bool:
        """Whether some interval has a label."""
        return any(label for _, _, label in self.intervals)


def read(text: str) -> Reading:
    """Return the cues of a TextGrid.

    Raises:
        FormatError: if it is no TextGrid, is cut off, or has no tier with words.
    """
    if text.startswith("ooBinaryFile"):
        raise FormatError("is a binary TextGrid; save it in Praat with `Save as text file...`")
    tiers = list(_tiers(_tokens(text)))
    named = [tier for tier in tiers if tier.has_words and tier.holds not in SOUNDS]
    whole = {tier.speaker for tier in named if tier.holds not in WORDS}
    # Without any speaker's name, the words are those of the utterances, whoever says them.
    chosen = [
        tier
        for tier in named
        if tier.holds not in WORDS or not (tier.speaker in whole or (tier.speaker is None and whole))
    ]
    if not chosen:
        raise FormatError(
            f"has {len(tiers)} tiers, of which none holds words of utterances; name the tier of the "
            f"words `words` or "
            "by its speaker, and check that its intervals have labels"
        )
    others = sum(tier not in chosen and (tier.has_words or tier.num_points > 0) for tier in tiers)
    cues = [cue for tier in chosen for cue in _cues(tier)]
    return Reading(by_start(cues), (Flaw(OTHER_TIERS, others),) if others else ())


def _cues(tier: Tier) -> list[Cue]:
    spoken = [(start, end, label) for start, end, label in tier.intervals if label.lower() not in SILENCES]
    if tier.holds in WORDS:
        return join(Word(label, start, end, tier.speaker) for start, end, label in spoken if label)
    return [Cue(label, start, end, tier.speaker) for start, end, label in spoken if label]


def _tokens(text: str) -> Iterator[str | float]:
    """Yield what Praat reads of a text file, in order: texts, numbers, and flags as 1.0 or 0.0."""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match[1] is not None:
            yield match[1].replace('""', '"')
        elif match[2] is not None:
            yield float(match[2] == "exists")
        elif _NUMBER.fullmatch(token):
            yield float(token.rstrip("%"))
        elif token == '"':
            raise FormatError("is cut off: a text in it has no closing quote; save it again in Praat")


def _tiers(tokens: Iterator[str | float]) -> Iterator[Tier]:
    """Yield the tiers, in the order of the file.

    Raises:
        FormatError: if the tokens are not those of a TextGrid.
    """
    head = list(islice(tokens, 2))
    if head not in (["ooTextFile", "TextGrid"], ["ooTextFile short", "TextGrid"]):
        raise FormatError(
            'does not begin as a TextGrid: `File type = "ooTextFile"`, then `Object class = "TextGrid"`'
        )
    _number(tokens, "start"), _number(tokens, "end")
    if not _number(tokens, "flag for tiers"):
        return
    for _ in range(_count(tokens, "tiers")):
        kind, name = _text(tokens, "class of a tier"), _text(tokens, "name of a tier")
        _number(tokens, "start of a tier"), _number(tokens, "end of a tier")
        count = _count(tokens, "intervals")
        if kind == "IntervalTier":
            yield Tier(name, [_interval(tokens) for _ in range(count)])
        elif kind == "TextTier":
            for _ in range(count):
                _number(tokens, "time of a point"), _text(tokens, "label of a point")
            yield Tier(name, (), num_points=count)
        else:
            raise FormatError(
                f"has a tier of the class {kind[:40]!r}; the choices are IntervalTier and TextTier"
            )


def _interval(tokens: Iterator[str | float]) -> tuple[Seconds, Seconds, str]:
    start, end = _number(tokens, "start of an interval"), _number(tokens, "end of an interval")
    return start, end, " ".join(_text(tokens, "label of an interval").split())


def _number(tokens: Iterator[str | float], what: str) -> float:
    token = next(tokens, None)
    if not isinstance(token, float):
        raise _cut_off(what, token)
    return token


def _count(tokens: Iterator[str | float], what: str) -> int:
    count = _number(tokens, f"number of {what}")
    if not 0 <= count <= 10**8:
        raise FormatError(f"has a wrong number of {what}; save it again in Praat")
    return int(count)


def _text(tokens: Iterator[str | float], what: str) -> str:
    token = next(tokens, None)
    if not isinstance(token, str):
        raise _cut_off(what, token)
    return token


def _cut_off(what: str, token: str | float | None) -> FormatError:
    met = "the end of the file" if token is None else "a number" if isinstance(token, float) else "a text"
    return FormatError(
        f"is no whole TextGrid: {met} stands where the {what} should be; save it again in Praat"
    )
