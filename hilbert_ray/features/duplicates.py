"""Near duplicates: documents that share half of their features or words, although their groups differ.

A recording that was listed twice, converted, or cut into parts is in training and test set at once if its
copies are of different groups. Both searches compare tokens of documents: hashes of features, and runs of
words. Only documents that share a token are ever compared, so that time grows with the number of tokens. What
many documents share (a script, silence) is no token. A recording cut at other times has other windows: such
copies are found by their text alone.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hilbert_ray.config import Modality
from hilbert_ray.features.arrays import Ragged
from hilbert_ray.features.memory_map import BLOCK_ROWS

SHARE = 0.5
"""Share of the shorter document that makes a pair near duplicates: a half of a recording is one, too."""
COMMON_SHARE, COMMON_BOUNDS = 0.1, (4, 32)
"""What more than a tenth of the documents have (at least 4, at most 32 of them) is common: no evidence."""
RUN_WORDS = 5
"""Words of a run. Lee et al. (2022, Deduplicating training data) use 5 words for the same purpose."""
MIN_RUNS = 20
"""Runs of a transcript, not counting common ones, below which it is too short to be compared."""
TABLES, BITS = 8, 24
"""Hashes of a segment, and signs of random projections in each (Charikar 2002): two segments at an angle of
t radians agree in a hash with probability (1 - t/pi)^24, 0.2 for t = 0.2."""
CANDIDATE_SHARE = 0.01
"""Share of the hashes of the shorter recording above which two recordings are compared in full."""
TOLERANCE = 0.5
"""Root mean square distance of two nearly identical segments, as a share of that of any two, where each
recording's own mean and deviation are taken out, so that gain, channel and codec matter little. With MFCC of
synthetic speech, copies by MP3 and Opus are within 0.1 to 0.3, other recordings beyond 0.6."""
MIN_SEGMENTS, SHORT_TOLERANCE = 4, 0.1
"""Shorter recordings have no mean and deviation of their own; theirs are compared as they are, strictly."""
MIN_DEVIATION = 0.05
"""A recording's deviation counts as at least this share of that of all: rounding is no likeness."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""Words, and single characters of scripts that write Chinese and Japanese without spaces."""
_PAIRS_AT_ONCE = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class NearDuplicates:
    """Pairs of near duplicates of different groups.

    first, second: their indices, int64 [P], sorted, with first < second. audio, text: share of the shorter
    one that the other has, float64 [P], NaN where it is below `SHARE` or could not be compared. groups: how
    many are in a pair. checked: how many documents were compared in each modality.
    """

    groups: int
    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    audio: Float[np.ndarray, " pairs"]
    text: Float[np.ndarray, " pairs"]
    checked: Mapping[Modality, int]

    def __len__(self) -> int:
        return len(self.first)

    def rows(self) -> Iterator[tuple[int, int, float, float]]:
        """Yield first, second, audio and text of each pair."""
        columns = (self.first, self.second, self.audio, self.text)
        yield from zip(*(column.tolist() for column in columns), strict=True)

    def joined(self, groups: Sequence[str]) -> list[str]:
        """Return the group of each document, [N], where groups that a pair connects are one.

        The joined group has the name of that member which comes first in sorted order.
        """
        names, code = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
        edges = (np.ones(len(self)), (code[self.first], code[self.second]))
        _, part = connected_components(coo_array(edges, shape=(len(names), len(names))), directed=False)
        # The names are sorted, so that the first of each part is its smallest.
        _, first_of_part = np.unique(part, return_index=True)
        return [str(name) for name in names[first_of_part[part[code]]]]


def near_duplicates(audio: Ragged | None, texts: Sequence[str | None], groups: np.ndarray) -> NearDuplicates:
    """Return the near duplicates among documents of different groups.

    Args:
        audio: segments of the recordings of N documents; None without an encoder for audio.
        texts: what is said in each document, [N]; None where that is unknown.
        groups: group of each document, [N].
    """
    shares: dict[Modality, dict[tuple[int, int], float]] = {"audio": {}, "text": {}}
    checked: dict[Modality, int] = {}
    if audio is not None and len(audio.values):
        shares["audio"], checked["audio"] = _audio_pairs(audio, groups)
    if any(text is not None for text in texts):
        shares["text"], checked["text"] = _text_pairs(texts, groups)
    pairs = sorted(shares["audio"].keys() | shares["text"].keys())
    index = np.array(pairs, np.int64).reshape(-1, 2)
    return NearDuplicates(
        groups=len(np.unique(groups[index])),
        first=index[:, 0],
        second=index[:, 1],
        audio=np.array([shares["audio"].get(pair, math.nan) for pair in pairs]),
        text=np.array([shares["text"].get(pair, math.nan) for pair in pairs]),
        checked=checked,
    )


def _text_pairs(texts: Sequence[str | None], groups: np.ndarray) -> tuple[dict[tuple[int, int], float], int]:
    """Return the share of runs of words in common, by pair, and how many documents were compared."""
    number: dict[str, int] = {}
    tokens = []
    for text in texts:
        words = _WORD.findall((text or "").lower())
        ids = np.array([number.setdefault(word, len(number)) for word in words], np.uint64)
        tokens.append(np.unique(_runs(ids)))
    found = _common_tokens(tokens, groups)
    sizes = found.sizes
    checked = sizes >= MIN_RUNS
    shorter = np.minimum(sizes[found.first], sizes[found.second])
    share = found.count / np.maximum(shorter, 1)
    near = checked[found.first] & checked[found.second] & (share >= SHARE)
    pairs = zip(found.first[near].tolist(), found.second[near].tolist(), strict=True)
    return dict(zip(pairs, share[near].tolist(), strict=True)), int(checked.sum())


def _runs(ids: np.ndarray) -> np.ndarray:
    """Return a hash of each run of `RUN_WORDS` consecutive words, uint64."""
    count = max(len(ids) - RUN_WORDS + 1, 0)
    runs = np.zeros(count, np.uint64)
    for offset in range(RUN_WORDS):
        # A multiplication and a shift for each word (as in SplitMix64): order matters, and bits mix.
        runs = (runs ^ ids[offset : offset + count]) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(offset + 1)
        runs ^= runs >> np.uint64(29)
    return runs


def _audio_pairs(audio: Ragged, groups: np.ndarray) -> tuple[dict[tuple[int, int], float], int]:
    """Return the share of nearly identical segments, by pair, and how many documents were compared."""
    mean, scale = _moments(audio)
    spans = [slice(audio.offsets[i], audio.offsets[i + 1]) for i in range(len(groups))]
    hashes = _hashes(audio, spans, mean, scale)
    found = _common_tokens([np.unique(hashes[span]) for span in spans], groups)
    shorter = np.minimum(found.sizes[found.first], found.sizes[found.second])
    candidates = found.count >= CANDIDATE_SHARE * shorter
    is_common: np.ndarray = np.isin(hashes, found.common).sum(1) == TABLES

    def distinct(document: int) -> np.ndarray:
        """Return the segments to compare, standardised: each once, and none that is common."""
        span = spans[document]
        _, kept = np.unique(hashes[span], axis=0, return_index=True)
        return np.asarray(_standardised(audio.values[span], mean, scale)[kept[~is_common[span][kept]]])

    pairs: dict[tuple[int, int], float] = {}
    for i, j in zip(found.first[candidates].tolist(), found.second[candidates].tolist(), strict=True):
        is_short = min(audio.lengths[i], audio.lengths[j]) < MIN_SEGMENTS
        share = _share_within(distinct(i), distinct(j), SHORT_TOLERANCE if is_short else TOLERANCE)
        if share >= SHARE:
            pairs[i, j] = share
    return pairs, int((audio.lengths > 0).sum())


def _share_within(one: np.ndarray, other: np.ndarray, tolerance: float) -> float:
    """Return the share of the shorter one's segments that are within `tolerance` of one of the other's."""
    if len(one) > len(other):
        one, other = other, one
    if not len(one):
        return 0.0
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    # Two independent standardised segments are 2 dim apart in the mean of squares.
    return float((squares.min(1) <= tolerance**2 * 2 * one.shape[1]).mean())


def _standardised(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return a recording's segments, float32 [n, dim], less its mean and by its deviation if it is long."""
    if len(values) < MIN_SEGMENTS:
        return np.asarray((values - mean) / scale, np.float32)
    own = np.maximum(values.std(0), MIN_DEVIATION * scale)
    return np.asarray((values - values.mean(0)) / own, np.float32)


def _moments(audio: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation over all segments, float32 [dim]; the deviation of a constant is 1."""
    total, squares = np.zeros(audio.dim), np.zeros(audio.dim)
    for values in _blocks(audio):
        total += values.sum(0, dtype=np.float64)
    mean = total / len(audio.values)
    for values in _blocks(audio):
        squares += ((values - mean) ** 2).sum(0)
    deviation = np.sqrt(squares / len(audio.values))
    return mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)


def _hashes(
    audio: Ragged, spans: Sequence[slice], mean: np.ndarray, scale: np.ndarray
) -> Int[np.ndarray, "segments tables"]:
    """Return `TABLES` hashes of each segment; nearly identical ones have some of them in common."""
    planes = np.random.default_rng(0).normal(size=(audio.dim, TABLES * BITS)).astype(np.float32)
    hashes = np.zeros((len(audio.values), TABLES), np.int64)
    for span in spans:
        signs = _standardised(audio.values[span], mean, scale) @ planes > 0
        codes = signs.reshape(-1, TABLES, BITS) @ (1 << np.arange(BITS))
        # Of different tables, and of short and long recordings, hashes are never equal.
        is_short = len(signs) < MIN_SEGMENTS
        hashes[span] = codes + ((np.arange(TABLES) + TABLES * is_short) << BITS)
    return hashes


def _blocks(audio: Ragged) -> Iterator[np.ndarray]:
    """Yield all segments in turn: mapped values may be larger than memory."""
    for first in range(0, len(audio.values), BLOCK_ROWS):
        yield audio.values[first : first + BLOCK_ROWS]


@dataclass(frozen=True, kw_only=True, slots=True)
class _CommonTokens:
    """Tokens that documents of different groups have in common.

    first, second, count: pairs, first < second, and how many tokens they share, int64 [P]. sizes: tokens of
    each document without the common ones, int64 [N]. common: tokens that too many documents have.
    """

    first: np.ndarray
    second: np.ndarray
    count: np.ndarray
    sizes: np.ndarray
    common: np.ndarray


def _common_tokens(tokens: Sequence[np.ndarray], groups: np.ndarray) -> _CommonTokens:
    """Count the tokens that pairs share, leaving out those of too many documents.

    Args:
        tokens: of each document, sorted and unique.
        groups: group of each document; pairs of one group are not counted.
    """
    limit = int(np.clip(COMMON_SHARE * len(tokens), *COMMON_BOUNDS))
    document = np.repeat(np.arange(len(tokens)), [len(each) for each in tokens])
    token = np.concatenate(tokens)
    # Stable: the documents of a token stay in order.
    order = np.argsort(token, kind="stable")
    document, token = document[order], token[order]
    starts = np.flatnonzero(np.concatenate([[True], token[1:] != token[:-1]])[: len(token)])
    having = np.diff(np.concatenate([starts, [len(token)]]))
    sizes = np.bincount(document[~np.repeat(having > limit, having)], minlength=len(tokens))
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number in range(2, limit + 1):
        one, other = np.triu_indices(number, 1)
        runs = starts[having == number]
        step = max(_PAIRS_AT_ONCE // len(one), 1)
        for at in range(0, len(runs), step):
            members = document[runs[at : at + step, None] + np.arange(number)]
            key = (members[:, one] * len(tokens) + members[:, other]).reshape(-1)
            key, count = np.unique(key[_differ(groups, key, len(tokens))], return_counts=True)
            keys.append(key)
            counts.append(count)
    key, place = np.unique(np.concatenate(keys), return_inverse=True)
    count = np.bincount(place.reshape(-1), np.concatenate(counts), len(key)).astype(np.int64)
    return _CommonTokens(
        first=key // len(tokens),
        second=key % len(tokens),
        count=count,
        sizes=sizes,
        common=token[starts[having > limit]],
    )


def _differ(groups: np.ndarray, key: np.ndarray, size: int) -> Bool[np.ndarray, " pairs"]:
    return np.asarray(groups[key // size] != groups[key % size])
