"""The actor with a recogniser of real code and random weights: what it refuses, and the whole command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
import soundfile
import torch

from hilbert_ray.audio import stream
from hilbert_ray.cli import main
from hilbert_ray.config import Config, ConfigError, RecognitionConfig
from hilbert_ray.store import Store
from hilbert_ray.transcription import transcribe
from hilbert_ray.transcription.resolve import chosen_recognizer, job_of, resolve_recognizer
from hilbert_ray.transcription.worker import TranscribeUnits
from hilbert_ray.units import UnitResult, plan_all, take_snapshot
from tests import fatal, make
from tests.asr.conftest import CORPUS
from tests.asr.test_ctc import CASES
from tests.transcription.stand_in import CONFIG, rows_of, spoken
from tests.whisper_weights import package_folder, write_folder

COMPUTES = {"cpu": {"float32", "int8", "int8_float32"}, "cuda": {"bfloat16", "float32", "int8_float32"}}
"""What CTranslate2 says of a CPU and of a recent GPU."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small wav2vec 2.0 with random weights."""
    folder = tmp_path_factory.mktemp("ctc")
    CASES["wav2vec2 group"].made(folder)
    return folder


def configured(weights: Path) -> Config:
    options = RecognitionConfig(precision="float32")
    return resolve_recognizer(replace(CONFIG, asr=f"hf:{weights}", recognition=options))


def result_of(folder: Path, weights: Path, planned: str | None = None, damage: bool = False) -> UnitResult:
    """Return what an actor reports of a unit that was planned with a fingerprint.

    With `damage`, its weights are cut off once it knows them.
    """
    config = configured(weights)
    recognizer = chosen_recognizer(config)
    job = job_of(recognizer, config)
    store = Store.create(str(folder / "work"), 1)
    snapshot = take_snapshot(make.manifest(folder / "m.jsonl", spoken(folder, 1)), store, config)
    store.add_encoder("transcript", job.fingerprint, recognizer.describe())
    [plan] = plan_all(store, snapshot, [job], config, plan_here=True)
    worker = TranscribeUnits(store, snapshot.number, config, {"transcript": planned or job.fingerprint})
    if damage:
        file = weights / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
    [batch] = worker({"unit": np.array([unit.to_json() for unit in plan.units[:1]])})
    [text] = batch["result"]
    return UnitResult.from_json(text)


def test_a_unit_is_transcribed_and_counted(tmp_path: Path, weights: Path) -> None:
    result = result_of(tmp_path, weights)
    assert result.error is None
    assert (result.content, result.stored, result.amount, result.quarantined) == ("transcript", 1, 4.0, ())
    [commit] = Store.open(str(tmp_path / "work")).commits("transcript", _fingerprint(tmp_path)).read()
    assert {"torch", "transformers", "silero_vad", "hilbert-ray"} <= set(commit.versions)


def _fingerprint(folder: Path) -> str:
    [fingerprint] = Store.open(str(folder / "work")).encoders("transcript")
    return fingerprint


def test_an_actor_whose_recogniser_is_not_the_planned_one_ends_the_run(tmp_path: Path, weights: Path) -> None:
    error = result_of(tmp_path, weights, planned="0123456789abcdef").error
    assert error is not None
    assert f"recogniser hf:{weights} has fingerprint {_fingerprint(tmp_path)} on node" in error
    assert "planned with 0123456789abcdef; transcripts of both must not mix: install the same" in error
    assert list(Store.open(str(tmp_path / "work")).transcripts(_fingerprint(tmp_path))) == []


def test_weights_that_do_not_load_end_the_run_and_quarantine_no_document(
    tmp_path: Path, weights: Path
) -> None:
    copied = Path(shutil.copytree(weights, tmp_path / "weights"))
    result = result_of(tmp_path, copied, damage=True)
    assert result.error is not None
    assert f"recogniser hf:{copied} cannot load its libraries or weights on node" in result.error
    assert "fix the cause and rerun to resume" in result.error
    assert result.quarantined == ()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_command_transcribes_with_the_recogniser_that_it_is_given(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make.manifest(tmp_path / "m.jsonl", spoken(tmp_path, 2))
    words = ["transcribe", "--manifest", manifest, "--out", str(tmp_path / "out"), "--asr", f"hf:{weights}"]
    words += ["--recognition.precision", "float32", "--embed.buckets", "2", "--embed.workers", "1", "--json"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["transcribed"], shown["recognizer"], shown["silent"]) == (2, f"hf:{weights}", 0)
    assert shown["manifest"] == f"{tmp_path}/out/manifest.jsonl"
    for row in rows_of(shown["manifest"]):
        said = json.loads((tmp_path / "out" / row["text_file"]).read_bytes())
        assert said["asr"]["fingerprint"] == shown["fingerprint"]
        assert said["utterances"]
    assert main(["validate", shown["manifest"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["automatic"] == {f"hf:{weights}": 2}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("engine", ["faster-whisper", pytest.param("hf", marks=pytest.mark.soak)])
def test_whisper_writes_the_same_bytes_on_any_number_of_workers_and_after_a_kill(
    engine: str, tmp_path: Path
) -> None:
    """Units and batches are others with more workers; the accident is in the middle of a unit."""
    model = package_folder() if engine == "faster-whisper" else write_folder(tmp_path / "whisper")
    names = [f"interview-{number:03d}" for number in range(1, 5)]
    for name in names:
        samples = np.concatenate([*stream(str(CORPUS / "audio" / f"{name}.opus"))])[: 20 * 16000]
        soundfile.write(tmp_path / f"{name}.flac", samples, 16000)
    rows = [{"doc_id": name, "audio": f"fatal://{tmp_path}/{name}.flac"} for name in names]
    manifest = make.manifest(tmp_path / "m.jsonl", rows)
    found = []
    for workers, unit_s in ((1, 1000.0), (3, 0.001)):
        out = tmp_path / f"by {workers}"
        if workers == 3:
            fatal.arm(tmp_path, point="open", match=".flac", spared=2)
        embed = replace(CONFIG.embed, workers=workers, unit_s=unit_s)
        transcribe(manifest, str(out), replace(CONFIG, asr=f"{engine}:{model}", embed=embed))
        found.append({path.name: path.read_bytes() for path in out.glob("transcripts/*")})
    assert fatal.accidents(tmp_path) == 1
    assert len(found[0]) == 4
    assert all(json.loads(each)["utterances"] for each in found[0].values())
    assert found[0] == found[1]


def test_an_engine_that_is_not_installed_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hilbert_ray.asr.faster_whisper.find_spec", lambda _: None)
    for precision in ("auto", "float32"):
        options = RecognitionConfig(precision=precision)
        config = replace(CONFIG, asr=f"faster-whisper:{package_folder()}", recognition=options)
        with pytest.raises(
            ConfigError, match=r"not installed: pip install 'hilbert-ray\[asr\]' on every node"
        ):
            resolve_recognizer(config)


def test_auto_precision_is_settled_by_name_for_all_workers() -> None:
    spec = f"faster-whisper:{package_folder()}"
    resolved = resolve_recognizer(replace(CONFIG, asr=spec, embed=replace(CONFIG.embed, gpu="no")))
    assert resolved.recognition.precision == "int8"
    assert chosen_recognizer(resolved).describe()["precision"] == "int8_float32"


def test_the_precision_is_that_of_the_workers_which_the_driver_may_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver of a cluster with GPUs describes a recogniser in bf16, which CTranslate2 has on GPUs."""
    spec = f"faster-whisper:{package_folder()}"
    config = replace(CONFIG, asr=spec, embed=replace(CONFIG.embed, gpu="auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device: COMPUTES[device])
    resolved = resolve_recognizer(config)
    assert resolved.recognition.precision == "bf16"
    assert chosen_recognizer(resolved).describe()["precision"] == "bfloat16"
    named = replace(config, recognition=RecognitionConfig(precision="bf16"))
    assert resolve_recognizer(named).recognition.precision == "bf16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wrong = (
        r"precision is bf16, but on this cpu CTranslate2 computes in float32, int8; set it to one of these"
    )
    with pytest.raises(ConfigError, match=wrong):
        resolve_recognizer(named)
