"""Does each term of the objective serve its purpose?

Measured on generated features with known shared and private parts.

A document has a latent vector that both modalities share and a private one for each modality; its segments
are noisy linear images of them, audio less noisy than text. The label (4 classes) depends on the shared
vector and on both private ones. Each seed draws new documents: half for training, half held out. A variant's
effect is its mean difference from the default over seeds, with the 95 % interval of a paired t test.

On held-out documents: I_a and I_t (InfoNCE bound at the network's own scale, nats), their gap and the smaller
of the two; mean unbiased CKA of the joint embedding with each modality's; macro AUC; R@1 of audio to text.

    python -m bench.terms [--seeds 10] [--documents 400] [--epochs 20] [--widths 64 1024] [--processes 2]
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from bench.measure import Record
from hilbert_ray import losses
from hilbert_ray.config import Config, FitConfig, FoldsConfig, TaskConfig, without
from hilbert_ray.features import Features, Ragged, mean_std
from hilbert_ray.metrics import retrieval_ranks
from hilbert_ray.training import fit

CLASSES = ("a", "b", "c", "d")
SHARED, PRIVATE, DIM = 6, 3, 48
NOISE = {"audio": 2.0, "text": 4.0}
MEASURES = ("|I_a - I_t|", "min(I_a, I_t)", "CKA", "AUC", "R@1")
VARIANTS: Mapping[str, Callable[[Config], Config]] = {
    "default": lambda config: config,
    "without balance": lambda config: without(config, "balance"),
    "balance, weaker side": lambda config: replace(
        config, loss=replace(config.loss, balance_gradient="weaker")
    ),
    "without cka": lambda config: without(config, "cka"),
    "without contrastive": lambda config: without(config, "contrastive"),
    "direct contrast": lambda config: replace(config, loss=replace(config.loss, contrast="direct")),
    "task alone": lambda config: without(config, "contrastive", "cka", "balance"),
}


def generate(count: int, seed: int) -> Features:
    """Return documents whose audio and text share a latent vector; all seeds have the same linear images."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    shared = rng.normal(size=(count, SHARED))
    private = {modality: rng.normal(size=(count, PRIVATE)) for modality in NOISE}
    by_modality = {}
    for modality, noise in NOISE.items():
        image = fixed.normal(size=(SHARED + PRIVATE, DIM)) / np.sqrt(SHARED + PRIVATE)
        lengths = rng.integers(5, 15, count)
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        latent = np.repeat(np.concatenate([shared, private[modality]], 1), lengths, axis=0)
        values = (latent @ image + noise * rng.normal(size=(len(latent), DIM))).astype(np.float32)
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in lengths]).astype(np.float32)
        spans = [values[a:b] for a, b in pairwise(offsets)]
        by_modality[modality] = Ragged(
            values=values, position=place, start=place, end=place, offsets=offsets,
            wide=np.stack([mean_std(span) for span in spans]),
        )  # fmt: skip
    direction = fixed.normal(size=(SHARED + 2 * PRIVATE, len(CLASSES)))
    score = np.concatenate([shared, private["audio"], private["text"]], 1) @ direction
    return Features(
        doc_ids=np.array([f"d{i}" for i in range(count)]), groups=np.arange(count),
        audio=by_modality["audio"], text=by_modality["text"], targets={"label": score.argmax(1)},
    )  # fmt: skip


def held_out(config: Config, features: Features, seed: int) -> dict[str, float]:
    """Train on the first half of the documents and measure on the second."""
    half = len(features) // 2
    fitted = fit(replace(config, fit=replace(config.fit, seed=seed)), features, np.arange(half))
    test = features.take(np.arange(half, len(features)))
    prediction = fitted.model().predict(test)
    audio, text, joint = map(torch.from_numpy, prediction.embeddings)
    scale = float(fitted.networks[0].scale.detach())
    nats = [float(losses.information(x, joint, scale)) for x in (audio, text)]
    ranks = retrieval_ranks(prediction.embeddings.audio, prediction.embeddings.text)
    return {
        "|I_a - I_t|": abs(nats[0] - nats[1]),
        "min(I_a, I_t)": min(nats),
        "CKA": float(np.mean([float(losses.cka(x, joint)) for x in (audio, text)])),
        "AUC": float(
            roc_auc_score(test.targets["label"], prediction.probabilities["label"], multi_class="ovr")
        ),
        "R@1": float((ranks <= 1).mean()),
    }


def run(seed: int, documents: int, epochs: int, width: int) -> dict[str, dict[str, float]]:
    """Return the measures of every variant on the documents of one seed."""
    torch.set_num_threads(1)
    features = generate(documents, seed)
    base = Config(
        tasks={"label": TaskConfig(classes=CLASSES)},
        fit=FitConfig(epochs=epochs, seeds=1),
        folds=FoldsConfig(inner=0),
    )
    base = replace(base, model=replace(base.model, dim=width))
    chosen = VARIANTS if width == 64 else {n: VARIANTS[n] for n in ("default", "direct contrast")}
    return {name: held_out(change(base), features, seed) for name, change in chosen.items()}


def effects(by_seed: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return mean and 95 % interval of the default's measures and of each variant's paired differences."""
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for variant in by_seed[0]:
        table[variant] = {}
        for measure in MEASURES:
            values = np.array([measures[variant][measure] for measures in by_seed])
            if variant != "default":
                values = values - [measures["default"][measure] for measures in by_seed]
            half_width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            mean = float(values.mean())
            table[variant][measure] = mean, float(mean - half_width), float(mean + half_width)
    return table


def show(title: str, table: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    """Print means with their intervals, differences with a sign."""
    print(f"\n{title:22}" + "".join(f"{name:>26}" for name in MEASURES))
    for variant, row in table.items():
        sign = "" if variant == "default" else "+"
        cells = (f"{mean:{sign}.3f} ({low:.3f}, {high:.3f})" for mean, low, high in row.values())
        print(f"{variant:22}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def main() -> None:
    """Run all variants on all seeds and print the effects."""
    parser = argparse.ArgumentParser(description="measure the effect of each term on generated features")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[64])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    record = Record("terms")
    with ProcessPoolExecutor(options.processes) as pool:
        for width in options.widths:
            run_seed = partial(run, documents=options.documents, epochs=options.epochs, width=width)
            by_seed = []
            for measured in pool.map(run_seed, range(options.seeds)):
                by_seed.append(measured)
                print(f"D = {width}: {len(by_seed)} of {options.seeds} seeds", file=sys.stderr)
            title = f"D = {width}, {options.seeds} seeds"
            show(title, effects(by_seed))
            formats = dict.fromkeys(MEASURES, ".3f")
            record.keep(
                title, effects(by_seed), documents=options.documents, epochs=options.epochs, formats=formats
            )


if __name__ == "__main__":
    main()
