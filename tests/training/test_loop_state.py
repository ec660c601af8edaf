"""What the loop is made of, without the loop: schedule, phases, early stopping, plans."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.model.network import Network
from hilbert_ray.training.loop_state import LoopState
from hilbert_ray.training.networks import NetworkJob, new_network, plan_networks
from hilbert_ray.training.optimization import (
    learning_rate_factor,
    new_optimizer,
    phase_weights,
    set_learning_rate,
)
from tests import make

TASKS = {
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
}
CONFIG = Config(
    tasks=TASKS,
    model=ModelConfig(dim=16, hops=2),
    fit=FitConfig(epochs=4, seeds=2, batch_size=16, patience=2),
    folds=FoldsConfig(inner=2),
)
pytestmark = pytest.mark.usefixtures("one_thread")


def begun(config: Config = CONFIG, number: int = 0, history: list[dict[str, Any]] | None = None) -> LoopState:
    """Return the state of one of three jobs of 10, 20 and 30 documents before its first epoch."""
    jobs = [NetworkJob(name=f"seed {i}", seed=i, train=np.arange(10 * (i + 1))) for i in range(3)]
    network = new_network(config, make.features(40), jobs[number])
    return LoopState.begin(config, jobs, number, network, {}, history if history is not None else [])


def records(losses: list[float], job: str = "seed 0") -> list[dict[str, Any]]:
    return [{"job": job, "epoch": i, "validation_loss": loss} for i, loss in enumerate(losses)]


# Schedule and phases


@settings(deadline=None)
@given(
    epochs=st.integers(1, 9), align_epochs=st.integers(0, 3), per_epoch=st.integers(1, 20),
    warmup=st.floats(0, 0.9),
)  # fmt: skip
def test_the_learning_rate_warms_up_in_a_line_and_falls_as_a_cosine(
    epochs: int, align_epochs: int, per_epoch: int, warmup: float
) -> None:
    config = replace(CONFIG, fit=replace(CONFIG.fit, epochs=epochs, align_epochs=align_epochs, warmup=warmup))
    first = 0
    for total in (align_epochs * per_epoch, epochs * per_epoch):  # each phase has its own
        steps = range(first, first + total)
        factors = np.array([learning_rate_factor(config, step, per_epoch) for step in steps])
        assert ((factors > 0) & (factors <= 1)).all()
        rising = np.arange(total) < warmup * total
        assert (np.diff(factors[rising]) > 0).all()
        assert (np.diff(factors[~rising]) < 0).all()
        progress = (np.arange(total)[~rising] - warmup * total) / (total - warmup * total)
        np.testing.assert_allclose(factors[~rising], np.cos(np.pi * progress / 2) ** 2, atol=1e-12)
        first += total


def test_the_learning_rate_is_set_for_all_weights() -> None:
    network = Network(CONFIG, {"audio": 12, "text": 20})
    optimizer = new_optimizer(network, CONFIG)
    set_learning_rate(optimizer, CONFIG, 0, 10)
    expected = CONFIG.fit.learning_rate * learning_rate_factor(CONFIG, 0, 10)
    assert [group["lr"] for group in optimizer.param_groups] == [expected, expected]
    decayed, others = (group["params"] for group in optimizer.param_groups)
    assert {p.dim() for p in decayed} == {2}
    assert {p.dim() for p in others} == {0, 1}
    assert len(decayed) + len(others) == len(list(network.parameters()))


def test_only_the_align_phase_leaves_out_the_terms_of_labels() -> None:
    config = replace(CONFIG, fit=replace(CONFIG.fit, align_epochs=2))
    aligning = replace(config.loss, task=0.0, unimodal=0.0)
    assert [phase_weights(config, epoch) for epoch in range(4)] == [aligning] * 2 + [config.loss] * 2
    assert phase_weights(CONFIG, 0) == CONFIG.loss


# The state of the loop


def test_an_epochs_randomness_depends_on_seed_network_and_epoch_alone() -> None:
    draws = []
    for number, epoch in ((0, 0), (0, 1), (1, 0)):
        state = begun(number=number)
        state.epoch = epoch
        sampler = state.seed_epoch()
        drawn = (float(torch.rand(())), float(sampler.random()))
        torch.rand(5)
        again = state.seed_epoch()
        assert (float(torch.rand(())), float(again.random())) == drawn
        draws.append(drawn)
    assert len({torch_draw for torch_draw, _ in draws}) == 3
    assert len({sampler_draw for _, sampler_draw in draws}) == 3


def test_a_network_is_done_when_its_validation_loss_has_not_fallen_for_the_patience() -> None:
    state = begun(history=records([3.0, 1.0, 2.0]))
    state.epoch = 3
    assert (state.epochs_since_best(), state.is_done) == (1, False)
    state.history.extend(records([0.5], job="seed 1"))  # of another network
    assert (state.epochs_since_best(), state.is_done) == (1, False)
    state.history.extend(records([2.0]))
    assert (state.epochs_since_best(), state.is_done) == (2, True)
    patient = begun(replace(CONFIG, fit=replace(CONFIG.fit, patience=0)), history=records([1.0, 2.0, 3.0]))
    assert not patient.is_done
    patient.epoch = 4
    assert patient.is_done, "all epochs are done"


def test_the_best_network_is_a_copy_of_the_weights_at_the_least_validation_loss() -> None:
    state = begun(history=records([3.0, 1.0]))
    before = state.network.audio.project.weight.detach().clone()
    state.keep_if_best()
    with torch.no_grad():
        state.network.audio.project.weight.add_(1)
    state.history.extend(records([2.0]))
    state.keep_if_best()
    assert torch.equal(state.best["audio.project.weight"], before)


def test_the_time_left_counts_this_networks_epochs_and_all_of_later_ones() -> None:
    state = begun(number=1)
    state.epoch = 2  # of 4; network 1 has 20 documents, network 2 has 30
    assert state.timing(5.0) == {"documents_per_s": 4.0, "left_s": (20 * 1 + 30 * 4) / 4.0}


def test_a_state_restored_from_its_checkpoint_is_the_same() -> None:
    config = replace(CONFIG, fit=replace(CONFIG.fit, ema=0.5))
    state = begun(config, history=records([1.0]))
    for parameter in state.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    assert state.average is not None
    state.average.update_parameters(state.network)
    state.epoch = 1
    state.keep_if_best()
    saved = state.checkpoint()
    fresh = new_network(config, make.features(40), state.job)
    restored = LoopState.begin(config, state.jobs, 0, fresh, {}, list(saved.history), saved).checkpoint()
    assert (restored.job, restored.epoch, restored.history) == (saved.job, saved.epoch, saved.history)
    for name in ("network", "optimizer", "best", "average"):
        tensors, expected = getattr(restored, name), getattr(saved, name)
        assert sorted(tensors) == sorted(expected)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in tensors.items()), name


# Plans


def test_inner_folds_come_first_and_hold_out_each_training_document_once() -> None:
    features, indices = make.features(60), np.arange(5, 55)
    jobs = plan_networks(CONFIG, features, indices)
    assert [job.name for job in jobs] == ["inner 0", "inner 1", "seed 0", "seed 1"]
    assert sorted(np.concatenate([job.test for job in jobs if job.test is not None])) == indices.tolist()
    for job in jobs[:2]:
        assert job.test is not None
        assert sorted([*job.train, *job.test]) == indices.tolist()
        assert not set(features.groups[job.train]) & set(features.groups[job.test])
    assert all(job.test is None and job.train.tolist() == indices.tolist() for job in jobs[2:])


@pytest.mark.parametrize(
    ("labelled", "rare", "is_used"),
    [(1200, 0.3, True), (1200, 0.05, False), (900, 0.3, False), (0, 0.0, False)],
)
def test_early_stopping_counts_labels_and_groups_of_the_rarest_class(
    labelled: int, rare: float, is_used: bool
) -> None:
    """1,500 documents: it is judged by a tenth of the labelled ones, or there is none."""
    heard = np.full(1500, -1)
    heard[:labelled] = np.arange(labelled) < rare * labelled
    ids = np.arange(1500)
    features = replace(
        make.features(4, absent=0.0), doc_ids=ids.astype(str), groups=ids, audio=None, text=None,
        targets={"heard": heard},
    )  # fmt: skip
    config = replace(
        CONFIG,
        tasks={"heard": TaskConfig(kind="binary", classes=("no", "yes"))},
        fit=FitConfig(seeds=1),
        folds=FoldsConfig(inner=0),
    )
    [job] = plan_networks(config, features, ids)
    assert (job.validation is not None) == is_used
    if job.validation is not None:
        assert (heard[job.validation] >= 0).sum() > 60
        assert (heard[job.validation] == 1).sum() > 10
