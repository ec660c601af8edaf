"""The command line: what a user types, what is refused before anything starts, and what is printed where."""

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from hilbert_ray import __version__
from hilbert_ray.cli import _command_name, _parse, main
from hilbert_ray.commands import COMMANDS
from hilbert_ray.errors import HilbertError
from hilbert_ray.store.snapshot import bucket_of
from hilbert_ray.store.sorting import write_snapshot
from hilbert_ray.store.store import Store
from tests import make

ROOT = Path(__file__).parent.parent


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `hilbert-ray` with these words as a user would, in a process of its own."""
    command = [sys.executable, "-m", "hilbert_ray", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what does `hilbert-ray` with some words in this process, which is much faster than `run`."""

    def ended(*words: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        code = main([*map(str, words)])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return ended


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make.corpus(tmp_path_factory.mktemp("cli"), 4, seconds=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, manifest: str) -> str:
    """Return a store with features of four documents, whose labels are `work` and `home`."""
    folder = str(tmp_path_factory.mktemp("store"))
    made = Store.create(folder, 2)
    documents = [make.stored(f"d{i}", labels={"topic": ("work", "home")[i % 2]}) for i in range(4)]
    write_snapshot(made, iter(documents))
    made.add_encoder("text", "f" * 16, {"name": "hashing", "spec": "hashing", "dim": 4,
                                        "options": {}, "segment": {}})  # fmt: skip
    for bucket in range(2):
        here = [d for d in documents if bucket_of(d.document.doc_id, 2) == bucket]
        rows = [make.feature_row(d.document.doc_id, source=d.source("text")) for d in here]
        made.commit("text", "f" * 16, unit=f"u{bucket}", bucket=bucket, rows=rows)
    return folder


def test_the_overview_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from hilbert_ray.cli import main; main(['--help'])\n"
        "print([m for m in ('torch', 'ray', 'numpy', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *overview, heavy = shown.stdout.splitlines()
    assert heavy == "[]"
    for name in COMMANDS:
        assert any(line.startswith(f"  {name} ") for line in overview), name


def test_a_group_of_commands_has_an_overview_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "usage: hilbert-ray store COMMAND" in shown
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("  ")] == [
        ["store", action] for action in ("info", "verify", "compact", "gc", "export")
    ]


def test_every_named_error_of_the_library_derives_from_one_root_with_an_exit_code() -> None:
    """Any other exception would reach the user as a traceback."""
    strangers, codes = [], {}
    for path in (ROOT / "hilbert_ray").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("Error")]
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in names:
            error = getattr(import_module(module), name)
            if issubclass(error, Exception):  # a standard error of a score is none
                codes[name] = getattr(error, "exit_code", None)
                strangers += [] if issubclass(error, HilbertError) else [name]
    assert strangers == []
    assert len(codes) > 25
    assert {name for name, code in codes.items() if code == 1} == {
        "ClusterError", "DoctorError", "UnitsError", "TooManyQuarantinedError", "NotFiniteError",
        "SystemFaultError", "WriteError", "DamagedError", "SearchError",
    }  # fmt: skip
    assert set(codes.values()) == {1, 2}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_made_of_the_settings_docstrings(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert ended.value.code == 0
    assert "--json" in shown
    if name in ("evaluate", "train", "tune"):
        assert "--loss.cka FLOAT Weight of the CKA structure loss. (default: 0.4)" in shown


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


SETTINGS = {
    "misspelt.yaml": "loss: {ckka: 0.3}",
    "contradiction.yaml": "model: {dim: 64, heads: 7}",
    "outside.yaml": "tasks: {topic: {kind: multiclass, classes: [work, garden]}}",
    "broken.yaml": "loss: {",
}
REFUSED = {
    "unknown command": (["embedd"], "no command 'embedd'; the commands are validate, transcribe,"),
    "unknown store command": (["store", "mend", "S"], "no command 'store mend'; the commands are store"),
    "misspelt flag": (["embed", "--manifest", "M", "--store", "S", "--embed.worker", "2"], "--embed.workers"),
    "missing flag": (["embed", "--manifest", "M"], "--store"),
    "misspelt setting": (
        ["embed", "--manifest", "M", "--store", "S", "--config", "misspelt.yaml"],
        "unknown setting `loss.ckka`: did you mean `cka`?",
    ),
    "contradiction in a file": (
        ["evaluate", "--store", "S", "--out", "R", "--config", "contradiction.yaml"],
        "model.heads is 7 and model.dim is 64: heads must divide dim",
    ),
    "contradicting flags": (
        ["embed", "--manifest", "M", "--store", "S", "--segment.hop-s", "20"],
        "segment.hop_s is 20.0 and segment.window_s is 10.0",
    ),
    "broken settings file": (["validate", "M", "--config", "broken.yaml"], "broken.yaml is not valid YAML"),
    "missing settings file": (["validate", "M", "--config", "no.yaml"], "there is no settings file no.yaml"),
    "missing manifest": (["validate", "no.jsonl"], "there is no manifest no.jsonl; name an existing"),
    "missing manifest to embed": (
        ["embed", "--manifest", "no.jsonl", "--store", "NEW"],
        "there is no manifest no.jsonl; name an existing",
    ),
    "unknown encoder": (
        ["embed", "--manifest", "M", "--store", "NEW", "--audio", "mfc"],
        "audio encoder is 'mfc'; the choices are `mfcc`, `prosody`, `hf:<id or folder>",
    ),
    "a plan without a dry run": (
        ["embed", "--manifest", "M", "--store", "NEW", "--plan", "10"],
        "--plan is 10; it needs --dry-run",
    ),
    "no encoder at all": (
        ["embed", "--manifest", "M", "--store", "NEW", "--audio", "none", "--text", "none"],
        "at least one modality must have an encoder",
    ),
    "missing store": (["train", "--store", "NO", "--out", "R"], "no store at NO: it has no store.json"),
    "label outside the task": (
        ["evaluate", "--store", "S", "--out", "R", "--config", "outside.yaml"],
        "document 'd1', task `topic`: unknown class 'home', expected one of work, garden",
    ),
    "label outside the task in train": (
        ["train", "--store", "S", "--out", "R", "--config", "outside.yaml"],
        "document 'd1', task `topic`: unknown class 'home', expected one of work, garden",
    ),
    "a share of labels in per cent": (
        ["evaluate", "--store", "S", "--out", "R", "--labels", "0.5", "25"],
        "labels is 25.0; it must be above 0 and at most 1",
    ),
    "missing model": (
        ["predict", "--model", "NO", "--manifest", "M", "--out", "P"],
        "model folder NO does not exist or is empty",
    ),
    "missing run": (["report", "--run", "NO"], "metrics.json"),
    "export without a folder": (["store", "export", "S"], "--out"),
    "a flag of another store command": (["store", "info", "S", "--repair"], "--repair"),
    "export of no document": (
        ["store", "export", "S", "--out", "R", "--document", "dd"],
        "document 'dd' is not in the newest manifest of store",
    ),
    "negative age": (["store", "gc", "S", "--min-age-h=-1"], "min_age_h is -1.0; it must be from 0 to"),
    "no commits": (["store", "compact", "S", "--min-commits", "0"], "min_commits is 0; it must be from 1 to"),
}  # fmt: skip


REFUSE = """
import contextlib, io, json, os, sys
from hilbert_ray.cli import main

results = {}
for case, words in json.loads(sys.stdin.read()).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:
            code = ended.code
    results[case] = (code, out.getvalue(), err.getvalue(), os.listdir(os.environ["RAY_TMPDIR"]))
print(json.dumps(results))
"""
"""Runs each case in one process, which loads everything once; a traceback ends it."""


@pytest.fixture(scope="module")
def refusals(
    manifest: str, store: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str, str, list[str]]]:
    """Return exit code, both outputs and what Ray has left in its folder, of each case."""
    folder = tmp_path_factory.mktemp("refused")
    for name, content in SETTINGS.items():
        (folder / name).write_text(content)
    (folder / "ray-home").mkdir()
    places = {"M": manifest, "S": store, "NEW": "new", "R": "run", "P": "p.parquet"}
    cases = {case: [places.get(word, word) for word in words] for case, (words, _) in REFUSED.items()}
    shown = subprocess.run(
        [sys.executable, "-c", REFUSE], capture_output=True, text=True, check=False, cwd=folder,
        input=json.dumps(cases), env={**os.environ, "RAY_TMPDIR": str(folder / "ray-home")},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    results: dict[str, tuple[int, str, str, list[str]]] = json.loads(shown.stdout)
    return results


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_is_refused_with_code_2_and_one_message_before_ray_starts(
    case: str, refusals: dict[str, tuple[int, str, str, list[str]]]
) -> None:
    code, out, err, ray_files = refusals[case]
    assert (code, out) == (2, ""), err
    assert REFUSED[case][1] in " ".join(err.replace("│", " ").split()), err
    assert not ray_files, "Ray was started"


def test_flags_override_the_file_and_the_file_overrides_the_preset(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("loss: {cka: 1.5, balance: 2.0}\nfit: {epochs: 7}\n")
    words = ["--store", "S", "--out", "R", "--preset", "large", "--config", str(settings), "--loss.cka", "3"]
    _, config = _parse("train", words)
    assert (config.loss.cka, config.loss.balance, config.fit.epochs) == (3.0, 2.0, 7)
    assert (config.model.dim, config.moe.experts, config.fit.seeds) == (128, 8, 1)


def test_json_goes_to_standard_output_alone(manifest: str) -> None:
    shown = run("validate", manifest, "--json")
    assert shown.returncode == 0
    values = json.loads(shown.stdout)
    assert (values["rows"], values["documents"], values["faults"]) == (4, 4, [])
    assert values["tasks"]["topic"]["documents"] == {"home": 2, "work": 2}


def test_a_manifest_with_faults_is_reported_whole_and_ends_with_code_1(tmp_path: Path) -> None:
    records = [make.record(tmp_path, 0), {"doc_id": "lost", "audio": "lost.wav"}]
    shown = run("validate", make.manifest(tmp_path / "m.jsonl", records))
    assert shown.returncode == 1
    assert "2 rows, 1 valid documents, 1 invalid rows" in shown.stdout
    assert "  1 row (audio, AudioNotFoundError):\n    row 2, 'lost': no audio file at" in shown.stdout


def test_no_command_looks_at_files_outside_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Roots are those of the settings and of the flags together."""
    for name in ("corpus", "one", "two", "three"):
        (tmp_path / name).mkdir()
    records = [{"doc_id": name, "text_file": f"../{name}/a.txt"} for name in ("one", "two", "three")]
    for record in records:
        (tmp_path / "corpus" / record["text_file"]).write_text("Hello there.")
    manifest = make.manifest(tmp_path / "corpus" / "m.jsonl", records)
    (tmp_path / "settings.yaml").write_text("roots: [one]\n")
    monkeypatch.chdir(tmp_path)
    assert main(["validate", manifest]) == 0
    assert main(["validate", manifest, "--config", "settings.yaml", "--root", "two", "--json"]) == 1
    shown = capsys.readouterr().out
    assert [fault["doc_id"] for fault in json.loads(shown[shown.index("{") :])["faults"]] == ["three"]
    embed = ["embed", "--manifest", manifest, "--store", "store", "--audio", "none", "--root", "corpus"]
    for words in (embed, [*embed, "--dry-run"]):
        assert main(words) == 1
        assert "no valid document (3 invalid rows)" in capsys.readouterr().err
    assert main([*embed, "--root", ""]) == 2
    assert "an entry of roots is empty" in capsys.readouterr().err


def test_store_commands_print_what_they_found_and_did(store: str, call: Call, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    info = json.loads(call("store", "info", copy, "--json").stdout)
    assert info["documents"] == 4
    [encoder] = info["encoders"]
    assert (encoder["commit_files"], encoder["indexes"], encoder["quarantined_by_error"]) == (2, 0, {})
    whole = call("store", "verify", copy)
    assert (whole.returncode, whole.stdout.strip()) == (0, "every file is intact")
    indexes = json.loads(call("store", "compact", copy, "--min-commits", "1", "--json").stdout)["indexes"]
    assert [(copy / index).exists() for index in indexes] == [True, True]
    assert call("store", "gc", copy).stdout.strip() == "0 files deleted"
    deleted = call("store", "gc", copy, "--min-age-h", "0").stdout.splitlines()
    commits = f"features/text/{'f' * 16}/commits"
    assert deleted == [f"{commits}/bucket={i:04d}/u{i}.json" for i in range(2)] + ["2 files deleted"]
    for file in (copy / "features").rglob("*.parquet"):
        file.write_bytes(b"damaged")
    damaged = call("store", "verify", copy)
    assert damaged.returncode == 1
    assert "sha256" in damaged.stdout
    assert call("store", "verify", copy, "--repair").returncode == 1
    assert call("store", "verify", copy).returncode == 0
    assert json.loads(call("store", "info", copy, "--json").stdout)["encoders"][0]["pending"] == 4


def test_store_export_takes_all_documents_or_some_in_the_form_that_fits(
    store: str, call: Call, tmp_path: Path
) -> None:
    shown = call("store", "export", store, "--out", tmp_path / "all")
    assert (shown.returncode, shown.stdout.strip()) == (
        0,
        f"4 documents exported to {tmp_path / 'all'} (huggingface)",
    )
    assert "config_name: text-" in (tmp_path / "all" / "README.md").read_text()
    some = ["--document", "d1", "--document", "d2"]
    assert call("store", "export", store, "--out", tmp_path / "some", *some).returncode == 0
    assert sorted(path.name for path in (tmp_path / "some").rglob("*.npz")) == ["d1.npz", "d2.npz"]
    shown = call("store", "export", store, "--out", tmp_path / "table", *some, "--format", "arrow", "--json")
    assert json.loads(shown.stdout)["documents"] == 2
    again = call("store", "export", store, "--out", tmp_path / "table")
    assert again.returncode == 2
    assert "table exists and is not empty" in again.stderr


def commands_of(page: str) -> list[list[str]]:
    """Return the words of each `hilbert-ray` command in the indented blocks of a Markdown page."""
    joined = (ROOT / page).read_text().replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("    hilbert-ray ")]
    return [shlex.split(line)[1:] for line in lines]


def test_every_command_of_the_readme_has_flags_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for settings in ("settings.yaml", "run/best.yaml"):
        Path(settings).write_text("tasks: {outcome: {kind: binary, classes: [stable, relapse]}}\n")
    commands = commands_of("README.md")
    assert {name for name, *_ in commands} >= {"validate", "embed", "evaluate", "train", "predict", "report"}
    for words in commands:
        name = _command_name(words)
        _, config = _parse(name, words[len(name.split()) :])
        assert list(config.tasks) == (["outcome"] if "--config" in words else [])


def test_a_model_says_how_many_documents_were_not_embedded_when_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make.features_store(tmp_path / "store", [2] * 12, [2] * 12, 4)
    items = list(Store.open(store).snapshot().documents())
    later = make.stored("later", row=len(items) + 1, group="g0", labels={"topic": "work"})
    write_snapshot(Store.open(store), [*items, later])
    run = tmp_path / "run"
    words = ["train", "--store", store, "--out", str(run), "--folds.inner", "0", "--fit.epochs", "2"]
    words += ["--fit.seeds", "1", "--model.dim", "8"]
    assert main(words) == 2
    assert "is not complete: of 13 documents" in capsys.readouterr().err
    assert main([*words, "--allow-pending"]) == 0
    described = json.loads((run / "model" / "config.json").read_text())["encoders"]
    assert {modality: one["pending"] for modality, one in described.items()} == {"audio": 1, "text": 1}
    assert (run / "model" / "README.md").read_text().count("counted as lacking it: 1\n") == 2
