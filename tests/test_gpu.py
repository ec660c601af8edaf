"""Training, prediction and encoders under the rules of a GPU (see `tests.devices`) give the CPU's numbers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hilbert_ray.config import (
    Config,
    EncoderConfig,
    FitConfig,
    FoldsConfig,
    Imbalance,
    Modality,
    ModelConfig,
    SegmentConfig,
    TaskConfig,
)
from hilbert_ray.document.records import AudioSegment, TextSegment
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.evaluation.baselines import late_fusion
from hilbert_ray.features.arrays import Features
from hilbert_ray.model.hilbert import Hilbert
from hilbert_ray.training.checkpoints import TrainingState, read_state, write_state
from hilbert_ray.training.loop import EpochReport, TrainedNetworks, fit
from tests import make, models, speech_models
from tests.devices import GPU, DeviceError, fake_gpu

TASKS = {
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
    "topics": TaskConfig(kind="multilabel", classes=("x", "y")),
    "age": TaskConfig(kind="regression"),
}
STILL = ModelConfig(dim=16, hops=2, dropout=0.0, wide_dropout=0.0, segment_dropout=0.0, modality_dropout=0.0)
CONFIG = Config(
    tasks=TASKS,
    model=ModelConfig(dim=16, hops=2),
    fit=FitConfig(epochs=1, seeds=1, batch_size=24, precision="float32"),
    folds=FoldsConfig(inner=0),
)
TRAIN = np.arange(48)
pytestmark = pytest.mark.usefixtures("one_thread")


def documents(count: int = 60, absent: float = 0.15) -> Features:
    """Return documents with labels of all five kinds; some lack a modality."""
    features, rng = make.features(count, absent=absent), np.random.default_rng(1)
    topics = rng.integers(0, 2, (count, 2)).astype(np.float32)
    topics[:5] = np.nan
    age = rng.normal(40, 9, count).astype(np.float32)
    return replace(features, targets={**features.targets, "topics": topics, "age": age})


def losses_of(trained: TrainedNetworks) -> list[float]:
    return [record["loss"] for record in trained.history]


# The GPU of the tests itself


def test_mixed_devices_are_refused() -> None:
    with fake_gpu():
        x, y = torch.ones(3, device=GPU), torch.ones(3)
        assert (x * 2 + torch.tensor(1.0)).tolist() == [3, 3, 3]  # a single number may be on the CPU
        for operation in (lambda: x + y, lambda: torch.cat([x, y]), lambda: x.reshape(1, 3) @ y):
            with pytest.raises(DeviceError, match="on the CPU"):
                operation()  # type: ignore[no-untyped-call]
        weight = torch.nn.Parameter(torch.ones(3, device=GPU))
        with pytest.raises(RuntimeError, match="device"):
            weight.grad = y


def test_a_fused_optimiser_whose_count_of_steps_is_on_the_cpu_is_refused() -> None:
    with fake_gpu():
        weight = torch.nn.Parameter(torch.ones(3, device=GPU))
        optimiser = torch.optim.AdamW([weight], fused=True)
        weight.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.state[weight]["step"] = optimiser.state[weight]["step"].cpu()
        with pytest.raises(DeviceError, match="adamw"):
            optimiser.step()


def test_waits_are_counted() -> None:
    def waits(action: Callable[[], object]) -> Mapping[str, int]:
        gpu.waits.clear()
        action()
        return dict(gpu.waits)

    with fake_gpu() as gpu:
        x, mask, y = torch.ones(3, device=GPU), torch.ones(3, device=GPU) > 0, torch.ones(3)
        assert waits(lambda: x.cpu()) == {"to cpu": 1}
        assert waits(lambda: y.to(GPU)) == {"to gpu": 1}
        assert waits(lambda: y.to(GPU, non_blocking=True)) == {"to gpu": 1}  # from memory that may move
        assert waits(lambda: y.pin_memory().to(GPU, non_blocking=True)) == {}
        assert sum(waits(lambda: float(x.sum())).values()) == 1
        assert sum(waits(lambda: x[mask]).values()) == 1
        assert sum(waits(lambda: x[torch.zeros(2, dtype=torch.int64, device=GPU)]).values()) == 0
        assert waits(lambda: x.masked_fill(mask, 2) + 1) == {}


def test_the_gpu_draws_from_a_generator_of_its_own() -> None:
    with fake_gpu():
        torch.manual_seed(3)
        of_cpu, of_gpu = torch.rand(4), torch.rand(4, device=GPU)
        assert of_cpu.tolist() != of_gpu.tolist()
        torch.manual_seed(3)
        assert torch.rand(4, device=GPU).tolist() == of_gpu.tolist()
        assert torch.rand(4).tolist() == of_cpu.tolist()


# Training

VARIANTS: dict[str, dict[str, Any]] = {
    "inner folds": {"folds": {"inner": 2}},
    "micro batches": {"fit": {"micro_batch_size": 16}},
    "two phases and an average": {"fit": {"align_epochs": 1, "ema": 0.9}},
    "rbf, smile, direct": {
        "loss": {
            "cka_kernel": "rbf", "cka_reference": "features", "balance_estimator": "smile",
            "balance_gradient": "weaker", "contrast": "both", "penalty": "lin",
        }
    },
    "no experts, no heads": {"moe": {"kind": "mlp"}, "model": {"unimodal_heads": False, "wide": False}},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_training_on_a_gpu_gives_the_numbers_of_the_cpu(name: str) -> None:
    features = documents()
    config = Config.from_dict(VARIANTS[name], replace(CONFIG, model=STILL))
    on_cpu = fit(config, features, TRAIN)
    with fake_gpu():
        on_gpu = fit(config, features, TRAIN, device=GPU)
        assert all(parameter.device == GPU for parameter in on_gpu.networks[0].parameters())
    # Not to the bit: on a GPU torch clips all gradients in one kernel.
    assert losses_of(on_gpu) == pytest.approx(losses_of(on_cpu), rel=1e-5)
    for task, by_modalities in on_cpu.heads.items():
        for name, weights in by_modalities.items():
            assert on_gpu.heads[task][name].values() == pytest.approx(weights.values(), abs=1e-3)


def test_every_treatment_of_imbalance_runs_on_a_gpu() -> None:
    features = documents()
    treatments: list[Imbalance] = ["focal", "none", "class_balanced", "focal", "none"]
    tasks = {
        name: replace(task, imbalance=imbalance)
        for (name, task), imbalance in zip(TASKS.items(), treatments, strict=True)
    }
    config = replace(CONFIG, tasks=tasks, model=STILL)
    with fake_gpu():
        on_gpu = fit(config, features, TRAIN, device=GPU)
    assert losses_of(on_gpu) == pytest.approx(losses_of(fit(config, features, TRAIN)), rel=1e-5)


@pytest.mark.parametrize("micro_batch_size", [0, 16])
def test_a_step_waits_for_the_gpu_twice(micro_batch_size: int) -> None:
    # Once for which documents have a modality, once for its numbers.
    features = documents(96, absent=0.0)
    config = replace(CONFIG, fit=replace(CONFIG.fit, micro_batch_size=micro_batch_size))

    def waits(steps: int) -> int:
        with fake_gpu() as gpu:
            fit(config, features, np.arange(24 * steps), device=GPU)
        return gpu.waits.total()

    # What a network and an epoch wait for in addition is the same.
    assert waits(4) - waits(2) == 2 * 2


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 16}, {"align_epochs": 1, "ema": 0.9}])
def test_a_resumed_run_ends_with_the_numbers_of_an_undisturbed_one(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    features = documents()
    # Dropout too: its draws on the GPU depend on the epoch alone.
    config = replace(CONFIG, fit=replace(CONFIG.fit, epochs=2, **changes))
    saved: list[Path] = []

    def save(epoch: EpochReport) -> None:
        saved.append(tmp_path / str(len(saved)))
        write_state(saved[-1], epoch.checkpoint())

    with fake_gpu():
        undisturbed = fit(config, features, TRAIN, save, device=GPU)
        state: TrainingState = read_state(saved[0])
        assert all(tensor.device.type == "cpu" for tensor in state.optimizer.values())
        resumed = fit(config, features, TRAIN, resume=state, device=GPU)
        weights = [trained.networks[0].state_dict() for trained in (undisturbed, resumed)]
        assert losses_of(resumed) == losses_of(undisturbed)
        for name, tensor in weights[0].items():
            assert tensor.tolist() == weights[1][name].tolist(), name


def test_early_stopping_validates_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hilbert_ray.training.networks.EARLY_STOPPING_FROM", 10)
    monkeypatch.setattr("hilbert_ray.training.networks.RAREST_FROM", 1)
    features = documents()
    config = replace(CONFIG, model=STILL, fit=replace(CONFIG.fit, epochs=2))
    on_cpu = fit(config, features, TRAIN)
    with fake_gpu():
        on_gpu = fit(config, features, TRAIN, device=GPU)
    ours, expected = ([r["validation_loss"] for r in trained.history] for trained in (on_gpu, on_cpu))
    assert ours == pytest.approx(expected, rel=1e-5)


# Prediction


def test_a_model_on_a_gpu_predicts_what_it_does_on_the_cpu() -> None:
    features = documents()
    trained = fit(CONFIG, features, TRAIN)
    on_cpu = trained.model().predict(features)
    with fake_gpu():
        on_gpu = trained.model().to(GPU).predict(features)
    for name in TASKS:
        for field in ("evidence", "probabilities", "decisions", "shares"):
            ours, expected = getattr(on_gpu, field)[name], getattr(on_cpu, field)[name]
            np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=f"{field} of {name}")
    for ours, expected in zip(on_gpu.embeddings, on_cpu.embeddings, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_what_a_gpu_holds_does_not_grow_with_the_documents_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = documents()
    model: Hilbert = fit(CONFIG, features, TRAIN).model()
    batches = list(range(0, 60, 6))
    monkeypatch.setattr(
        "hilbert_ray.model.hilbert.eval_batches", lambda *_: [np.arange(at, at + 6) for at in batches]
    )
    held: list[int] = []
    with fake_gpu() as gpu:
        model.to(GPU)
        model.register_forward_pre_hook(lambda *_: held.append(len(gpu.tensors)))
        model.predict(features)
    assert len(held) == len(batches)
    assert len(set(held[1:])) == 1


def test_late_fusion_computes_on_the_gpu_that_ray_gave() -> None:
    features = documents()
    config = replace(CONFIG, model=STILL, folds=FoldsConfig(inner=2))
    test = np.arange(48, 60)
    on_cpu, decisions = late_fusion(features, config, TRAIN, test)
    with fake_gpu() as gpu:
        on_gpu, decided = late_fusion(features, config, TRAIN, test)
    assert gpu.waits.total() > 0  # it was there
    for name in TASKS:
        np.testing.assert_allclose(on_gpu[name], on_cpu[name], rtol=1e-4)
        np.testing.assert_allclose(decided[name], decisions[name], rtol=1e-4)


# Encoders


def encoded(spec: str, modality: Modality, layer: str, device: str) -> np.ndarray:
    """Return a small encoder's features of three segments of different lengths."""
    options = EncoderConfig(precision="float32", layer=layer, pooling="mean_std")
    encoder = build_encoder(spec, modality, options, SegmentConfig(window_s=1.0, hop_s=1.0), device)
    rng = np.random.default_rng(0)
    if modality == "text":
        texts = ("the garden was cold", "we talked", "nobody could say what happened there for hours")
        segments: list[Any] = [TextSegment(text=text, start=0.0, end=1.0) for text in texts]
    else:
        assert encoder.rate_hz is not None
        samples = [rng.normal(0, 0.1, round(s * encoder.rate_hz)).astype(np.float32) for s in (0.6, 0.3, 0.4)]
        segments = [
            AudioSegment(samples=wave, start=0.0, end=len(wave) / encoder.rate_hz) for wave in samples
        ]
    return encoder.encode(segments)


def check_encoder(spec: str, modality: Modality, layer: str) -> None:
    """Check that a GPU gives the features of the CPU."""
    expected = encoded(spec, modality, layer, "cpu")
    with fake_gpu() as gpu:
        actual = encoded(spec, modality, layer, str(GPU))
    assert gpu.waits["to cpu"] > 0  # it was there
    # Batches of another size are summed in another order.
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("name", [*models.TEXT, *models.MORE_TEXT, *models.CAUSAL])
def test_text_encoders_on_a_gpu_give_the_features_of_the_cpu(name: str, tmp_path: Path) -> None:
    check_encoder(models.made(name, tmp_path), "text", "1:2")


@pytest.mark.parametrize("name", speech_models.CASES)
def test_speech_encoders_on_a_gpu_give_the_features_of_the_cpu(name: str, tmp_path: Path) -> None:
    case = speech_models.CASES[name]
    check_encoder(case.made(tmp_path), "audio", "all" if case.has_layers else "last")


def test_an_encoder_computes_where_it_is_told_and_not_where_torch_finds_a_gpu(tmp_path: Path) -> None:
    spec = models.made("bert", tmp_path)
    with fake_gpu() as gpu:
        encoded(spec, "text", "1:2", "cpu")
    assert gpu.waits.total() == 0
