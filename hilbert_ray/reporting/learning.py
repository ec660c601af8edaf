"""The learning curve: how the headline grows with the number of labels, and how many are enough."""

from collections.abc import Mapping, Sequence

from hilbert_ray.config import HILBERT
from hilbert_ray.reporting import plots
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    figure,
    figures,
    interval,
    number,
    paragraph,
    quoted,
    section,
    table,
    text,
)
from hilbert_ray.run import LearningPoint, RunResults, headline_of, variant_name

ENOUGH = 0.95
"""Share of the lead over chance with all labels from which a number of labels is called enough."""
CHANCE = 0.5
"""Of AUC and concordance."""
Curves = Mapping[str, Sequence[LearningPoint]]


def learning_section(run: RunResults) -> Html | None:
    """Return the learning curves; None for a run without them."""
    curves = {task: by for task, by in run.evaluation.learning_curve.items() if by and task in run.tasks}
    if not curves:
        return None
    said = "".join(f"<li>{text(_sentence(run, task, by))}</li>" for task, by in curves.items())
    return section(
        "learning",
        "Learning curve: how many labels are enough?",
        paragraph(
            "Labels of whole training groups are withheld and the folds stay as they are. Documents whose "
            "label is withheld still take part in training, as unlabelled ones, where a variant uses them.",
            f"Enough is the smallest number of labels from which HILBERT keeps {100 * ENOUGH:.0f} % of its "
            "lead over chance with all labels.",
        ),
        Html(f"<ul>{said}</ul>"),
        figures(*(_figure(run, task, by) for task, by in curves.items())),
    )


def enough(points: Sequence[LearningPoint]) -> LearningPoint | None:
    """Return the first point from which all keep `ENOUGH` of the last one's lead over chance.

    None where the last has no such lead, or fewer than two points are defined.
    """
    known = [(p, p.within) for p in points if p.within is not None]
    if len(known) < 2 or known[-1][1] <= CHANCE:
        return None
    needed = CHANCE + ENOUGH * (known[-1][1] - CHANCE)
    found = known[-1][0]
    for point, within in reversed(known):
        if within < needed:
            break
        found = point
    return found


def _sentence(run: RunResults, task: str, curves: Curves) -> str:
    """Return one sentence: how many labels are enough for HILBERT, and whom it then equals."""
    points = [p for p in curves.get(HILBERT, ()) if p.within is not None]
    label = headline_of(run.tasks[task].kind)[1]
    found = enough(points)
    if found is None or found.within is None:
        return f"{quoted(task)}: the curve does not rise above chance, so that no number of labels is enough."
    last = points[-1]
    assert last.within is not None
    reached = f"{label} {found.within:.3f}, with all {last.labels:.0f} {last.within:.3f}"
    if found is last:
        start = (
            f"{quoted(task)}: all {last.labels:.0f} labels are needed ({label} {last.within:.3f}), and more "
            "would probably help"
        )
    else:
        start = f"{quoted(task)}: {found.labels:.0f} labels are enough ({reached})"
    return f"{start}{_match(run, task, curves)}."


def _match(run: RunResults, task: str, curves: Curves) -> str:
    """Return from how many labels HILBERT equals the best other variant with all of them; may be empty."""
    ends = {name: points[-1].within for name, points in curves.items() if name != HILBERT and points}
    known = {name: value for name, value in ends.items() if value is not None}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name])
    kind = run.tasks[task].kind
    for point in curves[HILBERT]:
        if point.within is not None and point.within >= known[best]:
            name = variant_name(best, kind)
            return f"; with {point.labels:.0f} HILBERT reaches what {quoted(name)} reaches with all"
    return ""


def _figure(run: RunResults, task: str, curves: Curves) -> Html:
    kind = run.tasks[task].kind
    label = headline_of(kind)[1]
    named = {variant_name(name, kind): points for name, points in curves.items()}
    picture = plots.learning_curves(
        f"{label} of {task} by number of labels", named, f"{label} within folds", CHANCE
    )
    caption = (
        f"{label[0].upper()}{label[1:]} of {quoted(task)} within folds with 95 % intervals by the number of "
        "labelled documents in a training part. Dashed: chance."
    )
    rows: list[list[Cell]] = [
        [name, number(point.labels, 0), number(100 * point.fraction, 0), number(point.within),
         interval(point.low, point.high)]
        for name, points in named.items()
        for point in points
    ]  # fmt: skip
    head = ["Variant", "Labelled documents", "% of groups labelled", f"{label} within folds", "95 % interval"]
    return figure(picture, caption, table(f"Learning curve of {task}", head, rows))
