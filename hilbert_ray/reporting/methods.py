"""How the run was made, in words for a paper: methods and a reporting checklist."""

from collections.abc import Mapping, Sequence
from typing import Any

from hilbert_ray.config import MODALITIES, Config, LossConfig, SegmentConfig
from hilbert_ray.reporting.cautions import automatic_transcripts
from hilbert_ray.reporting.checklist import ITEMS
from hilbert_ray.reporting.html import (
    Cell,
    Html,
    blocks,
    code,
    fold,
    heading,
    join,
    paragraph,
    section,
    table,
    text,
)
from hilbert_ray.run import RunResults

TO_STATE = "to be stated by the authors"
"""What the checklist says where the software cannot know."""
CUTS = {
    "window": "windows of {window_s:g} s every {hop_s:g} s",
    "pause": "pieces of at most {max_s:g} s at speech pauses (Silero VAD)",
    "turns": "the turns of the transcript, those longer than {max_s:g} s split",
}
"""What each rule of `segment.audio` cuts a recording into."""


def methods_section(run: RunResults) -> Html:
    """Return the methods in prose, and the checklist."""
    config = run.config
    return section(
        "methods",
        "Methods",
        blocks(
            join([_features(run, config), _model(config, [*run.evaluation.layers]), _objective(config)]),
            join([_training(run, config), _evaluation(run, config), _software(run)]),
        ),
        heading(3, "TRIPOD+AI checklist"),
        paragraph(
            "Follows the items of the TRIPOD+AI statement (Collins et al., BMJ 2024;385:e078378) for "
            "clinical prediction models. What this software knows is filled in; only the authors can state "
            "the rest.",
        ),
        fold(f"All {len(ITEMS)} items", checklist(run)),
    )


def _features(run: RunResults, config: Config) -> Html:
    parts: list[str] = []
    used = run.settings.get("encoders", {})
    for modality in MODALITIES:
        # From the store: the settings know neither width nor fingerprint.
        described = used.get(modality)
        if not described:
            parts.append(f"No {modality} was used.")
            continue
        # An encoder from a local folder may have no name; with the fingerprint any of the three identifies
        # it.
        name = described.get("name") or described.get("spec") or config.encoder(modality).spec
        parts.append(
            Html(
                f"{modality.capitalize()} features come from the frozen encoder {code(name)} (width "
                f"{described['dim']}, fingerprint {code(described['fingerprint'])}"
                f"{encoder_options(described)})."
            )
        )
    return paragraph(
        *parts,
        _segmentation(config.segment, list(used)),
        "No segment was truncated or left out.",
        "" if run.evaluation.data is None else automatic_transcripts(run.evaluation.data),
    )


def encoder_options(described: Mapping[str, Any]) -> Html:
    """Return what only encoders from the Hugging Face hub have: layer, pooling, prefix and precision."""
    if parts := described.get("parts"):
        return join([encoder_options(part) for part in parts], "")
    options = described.get("options") or {}
    if not str(described.get("spec", "")).startswith("hf:"):
        return Html("")
    # The options may say `auto`; what that meant is beside them.
    pooling = described.get("pooling") or options.get("pooling")
    modules = (described.get("declared") or {}).get("modules") or []
    projected = "".join(f" and {module['kind']}" for module in modules)
    prefix = f", prefix {described['prefix']!r}" if described.get("prefix") else ""
    heard = ", consecutive segments heard together" if described.get("context") == "fill" else ""
    return text(
        f", layer {options.get('layer')}, {pooling} pooling{projected}{prefix}{heard}, "
        f"{described.get('precision')}"
    )


def _segmentation(segment: SegmentConfig, modalities: Sequence[str]) -> str:
    cut = CUTS[segment.audio].format(window_s=segment.window_s, hop_s=segment.hop_s, max_s=segment.max_s)
    sentences = {
        "audio": f"Audio was cut into {cut}.",
        "text": f"Short neighbouring text units were merged up to {segment.target_tokens} tokens."
        if segment.target_tokens
        else "Each utterance or sentence of the text is a segment.",
    }
    roles = f"Only speakers with the roles {', '.join(segment.roles)} were used." if segment.roles else ""
    return " ".join(filter(None, [*(sentences[m] for m in MODALITIES if m in modalities), roles]))


def _model(config: Config, layered: Sequence[str]) -> Html:
    model, moe = config.model, config.moe
    layers = (
        f"The {' and '.join(layered)} features hold every layer of the encoder; the network reads a weighted "
        "mean of the standardised layers and learns the weights (the weighted sum of SUPERB)."
        if layered
        else ""
    )
    fusion = (
        f"{model.layers} cross-modal fusion layer{'s' if model.layers > 1 else ''} with {model.heads} heads"
        if model.layers
        else "no fusion layer"
    )
    wide = (
        " and a wide path from the mean and standard deviation of the frozen features" if model.wide else ""
    )
    heads = (
        " Separate heads on the audio and text embeddings add their logits." if model.unimodal_heads else ""
    )
    head = (
        f"{moe.experts} shared experts ({moe.hidden_dim} hidden units; each task is routed to its "
        f"{moe.top_k} best)"
        if moe.kind == "experts"
        else f"an MLP with {moe.experts * moe.hidden_dim} hidden units"
    )
    return paragraph(
        "HILBERT (arXiv 2604.16247) computes one audio, one text and one joint embedding per document by "
        f"cross-modal attention and self-attentive pooling: width {model.dim}, {fusion}, {model.hops} "
        f"pooling hops{wide}.",
        layers,
        f"The three embeddings are the input of {head}, which gives the predictions.{heads}",
        f"Dropout: {model.dropout:g} in heads and feed-forward blocks, {model.wide_dropout:g} on wide paths, "
        f"{model.segment_dropout:g} of segments, {model.modality_dropout:g} of modalities.",
        "The paper does not state all hyperparameters; those here are this software's.",
    )


def _objective(config: Config) -> Html:
    loss = config.loss
    # Those of weight 0 too: a reader must see what was switched off.
    weights = ", ".join(f"{name.replace('_', ' ')} {getattr(loss, name):g}" for name in LossConfig.WEIGHTS)
    # The published objective has no direct term, so that a run with one must say that it departs from it.
    contrast = {
        "reciprocal": "audio with joint and text with joint, never audio with text",
        "direct": "audio with text directly (not as published)",
        "both": "audio with joint, text with joint, and audio with text directly (not as published)",
    }[loss.contrast]
    negatives = "are" if loss.group_negatives else "are not"
    # Tasks may differ in how they treat imbalance; a regression has no classes.
    imbalance = sorted(
        {t.imbalance.replace("_", " ") for t in config.tasks.values() if t.kind != "regression"}
    )
    skew = f"Class imbalance: {', '.join(imbalance)}." if imbalance else ""
    return paragraph(
        f"The objective is a weighted sum of terms, with weights {weights}.",
        f"The contrastive loss aligns {contrast}; documents of one group {negatives} each other's negatives.",
        f"The CKA estimator is {loss.cka_estimator} with a {loss.cka_kernel} kernel; mutual information is "
        f"estimated by {'InfoNCE' if loss.balance_estimator == 'infonce' else 'SMILE'}.",
        skew,
    )


def _training(run: RunResults, config: Config) -> Html:
    fit, inner = config.fit, config.folds.inner
    phases = f"{fit.epochs} epochs" + (
        f" after {fit.align_epochs} without labels" if fit.align_epochs else ""
    )
    heads = (
        "The weights of the heads, a temperature and offsets for each task were fitted by log loss on "
        f"held-out predictions of {inner} inner folds of the training documents, with the heuristic "
        "shrinkage factor of van Houwelingen and le Cessie"
        if inner
        else "All heads counted alike and probabilities were not recalibrated (no inner folds)"
    )
    # Each fold has temperatures of its own; only the published model has one to name.
    fitted = (run.training or {}).get("heads") or {}
    temperatures = [
        f"{task} {next(iter(weights.values()))['temperature']:.3f}"
        for task, weights in fitted.items()
        if weights
    ]
    published = f"; temperatures of the published model: {', '.join(temperatures)}" if temperatures else ""
    return paragraph(
        f"Networks were trained with AdamW for {phases} on batches of {fit.batch_size} documents (learning "
        f"rate {fit.learning_rate:g}, weight decay {fit.weight_decay:g}, gradient norm at most "
        f"{fit.clip_norm:g}); the logits of {fit.seeds} networks from seeds {fit.seed} to "
        f"{fit.seed + fit.seeds - 1} were averaged.",
        f"{heads}{published}.",
        "Scaling, networks, weights, temperatures and offsets were fitted on the training groups of each "
        "fold only.",
    )


def _evaluation(run: RunResults, config: Config) -> Html:
    folds = run.evaluation.folds
    # Folds that were used come first: those of a file may differ from the settings.
    repeats, count = (folds.repeats, folds.folds) if folds else (config.folds.repeats, config.folds.folds)
    # With few groups, repeats draw some test sets twice, which adds no evidence.
    distinct = folds.distinct_test_sets if folds and folds.distinct_test_sets else "an unknown number of"
    repeated = f", repeated {repeats} times" if repeats > 1 else ""
    return paragraph(
        # 1000 is `cross_validation.SEED_STEP`; evaluation lies above this room, so it cannot be imported.
        f"Evaluation: stratified group {count}-fold cross-validation{repeated} (seed {config.fit.seed}; the "
        f"networks' seeds increase by 1000 with each repeat), {distinct} distinct test sets.",
        "The headline counts concordant pairs within test sets only. Its intervals are t intervals of a "
        "cluster jackknife corrected for pairs (Efron and Stein 1981), those of other scores of a cluster "
        "bootstrap; differences are tested by the corrected resampled t test (Nadeau and Bengio 2003) and by "
        "a paired t test with the same jackknife, with p-values adjusted by Holm's method.",
    )


def _software(run: RunResults) -> Html:
    versions = ", ".join(f"{name} {version}" for name, version in run.settings.get("versions", {}).items())
    revision = run.settings.get("revision")
    return paragraph(
        Html(
            f"Software: {text(versions or 'versions unknown')}; git revision "
            f"{code(revision) if revision else 'unknown (the run started outside a repository)'}; data "
            f"fingerprint {code(run.settings.get('data', 'unknown'))}."
        )
    )


def checklist(run: RunResults) -> Html:
    """Return the checklist, each item answered from the run or left to the authors."""
    rows: list[list[Cell]] = []
    for item, topic, answer in ITEMS:
        # Empty also where this run lacks the input: never guess an answer.
        answered = answer(run) if answer else None
        rows.append([item, topic, answered or Html(f'<em class="none">{TO_STATE}</em>')])
    return table("TRIPOD+AI items", ["Item", "Topic", "In this run"], rows)
