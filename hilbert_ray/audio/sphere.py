"""NIST SPHERE, the format of speech corpora: are all samples there that the header counts?"""

from typing import BinaryIO

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.errors import CONVERT, UnsupportedAudioError, damaged, unfinished
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.sizes import check_stated, is_padding, not_stated

_MOST_HEADER_BYTES = 2**20


def _open(source: AudioSource) -> LibsndfileDecoder:
    end = check_header(source.file, source.size, source.uri)
    return LibsndfileDecoder(ByteRange(source.file, 0, end), source.uri)


def check_header(file: BinaryIO, size: int, uri: str) -> int:
    """Check the number of samples in the header against the size of the file; return where they end.

    libsndfile takes what follows for samples too.

    Raises:
        CorruptAudioError: when the header is no SPHERE header, or lacks a field.
        UnsupportedAudioError: when the samples are compressed by Shorten.
        TruncatedAudioError, LengthError: when there are fewer or more bytes of samples than it counts.
        UnfinishedAudioError: when it does not count them.
    """
    begin, fields = _header(file, uri)
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding or "shortpack" in coding or "wavpack" in coding:
        raise UnsupportedAudioError(
            f"{uri} is a SPHERE file with samples of coding {coding!r}, a compression that cannot be decoded "
            "here: decompress it, for example `sph2pipe -f wav FILE OUT.wav`"
        )
    counts = []
    for name in ("sample_count", "channel_count", "sample_n_bytes"):
        value = fields.get(name, "1" if name != "sample_count" else "0")
        if not value.isascii() or not value.isdigit():
            raise damaged(uri, f"has a SPHERE header whose {name} is no number")
        counts.append(int(value))
    if not counts[0]:
        raise unfinished(uri, "does not state how many samples it holds", CONVERT)
    stated = counts[0] * counts[1] * counts[2]
    check_stated(uri, stated, size - begin, remedy=CONVERT)
    if not is_padding(file, begin + stated, size):
        raise not_stated(uri, stated, size - begin - stated, CONVERT)
    return begin + stated


def _header(file: BinaryIO, uri: str) -> tuple[int, dict[str, str]]:
    """Return where the samples begin, and the fields of the header: lines `name -type value`."""
    file.seek(8)
    length = file.read(8).strip()
    if not length.isdigit() or not 16 < int(length) <= _MOST_HEADER_BYTES:
        raise damaged(uri, "does not state the length of its SPHERE header")
    lines = file.read(int(length) - 16).decode("latin-1").split("\n")
    if "end_head" not in (line.strip() for line in lines):
        raise damaged(uri, "has a SPHERE header without an end")
    fields: dict[str, str] = {}
    for line in lines:
        words = line.split(maxsplit=2)
        if words[:1] == ["end_head"]:
            break
        if len(words) == 3:
            fields[words[0]] = words[2].strip()
    return int(length), fields


SPHERE = AudioFormat(names="SPHERE", recognises=lambda start: start[:8] == b"NIST_1A\n", open=_open)
