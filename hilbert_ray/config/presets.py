"""Named configurations as functions, and the variants that `evaluate` compares.

`small` is the default, for hundreds of documents; `large` is for tens of thousands; `paper` is the published
system as its abstract describes it. The paper (arXiv 2604.16247) does not state its hyper-parameters in full,
so all numbers here are this project's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from hilbert_ray.config.constraints import ConfigError
from hilbert_ray.config.reading import from_dict
from hilbert_ray.config.settings import Config, FitConfig, LossConfig, ModelConfig, MoEConfig

HILBERT = "hilbert"
"""Name of the variant that all others are compared with: the network with the settings as they are."""
BASELINE = "mean_std_logistic"
"""Name of the baseline to beat: a linear model on the mean and standard deviation of the frozen features."""
# In the order of tables and reports: the network, single modalities, baselines, then what is left out.
VARIANTS = {
    HILBERT: "HILBERT",
    "audio_only": "Audio only",
    "text_only": "Text only",
    "hilbert_audio": "HILBERT on audio alone",
    "hilbert_text": "HILBERT on text alone",
    BASELINE: "Mean + std, logistic",
    "late_fusion": "Late fusion",
    "paper": "As published (paper)",
    "reciprocal_contrast": "Reciprocal contrast",
    "direct_contrast": "Direct contrast",
    "no_fusion": "No fusion layer",
    "mlp_head": "MLP, no experts",
    "without_wide": "No wide paths",
    "without_unimodal": "No single-modality heads",
    "without_contrastive": "No contrastive loss",
    "without_cka": "No CKA loss",
    "without_balance": "No balance loss",
    "without_router_losses": "No router losses",
    "without_redundancy": "No redundancy penalty",
    "task_only": "Task loss only",
}
"""What `evaluate` compares, by name, each with its label in reports."""


def small() -> Config:
    """Return the default: wide paths and single-modality heads, strong dropout, few epochs."""
    return Config()


def paper() -> Config:
    """Return the published system: fusion, pooling, dual contrast, CKA, balance and experts."""
    # Wide paths and single-modality heads are this project's additions.
    return Config(
        model=ModelConfig(wide=False, unimodal_heads=False),
        loss=LossConfig(unimodal=0.0, contrast="reciprocal"),
    )


def large() -> Config:
    """Return a wider and deeper network with larger batches, for tens of thousands of documents."""
    # More data needs less dropout, and one network instead of an average of three. A batch of 256 gives each
    # document 255 negatives to contrast with.
    return Config(
        model=ModelConfig(dim=128, layers=2, heads=8, dropout=0.2, wide_dropout=0.3),
        moe=MoEConfig(experts=8, hidden_dim=128),
        fit=FitConfig(batch_size=256, learning_rate=1e-3, epochs=20, seeds=1),
    )


# Functions, because each call builds and checks its settings: importing this file does neither.
PRESETS: Mapping[str, Callable[[], Config]] = {"small": small, "paper": paper, "large": large}


def preset(name: str) -> Config:
    """Return the preset called `name`.

    Raises:
        ConfigError: if there is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}; the choices are {', '.join(PRESETS)}")
    return PRESETS[name]()


def without(config: Config, *terms: str) -> Config:
    """Return the configuration with the weights of some loss terms set to 0 (an ablation)."""
    return from_dict(Config, {"loss": dict.fromkeys(terms, 0.0)}, config)


def ablations(config: Config) -> dict[str, Config]:
    """Return the variants of `config` that `evaluate --compare` trains as well, by name."""
    # Of the paper only its model and losses: sizes, training and folds stay those of `config`, so that a
    # table compares ideas and not budgets.
    published = paper()
    return {
        "paper": replace(
            config, model=replace(config.model, wide=False, unimodal_heads=False), loss=published.loss
        ),
        "reciprocal_contrast": replace(config, loss=replace(config.loss, contrast="reciprocal")),
        # As CLIP has it: contrast between the modalities, and no other term between their embeddings.
        "direct_contrast": without(
            replace(config, loss=replace(config.loss, contrast="direct")), "cka", "balance"
        ),
        "no_fusion": replace(config, model=replace(config.model, layers=0)),
        "mlp_head": replace(config, moe=replace(config.moe, kind="mlp")),
        "without_wide": replace(config, model=replace(config.model, wide=False)),
        # Its weight goes with the heads, which no longer exist.
        "without_unimodal": without(
            replace(config, model=replace(config.model, unimodal_heads=False)), "unimodal"
        ),
        "without_contrastive": without(config, "contrastive"),
        "without_cka": without(config, "cka"),
        "without_balance": without(config, "balance"),
        "without_router_losses": without(config, "load_balance", "router_z"),
        "without_redundancy": without(config, "redundancy"),
        "task_only": without(
            config, "contrastive", "cka", "balance", "load_balance", "router_z", "redundancy"
        ),
    }
