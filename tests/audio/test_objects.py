"""Audio on servers: read by ranges, the same samples as from a local file."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import s3fs

from hilbert_ray import audio
from hilbert_ray.audio.errors import (
    UnsupportedAudioError,
)
from tests.audio.recordings import (
    KINDS,
    encode,
    sample,
    streamed,
    written,
)


class WithoutRanges(SimpleHTTPRequestHandler):
    """Serves files from start to end only."""

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "none")
        super().end_headers()


def test_a_server_without_ranges_is_refused(tmp_path: Path) -> None:
    written(tmp_path, sample("wav"), "a.wav")
    handler = functools.partial(WithoutRanges, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UnsupportedAudioError, match="can be read from start to end only"):
        audio.probe(f"http://127.0.0.1:{server.server_port}/a.wav")
    server.shutdown()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the size of each range that is read from the object store."""
    sizes: list[int] = []
    fetch = s3fs.core.S3File._fetch_range

    def counting(self: Any, start: int, end: int) -> bytes:  # noqa: ANN401
        data: bytes = fetch(self, start, end)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counting)
    return sizes


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_gives_the_samples_of_the_file(kind: str, tmp_path: Path, object_store: str) -> None:
    uri = f"{object_store}/a.{kind}"
    fsspec.filesystem("s3").pipe(uri, sample(kind))
    local = written(tmp_path, sample(kind))
    assert audio.probe(uri) == audio.probe(local)
    np.testing.assert_array_equal(streamed(uri), streamed(local))


def test_a_large_object_is_read_by_ranges(object_store: str, fetched: list[int]) -> None:
    uri = f"{object_store}/large.wav"
    content = encode("wav", np.zeros((60 * 192000, 2), np.float32), 192000)
    fsspec.filesystem("s3").pipe(uri, content)
    assert audio.probe(uri).duration_s == 60
    assert sum(fetched) <= 10 * 2**20 < len(content) / 4
    fetched.clear()
    assert sum(map(len, audio.stream(uri))) == 60 * 16000
    assert max(fetched) <= 10 * 2**20
    assert sum(fetched) <= 1.3 * len(content)


@pytest.mark.parametrize("kind", ["wav", "mkv"])
def test_an_object_that_vanishes_while_it_is_read_is_an_error(kind: str, object_store: str) -> None:
    uri, store = f"{object_store}/gone.{kind}", fsspec.filesystem("s3")
    options = {"codec": "pcm_s16le"} if kind == "mkv" else {}
    store.pipe(uri, encode(kind, np.zeros((60 * 96000, 2), np.float32), 96000, **options))
    blocks = audio.stream(uri, block_s=1.0)
    next(blocks)
    store.rm(uri)
    with pytest.raises(OSError, match=r"\S"):
        list(blocks)
