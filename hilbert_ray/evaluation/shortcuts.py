"""Known shortcuts: what may predict the labels although it has nothing to do with what they are about.

Near duplicates across groups are one, too: a network that has seen the copy need not have learned anything.
"""

import logging
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import ray

from hilbert_ray import metrics
from hilbert_ray.config import EncoderConfig, SegmentConfig
from hilbert_ray.document import TextSegment
from hilbert_ray.encoders import build_encoder
from hilbert_ray.evaluation.cross_validation import gather, run_fold_remotely
from hilbert_ray.evaluation.variants import Variant
from hilbert_ray.features import Dataset, Features, NearDuplicates, Ragged, Transcript, mean_std
from hilbert_ray.folds import Folds
from hilbert_ray.run import SHORTCUT_LOW
from hilbert_ray.segmentation import sentences

log = logging.getLogger(__name__)
LENGTH = "duration and number of turns"
DUPLICATES_NAMED = 100
"""Most pairs of near duplicates that metrics.json names; it counts all."""
MIN_WORDS = 4
"""Shorter sentences, such as greetings, occur in several groups by chance."""


def shortcuts(texts: Sequence[Transcript], features: Features, roles: Sequence[str]) -> dict[str, Features]:
    """Return features of each shortcut by its name: duration and turns, and the turns of one role alone.

    Checked are the roles that are not in `roles` and that at least half of the documents have: interviewers
    where only participants are embedded, every role where all speakers are. Known cases are interviewers
    who ask those with a diagnosis other questions (Burdisso et al. 2024, on DAIC-WOZ).

    Args:
        texts: transcripts of the documents of `features`, in its order.
        features: gives ids, groups, targets and lengths.
        roles: the speakers whose turns are embedded; empty for all.
    """
    by_name = {LENGTH: _as_features(features, _lengths(features))}
    # A plain text has no roles.
    turns = [() if text is None or isinstance(text, str) else text for text in texts]
    documents_with = Counter(
        role
        for turns_of_one in turns
        for role in {u.role for u in turns_of_one}
        if role and role not in roles
    )
    # Counts of words need no weights, and tell apart who asked what well enough.
    encoder = build_encoder("hashing", "text", EncoderConfig(), SegmentConfig())
    for role, count in sorted(documents_with.items()):
        # With a rare role, the mere fact that it occurs could predict the labels, whatever it says.
        if 2 * count < len(texts):
            continue
        rows = []
        for turns_of_one in turns:
            segments = [TextSegment(start=0.0, end=0.0, text=u.text) for u in turns_of_one if u.role == role]
            rows.append(mean_std(encoder.encode(segments)))
        by_name[f"turns of {role}"] = _as_features(features, np.stack(rows))
    return by_name


def shared_sentences(
    texts: Sequence[Transcript], groups: Sequence[Hashable], roles: Sequence[str]
) -> dict[str, int]:
    """Return how many `sentences` several groups share, and how many `documents` `of` all have one.

    Counts sentences of at least four words, ignoring case and punctuation, of `roles` (empty: of all). The
    same text in training and test sets, such as a read passage, makes scores too good.
    """
    by_document = [{_normalised(s) for s in _sentences(text, roles)} for text in texts]
    groups_of: dict[str, set[Hashable]] = {}
    for group, spoken in zip(groups, by_document, strict=True):
        for sentence in spoken:
            if sentence.count(" ") >= MIN_WORDS - 1:
                groups_of.setdefault(sentence, set()).add(group)
    shared = {sentence for sentence, speakers in groups_of.items() if len(speakers) > 1}
    affected = sum(bool(spoken & shared) for spoken in by_document)
    return {"sentences": len(shared), "documents": affected, "of": len(texts)}


def _lengths(features: Features) -> np.ndarray:
    """Return seconds of audio and numbers of text segments, and their logarithms, float32 [N, 4]."""
    seconds = np.zeros(len(features))
    if features.audio is not None:
        # A recording ends where its last segment does; a document without audio lasts 0 seconds.
        last_segment = np.maximum(features.audio.offsets[1:] - 1, 0)
        has_audio = features.audio.lengths > 0
        seconds[has_audio] = features.audio.end[last_segment[has_audio]]
    turns = np.zeros(len(features)) if features.text is None else features.text.lengths
    lengths = np.stack([seconds, turns], 1)
    # Durations are skewed; with both forms a linear model can use either.
    return np.concatenate([lengths, np.log1p(lengths)], 1).astype(np.float32)


def _as_features(features: Features, rows: np.ndarray) -> Features:
    """Return the same documents with `rows` [N, 2 K] as the text features, one segment per document.

    The logistic baseline reads `wide` only, so that a shortcut is scored by the same code as the baseline.
    """
    count, width = len(rows), rows.shape[1] // 2
    zeros = np.zeros(count, np.float32)
    ragged = Ragged(
        values=rows[:, :width], position=zeros, start=zeros, end=zeros, offsets=np.arange(count + 1),
        wide=rows,
    )  # fmt: skip
    return replace(features, audio=None, text=ragged)


def _sentences(text: Transcript, roles: Sequence[str]) -> list[str]:
    if text is None:
        return []
    if isinstance(text, str):
        return sentences(text)
    return [s for u in text if not roles or u.role in roles for s in sentences(u.text)]


def _normalised(sentence: str) -> str:
    """Return the words of a sentence in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", sentence.lower()))


def score_shortcuts(dataset: Dataset, folds: Folds) -> dict[str, Any]:
    """Return how well each shortcut alone predicts each task, and which sentences groups share.

    A shortcut is scored by logistic regression on the folds of the first repeat, see `shortcuts`. The run
    warns of those that are clearly better than chance.
    """
    features, config = dataset.features, dataset.config
    texts = dataset.transcripts
    values: dict[str, Any] = {}
    for name, shortcut_features in shortcuts(texts, features, config.segment.roles).items():
        variant = Variant(name=name, config=config, method="logistic")
        features_ref = ray.put(shortcut_features)
        # One repeat is enough for a warning, and a shortcut costs as much as the baseline.
        tasks = [run_fold_remotely.remote(features_ref, variant, fold) for fold in folds if fold.repeat == 0]
        results = ray.get(tasks)
        values[name] = {}
        for task, settings in config.tasks.items():
            scores = metrics.evaluate_predictions(gather(features, settings, task, results))
            # Both are 0.5 by chance, so that one threshold serves all tasks.
            headline = scores.get("auc") or scores["concordance"]
            values[name][task] = {key: headline[key] for key in ("within", "within_low", "within_high")}
            low = headline["within_low"]
            if low is not None and low > SHORTCUT_LOW:
                log.warning(
                    "%s alone predicts %s (AUC %.2f, lower bound %.2f): scores may rest on this shortcut%s",
                    name, task, headline["within"], low, _exception(name, config.segment.roles),
                )  # fmt: skip
    values["shared_sentences"] = shared_sentences(texts, features.groups.tolist(), config.segment.roles)
    return values


def _exception(shortcut: str, roles: Sequence[str]) -> str:
    """Return the caveat of a warning: where all speakers are embedded, the labels may be about this one."""
    if roles or shortcut == LENGTH:
        return ""
    return (
        "; if the labels are about this speaker, this is expected: embed with segment.roles set to that role"
    )


def describe_duplicates(dataset: Dataset) -> dict[str, Any]:
    """Return the near duplicates as metrics.json holds them; warn unless they are joined.

    Pairs are of different groups that take part, and of a document that takes part and one that is held out.
    """
    found = dataset.near_duplicates()
    pairs = _pairs(dataset.features.doc_ids, found)
    involved = np.unique(np.concatenate([found.first, found.second]))
    is_joined = dataset.joined is not None
    if pairs and not is_joined:
        log.warning(
            "%d pairs of documents of different groups are near duplicates, such as %s and %s: scores may be "
            "too good; correct `group` in the manifest, or set folds.join_duplicates",
            len(found), pairs[0]["first"], pairs[0]["second"],
        )  # fmt: skip
    held_out_found, held_out_pairs = 0, []
    if dataset.held_out:
        # In the order of ids, whichever is held out: that one is named second.
        taking_part = set(dataset.features.doc_ids.tolist())
        doc_ids, copies = dataset.held_out_duplicates()
        held_out_found, held_out_pairs = len(copies), _pairs(doc_ids, copies)
        for pair in held_out_pairs:
            if pair["first"] not in taking_part:
                pair["first"], pair["second"] = pair["second"], pair["first"]
    if held_out_pairs:
        log.warning(
            "%d pairs of a document that takes part and one that is held out are near duplicates, such as %s "
            "and %s: scores on what is held out will be too good; give both the same `split` in the manifest",
            held_out_found, held_out_pairs[0]["first"], held_out_pairs[0]["second"],
        )  # fmt: skip
    return {
        "found": len(found),
        "documents": len(involved),
        "groups": found.groups,
        "are_joined": is_joined,
        "checked": dict(found.checked),
        "pairs": pairs,
        "held_out_found": held_out_found,
        "held_out_pairs": held_out_pairs,
    }


def _pairs(doc_ids: Sequence[Any] | np.ndarray, found: NearDuplicates) -> list[dict[str, Any]]:
    """Return the first pairs with their ids; None for a modality in which they are not near."""
    return [
        {
            "first": str(doc_ids[first]),
            "second": str(doc_ids[second]),
            "audio": None if np.isnan(audio) else audio,
            "text": None if np.isnan(text) else text,
        }
        for first, second, audio, text in islice(found.rows(), DUPLICATES_NAMED)
    ]
