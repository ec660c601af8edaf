"""Speakers named before their words, as in `Dr. Ana Weber: How are you?` and `[SPEAKER_00]: Fine`.

What stands before a colon may be a name or just words (`Note: it rained`). The rule:

1. Labels that only tools write (`SPEAKER_00`, `Speaker 2`, `spk_1`) are always speakers.
2. A name is a speaker where it recurs: it begins two captions or lines, and such names together begin at
   least a fifth of all. Names begin with capitals, or are of a script without; of small letters, they must be
   short, and begin at least half of all.
3. Where half of the captions or lines begin with a name, one that begins a single one is a speaker, too; in
   plain text only if others recur, since a form (`Site: Basel`) looks the same.
4. Words that are nobody's name (`Note`, `Time`) never are.

Everything else stays part of the words. What follows a caption with a speaker and has none itself is said by
the same one, except after a label of tools, which name everybody they can tell.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from hilbert_ray.transcript.captions import share
from hilbert_ray.transcript.cue import Cue, Flaw

KEPT = "utterances that begin like `Name:`, with a name too rare to be a speaker's, kept as words"
CARRIED = "utterances without a speaker in a transcript that names them, given to the speaker before"
_PREFIX = re.compile(
    # A mark of turns or bold type; the name, in brackets or not; a colon with a space, or a full-width one.
    r"[ \t]{0,20}(?:>{2,3}[ \t]{0,9}|[-–—][ \t]{0,9})?\*{0,2}"  # noqa: RUF001
    r"(?:\[(?P<bracket>[^\]\[:：\n]{1,60})\]|(?P<plain>[^\s:：\[\]\*<>\"][^:：\n\[\]\*<>\"]{0,59}))"  # noqa: RUF001
    r"\*{0,2}[ \t]{0,3}(?::\*{0,2}(?=\s|$)|：)[ \t]{0,20}"  # noqa: RUF001
)
_BRACKETED = re.compile(r"[ \t]{0,20}\[(?P<bracket>[^\]\[:\n]{1,60})\][ \t]{0,20}")
_LABEL = re.compile(
    r"(?:speaker|spkr|spk|unknown speaker)[ _-]?(?:\d{1,4}|[a-z])|unknown(?: speaker)?", re.IGNORECASE
)
_PARTICLES = frozenset(("al", "bin", "da", "de", "del", "der", "di", "du", "el", "la", "le", "van", "von"))
_NOT_NAMES = frozenset(
    {
        "achtung",
        "attention",
        "beispiel",
        "caution",
        "date",
        "duration",
        "example",
        "hinweis",
        "hint",
        "language",
    }
    | {
        "nota",
        "note",
        "notes",
        "notice",
        "remember",
        "source",
        "subtitles",
        "summary",
        "time",
        "tip",
        "title",
    }
    | {"topic", "translation", "warning"}
)
"""Words that often stand before a colon and are nobody's name."""
_SHORT = 3
"""A dot after at most this many letters ends a title or an initial, and not a sentence."""


class Prefix(NamedTuple):
    """A name before words: `length` characters with its colon; `rank` says how sure it is one."""

    name: str
    length: int
    rank: int


_LABELLED, _NAMED, _SMALL = 2, 1, 0


def find_prefix(line: str) -> Prefix | None:
    """Return the name that a line begins with, if what stands before its first colon may be one."""
    match = _PREFIX.match(line)
    if match is None:
        match = _BRACKETED.match(line)
        if match is None or not _LABEL.fullmatch(match["bracket"].strip()):
            return None
    name = " ".join((match["bracket"] or match.groupdict().get("plain") or "").split())
    if _LABEL.fullmatch(name):
        return Prefix(name, match.end(), _LABELLED)
    rank = _rank(name)
    return None if rank is None else Prefix(name, match.end(), rank)


@lru_cache(4096)  # names recur in every line
def _rank(name: str) -> int | None:
    """Return how much a text looks like a name; None if not at all."""
    words = name.split()
    if not 0 < len(words) <= 6 or not any(map(str.isalpha, name)) or name.lower() in _NOT_NAMES:
        return None
    for word in words:
        # Titles and initials end in a dot; a sentence does not go on with a name's colon.
        if word[-1] in "?!;…" or (word[-1] == "." and len(word.strip(".")) > _SHORT + 1):
            return None
    if all(_is_capital(word) or word.lower() in _PARTICLES for word in words) and _is_capital(words[0]):
        return _NAMED
    return _SMALL if len(words) <= 2 else None


def _is_capital(word: str) -> bool:
    first = next((char for char in word if char.isalnum()), "")
    # Digits count as in `Child 2`; letters without case as in Chinese or Arabic.
    return bool(first) and not first.islower()


def accepted_names(found: Sequence[Prefix | None], is_caption: bool) -> frozenset[str]:
    """Return the names that are speakers.

    Args:
        found: the prefix of every caption or line that has words.
        is_caption: whether rule 3 holds although no name recurs.
    """
    prefixes = [one for one in found if one is not None]
    counts = Counter(one.name for one in prefixes)
    rank = {one.name: one.rank for one in prefixes}
    accepted = {name for name in counts if rank[name] == _LABELLED}
    recurring = {name for name, count in counts.items() if count > 1 or name in accepted}
    named = {name for name in recurring if rank[name] >= _NAMED}
    if 5 * _sum(counts, named) >= len(found):
        accepted |= named
    if 2 * _sum(counts, recurring) >= len(found):
        accepted |= recurring
    capital = {name for name in counts if rank[name] >= _NAMED}
    if len(found) > 1 and (is_caption or recurring) and 2 * _sum(counts, capital | accepted) >= len(found):
        accepted |= capital
    return frozenset(accepted)


def _sum(counts: Counter[str], names: Collection[str]) -> int:
    return sum(counts[name] for name in names)


def take_speakers(cues: Sequence[Cue]) -> tuple[list[Cue], tuple[Flaw, ...]]:
    """Return captions with the speakers that begin their words, which then are words no more.

    A caption in which another speaker begins a line becomes several. Captions whose speaker is known keep
    their words.
    """
    open_cues = [cue for cue in cues if cue.speaker is None and cue.words.strip()]
    found = [find_prefix(cue.words.lstrip()) for cue in open_cues]
    accepted = accepted_names(found, is_caption=True)
    kept = sum(one is not None and one.rank >= _NAMED and one.name not in accepted for one in found)
    flaws = [Flaw(KEPT, kept)] if kept else []
    if not accepted:
        return list(cues), tuple(flaws)
    result: list[Cue] = []
    carried = 0
    # With voices in the markup too, a caption without any is known to have none.
    last: str | None = None
    carries = len(open_cues) == len([cue for cue in cues if cue.words.strip()])
    for cue in cues:
        if cue.speaker is not None or not cue.words.strip():
            result.append(cue)
            continue
        parts = split_turns(cue.words.lstrip().split("\n"), accepted)
        is_open = parts[0][0] is None and find_prefix(parts[0][1]) is None and not _is_sound(parts[0][1])
        if is_open and last is not None and carries:
            parts[0] = (last, parts[0][1])
            carried += 1
        result += share(cue, parts)
        last = parts[-1][0]
        if last is not None and _LABEL.fullmatch(last):
            last = None
    if carried:
        flaws.append(Flaw(CARRIED, carried))
    return result, tuple(flaws)


def split_turns(lines: Iterable[str], accepted: Collection[str]) -> list[tuple[str | None, str]]:
    """Return lines as (speaker, words) turns; a line that begins with an accepted name begins one."""
    turns: list[tuple[str | None, list[str]]] = []
    for line in lines:
        prefix = find_prefix(line)
        if prefix is not None and prefix.name in accepted:
            turns.append((prefix.name, [line[prefix.length :]]))
        elif turns:
            turns[-1][1].append(line)
        else:
            turns.append((None, [line]))
    return [(speaker, "\n".join(words).strip()) for speaker, words in turns]


def _is_sound(words: str) -> bool:
    """Whether words describe a sound, as `[music]` does."""
    words = words.strip()
    return words[:1] + words[-1:] in ("[]", "()", "♪♪", "**")
