"""Kaldi data folders: wav.scp, text, segments, utt2spk and what else describes utterances.

Source: "Data preparation" in Kaldi's documentation. Nothing is executed: a wav.scp line that is a command is
refused.
"""

import os
from collections.abc import Iterator, Mapping

from hilbert_ray.manifest.recordings import Stretch, document
from hilbert_ray.manifest.rows import LONGEST, BadRow, ManifestError, Record

NOTE = (
    "read as a Kaldi data folder: a document for each line of wav.scp, with the utterances of text and "
    "segments; "
    "relative paths are relative to the current folder, as in Kaldi"
)
_OF_SPEAKERS = {"spk2gender": "gender", "spk2age": "age"}
_OF_UTTERANCES = {"utt2lang": "language", "utt2gender": "gender", "utt2age": "age", "utt2sex": "sex"}


def is_data_folder(folder: str) -> bool:
    """Whether this is a Kaldi data folder."""
    return os.path.isfile(os.path.join(folder, "wav.scp"))


def documents(folder: str) -> Iterator[Record]:
    """Yield a document for each recording of wav.scp, then what belongs to none.

    Raises:
        ManifestError: if a file is not UTF-8, or has a line that is too long.
    """
    texts = dict(_table(folder, "text"))
    speakers = _speakers(folder)
    known = {name: dict(_table(folder, name)) for name in (*_OF_SPEAKERS, *_OF_UTTERANCES)}
    segments: dict[str, list[tuple[str, str]]] = {}
    has_segments = os.path.exists(os.path.join(folder, "segments"))
    for utterance, rest in _table(folder, "segments"):
        recording, _, times = rest.partition(" ")
        segments.setdefault(recording, []).append((utterance, times))
    row = 0
    for recording, source in _table(folder, "wav.scp"):
        row += 1
        audio = _audio(row, recording, source)
        parts = segments.pop(recording, []) if has_segments else [(recording, "")]
        stretches: list[Stretch] = []
        for utterance, times in parts:
            stretch = _stretch(row, recording, utterance, times, texts.pop(utterance, None))
            if isinstance(stretch, BadRow):
                audio = stretch
                continue
            stretch.speaker = speakers.get(utterance)
            stretch.attributes = _attributes(utterance, stretch.speaker, known)
            stretches.append(stretch)
        yield audio if isinstance(audio, BadRow) else document(recording, row, audio, stretches)
    for recording, parts in segments.items():
        yield BadRow(
            f"segments has {len(parts)} utterances of recording {recording!r}, which is not in wav.scp"
        )
    for utterance in texts:
        where = "segments" if has_segments else "wav.scp"
        yield BadRow(
            f"text has utterance {utterance!r}, which is not in {where}; add it there, or remove its text"
        )


def _speakers(folder: str) -> dict[str, str]:
    speakers = dict(_table(folder, "utt2spk"))
    if not speakers:
        for speaker, utterances in _table(folder, "spk2utt"):
            speakers |= dict.fromkeys(utterances.split(), speaker)
    return speakers


def _table(folder: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield (first word, rest) of each line of a file; nothing if there is no such file."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            while line := file.readline(LONGEST):
                if len(line) == LONGEST:
                    raise ManifestError(
                        f"manifest {folder}: {name} has a line of more than {LONGEST // 2**20} MiB; write "
                        "each utterance on a line of its own"
                    )
                key, _, rest = line.strip().replace("\t", " ").partition(" ")
                if key:
                    yield key, rest.strip()
    except UnicodeDecodeError as error:
        raise ManifestError(f"manifest {folder}: {name} is not UTF-8 text: {error}") from None


def _audio(row: int, recording: str, source: str) -> str | BadRow:
    if source.endswith("|"):
        return BadRow(
            f"line {row}: recording {recording!r} is made by a command in wav.scp, and commands are not "
            "executed; "
            "write its output to a file and name that file",
            recording,
        )
    is_in_archive = source.rpartition(":")[2].isdigit() and ".ark" in source
    if not source or is_in_archive:
        what = "is in an archive" if is_in_archive else "has no file"
        return BadRow(f"line {row}: recording {recording!r} {what}; name a file of audio", recording)
    return source


def _stretch(row: int, recording: str, utterance: str, times: str, text: str | None) -> Stretch | BadRow:
    if not times:
        return Stretch(text=text)
    try:
        start, end = (float(time) for time in times.split()[:2])
    except ValueError:
        start, end = 1.0, 0.0
    if not 0 <= start <= end < float("inf"):
        return BadRow(
            f"line {row}: utterance {utterance!r} of segments runs from and to {times!r}; times are seconds "
            "with "
            "0 <= start <= end",
            recording,
        )
    return Stretch(text=text, start=start, end=end)


def _attributes(
    utterance: str, speaker: str | None, known: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    found = {
        name: known[file][utterance] for file, name in _OF_UTTERANCES.items() if utterance in known[file]
    }
    for file, name in _OF_SPEAKERS.items():
        if speaker is not None and speaker in known[file]:
            found.setdefault(name, known[file][speaker])
    return found
