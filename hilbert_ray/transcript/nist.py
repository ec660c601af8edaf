"""NIST's formats of scoring: STM (segments), CTM (words) and RTTM (speakers, and words where it has them).

Fields are separated by spaces, lines that begin with `;;` are comments. A file may hold one recording only.
"""

import re
from collections.abc import Iterator, Sequence

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.clock import NoTimeError, seconds
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.diarization import Turn
from hilbert_ray.transcript.repair import LONGEST_S
from hilbert_ray.transcript.words import Word, by_start, join

IGNORED = "segments of STM that are marked as not transcribed (ignore_time_segment_in_scoring), not read"
ALTERNATIVES = "words of NIST formats with alternatives, of which the first is read"
NOT_LEXICAL = frozenset(("non-lex", "non-speech", "misc", "noise", "noscore"))
"""Types of words in CTM and RTTM that are no words."""
UNKNOWN = frozenset(("<na>", "unk", "unknown", "null", "inter_segment_gap", ""))
"""Names of speakers that are none."""
_LABEL = re.compile(r"<[^<>\s]*[,=][^<>]*>|<o>|<na>|<F0_[MF]>", re.IGNORECASE)


def read_stm(text: str) -> Reading:
    """Return the cues of an STM file: recording, channel, speaker, start, end, [<label>,] words.

    Of `{ a / b }` the first alternative is read (`@` is no word), and of `(uh)` the word.

    Raises:
        FormatError: if a line is no STM, or there are several recordings.
    """
    rows = list(_rows(text, 5, "recording channel speaker start end [<label>] words"))
    is_many = len({fields[1] for _, fields in rows}) > 1
    cues: list[Cue] = []
    ignored, chosen = 0, [0]
    for line, fields in rows:
        start, end = (
            _time(line, name, value) for name, value in zip(("start", "end"), fields[3:5], strict=True)
        )
        words = fields[5:]
        if words and _LABEL.fullmatch(words[0]):
            words = words[1:]
        if "ignore_time_segment_in_scoring" in (word.lower() for word in words):
            ignored += 1
            continue
        said_by = None if fields[2].lower() in UNKNOWN else fields[2]
        if is_many and said_by is None:
            said_by = fields[1]
        cues.append(Cue(" ".join(_first_alternatives(line, words, chosen)), start, end, said_by))
    kinds = ((IGNORED, ignored), (ALTERNATIVES, chosen[0]))
    return Reading(by_start(cues), tuple(Flaw(kind, count) for kind, count in kinds if count))


def _first_alternatives(line: int, words: Sequence[str], chosen: list[int]) -> Iterator[str]:
    """Yield the words of `{ a / b }`, the first of each; `chosen` counts them.

    Raises:
        FormatError: if braces do not close.
    """
    depth, is_first = 0, True
    for word in words:
        if word == "{":
            depth += 1
            chosen[0] += 1
            is_first = is_first if depth > 1 else True
        elif word == "}" and depth:
            depth -= 1
            is_first = is_first if depth else True
        elif word == "/" and depth:
            is_first = False if depth == 1 else is_first
        elif word != "@" and (is_first or not depth):
            optional = len(word) > 2 and word[0] == "(" and word[-1] == ")" and word[1:-1].isalpha()
            yield word[1:-1] if optional else word
    if depth:
        raise FormatError(f"has alternatives in line {line} without a closing brace")


def read_ctm(text: str) -> Reading:
    """Return the cues of a CTM file, its words joined by the rule of `words`.

    Fields: recording, channel, start, duration, word, then confidence, type and speaker where they are given.

    Raises:
        FormatError: if a line is no CTM, or there are several recordings.
    """
    rows = list(_rows(text, 5, "recording channel start duration word [confidence] [type] [speaker]"))
    is_many = len({fields[1] for _, fields in rows}) > 1
    words: list[Word] = []
    chosen = 0
    is_in, is_first = False, True
    for line, fields in rows:
        mark = fields[4].upper()
        if mark in ("<ALT_BEGIN>", "<ALT>", "<ALT_END>"):
            is_in, is_first = mark != "<ALT_END>", mark != "<ALT>"
            chosen += mark == "<ALT_BEGIN>"
            continue
        kind = fields[6].lower() if len(fields) > 6 else "lex"
        if (is_in and not is_first) or kind in NOT_LEXICAL or fields[4] == "@":
            continue
        start, length = (
            _time(line, name, value) for name, value in zip(("start", "duration"), fields[2:4], strict=True)
        )
        end = None if start is None or length is None else start + length
        said_by = fields[7] if len(fields) > 7 and fields[7].lower() not in UNKNOWN else None
        words.append(Word(fields[4], start, end, said_by, fields[1] if is_many else None))
    return Reading(join(words), (Flaw(ALTERNATIVES, chosen),) if chosen else ())


def read_rttm(text: str) -> Reading:
    """Return the cues of an RTTM file that has words (LEXEME), joined by the rule of `words`.

    Raises:
        FormatError: if it says only who speaks when, as that of diarization does, or a line is no RTTM.
    """
    rows = list(_rows(text, 8, "type recording channel start duration word type speaker ...", recording=1))
    words = []
    for line, fields in rows:
        if fields[0].upper() != "LEXEME" or fields[6].lower() in NOT_LEXICAL:
            continue
        start, length = (
            _time(line, name, value) for name, value in zip(("start", "duration"), fields[3:5], strict=True)
        )
        end = None if start is None or length is None else start + length
        words.append(Word(fields[5], start, end, None if fields[7].lower() in UNKNOWN else fields[7]))
    if not words:
        raise FormatError(
            "says who speaks when (RTTM), but not what; name the file with the words as text_file and this "
            "one as diarization, or a transcript that has the speakers, as of WhisperX"
        )
    return Reading(join(words))


def read_turns(text: str) -> list[Turn]:
    """Return who speaks when by an RTTM file: its lines `SPEAKER`, but those of unknown speakers.

    Raises:
        FormatError: if it does not say it, a line is no RTTM, or there are several recordings.
    """
    rows = _rows(text, 8, "type recording channel start duration <NA> <NA> speaker ...", recording=1)
    turns = []
    for line, fields in rows:
        if fields[0].upper() != "SPEAKER" or fields[7].lower() in UNKNOWN:
            continue
        start, length = (
            _time(line, name, value) for name, value in zip(("start", "duration"), fields[3:5], strict=True)
        )
        if start is None or length is None or not 0 <= start <= start + length <= LONGEST_S:
            raise FormatError(
                f"has a line {line} from {fields[3]} s for {fields[4]} s; a turn needs a start of 0 or more "
                "and a duration of 0 or more, in seconds"
            )
        turns.append(Turn(start, start + length, fields[7]))
    if not turns:
        raise FormatError(
            "has no line SPEAKER with a speaker, so that it does not say who speaks when; name an RTTM file "
            "of diarization, or write null"
        )
    return turns


def _rows(text: str, least: int, shape: str, recording: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line.

    Raises:
        FormatError: naming the line that has too few fields, or the number of recordings.
    """
    recordings = set()
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or line.lstrip().startswith((";;", "#")):
            continue
        if len(fields) < least:
            raise FormatError(f"has {len(fields)} fields in line {number}; a line is `{shape}`")
        recordings.add(fields[recording])
        if len(recordings) > 1:
            raise FormatError(
                f"holds more than one recording (line {number} names another); write the lines of each "
                f"into a file of "
                "its own"
            )
        yield number, fields


def _time(line: int, name: str, value: str) -> Seconds | None:
    """Return a time in seconds.

    Raises:
        FormatError: naming the line and the field.
    """
    if value in ("*", "<NA>"):
        return None
    try:
        return seconds(value)
    except NoTimeError as error:
        raise FormatError(f"has a line {line} whose {name} {error}") from None
