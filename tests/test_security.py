"""Safe by default: no file that we read is executed; transcripts and keys stay where they belong."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from hilbert_ray.cli import main
from hilbert_ray.commands import COMMANDS
from hilbert_ray.config import Config, EncoderConfig
from tests import make

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
