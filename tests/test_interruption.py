"""Interruptions: a command ends in one line, with the right exit code, and leaves no process behind."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilbert_ray.cli import main
from hilbert_ray.commands import COMMANDS
from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.store.store import Store
from tests import make
from tests.asr.test_ctc import CASES
from tests.reporting import pages
from tests.transcription.stand_in import spoken

MOMENTS = 10
"""Random moments of each signal in the soak test."""
LONGEST_S = 60.0
"""From the signal to the end: on a busy machine, three seconds to notice it and five to clean up."""
SHORT = ("--folds.inner", "0", "--fit.epochs", "500", "--fit.seeds", "1", "--model.dim", "8")
NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a process ended: its exit code, seconds from the signal to its end, and what it wrote."""

    code: int
    seconds: float
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Started:
    """A process in a session of its own, as under a terminal; it and all that it starts carry a mark."""

    process: subprocess.Popen[str]
    mark: str

    def end(self, number: signal.Signals | None) -> End:
        """Send a signal to the process group, as a terminal does, and wait for the end of the process."""
        began = time.monotonic()
        if number:
            os.killpg(self.process.pid, number)
        out, err = self.process.communicate(timeout=60)
        return End(code=self.process.returncode, seconds=time.monotonic() - began, out=out, err=err)

    def kill(self, name: str) -> None:
        """Kill the process of this name."""
        # Those that it has forked and that have not become another program yet have its name too.
        os.kill(min(pid for pid, each in self._marked().items() if each == name), signal.SIGKILL)

    def others(self) -> list[str]:
        """Return the names of the processes with the mark that do not end, however busy the machine is."""
        deadline = time.monotonic() + 30
        while (found := self._marked()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return list(found.values())

    def matching(self, words: str) -> list[int]:
        """Return the processes with the mark whose command line has some words."""
        found = []
        for pid in self._marked():
            with suppress(OSError):  # it has just ended
                if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def _marked(self) -> dict[int, str]:
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "comm").read_text().strip()
            except OSError:  # it has just ended
                continue
        return found


def start(*arguments: str) -> Started:
    """Start Python with these arguments."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MARK": mark},
        start_new_session=True,
        # A shell that starts the tests with `&` lets them ignore Ctrl-C, which would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return Started(process, mark)


def script(code: str) -> Started:
    """Start a process that runs some code as a command."""
    source = (
        "import os, subprocess, sys, time\nfrom hilbert_ray import interruption\ndef command():\n"
        "    interruption.describe('hilbert-ray test', 'all is kept: rerun it')\n"
    )
    source += "".join(f"    {line}\n" for line in code.splitlines())
    source += "    return 0\nsys.exit(interruption.run_interruptible(command))\n"
    return start("-c", source)


def wait_for(stream: str, started: Started) -> None:
    """Wait until a script has printed a line."""
    assert started.process.stdout is not None
    assert started.process.stdout.readline() == f"{stream}\n"


@pytest.mark.parametrize("number", NAMES, ids=NAMES.get)
@pytest.mark.parametrize(
    "code",
    [
        "print('ready', flush=True); time.sleep(60)",
        # It swallows the exception, as destructors and libraries do.
        "try:\n    print('ready', flush=True); time.sleep(60)\nexcept BaseException: time.sleep(60)",
        # Its handler was replaced, as by Ray, and raises something else.
        "import signal\ndef stop(*_): raise SystemExit(15)\n"
        "for n in (2, 15): signal.signal(n, stop)\nprint('ready', flush=True); time.sleep(60)",
        # It waits in native code, where no handler runs.
        "import ctypes\nprint('ready', flush=True)\nctypes.PyDLL(None).sleep(3)\nctypes.CDLL(None).sleep(60)",
    ],
    ids=["alone", "swallows", "handles", "native"],
)
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, code: str) -> None:
    started = script(code)
    wait_for("ready", started)
    ended = started.end(number)
    assert ended.code == 128 + number
    assert ended.err == f"hilbert-ray test: interrupted ({NAMES[number]}); all is kept: rerun it\n"


def test_a_signal_that_comes_to_nothing_in_a_destructor_is_raised_again() -> None:
    started = script(
        "interruption.GRACE_S = 600\n"  # without it, the process would be killed after that time
        "class Lost:\n    def __del__(self): print('ready', flush=True); time.sleep(60)\n"
        "Lost(); time.sleep(60)"
    )
    wait_for("ready", started)
    ended = started.end(signal.SIGINT)
    assert ended.code == 130
    assert ended.err == "hilbert-ray test: interrupted (SIGINT); all is kept: rerun it\n"


def test_temporary_files_are_removed_and_processes_killed_even_those_whose_parents_died(
    tmp_path: Path,
) -> None:
    sleeper = "import time; time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{sleeper}'])"
    started = script(
        "import tempfile\n"
        f"with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        f"    subprocess.Popen([sys.executable, '-c', {sleeper!r}])\n"
        f"    subprocess.run([sys.executable, '-c', {parent!r}])\n"
        "    print('ready', flush=True)\n    time.sleep(600)"
    )
    wait_for("ready", started)
    assert len(list(tmp_path.iterdir())) == 1
    assert started.end(signal.SIGTERM).code == 143
    assert started.others() == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_cleaning_up_is_a_second_line() -> None:
    """Results that could not be saved at the end are not kept."""
    started = script(
        "from hilbert_ray.errors import HilbertError\ntry:\n    print('ready', flush=True); time.sleep(60)\n"
        "finally: raise HilbertError('cannot write results')"
    )
    wait_for("ready", started)
    lines = started.end(signal.SIGINT).err.splitlines()
    assert lines[0].startswith("hilbert-ray test: interrupted")
    assert lines[1:] == ["hilbert-ray test: cannot write results"]


def test_a_lost_cluster_ends_a_command_with_code_1() -> None:
    started = script("interruption.abort('the cluster is lost'); time.sleep(60)")
    out, err = started.process.communicate(timeout=60)
    assert (started.process.returncode, out) == (1, "")
    assert err == "hilbert-ray test: the cluster is lost; all is kept: rerun it\n"


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under `nohup`, or where a shell has started a command with `&`."""
    outer = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"
    )
    inner = (
        "import os, signal, sys; from hilbert_ray.interruption import run_interruptible\n"
        "sys.exit(run_interruptible(lambda: os.kill(os.getpid(), signal.SIGINT) or 0))"
    )
    assert subprocess.run([sys.executable, "-c", outer, inner], check=False).returncode == 0


def test_the_log_of_rays_native_code_is_filtered_and_nothing_else() -> None:
    code = (
        "import os, sys\nfrom hilbert_ray.native_log import filtered_native_log\n"
        "with filtered_native_log():\n"
        "    os.write(2, b'[2026-11-29 13:51:06,630 E 5771 5771] core_worker.cc:2465: Actor x\\n')\n"
        "    os.write(2, b'[2026-11-29 14:17:41,334 W 3489 3878] (x) client.h:85: GCS is gone\\n')\n"
        "    os.write(2, b'[2026-11-29 14:17:41,334 C 3489 3878] worker.cc:85: fatal\\n')\n"
        "    print('python', file=sys.stderr); os.write(2, b'native\\n'); os.system('echo child >&2')\n"
        "print('after', file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert sorted(shown.splitlines()) == [
        "[2026-11-29 14:17:41,334 C 3489 3878] worker.cc:85: fatal", "after", "child", "native", "python",
    ]  # fmt: skip


def test_every_command_says_what_is_kept() -> None:
    for kind in COMMANDS.values():
        assert "rerun" in kind.interrupted


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["store", "--help"]], ids=" ".join)
def test_a_reader_that_has_enough_is_no_error(words: Sequence[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        command = [sys.executable, "-m", "hilbert_ray", *words]
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_behind_standard_output_is_one_message(tmp_path: Path) -> None:
    Store.create(str(tmp_path / "store"), 1)
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "hilbert_ray", "store", "verify", str(tmp_path / "store")]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "hilbert-ray store verify: cannot write the result to standard output: No space left on device\n"
    )


def test_what_the_system_refuses_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make.features_store(tmp_path / "store", [2] * 8, [2] * 8, 4)
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "run")
    assert main(["train", "--store", store, "--out", out, *SHORT]) == 1
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith("hilbert-ray train: cannot ")
    assert str(tmp_path / "file") in shown
    assert "what was there before is intact" in shown


@pytest.mark.parametrize("name", ["report.html", "metrics.json"])
def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    """A bound on the size of files fails as a full disk does: after some bytes."""
    (tmp_path / name).write_text("before")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from hilbert_ray.storage import WriteError, write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 10**6)\n"
        "except WriteError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith(
        f"cannot write {tmp_path / name}: File too large; what was there before is intact"
    )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "before"}


def commands(folder: Path) -> dict[str, list[str]]:
    """Return commands that start no Ray, on a store of their own."""
    store = make.features_store(folder / "store", [8] * 64, [8] * 64, 16)
    # Seconds of work also on machines much faster than today's.
    documents = [{"doc_id": f"d{i}", "text": "Well, it was cold. " * 20} for i in range(200_000)]
    manifest = make.manifest(folder / "manifest.jsonl", documents)
    return {
        "validate": ["validate", manifest],
        "train": ["train", "--store", store, "--out", str(folder / "run"), *SHORT],
        "store info": ["store", "info", store],
        "store verify": ["store", "verify", store],
        "store compact": ["store", "compact", store, "--min-commits", "1"],
        "store gc": ["store", "gc", store],
        "store export": ["store", "export", store, "--out", str(folder / "exported")],
        "doctor": ["doctor"],
    }


def interrupt(words: Sequence[str], number: signal.Signals, after_s: float) -> tuple[bool, float]:
    """Interrupt a command after some seconds; return whether it was still running, and how long it took."""
    started = start("-m", "hilbert_ray", *words)
    try:
        out, err = started.process.communicate(timeout=after_s)
        ended = End(code=started.process.returncode, seconds=0.0, out=out, err=err)
    except subprocess.TimeoutExpired:
        ended = started.end(number)
    where = f"{' '.join(words)} after {after_s:.2f} s: {ended}"
    assert started.others() == [], where
    # Before anything of ours runs, and after all is done, Python itself ends by the signal.
    if ended.code == -number:
        return True, ended.seconds
    assert "Traceback" not in ended.err, where
    if ended.code in (0, 1):
        assert "interrupted" not in ended.err, where
        return False, 0.0
    assert ended.seconds < LONGEST_S, where
    assert ended.code == 128 + number, where
    assert [line for line in ended.err.splitlines() if "interrupted" in line] == ended.err.splitlines()[-1:]
    return True, ended.seconds


@pytest.mark.parametrize("number", NAMES, ids=NAMES.get)
def test_commands_without_ray_end_well(number: signal.Signals, tmp_path: Path) -> None:
    own = commands(tmp_path)
    for name in ("validate", "train"):
        assert interrupt(own[name], number, 1.0)[0]


def test_processes_that_read_a_manifest_hear_no_interruption(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to them too: while they import, they would print where they were."""
    started = start("-m", "hilbert_ray", *commands(tmp_path)["validate"])
    while not (readers := started.matching("popen_loky")):
        assert started.process.poll() is None
        time.sleep(0.01)
    for reader in readers:
        [blocked] = re.findall(r"SigBlk:\s*(\w+)", Path(f"/proc/{reader}/status").read_text())
        assert int(blocked, 16) & 1 << signal.SIGINT - 1
    ended = started.end(signal.SIGINT)
    assert (ended.code, started.others()) == (130, [])
    assert len(ended.err.splitlines()) == 1


OURS = re.compile(r"\d\d:\d\d:\d\d |hilbert-ray embed: ")
"""How lines of this library begin: nothing that Ray says of its own end is shown."""


@pytest.mark.ray
@pytest.mark.parametrize("is_lost", [False, True], ids=["interrupted", "raylet lost"])
def test_embed_ends_well_and_keeps_what_is_committed(is_lost: bool, tmp_path: Path) -> None:
    record, folder = make.record(tmp_path, 0, seconds=4.0), tmp_path / "store"
    rows = [{**record, "doc_id": f"d{number:04d}"} for number in range(1000)]  # more than are done by then
    manifest = make.manifest(tmp_path / "manifest.jsonl", rows)
    words = ["embed", "--manifest", manifest, "--store", str(folder), "--embed.buckets", "2"]
    started = start("-m", "hilbert_ray", *words, "--embed.unit-s", "4", "--embed.workers", "1")
    while not any(folder.glob("features/audio/*/commits/*/*.json")):
        assert started.process.poll() is None
        time.sleep(0.02)
    if is_lost:
        started.kill("raylet")
        ended = started.end(None)
        why = "Ray's process raylet on this machine has ended, "
    else:
        ended = started.end(signal.SIGINT)
        why = "interrupted (SIGINT); what is committed to the store is kept: rerun to resume"
    assert (ended.code, started.others()) == (1 if is_lost else 130, [])
    assert [line for line in ended.err.splitlines() if not OURS.match(line)] == []
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"hilbert-ray embed: {why}")
    assert last.endswith("; what is committed to the store is kept: rerun to resume")
    store = Store.open(str(folder))
    [fingerprint] = store.encoders("audio")
    stored = sum(len(commit.stored) for commit in store.commits("audio", fingerprint).read())
    assert 0 < stored < 1000
    assert list(verify_store(store)) == []


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", NAMES, ids=NAMES.get)
def test_every_command_ends_well_at_random_moments(number: signal.Signals, tmp_path: Path) -> None:
    own = commands(tmp_path)
    manifest, store = make.corpus(tmp_path, 24, seconds=20.0), str(tmp_path / "embedded")
    evaluate = ["evaluate", "--store", own["store info"][2], "--out", str(tmp_path / "scores"), *SHORT]
    tune = ["tune", "--store", own["store info"][2], "--out", str(tmp_path / "tuned"), "--tune.trials", "3"]
    weights = tmp_path / "weights"
    CASES["wav2vec2 group"].made(weights)
    heard = make.manifest(tmp_path / "heard.jsonl", spoken(tmp_path / "speech", 24, seconds=20.0))
    transcribe = ["transcribe", "--manifest", heard, "--out", str(tmp_path / "out"), "--asr", f"hf:{weights}"]
    few, published = make.corpus(tmp_path / "few", 8), str(tmp_path / "published")
    for words in (
        ["embed", "--manifest", few, "--store", f"{few}.store"],
        ["train", "--store", f"{few}.store", "--out", published, *SHORT, "--fit.epochs", "1"],
    ):
        subprocess.run([sys.executable, "-m", "hilbert_ray", *words], check=True, capture_output=True)
    predict = ["predict", "--model", f"{published}/model", "--manifest", manifest]
    pages.evaluated(tmp_path / "reported")
    table = tmp_path / "t.parquet"
    rows = [{"audio": {"bytes": bytes(20_000), "path": f"{i}.wav"}} for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), table)
    own |= {
        "transcribe": [*transcribe, "--recognition.precision", "float32"],
        "predict": [*predict, "--out", str(tmp_path / "p.parquet")],
        "report": ["report", "--run", str(tmp_path / "reported")],
        "unpack": ["unpack", str(table), str(tmp_path / "unpacked")],
        "embed": ["embed", "--manifest", manifest, "--store", store],
        "evaluate": [*evaluate, "--folds.folds", "2", "--folds.repeats", "1"],
        "tune": [*tune, "--folds.folds", "2", "--fit.epochs", "2", "--fit.seeds", "1", "--model.dim", "8"],
    }
    assert own.keys() == COMMANDS.keys()
    rng = random.Random(0)
    for name, words in own.items():
        longest = 20.0 if name in ("transcribe", "embed", "evaluate", "tune", "predict") else 3.0
        ends = [interrupt(words, number, rng.uniform(0.1, longest)) for _ in range(MOMENTS)]
        seconds = [took for was_running, took in ends if was_running]
        print(f"| {name} | {NAMES[number]} | {len(seconds)} of {MOMENTS} | {max(seconds, default=0):.1f} |")
    assert list(verify_store(Store.open(store))) == []
