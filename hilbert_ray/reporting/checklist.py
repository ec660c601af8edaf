"""The items of TRIPOD+AI (Collins et al. 2024) in our words, and what a run can answer of them.

An item without a function is one that the software cannot know.
"""

from collections.abc import Callable

from hilbert_ray.config import BASELINE, MODALITIES
from hilbert_ray.run import RunResults, headline_of, variant_name

Fill = Callable[[RunResults], str | None]


def _objective(run: RunResults) -> str:
    named = ", ".join(f"{name} ({task.kind})" for name, task in run.tasks.items())
    return f"Development with internal validation by cross-validation. Tasks: {named}."


def _preparation(run: RunResults) -> str:
    used = [m for m in MODALITIES if run.settings.get("encoders", {}).get(m)]
    return (
        f"Segments and frozen features of {' and '.join(used)}; see Methods. Cleaning before that: to be "
        "stated."
    )


def _outcome(run: RunResults) -> str:
    parts = [f"{n}: {', '.join(t.classes) or 'a number'}" for n, t in run.tasks.items()]
    return f"{'; '.join(parts)}. How and by whom labels were given: to be stated."


def _predictors(run: RunResults) -> str:
    encoders = run.settings.get("encoders", {})
    parts = [f"{m} features of {d.get('name')} (width {d.get('dim')})" for m, d in encoders.items()]
    said = "; ".join(parts)
    return f"{said[:1].upper()}{said[1:]}. Nothing else enters the model."


def _size(run: RunResults) -> str:
    data = run.metrics.get("data", {})
    found = f"{data.get('documents')} documents of {data.get('groups')} groups."
    compared = run.comparison(run.main_task, BASELINE)
    smallest = (compared or {}).get("smallest_detectable_difference")
    if smallest is not None:
        called = headline_of(run.tasks[run.main_task].kind)[1]
        found += (
            f" Smallest detectable difference to the baseline: {smallest:.3f} {called} ({run.main_task})."
        )
    return f"{found} How the size was decided: to be stated."


def _missing(run: RunResults) -> str:
    data = run.metrics.get("data", {})
    documents = data.get("documents", 0)
    parts = [f"{documents - count} documents lack {m}" for m, count in data.get("with", {}).items()]
    parts += [f"{n} could not be embedded in {m}" for m, n in (data.get("quarantined") or {}).items() if n]
    parts += [f"{documents - v['labelled']} have no label of {n}" for n, v in data.get("labels", {}).items()]
    return (
        f"{'; '.join(parts)}. An absent modality is one learned token; unlabelled documents take part in "
        "every loss but the task's. Why they are missing: to be stated."
    )


def _partition(run: RunResults) -> str:
    folds = run.metrics.get("folds", {})
    return (
        f"Stratified group {folds.get('folds')}-fold cross-validation, {folds.get('repeats')} repeats; no "
        "group stands on both sides."
    )


def _heterogeneity(run: RunResults) -> str:
    return "Groups are never split and are the unit of all intervals; subgroups were not analysed."


def _measures(run: RunResults) -> str:
    return (
        "AUC or concordance within folds, PR-AUC, balanced accuracy, macro-F1, MCC, calibration error, "
        "Brier score, calibration slope and decision curves, with intervals by groups."
    )


def _imbalance(run: RunResults) -> str:
    parts = [f"{n}: {t.imbalance.replace('_', ' ')}" for n, t in run.tasks.items() if t.kind != "regression"]
    return (
        f"{'; '.join(parts)}. Temperature scaling afterwards."
        if parts
        else "Does not apply: only numbers are predicted."
    )


def _output(run: RunResults) -> str:
    free = any(t.imbalance == "logit_adjustment" for t in run.tasks.values() if t.kind != "regression")
    freed = ", which logit adjustment has freed of the prior" if free else ""
    return (
        "Calibrated probabilities (numbers for regression) and a decision. Decisions take the largest logit"
        f"{freed}; no threshold was tuned on test data."
    )


def _code(run: RunResults) -> str:
    version, revision = run.settings.get("versions", {}).get("hilbert-ray"), run.settings.get("revision")
    return f"hilbert-ray {version}, git revision {revision or 'unknown'}; settings at the end of this report."


def _participants(run: RunResults) -> str:
    data = run.metrics.get("data", {})
    return (
        f"{data.get('documents')} documents, {data.get('groups')} groups; see Data. Who they are: to be "
        "stated."
    )


def _development(run: RunResults) -> str:
    parts = []
    for name, found in run.metrics.get("data", {}).get("labels", {}).items():
        counts = ", ".join(f"{c} {n}" for c, n in found.get("classes", {}).items())
        parts.append(f"{name}: {found['labelled']} labelled{f' ({counts})' if counts else ''}")
    return "; ".join(parts)


def _specification(run: RunResults) -> str:
    if run.is_published:
        return "The folder model/ of this run holds weights, settings and label maps."
    return "Not published with this run (`hilbert-ray train` writes the folder model/)."


def _performance(run: RunResults) -> str | None:
    parts = []
    for task, settings in run.tasks.items():
        metric, called = headline_of(settings.kind)
        found = run.scores(task)["hilbert"][metric]
        if found["within"] is None:
            continue
        low, high = found.get("within_low"), found.get("within_high")
        around = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        parts.append(f"{task}: {called} {found['within']:.3f}{around}")
    return f"{'; '.join(parts)}; see Scores." if parts else None


def _limitations(run: RunResults) -> str:
    groups = run.metrics.get("data", {}).get("groups", 0)
    few = f"Only {groups} groups: p-values are exploratory. " if groups < 40 else ""
    return f"{few}Internal validation only: no recording from elsewhere was seen. More: to be stated."


def _missing_in_use(run: RunResults) -> str:
    return (
        "A document may lack audio or text; audio that cannot be decoded is refused with a reason, never "
        "cut short."
    )


def _comparator(run: RunResults) -> str:
    names = [
        variant_name(v, run.tasks[run.main_task].kind) for v in run.scores(run.main_task) if v != "hilbert"
    ]
    return f"Compared on the same folds: {'; '.join(names)}." if names else "Compared with nothing."


ITEMS: tuple[tuple[str, str, Fill | None], ...] = (
    ("1", "Title: what is predicted, for whom", None),
    ("2", "Abstract", None),
    ("3a", "Context and rationale, existing models", None),
    ("3b", "Target population, purpose and intended users", None),
    ("3c", "Known inequalities between groups", None),
    ("4", "Objectives: development, evaluation or both", _objective),
    ("5a", "Sources of the data and why they represent the target population", None),
    ("5b", "Dates of the data", None),
    ("6a", "Setting: number and place of sites", None),
    ("6b", "Who was eligible", None),
    ("6c", "Treatments received", None),
    ("7", "Preparation and quality checks of the data", _preparation),
    ("8a", "Outcome: definition and time", _outcome),
    ("8b", "Qualification of those who judged the outcome", None),
    ("8c", "Blinding of those who judged the outcome", None),
    ("9a", "Choice of predictors", _predictors),
    ("9b", "Definition and measurement of predictors", _preparation),
    ("9c", "Qualification of those who judged predictors", None),
    ("10", "Sample size", _size),
    ("11", "Missing data", _missing),
    ("12a", "How data were divided", _partition),
    ("12b", "How predictors were handled", _predictors),
    ("12c", "Type of model, how it was built and internally validated", _comparator),
    ("12d", "Heterogeneity between clusters", _heterogeneity),
    ("12e", "Measures of performance", _measures),
    ("12f", "Updating of the model after evaluation", None),
    ("12g", "How predictions are computed", _output),
    ("13", "Class imbalance and recalibration", _imbalance),
    ("14", "Fairness: what was done for it", None),
    ("15", "Output of the model, and thresholds", _output),
    ("16", "Differences between development and evaluation data", _partition),
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
    ("22", "The full model, so that others can predict with it", _specification),
    ("23a", "Performance with intervals", _performance),
    ("23b", "Heterogeneity of performance between clusters", None),
    ("24", "Results of updating the model", None),
    ("25", "Interpretation, fairness among it", None),
    ("26", "Limitations", _limitations),
    ("27a", "Poor or missing input when the model is used", _missing_in_use),
    ("27b", "Interaction and expertise that users need", None),
    ("27c", "Next steps", None),
)
