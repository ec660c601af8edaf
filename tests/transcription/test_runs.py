"""Transcribing on Ray: the same bytes with any number of workers, whichever process dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from hilbert_ray.cli import main
from hilbert_ray.config import Config
from hilbert_ray.embedding import embed
from hilbert_ray.store import Store
from hilbert_ray.store.maintenance import verify_store
from hilbert_ray.transcription.publishing import WORK
from hilbert_ray.units import TooManyQuarantinedError
from tests import fatal, make
from tests.transcription.stand_in import CONFIG, rows_of, spoken, transcribe, transcripts_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Corpus: TypeAlias = tuple[list[dict[str, Any]], Path]
Said: TypeAlias = dict[str, Any]
DOCUMENTS = 12
ROOT = Path(__file__).parent.parent.parent


def with_workers(workers: int, unit_s: float = 0.001) -> Config:
    return replace(CONFIG, embed=replace(CONFIG.embed, workers=workers, unit_s=unit_s))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Return manifest rows of spoken documents, one of them silent, and their folder."""
    folder = tmp_path_factory.mktemp("spoken")
    return spoken(folder, DOCUMENTS, silent=[5]), folder


def placed(corpus: Corpus, folder: Path) -> str:
    """Write a manifest into a folder where workers have accidents; the audio lies there as hard links."""
    rows, source = corpus
    for row in rows:
        os.link(source / row["audio"], folder / row["audio"])
    rows = [{**row, "audio": f"fatal://{folder}/{row['audio']}"} for row in rows]
    return make.manifest(folder / "m.jsonl", rows)


def by_document(out: Path) -> Said:
    """Return the transcripts of a folder by the id of their document."""
    contents = [path.read_bytes() for path in out.glob("transcripts/*")]
    return {json.loads(content)["document"]: content for content in contents}


def said_in(out: Path) -> Said:
    """Return all transcripts of a folder by document, the manifest having been checked against them."""
    rows = {row["doc_id"]: row for row in rows_of(str(out / "manifest.jsonl"))}
    said = {
        json.loads(path.read_bytes())["document"]: path.read_bytes() for path in out.glob("transcripts/*")
    }
    for doc_id, row in rows.items():
        spoken_in = json.loads(said[doc_id])["utterances"]
        assert ("text_file" in row) == bool(spoken_in)
        assert not spoken_in or (out / row["text_file"]).read_bytes() == said[doc_id]
    return said


@pytest.fixture(scope="module")
def undisturbed(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Return the transcripts of a run with one worker that nothing befell."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    rows, folder = corpus
    manifest = make.manifest(folder / "m.jsonl", rows)
    summary = transcribe(manifest, str(out), with_workers(1, unit_s=30.0))
    assert (summary.documents, summary.transcribed, summary.silent) == (DOCUMENTS, DOCUMENTS, 1)
    assert summary.hours == pytest.approx(4.0 * DOCUMENTS / 3600)
    assert "no speech found: 1 documents" in summary.text()
    return said_in(out)


def test_three_workers_write_the_bytes_of_one_and_a_rerun_nothing(
    corpus: Corpus, undisturbed: Said, tmp_path: Path
) -> None:
    manifest = placed(corpus, tmp_path)
    transcribe(manifest, str(tmp_path / "out"), with_workers(3))
    assert said_in(tmp_path / "out") == undisturbed
    written = transcripts_of(tmp_path / "out")
    again = transcribe(manifest, str(tmp_path / "out"), with_workers(1))
    assert (again.transcribed, again.already_transcribed) == (0, DOCUMENTS)
    assert transcripts_of(tmp_path / "out") == written


@pytest.mark.parametrize(
    "point", ["before the data file", pytest.param("in the middle of a unit", marks=pytest.mark.soak)]
)
def test_a_worker_that_is_killed_loses_and_doubles_nothing(
    point: str, corpus: Corpus, undisturbed: Said, tmp_path: Path
) -> None:
    manifest = placed(corpus, tmp_path)
    where, match = ("before", "/data/") if "data" in point else ("open", ".wav")
    fatal.arm(tmp_path, point=where, match=match, spared=4)
    summary = transcribe(manifest, f"fatal://{tmp_path}/out", with_workers(1))
    assert fatal.accidents(tmp_path) == 1
    assert not summary.quarantined
    assert said_in(tmp_path / "out") == undisturbed
    assert list(verify_store(Store.open(f"fatal://{tmp_path}/out/{WORK}"))) == []


RUN = """
import sys
from tests.transcription.stand_in import transcribe
from tests.transcription.test_runs import with_workers
transcribe(sys.argv[1], sys.argv[2], with_workers(1))
"""


def test_a_driver_that_is_killed_is_resumed_by_the_same_command(
    corpus: Corpus, undisturbed: Said, tmp_path: Path
) -> None:
    manifest = placed(corpus, tmp_path)
    fatal.arm(tmp_path, point="after", match="/commits/", do="stall", spared=4)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", RUN, manifest, f"fatal://{tmp_path}/out"]
    run = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    deadline = time.monotonic() + 240
    while fatal.accidents(tmp_path) == 0:
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run never got to its fifth commit"
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    resumed = transcribe(manifest, f"fatal://{tmp_path}/out", with_workers(2))
    assert resumed.already_transcribed >= 4
    assert resumed.transcribed >= 3, "nothing was left at the kill"
    assert said_in(tmp_path / "out") == undisturbed


def test_a_document_that_kills_every_worker_is_quarantined_and_too_many_publish_nothing(
    corpus: Corpus, undisturbed: Said, tmp_path: Path
) -> None:
    manifest = placed(corpus, tmp_path)
    fatal.arm(tmp_path, point="open", match="d003.wav", times=100)
    none_may = replace(CONFIG, embed=replace(CONFIG.embed, workers=1, max_quarantined=0.0))
    with pytest.raises(
        TooManyQuarantinedError, match="1 of 12 documents with audio and no text are quarantined"
    ):
        transcribe(manifest, str(tmp_path / "out"), none_may)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    summary = transcribe(manifest, str(tmp_path / "out"), with_workers(1))
    [failure] = summary.quarantined
    assert (failure.doc_id, failure.error) == ("d003", "suspected")
    assert "3 workers died while they transcribed document 'd003' alone" in failure.message
    rows = rows_of(str(tmp_path / "out" / "manifest.jsonl"))
    assert [row["doc_id"] for row in rows if "text_file" not in row] == ["d003", "d005"]
    found = by_document(tmp_path / "out")
    assert found == {doc_id: said for doc_id, said in undisturbed.items() if doc_id != "d003"}


def test_what_is_written_is_embedded_as_it_is(corpus: Corpus, tmp_path: Path) -> None:
    manifest = placed(corpus, tmp_path)
    written = transcribe(manifest, str(tmp_path / "out"), with_workers(2)).manifest
    summary = embed(written, str(tmp_path / "store"), with_workers(1, unit_s=60.0))
    assert summary.modalities["audio"].embedded == DOCUMENTS
    assert summary.modalities["text"].embedded == DOCUMENTS - 1
    assert summary.modalities["text"].absent == 1


def test_the_command_refuses_what_it_cannot_do_before_ray_starts(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transcribe", "--manifest", placed(corpus, tmp_path), "--out", str(tmp_path / "out")]
    for flags, said in (
        ([], "asr is `none`; name the recogniser with --asr"),
        (["--asr", "hf"], "asr is 'hf'; the choices are"),
        (["--plan", "10"], "--plan is 10; it needs --dry-run"),
        (["--channels", "both"], "segment.channels is 'both'; it must be mix, left, right"),
    ):
        assert main([*words, *flags]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
