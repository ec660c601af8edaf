"""The training loop: determinism, resume, ranks, phases, leakage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from torch.multiprocessing.spawn import spawn

from hilbert_ray import checkpoint
from hilbert_ray.checkpoint import CheckpointError, TrainingState
from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, TaskConfig
from hilbert_ray.fit import NotFiniteError, Progress, fit
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


def test_the_same_seed_gives_the_same_numbers() -> None:
    features = make.features(60)
    first, second = fit(CONFIG, features, TRAIN), fit(CONFIG, features, TRAIN)
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]
    assert first.temperature == second.temperature
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
    assert first.temperature == second.temperature
    for a, b in zip(first.networks, second.networks, strict=True):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name


@pytest.mark.parametrize("stop", [(0, 1), (1, 3), (3, 2)])
def test_a_resumed_run_ends_as_if_undisturbed(tmp_path: Path, stop: tuple[int, int]) -> None:
    features = make.features(60)
    whole = fit(CONFIG, features, TRAIN)

    class StopHere(Exception):
        pass

    def report(progress: Progress) -> None:
        state = progress.state()
        if (state.job, state.epoch) == stop:
            checkpoint.save(tmp_path / "state", state)
            raise StopHere

    with pytest.raises(StopHere):
        fit(CONFIG, features, TRAIN, report)
    resumed = fit(CONFIG, features, TRAIN, resume=checkpoint.restore(tmp_path / "state"))
    for a, b in zip(resumed.history, whole.history, strict=True):
        assert a["loss"] == b["loss"]
    assert resumed.temperature == whole.temperature
    for x, y in zip(resumed.networks, whole.networks, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(x.parameters(), y.parameters(), strict=True))


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    state = TrainingState(job=0, epoch=1, network={}, optimizer={}, finished={}, history=[])
    checkpoint.save(tmp_path / "state", state)
    (tmp_path / "state" / "state.json").write_text('{"schema": 7}')
    with pytest.raises(CheckpointError, match="has schema 7; this version reads 1"):
        checkpoint.restore(tmp_path / "state")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.restore(tmp_path / "absent")


def test_a_value_that_is_not_finite_stops_the_run_and_names_the_documents() -> None:
    features = make.features(40)
    assert features.text is not None
    values = features.text.values.copy()
    values[features.text.offsets[5]] = np.nan
    broken = replace(features, text=replace(features.text, values=values))
    with pytest.raises(NotFiniteError, match=r"epoch 0, step \d+: .*documents .*d0"):
        fit(replace(CONFIG, folds=FoldsConfig(inner=0)), broken, np.arange(40))


def test_the_align_phase_uses_no_label_and_then_freezes_all_but_the_heads() -> None:
    features = make.features(60)
    config = replace(
        CONFIG, fit=FitConfig(epochs=2, align_epochs=3, seeds=1, batch_size=16), folds=FoldsConfig(inner=0)
    )
    shuffled = replace(features, targets={n: np.roll(y, 1) for n, y in features.targets.items()})
    states: list[dict[str, torch.Tensor]] = []

    def keep(progress: Progress) -> None:
        states.append({k: v.clone() for k, v in progress.state().network.items()})

    fit(config, features, TRAIN, keep)
    own, states = states, []
    fit(config, shuffled, TRAIN, keep)
    heads = ("experts", "audio_heads", "text_heads", "thresholds", "labels")
    for name in own[2]:
        if not name.startswith(heads):
            assert torch.equal(own[2][name], states[2][name]), name
            assert torch.equal(own[2][name], own[4][name]), name
    assert not torch.equal(own[2]["experts.hidden.weight"], own[4]["experts.hidden.weight"])


def one_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{world}", rank=rank, world_size=world
    )
    config = replace(CONFIG, model=STILL, fit=replace(CONFIG.fit, epochs=3, seeds=1))
    fitted = fit(config, make.features(60), TRAIN)
    if rank == 0:
        torch.save([r["loss"] for r in fitted.history], f"{folder}/losses-{world}")
        torch.save(dict(fitted.networks[0].state_dict()), f"{folder}/network-{world}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_ranks_train_as_one_process_does(tmp_path: Path, world: int) -> None:
    config = replace(CONFIG, model=STILL, fit=replace(CONFIG.fit, epochs=3, seeds=1))
    single = fit(config, make.features(60), TRAIN)
    spawn(one_rank, (world, str(tmp_path)), nprocs=world)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(
        torch.load(tmp_path / f"losses-{world}"), [r["loss"] for r in single.history], atol=1e-5, rtol=1e-5
    )
    network = torch.load(tmp_path / f"network-{world}")
    for name, value in single.networks[0].state_dict().items():
        torch.testing.assert_close(network[name], value, atol=2e-4, rtol=1e-3, msg=name)
