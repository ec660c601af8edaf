"""The recordings of a manifest as distributions, and those that differ from the rest by stated rules.

The rules are robust: they compare with what most recordings have, which a few odd ones cannot move.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hilbert_ray.document import Hertz, Seconds

FEWEST = 10
"""Recordings without which nothing is called odd: of fewer, there is no rest that one could differ from."""
MOST = 0.9
"""Share of the recordings that must have one rate, or number of channels, for the others to be odd."""
DEVIATIONS = 3.5
"""Robust standard deviations (1.4826 times the median absolute deviation) from the median beyond which a
value is odd (Iglewicz and Hoaglin 1993) ..."""
LEAST_DB, LEAST_SPEECH = 10.0, 0.25
"""... if it is at least this far: of recordings that are nearly alike, none is odd."""
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """A recording as it was measured.

    duration_s, rate_hz, channels: what its header says. heard_s: seconds decoded, from its start; 0: none.
    level_db: root mean square of what was heard, in dB of full scale, of the loudest channel; None where
    nothing was heard, or only silence. speech: share of that time in which somebody speaks (Silero VAD), 0 to
    1; None where nothing was heard, or without the detector.
    """

    duration_s: Seconds
    rate_hz: Hertz
    channels: int
    heard_s: Seconds = 0.0
    level_db: float | None = None
    speech: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A value of recordings: its name, how to get it, how to write it, and how different is odd.

    least: see `DEVIATIONS`; None for values of which most recordings have the same.
    """

    name: str
    of: Callable[[Recording], float | None]
    shown: Callable[[float], str]
    least: float | None = None


MEASURES: Sequence[Measure] = (
    Measure(name="sampling rate", of=lambda one: one.rate_hz, shown=lambda value: f"{value:.0f} Hz"),
    Measure(name="number of channels", of=lambda one: one.channels, shown=lambda value: f"{value:.0f}"),
    Measure(
        name="loudness",
        of=lambda one: one.level_db,
        shown=lambda value: f"{value:.1f} dBFS",
        least=LEAST_DB,
    ),
    Measure(
        name="share of speech",
        of=lambda one: one.speech,
        shown=lambda value: f"{value:.0%}",
        least=LEAST_SPEECH,
    ),
)


def values_of(measure: Measure, recordings: Mapping[str, Recording]) -> dict[str, float]:
    """Return a value of the recordings that have it, by id."""
    values = ((doc_id, measure.of(one)) for doc_id, one in recordings.items())
    return {doc_id: value for doc_id, value in values if value is not None}


def odd_ones(measure: Measure, values: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Return the odd values by id, and what those of the rest are like, in words."""
    if len(values) < FEWEST:
        return {}, ""
    if measure.least is None:
        usual, count = Counter(values.values()).most_common(1)[0]
        odd = {} if count < MOST * len(values) else {k: v for k, v in values.items() if v != usual}
        return odd, f"other than {measure.shown(usual)}, which {count} of {len(values)} have"
    median = statistics.median(values.values())
    deviation = 1.4826 * statistics.median(abs(value - median) for value in values.values())
    limit = max(measure.least, DEVIATIONS * deviation)
    odd = {doc_id: value for doc_id, value in values.items() if abs(value - median) > limit}
    shown = measure.shown(limit).removesuffix("FS")
    return odd, f"more than {shown} from {measure.shown(median)}, the median"


def warnings_of(recordings: Mapping[str, Recording]) -> Iterator[str]:
    """Yield a line for each measure by which some recordings differ from the rest."""
    for measure in MEASURES:
        odd, rest = odd_ones(measure, values_of(measure, recordings))
        if odd:
            named = [f"{doc_id!r} ({measure.shown(odd[doc_id])})" for doc_id in [*odd][:_NAMED]]
            more = f" and {len(odd) - _NAMED} more; --json lists all" if len(odd) > _NAMED else ""
            plural = "recordings have" if len(odd) > 1 else "recording has"
            yield f"{len(odd)} {plural} a {measure.name} {rest}: {', '.join(named)}{more}"


def to_values(recordings: Mapping[str, Recording]) -> dict[str, Any]:
    """Return all values by id, as plain values; `odd` names those by which one differs from the rest."""
    odd = {measure.name: odd_ones(measure, values_of(measure, recordings))[0] for measure in MEASURES}
    return {
        doc_id: {**asdict(one), "odd": [name for name, ids in odd.items() if doc_id in ids]}
        for doc_id, one in recordings.items()
    }


def lines_of(recordings: Mapping[str, Recording]) -> Iterator[str]:
    """Yield the distributions as lines to read."""
    rates, channels, level, speech = (values_of(measure, recordings) for measure in MEASURES)
    yield f"  rates        {_counted(rates, ' Hz')}"
    yield f"  channels     {_counted(channels, '')}"
    heard = [one for one in recordings.values() if one.heard_s]
    if not heard:
        return
    silent = sum(one.level_db is None for one in heard)
    beside = f", {silent} silent" if silent else ""
    yield (
        f"  loudness     {_quartiles(level, '{:.1f}')} dBFS{beside}; RMS of the loudest channel, "
        f"{_how_much(heard)}"
    )
    if speech:
        yield f"  speech       {_quartiles(speech, '{:.0%}')} of the time; Silero VAD, of as much"
    else:
        yield "  speech       not measured; it takes the extra `pause`: pip install 'hilbert-ray[pause]'"


def _counted(values: Mapping[str, float], unit: str) -> str:
    counts = Counter(values.values()).most_common()
    shown = [f"{value:.0f}{unit} in {count}" for value, count in counts[:_NAMED]]
    if len(counts) > _NAMED:
        shown.append(f"others in {sum(count for _, count in counts[_NAMED:])}")
    return ", ".join(shown)


def _quartiles(values: Mapping[str, float], form: str) -> str:
    """Return lowest, quartiles and highest of some values; of few, all."""
    shown = [form.format(value) for value in sorted(values.values())]
    if len(shown) <= _NAMED:
        return ", ".join(shown) or "none"
    quartiles = map(form.format, statistics.quantiles(values.values(), method="inclusive"))
    return f"{shown[0]} to {shown[-1]} (quartiles {', '.join(quartiles)})"


def _how_much(heard: Sequence[Recording]) -> str:
    """Return what was decoded: all of some recordings, or their beginning."""
    beginnings = [one.heard_s for one in heard if one.heard_s < one.duration_s - 0.1]
    part = f"the first {max(beginnings):.0f} s" if beginnings else "all"
    return f"{part} of {len(heard)} recording{'' if len(heard) == 1 else 's'}"
