"""The run folder: RUN/config.json, which says what was run on which data, and what other steps keep there.

One folder holds results on one data set with one configuration; results of others are refused.
"""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

from hilbert_ray.config import ConfigError, to_dict
from hilbert_ray.features import Dataset
from hilbert_ray.storage import Workspace
from hilbert_ray.version import __version__

NOT_COPIED = ("checkpoints",)
"""The folder of a run that is written and read where it is, without a copy: by Ray, and for checkpoints."""
TRAINED = ("tasks", "segment", "model", "moe", "loss", "fit")
"""Settings that say what is trained; the steps of one run must agree on them."""


def write_run_config(run: Workspace, dataset: Dataset) -> None:
    """Write RUN/config.json: resolved settings, versions, seed, git revision and data fingerprint.

    Raises:
        ConfigError: when the folder holds a run of other data, or of other settings of what is trained.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    path = run.path / "config.json"
    if path.exists():
        _refuse_other_run(run.uri, json.loads(path.read_text()), dataset)
    values = {
        "config": to_dict(dataset.config),
        "data": dataset.fingerprint,
        "encoders": dataset.encoders,
        "documents": len(dataset.documents),
        "seed": dataset.config.fit.seed,
        "versions": {
            "hilbert-ray": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "ray", "transformers", "numpy")},
        },
        "revision": _revision(),
    }
    path.write_text(json.dumps(values, indent=1))


def _refuse_other_run(out: str, earlier: Mapping[str, Any], dataset: Dataset) -> None:
    """Scores, models and reports of one folder must belong together."""
    other = "choose another --out, or delete the folder to start afresh"
    if earlier["data"] != dataset.fingerprint:
        raise ConfigError(
            f"run folder {out} holds results on other data (fingerprint {earlier['data']}, now "
            f"{dataset.fingerprint}): documents, labels or encoders have changed; {other}"
        )
    now = to_dict(dataset.config)
    for name in TRAINED:
        if earlier["config"][name] != now[name]:
            raise ConfigError(
                f"run folder {out} holds results of other settings: `{name}` was {earlier['config'][name]} "
                f"and is {now[name]} now; {other}"
            )


def _revision() -> str | None:
    """Return the git revision of the working folder, None outside a repository."""
    try:
        shown = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return shown.stdout.strip() or None
