"""The network: what an embedding may see, padding, publishing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hilbert_ray.config import Config, EncoderConfig, Modality, ModelConfig, MoEConfig, TaskConfig
from hilbert_ray.features.arrays import Features
from hilbert_ray.features.batch import collate
from hilbert_ray.model.heads import BOTH, HeadWeights
from hilbert_ray.model.hilbert import Hilbert, ModelError
from hilbert_ray.model.network import Network
from hilbert_ray.storage.files import DamagedError
from tests import make

pytestmark = pytest.mark.usefixtures("one_thread")
TASKS = {
    "state": TaskConfig(classes=("a", "b", "c", "d")),
    "level": TaskConfig(kind="ordinal", classes=("low", "mid", "high")),
    "heard": TaskConfig(kind="binary", classes=("no", "yes")),
}
CONFIG = Config(tasks=TASKS, model=ModelConfig(dim=16, hops=2))
EVERYONE = np.arange(20)


def network(config: Config = CONFIG, features: Features | None = None) -> Network:
    """Return a network with statistics taken and every weight disturbed, so that no path is silent."""
    features = features or make.features(20)
    torch.manual_seed(0)
    net = Network(config, {"audio": 12, "text": 20})
    net.fit_statistics(features, EVERYONE)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def changed(features: Features, modality: Modality) -> Features:
    """Return the same documents with other values of one modality."""
    ragged = features.by_modality[modality]
    other = replace(ragged, values=ragged.values + 1.5, wide=ragged.wide - 0.5)
    changes: Any = {modality: other}
    return replace(features, **changes)


@pytest.mark.parametrize(("modality", "other"), [("audio", "text"), ("text", "audio")])
def test_an_embedding_does_not_see_the_other_modality(modality: Modality, other: Modality) -> None:
    features, net = make.features(20), network()
    before = net(collate(features, EVERYONE))
    after = net(collate(changed(features, other), EVERYONE))
    assert torch.equal(before.by_modality[modality].embedding, after.by_modality[modality].embedding)
    assert not torch.allclose(
        before.by_modality[other].embedding, after.by_modality[other].embedding, atol=1e-3
    )
    assert not torch.allclose(before.joint, after.joint, atol=1e-3)


def test_padding_and_order_change_nothing() -> None:
    features, net = make.features(20, absent=0.2), network()
    together = net(collate(features, EVERYONE))
    order = np.random.default_rng(0).permutation(20)
    shuffled = net(collate(features, order))
    for i in EVERYONE:
        alone = net(collate(features, np.array([i])))
        for name, output in alone.by_modality.items():
            expected = together.by_modality[name].embedding[i]
            torch.testing.assert_close(output.embedding[0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.joint[0], together.joint[i], atol=1e-5, rtol=0)
    for task in TASKS:
        torch.testing.assert_close(shuffled.logits[task], together.logits[task][order], atol=1e-5, rtol=0)


def test_attention_sums_to_one_over_valid_segments() -> None:
    features, net = make.features(20), network()
    batch = collate(features, EVERYONE)
    output = net(batch)
    torch.testing.assert_close(output.audio.attention.sum(-1), torch.ones(20, 2))
    assert batch.audio is not None
    heard = output.audio.present
    assert not (output.audio.attention * ~batch.audio.mask[:, None, :])[heard].any()


def test_an_absent_modality_is_one_learned_token_and_adds_no_head_of_its_own() -> None:
    features, net = make.features(20, absent=0.2), network()
    output = net(collate(features, EVERYONE))
    absent = ~output.audio.present
    assert absent.sum() >= 2
    rows = output.audio.embedding[absent]
    assert torch.equal(rows, rows[:1].expand_as(rows))
    assert torch.isfinite(output.joint).all()
    assert all(torch.isfinite(logits).all() for logits in output.logits.values())


def test_statistics_come_from_the_training_part_alone() -> None:
    features, train = make.features(20, absent=0.0), np.arange(12)
    assert features.audio is not None
    net = Network(CONFIG, {"audio": 12, "text": 20})
    net.fit_statistics(features, train)
    own = features.audio.values[: features.audio.offsets[12]]
    np.testing.assert_allclose(net.audio.scale.mean.numpy(), own.mean(0), atol=1e-6)
    np.testing.assert_allclose(net.audio.scale.scale.numpy(), 1 / own.std(0), rtol=1e-5)
    assert net.labels["heard"].tolist() == np.bincount(features.targets["heard"][:12], minlength=2).tolist()


def test_a_constant_feature_column_becomes_zero() -> None:
    from hilbert_ray.model.network import Standardise

    scale = Standardise(2)
    scale.fit(np.array([[5.0, 1.0], [5.0, 3.0]], np.float32), np.arange(2))
    assert scale(torch.tensor([[5.0, 3.0], [9.0, 1.0]])).tolist() == [[0.0, 1.0], [0.0, -1.0]]


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(dim=16, layers=0),
        ModelConfig(dim=16, wide=False),
        ModelConfig(dim=16, unimodal_heads=False),
        ModelConfig(dim=16, layers=2, heads=2),
    ],
)
def test_every_switch_gives_a_working_network(config: ModelConfig) -> None:
    net = network(replace(CONFIG, model=config, moe=MoEConfig(kind="mlp")))
    output = net(collate(make.features(20), EVERYONE))
    assert output.router_logits is None
    assert output.logits["state"].shape == (20, 4)
    assert output.logits["level"].shape == (20, 2)
    assert bool(output.audio.logits) == config.unimodal_heads


WEIGHTS = {
    "state": {
        BOTH: HeadWeights(
            experts=0.3,
            audio=2.7,
            text=0.0,
            temperature=1.5,
            offsets=(0.5, -0.25, 0.0, 0.1),
            labels=40,
            cases=12,
        ),
        "audio": HeadWeights(experts=0.8, audio=1.2, text=0.0, temperature=2.5, labels=40, cases=3),
    }
}


def model() -> Hilbert:
    return Hilbert([network(), network()], CONFIG, WEIGHTS, {"audio": {"name": "mfcc"}}).eval()


def test_a_published_folder_predicts_the_same(tmp_path: Path) -> None:
    features, original = make.features(20, absent=0.1), model()
    loaded = Hilbert.from_pretrained(original.save_pretrained(tmp_path / "model"))
    before, after = original.predict(features), loaded.predict(features)
    for task in TASKS:
        np.testing.assert_array_equal(before.probabilities[task], after.probabilities[task])
        np.testing.assert_allclose(before.probabilities[task].sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(before.embeddings.joint, after.embeddings.joint)
    assert loaded.config == CONFIG
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_joined_embeddings_have_the_mean_cosine_of_the_networks() -> None:
    features = make.features(20, absent=0.0)
    first, second = network(), network()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.1)
    joint = Hilbert([first, second], CONFIG, {}, {}).embed(features).joint
    batch = collate(features, EVERYONE)
    each = [torch.nn.functional.normalize(net(batch).joint, dim=1) for net in (first, second)]
    expected = (each[0] @ each[0].T + each[1] @ each[1].T) / 2
    np.testing.assert_allclose(joint @ joint.T, expected.detach().numpy(), atol=1e-5)


def test_attention_of_a_prediction_covers_each_documents_own_segments() -> None:
    features = make.features(20, absent=0.2)
    prediction = model().predict(features)
    assert features.audio is not None
    for weights, length in zip(prediction.attention["audio"], features.audio.lengths, strict=True):
        assert len(weights) == length
        assert length == 0 or abs(weights.sum() - 1) < 1e-5
    absent = features.audio.lengths == 0
    assert not prediction.embeddings.audio[absent].any()
    assert prediction.embeddings.audio[~absent].any(1).all()


def test_a_folder_of_another_version_or_with_missing_files_is_refused(tmp_path: Path) -> None:
    folder = model().save_pretrained(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"schema": 99}))
    with pytest.raises(ModelError, match="has schema 99; this version reads schema 2"):
        Hilbert.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DamagedError, match=r"model\.safetensors is damaged .*rerun `hilbert-ray train`"):
        Hilbert.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"must hold config\.json and model\.safetensors"):
        Hilbert.from_pretrained(tmp_path / "absent")


def without(name: str, tensors: dict[str, Tensor]) -> None:
    del tensors[name]


def replaced(name: str, change: Callable[[Tensor], Tensor], tensors: dict[str, Tensor]) -> None:
    tensors[name] = change(tensors[name])


def without_hashes(config: Path) -> dict[str, Any]:
    """Return what config.json holds, but for the hashes: what somebody has who edits a folder on purpose."""
    values: dict[str, Any] = json.loads(config.read_text())
    del values["sha256"]
    return values


WEIGHT = "networks.0.audio.project.weight"


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda tensors: without(WEIGHT, tensors), f'Missing key.*"{WEIGHT}"'),
        (lambda tensors: tensors.update(stray=torch.ones(1)), 'Unexpected key.*"stray"'),
        (lambda tensors: replaced(WEIGHT, lambda w: w[:-1].clone(), tensors), f"size mismatch for {WEIGHT}"),
        (
            lambda tensors: replaced(WEIGHT, lambda w: w.T.contiguous(), tensors),
            f"size mismatch for {WEIGHT}",
        ),
        (
            lambda tensors: replaced(WEIGHT, Tensor.double, tensors),
            f"{WEIGHT} is torch.float64, but must be",
        ),
    ],
)
def test_weights_that_do_not_fit_the_settings_are_refused(
    tmp_path: Path, tamper: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    path = model().save_pretrained(tmp_path / "model") / "model.safetensors"
    config = path.with_name("config.json")
    config.write_text(json.dumps(without_hashes(config)))
    tensors = load_file(path)
    tamper(tensors)
    save_file(tensors, path)
    with pytest.raises(
        ModelError, match=rf"(?s)model.safetensors of .* does not fit its config.json: .*{message}"
    ):
        Hilbert.from_pretrained(path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "../../elsewhere.safetensors"}, "unknown setting `weights`"),
        ({"networks": 3}, r"names 3 networks, but model\.safetensors holds 2"),
        ({"networks": 10**12}, f"names {10**12} networks, but"),
        ({"networks": 0}, "`networks` is 0; it must be 1 or more"),
        ({"networks": "2"}, "`networks` is '2'; it must be of type int"),
        ({"dims": {"audio": 10**7, "text": 20}}, "size mismatch for networks.0.audio"),
        ({"dims": {"audio": 10**30, "text": 20}}, f"`dims` gives 'audio' width {10**30}; it must give audio"),
        ({"config": {"model": {"dim": 10**9}}}, r"model\.dim is 1000000000; it must be"),
        ({"config": {"model": {"layers": 10**9}}}, r"model\.layers is 1000000000; it must be"),
        ({"dims": {"audio": 12, "smell": 20}}, "`dims` gives 'smell' width 20; it must give audio or text"),
        ({"dims": [12]}, "`dims` is .*; it must be a mapping"),
        ({"heads": {"state": {"both": {"temperature": float("nan")}}}}, "heads.temperature is nan"),
        ({"heads": {"state": {"both": {"temperature": 0.0}}}}, "temperature is 0.0; it must be"),
        ({"heads": {"state": {"both": {"audio": -0.1}}}}, "audio is -0.1; it must be"),
        ({"encoders": None}, "`encoders` None; it must map"),
        ({"config": {"model": {"dim": 7}}}, r"model\.dim is 7; it must be .*multiple of 2"),
        ({"config": {"model": {"width": 7}}}, r"unknown setting `config\.model\.width`"),
        ({"config": None}, "is invalid: config is None"),
    ],
)
def test_damaged_settings_are_refused_with_the_rule(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = model().save_pretrained(tmp_path / "model") / "config.json"
    path.write_text(json.dumps(without_hashes(path) | change))
    with pytest.raises(ModelError, match=rf"(?s)model.*{message}"):
        Hilbert.from_pretrained(path.parent)


@pytest.mark.parametrize("name", ["schema", "version", "config", "dims", "networks", "heads", "encoders"])
def test_every_setting_of_a_published_folder_is_demanded(tmp_path: Path, name: str) -> None:
    path = model().save_pretrained(tmp_path / "model") / "config.json"
    values = without_hashes(path)
    del values[name]
    path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=name):
        Hilbert.from_pretrained(path.parent)


def test_a_folder_alone_cannot_turn_on_code_of_others(tmp_path: Path) -> None:
    config = replace(CONFIG, text_encoder=EncoderConfig(trust_remote_code=True))
    folder = Hilbert([network()], config, {}, {}).save_pretrained(tmp_path / "model")
    with pytest.raises(
        ModelError, match="needs text encoders that run Python code published with their weights"
    ):
        Hilbert.from_pretrained(folder)
    assert Hilbert.from_pretrained(folder, trust_remote_code=True).config == config


def test_loading_draws_no_random_number_and_gives_trainable_weights(tmp_path: Path) -> None:
    original = model()
    folder = original.save_pretrained(tmp_path / "model")
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    loaded = Hilbert.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)
    assert not loaded.training
    for (name, p), q in zip(original.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert q.requires_grad
    loaded(collate(make.features(5), np.arange(5))).joint.sum().backward()


def test_the_model_card_gives_each_tasks_label_map(tmp_path: Path) -> None:
    folder = model().save_pretrained(tmp_path / "model")
    card, values = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
    assert "- `level`: ordinal\n  - 0: low\n  - 1: mid\n  - 2: high\n" in card
    assert {name: tuple(task["classes"]) for name, task in values["config"]["tasks"].items()} == {
        name: task.classes for name, task in TASKS.items()
    }
    assert "`mfcc`" in card


def test_the_model_card_names_the_recognisers_of_transcripts(tmp_path: Path) -> None:
    plain = model()
    assert "recognisers" not in plain._card()
    recognizers = [{"name": "whisper", "fingerprint": "0a1b", "documents": 7, "confidence": 0.9}]
    plain.encoders["text"] = {"name": "hashing", "recognizers": recognizers}
    folder = plain.save_pretrained(tmp_path / "model")
    assert "- `whisper`, fingerprint `0a1b`: 7 documents" in (folder / "README.md").read_text()
    assert Hilbert.from_pretrained(folder).encoders["text"]["recognizers"] == recognizers


def test_the_model_card_counts_documents_that_were_not_embedded_yet(tmp_path: Path) -> None:
    plain = model()
    assert "not embedded" not in plain._card()
    plain.encoders["audio"] = {"name": "mfcc", "pending": 3}
    card = (plain.save_pretrained(tmp_path / "model") / "README.md").read_text()
    assert "; training documents that were not embedded yet and counted as lacking it: 3" in card


def test_features_become_the_three_embeddings_of_each_document() -> None:
    features, original = make.features(20, absent=0.2), model()
    audio, text, joint = original.embed(features)
    output = original(collate(features, EVERYONE))
    for embedding, expected in (
        (audio, output.audio.embedding),
        (text, output.text.embedding),
        (joint, output.joint),
    ):
        assert embedding.shape == (20, 2 * 16)
        np.testing.assert_allclose(embedding, expected.detach().numpy(), atol=1e-5)
    assert features.text is not None
    lacking = features.text.lengths == 0
    assert lacking.any()
    assert not text[lacking].any()
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(original.embed(features.take(EVERYONE[3:5])).joint, joint[3:5], atol=1e-5)
    alone = original.embed(features.only("audio"))
    np.testing.assert_allclose(alone.audio, audio, atol=1e-5)
    assert not alone.text.any()


def test_features_of_another_width_are_refused() -> None:
    features = make.features(5)
    assert features.audio is not None
    narrow = replace(features.audio, values=features.audio.values[:, :6])
    with pytest.raises(ModelError, match="features have width 6, but the model was trained on width 12"):
        model().predict(replace(features, audio=narrow))
