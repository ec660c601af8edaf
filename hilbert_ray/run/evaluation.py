"""What `evaluate` returns and RUN/metrics.json holds, as records with attributes.

The plain values of metrics.json are the only state: attributes are read from them, so that what is written is
what was read, key by key. Files of older versions may lack a part; its attribute is then None or empty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from hilbert_ray.config import VARIANTS
from hilbert_ray.run.folder import RunFile, read_json, write_json

R = TypeVar("R")
SHORTCUT_LOW = 0.6
"""A shortcut is warned of when the lower end of its interval is above this: clearly better than chance, which
is 0.5 for AUC and for concordance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A metric of one variant, with 95 % intervals over groups; None: not defined.

    within, within_low, within_high: over concordant pairs within test sets (headline metrics only). mean:
    over test sets where the metric is defined, `folds` of them. pooled, low, high: over all predictions of a
    repeat, then over repeats. classes: the same for each class, label or cut-point.
    positives, groups: of a class's AUC, documents of the class and groups that have one. prevalence: of a
    PR-AUC, which chance would reach. gallery, chance: of retrieval, mean number of documents searched and
    what chance would reach.
    """

    mean: float | None = None
    pooled: float | None = None
    low: float | None = None
    high: float | None = None
    folds: int | None = None
    within: float | None = None
    within_low: float | None = None
    within_high: float | None = None
    classes: Mapping[str, "Score"] = field(default_factory=dict)
    positives: int | None = None
    groups: int | None = None
    prevalence: float | None = None
    gallery: float | None = None
    chance: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """HILBERT (`first`) against another variant (`second`) by the headline metric, on the same folds.

    low, high: 95 % t interval of the `difference` with its error over groups, `standard_error`, of
    `df_paired_t` degrees of freedom; p_paired_t: its test. t, df, p_corrected_t: corrected resampled t test.
    Names with `_holm`: adjusted over the variants of a task. exploratory: fewer than 40 groups, where neither
    test holds its level.
    """

    metric: str
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    df_paired_t: float | None = None
    p_paired_t: float | None = None
    p_paired_t_holm: float | None = None
    t: float | None = None
    df: float | None = None
    p_corrected_t: float | None = None
    p_corrected_t_holm: float | None = None
    groups: int = 0
    smallest_detectable_difference: float | None = None
    exploratory: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PermutationNull:
    """The headline metric when scores know nothing of labels: mean and 95 % range; `p` one-sided.

    exchanged: `groups` where each group has one label and labels were exchanged between groups, `documents`
    where labels differ within groups.
    """

    metric: str
    value: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    permutations: int = 0
    exchanged: str = "documents"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCounts:
    """Documents labelled for a task, and those of each class (none for regression)."""

    labelled: int
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecognizerCounts:
    """Documents whose transcript is automatic, by one recogniser; confidence: their mean, None if unknown."""

    name: str
    fingerprint: str
    documents: int
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCounts:
    """What was evaluated on; by modality: segments, documents that have it, and why others lack it.

    quarantined: it could not be embedded. pending: it is not embedded yet. absent: the manifest has none; of
    an older run, what is not quarantined, and `pending` is empty. left_out: documents without any features.
    recognizers: what wrote automatic transcripts; an older run does not tell them from others.
    """

    documents: int
    groups: int
    segments: Mapping[str, int]
    documents_with: Mapping[str, int]
    quarantined: Mapping[str, int]
    labels: Mapping[str, LabelCounts]
    pending: Mapping[str, int] = field(default_factory=dict)
    absent: Mapping[str, int] = field(default_factory=dict)
    left_out: int = 0
    recognizers: Sequence[RecognizerCounts] = ()

    @property
    def automatic(self) -> int:
        """How many documents have an automatic transcript."""
        return sum(one.documents for one in self.recognizers)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldCounts:
    """How the documents were split. sizes, positives: by repeat and fold, of all and of the rarest class."""

    repeats: int
    folds: int
    documents: int = 0
    groups: int = 0
    distinct_test_sets: int | None = None
    sizes: Sequence[Sequence[int]] = ()
    warnings: Sequence[str] = ()
    rarest_class: str | None = None
    positives: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCounts:
    """Documents that took part, and those that their `split` holds out, by split."""

    documents: int
    held_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicatePair:
    """Two documents of different groups that are nearly the same.

    audio, text: share of the shorter one's segments, or runs of words, that the other has; None where not
    both have the modality, or too little of it.
    """

    first: str
    second: str
    audio: float | None = None
    text: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """Near duplicates across groups: `found` pairs, of which `pairs` are named.

    documents, groups: that are in a pair. checked: documents that were compared, by modality. are_joined:
    whether such groups were made one before folds were drawn (`folds.join_duplicates`). held_out_found,
    held_out_pairs: the same of documents that take part with those that are held out by their split.
    """

    found: int
    documents: int
    groups: int
    are_joined: bool
    checked: Mapping[str, int]
    pairs: Sequence[DuplicatePair] = ()
    held_out_found: int = 0
    held_out_pairs: Sequence[DuplicatePair] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedSentences:
    """Sentences that several groups share, and `documents` of all `of` that have one."""

    sentences: int
    documents: int
    of: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShortcutScores:
    """Headline (`within` only) of each shortcut alone, by shortcut and task, and the shared sentences."""

    scores: Mapping[str, Mapping[str, Score]]
    shared_sentences: SharedSentences

    def telling(self, task: str) -> Mapping[str, Score]:
        """Return the shortcuts that predict a task clearly better than chance, by name."""
        found = {name: tasks[task] for name, tasks in self.scores.items() if task in tasks}
        return {name: score for name, score in found.items() if (score.within_low or 0.0) > SHORTCUT_LOW}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerWeights:
    """The weight of each layer of an encoder, from 0 on: mean and standard deviation over folds."""

    weight: Sequence[float]
    deviation: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionWeights:
    """How much each head counts in the logits of a task, as means over the networks of all folds.

    weights: not negative, by head (`experts`, `audio`, `text`, and other members of the sum). temperature:
    what the evidence is divided by. labels: labelled documents that they were fitted on. cases: those of the
    rarest class among them. is_fitted: False where labels were too few, and all heads count alike.
    """

    weights: Mapping[str, float]
    temperature: float | None = None
    labels: float | None = None
    cases: float | None = None
    is_fitted: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningPoint:
    """The headline within folds of one variant that was trained on a share of the labels.

    fraction: of the labelled training groups. labels: labelled documents in a training part, in the
    mean. within, low, high: the score with its 95 % interval. folds: test sets where it is defined.
    """

    fraction: float
    labels: float
    within: float | None = None
    low: float | None = None
    high: float | None = None
    folds: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelling:
    """Documents with and without a label of a task; the latter take part in terms that need no label."""

    labelled: int
    unlabelled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCost:
    """What the run took: wall seconds, seconds summed over new fits, new fits, and results reused."""

    seconds: float
    fold_seconds: float
    fits: int
    reused: int


@dataclass(frozen=True)
class Evaluation:
    """Scores of all tasks and variants on out-of-fold predictions.

    For example `evaluation.tasks["outcome"]["hilbert"]["auc"].within`.
    """

    # Attributes are computed on first use; a frozen dataclass with slots could not cache them.
    _values: Mapping[str, Any]

    @cached_property
    def tasks(self) -> Mapping[str, Mapping[str, Mapping[str, Score]]]:
        """Scores by task, variant and metric."""
        return {
            task: {variant: _scores(metrics) for variant, metrics in by_variant.items()}
            for task, by_variant in self._values.get("tasks", {}).items()
        }

    @cached_property
    def comparisons(self) -> Mapping[str, Mapping[str, Comparison]]:
        """HILBERT against every other variant, by task and variant."""
        return {
            task: {variant: _record(Comparison, values) for variant, values in by_variant.items()}
            for task, by_variant in self._values.get("comparisons", {}).items()
        }

    @cached_property
    def permutation(self) -> Mapping[str, PermutationNull]:
        """HILBERT's permutation null, by task."""
        nulls = self._values.get("permutation", {})
        # A file may hold an empty record for a task without a null.
        return {task: _record(PermutationNull, values) for task, values in nulls.items() if values}

    @cached_property
    def embedding(self) -> Mapping[str, Score]:
        """Retrieval and geometry of HILBERT's embeddings, by measure; empty without both modalities."""
        return _scores(self._values.get("embedding") or {})

    @cached_property
    def data(self) -> DataCounts | None:
        """Counts of what was evaluated on."""
        values = self._values.get("data")
        if not values:
            return None
        # `with` is a Python keyword, so this record cannot have the names of the file.
        documents_with, quarantined = values.get("with", {}), values.get("quarantined") or {}
        lacking = {m: values["documents"] - count for m, count in documents_with.items()}
        return DataCounts(
            documents=values["documents"],
            groups=values["groups"],
            segments=values.get("segments", {}),
            documents_with=documents_with,
            quarantined=quarantined,
            pending=values.get("pending", {}),
            # Documents that lack all they were to have are in quarantine, but not among those evaluated.
            absent=values.get("absent")
            or {m: max(count - quarantined.get(m, 0), 0) for m, count in lacking.items()},
            left_out=values.get("left_out", 0),
            recognizers=[_record(RecognizerCounts, one) for one in values.get("recognizers", ())],
            labels={task: _record(LabelCounts, counts) for task, counts in values.get("labels", {}).items()},
        )

    @cached_property
    def folds(self) -> FoldCounts | None:
        """How the documents were split."""
        values = self._values.get("folds")
        return _record(FoldCounts, values) if values else None

    @cached_property
    def shortcuts(self) -> ShortcutScores | None:
        """What known shortcuts alone predict."""
        values = self._values.get("shortcuts")
        if not values:
            return None
        # The file has the shared sentences next to the shortcuts, which users name by their roles.
        by_shortcut = {name: tasks for name, tasks in values.items() if name != "shared_sentences"}
        return ShortcutScores(
            scores={name: _scores(tasks) for name, tasks in by_shortcut.items()},
            shared_sentences=_record(SharedSentences, values["shared_sentences"]),
        )

    @cached_property
    def fusion(self) -> Mapping[str, Mapping[str, FusionWeights]]:
        """How much HILBERT's heads count, by task and by the modalities that a document has (both, ...)."""
        return {
            task: {modalities: _fusion_weights(values) for modalities, values in by_modalities.items()}
            for task, by_modalities in (self._values.get("fusion") or {}).items()
        }

    @cached_property
    def layers(self) -> Mapping[str, LayerWeights]:
        """The weight of each layer of a modality's encoder; empty where features are of one layer."""
        layers = self._values.get("layers") or {}
        return {modality: _record(LayerWeights, values) for modality, values in layers.items()}

    @cached_property
    def learning_curve(self) -> Mapping[str, Mapping[str, Sequence[LearningPoint]]]:
        """Scores by number of labels, by task and variant, the fewest labels first."""
        return {
            task: {
                variant: sorted((_record(LearningPoint, p) for p in points), key=lambda p: p.labels)
                for variant, points in by_variant.items()
            }
            for task, by_variant in (self._values.get("learning_curve") or {}).items()
        }

    @cached_property
    def splits(self) -> SplitCounts | None:
        """How many documents took part, and how many were held out; None where the file does not say."""
        values = self._values.get("splits")
        return _record(SplitCounts, values) if values else None

    @cached_property
    def duplicates(self) -> Duplicates | None:
        """Near duplicates across groups; None where the file does not say."""
        values = self._values.get("duplicates")
        if not values:
            return None
        pairs = {
            key: [_record(DuplicatePair, pair) for pair in values.get(key, ())]
            for key in ("pairs", "held_out_pairs")
        }
        return _record(Duplicates, {**values, **pairs})

    @cached_property
    def labels(self) -> Mapping[str, Labelling]:
        """How many documents are labelled, by task; empty where the file does not say."""
        counts = self._values.get("labels") or {}
        return {task: _record(Labelling, values) for task, values in counts.items()}

    @cached_property
    def cost(self) -> RunCost | None:
        """What the run took; None where the file does not say."""
        values = self._values.get("run") or {}
        # All or nothing: a partial record would add up to a wrong cost.
        return _record(RunCost, values) if {f.name for f in fields(RunCost)} <= set(values) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that metrics.json holds."""
        return dict(self._values)

    def text(self) -> str:
        """Return each task's headline as a table for a terminal."""
        lines = pending_lines(self.data.pending) if self.data else []
        for task, by_variant in self.tasks.items():
            lines.append(f"{task}: headline within folds, with 95 % interval over groups")
            for variant, scores in by_variant.items():
                # A task has one of the two: AUC of classes, concordance of numbers.
                score = scores.get("auc") or scores.get("concordance") or Score()
                low, high = score.within_low, score.within_high
                bounds = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "no interval"
                value = "n/a" if score.within is None else f"{score.within:.3f}"
                lines.append(f"  {VARIANTS.get(variant, variant):<36} {value}   {bounds}")
            lines += self._curve_lines(task)
        return "\n".join(lines)

    def _curve_lines(self, task: str) -> list[str]:
        """Return a task's learning curve as lines: a column for each number of labels."""
        curve = self.learning_curve.get(task) or {}
        if not curve:
            return []
        # All variants have the same numbers of labels, those of the same documents.
        columns = [f"{point.labels:.0f}" for point in next(iter(curve.values()))]
        rows = {"labelled documents to train on": columns}
        for variant, points in curve.items():
            scores = ["n/a" if point.within is None else f"{point.within:.3f}" for point in points]
            rows[VARIANTS.get(variant, variant)] = scores
        head = f"{task}: the same with fewer labels"
        return [head, *(f"  {name:<36} " + "   ".join(f"{x:>5}" for x in row) for name, row in rows.items())]


def pending_lines(pending: Mapping[str, int]) -> list[str]:
    """Return a line per modality that `embed` had not finished when the results were made."""
    return [
        f"incomplete: {count} documents count as having no {modality}, which was not embedded yet"
        for modality, count in pending.items()
        if count
    ]


def _record(kind: type[R], values: Mapping[str, Any]) -> R:
    """Return a record of those values that it has fields for."""
    # Newer versions may write more fields; an older reader ignores them.
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})


def _fusion_weights(values: Mapping[str, Any]) -> FusionWeights:
    # Whatever is not about the fit is a head: there may be more of them one day.
    about = {f.name for f in fields(FusionWeights)}
    weights = {name: value for name, value in values.items() if name not in about and value is not None}
    # Nothing can be fitted without labels, whether or not the file says so.
    is_fitted = values.get("is_fitted", values.get("labels") != 0)
    return _record(FusionWeights, {**values, "weights": weights, "is_fitted": is_fitted})


def _scores(metrics: Mapping[str, Any]) -> dict[str, Score]:
    return {name: _score(values) for name, values in metrics.items()}


def _score(values: Mapping[str, Any]) -> Score:
    return _record(Score, {**values, "classes": _scores(values.get("classes", {}))})


def write_metrics(run: Path, evaluation: Evaluation) -> None:
    """Write RUN/metrics.json."""
    # NaN is not JSON: the metrics give None for what is not defined, so that any parser can read the file.
    write_json(run, RunFile.METRICS, evaluation.to_dict())


def read_metrics(run: Path) -> Evaluation:
    """Return RUN/metrics.json.

    Raises:
        RunError: when the file is missing.
        DamagedError: when it is not what was written.
    """
    return Evaluation(read_json(run, RunFile.METRICS))
