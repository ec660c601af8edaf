"""Shortcuts: features of what should not predict anything, and sentences that groups share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilbert_ray.config import Config, TaskConfig
from hilbert_ray.document.records import Document, Utterance
from hilbert_ray.evaluation.baselines import logistic
from hilbert_ray.evaluation.shortcuts import LENGTH, shared_sentences, shortcuts
from hilbert_ray.features.transcripts import transcripts
from tests import make

FEATURES = make.features(40, groups=8)
TASKS = {"heard": TaskConfig(kind="binary", classes=("no", "yes"))}


def interview(number: int) -> tuple[Utterance, ...]:
    """Return turns in which only the interviewer's words go with the label."""
    asked = ("how do you sleep", "what about the garden")[FEATURES.targets["heard"][number]]
    return (
        Utterance(text=asked, role="interviewer"),
        Utterance(text=f"that was number {number} for me", role="participant"),
        *([Utterance(text="hello", role="guest")] if number < 10 else []),
    )


def accuracy(name: str, roles: tuple[str, ...] = ()) -> float:
    seen = shortcuts([interview(i) for i in range(40)], FEATURES, roles)[name]
    train, test = np.flatnonzero(FEATURES.groups < 6), np.flatnonzero(FEATURES.groups >= 6)
    _, decisions = logistic(seen, Config(tasks=TASKS), train, test)
    return float((decisions["heard"] == FEATURES.targets["heard"][test]).mean())


def test_the_interviewers_turns_are_found_to_give_the_label_away() -> None:
    assert accuracy("turns of interviewer") == 1.0
    assert accuracy("turns of participant") < 0.9


def test_roles_that_are_embedded_or_rare_are_no_shortcut() -> None:
    texts = [interview(i) for i in range(40)]
    assert sorted(shortcuts(texts, FEATURES, ())) == [LENGTH, "turns of interviewer", "turns of participant"]
    assert sorted(shortcuts(texts, FEATURES, ("participant",))) == [LENGTH, "turns of interviewer"]
    assert sorted(shortcuts(["words"] * 40, FEATURES, ())) == [LENGTH]


def test_length_is_the_end_of_the_audio_and_the_number_of_turns() -> None:
    assert FEATURES.audio is not None
    assert FEATURES.text is not None
    seen = shortcuts([None] * 40, FEATURES, ())[LENGTH]
    assert seen.audio is None
    assert seen.text is not None
    for i in range(40):
        ends = FEATURES.audio.end[FEATURES.audio.offsets[i] : FEATURES.audio.offsets[i + 1]]
        seconds, turns = seen.text.values[i, :2]
        assert seconds == pytest.approx(ends.max(initial=0.0))
        assert turns == FEATURES.text.lengths[i]
    alone = shortcuts([None] * 40, replace(FEATURES, audio=None), ())[LENGTH]
    assert alone.text is not None
    assert (alone.text.values[:, 0] == 0).all()


def test_sentences_of_several_groups_are_counted_whatever_their_case_and_points() -> None:
    texts = [
        "We went to the garden. Fine.",
        (
            Utterance(text="we went, to the Garden!", role="participant"),
            Utterance(text="do you sleep well", role="interviewer"),
        ),
        (Utterance(text="Do you sleep well?", role="interviewer"),),
        "Fine. We went to the sea.",
        None,
    ]
    assert shared_sentences(texts, "abcde", ()) == {"sentences": 2, "documents": 3, "of": 5}
    assert shared_sentences(texts, "aabbc", ())["sentences"] == 1, "only the question is of two groups"
    assert shared_sentences(texts, "abcde", ("participant",)) == {"sentences": 1, "documents": 2, "of": 5}


def test_a_transcript_that_is_gone_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "here.txt").write_text("well then")
    documents = [Document(doc_id=n, text_file=str(tmp_path / f"{n}.txt")) for n in ("here", "gone")]
    assert transcripts(documents) == ["well then", None]
    assert "'gone': there is no text_file" in caplog.text
