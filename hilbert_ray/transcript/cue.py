"""What a reader of transcripts returns: cues as the file has them, before any rule repairs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hilbert_ray.document import Recognition, Seconds
from hilbert_ray.errors import HilbertError


class FormatError(HilbertError, ValueError):
    """What is wrong with a file's content; the message continues `text_file PATH ...`, or that field's."""


@dataclass(frozen=True, slots=True)
class Cue:
    r"""What someone says, as the file has it; None where the file does not say it.

    Times in seconds from the start of the recording, not checked yet: readers return what is written, also an
    end before its start. In formats of captions (`Format.is_caption`), `\n` in the words is a line's end.
    """

    words: str
    start_s: Seconds | None = None
    end_s: Seconds | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something about a transcript that its user should know, although it can be read.

    kind: what was found and what is done about it, the same words for every document, so that flaws can be
    grouped by it. It names no words of the transcript. count: how often; 0 for what is true of a document or
    not, such as a silent recording.
    """

    kind: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader returns that also found flaws, or what recognised the speech."""

    content: str | Sequence[Cue]
    flaws: tuple[Flaw, ...] = ()
    recognition: Recognition | None = None


Reader: TypeAlias = Callable[[str], str | Sequence[Cue] | Reading]
"""A pure function from a file's text to its cues, or to one string if the file has no cues.

Raises `FormatError`. Whatever the file has that is speech is in the result; what is left out is a flaw.
"""
BytesReader: TypeAlias = Callable[[bytes], str | Sequence[Cue] | Reading]
"""The same for formats that name their own encoding."""
