"""Safe by default: no file that we read is executed; transcripts and keys stay where they belong."""

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from hilbert_ray.cli import main
from hilbert_ray.commands import COMMANDS
from hilbert_ray.config import Config, EncoderConfig
from tests import make
from tests import test_damage as damage

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("hilbert_ray/**/*.py"), *ROOT.glob("jobs/*.py")])
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
FORBIDDEN = {
    "joblib.load", "torch.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen",
}  # fmt: skip
WORDS = "xylophone zeppelin"
"""Words that stand in every transcript below and nowhere else."""


def unsafe(source: str) -> Iterator[str]:
    """Yield what a Python source does that could execute a file which it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLING:
            yield node.module or ""
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                name in FORBIDDEN
                or (name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False")
                or given.get("allow_pickle") == "True"
                or given.get("shell") == "True"
                or given.get("trust_remote_code") == "True"
            ):
                yield ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_that_we_read_is_unpickled_or_executed(path: Path) -> None:
    assert list(unsafe(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from cloudpickle import loads",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "joblib.load(path)",
        "yaml.load(file)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_would_execute_a_file_is_found(source: str) -> None:
    assert len(list(unsafe(source))) == 1


def test_remote_code_is_off_unless_asked_for() -> None:
    assert EncoderConfig().trust_remote_code is False
    assert Config().audio_encoder == Config().text_encoder == EncoderConfig()
    [flag] = [field for field in fields(COMMANDS["predict"]) if field.name == "trust_remote_code"]
    assert flag.default is False


def predicting(folder: Path) -> list[str]:
    damage.write_model(folder / "model")
    manifest = make.manifest(folder / "m.jsonl", [{"doc_id": "a", "text": "b"}])
    return ["predict", "--model", str(folder / "model"), "--manifest", manifest, "--out", str(folder / "p")]


def reporting(folder: Path) -> list[str]:
    damage.write_run(folder / "run")
    return ["report", "--run", str(folder / "run")]


def training(folder: Path) -> list[str]:
    store = make.features_store(folder / "store", [2] * 12, [2] * 12, 4)
    return [
        "evaluate",
        "--store",
        store,
        "--out",
        str(folder / "out"),
        "--folds.file",
        str(folder / "f.parquet"),
    ]


def validating(folder: Path) -> list[str]:
    return ["validate", make.corpus(folder, 2), "--config", str(folder / "c.yaml")]


def validating_table(folder: Path) -> list[str]:
    return ["validate", str(folder / "m.csv")]


def validating_lhotse(folder: Path) -> list[str]:
    (folder / "recordings.jsonl").touch()
    return ["validate", str(folder / "supervisions.jsonl")]


def unpacking(folder: Path) -> list[str]:
    return ["unpack", str(folder / "t.parquet"), str(folder / "out")]


PIPES: Mapping[str, Callable[[Path], list[str]]] = {
    "model/config.json": predicting, "model/model.safetensors": predicting,
    "run/config.json": reporting, "run/metrics.json": reporting, "run/predictions.parquet": reporting,
    "run/metrics.jsonl": reporting, "store/store.json": training, "f.parquet": training,
    "c.yaml": validating, "m.csv": validating_table, "supervisions.jsonl": validating_lhotse,
    "t.parquet": unpacking,
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PIPES)
def test_a_named_pipe_where_a_file_should_be_is_refused_and_not_waited_for(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = PIPES[name](tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    assert main(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert name.rpartition("/")[2] in line
    assert re.search("named pipe|regular file|no file", line)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_neither_transcripts_nor_keys_are_in_any_output_or_file_of_a_run(
    tmp_path: Path, ray_home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step at the command line, with documents at fault and a key in the environment."""
    records = make.labelled(tmp_path, 24)
    for record in records:
        for turn in record.get("text") or []:
            turn["text"] = f"{turn['text']} {WORDS}"
    records[4]["text"] = [WORDS, {"said": WORDS}]
    records[6]["text"] = {"said": WORDS}
    records[7]["text"][0]["end"] = 99.0
    manifest = make.manifest(tmp_path / "manifest.jsonl", records)
    (tmp_path / "settings.yaml").write_text(
        "segment: {window_s: 0.5, hop_s: 0.5}\n"
        "embed: {buckets: 2, workers: 1, max_quarantined: 1.0}\n"
        "fit: {epochs: 1, seeds: 1}\nfolds: {folds: 2, repeats: 1, inner: 0}\n"
        "train: {workers: 1}\ntasks: {topic: {kind: binary, classes: [home, work]}}\n"
    )
    key = "not-a-real-key-" + "9" * 20
    monkeypatch.setenv("HF_TOKEN", key)
    monkeypatch.chdir(tmp_path)
    settings = ["--config", "settings.yaml"]
    read = ["--store", "store", "--out", "run", *settings]
    predict = ["--model", "run/model", "--manifest", manifest, "--out", "p.parquet", "--embed.workers", "1"]
    assert main(["validate", manifest, *settings]) == 1
    assert main(["embed", "--manifest", manifest, "--store", "store", *settings]) == 0
    assert main(["evaluate", *read]) == 0
    assert main(["train", *read]) == 0
    assert main(["report", "--run", "run"]) == 0
    assert main(["predict", *predict]) == 0
    shown = capfd.readouterr()
    texts = {"output": (shown.out + shown.err).encode()} | {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert {"run/metrics.json", "run/report.html", "run/model/config.json"} <= set(texts)
    assert b"quarantined" in texts["output"]
    logs = {
        str(path): path.read_bytes() for path in ray_home.glob("ray/session_*/logs/**/*") if path.is_file()
    }
    assert any(logs.values())
    secrets = [key.encode(), (ray_home / "token").read_bytes()]
    assert [name for name, text in (texts | logs).items() if any(secret in text for secret in secrets)] == []
    said = [word.encode() for word in WORDS.split()]
    spoken = {name for name, text in (texts | logs).items() if any(word in text for word in said)}
    assert "manifest.jsonl" in spoken
    allowed = ("manifest.jsonl", "store/documents/", "p.parquet.store/documents/")
    assert {name for name in spoken if not name.startswith(allowed)} == set()
