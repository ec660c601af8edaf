"""Whisper's tokens: which may follow which, and the utterances that a row of them says.

In timestamp mode (Radford et al. 2022, section 2.3) a window is text between pairs of timestamps, in steps of
20 ms. `TokenRules` allows nothing else; both engines of Whisper read their rows with `parse`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hilbert_ray.config import ConfigError
from hilbert_ray.document import Seconds

STEP_S: Seconds = 0.02
"""Seconds from one timestamp token to the next."""
LATEST_FIRST = 50
"""The last timestamp that a window may begin with, 1 s, as in Whisper's own decoding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The special tokens of a Whisper model.

    size: of the logits. end: the token after the last. first_timestamp: of 0.00 s; all tokens from there on
    are timestamps. no_speech: whose probability at the start says that nobody speaks. suppressed: never
    written. languages: token of each language by its code, empty for
    models of English alone. start, task: before and after the language in the prompt.
    """

    size: int
    end: int
    first_timestamp: int
    no_speech: int
    suppressed: tuple[int, ...]
    languages: dict[str, int]
    start: int
    task: int | None

    def prompt(self, language: str | None) -> list[int]:
        """Return the tokens that ask for a transcript in a language."""
        if self.task is None:
            return [self.start]
        assert language is not None, "a multilingual model is told the language"
        return [self.start, self.languages[language], self.task]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Tokens of text between two timestamps, in seconds of the window; `end` is None where none follows."""

    start: Seconds
    end: Seconds | None
    tokens: list[int]
    log_probabilities: list[float]


class TokenRules:
    """What each row of a batch may write next.

    Text lies between timestamps that never fall; a row begins with one, of at most 1 s; text follows a pair
    of timestamps or the first; and where timestamps are together likelier than each word, one is written.
    """

    def __init__(self, vocabulary: Vocabulary, rows: int, device: torch.device) -> None:
        self.vocabulary = vocabulary
        first = vocabulary.first_timestamp
        self._never = torch.zeros(vocabulary.size, device=device)
        self._never[list(vocabulary.suppressed)] = -torch.inf
        # All special tokens between the end and the timestamps belong to prompts.
        self._never[vocabulary.end + 1 : first] = -torch.inf
        self._stamps = torch.arange(vocabulary.size - first, device=device)
        self._last = torch.full((rows,), -1, device=device)
        """The last token of each row, and the one before; -1 where there is none."""
        self._before = self._last.clone()
        self._time = torch.zeros(rows, dtype=torch.long, device=device)
        """The last timestamp of each row, in steps."""
        self._is_first = True

    def allow(self, logits: Float[Tensor, "rows size"]) -> Float[Tensor, "rows size"]:
        """Return logits float32 with -inf where a row may not go on with that token."""
        first = self.vocabulary.first_timestamp
        scores = logits.float() + self._never
        text, stamps = scores[:, :first], scores[:, first:]
        if self._is_first:
            text.fill_(-torch.inf)
            stamps[:, LATEST_FIRST + 1 :] = -torch.inf
            return scores
        after_stamp = self._last >= first
        after_two = after_stamp & ((self._before >= first) | (self._before < 0))
        after_one = after_stamp & ~after_two
        # After text and a timestamp: the same again, a later one, or the end. After two, or the first: text.
        text[:, : self.vocabulary.end].masked_fill_(after_one[:, None], -torch.inf)
        least = torch.where(after_one, self._time, self._time + 1)
        stamps.masked_fill_(after_two[:, None] | (self._stamps < least[:, None]), -torch.inf)
        is_stamp = torch.logsumexp(stamps, 1) > text.max(1).values
        text.masked_fill_(is_stamp[:, None], -torch.inf)
        return scores

    def write(self, tokens: Int[Tensor, " rows"]) -> None:
        """Note what each row has written."""
        time = tokens - self.vocabulary.first_timestamp
        self._time = torch.where(time >= 0, time, self._time)
        self._before, self._last = self._last, tokens
        self._is_first = False


def parse(tokens: Sequence[int], log_probabilities: Sequence[float], vocabulary: Vocabulary) -> list[Stretch]:
    """Return the stretches of text in a row of tokens, without its end token.

    Args:
        tokens: as written after the prompt.
        log_probabilities: of each.
        vocabulary: of the model.
    """
    stretches: list[Stretch] = []
    start: Seconds = 0.0
    text: list[int] = []
    scores: list[float] = []
    for token, score in zip(tokens, log_probabilities, strict=True):
        if token < vocabulary.first_timestamp:
            if token < vocabulary.end:  # what lies between belongs to prompts
                text.append(token)
                scores.append(score)
            continue
        time = (token - vocabulary.first_timestamp) * STEP_S
        if text:
            stretches.append(Stretch(start=start, end=time, tokens=text, log_probabilities=scores))
            text, scores = [], []
        start = time
    if text:
        stretches.append(Stretch(start=start, end=None, tokens=text, log_probabilities=scores))
    return stretches


def check_language(name: str, language: str, vocabulary: Vocabulary) -> None:
    """Check that a Whisper model knows the language of the settings.

    Raises:
        ConfigError: when it does not.
    """
    known = [*vocabulary.languages] or ["en"]
    if language not in ("auto", *known):
        raise ConfigError(
            f"recogniser {name} does not know recognition.language {language!r}; it knows "
            f"{', '.join(known)}: name one of these, `auto`, or another model"
        )
