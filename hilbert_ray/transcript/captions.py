"""The structure that WebVTT and SubRip share: captions below their times, and what else stands between them.

Written for this project, because the libraries were tried and lose words: webvtt-py 0.6.0 drops whatever is
between `<` and `>` and all voices of a caption but one, leaves escapes as they are, and skips times without
milliseconds; pysubs2 1.8.1 does likewise, and takes quadratic time for a line of `<`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hilbert_ray.transcript.cue import Cue, FormatError
from hilbert_ray.transcript.cue_times import CueTimes, has_arrow, parse_times
from hilbert_ray.transcript.markup import voices

_NUMBER = re.compile(r"[ \t]{0,9}\d{1,9}[ \t]{0,9}")


@dataclass(kw_only=True, slots=True)
class Caption:
    """A caption as it is written in the file.

    line: of its times, from 1. times: None where they cannot be read. paragraphs: its lines, up to the first
    empty line, up to the next one, and so on until the next caption.
    """

    line: int
    times: CueTimes | None
    paragraphs: list[list[str]] = field(default_factory=list)


def split_captions(text: str, has_names: bool) -> tuple[list[list[str]], list[Caption]]:
    """Return the paragraphs before the first caption, and the captions.

    A caption begins with the line of its times, before which its number or name may stand: a number in any
    file whose first caption has one; a name (`has_names`, as in WebVTT) after an empty line.

    Raises:
        FormatError: when no line of times can be read.
    """
    lines = text.split("\n")
    # Only what may have an arrow is looked at closely.
    near = [(index, parse_times(line)) for index, line in enumerate(lines) if ">" in line or "-&gt;" in line]
    near = [(index, times) for index, times in near if times is not None or _is_arrow_for_times(lines, index)]
    starts, times = [index for index, _ in near], [times for _, times in near]
    if starts and not any(times):
        raise FormatError(
            f"has no times that can be read, the first in line {starts[0] + 1}; write them as in "
            "00:00:01.000 --> 00:00:02.500"
        )
    if not starts and any(line.strip() for line in lines if not line.startswith("WEBVTT")):
        raise FormatError("has no times; a caption needs a line such as 00:00:01.000 --> 00:00:02.500")
    is_numbered = bool(starts) and _NUMBER.fullmatch(_last_words(lines, starts[0])) is not None
    captions: list[Caption] = []
    head: list[list[str]] = []
    number: int | None = None
    for place, begin in enumerate([-1, *starts]):
        stop = starts[place] if place < len(starts) else len(lines)
        body = lines[begin + 1 : stop]
        if place < len(starts):
            number = _drop_name(body, number, is_numbered, has_names)
        if place == 0:
            head = _paragraphs(body)
            continue
        found = times[place - 1]
        if found is not None and found.rest:
            body.insert(0, found.rest)
        captions.append(Caption(line=begin + 1, times=found, paragraphs=_paragraphs(body)))
    return head, captions


def _is_arrow_for_times(lines: Sequence[str], index: int) -> bool:
    """Whether a line has an arrow where the times of a caption would stand."""
    if not has_arrow(lines[index]):
        return False
    # An arrow may be said, too. Below an empty line or a number after one, it stands for times.
    before = index - 1
    if before >= 0 and _NUMBER.fullmatch(lines[before]):
        before -= 1
    return before < 0 or not lines[before].strip()


def _last_words(lines: Sequence[str], stop: int) -> str:
    """Return the last line with words before a line; empty if there is none."""
    return next((lines[index] for index in range(stop - 1, -1, -1) if lines[index].strip()), "")


def _drop_name(body: list[str], number: int | None, is_numbered: bool, has_names: bool) -> int | None:
    """Remove the number or name of the next caption from the end of lines; return the latest number."""
    end = len(body)
    while end and not body[end - 1].strip():
        end -= 1
    if not end:
        return number
    name, is_adjacent = body[end - 1], end == len(body)
    if is_numbered and _NUMBER.fullmatch(name):
        found = int(name)
        # Apart from its times by empty lines, it is only a number if it is the next one: it may be said.
        if is_adjacent or number is None or found == number + 1:
            del body[end - 1 :]
            return found
    elif has_names and is_adjacent and (end == 1 or not body[end - 2].strip()):
        del body[end - 1 :]
    return number


def _paragraphs(lines: Sequence[str]) -> list[list[str]]:
    """Return lines as paragraphs, which empty lines divide; a line of spaces is not empty, and is dropped."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if not line:
            paragraphs.append([])
        elif line.strip():
            paragraphs[-1].append(line)
    return [paragraph for paragraph in paragraphs if paragraph]


def cues_of(caption: Caption, lines: Sequence[str]) -> list[Cue]:
    """Return the cues of a caption, one for each voice; together they take the caption's time."""
    found = voices("\n".join(lines))
    times = caption.times
    cue = Cue("") if times is None else Cue("", times.start_s, times.end_s)
    return share(cue, [(one.speaker, one.words.strip()) for one in found])


def share(cue: Cue, parts: Sequence[tuple[str | None, str]]) -> list[Cue]:
    """Return the (speaker, words) of a cue's parts as cues that share its time by their characters."""
    if len(parts) == 1 or cue.start_s is None or cue.end_s is None:
        cues = [replace(cue, speaker=speaker, words=words) for speaker, words in parts]
        # The start is the first one's and the end the last one's; the rest is filled in as missing.
        return [
            replace(
                one,
                start_s=one.start_s if index == 0 else None,
                end_s=one.end_s if index == len(cues) - 1 else None,
            )
            for index, one in enumerate(cues)
        ]
    sizes = [max(1, len(words)) for _, words in parts]
    total, passed, cues = sum(sizes), 0, []
    for (speaker, words), size in zip(parts, sizes, strict=True):
        start = cue.start_s + (cue.end_s - cue.start_s) * passed / total
        passed += size
        end = cue.end_s if passed == total else cue.start_s + (cue.end_s - cue.start_s) * passed / total
        cues.append(Cue(words, start, end, speaker))
    return cues
