"""Where weights come from: a pinned revision, fetched once per node from a server that acts like the hub."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hilbert_ray.config import ConfigError, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.document.records import AudioSegment, Segment, TextSegment
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.encoders.speech import batch_s
from hilbert_ray.encoders.weights import (
    Precision,
    _cpu_words,
    code_hash,
    fetch,
    pin_revision,
    resolve_precision,
    weights_hash,
)
from tests import models

WEIGHTS = "model.safetensors"
SEGMENTS: dict[Modality, Segment] = {
    "audio": AudioSegment(start=0.0, end=1.0, samples=np.sin(np.arange(16000, dtype=np.float32))),
    "text": TextSegment(start=0.0, end=1.0, text="the cold garden"),
}
NEEDED = {"config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}


class Hub:
    """Serves the files of some commits as huggingface.co does, and counts what is downloaded.

    commits: files by name, by commit. branches: the commit of each. downloads: GETs of each file; other
    requests are counted under "".
    """

    name = "small/encoder"

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.downloads: Counter[str] = Counter()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Answer,), {"hub": self}))
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit and move a branch to it; return the commit."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Answer(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        rest = path.removeprefix("/api/models").removeprefix(f"/{self.hub.name}/")
        if rest == path.removeprefix("/api/models"):
            self._send(404, {"X-Error-Code": "RepoNotFound"})
            return
        action, revision, *file = rest.split("/")
        commit = self.hub.branches.get(revision, revision)
        files = self.hub.commits.get(commit)
        if files is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif action == "revision":
            self.hub.downloads[""] += 1
            self._send(200, {}, json.dumps({"id": self.hub.name, "sha": commit}).encode())
        elif action == "tree":
            self.hub.downloads[""] += 1
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self._send(200, {}, json.dumps(tree).encode())
        else:
            data = files["/".join(file)]
            if with_body:
                self.hub.downloads["/".join(file)] += 1
                time.sleep(0.3)  # so that whoever starts meanwhile finds the download under way
            self._send(200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, data)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()
    yield served
    served.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Give the files of a small model, and some that no encoder needs."""
    folder = tmp_path_factory.mktemp("model")
    models.made("bert", folder)
    needed = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(needed) == NEEDED
    return {**needed, "README.md": b"# A model", "pytorch_model.bin": b"the same", "onnx/model.onnx": b"too"}


def node(hub: Hub | None, home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process on a node whose cache lies at `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    endpoint = hub.endpoint if hub else "http://127.0.0.1:9"
    patience = {"HF_HUB_ETAG_TIMEOUT": "120", "HF_HUB_DOWNLOAD_TIMEOUT": "120"}
    return {**inherited, **patience, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **more}


PROGRAM = """
import sys
from hilbert_ray.config import ConfigError
from hilbert_ray.encoders import pin_revision
from hilbert_ray.encoders.weights import fetch
print("ready", flush=True)
sys.stdin.readline()
try:
    actions = {"pin_revision": pin_revision, "fetch": fetch, "fetch_code": lambda spec: fetch(spec, True)}
    print(actions[sys.argv[1]](sys.argv[2]))
except ConfigError as error:
    print("ConfigError:", error)
assert "torch" not in sys.modules
"""


def processes(
    action: str, spec: str, environment: Mapping[str, str], count: int = 1, cwd: Path | None = None
) -> list[str]:
    """Call `pin_revision` or `fetch` in some processes at the same time; return what each got."""
    environment = {**environment, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, action, spec],
            env=environment, cwd=cwd, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(count)
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=600)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * count
    return answers


def test_processes_that_start_together_download_each_file_once(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    commit = hub.push(files)
    answers = processes("fetch", "hf:small/encoder@main", node(hub, tmp_path), count=4)
    assert len(set(answers)) == 1
    folder = Path(answers[0])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {n: files[n] for n in NEEDED}
    assert {name: count for name, count in hub.downloads.items() if name} == dict.fromkeys(NEEDED, 1)
    # A commit in the cache is not even asked about: many workers must not knock at the hub for nothing.
    hub.downloads.clear()
    assert processes("fetch", f"hf:small/encoder@{commit}", node(hub, tmp_path)) == answers[:1]
    assert not hub.downloads
    encoder = build_encoder(f"hf:{folder}", "text", EncoderConfig(precision="float32"), SegmentConfig())
    assert encoder.max_tokens == 62


def test_a_pinned_encoder_stays_the_same_when_its_branch_moves(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    first = hub.push(files)
    [spec] = processes("pin_revision", "hf:small/encoder", node(hub, tmp_path / "driver"))
    assert spec == f"hf:small/encoder@{first}"
    second = hub.push({**files, WEIGHTS: files[WEIGHTS][:-1] + b"\1"})
    elsewhere = node(hub, tmp_path / "worker")
    [folder] = processes("fetch", spec, elsewhere)
    assert (Path(folder) / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert processes("pin_revision", spec, elsewhere) == [spec]
    [moved] = processes("pin_revision", "hf:small/encoder@main", elsewhere)
    assert moved == f"hf:small/encoder@{second}"
    [other] = processes("fetch", moved, elsewhere)
    assert weights_hash(other) != weights_hash(folder)


def test_the_cache_serves_a_node_without_a_network(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    commit = hub.push(files)
    [spec] = processes("pin_revision", "hf:small/encoder", node(hub, tmp_path))
    for more in ({"HF_HUB_OFFLINE": "1"}, {}):
        cut_off = node(None, tmp_path, **more)
        assert processes("pin_revision", spec, cut_off) == [f"hf:small/encoder@{commit}"]
        assert processes("pin_revision", "hf:small/encoder@main", cut_off) == [f"hf:small/encoder@{commit}"]
        [message] = processes("pin_revision", "hf:small/other", cut_off)
        assert message.startswith("ConfigError: encoder hf:small/other is not a local folder and cannot be")


def test_without_safetensors_the_older_weights_are_fetched(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.push({name: data for name, data in files.items() if name != WEIGHTS})
    [folder] = processes("fetch", "hf:small/encoder", node(hub, tmp_path))
    assert (Path(folder) / "pytorch_model.bin").read_bytes() == b"the same"


def test_code_is_downloaded_only_where_it_may_be_run(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.push({**files, "modeling_own.py": b"raise SystemExit"})
    [spec] = processes("pin_revision", "hf:small/encoder", node(hub, tmp_path))
    [folder] = processes("fetch", spec, node(hub, tmp_path))
    assert not (Path(folder) / "modeling_own.py").exists()
    assert processes("fetch_code", spec, node(hub, tmp_path)) == [folder]
    assert (Path(folder) / "modeling_own.py").read_bytes() == b"raise SystemExit"


def test_pickled_projections_are_fetched_beside_safetensors(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    """As of models whose transformer alone was converted; the pickled transformer is left where it is."""
    parts = {
        "2_Dense/config.json": b"{}",
        "2_Dense/pytorch_model.bin": b"pickled",
        "1_Pooling/config.json": b"{}",
    }
    commit = hub.push({**files, **parts})
    [folder] = processes("fetch", f"hf:small/encoder@{commit}", node(hub, tmp_path))
    assert (Path(folder) / "2_Dense/pytorch_model.bin").read_bytes() == b"pickled"
    assert not (Path(folder) / "pytorch_model.bin").exists()


@pytest.mark.parametrize("spec", ["hf:small/encoder@nowhere", "hf:small/other", "hf:a/folder/that/is/not"])
def test_what_cannot_be_found_is_named_with_what_to_do(
    spec: str, hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.push(files)
    [message] = processes("pin_revision", spec, node(hub, tmp_path))
    assert message.startswith(f"ConfigError: encoder {spec} is not a local folder and cannot be fetched: ")
    assert message.endswith("or correct the name, the revision or the network")


def test_a_folder_is_pinned_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "model@home"):
        (tmp_path / name).mkdir()
        assert pin_revision(f"hf:{name}") == f"hf:{tmp_path / name}"
        assert pin_revision(f"hf:{tmp_path / name}") == f"hf:{tmp_path / name}"
    with pytest.raises(ConfigError, match="encoder folder model is local, but revision 'main' is set"):
        fetch("hf:model@main")


def without(folder: Path, part: str) -> None:
    """Take a tensor out of a model's weights."""
    tensors = load_file(folder / WEIGHTS)
    [name] = [name for name in tensors if name.endswith(part)]
    del tensors[name]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def loaded(spec: str, modality: Modality) -> Encoder:
    return build_encoder(spec, modality, EncoderConfig(precision="float32"), SegmentConfig())


@pytest.mark.parametrize(
    ("name", "modality", "part"),
    [
        ("bert", "text", "encoder.layer.1.output.dense.weight"),
        ("hubert-group", "audio", "encoder.layers.0.attention.k_proj.bias"),
        ("whisper", "audio", "encoder.layer_norm.weight"),
    ],
)
def test_weights_that_lack_what_features_depend_on_are_refused(
    name: str, modality: Modality, part: str, tmp_path: Path
) -> None:
    spec = models.made(name, tmp_path)
    assert loaded(spec, modality).encode([]).shape[0] == 0
    without(tmp_path, part)
    # Of Whisper only the encoder is loaded, whose tensors go by their names within it.
    named = part.removeprefix("encoder.") if name == "whisper" else part
    with pytest.raises(
        ConfigError, match=rf"lack 1 of the tensors .* computes with, the first {named}; they"
    ):
        loaded(spec, modality).encode([])


@pytest.mark.parametrize(
    ("name", "modality", "part"),
    [("bert", "text", "pooler.dense.weight"), ("wav2vec2-group", "audio", "masked_spec_embed")],
)
def test_weights_may_lack_what_no_feature_depends_on(
    name: str, modality: Modality, part: str, tmp_path: Path
) -> None:
    spec = models.made(name, tmp_path)
    before = loaded(spec, modality).encode([SEGMENTS[modality]])
    without(tmp_path, part)
    np.testing.assert_array_equal(loaded(spec, modality).encode([SEGMENTS[modality]]), before)


def test_code_of_a_tokenizer_alone_is_part_of_what_features_depend_on(tmp_path: Path) -> None:
    models.made("bert", tmp_path)
    code, settings = tmp_path / "tokenization_own.py", tmp_path / "tokenizer_config.json"
    values = json.loads(settings.read_text()) | {
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.Own"]}
    }
    settings.write_text(json.dumps(values))

    def fingerprint(version: int, trust: bool) -> str:
        code.write_text(f"from transformers import BertTokenizerFast as Own  # {version}\n")
        options = EncoderConfig(precision="float32", trust_remote_code=trust)
        return build_encoder(f"hf:{tmp_path}", "text", options, SegmentConfig()).fingerprint

    assert fingerprint(1, True) == fingerprint(1, True) != fingerprint(2, True)
    assert fingerprint(1, False) == fingerprint(2, False)


def test_remote_code_may_load_its_weights_in_a_way_of_its_own(tmp_path: Path) -> None:
    models.made("bert", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_own.Own"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_own.py").write_text(
        "from transformers import BertModel\n"
        "class Own(BertModel):\n"
        "    @classmethod\n"
        "    def from_pretrained(cls, folder, **options):\n"
        "        return BertModel.from_pretrained(folder)\n"
    )
    options = EncoderConfig(precision="float32", trust_remote_code=True)
    encoder = build_encoder(f"hf:{tmp_path}", "text", options, SegmentConfig())
    plain = loaded(f"hf:{tmp_path}", "text")
    segments = [SEGMENTS["text"]]
    np.testing.assert_array_equal(encoder.encode(segments), plain.encode(segments))
    # What the code computes decides the features, so a change of it has to be seen.
    assert encoder.describe()["code"] == code_hash(str(tmp_path))
    assert "code" not in plain.describe()
    with (tmp_path / "modeling_own.py").open("a") as file:
        file.write("# another version")
    changed = build_encoder(f"hf:{tmp_path}", "text", options, SegmentConfig())
    assert len({encoder.fingerprint, plain.fingerprint, changed.fingerprint}) == 3


def test_built_in_encoders_need_no_pin() -> None:
    assert [pin_revision(spec) for spec in ("mfcc", "hashing", "none")] == ["mfcc", "hashing", "none"]


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_auto_is_bf16_on_cards_that_have_it(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", "cuda:0") == expected
    assert resolve_precision("float32", "cuda:0") == "float32"
    assert resolve_precision("bf16", "cuda:0") == "bf16"


def test_auto_is_that_of_the_cpu_on_a_machine_whose_gpus_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_cpu = resolve_precision("auto", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr("hilbert_ray.encoders.weights._cpu_words", lambda: frozenset({"amx_bf16"}))
    assert resolve_precision("auto", "cpu") == "bf16"
    assert on_cpu in ("bf16", "float32")


@pytest.mark.parametrize(
    ("words", "precision", "seconds"),
    [
        ("GenuineIntel flags : avx512f", "float32", (10, 40)),
        ("GenuineIntel flags : avx512f avx512_bf16", "float32", (10, 40)),
        ("GenuineIntel flags : avx512f avx512_bf16 amx_bf16", "bf16", (60, 60)),
        ("AuthenticAMD flags : avx512f", "float32", (10, 40)),
        ("AuthenticAMD flags : avx512f avx512_bf16", "bf16", (10, 40)),
    ],
)
def test_precision_and_batches_are_those_in_which_a_cpu_is_fastest(
    words: str, precision: Precision, seconds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As measured: by avx512_bf16, products are half as fast as in float32 on Intel's, 4 times on AMD's."""
    monkeypatch.setattr(Path, "read_text", lambda _: f"vendor_id : {words} sse")
    _cpu_words.cache_clear()
    try:
        assert resolve_precision("auto", "cpu") == precision
        assert batch_s("cpu", precision) == seconds
        assert batch_s("cpu", "float32") == (10, 40)
        assert batch_s("cuda", precision) == (60, 240)
    finally:
        _cpu_words.cache_clear()
