"""Settings, features and a fold that the tests of this folder share."""

from dataclasses import replace

import numpy as np

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.evaluation.variants import Variant, choose_variants
from hilbert_ray.folds.records import Fold
from tests import make

CONFIG = Config(
    model=ModelConfig(dim=16, hops=2),
    fit=FitConfig(epochs=2, seeds=1, batch_size=16),
    folds=FoldsConfig(folds=2, repeats=2, inner=2),
)
TASKS = {
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
}
TINY = replace(CONFIG, tasks=TASKS, fit=FitConfig(epochs=1, seeds=1, batch_size=16))
FEATURES = make.features(40, groups=8, absent=0.1)
FOLD = Fold(
    repeat=0, fold=0, train=np.flatnonzero(FEATURES.groups < 6), test=np.flatnonzero(FEATURES.groups > 5)
)
COMPARED = (
    "hilbert",
    "audio_only",
    "text_only",
    "mean_std_logistic",
    "late_fusion",
    "paper",
    "reciprocal_contrast",
    "direct_contrast",
    "no_fusion",
    "mlp_head",
    "without_wide",
    "without_unimodal",
    "without_contrastive",
    "without_cka",
    "without_balance",
    "without_router_losses",
    "without_redundancy",
    "task_only",
)


def variant(name: str, config: Config = TINY) -> Variant:
    return next(one for one in choose_variants(config, FEATURES, compare=True) if one.name == name)
