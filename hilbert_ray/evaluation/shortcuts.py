"""Known shortcuts: what may predict the labels although nothing of interest was said."""

import logging
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import ray

from hilbert_ray import metrics
from hilbert_ray.config import EncoderConfig, SegmentConfig
from hilbert_ray.document import Document, DocumentError, TextSegment, Utterance, load_text
from hilbert_ray.encoders import load_encoder_spec
from hilbert_ray.evaluation.cross_validation import gather, run_fold_remotely
from hilbert_ray.evaluation.variants import Variant
from hilbert_ray.features import Dataset, Features, Ragged, mean_std
from hilbert_ray.folds import Folds
from hilbert_ray.segmentation import sentences
from hilbert_ray.store import Store

log = logging.getLogger(__name__)
Transcript: TypeAlias = str | tuple[Utterance, ...] | None
LENGTH = "duration and number of turns"
SHORTCUTS_FROM = 0.6  # lower end of a shortcut's AUC above which a run warns
MIN_WORDS = 4  # shorter sentences, such as greetings, are shared by chance


def transcripts(documents: Sequence[Document]) -> list[Transcript]:
    """Return each document's transcript; None where it has none or its file can no longer be read."""
    found: list[Transcript] = []
    for document in documents:
        try:
            found.append(load_text(document))
        except DocumentError as error:
            log.warning("shortcut checks leave out a transcript: %s", error)
            found.append(None)
    return found


def shortcuts(texts: Sequence[Transcript], features: Features, roles: Sequence[str]) -> dict[str, Features]:
    """Return features of each shortcut by its name: duration and turns, and the turns of one role alone.

    Roles are those that at least half of the documents have and that are not in `roles`, so of interviewers
    where the participants are embedded, and each of them where all are.

    Args:
        texts: transcripts of the documents of `features`, in its order.
        features: gives ids, groups, targets and lengths.
        roles: the speakers whose turns are embedded; empty for all.
    """
    found = {LENGTH: _as_features(features, _lengths(features))}
    turns = [() if text is None or isinstance(text, str) else text for text in texts]
    have = Counter(role for one in turns for role in {u.role for u in one} if role and role not in roles)
    encoder = load_encoder_spec("hashing", "text", EncoderConfig(), SegmentConfig())
    for role, count in sorted(have.items()):
        if 2 * count < len(texts):
            continue
        rows = []
        for one in turns:
            said = [u.text for u in one if u.role == role]
            segments = [TextSegment(start=0.0, end=0.0, text=text) for text in said]
            rows.append(mean_std(encoder.encode(segments)))
        found[f"turns of {role}"] = _as_features(features, np.stack(rows))
    return found


def shared_sentences(
    texts: Sequence[Transcript], groups: Sequence[Hashable], roles: Sequence[str]
) -> dict[str, int]:
    """Return how many `sentences` several groups share, and how many `documents` `of` all have one.

    Counted are sentences of at least four words, without regard to case and punctuation, of `roles` (empty:
    of all). Texts that stand in training and test sets at once make scores too good.
    """
    held = [{_plain(s) for s in _sentences(text, roles)} for text in texts]
    sayers: dict[str, set[Hashable]] = {}
    for group, said in zip(groups, held, strict=True):
        for sentence in said:
            if sentence.count(" ") >= MIN_WORDS - 1:
                sayers.setdefault(sentence, set()).add(group)
    shared = {sentence for sentence, of in sayers.items() if len(of) > 1}
    concerned = sum(bool(said & shared) for said in held)
    return {"sentences": len(shared), "documents": concerned, "of": len(texts)}


def _lengths(features: Features) -> np.ndarray:
    """Return seconds of audio and numbers of text segments, and their logarithms, float32 [N, 4]."""
    seconds = np.zeros(len(features))
    if features.audio is not None:
        last = np.maximum(features.audio.offsets[1:] - 1, 0)
        heard = features.audio.lengths > 0
        seconds[heard] = features.audio.end[last[heard]]
    turns = np.zeros(len(features)) if features.text is None else features.text.lengths
    plain = np.stack([seconds, turns], 1)
    return np.concatenate([plain, np.log1p(plain)], 1).astype(np.float32)


def _as_features(features: Features, rows: np.ndarray) -> Features:
    """Return the same documents with `rows` [N, 2 K], what `logistic` reads, as the text features."""
    count, width = len(rows), rows.shape[1] // 2
    nowhere = np.zeros(count, np.float32)
    one = Ragged(
        values=rows[:, :width], position=nowhere, start=nowhere, end=nowhere, offsets=np.arange(count + 1),
        wide=rows,
    )  # fmt: skip
    return replace(features, audio=None, text=one)


def _sentences(text: Transcript, roles: Sequence[str]) -> list[str]:
    if text is None:
        return []
    if isinstance(text, str):
        return sentences(text)
    return [s for u in text if not roles or u.role in roles for s in sentences(u.text)]


def _plain(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence.lower()))


def score_shortcuts(store: str, dataset: Dataset, folds: Folds) -> dict[str, Any]:
    """Return how well each shortcut alone predicts each task, and which sentences groups share.

    A shortcut is scored by logistic regression on the folds of the first repeat, see `shortcuts`.
    """
    features, config = dataset.features, dataset.config
    wanted = set(features.doc_ids.tolist())
    spoken = {d.doc_id: d for d in Store.open(store).documents(words=True) if d.doc_id in wanted}
    texts = transcripts([spoken[doc_id] for doc_id in features.doc_ids.tolist()])
    values: dict[str, Any] = {}
    for name, seen in shortcuts(texts, features, config.segment.roles).items():
        variant = Variant(name=name, config=config, method="logistic")
        shared = ray.put(seen)
        tasks = [run_fold_remotely.remote(shared, variant, part) for part in folds if part.repeat == 0]
        results = ray.get(tasks)
        values[name] = {}
        for task, settings in config.tasks.items():
            scores = metrics.evaluate_predictions(gather(features, settings, task, results))
            found = scores.get("auc") or scores["concordance"]
            values[name][task] = {key: found[key] for key in ("within", "within_low", "within_high")}
            low = found["within_low"]
            if low is not None and low > SHORTCUTS_FROM:
                log.warning(
                    "%s alone predicts %s (AUC %.2f, at least %.2f): scores may rest on this shortcut%s",
                    name, task, found["within"], low, _unless(name, config.segment.roles),
                )  # fmt: skip
    values["shared_sentences"] = shared_sentences(texts, features.groups.tolist(), config.segment.roles)
    return values


def _unless(shortcut: str, roles: Sequence[str]) -> str:
    """Return what else a shortcut may be: where all speakers are embedded, labels are about one of them."""
    if roles or shortcut == LENGTH:
        return ""
    return (
        "; if the labels are about this speaker, it is none: then embed with segment.roles set to that role"
    )
