"""CHAT (.cha), the format of TalkBank and CLAN: main lines become utterances, their codes speakers.

What is kept is what was said, as it was said: also what speakers repeat or correct (`<the cat> [//] the
dog`), their fillers and fragments (`&-uh`, `&+fr`), and shortened words in full (`(be)cause`). What goes are
the marks around it: codes in square brackets, scopes in angle brackets, events (`&=laughs`), pauses (`(.)`),
words left out (`0is`), unintelligible stretches (`xxx`, `yyy`, `www`), marks of form (`word@s`) and of
intonation. `[x 3]` repeats what is before it. Dependent tiers (`%mor:`) and headers (`@ID:`) are not read.
Times are the bullets behind utterances.
"""

import re
from collections.abc import Iterator

from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading

OTHERS_WORDS = "words of another speaker inside an utterance of CHAT (`&*`), not read"
MAX_REPEATS = 20
_BULLET = re.compile(r"[\x15\u2022]%?[a-z]{0,9}:?[^\s\x15\u2022]{0,99}?(\d{1,12})_(\d{1,12})-?[\x15\u2022]")
# Where the mark of a bullet was lost, as in files that went through other programs.
_BARE = re.compile(r"(?<=\s)(\d{1,12})_(\d{1,12})[ \t]*$")
_SPEAKER = re.compile(r"\*([^\s:]{1,40}):[ \t]*")
_TOKEN = re.compile(r"\[[^\]\n]*+\]|[<>]|[^\s<>\[]++|\[")
_WORD = re.compile(r"[<>\[]|[^\s<>\[]++")
_PAUSE = re.compile(r"\((?:\.{1,3}|\d{0,6}:?\d{1,6}\.?\d{0,6})\)")
_REPEAT = re.compile(r"\[x (\d{1,4})\]")
_TERMINATOR = re.compile(r"\+[/.!?\"]{0,9}[.!?]|[.!?]{1,3}")
_LINKER = re.compile(r"\+[\"^<,+]{1,3}")
_CA = str.maketrans("", "", "↑↓→↗↘⇗⇘≈≋∆∇⌈⌉⌊⌋°▁▔☺♋⁎∬Ϋ∮↫∲§∾⤇⤆≠^ˈˌ∙⁇〔〕‹›“”\u0002\u0001")  # noqa: RUF001
_UNINTELLIGIBLE = frozenset(("xxx", "yyy", "www", "xx", "yy"))
_COMMAS = {"‡": ",", "„": ",", "++": ""}


def read(text: str) -> Reading:
    """Return the cues of a CHAT file.

    Raises:
        FormatError: if it has no main line, or one that is out of place.
    """
    cues: list[Cue] = []
    others = 0
    for line in _lines(text):
        match = _SPEAKER.match(line)
        if match is None:
            if line[:1] in "@%":
                continue
            raise FormatError(
                "has a line that is no header (@), main line (*PAR:), dependent tier (%mor:) or "
                "continuation (tab): "
                "is it CHAT?"
            )
        for words, start, end in _pieces(line[match.end() :]):
            said, left_out = spoken(words)
            others += left_out
            if said or start is not None:
                cues.append(Cue(said, start, end, match[1]))
    if not cues:
        raise FormatError("has no main lines such as `*PAR:\\twell .`; write null if there is no transcript")
    cues = [cue for cue in cues if cue.words] or cues
    return Reading(cues, (Flaw(OTHERS_WORDS, others),) if others else ())


def _lines(text: str) -> Iterator[str]:
    """Yield lines with those that continue them."""
    parts: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line.strip():
            continue
        if line[:1] in "\t " and parts:
            parts.append(line.strip())
            continue
        if parts:
            yield " ".join(parts)
        parts = [line.rstrip()]
    if parts:
        yield " ".join(parts)


def _pieces(line: str) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield the parts of a main line, each up to its bullet, with the times of it in seconds."""
    place = 0
    for match in _BULLET.finditer(line):
        yield line[place : match.start()], int(match[1]) / 1000, int(match[2]) / 1000
        place = match.end()
    rest = line[place:]
    bare = _BARE.search(rest)
    if bare is not None:
        yield rest[: bare.start()], int(bare[1]) / 1000, int(bare[2]) / 1000
    elif rest.strip():
        yield rest, None, None


def _tokens(line: str) -> Iterator[str]:
    """Yield the codes, scopes and words of a main line."""
    # Behind the last `]` no `[` begins a code: each would be sought to the end of the line.
    last, position = line.rfind("]"), 0
    while match := (_TOKEN if position <= last else _WORD).search(line, position):
        yield match[0]
        position = match.end()


def spoken(line: str) -> tuple[str, int]:
    """Return what was said in a main line, and how many words of others in it are left out."""
    said: list[str] = []
    scopes: list[int] = []
    latest, others = 0, 0
    for token in _tokens(line.replace("\x15", " ")):
        if token == "<":
            scopes.append(len(said))
        elif token == ">":
            latest = scopes.pop() if scopes else latest
        elif repeats := _REPEAT.fullmatch(token):
            said += said[latest:] * min(int(repeats[1]) - 1, MAX_REPEATS) if len(said) < 10_000 else []
        elif token.startswith("["):
            continue
        elif token.startswith("&*"):
            others += 1
        elif _TERMINATOR.fullmatch(token):
            _attach(said, "..." if "..." in token else token.lstrip('+/"'))
        elif token in (",", ";", ":") or token in _COMMAS:
            _attach(said, _COMMAS.get(token, token))
        elif word := _word(token):
            latest = len(said)
            said.append(word)
    return " ".join(said), others


def _attach(said: list[str], mark: str) -> None:
    if said and mark:
        said[-1] += mark


def _word(token: str) -> str:
    """Return a word without its marks; empty if it was not said."""
    token = token.translate(_CA)
    if (
        token.startswith(("&=", "&{", "&}", "&l=", "&n="))
        or _PAUSE.fullmatch(token)
        or _LINKER.fullmatch(token)
    ):
        return ""
    if (
        token[:1] == "0" and not token[1:2].isdigit()
    ):  # 0 alone is an action without words, 0is a word left out
        return ""
    token = re.sub(r"^&[-+~]?", "", token)
    word = _PAUSE.sub("", token.partition("@")[0])
    for mark in "()":
        word = word.replace(mark, "")
    if not any(letter.isdigit() for letter in word):
        word = word.replace(":", "")
    word = word.replace("_", " ").replace("+", " ").strip()
    return "" if word.lower() in _UNINTELLIGIBLE else word
