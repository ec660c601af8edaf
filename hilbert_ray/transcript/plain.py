"""Transcripts as plain text."""


def read(text: str) -> str:
    """Return the text as it is."""
    return text
