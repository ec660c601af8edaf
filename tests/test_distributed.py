"""W gloo ranks on any split of a batch give the loss and the gradients of one process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from hilbert_ray import distributed, losses
from hilbert_ray.config import LossConfig, TaskConfig
from hilbert_ray.fusion import SelfAttentivePool, redundancy_penalty
from hilbert_ray.moe import load_balance_loss, router_z_loss

DOCUMENTS, SEGMENTS, WIDTH, EXPERTS = 23, 5, 6, 4
SHARES = {"two ranks": (15, 8), "three ranks, one without documents": (9, 0, 14)}
WEIGHTS = LossConfig(
    task=1.0,
    contrastive=0.7,
    cka=0.9,
    balance=5.0,
    unimodal=0.5,
    load_balance=0.3,
    router_z=0.2,
    redundancy=0.4,
)
LABEL = TaskConfig(kind="multiclass", classes=("a", "b", "c"))
SCORES = TaskConfig(kind="multilabel", classes=("p", "q"), imbalance="class_balanced")
Documents = dict[str, Tensor]


def documents() -> Documents:
    """Return documents of which some lack a modality or labels, and some share a group."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.arange(DOCUMENTS)
    audio, text = (
        torch.randn(DOCUMENTS, SEGMENTS, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2)
    )
    label = torch.randint(-1, 3, (DOCUMENTS,), generator=draw)
    scores = torch.randint(0, 2, (DOCUMENTS, 2), generator=draw).double()
    scores[torch.rand(DOCUMENTS, 2, generator=draw) < 0.4] = torch.nan
    return {
        "audio": audio, "text": text, "audio_present": rows % 5 != 1, "text_present": rows % 7 != 3,
        "group": rows // 2, "label": label, "scores": scores,
    }  # fmt: skip


class Toy(nn.Module):
    """The smallest network with every kind of output that a term reads."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.audio, self.text = SelfAttentivePool(WIDTH, hops=2), SelfAttentivePool(WIDTH, hops=2)
        self.joint = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout))
        self.label, self.scores = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 2)
        self.audio_label = nn.Linear(WIDTH, 3)
        self.router = nn.Linear(WIDTH, 2 * EXPERTS)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.to(torch.float64)

    def forward(self, batch: Documents) -> dict[str, Tensor]:
        everywhere = torch.ones(batch["audio"].shape[:2], dtype=torch.bool)
        audio, audio_attention = self.audio(batch["audio"], everywhere)
        text, text_attention = self.text(batch["text"], everywhere)
        joint = self.joint(torch.cat([audio, text], 1))
        given = {name: batch[name] for name in ("audio_present", "text_present", "group", "label", "scores")}
        return given | {
            "a": audio, "t": text, "j": joint, "router": self.router(joint).unflatten(1, (2, EXPERTS)),
            "label_logits": self.label(joint), "score_logits": self.scores(joint),
            "audio_label_logits": self.audio_label(audio),
            "redundancy": redundancy_penalty(audio_attention) + redundancy_penalty(text_attention),
        }  # fmt: skip


def objective(
    output: dict[str, Tensor], logit_scale: Tensor, chunk: int | None
) -> tuple[losses.Terms, Tensor]:
    """Return the terms and their total over the global batch, on whatever part of it this rank has."""
    gather, scale = distributed.all_gather_with_grad, logit_scale.exp()
    a, t, j, group, router = (gather(output[name]) for name in ("a", "t", "j", "group", "router"))
    audio_present, text_present = gather(output["audio_present"]), gather(output["text_present"])
    whole = documents()
    label_statistics = losses.label_statistics(LABEL, whole["label"]).double()
    score_statistics = losses.label_statistics(SCORES, whole["scores"]).double()
    label = losses.task_loss(LABEL, output["label_logits"], output["label"], label_statistics)
    scores = losses.task_loss(SCORES, output["score_logits"], output["scores"], score_statistics)
    unimodal = losses.task_loss(LABEL, output["audio_label_logits"], output["label"], label_statistics)
    terms = losses.Terms(
        task=distributed.global_mean(*label) + distributed.global_mean(*scores),
        contrastive=losses.contrastive(
            a, t, j, scale, group, audio_present=audio_present, text_present=text_present, chunk=chunk
        ),
        cka=losses.cka_loss(a, t, j, audio_present=audio_present, text_present=text_present),
        balance=losses.balance(
            a, t, j, scale, audio_present=audio_present, text_present=text_present, chunk=chunk
        ),
        unimodal=distributed.global_mean(*unimodal),
        load_balance=load_balance_loss(router, top_k=2),
        router_z=router_z_loss(router),
        redundancy=distributed.global_mean(output["redundancy"].sum(), len(output["redundancy"])),
    )
    return terms, losses.total(terms, WEIGHTS)


def step_with_ddp(batch: Documents) -> dict[str, Any]:
    """Take a step as `fit` does."""
    network = _network()
    model = DistributedDataParallel(network) if dist.is_initialized() else network
    terms, loss = objective(model(batch), network.logit_scale, chunk=None)
    loss.backward()  # type: ignore[no-untyped-call]
    return _result(network, loss) | {"terms": terms.values()}


def step_with_cache(batch: Documents) -> dict[str, Any]:
    """Take a step with embedding-gradient caching, in micro batches of 4 documents, and chunked contrast."""
    network = _network()
    parts = [
        {name: x[i : i + 4] for name, x in batch.items()} for i in range(0, max(len(batch["audio"]), 1), 4)
    ]
    loss = losses.cached_backward(
        network, parts, lambda output: objective(output, network.logit_scale, chunk=3)[1]
    )
    distributed.average_gradients(network.parameters())
    return _result(network, loss)


def each_term(batch: Documents) -> dict[str, Any]:
    """Return the gradients of each term by itself."""
    gradients = {}
    for name in LossConfig.WEIGHTS:
        network = _network()
        terms, _ = objective(network(batch), network.logit_scale, chunk=None)
        getattr(terms, name).backward()
        distributed.average_gradients(network.parameters())
        gradients[name] = _result(network, getattr(terms, name))["gradients"]
    return gradients


def collectives(batch: Documents) -> dict[str, Any]:
    """Return what the collectives give on this rank, for known inputs."""
    x = (batch["audio"][:, 0, 0] * (distributed.rank() + 1)).requires_grad_()
    gathered = distributed.all_gather_with_grad(x)
    (gathered * torch.arange(1.0, len(gathered) + 1)).sum().backward()  # type: ignore[no-untyped-call]
    own = torch.tensor(float(distributed.rank() + 1), dtype=torch.float64, requires_grad=True)
    summed = distributed.all_reduce_sum_with_grad(own)
    (summed * (distributed.rank() + 1)).backward()  # type: ignore[no-untyped-call]
    unlabelled = distributed.global_mean(torch.zeros(()), 0)
    return {
        "rank": distributed.rank(), "world_size": distributed.world_size(), "gathered": gathered.detach(),
        "gradient": x.grad, "present": distributed.all_gather_with_grad(batch["audio_present"]),
        "group": distributed.all_gather_with_grad(batch["group"]), "summed": summed.detach(),
        "summed_gradient": own.grad, "unlabelled": unlabelled,
    }  # fmt: skip


STEPS: dict[str, Callable[[Documents], dict[str, Any]]] = {
    "ddp": step_with_ddp, "cache": step_with_cache, "terms": each_term, "collectives": collectives,
}  # fmt: skip


def _network() -> Toy:
    torch.manual_seed(1)
    return Toy()


def _result(network: nn.Module, loss: Tensor) -> dict[str, Any]:
    gradients = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters()
    }
    return {"loss": loss.detach(), "gradients": gradients}


def run_rank(rank: int, shares: tuple[int, ...], folder: str) -> None:
    """Do every step on this rank's share of the documents and save what it gave."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(shares))
    first = sum(shares[:rank])
    share = {name: x[first : first + shares[rank]] for name, x in documents().items()}
    torch.save({name: step(share) for name, step in STEPS.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=list(SHARES.values()), ids=list(SHARES))
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each rank of a process group gave."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    spawn(run_rank, args=(request.param, str(folder)), nprocs=len(request.param))  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(request.param))]


def _assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        difference = (found[name] - gradient).abs().max()
        assert difference <= 1e-6 * gradient.abs().max() + 1e-12, f"{name} differs by {difference}"


@pytest.mark.parametrize("way", ["ddp", "cache"])
def test_any_split_gives_the_loss_and_gradients_of_one_process(ranks: list[dict[str, Any]], way: str) -> None:
    alone = step_with_ddp(documents())
    assert all(gradient.abs().max() > 1e-6 for gradient in alone["gradients"].values()), (
        "every parameter is tested"
    )
    for rank in ranks:
        torch.testing.assert_close(rank[way]["loss"], alone["loss"], rtol=1e-9, atol=0)
        _assert_same_gradients(rank[way]["gradients"], alone["gradients"])


def test_every_rank_logs_the_terms_of_the_global_batch(ranks: list[dict[str, Any]]) -> None:
    alone = step_with_ddp(documents())["terms"]
    assert all(value > 0 for value in alone.values())
    for rank in ranks:
        assert rank["ddp"]["terms"] == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("term", LossConfig.WEIGHTS)
def test_each_term_alone_has_the_gradients_of_one_process(ranks: list[dict[str, Any]], term: str) -> None:
    alone = each_term(documents())[term]
    assert any(gradient.abs().max() > 1e-6 for gradient in alone.values())
    for rank in ranks:
        _assert_same_gradients(rank["terms"][term], alone)


def test_rows_are_gathered_in_rank_order_and_gradients_summed_over_ranks(ranks: list[dict[str, Any]]) -> None:
    """Every rank weights row i by i + 1, so what comes back to its owner is W (i + 1)."""
    shares = [len(rank["collectives"]["gradient"]) for rank in ranks]
    world, whole = len(ranks), documents()
    factor = torch.cat([torch.full((share,), r + 1.0) for r, share in enumerate(shares)])
    weight = torch.split((torch.arange(1.0, DOCUMENTS + 1) * world).double(), shares)
    for r, rank in enumerate(ranks):
        given = rank["collectives"]
        assert (given["rank"], given["world_size"]) == (r, world)
        torch.testing.assert_close(given["gathered"], whole["audio"][:, 0, 0] * factor)
        torch.testing.assert_close(given["gradient"], weight[r])
        assert torch.equal(given["present"], whole["audio_present"])
        assert torch.equal(given["group"], whole["group"])


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
