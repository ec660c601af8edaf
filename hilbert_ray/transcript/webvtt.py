"""WebVTT."""

import re

from hilbert_ray.transcript.cue import Cue, FormatError

# Hours are optional in WebVTT; before milliseconds, WebVTT has a point and SubRip a comma.
_CUE = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})\s+-->\s+(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{3})")
_VOICE = re.compile(r"<v(?:\.[^ >]*)?\s+([^>]+)>")


def read(text: str) -> list[Cue]:
    """Return the cues of a file; `<v Speaker>` becomes the speaker, other tags are dropped."""
    cues = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().splitlines()
        times_line = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if times_line is None:
            continue
        match = _CUE.search(lines[times_line])
        if match is None:
            raise FormatError(
                f"has an invalid cue time {lines[times_line]!r}; write it as in 00:00:01.000 --> 00:00:02.500"
            )
        parts = [int(part or 0) for part in match.groups()]
        start, end = (3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (parts[:4], parts[4:]))
        body = " ".join(lines[times_line + 1 :])
        voice = _VOICE.search(body)
        words = re.sub(r"<[^>]*>", "", body).strip()
        cues.append(Cue(words, start, end, voice.group(1).strip() if voice else None))
    return cues
