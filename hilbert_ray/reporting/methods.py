"""How the run was made, in words for a paper: methods, a reporting checklist, and all settings."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hilbert_ray.config import MODALITIES, Config, LossConfig, SegmentConfig
from hilbert_ray.reporting.checklist import ITEMS
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    code,
    details,
    heading,
    number,
    paragraph,
    section,
    table,
    text,
)
from hilbert_ray.run import RunResults

TO_STATE = "to be stated by the authors"
CUTS = {
    "window": "windows of {window_s:g} s every {hop_s:g} s",
    "pause": "pieces between speech pauses (Silero VAD) of at most {max_s:g} s",
    "turns": "the transcript's turns, split above {max_s:g} s",
}


def methods(run: RunResults) -> Html:
    """Return the methods in prose, and the checklist."""
    config = run.config
    return section(
        "methods",
        "Methods",
        _features(run, config),
        _model(config),
        _objective(config),
        _training(run, config),
        _evaluation(run, config),
        _software(run),
        heading(3, "Checklist after TRIPOD+AI"),
        paragraph(
            "After the items of the TRIPOD+AI statement (Collins et al., BMJ 2024;385:e078378), which was "
            "made for clinical prediction models. What this software knows is filled in; the rest only "
            "the authors can say.",
        ),
        checklist(run),
    )


def _features(run: RunResults, config: Config) -> Html:
    parts: list[str] = []
    used = run.settings.get("encoders", {})
    for modality in MODALITIES:
        described = used.get(modality)
        if not described:
            parts.append(f"No {modality} was used.")
            continue
        name = described.get("name") or described.get("spec") or getattr(config, modality)
        parts.append(
            Html(
                f"{modality.capitalize()} features come from the frozen encoder {code(name)} (width "
                f"{described['dim']}, fingerprint {code(described['fingerprint'])}{_options(described)})."
            )
        )
    return paragraph(
        *parts,
        _segmentation(config.segment, list(used)),
        "No segment was truncated and every segment was used.",
    )


def _options(described: Mapping[str, Any]) -> Html:
    options = described.get("options") or {}
    if not str(described.get("spec", "")).startswith("hf:"):
        return Html("")
    said = f", layer {options.get('layer')}, {options.get('pooling')} pooling, {described.get('precision')}"
    return text(said)


def _segmentation(segment: SegmentConfig, modalities: Sequence[str]) -> str:
    cut = CUTS[segment.audio].format(window_s=segment.window_s, hop_s=segment.hop_s, max_s=segment.max_s)
    said = {
        "audio": f"Audio was cut into {cut}.",
        "text": f"Short neighbouring text units were merged up to {segment.target_tokens} tokens."
        if segment.target_tokens
        else "Each utterance or sentence of the text is a segment.",
    }
    roles = f"Only speakers with the roles {', '.join(segment.roles)} were kept." if segment.roles else ""
    return " ".join(filter(None, [*(said[m] for m in MODALITIES if m in modalities), roles]))


def _model(config: Config) -> Html:
    model, moe = config.model, config.moe
    fusion = (
        f"{model.layers} cross-modal fusion layer{'s' if model.layers > 1 else ''} with {model.heads} heads"
        if model.layers
        else "no fusion layer"
    )
    wide = (
        " and a wide path from the mean and standard deviation of the frozen features" if model.wide else ""
    )
    heads = " Heads on the audio and on the text embedding add their logits." if model.unimodal_heads else ""
    head = (
        f"{moe.experts} shared experts ({moe.hidden_dim} hidden units; the {moe.top_k} best routed for "
        "each task)"
        if moe.kind == "experts"
        else f"an MLP of {moe.experts * moe.hidden_dim} hidden units"
    )
    return paragraph(
        "HILBERT (arXiv 2604.16247) makes one audio, one text and one joint embedding of each document by "
        f"cross-modal attention and self-attentive pooling: width {model.dim}, {fusion}, {model.hops} "
        f"pooling hops{wide}.",
        f"Predictions are read from the three embeddings by {head}.{heads}",
        f"Dropout: {model.dropout:g} in heads and feed-forward blocks, {model.wide_dropout:g} on wide paths, "
        f"{model.segment_dropout:g} of segments, {model.modality_dropout:g} of modalities.",
        "The published hyper-parameters are not public in full; those here are the software's.",
    )


def _objective(config: Config) -> Html:
    loss = config.loss
    weights = ", ".join(f"{name.replace('_', ' ')} {getattr(loss, name):g}" for name in LossConfig.WEIGHTS)
    contrast = (
        "audio with text directly (not as published)"
        if loss.direct
        else "audio with joint and text with joint, never audio with text"
    )
    negatives = "documents of one group are" if loss.group_negatives else "documents of one group are not"
    imbalance = sorted(
        {t.imbalance.replace("_", " ") for t in config.tasks.values() if t.kind != "regression"}
    )
    skew = f"Skewed classes: {', '.join(imbalance)}." if imbalance else ""
    return paragraph(
        f"The objective is the weighted sum of its terms, with weights {weights}.",
        f"The contrastive loss aligns {contrast}; {negatives} negatives of each other.",
        f"CKA is {loss.cka_estimator} with a {loss.cka_kernel} kernel; mutual information is estimated by "
        f"{'InfoNCE' if loss.balance_estimator == 'infonce' else 'SMILE'}.",
        skew,
    )


def _training(run: RunResults, config: Config) -> Html:
    fit, inner = config.fit, config.folds.inner
    phases = f"{fit.epochs} epochs" + (
        f" after {fit.align_epochs} without labels" if fit.align_epochs else ""
    )
    temperature = (
        f"One temperature a task was fitted on held-out predictions of {inner} inner folds of the training "
        "part"
        if inner
        else "Probabilities were not recalibrated (no inner folds)"
    )
    fitted = (run.training or {}).get("temperature") or {}
    found = ", ".join(f"{name} {value:.3f}" for name, value in fitted.items())
    return paragraph(
        f"Networks were trained with AdamW for {phases} on batches of {fit.batch_size} documents (learning "
        f"rate {fit.learning_rate:g}, weight decay {fit.weight_decay:g}, gradient norm at most "
        f"{fit.clip_norm:g}); the logits of {fit.seeds} networks from seeds {fit.seed} to "
        f"{fit.seed + fit.seeds - 1} were averaged.",
        f"{temperature}{f'; in the published model: {found}' if found else ''}.",
        "Scaling, networks and temperatures saw the training groups of their fold only.",
    )


def _evaluation(run: RunResults, config: Config) -> Html:
    folds = run.metrics.get("folds") or {}
    repeats, count = folds.get("repeats", config.folds.repeats), folds.get("folds", config.folds.folds)
    often = f", repeated {repeats} times" if repeats > 1 else ""
    return paragraph(
        f"Evaluation: stratified group {count}-fold cross-validation{often} (seed {config.fit.seed}; the "
        "networks' seeds rise by 1000 from repeat to repeat), "
        f"{folds.get('distinct_test_sets', 'an unknown number of')} distinct test sets.",
        "The headline counts concordant pairs within test sets only. Intervals are t intervals of a "
        "cluster bootstrap over groups; differences are tested by the corrected resampled t test (Nadeau "
        "and Bengio 2003) and a paired cluster bootstrap, adjusted after Holm.",
    )


def _software(run: RunResults) -> Html:
    versions = ", ".join(f"{name} {version}" for name, version in run.settings.get("versions", {}).items())
    revision = run.settings.get("revision")
    return paragraph(
        Html(
            f"Software: {text(versions or 'versions unknown')}; git revision "
            f"{code(revision) if revision else 'unknown (the run was started outside a repository)'}; data "
            f"fingerprint {code(run.settings.get('data', 'unknown'))}."
        )
    )


def checklist(run: RunResults) -> Html:
    """Return the checklist, each item filled from the run or left to the authors."""
    rows: list[list[Cell]] = []
    for item, topic, fill in ITEMS:
        said = fill(run) if fill else None
        rows.append([item, topic, said or Html(f'<em class="none">{TO_STATE}</em>')])
    return table("TRIPOD+AI items", ["Item", "Topic", "In this run"], rows)


def settings(run: RunResults) -> Html:
    """Return the resolved settings, closed."""
    shown = text(json.dumps(run.settings["config"], indent=2, ensure_ascii=False))
    timing = run.metrics.get("run") or {}
    spent = (
        [
            paragraph(
                Html(
                    f"{number(timing['fits'])} fits took {number(timing['fold_seconds'], 0)} s of "
                    f"computing in {number(timing['seconds'], 0)} s."
                )
            )
        ]
        if {"fits", "fold_seconds", "seconds"} <= set(timing)
        else []
    )
    return section(
        "settings", "Settings", *spent, details("All settings of the run", Html(f"<pre>{shown}</pre>"))
    )
