"""The items of TRIPOD+AI (Collins et al. 2024) in our words, and what a run can say about each.

An item without a function is one that the software cannot know. Answers must not claim more than the run
folder proves; what is left says "to be stated".
"""

from collections.abc import Callable

from hilbert_ray.config import BASELINE, HILBERT, MODALITIES
from hilbert_ray.reporting.cautions import FEW_GROUPS, automatic_transcripts
from hilbert_ray.run import RunResults, headline_of, variant_name

# None: this run lacks what the answer needs, and the item is left to the authors.
Answer = Callable[[RunResults], str | None]


def _objective(run: RunResults) -> str:
    tasks = ", ".join(f"{name} ({task.kind})" for name, task in run.tasks.items())
    return f"Development with internal validation by cross-validation. Tasks: {tasks}."


def _preparation(run: RunResults) -> str:
    # The encoders that the run used: with one modality, the settings still name the other's.
    used = [m for m in MODALITIES if run.settings.get("encoders", {}).get(m)]
    data = run.evaluation.data
    transcripts = "" if data is None else automatic_transcripts(data)
    return (
        f"Segments and frozen features of {' and '.join(used)}; see Methods. {transcripts}"
        f"{' ' if transcripts else ''}Earlier cleaning: to be stated."
    )


def _outcome(run: RunResults) -> str:
    outcomes = [f"{name}: {', '.join(task.classes) or 'a number'}" for name, task in run.tasks.items()]
    return f"{'; '.join(outcomes)}. Who assigned the labels, and how: to be stated."


def _predictors(run: RunResults) -> str:
    encoders = run.settings.get("encoders", {})
    features = "; ".join(
        f"{m} features of {d.get('name')} (width {d.get('dim')})" for m, d in encoders.items()
    )
    return f"{features[:1].upper()}{features[1:]}. Nothing else enters the model."


def _size(run: RunResults) -> str | None:
    data = run.evaluation.data
    if data is None:
        return None
    answer = f"{data.documents} documents of {data.groups} groups."
    comparison = run.comparison(run.main_task, BASELINE)
    # A sample size is as good as the difference it could show, so that is named where a comparison ran.
    smallest = None if comparison is None else comparison.smallest_detectable_difference
    if smallest is not None:
        label = headline_of(run.tasks[run.main_task].kind)[1]
        answer += (
            f" Smallest detectable difference to the baseline: {smallest:.3f} {label} ({run.main_task})."
        )
    return f"{answer} How the sample size was chosen: to be stated."


def _missing(run: RunResults) -> str | None:
    data = run.evaluation.data
    if data is None:
        return None
    parts = [f"{data.documents - count} documents lack {m}" for m, count in data.documents_with.items()]
    # Quarantine is a technical failure; readers must be able to tell it from documents without the modality.
    parts += [f"{count} could not be embedded in {m}" for m, count in data.quarantined.items() if count]
    parts += [
        f"{data.documents - counts.labelled} have no label for {name}" for name, counts in data.labels.items()
    ]
    return (
        f"{'; '.join(parts)}. A missing modality is represented by one learned token; unlabelled documents "
        "take part in every loss but the task's. Why they are missing: to be stated."
    )


def _split(run: RunResults) -> str | None:
    # From the folds that were used and not from the settings: they may come from a file.
    folds = run.evaluation.folds
    if folds is None:
        return None
    return (
        f"Stratified group {folds.folds}-fold cross-validation, {folds.repeats} repeats; no group is in both "
        "training and test set."
    )


def _heterogeneity(run: RunResults) -> str:
    return "Groups are never split and are the unit of all intervals; subgroups were not analysed."


def _measures(run: RunResults) -> str:
    return (
        "AUC or concordance within folds, PR-AUC, balanced accuracy, macro-F1, MCC, calibration error, "
        "Brier score, calibration slope and decision curves, with intervals over groups."
    )


def _imbalance(run: RunResults) -> str:
    # The setting exists for every task, but has no effect on regression.
    parts = [f"{n}: {t.imbalance.replace('_', ' ')}" for n, t in run.tasks.items() if t.kind != "regression"]
    if not parts:
        return "Not applicable: all tasks are regressions."
    return f"{'; '.join(parts)}. Then temperature scaling."


def _output(run: RunResults) -> str:
    adjusts = any(t.imbalance == "logit_adjustment" for t in run.tasks.values() if t.kind != "regression")
    # Said only where it is true of a task: the other treatments of imbalance leave the logits as they are.
    prior = ", which logit adjustment has corrected for the prior" if adjusts else ""
    return (
        "Calibrated probabilities (numbers for regression) and a decision. Decisions take the largest logit"
        f"{prior}; no threshold was tuned on test data."
    )


def _code(run: RunResults) -> str:
    version, revision = run.settings.get("versions", {}).get("hilbert-ray"), run.settings.get("revision")
    return f"hilbert-ray {version}, git revision {revision or 'unknown'}; settings at the end of this report."


def _participants(run: RunResults) -> str | None:
    data = run.evaluation.data
    if data is None:
        return None
    return f"{data.documents} documents, {data.groups} groups; see Data. Who they are: to be stated."


def _development(run: RunResults) -> str | None:
    data = run.evaluation.data
    if data is None:
        return None
    parts = []
    for name, labels in data.labels.items():
        counts = ", ".join(f"{label} {count}" for label, count in labels.classes.items())
        parts.append(f"{name}: {labels.labelled} labelled{f' ({counts})' if counts else ''}")
    return "; ".join(parts)


def _specification(run: RunResults) -> str:
    # A missing model folder is not an error: `evaluate` scores networks and publishes none.
    if run.is_published:
        return "The folder model/ of this run has weights, settings and class names."
    return "Not published with this run (`hilbert-ray train` writes the folder model/)."


def _performance(run: RunResults) -> str | None:
    parts = []
    for task, settings in run.tasks.items():
        metric, label = headline_of(settings.kind)
        score = run.scores(task)[HILBERT][metric]
        # No test set could be scored, for example because each holds one class only; other tasks still are.
        if score.within is None:
            continue
        low, high = score.within_low, score.within_high
        bounds = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        parts.append(f"{task}: {label} {score.within:.3f}{bounds}")
    return f"{'; '.join(parts)}; see Scores." if parts else None


def _limitations(run: RunResults) -> str:
    groups = 0 if run.evaluation.data is None else run.evaluation.data.groups
    # Repeated from Scores: a checklist is often copied into a submission on its own.
    few = f"Only {groups} groups: p-values are exploratory. " if groups < FEW_GROUPS else ""
    return f"{few}Internal validation only, without data from another source. Further limits: to be stated."


def _missing_in_use(run: RunResults) -> str:
    return (
        "A document may lack audio or text. Audio that cannot be decoded is rejected with a reason, never "
        "shortened."
    )


def _comparator(run: RunResults) -> str:
    kind, variants = run.tasks[run.main_task].kind, run.scores(run.main_task)
    names = [variant_name(variant, kind) for variant in variants if variant != HILBERT]
    return f"Compared on the same folds: {'; '.join(names)}." if names else "Compared with nothing."


# Some items share an answer, since the statement asks for the same fact twice. None: no run folder can know
# it.
ITEMS: tuple[tuple[str, str, Answer | None], ...] = (
    ("1", "Title: what is predicted, for whom", None),
    ("2", "Abstract", None),
    ("3a", "Context and rationale, existing models", None),
    ("3b", "Target population, purpose and intended users", None),
    ("3c", "Known inequalities between groups", None),
    ("4", "Objectives: development, evaluation or both", _objective),
    ("5a", "Data sources, and why they represent the target population", None),
    ("5b", "Dates of the data", None),
    ("6a", "Setting: number and location of sites", None),
    ("6b", "Eligibility criteria", None),
    ("6c", "Treatments received", None),
    ("7", "Data preparation and quality checks", _preparation),
    ("8a", "Outcome: definition and time", _outcome),
    ("8b", "Qualifications of the outcome assessors", None),
    ("8c", "Blinding of the outcome assessors", None),
    ("9a", "Choice of predictors", _predictors),
    ("9b", "Definition and measurement of predictors", _preparation),
    ("9c", "Qualifications of the predictor assessors", None),
    ("10", "Sample size", _size),
    ("11", "Missing data", _missing),
    ("12a", "How the data were split", _split),
    ("12b", "How predictors were handled", _predictors),
    ("12c", "Type of model, how it was built and internally validated", _comparator),
    ("12d", "Heterogeneity between clusters", _heterogeneity),
    ("12e", "Measures of performance", _measures),
    ("12f", "Updating of the model after evaluation", None),
    ("12g", "How predictions are computed", _output),
    ("13", "Class imbalance and recalibration", _imbalance),
    ("14", "Fairness: approaches and rationale", None),
    ("15", "Output of the model, and thresholds", _output),
    ("16", "Differences between development and evaluation data", _split),
    ("17", "Ethical approval and consent", None),
    ("18a", "Funding", None),
    ("18b", "Conflicts of interest", None),
    ("18c", "Protocol", None),
    ("18d", "Registration", None),
    ("18e", "Availability of the data", None),
    ("18f", "Availability of the code", _code),
    ("19", "Involvement of patients and the public", None),
    ("20a", "Flow of participants", _participants),
    ("20b", "Characteristics of participants", None),
    ("20c", "Comparison of development and evaluation data", None),
    ("21", "Participants and outcomes in each analysis", _development),
    ("22", "Full specification of the model, so that others can use it", _specification),
    ("23a", "Performance with intervals", _performance),
    ("23b", "Heterogeneity of performance between clusters", None),
    ("24", "Results of updating the model", None),
    ("25", "Interpretation, including fairness", None),
    ("26", "Limitations", _limitations),
    ("27a", "Poor or missing input when the model is used", _missing_in_use),
    ("27b", "Interaction and expertise required of users", None),
    ("27c", "Next steps", None),
)
"""Number, topic, and what the software can answer."""
