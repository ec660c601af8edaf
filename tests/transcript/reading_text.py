"""Reading a transcript from the text of a file, without a file."""

from hilbert_ray.transcript.reading import LoadedText, read_transcript
from hilbert_ray.transcript.registry import format_by_name


def loaded(name: str, text: str) -> LoadedText:
    """Return what a file of this name and text holds."""
    named = format_by_name(name)
    assert named is not None
    return read_transcript(text.encode(), named)


def turns(name: str, text: str) -> list[tuple[str | None, str]]:
    """Return the (role, text) of each utterance."""
    return [(one.role, one.text) for one in loaded(name, text).utterances]


def kinds(name: str, text: str) -> dict[str, int]:
    """Return how often each kind of flaw occurs."""
    return {flaw.kind: flaw.count for flaw in loaded(name, text).flaws}
