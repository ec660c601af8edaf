"""What does the objective cost compared with CLIP's loss, and how much do length buckets save?

Contrast: `losses.contrastive` (two pairs of embeddings), forward and backward on B documents, in row chunks
and with the whole B x B matrix (open_clip's ClipLoss of each pair, or plain torch if it is not installed).
Each runs in its own process; extra memory is its peak beyond that before the call. Objective: contrast, CKA
and balance together, compared with ClipLoss twice. Buckets: an epoch of training steps of the default network
on documents of 1 to 400 segments, most of them short, with batches drawn freely or by length; both see the
same documents.

The order alternates between repeats.

    python -m bench.objective [--batch 1024 4096 16384] [--documents 2048] [--repeats 5] [--only contrast]
"""

import argparse
import importlib.util
import json
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import FITTED, Bar, Record, in_process, turns
from hilbert_ray import losses
from hilbert_ray.config import Config, LossConfig, TaskConfig
from hilbert_ray.features import LENGTH_BUCKETS_FROM, Features, Ragged, collate, epoch_batches, mean_std
from hilbert_ray.model import Network
from hilbert_ray.training import backward

DIM = 256
SCALE = 14.3
BATCH_SIZE = 32
LONGEST = 400
PARTS = ("contrast", "objective", "buckets")

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_clip_loss(x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Return CLIP's loss as in its paper, from the matrix of all pairs."""
    logits, own = scale * x @ y.T, torch.arange(len(x))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def clip_loss() -> tuple[str, Callable[[Tensor, Tensor, float], Tensor]]:
    """Return the name and function of open_clip's ClipLoss, or of plain torch if it is not installed.

    Only its file is loaded: the package would import torchvision, which has no build for a CPU-only torch.
    """
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
    """Return the peer's contrast of both pairs, on normalised rows."""
    peer = clip_loss()[1]
    a, t, j = (F.normalize(x, dim=1) for x in (audio, text, joint))
    return (peer(a, j, SCALE) + peer(t, j, SCALE)) / 2


def chunked(audio: Tensor, text: Tensor, joint: Tensor) -> Tensor:
    """Return our contrast in row chunks."""
    return losses.contrastive(audio, text, joint, SCALE, chunk=losses.contrast.CHUNK_ROWS)


def objective(audio: Tensor, text: Tensor, joint: Tensor) -> Tensor:
    """Return contrast, CKA and balance with their default weights."""
    terms = losses.Terms(
        contrastive=losses.contrastive(audio, text, joint, SCALE),
        cka=losses.cka_loss(audio, text, joint),
        balance=losses.balance(audio, text, joint, SCALE),
    )
    return losses.weighted_sum(terms, LossConfig())


LOSSES: dict[str, Loss] = {"dense": dense, "chunked": chunked, "objective": objective}


def embeddings(rows: int) -> list[Tensor]:
    """Return audio, text and joint embeddings that require gradients."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(rows, DIM, generator=draw).requires_grad_() for _ in range(3)]


def seconds(loss: Loss, inputs: Sequence[Tensor]) -> float:
    """Return the time of one forward and backward pass, seconds."""
    began = time.perf_counter()
    loss(*inputs).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began


def measure(name: str, rows: int, threads: int) -> None:
    """Print, as JSON, how long a loss takes in this process and by how many bytes the peak memory rises."""
    torch.set_num_threads(threads)
    seconds(LOSSES[name], embeddings(512))  # loads libraries and starts threads
    inputs = embeddings(rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    elapsed = seconds(LOSSES[name], inputs)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": elapsed, "bytes": 1024 * (after - before)}))


def contrast(record: Record, settings: argparse.Namespace) -> None:
    """Compare the chunked contrast with the dense one in time and memory, at each size."""
    extra: dict[int, float] = {}
    for rows in settings.batch:
        names = ["dense", "chunked"] if rows <= settings.dense_most else ["chunked"]
        megabytes: dict[str, list[float]] = {name: [] for name in names}

        def run(name: str, rows: int = rows, extra_mb: dict[str, list[float]] = megabytes) -> float:
            arguments = ("--measure", name, "--batch", str(rows), "--threads", str(settings.threads))
            measured = in_process("bench.objective", *arguments)
            extra_mb[name].append(measured["bytes"] / 1e6)
            return float(measured["seconds"])

        times = turns({name: partial(run, name) for name in names}, settings.repeats)
        title = f"contrast of B = {rows}, D = {DIM}, {settings.threads} threads"
        base = names[0]
        record.table(
            f"{title}; dense is {clip_loss()[0]} of both pairs", "s", times, base,
            [Bar(row="chunked", against="dense", most=1.2)],
        )  # fmt: skip
        limits = [Bar(row="chunked", most=300)] if rows <= 16_384 else []
        record.table(f"{title}, extra memory", "MB", megabytes, base, limits)
        extra[rows] = max(megabytes["chunked"])
    by_size = {f"B = {rows}": [value] for rows, value in extra.items()}
    record.table(
        "chunked contrast, extra memory by size", "MB", by_size, sizes=list(extra),
        bars=[Bar(row=FITTED, most=1.05)],
    )  # fmt: skip


def whole(record: Record, rows: int, settings: argparse.Namespace) -> None:
    """Compare the alignment objective with ClipLoss on the same two pairs."""
    torch.set_num_threads(settings.threads)
    inputs = embeddings(rows)
    actions = {name: partial(seconds, LOSSES[name], inputs) for name in ("dense", "objective")}
    for action in actions.values():
        action()
    record.table(
        f"contrast, CKA and balance of B = {rows}, D = {DIM}; dense is {clip_loss()[0]} twice", "s",
        turns(actions, 3 * settings.repeats), "dense", [Bar(row="objective", against="dense", most=1.5)],
    )  # fmt: skip


def documents(count: int) -> Features:
    """Return documents of 1 to 400 segments; half of them have fewer than 40."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(40), 1.1, count), 1, LONGEST).astype(np.int64)

    def ragged(scale: float, dim: int) -> Ragged:
        own = np.maximum((lengths * scale).astype(np.int64), 1)
        offsets = np.concatenate([[0], own.cumsum()]).astype(np.int64)
        values = rng.standard_normal((offsets[-1], dim), np.float32)
        place = np.concatenate([(np.arange(n) + 0.5) / n for n in own]).astype(np.float32)
        wide = np.stack([mean_std(values[a:b]) for a, b in pairwise(offsets)])
        return Ragged(values=values, position=place, start=place, end=place, offsets=offsets, wide=wide)

    return Features(
        doc_ids=np.arange(count).astype(str), groups=np.arange(count),
        audio=ragged(1, 64), text=ragged(0.8, 64),
        targets={"pattern": rng.integers(0, 4, count)},
    )  # fmt: skip


def buckets(record: Record, count: int, settings: argparse.Namespace) -> None:
    """Compare an epoch of freely drawn batches with one of batches of similar length."""
    assert count > LENGTH_BUCKETS_FROM, "fewer documents are never bucketed"
    torch.set_num_threads(settings.threads)
    features, everyone = documents(count), np.arange(count)
    config = Config(tasks={"pattern": TaskConfig(classes=("a", "b", "c", "d"))})
    torch.manual_seed(0)
    network = Network(config, {"audio": 64, "text": 64}).train()
    network.fit_statistics(features, everyone)
    times: dict[str, list[float]] = {"free": [], "by length": []}
    padding: dict[str, list[float]] = {"free": [], "by length": []}
    for repeat in range(settings.repeats):
        for name in sorted(times, reverse=repeat % 2 == 1):
            lengths = features.lengths if name == "by length" else None
            batches = epoch_batches(everyone, BATCH_SIZE, np.random.default_rng(repeat), lengths)
            masks = [collate(features, batch).by_modality["audio"].mask for batch in batches]
            full = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
            padding[name].append(100 * (1 - full))
            began = time.perf_counter()
            for batch in batches:
                network.zero_grad()
                backward(network, features, batch, config, config.loss)
            times[name].append(time.perf_counter() - began)
    title = f"an epoch of {count} documents of 1 to {LONGEST} segments in batches of {BATCH_SIZE}"
    record.table(title, "s", times, "free", [Bar(row="by length", against="free", most=1 / 1.8)])
    record.table(f"{title}, padding", "% of audio segments", padding)


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1024, 4096, 16384], help="batch sizes of contrast"
    )
    parser.add_argument("--dense-most", type=int, default=16384, help="largest batch for the dense contrast")
    parser.add_argument("--documents", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--measure", choices=LOSSES, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.measure:
        measure(settings.measure, settings.batch[0], settings.threads)
        return
    record = Record("objective")
    if "contrast" in settings.only:
        contrast(record, settings)
    if "objective" in settings.only:
        whole(record, 2048, settings)
    if "buckets" in settings.only:
        buckets(record, settings.documents, settings)


if __name__ == "__main__":
    main()
