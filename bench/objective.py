"""What the objective costs, beside CLIP's loss and a matrix of all pairs, and what length buckets save.

Contrast: `losses.contrastive` (two pairs of embeddings), forward and backward on B documents, in row chunks
and with the whole B x B matrix (open_clip's ClipLoss of each pair, or plain torch where it is not installed).
Each runs in a process of its own, whose peak of memory above that before the call is the extra.
Objective: contrast, CKA and balance together beside ClipLoss twice.
Buckets: an epoch of training steps of the default network on documents of 1 to 400 segments, most of them
short, with batches drawn freely and by length; both hold the same documents.

The order of what is compared alternates between repeats.

    python -m bench.objective [--batch 16384] [--documents 2048] [--repeats 5] [--only contrast objective]
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hilbert_ray import batch, losses
from hilbert_ray.batch import Features, Ragged, collate, epoch_batches, mean_std
from hilbert_ray.config import Config, LossConfig, TaskConfig
from hilbert_ray.fit import backward
from hilbert_ray.model import Network

DIM = 256
SCALE = 14.3
BATCH_SIZE = 32
LONGEST = 400

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_clip_loss(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Return CLIP's loss as its paper writes it, from the matrix of all pairs."""
    logits, own = scale * x @ y.T, torch.arange(len(x))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def clip_loss() -> tuple[str, Callable[[Tensor, Tensor, float], Tensor]]:
    """Return open_clip's ClipLoss, read from its file alone, or plain torch where it is not installed."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        return "plain torch", plain_clip_loss
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(package.origin).with_name("loss.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return "open_clip's ClipLoss", module.ClipLoss()


def dense(audio: Tensor, text: Tensor, joint: Tensor) -> Tensor:
    """Return the contrast of both pairs by the peer, on normalised rows."""
    peer = clip_loss()[1]
    a, t, j = (F.normalize(x, dim=1) for x in (audio, text, joint))
    return (peer(a, j, SCALE) + peer(t, j, SCALE)) / 2


def chunked(audio: Tensor, text: Tensor, joint: Tensor) -> Tensor:
    """Return our contrast in row chunks."""
    return losses.contrastive(audio, text, joint, SCALE, chunk=losses.alignment.CHUNK)


def objective(audio: Tensor, text: Tensor, joint: Tensor) -> Tensor:
    """Return contrast, CKA and balance with their default weights."""
    terms = losses.Terms(
        contrastive=losses.contrastive(audio, text, joint, SCALE),
        cka=losses.cka_loss(audio, text, joint),
        balance=losses.balance(audio, text, joint, SCALE),
    )
    return losses.total(terms, LossConfig())


LOSSES: dict[str, Loss] = {"dense": dense, "chunked": chunked, "objective": objective}


def embeddings(rows: int) -> list[Tensor]:
    """Return audio, text and joint embeddings that want gradients."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(rows, DIM, generator=draw).requires_grad_() for _ in range(3)]


def seconds(loss: Loss, inputs: Sequence[Tensor]) -> float:
    """Return the time of one forward and backward pass."""
    began = time.perf_counter()
    loss(*inputs).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began


def measure(name: str, rows: int, threads: int) -> None:
    """Print, as JSON, the time of a loss in this process and by how many bytes its peak rises."""
    torch.set_num_threads(threads)
    seconds(LOSSES[name], embeddings(512))  # libraries are loaded, and threads started
    inputs = embeddings(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = seconds(LOSSES[name], inputs)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": took, "bytes": 1024 * (after - before)}))


def contrast(rows: int, repeats: int, threads: int) -> None:
    """Compare the chunked contrast with the dense one in time and memory."""
    found: dict[str, list[dict[str, float]]] = {"dense": [], "chunked": []}
    for repeat in range(repeats):
        for name in sorted(found, reverse=repeat % 2 == 1):
            arguments = ["--measure", name, "--batch", str(rows), "--threads", str(threads)]
            shown = subprocess.run(
                [sys.executable, "-m", "bench.objective", *arguments],
                check=True,
                capture_output=True,
                text=True,
            )
            found[name].append(json.loads(shown.stdout))
    print(f"\nContrast of B = {rows}, D = {DIM}, {threads} threads; dense is {clip_loss()[0]} of both pairs")
    table({name: [one["seconds"] for one in runs] for name, runs in found.items()}, "dense")
    for name, runs in found.items():
        print(f"{name:12} extra memory {max(one['bytes'] for one in runs) / 1e6:8.0f} MB")


def whole(rows: int, repeats: int, threads: int) -> None:
    """Compare the alignment objective with ClipLoss on the same two pairs."""
    torch.set_num_threads(threads)
    inputs = embeddings(rows)
    found: dict[str, list[float]] = {"dense": [], "objective": []}
    for name in found:
        seconds(LOSSES[name], inputs)
    for repeat in range(3 * repeats):
        for name in sorted(found, reverse=repeat % 2 == 1):
            found[name].append(seconds(LOSSES[name], inputs))
    print(f"\nContrast, CKA and balance of B = {rows}, D = {DIM}; dense is {clip_loss()[0]} twice")
    table(found, "dense")


def documents(count: int) -> Features:
    """Return documents of 1 to 400 segments, skewed: half of them have fewer than 40."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(40), 1.1, count), 1, LONGEST).astype(np.int64)

    def part(share: float, dim: int) -> Ragged:
        own = np.maximum((lengths * share).astype(np.int64), 1)
        offsets = np.concatenate([[0], own.cumsum()]).astype(np.int64)
        values = rng.standard_normal((offsets[-1], dim), np.float32)
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in own]).astype(np.float32)
        wide = np.stack([mean_std(values[a:b]) for a, b in pairwise(offsets)])
        return Ragged(values=values, position=place, start=place, end=place, offsets=offsets, wide=wide)

    return Features(
        doc_ids=np.arange(count).astype(str), groups=np.arange(count), audio=part(1, 64), text=part(0.8, 64),
        targets={"pattern": rng.integers(0, 4, count)},
    )  # fmt: skip


def buckets(count: int, repeats: int, threads: int) -> None:
    """Compare an epoch of steps on batches drawn freely with one on batches of similar length."""
    torch.set_num_threads(threads)
    features, everyone = documents(count), np.arange(count)
    config = Config(tasks={"pattern": TaskConfig(classes=("a", "b", "c", "d"))})
    torch.manual_seed(0)
    network = Network(config, {"audio": 64, "text": 64}).train()
    network.fit_statistics(features, everyone)
    found: dict[str, list[float]] = {"free": [], "by length": []}
    waste: dict[str, float] = {}
    for repeat in range(repeats):
        for name in sorted(found, reverse=repeat % 2 == 1):
            lengths = features.lengths if name == "by length" else None
            parts = epoch_batches(everyone, BATCH_SIZE, np.random.default_rng(repeat), lengths)
            padded = [collate(features, part).audio_mask for part in parts]
            waste[name] = 1 - sum(int(m.sum()) for m in padded if m is not None) / sum(
                m.numel() for m in padded if m is not None
            )
            began = time.perf_counter()
            for part in parts:
                network.zero_grad()
                backward(network, features, part, config, config.loss)
            found[name].append(time.perf_counter() - began)
    assert count > batch.LENGTH_BUCKETS_FROM, "fewer documents are never bucketed"
    print(f"\nAn epoch of {count} documents of 1 to {LONGEST} segments in batches of {BATCH_SIZE}")
    table(found, "free")
    for name, share in waste.items():
        print(f"{name:12} padding {100 * share:5.1f} % of audio segments")


def table(found: dict[str, list[float]], base: str) -> None:
    """Print the median and range of each, and its ratio to the baseline."""
    plain = statistics.median(found[base])
    print(f"{'':12}{'median':>10}{'least':>10}{'most':>10}{'ratio':>8}")
    for name, times in found.items():
        median = statistics.median(times)
        print(f"{name:12}{median:9.3f}s{min(times):9.3f}s{max(times):9.3f}s{median / plain:8.2f}")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description="time and weigh the objective")
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--documents", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=["contrast", "objective", "buckets"])
    parser.add_argument("--measure", choices=LOSSES, help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.measure:
        measure(given.measure, given.batch, given.threads)
        return
    if "contrast" in given.only:
        contrast(given.batch, given.repeats, given.threads)
    if "objective" in given.only:
        whole(2048, given.repeats, given.threads)
    if "buckets" in given.only:
        buckets(given.documents, given.repeats, given.threads)


if __name__ == "__main__":
    main()
