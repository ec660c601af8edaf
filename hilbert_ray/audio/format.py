"""What each container format provides: how to recognise its files, and how to open one for decoding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np

from hilbert_ray.audio.header import AudioInfo
from hilbert_ray.document import Samples

START_BYTES = 16
"""How many bytes from the start of a file `AudioFormat.recognises` gets to see; no signature is longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioSource:
    """An open file of `size` bytes, seekable; `begin` is where it starts after any ID3v2 tags."""

    file: BinaryIO
    uri: str
    size: int
    begin: int


class Decoder(Protocol):
    """An opened recording. `tolerance`: by how many samples the decoded length may differ from the stated."""

    info: AudioInfo
    tolerance: Samples

    def decode(self, block: Samples) -> Iterator[np.ndarray]:
        """Yield float32 [samples, channels] blocks of about `block` samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioFormat:
    """A container format: one constant per module, listed in `decoding.FORMATS`.

    names: as messages list them. recognises: whether a file starts like this, given its first `START_BYTES`
    bytes or fewer. open: checks that the container is complete as far as that can be seen without decoding,
    and returns a decoder. extra: what has to be installed, `pip install 'hilbert-ray[extra]'`.
    """

    names: str
    recognises: Callable[[bytes], bool]
    open: Callable[[AudioSource], Decoder]
    extra: str = ""
