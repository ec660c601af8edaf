"""The training loop: determinism, resume, ranks, phases, leakage."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.multiprocessing.spawn import spawn

from hilbert_ray import losses
from hilbert_ray.config import (
    Config,
    FitConfig,
    FoldsConfig,
    LossConfig,
    Modality,
    ModelConfig,
    TaskConfig,
)
from hilbert_ray.features.arrays import Features, Ragged
from hilbert_ray.features.batch import collate
from hilbert_ray.model.network import Network
from hilbert_ray.training.checkpoints import TrainingState, read_state, write_state
from hilbert_ray.training.loop import EpochReport, NotFiniteError, TrainedNetworks, fit
from hilbert_ray.training.networks import plan_networks
from hilbert_ray.training.objective import backward, diagnostics, objective_inputs, objective_terms
from tests import make

TASKS = {
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
}
STILL = ModelConfig(dim=16, hops=2, dropout=0.0, wide_dropout=0.0, segment_dropout=0.0, modality_dropout=0.0)
CONFIG = Config(
    tasks=TASKS,
    model=ModelConfig(dim=16, hops=2),
    fit=FitConfig(epochs=4, seeds=2, batch_size=16),
    folds=FoldsConfig(inner=2),
)
TRAIN = np.arange(48)
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_same_seed_gives_the_same_numbers() -> None:
    features = make.features(60)
    first, second = fit(CONFIG, features, TRAIN), fit(CONFIG, features, TRAIN)
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]
    assert first.heads == second.heads
    p, q = (one.model().predict(features).probabilities["state"] for one in (first, second))
    np.testing.assert_array_equal(p, q)


def test_training_learns_what_needs_both_modalities() -> None:
    features = make.features(160, groups=20, absent=0.0)
    config = Config(tasks=TASKS, fit=FitConfig(epochs=15, seeds=1), folds=FoldsConfig(inner=0))
    prediction = fit(config, features, np.arange(110)).model().predict(features)
    test = np.arange(110, 160)
    known = test[features.targets["state"][test] >= 0]
    right = prediction.decisions["state"][known] == features.targets["state"][known]
    assert right.mean() > 0.75  # chance is 0.25, one modality alone reaches 0.5


def test_nothing_outside_the_training_part_changes_the_fit() -> None:
    features = make.features(60)
    assert features.audio is not None
    values = features.audio.values.copy()
    values[features.audio.offsets[48] :] *= 100
    other = replace(
        features,
        audio=replace(features.audio, values=values),
        targets={name: np.where(np.arange(60) < 48, y, 0) for name, y in features.targets.items()},
    )
    first, second = fit(CONFIG, features, TRAIN), fit(CONFIG, other, TRAIN)
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]
    assert first.heads == second.heads
    for a, b in zip(first.networks, second.networks, strict=True):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name


AVERAGED = replace(CONFIG, fit=replace(CONFIG.fit, ema=0.8))


@pytest.mark.parametrize(
    ("config", "stop"),
    [(CONFIG, (0, 1)), (CONFIG, (1, 3)), (CONFIG, (3, 2)), (AVERAGED, (1, 3)), (AVERAGED, (2, 4))],
)
def test_a_resumed_run_ends_as_if_undisturbed(tmp_path: Path, config: Config, stop: tuple[int, int]) -> None:
    features = make.features(60)
    whole = fit(config, features, TRAIN)

    class StopHere(Exception):
        pass

    def report(progress: EpochReport) -> None:
        state = progress.checkpoint()
        if (state.job, state.epoch) == stop:
            write_state(tmp_path / "state", state)
            raise StopHere

    with pytest.raises(StopHere):
        fit(config, features, TRAIN, report)
    resumed = fit(config, features, TRAIN, resume=read_state(tmp_path / "state"))
    for a, b in zip(resumed.history, whole.history, strict=True):
        assert a["loss"] == b["loss"]
    assert resumed.heads == whole.heads
    for x, y in zip(resumed.networks, whole.networks, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(x.parameters(), y.parameters(), strict=True))


EAGER = replace(
    CONFIG,
    fit=FitConfig(epochs=25, seeds=1, batch_size=16, learning_rate=0.03, patience=2),
    folds=FoldsConfig(inner=0),
)


@pytest.fixture
def early_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks of 40 documents stop early."""
    monkeypatch.setattr("hilbert_ray.training.networks.EARLY_STOPPING_FROM", 30)
    monkeypatch.setattr("hilbert_ray.training.networks.RAREST_FROM", 1)


@pytest.mark.usefixtures("early_stopping")
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_a_large_network_stops_after_its_best_epoch_and_keeps_those_weights(
    tmp_path: Path, ema: float
) -> None:
    """A run that is resumed, even where it had just stopped, ends with the same weights."""
    features, eager = make.features(60), replace(EAGER, fit=replace(EAGER.fit, ema=ema))
    states: list[EpochReport] = []

    def keep(progress: EpochReport) -> None:
        write_state(tmp_path / str(len(states)), progress.checkpoint())
        states.append(progress)

    whole = fit(eager, features, TRAIN, keep)
    validation = [r["validation_loss"] for r in whole.history]
    best = int(np.argmin(validation))
    assert len(validation) == best + 1 + 2 < 25
    assert [progress.is_final for progress in states] == [False] * (len(states) - 1) + [True]
    network = whole.networks[0].state_dict()
    kept = read_state(tmp_path / str(best))
    for name, tensor in network.items():
        assert torch.equal(kept.average[f"module.{name}"] if ema else kept.network[name], tensor), name
    for stop in (best, best + 1, best + 2):
        resumed = fit(eager, features, TRAIN, resume=read_state(tmp_path / str(stop)))
        assert [r["validation_loss"] for r in resumed.history] == validation
        for name, tensor in resumed.networks[0].state_dict().items():
            assert torch.equal(network[name], tensor), name


@pytest.mark.usefixtures("early_stopping")
def test_what_says_when_to_stop_is_groups_of_their_own_on_which_nothing_is_fitted() -> None:
    features = make.features(60)
    [job] = plan_networks(EAGER, features, TRAIN)
    assert job.validation is not None
    assert sorted([*job.train, *job.validation]) == TRAIN.tolist()
    assert not set(features.groups[job.train]) & set(features.groups[job.validation])
    one = replace(EAGER, fit=replace(EAGER.fit, epochs=1))
    kept = replace(one, fit=replace(one.fit, patience=0))
    first, second = fit(one, features, TRAIN), fit(kept, features, job.train)
    for name, tensor in first.networks[0].state_dict().items():
        assert torch.equal(second.networks[0].state_dict()[name], tensor), name


def test_small_data_is_trained_for_all_epochs_on_all_documents() -> None:
    history = fit(EAGER, make.features(60), TRAIN).history
    assert len(history) == 25
    assert not any("validation_loss" in record for record in history)


def test_a_value_that_is_not_finite_stops_the_run_and_names_the_documents() -> None:
    features = make.features(40)
    assert features.text is not None
    values = features.text.values.copy()
    values[features.text.offsets[5]] = np.nan
    broken = replace(features, text=replace(features.text, values=values))
    with pytest.raises(NotFiniteError, match=r"epoch 0, step \d+: .*documents .*d0"):
        fit(replace(CONFIG, folds=FoldsConfig(inner=0)), broken, np.arange(40))


def trained_by_steps(config: Config) -> tuple[TrainedNetworks, list[TrainingState]]:
    """Train one network on `TRAIN` in one step an epoch; return it with the states after each step."""
    settings = replace(config.fit, batch_size=48, seeds=1)
    states: list[TrainingState] = []

    def keep(progress: EpochReport) -> None:
        states.append(copy.deepcopy(progress.checkpoint()))

    fitted = fit(replace(config, fit=settings, folds=FoldsConfig(inner=0)), make.features(60), TRAIN, keep)
    return fitted, states


def test_the_average_of_the_weights_is_kept_and_does_not_change_how_they_are_trained() -> None:
    """e_1 = w_1, e_t = 0.8 e_(t-1) + 0.2 w_t; without an average the last weights are kept as they are."""
    plain, raw = trained_by_steps(CONFIG)
    averaged, states = trained_by_steps(AVERAGED)
    assert [r["loss"] for r in averaged.history] == [r["loss"] for r in plain.history]
    share = [0.8**3, 0.2 * 0.8**2, 0.2 * 0.8, 0.2]
    for name, kept in averaged.networks[0].state_dict().items():
        expected = sum(s * state.network[name].double() for s, state in zip(share, raw, strict=True))
        torch.testing.assert_close(kept.double(), expected, rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(states[-1].network[name], raw[-1].network[name]), name
        assert torch.equal(plain.networks[0].state_dict()[name], raw[-1].network[name]), name
    assert not raw[-1].average
    assert not torch.equal(averaged.networks[0].audio.project.weight, plain.networks[0].audio.project.weight)


def test_the_average_begins_again_with_a_phase_so_that_what_is_frozen_is_what_the_heads_were_trained_on() -> (
    None
):
    settings = replace(AVERAGED.fit, align_epochs=3, epochs=2)
    fitted, states = trained_by_steps(replace(AVERAGED, fit=settings))
    last, frozen = fitted.networks[0].state_dict(), states[2].network
    assert torch.equal(last["audio.project.weight"], frozen["audio.project.weight"])
    name = "experts.hidden.weight"
    expected = 0.8 * states[3].network[name] + 0.2 * states[4].network[name]
    torch.testing.assert_close(last[name], expected)


def test_the_align_phase_uses_no_label_and_then_freezes_all_but_the_heads() -> None:
    features = make.features(60)
    config = replace(
        CONFIG, fit=FitConfig(epochs=2, align_epochs=3, seeds=1, batch_size=16), folds=FoldsConfig(inner=0)
    )
    shuffled = replace(features, targets={n: np.roll(y, 1) for n, y in features.targets.items()})
    states: list[dict[str, torch.Tensor]] = []

    def keep(progress: EpochReport) -> None:
        states.append({k: v.clone() for k, v in progress.checkpoint().network.items()})

    fit(config, features, TRAIN, keep)
    own, states = states, []
    fit(config, shuffled, TRAIN, keep)
    heads = ("experts", "audio_heads", "text_heads", "thresholds", "labels")
    for name in own[2]:
        if not name.startswith(heads):
            assert torch.equal(own[2][name], states[2][name]), name
            assert torch.equal(own[2][name], own[4][name]), name
    assert not torch.equal(own[2]["experts.hidden.weight"], own[4]["experts.hidden.weight"])


def test_finetune_goes_on_training_what_was_aligned() -> None:
    features = make.features(60)
    settings = FitConfig(epochs=2, align_epochs=1, seeds=1, batch_size=16, finetune=True)
    config = replace(CONFIG, fit=settings, folds=FoldsConfig(inner=0))
    states: list[dict[str, torch.Tensor]] = []
    fit(
        config,
        features,
        TRAIN,
        lambda p: states.append({k: v.clone() for k, v in p.checkpoint().network.items()}),
    )
    for name in ("audio.project.weight", "fusion.layers.0.audio_to_text.query.weight", "text_pool.w1.weight"):
        assert not torch.equal(states[0][name], states[2][name]), name


def test_aligning_hears_documents_without_labels_and_none_outside_the_training_part() -> None:
    features = make.features(60)
    settings = FitConfig(epochs=0, align_epochs=2, seeds=1, batch_size=16)
    config = replace(CONFIG, fit=settings, folds=FoldsConfig(inner=0))

    def projection(known: Features, indices: np.ndarray) -> torch.Tensor:
        return fit(config, known, indices).networks[0].audio.project.weight.detach()

    unlabelled = {name: np.full_like(y, -1) for name, y in features.targets.items()}
    blank = replace(features, targets=unlabelled)
    whole = projection(features, TRAIN)
    assert torch.equal(projection(blank, TRAIN), whole)
    assert not torch.equal(projection(blank, TRAIN[:40]), whole)
    assert torch.equal(projection(blank.take(TRAIN), TRAIN), whole), "the others are never looked at"


def test_each_epoch_logs_terms_information_saturation_and_the_control_of_cka() -> None:
    fitted = fit(replace(CONFIG, folds=FoldsConfig(inner=0)), make.features(160), np.arange(128))
    for record in fitted.history:
        assert set(LossConfig.WEIGHTS) < set(record)
        assert all(np.isfinite(value) for value in record.values() if isinstance(value, float))
        for modality in ("audio", "text"):
            nats, rows = record[f"information_{modality}"], record["rows_both"]
            assert record[f"saturation_{modality}"] == pytest.approx(nats / np.log(rows))
            assert 1 <= record["effective_experts"] <= CONFIG.moe.experts + 1e-4
            assert ("cka_shuffled_audio" in record) == (record["rows_audio"] >= 16)
    assert any("cka_shuffled_audio" in record for record in fitted.history)
    assert all(record["cka"] == 0 for record in fit(CONFIG, make.features(60), TRAIN[:12]).history), (
        "below 16 documents CKA has no signal"
    )


# One step


def one_step(
    config: Config, features: Features, indices: np.ndarray, network: Network | None = None
) -> Network:
    """Take the gradients of one step's loss; everything must be finite."""
    torch.manual_seed(0)
    network = network or Network(config, {"audio": 12, "text": 20})
    network.fit_statistics(features, indices)
    terms, loss, seen = backward(network.train(), features, indices, config, config.loss)
    assert loss.isfinite()
    figures = {**terms.values(), **diagnostics(seen, config)}
    assert all(np.isfinite(value) for value in figures.values())
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return network


def one_segment_each(part: Ragged) -> Ragged:
    return make.ragged(np.ones(len(part.lengths), np.int64), part.dim, np.zeros(len(part.lengths)), RNG)


def reshaped(features: Features, modality: Modality, change: Callable[[Ragged], Ragged]) -> Features:
    changes: Any = {modality: change(features.by_modality[modality])}
    return replace(features, **changes)


def scaled(part: Ragged, by: float) -> Ragged:
    return replace(part, values=part.values * np.float32(by), wide=part.wide * np.float32(by))


def emptied(part: Ragged) -> Ragged:
    return make.ragged(np.zeros_like(part.lengths), part.dim, np.zeros(len(part.lengths)), RNG)


RNG = np.random.default_rng(0)
CASES: dict[str, Callable[[Features], Features]] = {
    "as it is": lambda f: f,
    "one segment each": lambda f: reshaped(f, "audio", one_segment_each),
    "no text here": lambda f: reshaped(f, "text", emptied),
    "no text at all": lambda f: f.only("audio"),
    "no label": lambda f: replace(f, targets={n: np.full_like(y, -1) for n, y in f.targets.items()}),
    "constant": lambda f: reshaped(
        reshaped(f, "audio", lambda p: scaled(p, 0)), "text", lambda p: scaled(p, 0)
    ),
    "1e4": lambda f: reshaped(
        reshaped(f, "audio", lambda p: scaled(p, 1e4)), "text", lambda p: scaled(p, 1e4)
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("documents", [1, 2, 3, 4, 20])
def test_small_and_degenerate_batches_have_a_finite_loss_and_gradient(case: str, documents: int) -> None:
    features = CASES[case](make.features(20, absent=0.0))
    for micro_batch_size in (0, 2):
        config = replace(CONFIG, fit=replace(CONFIG.fit, micro_batch_size=micro_batch_size))
        one_step(config, features, np.arange(documents))


def test_statistics_of_other_documents_leave_huge_values_finite() -> None:
    """A recording a million times louder than those of the training part must not break a step."""
    features = make.features(20, absent=0.0)
    network = one_step(CONFIG, features, np.arange(20))
    loud = reshaped(features, "audio", lambda part: scaled(part, 1e6))
    _, loss, _ = backward(network, loud, np.arange(20), CONFIG, CONFIG.loss)
    assert loss.isfinite()


def test_in_bf16_the_network_alone_computes_in_it() -> None:
    features, everyone = make.features(40), np.arange(40)
    config = replace(CONFIG, model=STILL)
    network = one_step(config, features, everyone)
    plain, _, _ = backward(network, features, everyone, config, config.loss)
    half = replace(config, fit=replace(config.fit, precision="bf16"))
    low, loss, seen = backward(network, features, everyone, half, config.loss)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
    assert seen["logits/state"].dtype == torch.bfloat16, "the network itself runs in bf16"
    assert loss.dtype == torch.float32
    for name in LossConfig.WEIGHTS:
        assert getattr(low, name).dtype == torch.float32, name
        assert low.values()[name] == pytest.approx(plain.values()[name], rel=0.05, abs=0.02), name


def test_cka_of_frozen_features_compares_with_their_means_also_where_one_modality_is_all_there_is() -> None:
    features = make.features(40, absent=0.0)
    config = replace(CONFIG, model=STILL, loss=replace(CONFIG.loss, cka_reference="features"))
    for known in (features, features.only("audio")):
        network = one_step(config, known, np.arange(40))
        terms, _, seen = backward(network, known, np.arange(40), config, config.loss)
        halves = [
            1 - losses.cka(torch.from_numpy(part.wide[:, : part.dim]), seen["joint"])
            for part in (known.audio, known.text)
            if part is not None
        ]
        torch.testing.assert_close(terms.cka.detach(), torch.stack(halves).sum() / 2)


# Gradient caching


def test_caching_gradients_trains_as_the_whole_batch_at_once_does() -> None:
    features = make.features(60)
    plain = replace(CONFIG, model=STILL, fit=replace(CONFIG.fit, seeds=1))
    cached = replace(plain, fit=replace(plain.fit, micro_batch_size=5))
    first, second = fit(plain, features, TRAIN), fit(cached, features, TRAIN)
    for a, b in zip(first.history, second.history, strict=True):
        for name in ("loss", *LossConfig.WEIGHTS, "information_audio"):
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-5), name


def test_caching_gradients_repeats_dropout_and_the_same_seed_gives_the_same_numbers() -> None:
    """In the second pass each micro batch drops what it dropped in the first, or gradients would be wrong."""
    features, rows = make.features(60), np.arange(24)
    config = replace(CONFIG, fit=replace(CONFIG.fit, micro_batch_size=5, seeds=1))
    assert [r["loss"] for r in fit(config, features, TRAIN).history] == [
        r["loss"] for r in fit(config, features, TRAIN).history
    ]
    network = one_step(config, features, rows)
    network.zero_grad()
    torch.manual_seed(3)
    backward(network, features, rows, config, config.loss)
    cached = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    torch.manual_seed(3)
    parts = []
    for part in np.array_split(rows, 5):
        batch = collate(features, part)
        parts.append(objective_inputs(network(batch), batch, config))
    given = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    losses.weighted_sum(objective_terms(given, network, config), config.loss).backward()  # type: ignore[no-untyped-call]
    for gradient, (name, parameter) in zip(cached, network.named_parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


# Ranks

STOPPING = "with validation"
WAYS = {
    STOPPING: FitConfig(epochs=3, seeds=1, batch_size=16, patience=1),
    "joint": FitConfig(epochs=3, seeds=1, batch_size=16),
    "align, then heads": FitConfig(epochs=1, align_epochs=1, seeds=1, batch_size=16),
    "cached": FitConfig(epochs=2, seeds=1, batch_size=16, micro_batch_size=3),
    "fewer documents than ranks": FitConfig(epochs=1, seeds=1, batch_size=2),
}


def in_one_way(way: str) -> TrainedNetworks:
    train = TRAIN[:6] if WAYS[way].batch_size == 2 else TRAIN
    inner = FoldsConfig(inner=2 if way == "joint" else 0)
    with pytest.MonkeyPatch.context() as patch:
        if way == STOPPING:
            patch.setattr("hilbert_ray.training.networks.EARLY_STOPPING_FROM", 40)
            patch.setattr("hilbert_ray.training.networks.RAREST_FROM", 1)
        return fit(replace(CONFIG, model=STILL, fit=WAYS[way], folds=inner), make.features(60), train)


def held_out_loss(seed: int) -> float:
    """Train with dropout; return the log loss of `heard` on the documents that are not trained on."""
    config = replace(CONFIG, fit=replace(CONFIG.fit, seeds=1, seed=seed), folds=FoldsConfig(inner=0))
    features = make.features(60)
    p = fit(config, features, TRAIN).model().predict(features).probabilities["heard"]
    return float(-np.log(p[np.arange(60), features.targets["heard"]])[48:].mean())


def one_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    for way in WAYS:
        fitted = in_one_way(way)
        if rank == 0:
            torch.save([r["loss"] for r in fitted.history], f"{folder}/{way}-losses")
            torch.save(dict(fitted.networks[0].state_dict()), f"{folder}/{way}-network")
    torch.save(held_out_loss(0), f"{folder}/dropout-{rank}")
    torch.distributed.destroy_process_group()


def test_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    world = 3  # does not divide a batch
    spawn(one_rank, (world, str(tmp_path)), nprocs=world)  # type: ignore[no-untyped-call]
    for way in WAYS:
        single = in_one_way(way)
        np.testing.assert_allclose(
            torch.load(tmp_path / f"{way}-losses"),
            [r["loss"] for r in single.history],
            atol=1e-5, rtol=1e-5, err_msg=way,
        )  # fmt: skip
        network = torch.load(tmp_path / f"{way}-network")
        for name, value in single.networks[0].state_dict().items():
            torch.testing.assert_close(network[name], value, atol=2e-4, rtol=1e-3, msg=f"{way}: {name}")
    # Ranks draw their own dropout: the same in distribution.
    by_seed = [held_out_loss(seed) for seed in range(6)]
    by_rank = [torch.load(tmp_path / f"dropout-{rank}") for rank in range(world)]
    assert len(set(by_rank)) == 1
    assert by_rank[0] != by_seed[0]
    assert abs(by_rank[0] - np.mean(by_seed)) < 3 * np.std(by_seed, ddof=1)
