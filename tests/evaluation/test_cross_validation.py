"""One fold: nothing tested is trained on, and every variant can be fitted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hilbert_ray.config import Config, FitConfig, FoldsConfig, ModelConfig, from_dict
from hilbert_ray.evaluation.cross_validation import _fold_key, gather, run_fold
from hilbert_ray.evaluation.variants import Variant, choose_variants
from hilbert_ray.features.arrays import Features, mean_std
from hilbert_ray.folds.draw import make_folds
from hilbert_ray.folds.records import Fold
from hilbert_ray.metrics.evaluation import permutation_null
from hilbert_ray.run.fold_results import FoldResult, read_fold_result, write_fold_result
from hilbert_ray.training.loop import fit
from tests import make
from tests.evaluation.cases import COMPARED, CONFIG, FEATURES, FOLD, TASKS, TINY, variant

pytestmark = pytest.mark.usefixtures("one_thread")


def same_result(first: FoldResult, second: FoldResult) -> None:
    assert (first.variant, first.repeat, first.fold) == (second.variant, second.repeat, second.fold)
    assert (first.heads, first.seconds) == (second.heads, second.seconds)
    for name in ("probabilities", "decisions", "embeddings"):
        found, wanted = getattr(first, name), getattr(second, name)
        assert sorted(found) == sorted(wanted)
        for key, value in wanted.items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key], value)
    for modality, rows in second.attention.items():
        assert len(first.attention[modality]) == len(rows)
        for one, other in zip(first.attention[modality], rows, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.test, second.test)
    np.testing.assert_array_equal(first.trained_on, second.trained_on)


@pytest.mark.parametrize("name", ["hilbert", "mean_std_logistic"])
def test_a_result_reads_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    one = replace(variant(name), subsets=name == "hilbert")
    result = run_fold(FEATURES, one, FOLD)
    write_fold_result(tmp_path / "a.npz", result)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    found = read_fold_result(tmp_path / "a.npz", one.name, FOLD)
    assert len(found.split()) == (3 if name == "hilbert" else 1)
    for first, second in zip(found.split(), result.split(), strict=True):
        same_result(first, second)


def test_a_fold_is_known_by_all_that_its_result_depends_on_and_by_nothing_else() -> None:
    def key(one: Variant, data: str = "data", fold: Fold = FOLD) -> str:
        return _fold_key(data, one, fold)

    def of(config: Config) -> Variant:
        return Variant(name="hilbert", config=config)

    plain = of(TINY)
    moved = replace(FOLD, train=FOLD.train[1:], test=np.sort([*FOLD.test, FOLD.train[0]]))
    others = [
        key(plain, data="other"),
        key(plain, fold=replace(FOLD, repeat=1)),
        key(plain, fold=moved),
        key(replace(plain, modality="audio")),
        key(replace(plain, method="logistic")),
        key(replace(plain, subsets=True)),
        key(replace(plain, labels=0.5)),
        key(replace(plain, labels=0.25)),
        key(of(replace(TINY, fit=replace(TINY.fit, epochs=2)))),
        key(of(replace(TINY, loss=replace(TINY.loss, cka=0.1)))),
        key(of(replace(TINY, folds=replace(TINY.folds, inner=0)))),
    ]
    assert len({key(plain), *others}) == 1 + len(others)
    elsewhere = replace(TINY.folds, cpus=0.5, repeats=9)
    assert key(of(replace(TINY, folds=elsewhere))) == key(plain)


def test_with_subsets_the_network_of_both_modalities_predicts_from_each_alone() -> None:
    one = replace(variant("hilbert"), subsets=True)
    whole, *apart = run_fold(FEATURES, one, FOLD).split()
    same = run_fold(FEATURES, variant("hilbert"), FOLD)
    model = fit(TINY, FEATURES, FOLD.train).model()
    assert [subset.variant for subset in apart] == ["hilbert_audio", "hilbert_text"]
    for modality, subset in zip(("audio", "text"), apart, strict=True):
        alone = model.predict(FEATURES.take(FOLD.test).only(modality))  # type: ignore[arg-type]
        for task, probabilities in alone.probabilities.items():
            np.testing.assert_array_equal(subset.probabilities[task], probabilities)
            np.testing.assert_array_equal(subset.decisions[task], alone.decisions[task])
            np.testing.assert_array_equal(whole.probabilities[task], same.probabilities[task])
            assert not np.allclose(probabilities, whole.probabilities[task])


def null_of(features: Features, folds: Sequence[Fold]) -> dict[str, Any]:
    """Return the headline of HILBERT on `heard` over some folds, with its permutation null."""
    task = {"heard": TASKS["heard"]}
    config = Config(
        tasks=task,
        model=ModelConfig(dim=16, hops=2, dropout=0.1, wide_dropout=0.1),
        fit=FitConfig(epochs=10, seeds=1, batch_size=16, learning_rate=5e-3),
        folds=FoldsConfig(inner=0),
    )
    results = [run_fold(features, Variant(name="hilbert", config=config), fold) for fold in folds]
    return permutation_null(gather(features, task["heard"], "heard", results), permutations=500)


def test_labels_shuffled_within_groups_are_predicted_by_chance() -> None:
    features = make.features(80, groups=10, absent=0.0)
    folds = FoldsConfig(folds=4, repeats=1)
    heard = features.targets["heard"]
    drawn = make_folds(features.doc_ids, features.groups, heard, folds, seed=0)
    assert null_of(features, list(drawn))["value"] > 0.9, "in their order the labels can be predicted"
    rng = np.random.default_rng(0)
    shuffled = heard.copy()
    for group in range(10):
        at = np.flatnonzero(features.groups == group)
        shuffled[at] = rng.permutation(heard[at])
    null = null_of(replace(features, targets={**features.targets, "heard": shuffled}), list(drawn))
    assert null["low"] <= null["value"] <= null["high"]


def test_a_feature_that_only_tells_groups_apart_gains_nothing_on_our_folds() -> None:
    """All documents of a group share their label, and the feature names the group.

    Plain folds take that for knowledge.
    """
    plain = make.features(96, groups=16, absent=0.0, seed=1)
    rng = np.random.default_rng(1)
    heard = plain.groups % 2
    names = rng.normal(size=(16, 12)).astype(np.float32)[plain.groups]
    noise = np.random.default_rng(2)
    lengths = np.full(96, 3)
    audio = make.ragged(lengths, 12, np.zeros(96), noise)
    values = 0.1 * audio.values + 3 * np.repeat(names, 3, axis=0)
    wide = np.stack([mean_std(rows) for rows in np.split(values, 32 * 3)])
    features = replace(
        plain,
        audio=replace(audio, values=values, wide=wide),
        text=make.ragged(lengths, 20, np.zeros(96), noise),
        targets={"heard": heard},
    )
    settings = FoldsConfig(folds=4, repeats=1)
    ours = make_folds(features.doc_ids, features.groups, heard, settings, seed=0)
    leaking = make_folds(features.doc_ids, np.arange(96), heard, settings, seed=0)
    leaked = null_of(features, list(leaking))
    assert leaked["value"] > leaked["high"]
    found = null_of(features, list(ours))
    assert found["low"] <= found["value"] <= found["high"]


def test_no_tested_group_is_trained_on() -> None:
    folds = make_folds(FEATURES.doc_ids, FEATURES.groups, FEATURES.targets["heard"], CONFIG.folds, seed=3)
    small = replace(TINY, folds=replace(TINY.folds, inner=0))
    for fold in folds:
        result = run_fold(FEATURES, Variant(name="hilbert", config=small), fold)
        trained, tested = (set(FEATURES.groups[i].tolist()) for i in (result.trained_on, result.test))
        assert not trained & tested
        assert sorted([*result.trained_on, *result.test]) == list(range(40))
        np.testing.assert_array_equal(result.test, np.flatnonzero(folds.assignment[fold.repeat] == fold.fold))
        assert len(result.probabilities["heard"]) == len(result.test)


def changed(features: Features, at: np.ndarray) -> Features:
    """Return features in which the documents at `at` say something else and are labelled otherwise."""
    assert features.audio is not None
    assert features.text is not None
    by_modality = {}
    for name, ragged in (("audio", features.audio), ("text", features.text)):
        values, wide = ragged.values.copy(), ragged.wide.copy()
        values[ragged.rows(at)] = values[ragged.rows(at)] * 50 + 7
        wide[at] = wide[at] * 50 + 7
        by_modality[name] = replace(ragged, values=values, wide=wide)
    targets = {name: np.where(np.isin(np.arange(len(y)), at), 0, y) for name, y in features.targets.items()}
    return replace(features, audio=by_modality["audio"], text=by_modality["text"], targets=targets)


@pytest.mark.parametrize("name", ["hilbert", "late_fusion", "mean_std_logistic"])
def test_what_is_tested_changes_nothing_that_is_fitted(name: str) -> None:
    half = FOLD.test[: len(FOLD.test) // 2]
    first = run_fold(FEATURES, variant(name), FOLD)
    second = run_fold(changed(FEATURES, half), variant(name), FOLD)
    assert first.heads == second.heads
    others = ~np.isin(FOLD.test, half)
    for task, probabilities in first.probabilities.items():
        np.testing.assert_array_equal(probabilities[others], second.probabilities[task][others])
        assert not np.allclose(probabilities[~others], second.probabilities[task][~others])


@pytest.mark.parametrize("align_epochs", [0, 1])
def test_scaler_priors_heads_and_alignment_see_no_document_of_a_tested_group(align_epochs: int) -> None:
    """A fit of the training documents alone, of which the others are not even a part, is the same."""
    config = replace(TINY, fit=replace(TINY.fit, align_epochs=align_epochs))
    trained = FEATURES.take(FOLD.train)
    assert set(trained.doc_ids) == set(FEATURES.doc_ids) - set(FEATURES.doc_ids[FOLD.test])
    assert not set(trained.groups) & set(FEATURES.groups[FOLD.test])
    whole, alone = fit(config, FEATURES, FOLD.train), fit(config, trained, np.arange(len(trained)))
    assert whole.heads == alone.heads
    found, wanted = whole.networks[0].state_dict(), alone.networks[0].state_dict()
    assert {"audio.scale.mean", "text.wide_scale.scale", "labels_0"} < set(wanted), "scaler and priors"
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    result = run_fold(FEATURES, Variant(name="hilbert", config=config), FOLD)
    assert result.heads == alone.plain_heads()
    np.testing.assert_array_equal(result.trained_on, FOLD.train)


def test_what_is_trained_on_changes_what_is_fitted() -> None:
    """The counterpart of the test above: it would pass if nothing were read at all."""
    first = run_fold(FEATURES, variant("hilbert"), FOLD)
    second = run_fold(changed(FEATURES, FOLD.train[:4]), variant("hilbert"), FOLD)
    assert first.heads != second.heads
    assert not np.allclose(first.probabilities["state"], second.probabilities["state"])


def test_comparing_names_every_baseline_and_ablation() -> None:
    assert tuple(one.name for one in choose_variants(TINY, FEATURES, compare=True)) == COMPARED
    assert tuple(one.name for one in choose_variants(TINY, FEATURES, compare=False)) == COMPARED[:4]
    alone = choose_variants(TINY, FEATURES.only("audio"), compare=True)
    assert not {"audio_only", "text_only", "late_fusion"} & {one.name for one in alone}


def test_an_ablation_changes_what_its_name_says_and_nothing_else() -> None:
    def without(**weights: float) -> Config:
        return from_dict(Config, {"loss": weights}, TINY)

    expected = {
        "no_fusion": replace(TINY, model=replace(TINY.model, layers=0)),
        "mlp_head": replace(TINY, moe=replace(TINY.moe, kind="mlp")),
        "without_wide": replace(TINY, model=replace(TINY.model, wide=False)),
        "without_contrastive": without(contrastive=0.0),
        "without_cka": without(cka=0.0),
        "without_balance": without(balance=0.0),
        "without_router_losses": without(load_balance=0.0, router_z=0.0),
        "without_redundancy": without(redundancy=0.0),
        "task_only": without(
            contrastive=0.0, cka=0.0, balance=0.0, load_balance=0.0, router_z=0.0, redundancy=0.0
        ),
        "hilbert": TINY,
    }
    for name, config in expected.items():
        assert variant(name).config == config, name
    assert variant("direct_contrast").config.loss.contrast == "direct"
    assert variant("paper").config.model == replace(TINY.model, wide=False, unimodal_heads=False)


@pytest.mark.parametrize("name", COMPARED)
def test_every_variant_can_be_fitted_and_predicts_finite_probabilities(name: str) -> None:
    result = run_fold(FEATURES, variant(name), FOLD)
    assert result.variant == name
    for task, settings in TASKS.items():
        p, decision = result.probabilities[task], result.decisions[task]
        assert p.shape == (len(FOLD.test), len(settings.classes))
        assert np.isfinite(p).all()
        assert (p >= 0).all()
        np.testing.assert_allclose(p.sum(1), 1.0, atol=1e-5)
        assert decision.shape == (len(FOLD.test),)
        assert set(decision) <= set(range(len(settings.classes)))
    assert bool(result.embeddings) == (name == "hilbert")


def test_a_variant_of_one_modality_never_reads_the_other() -> None:
    assert FEATURES.text is not None
    other = replace(
        FEATURES, text=replace(FEATURES.text, values=-FEATURES.text.values, wide=-FEATURES.text.wide)
    )
    plain, turned = (run_fold(one, variant("audio_only"), FOLD) for one in (FEATURES, other))
    for task, probabilities in plain.probabilities.items():
        np.testing.assert_array_equal(probabilities, turned.probabilities[task])


def test_late_fusion_weighs_both_networks_and_takes_the_one_that_a_document_has() -> None:
    assert FEATURES.audio is not None
    assert FEATURES.text is not None
    fused, audio, text = (
        run_fold(FEATURES, variant(name), FOLD) for name in ("late_fusion", "audio_only", "text_only")
    )
    heard, read = FEATURES.audio.lengths[FOLD.test] > 0, FEATURES.text.lengths[FOLD.test] > 0
    both = heard & read
    assert 0 < both.sum() < len(both)
    for task, probabilities in fused.probabilities.items():
        single = np.where(heard[:, None], audio.probabilities[task], text.probabilities[task])
        np.testing.assert_allclose(probabilities[~both], single[~both], atol=1e-6)
        np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-5)


def test_late_fusion_of_a_binary_task_adds_weighted_log_odds() -> None:
    """The evidence of both networks, each at its own temperature and offset, is on one plane."""
    fused, audio, text = (
        run_fold(FEATURES, variant(name), FOLD) for name in ("late_fusion", "audio_only", "text_only")
    )
    assert FEATURES.audio is not None
    assert FEATURES.text is not None
    both = (FEATURES.audio.lengths[FOLD.test] > 0) & (FEATURES.text.lengths[FOLD.test] > 0)
    heard = FEATURES.targets["heard"][FOLD.train]
    prior = np.log((heard == 1).sum() / (heard == 0).sum())

    def evidence(result: FoldResult) -> np.ndarray:
        p = result.probabilities["heard"].astype(np.float64)[both, 1]
        return np.asarray(np.log(p / (1 - p)) - prior)

    members = np.stack([evidence(audio), evidence(text), np.ones(both.sum())], 1)
    assert len(members) > 3, "more documents than the plane has numbers"
    weights, *_ = np.linalg.lstsq(members, evidence(fused), rcond=None)
    np.testing.assert_allclose(members @ weights, evidence(fused), atol=1e-3)
    assert (weights[:2] >= -1e-4).all()


def test_repeats_train_from_other_seeds() -> None:
    later = replace(FOLD, repeat=1)
    first, second = (run_fold(FEATURES, variant("hilbert"), fold) for fold in (FOLD, later))
    assert not np.allclose(first.probabilities["state"], second.probabilities["state"])
