"""Which recogniser `transcribe` uses: the same one on every node, checked before anything runs."""

from dataclasses import replace
from pathlib import Path

from hilbert_ray.asr import Recognizer, build_recognizer, precision_rule, require_long_form
from hilbert_ray.cluster import has_cluster
from hilbert_ray.config import Config, ConfigError
from hilbert_ray.encoders import pin_revision
from hilbert_ray.store import digest
from hilbert_ray.units import Job, precision_of_workers

_MOST_BUCKETS = 16
"""Of the state of a run. A unit is of one bucket, and batches are of one unit: with as many buckets as
documents, each would have a batch to itself. Transcripts are small, so that few buckets are enough."""


def resolve_recognizer(config: Config) -> Config:
    """Return settings that mean the same on every node: weights by path or commit, precision by name.

    The state of the run gets few buckets.

    Raises:
        ConfigError: when no recogniser is named, its weights cannot be found, or this machine is where it
            computes and does not know the precision.
    """
    if config.asr == "none":
        raise ConfigError(
            "asr is `none`; name the recogniser with --asr, such as --asr hf:openai/whisper-large-v3"
        )
    spec = pin_revision(config.asr)
    engine, _, name = spec.partition(":")
    if Path(name).is_dir():  # workers have other working directories
        spec = f"{engine}:{Path(name).absolute()}"
    options = config.recognition
    # A cluster's workers say themselves whether they know a precision that is named, once they are there.
    if options.precision == "auto" or not has_cluster():
        options = replace(options, precision=precision_of_workers(config.embed, precision_rule(config)))
    units = replace(config.embed, buckets=min(config.embed.buckets, _MOST_BUCKETS))
    return replace(config, asr=spec, recognition=options, embed=units)


def chosen_recognizer(config: Config) -> Recognizer:
    """Return the recogniser that resolved settings name.

    Raises:
        ConfigError: when it is unavailable, its weights would not load, or recordings cannot be cut at pauses
            for it.
    """
    recognizer = build_recognizer(config)
    require_long_form(recognizer)
    recognizer.rehearse()  # now, in one message: later each worker would find the same fault
    return recognizer


def job_of(recognizer: Recognizer, config: Config) -> Job:
    """Return what to do with each document; transcripts depend on the channels and the language too."""
    parts = (recognizer.fingerprint, config.segment.channels, config.recognition.language)
    return Job(content="transcript", fingerprint=digest("transcript", *map(str, parts)))
