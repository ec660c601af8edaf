"""Whisper's tokens: the rules against those of transformers, and rows read as stretches of text."""

import numpy as np
import pytest
import torch
import transformers
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from hilbert_ray.asr.whisper_tokens import LATEST_FIRST, TokenRules, Vocabulary, check_language, parse
from hilbert_ray.config import ConfigError

TEXT, TIMES = 20, 60
END, WITHOUT_TIMES = TEXT, TEXT + 1
VOCABULARY = Vocabulary(
    size=WITHOUT_TIMES + 1 + TIMES,
    end=END,
    first_timestamp=WITHOUT_TIMES + 1,
    no_speech=3,
    suppressed=(WITHOUT_TIMES,),
    languages={},
    start=0,
    task=None,
)


@pytest.mark.parametrize("seed", range(6))
def test_a_row_may_write_what_transformers_lets_it_write(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    generation = transformers.GenerationConfig(
        eos_token_id=END, no_timestamps_token_id=WITHOUT_TIMES, max_initial_timestamp_index=LATEST_FIRST
    )
    reference = WhisperTimeStampLogitsProcessor(generation, begin_index=1)
    rows = 5
    rules = TokenRules(VOCABULARY, rows, torch.device("cpu"))
    ids = torch.zeros((rows, 1), dtype=torch.long)
    ended = torch.zeros(rows, dtype=torch.bool)
    for _ in range(40):
        logits = 3 * torch.randn((rows, VOCABULARY.size), generator=generator)
        logits[:, VOCABULARY.first_timestamp :] -= 1.0  # so that text is written, too
        allowed, expected = rules.allow(logits), reference(ids, logits)
        # What comes after a row's end is never read.
        assert torch.equal(allowed[~ended], expected[~ended])
        tokens = torch.multinomial(torch.softmax(allowed, 1), 1, generator=generator)[:, 0]
        ended |= tokens == END
        rules.write(tokens)
        ids = torch.cat([ids, tokens[:, None]], 1)
    assert (ids >= VOCABULARY.first_timestamp).sum() > 20
    assert ((ids > 0) & (ids < END)).sum() > 20


def test_a_row_is_read_as_stretches_between_timestamps() -> None:
    def stamp(seconds: float) -> int:
        return VOCABULARY.first_timestamp + round(seconds / 0.02)

    row = [stamp(0.1), 5, 6, stamp(0.4), stamp(0.5), 7, WITHOUT_TIMES, stamp(0.8), stamp(0.9), 8]
    stretches = parse(row, np.arange(-1.0, -11.0, -1.0).tolist(), VOCABULARY)
    assert [one.tokens for one in stretches] == [[5, 6], [7], [8]]
    assert [one.start for one in stretches] == pytest.approx([0.1, 0.5, 0.9])
    assert [one.end for one in stretches[:2]] == pytest.approx([0.4, 0.8])
    assert stretches[2].end is None
    assert [one.log_probabilities for one in stretches] == [[-2.0, -3.0], [-6.0], [-10.0]]
    assert parse([], [], VOCABULARY) == []


def test_a_prompt_asks_for_the_language_where_there_are_several() -> None:
    several = Vocabulary(
        size=99, end=50, first_timestamp=60, no_speech=58, suppressed=(), languages={"en": 52, "ur": 53},
        start=51, task=55,
    )  # fmt: skip
    assert several.prompt("ur") == [51, 53, 55]
    assert VOCABULARY.prompt(None) == VOCABULARY.prompt("en") == [0]


def test_a_language_that_the_model_does_not_know_is_refused() -> None:
    check_language("hf:tiny.en", "en", VOCABULARY)
    check_language("hf:tiny.en", "auto", VOCABULARY)
    with pytest.raises(ConfigError, match=r"hf:tiny.en does not know recognition.language 'ur'; it knows en"):
        check_language("hf:tiny.en", "ur", VOCABULARY)
