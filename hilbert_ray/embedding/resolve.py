"""Which encoders `embed` uses: the same ones on every node, checked before anything runs."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from hilbert_ray.config import MODALITIES, Config, EncoderChoice, Modality, encoder_parts
from hilbert_ray.embedding.worker import configured_encoder
from hilbert_ray.encoders import Encoder, pin_revision, resolve_precision
from hilbert_ray.segmentation import require_vad
from hilbert_ray.store import Store, reads_turns
from hilbert_ray.units import Job, Plan, precision_of_workers

log = logging.getLogger(__name__)


def resolve_encoders(config: Config) -> Config:
    """Return settings that mean the same on every node: weights by path or commit, precision by name.

    On a running cluster, `auto` precision is what a worker's device supports, which may differ from this one.
    """
    for modality in MODALITIES:
        choice = config.encoder(modality)
        parts = encoder_parts(choice.spec)
        if not any(part.startswith("hf:") for part in parts):
            continue  # built-in encoders have neither weights nor a precision
        spec, options = "+".join(map(pin_revision, parts)), choice.options
        if options.precision == "auto":
            rule = partial(resolve_precision, "auto")
            options = replace(options, precision=precision_of_workers(config.embed, rule))
        config = config.with_encoder(modality, EncoderChoice(spec=spec, options=options))
    return config


def chosen_encoders(config: Config) -> dict[Modality, Encoder]:
    """Return the encoders that the settings name, by modality.

    Raises:
        ConfigError: when one is unavailable, its weights would not load, or audio is cut at pauses and none
            can be detected at its rate.
    """
    encoders = {
        modality: configured_encoder(config, modality)
        for modality in MODALITIES
        if config.encoder(modality).spec != "none"
    }
    if "audio" in encoders and config.segment.audio == "pause":
        require_vad(encoders["audio"].rate_hz)  # now, not when the first worker cuts the first recording
    for encoder in encoders.values():
        encoder.rehearse()  # now, in one message: later each worker would find the same fault
    return encoders


def jobs_of(encoders: Mapping[Modality, Encoder]) -> list[Job]:
    """Return what to embed with these encoders."""
    return [
        Job(
            content=modality,
            fingerprint=encoder.fingerprint,
            reads_turns=reads_turns(modality, encoder.describe()),
        )
        for modality, encoder in encoders.items()
    ]


def warn_of_other_layer(
    store: Store, modality: Modality, plan: Plan, encoder: Encoder, config: Config
) -> None:
    """Say so where the layer that nobody chose is why nothing of what a store holds is used again."""
    described, options = encoder.describe(), config.encoder(modality).options
    if plan.stored or not plan.units or options.layer != "auto" or "layer" not in described:
        return
    same = ("spec", "weights", "pooling", "precision", "cutting", "context")
    for fingerprint, other in store.encoders(modality).items():
        is_same = all(other.get(name) == described.get(name) for name in same)
        if fingerprint != encoder.fingerprint and is_same:
            log.warning(
                "store %s holds features of %s encoder %s with layer %s; by default it is %s now, and all "
                "documents are embedded again: set %s_encoder.layer to %s to go on with what is stored",
                store.uri, modality, encoder.name, other["layer"], described["layer"], modality,
                other["layer"],
            )  # fmt: skip
