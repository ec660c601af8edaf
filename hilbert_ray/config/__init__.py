"""Settings: declared with their constraints, read from files and flags, and named presets."""

from hilbert_ray.config.channels import Channels, parse_channels
from hilbert_ray.config.columns import class_column, heads_column
from hilbert_ray.config.constraints import ConfigError, check_fields, require
from hilbert_ray.config.encoders import BUILTIN_ENCODERS, encoder_parts
from hilbert_ray.config.layers import layer_range
from hilbert_ray.config.presets import BASELINE, HILBERT, VARIANTS, ablations, preset, without
from hilbert_ray.config.reading import from_dict, load_file, to_dict, with_settings_checksum
from hilbert_ray.config.search import Scalar, SpaceConfig, TuneConfig
from hilbert_ray.config.settings import (
    ASR_ENGINES,
    MODALITIES,
    Config,
    EmbedConfig,
    EncoderChoice,
    EncoderConfig,
    FitConfig,
    FoldsConfig,
    Imbalance,
    LossConfig,
    Modality,
    ModelConfig,
    MoEConfig,
    RecognitionConfig,
    SegmentConfig,
    TaskConfig,
    TaskKind,
    TrainConfig,
)

__all__ = [
    "ASR_ENGINES",
    "BASELINE",
    "BUILTIN_ENCODERS",
    "HILBERT",
    "MODALITIES",
    "VARIANTS",
    "Channels",
    "Config",
    "ConfigError",
    "EmbedConfig",
    "EncoderChoice",
    "EncoderConfig",
    "FitConfig",
    "FoldsConfig",
    "Imbalance",
    "LossConfig",
    "MoEConfig",
    "Modality",
    "ModelConfig",
    "RecognitionConfig",
    "Scalar",
    "SegmentConfig",
    "SpaceConfig",
    "TaskConfig",
    "TaskKind",
    "TrainConfig",
    "TuneConfig",
    "ablations",
    "check_fields",
    "class_column",
    "encoder_parts",
    "from_dict",
    "heads_column",
    "layer_range",
    "load_file",
    "parse_channels",
    "preset",
    "require",
    "to_dict",
    "with_settings_checksum",
    "without",
]
