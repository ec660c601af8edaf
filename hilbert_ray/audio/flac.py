"""FLAC: libsndfile checks its frames, but is confused by tags around them."""

from hilbert_ray.audio.byte_range import ByteRange
from hilbert_ray.audio.format import AudioFormat, AudioSource
from hilbert_ray.audio.libsndfile import LibsndfileDecoder
from hilbert_ray.audio.tags import start_of_trailing_tags


def _open(source: AudioSource) -> LibsndfileDecoder:
    end = start_of_trailing_tags(source.file, source.size)
    return LibsndfileDecoder(ByteRange(source.file, source.begin, end), source.uri)


FLAC = AudioFormat(names="FLAC", recognises=lambda start: start[:4] == b"fLaC", open=_open)
