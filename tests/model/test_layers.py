"""Features of several layers: the network's weighted mean, the choice of layers, and the linear model's."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from hilbert_ray.config import Config, ConfigError, FitConfig, FoldsConfig, TaskConfig
from hilbert_ray.evaluation import Variant, run_fold
from hilbert_ray.evaluation.baselines import logistic
from hilbert_ray.features import Features, Ragged, collate, mean_std
from hilbert_ray.folds import Fold
from hilbert_ray.model import Hilbert, ModelError
from hilbert_ray.model.network import Layers, Network
from hilbert_ray.run import read_fold_result, write_fold_result
from hilbert_ray.training import fit

LAYERS, WIDTH, DOCUMENTS = 3, 4, 48
CONFIG = Config(
    tasks={"y": TaskConfig(kind="binary", classes=("no", "yes"))},
    fit=FitConfig(seeds=1, epochs=12),
    folds=FoldsConfig(inner=0),
)
TRAIN, TEST = np.arange(36), np.arange(36, DOCUMENTS)


def layered(signal_in: int, only: slice = slice(None)) -> Features:
    """Return documents whose label shows in one layer of the audio alone, with some of the layers."""
    rng = np.random.default_rng(0)
    y = np.arange(DOCUMENTS) % 2
    lengths = rng.integers(2, 5, DOCUMENTS)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    by_layer = rng.normal(size=(offsets[-1], LAYERS, WIDTH)).astype(np.float32)
    by_layer[:, signal_in, 0] += 3 * np.repeat(y, lengths)
    values = by_layer[:, only].reshape(offsets[-1], -1)
    place = np.zeros(offsets[-1], np.float32)
    wide = np.stack([mean_std(values[a:b]) for a, b in pairwise(offsets)])
    audio = Ragged(
        values=values, position=place, start=place, end=place, offsets=offsets, wide=wide,
        layers=len(range(LAYERS)[only]),
    )  # fmt: skip
    doc_ids = np.array([f"d{i:02d}" for i in range(DOCUMENTS)])
    return Features(doc_ids=doc_ids, groups=np.arange(DOCUMENTS), audio=audio, text=None, targets={"y": y})


def test_layers_are_averaged_with_softmax_weights() -> None:
    layers = Layers(LAYERS, slice(0, LAYERS))
    values = torch.randn(2, 5, LAYERS * WIDTH)
    by_layer = values.view(2, 5, LAYERS, WIDTH)
    torch.testing.assert_close(layers(values), by_layer.mean(2))
    assert layers.logits is not None
    with torch.no_grad():
        layers.logits.copy_(torch.tensor([0.1, -0.2, 0.3]))
    weights = layers.weights
    assert weights is not None
    torch.testing.assert_close(layers(values), (by_layer * weights[:, None]).sum(2))
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(Layers(LAYERS, slice(1, 2))(values), by_layer[:, :, 1])
    assert Layers(1, slice(0, 1))(values) is values


def test_a_chosen_layer_is_as_if_the_others_had_not_been_stored() -> None:
    chosen = replace(CONFIG, model=replace(CONFIG.model, audio_layers="1"))
    found = fit(chosen, layered(1), TRAIN).model().predict(layered(1))
    alone = fit(CONFIG, layered(1, slice(1, 2)), TRAIN).model().predict(layered(1, slice(1, 2)))
    np.testing.assert_allclose(found.evidence["y"], alone.evidence["y"], atol=1e-6, rtol=0)


def test_statistics_of_a_layer_are_those_of_its_columns() -> None:
    audio = layered(1).audio
    assert audio is not None
    for layer in range(LAYERS):
        alone = layered(1, slice(layer, layer + 1)).audio
        assert alone is not None
        np.testing.assert_array_equal(audio.wide_by_layer[:, layer], alone.wide)
    assert audio.take(TEST).layers == LAYERS


@pytest.mark.parametrize("signal_in", range(LAYERS))
def test_training_finds_the_layer_that_holds_the_label(signal_in: int) -> None:
    features = layered(signal_in)
    model = fit(CONFIG, features, TRAIN).model()
    weights = model.layer_weights["audio"]
    assert int(np.argmax(weights)) == signal_in
    np.testing.assert_allclose(sum(weights), 1, atol=1e-6)
    # The linear model chooses it on inner folds, and is then the one that read nothing else.
    found, _ = logistic(features, CONFIG, TRAIN, TEST)
    alone, _ = logistic(layered(signal_in, slice(signal_in, signal_in + 1)), CONFIG, TRAIN, TEST)
    np.testing.assert_allclose(found["y"], alone["y"], atol=1e-6, rtol=0)


def test_layers_are_published_and_kept_with_a_fold(tmp_path: Path) -> None:
    features = layered(2)
    chosen = replace(CONFIG, model=replace(CONFIG.model, audio_layers="1:2"))
    model = fit(chosen, features, TRAIN).model()
    assert model.layer_weights["audio"][0] == 0
    loaded = Hilbert.from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert loaded.layer_weights == model.layer_weights
    np.testing.assert_array_equal(
        loaded.predict(features).evidence["y"], model.predict(features).evidence["y"]
    )
    assert "layer 2" in (tmp_path / "model" / "README.md").read_text()

    fold = Fold(repeat=0, fold=0, train=TRAIN, test=TEST)
    result = run_fold(features, Variant(name="hilbert", config=chosen), fold)
    write_fold_result(tmp_path / "fold.npz", result)
    assert read_fold_result(tmp_path / "fold.npz", "hilbert", fold).layers == result.layers
    np.testing.assert_allclose(result.layers["audio"], model.layer_weights["audio"], atol=0.2, rtol=0)


def test_layers_that_are_not_there_are_refused() -> None:
    beyond = replace(CONFIG, model=replace(CONFIG.model, audio_layers="2:3"))
    with pytest.raises(
        ConfigError, match=r"the audio encoder has hidden states 0 to 2, but model\.audio_layers is 2:3"
    ):
        fit(beyond, layered(1), TRAIN)
    # Features of one layer leave nothing to choose.
    fit(replace(beyond, fit=replace(CONFIG.fit, epochs=1)), layered(1, slice(0, 1)), TRAIN)
    for value in ("3:1", "-1", "1:2:3", "", "last", "1.5", "9" * 5000):
        with pytest.raises(ConfigError, match=r"model\.text_layers is "):
            replace(CONFIG.model, text_layers=value)


def test_a_model_refuses_features_of_another_number_of_layers() -> None:
    model = fit(CONFIG, layered(1), TRAIN).model()
    with pytest.raises(ModelError, match="width 8, but the model was trained on width 12"):
        model.predict(layered(1, slice(0, 2)))


def test_first_weights_are_drawn_as_without_layers() -> None:
    """A parameter that drew random numbers would change every published result of the same seed."""
    torch.manual_seed(0)
    one = Network(CONFIG, {"audio": WIDTH})
    torch.manual_seed(0)
    several = Network(CONFIG, {"audio": LAYERS * WIDTH}, {"audio": LAYERS})
    expected = dict(one.named_parameters())
    for name, parameter in several.named_parameters():
        if name != "audio.layers.logits":
            torch.testing.assert_close(parameter, expected[name], atol=0, rtol=0)
    batch = collate(layered(1), TEST)
    assert several.eval()(batch).logits["y"].shape == (len(TEST), 1)
