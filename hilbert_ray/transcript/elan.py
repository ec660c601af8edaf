"""ELAN (.eaf): annotations of tiers become utterances, a tier's participant or name their speaker.

Tiers without a parent are read. Where another tier is named as the transcription (`tx@A`, `text`, `utterance`
and the like, by its name or type), as where the parent only numbers the sentences, it is read instead of its
parent; its annotations that refer to one of the parent's are joined. Tiers of notes and gestures, and all
other tiers with parents (translations, glosses), are not read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.words import by_start
from hilbert_ray.transcript.xml_tree import local, named, tree

UNITS: Mapping[str, Seconds] = {"milliseconds": 0.001, "PAL-frames": 0.04, "NTSC-frames": 1001 / 30000}
TRANSCRIPTION = frozenset(
    (
        *(
            "tx",
            "text",
            "txt",
            "transcription",
            "transcript",
            "utterance",
            "utterances",
            "utt",
            "ort",
            "orth",
        ),
        *("orthography", "orthographic transcription"),
    )
)
"""Names of tiers and of their types that hold the words."""
NOTES = frozenset(
    (
        *("note", "notes", "comment", "comments", "gesture", "gestures", "gaze", "noise", "noises", "remark"),
        *(
            "remarks",
            "code",
            "codes",
            "coding",
            "phones",
            "phone",
            "phonemes",
            "phonetic",
            "pos",
            "translation",
        ),
        *("gloss", "glosses", "event", "events", "silence", "silences", "music"),
    )
)
"""Names of tiers that hold no words."""
OTHER_TIERS = "tiers of ELAN that are not the transcription, not read"


@dataclass(frozen=True, slots=True)
class Tier:
    """A tier of annotations in the order of the file."""

    name: str
    kind: str
    participant: str
    parent: str
    annotations: Sequence["Annotation"]

    @property
    def base(self) -> str:
        """The name without the speaker: `tx` of `tx@A`."""
        return self.name.lower().partition("@")[0].strip()

    @property
    def is_transcription(self) -> bool:
        """Whether its name or type says that it holds the words."""
        return bool(TRANSCRIPTION & {self.base, self.kind.lower()})

    @property
    def speaker(self) -> str:
        """Who speaks."""
        return self.participant or self.name.partition("@")[2].strip() or self.name


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation: with its own times in seconds, or with the annotation that it refers to."""

    name: str
    words: str
    start_s: Seconds | None
    end_s: Seconds | None
    parent: str


def read(data: bytes) -> Reading:
    """Return the cues of an ELAN file.

    Raises:
        FormatError: if it is no ELAN file, or has no tier with words.
    """
    root = tree(data)
    if local(root) != "ANNOTATION_DOCUMENT":
        raise FormatError(
            f"is XML with the root {local(root)[:40]!r}, but ELAN's is ANNOTATION_DOCUMENT; export it again"
        )
    header = next(named(root, "HEADER"), None)
    unit = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if unit not in UNITS:
        raise FormatError(f"has the time unit {unit[:40]!r}; the choices are {', '.join(UNITS)}")
    slots = {slot.get("TIME_SLOT_ID", ""): _slot(slot, UNITS[unit]) for slot in named(root, "TIME_SLOT")}
    tiers = [_tier(element, slots) for element in named(root, "TIER")]
    chosen = [tier for tier in _chosen(tiers) if any(one.words for one in tier.annotations)]
    others = sum(any(one.words for one in tier.annotations) and tier not in chosen for tier in tiers)
    if not chosen:
        raise FormatError(
            f"has {len(tiers)} tiers, of which none holds words; name the tier of the words `text`, and "
            f"check that "
            "its annotations are not empty"
        )
    by_name = {one.name: one for tier in tiers for one in tier.annotations if one.name}
    cues = [cue for tier in chosen for cue in _cues(tier, by_name)]
    return Reading(by_start(cues), (Flaw(OTHER_TIERS, others),) if others else ())


def _slot(slot: Element, unit_s: Seconds) -> Seconds | None:
    value = slot.get("TIME_VALUE")
    if value is None:  # between two others, of annotations that divide their parent's time
        return None
    if not re.fullmatch(r"-?\d{1,18}", value.strip()):
        raise FormatError(
            f"has a time slot {slot.get('TIME_SLOT_ID', '')[:40]!r} whose value is no whole number"
        )
    # A division gives the nearest number to a decimal of milliseconds, a product does not.
    return int(value) / 1000 if unit_s == 0.001 else int(value) * unit_s


def _tier(element: Element, slots: Mapping[str, Seconds | None]) -> Tier:
    annotations = []
    for one in element.iter():
        if local(one) not in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
            continue
        value = next(named(one, "ANNOTATION_VALUE"), None)
        words = "" if value is None else " ".join("".join(value.itertext()).split())
        start, end = (slots.get(one.get(f"TIME_SLOT_REF{side}", "")) for side in (1, 2))
        parent = one.get("ANNOTATION_REF", "")
        annotations.append(Annotation(one.get("ANNOTATION_ID", ""), words, start, end, parent))
    return Tier(
        element.get("TIER_ID", ""),
        element.get("LINGUISTIC_TYPE_REF", ""),
        element.get("PARTICIPANT", "").strip(),
        element.get("PARENT_REF", ""),
        annotations,
    )


def _chosen(tiers: Sequence[Tier]) -> Iterator[Tier]:
    """Yield the tiers that are read, in the order of the file."""
    by_name = {tier.name: tier for tier in tiers}
    replaced: set[str] = set()
    chosen = {tier.name for tier in tiers if not tier.parent and tier.base not in NOTES}
    for tier in tiers:
        ancestors = list(_ancestors(tier, by_name))
        # A parent that says itself that it holds the words keeps them; below it are only divisions of them.
        if ancestors and tier.is_transcription and not any(one.is_transcription for one in ancestors):
            if not any(one.name in replaced for one in ancestors):
                chosen.add(tier.name)
            replaced.update(one.name for one in ancestors)
    return (tier for tier in tiers if tier.name in chosen - replaced)


def _ancestors(tier: Tier, by_name: Mapping[str, Tier]) -> Iterator[Tier]:
    seen = {tier.name}
    while tier.parent in by_name and tier.parent not in seen:
        seen.add(tier.parent)
        tier = by_name[tier.parent]
        yield tier


def _cues(tier: Tier, by_name: Mapping[str, Annotation]) -> Iterator[Cue]:
    """Yield the cues of a tier; annotations that refer to the same one with times are one cue."""
    joined: dict[str, tuple[Annotation, list[str]]] = {}
    for number, one in enumerate(tier.annotations):
        if not one.words:
            continue
        timed, seen = one, {one.name}
        while timed.parent in by_name and timed.parent not in seen:
            seen.add(timed.parent)
            timed = by_name[timed.parent]
        key = timed.name if timed is not one else f"{number} {one.name}"
        joined.setdefault(key, (timed, []))[1].append(one.words)
    for timed, words in joined.values():
        yield Cue(" ".join(words), timed.start_s, timed.end_s, tier.speaker)
