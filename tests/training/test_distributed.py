"""W gloo ranks on any split of a batch give the loss and the gradients of one process.

The whole objective is taken as `fit` computes it, on a real network in float64.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray.config import Config, FitConfig, LossConfig, ModelConfig, TaskConfig
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.batch import collate
from hilbert_ray.model.network import Network
from hilbert_ray.training import distributed
from hilbert_ray.training.objective import backward, diagnostics, objective_inputs, objective_terms
from tests import make

pytestmark = pytest.mark.usefixtures("one_thread")
DOCUMENTS = 31
SHARES = {
    "two ranks": (12, 19),
    "two ranks, one with one document": (30, 1),
    "three ranks, one without documents": (9, 0, 22),
}
CONFIG = Config(
    tasks={
        "state": TaskConfig(classes=("a", "b", "c", "d")),
        "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high"), imbalance="focal"),
        "heard": TaskConfig(kind="binary", classes=("no", "yes")),
        "tags": TaskConfig(kind="multilabel", classes=("p", "q"), imbalance="class_balanced"),
        "score": TaskConfig(kind="regression"),
    },
    model=ModelConfig(dim=16, dropout=0, wide_dropout=0, segment_dropout=0, modality_dropout=0),
    loss=LossConfig(
        task=1.0, contrastive=0.7, cka=0.9, balance=5.0, unimodal=0.5, load_balance=0.3, router_z=0.2,
        redundancy=0.4,
    ),
)  # fmt: skip
CACHED = replace(CONFIG, fit=FitConfig(micro_batch_size=4))
EVERYONE = np.arange(DOCUMENTS)


@cache
def documents() -> Features:
    """Return documents of which some lack a modality or labels, in groups, with tasks of all five kinds."""
    rng = np.random.default_rng(1)
    features = make.features(DOCUMENTS, groups=9, absent=0.15)
    tags = rng.integers(0, 2, (DOCUMENTS, 2)).astype(np.float32)
    tags[rng.random(tags.shape) < 0.4] = np.nan
    score = rng.normal(50, 9, DOCUMENTS).astype(np.float32)
    score[rng.random(DOCUMENTS) < 0.3] = np.nan
    for part in (features.audio, features.text):
        assert part is not None
        assert 0 < (part.lengths == 0).sum() < DOCUMENTS / 3, "some lack the modality"
    return replace(features, targets={**features.targets, "tags": tags, "score": score})


def network() -> Network:
    """Return the same network in every process, every weight disturbed so that no path is silent."""
    torch.manual_seed(0)
    net = Network(CONFIG, {"audio": 12, "text": 20})
    net.fit_statistics(documents(), EVERYONE)
    net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def step(own: np.ndarray, config: Config) -> dict[str, Any]:
    """Take one step of `fit` on this rank's documents."""
    net = network()
    model: nn.Module = net
    if dist.is_initialized() and not config.fit.micro_batch_size:
        model = DistributedDataParallel(net, broadcast_buffers=False, find_unused_parameters=True)
    terms, loss, seen = backward(model, documents(), own, config, config.loss)
    return {
        "loss": loss, "terms": terms.values(), "gradients": gradients(net),
        "figures": diagnostics(seen, CONFIG),
    }  # fmt: skip


def each_term(own: np.ndarray) -> dict[str, Any]:
    """Return the gradients of each term by itself."""
    by_term = {}
    for name in LossConfig.WEIGHTS:
        net = network()
        batch = collate(documents(), own)
        terms = objective_terms(objective_inputs(net(batch), batch, CONFIG), net, CONFIG)
        getattr(terms, name).backward()
        distributed.average_gradients(net.parameters())
        by_term[name] = gradients(net)
    return by_term


def variants(own: np.ndarray) -> dict[str, Any]:
    """Return the step's results under every other form of the alignment terms."""
    changes: dict[str, dict[str, Any]] = {
        "direct": {"contrast": "direct", "group_negatives": True},
        "both": {"contrast": "both", "group_negatives": True},
        "features, biased": {"cka_reference": "features", "cka_estimator": "biased"},
        "rbf, weaker, lin": {"cka_kernel": "rbf", "balance_gradient": "weaker", "penalty": "lin"},
        "smile": {"balance_estimator": "smile"},
    }
    return {
        name: step(own, replace(CACHED, loss=replace(CONFIG.loss, **change)))
        for name, change in changes.items()
    }


def collectives(own: np.ndarray) -> dict[str, Any]:
    """Return what the collectives give on this rank, for known inputs."""
    x = (torch.from_numpy(own).double() * (distributed.rank() + 1)).requires_grad_()
    gathered = distributed.all_gather_with_grad(x)
    (gathered * torch.arange(1.0, len(gathered) + 1)).sum().backward()  # type: ignore[no-untyped-call]
    one = torch.tensor(float(distributed.rank() + 1), dtype=torch.float64, requires_grad=True)
    summed = distributed.all_reduce_sum_with_grad(one)
    (summed * (distributed.rank() + 1)).backward()  # type: ignore[no-untyped-call]
    unlabelled = distributed.global_mean(torch.zeros(()), 0)
    return {
        "rank": distributed.rank(), "world_size": distributed.world_size(), "gathered": gathered.detach(),
        "gradient": x.grad, "even": distributed.all_gather_with_grad(torch.from_numpy(own) % 2 == 0),
        "rows": distributed.all_gather_with_grad(torch.from_numpy(own)), "summed": summed.detach(),
        "summed_gradient": one.grad, "unlabelled": unlabelled,
    }  # fmt: skip


STEPS: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "ddp": lambda own: step(own, CONFIG),
    "cache": lambda own: step(own, CACHED),
    "terms": each_term,
    "variants": variants,
    "collectives": collectives,
}


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in net.named_parameters()
    }


def run_rank(rank: int, folder: str) -> None:
    """Do every step on this rank's share of the documents, in each split in turn, and save what it gave."""
    torch.set_num_threads(1)
    for name, shares in SHARES.items():
        if rank >= len(shares):
            continue
        rendezvous = f"file://{folder}/{name}"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=len(shares))
        first = sum(shares[:rank])
        own = EVERYONE[first : first + shares[rank]]
        torch.save({step: take(own) for step, take in STEPS.items()}, f"{folder}/{name}-{rank}.pt")
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_split(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return what each rank of a process group gave, by split; the same processes are the ranks of all."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    spawn(run_rank, args=(str(folder),), nprocs=max(map(len, SHARES.values())))  # type: ignore[no-untyped-call]
    return {
        name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(len(shares))]
        for name, shares in SHARES.items()
    }


@pytest.fixture(scope="module", params=list(SHARES))
def ranks(request: pytest.FixtureRequest, by_split: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what each rank of one split gave."""
    return by_split[request.param]


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        difference = (actual[name] - gradient).abs().max()
        assert difference <= 1e-6 * gradient.abs().max() + 1e-12, f"{name} differs by {difference}"


@pytest.mark.parametrize("way", ["ddp", "cache"])
def test_any_split_gives_the_loss_and_gradients_of_one_process(ranks: list[dict[str, Any]], way: str) -> None:
    alone = step(EVERYONE, CONFIG)
    assert all(gradient.abs().max() > 1e-9 for gradient in alone["gradients"].values()), (
        "every parameter is tested"
    )
    for rank in ranks:
        torch.testing.assert_close(rank[way]["loss"], alone["loss"], rtol=1e-9, atol=0)
        assert_same_gradients(rank[way]["gradients"], alone["gradients"])


@pytest.mark.parametrize("way", ["ddp", "cache"])
def test_every_rank_logs_the_figures_of_the_global_batch(ranks: list[dict[str, Any]], way: str) -> None:
    alone = step(EVERYONE, CONFIG)
    assert all(value > 0 for value in alone["terms"].values())
    assert alone["figures"]["rows_both"] < alone["figures"]["rows_audio"] < DOCUMENTS
    for rank in ranks:
        assert rank[way]["terms"] == pytest.approx(alone["terms"], rel=1e-9)
        assert rank[way]["figures"] == pytest.approx(alone["figures"], rel=1e-9)


@pytest.mark.parametrize("term", LossConfig.WEIGHTS)
def test_each_term_alone_has_the_gradients_of_one_process(ranks: list[dict[str, Any]], term: str) -> None:
    alone = each_term(EVERYONE)[term]
    assert any(gradient.abs().max() > 1e-6 for gradient in alone.values())
    for rank in ranks:
        assert_same_gradients(rank["terms"][term], alone)


def test_every_form_of_the_terms_has_the_loss_and_gradients_of_one_process(
    ranks: list[dict[str, Any]],
) -> None:
    for name, alone in variants(EVERYONE).items():
        for rank in ranks:
            result = rank["variants"][name]
            torch.testing.assert_close(result["loss"], alone["loss"], rtol=1e-9, atol=0)
            assert_same_gradients(result["gradients"], alone["gradients"])


@pytest.mark.parametrize("size", [1, 7, 32])
def test_caching_gradients_of_the_network_changes_neither_loss_nor_gradients(size: int) -> None:
    config = replace(CONFIG, fit=FitConfig(micro_batch_size=size))
    plain, cached = step(EVERYONE, CONFIG), step(EVERYONE, config)
    torch.testing.assert_close(cached["loss"], plain["loss"], rtol=1e-12, atol=0)
    assert cached["terms"] == pytest.approx(plain["terms"], rel=1e-12)
    assert_same_gradients(cached["gradients"], plain["gradients"])


def test_rows_are_gathered_in_rank_order_and_gradients_summed_over_ranks(ranks: list[dict[str, Any]]) -> None:
    """Every rank weights row i by i + 1, so what comes back to its owner is W (i + 1)."""
    shares = [len(rank["collectives"]["gradient"]) for rank in ranks]
    world, rows = len(ranks), torch.arange(DOCUMENTS)
    factor = torch.cat([torch.full((share,), r + 1.0) for r, share in enumerate(shares)]).double()
    weight = torch.split((rows + 1.0).double() * world, shares)
    for r, rank in enumerate(ranks):
        given = rank["collectives"]
        assert (given["rank"], given["world_size"]) == (r, world)
        torch.testing.assert_close(given["gathered"], rows * factor)
        torch.testing.assert_close(given["gradient"], weight[r])
        assert torch.equal(given["even"], rows % 2 == 0)
        assert torch.equal(given["rows"], rows)


def test_sums_are_reduced_and_their_gradients_summed_over_ranks(ranks: list[dict[str, Any]]) -> None:
    everything = sum(range(1, len(ranks) + 1))
    for rank in ranks:
        assert rank["collectives"]["summed"] == everything
        assert rank["collectives"]["summed_gradient"] == everything
        assert rank["collectives"]["unlabelled"] == 0


def test_without_a_process_group_the_collectives_are_the_identity() -> None:
    x = torch.randn(3, 2)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.all_gather_with_grad(x) is x
    assert distributed.all_reduce_sum_with_grad(x) is x
    assert distributed.global_mean(torch.tensor(6.0), 4) == 1.5
    parameter = nn.Parameter(x)
    distributed.average_gradients([parameter])
    assert parameter.grad is None
