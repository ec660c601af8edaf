"""Make the sample corpus: interviews by synthetic voices, with timed transcripts and labels for three tasks.

A plan deals classes to speakers, a small grammar writes the turns, espeak-ng speaks each sentence, and noise,
room level and word errors are added. The same seed and the same espeak-ng give the same bytes of both
manifests; examples/README.md says what the corpus is and what it is not.
"""

import argparse
import functools
import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr

Samples: TypeAlias = np.ndarray
Record: TypeAlias = dict[str, Any]

DOCUMENTS = 132
RATE_HZ = 16000
COMPRESSION = 0.986  # for libsndfile's Opus: about 9.5 kbit/s, the lowest rate that keeps 8 kHz of bandwidth
SHORTEST_S, LONGEST_S = 40.0, 80.0

# What the labels depend on

TOPICS = {"plans": ("trip", "garden"), "troubles": ("repairs", "bills")}
"""The theme of an interview is in its words: what most of the participant's sentences are about."""

MANNERS = ("measured", "animated")
"""The manner is in the voice only: rate, pitch range and pauses of the participant."""

PATTERN = {
    ("plans", "measured"): ("settled", 0.55),
    ("plans", "animated"): ("eager", 0.25),
    ("troubles", "measured"): ("resigned", 0.14),
    ("troubles", "animated"): ("vexed", 0.06),
}
"""Task `pattern`: each cell of theme and manner is a class. Theme and manner are independent (0.55 : 0.25 is
nearly 0.14 : 0.06), so the words say nothing about the manner, nor the voice about the theme.
"""

PACES = (("unhurried", 0.40), ("moderate", 0.35), ("brisk", 0.25))
"""Task `pace`, ordered: a rater's impression of the manner's strength, with the rater's own error."""

CALLBACKS = (("declined", 0.65), ("wanted", 0.35))
"""Task `callback`: whether the participant asks, in one or two sentences, to be called again."""

UNLABELLED = 0.10
WITHOUT_TEXT = 0.04
WITHOUT_AUDIO = 0.04

TASKS_YAML = """\
# The tasks of the sample corpus. `pace` must be declared: from names alone its order cannot be inferred.
tasks:
  pattern: {kind: multiclass, classes: [settled, eager, resigned, vexed]}
  callback: {kind: binary, classes: [declined, wanted]}
  pace: {kind: ordinal, classes: [unhurried, moderate, brisk]}
"""

# Voices


@dataclass(frozen=True, kw_only=True, slots=True)
class Speaker:
    """A synthetic voice: espeak-ng's name, words per minute, pitch (0 to 99) and its range in percent."""

    voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int


def _speakers(*rows: tuple[str, int, int, int]) -> tuple[Speaker, ...]:
    return tuple(Speaker(voice=v, rate_wpm=r, pitch=p, pitch_range=g) for v, r, p, g in rows)


PARTICIPANTS = _speakers(
    ("en-us+f1", 158, 48, 90), ("en-gb+m1", 150, 40, 105), ("en-us+m3", 166, 52, 85),
    ("en-gb-x-rp+f2", 147, 44, 120), ("en-gb-scotland+m2", 172, 46, 95), ("en-us+f3", 163, 55, 80),
    ("en-029+m4", 155, 38, 110), ("en-gb+f4", 170, 50, 100), ("en-us+m5", 144, 45, 90),
    ("en-gb-x-gbcwmd+m6", 161, 58, 115), ("en-gb+f5", 152, 42, 85), ("en-us+m7", 168, 47, 105),
    ("en-gb-x-rp+m8", 149, 60, 95), ("en-us+f2", 174, 52, 90), ("en-gb-scotland+f3", 156, 40, 110),
    ("en-gb+m3", 160, 43, 80), ("en-029+f1", 165, 57, 100), ("en-us+m1", 146, 50, 120),
    ("en-gb-x-gbclan+m2", 159, 36, 90), ("en-us+f5", 151, 46, 105), ("en-gb-x-rp+m5", 171, 54, 85),
    ("en-gb-x-gbcwmd+f4", 154, 45, 95),
)  # fmt: skip
INTERVIEWERS = _speakers(
    ("en-us+m6", 160, 45, 100), ("en-gb+f3", 155, 38, 95), ("en-gb-x-rp+m4", 165, 50, 105)
)

# Words

SLOTS: Mapping[str, tuple[str, ...]] = {
    "when": ("last week", "on Monday", "in the spring", "this month", "the other day", "before the holidays",
             "on Thursday", "early this year", "a while ago", "over the weekend"),
    "number": ("two", "three", "four", "five", "six", "seven", "nine", "twelve"),
    "person": ("my brother", "my cousin", "our neighbour", "my aunt", "an old friend", "my daughter",
               "a colleague", "the man next door"),
    "place": ("the coast", "the lakes", "the islands", "the old harbour", "the northern forest",
              "the mountains", "the border villages", "the cathedral town"),
    "luggage": ("the tickets", "new maps", "a tent", "hiking boots", "a bigger suitcase", "a phrase book",
                "two rucksacks", "a railway pass"),
    "stay": ("a small hotel", "a cabin", "a guest house", "a campsite", "a room with a view", "a hostel"),
    "plant": ("tomatoes", "roses", "beans", "the apple tree", "lavender", "sunflowers", "strawberries",
              "herbs"),
    "bed": ("the raised bed", "the greenhouse", "the lawn", "the compost heap", "the hedge",
            "the flower border", "the pond", "the vegetable patch"),
    "tool": ("a spade", "a watering can", "some seeds", "fresh soil", "a rake", "a wheelbarrow",
             "young plants"),
    "part": ("boiler", "tap", "radiator", "window frame", "drain", "ceiling", "lock", "washing machine"),
    "room": ("kitchen", "bathroom", "hallway", "cellar", "bedroom", "laundry room"),
    "broken": ("broken", "leaking", "stuck", "cracked", "rattling", "out of order"),
    "worker": ("the plumber", "the electrician", "the landlord", "the caretaker", "the repair firm"),
    "company": ("the power company", "the phone company", "the bank", "the insurance", "the tax office",
                "the water board"),
    "bill": ("invoice", "reminder", "statement", "direct debit", "contract", "payment"),
    "amount": ("forty", "sixty", "ninety", "a hundred", "two hundred", "three hundred"),
    "weather": ("mild", "rainy", "windy", "bright", "cold in the mornings", "much the same"),
    "food": ("soup", "pancakes", "a stew", "bread", "rice and vegetables", "a cake"),
    "pastime": ("cards", "the radio", "a crossword", "an old film", "the piano", "a long novel"),
    "errand": ("the library", "the market", "the post office", "the swimming pool", "the hairdresser",
               "the bakery"),
}  # fmt: skip

SENTENCES: Mapping[str, tuple[str, ...]] = {
    "trip": (
        "we booked {luggage} for the journey to {place}",
        "{person} and I will travel to {place} for {number} days",
        "I keep reading the guide book about {place} and the ferry",
        "the train to {place} takes {number} hours and then we hike",
        "we found {stay} near {place} with breakfast",
        "I have packed {luggage} and I look forward to {place}",
        "the flight was cheap so {person} joins us at {stay}",
        "I bought {luggage} because we want to see {place}",
        "it is our first holiday abroad, {number} nights in {stay}",
    ),
    "garden": (
        "I planted {plant} beside {bed} {when}",
        "{person} lent me {tool} for {bed}",
        "the {number} rows of {plant} are growing well",
        "we are going to dig over {bed} and sow {plant}",
        "I bought {tool} and pruned {plant}",
        "there are buds on {plant} and bees around {bed}",
        "{person} gave me cuttings and I put them in {bed}",
        "I water {plant} every evening and pull the weeds",
        "we will harvest {plant} and I want to enlarge {bed}",
    ),
    "repairs": (
        "the {part} in the {room} has been {broken} for {number} weeks",
        "{worker} came {when} and left the {part} worse than before",
        "water is dripping from the {part} into the {room}",
        "I asked {worker} {number} times to fix the {part}",
        "the {room} is damp and there is mould behind the {part}",
        "{worker} says the {part} is my own fault",
        "nobody turned up to mend the {part}, so the {room} is unusable",
        "the spare for the {part} is delayed again and it is still {broken}",
        "{worker} cancelled the appointment about the {room}",
    ),
    "bills": (
        "{company} charged me {amount} pounds twice {when}",
        "the {bill} from {company} is wrong and they will not refund it",
        "they sent another {bill} with a late fee of {amount} pounds",
        "I am behind with the {bill} and my account is overdrawn",
        "{company} refused my complaint about the {bill}",
        "I waited {number} hours on the line because of that {bill}",
        "the price went up by {amount} pounds and {company} did not say why",
        "I cannot find out why {company} closed my account",
        "{company} lost the {bill}, so now I owe {amount} pounds more",
    ),
    "neutral": (
        "I usually get up at {number} and make some tea",
        "the weather has been {weather} here",
        "{person} came by {when} and we talked for a bit",
        "in the evening I like {pastime}",
        "I went to {errand} {when} as always",
        "we cooked {food} and sat in the kitchen",
        "I am not sure what else there is to say about that",
        "{person} moved to another street {when}",
        "most days are alike and I walk to {errand}",
        "I have lived here for {number} years now",
        "{pastime} keeps me busy when it is {weather}",
        "that is more or less how it went {when}",
    ),
    "wanted": (
        "please call me again {when_next} about this",
        "could you ring me back {when_next}",
        "I would be glad if someone phoned me {when_next}",
        "it would help to talk once more, so do contact me {when_next}",
        "can you get in touch again {when_next}",
        "I want another conversation, perhaps {when_next}",
    ),
    "decoy": (
        "{person} rang me {when} and we spoke for an hour",
        "{person} does not call as often as before",
        "I phoned {errand} {when} but it was closed",
        "once was enough and you need not ring again",
    ),
    "opening": (
        "hello, this is the residents' survey, how has your month been",
        "good morning, thank you for taking part, what has been on your mind",
        "thanks for your time, tell me how things are going",
        "hello, I have a few questions, where would you like to begin",
    ),
    "question": (
        "what happened after that", "could you tell me a little more", "and how did you deal with it",
        "what else comes to mind", "how long has that been so", "I see, please go on",
        "what do the others at home say", "is there anything you would add", "and what did you do {when}",
        "how was the rest of the week", "right, and what came next", "has {person} heard about it",
    ),
}  # fmt: skip
NEXT = ("next week", "on Friday", "tomorrow", "in a few days", "after the holidays", "next month")
OPENERS = ("", "", "", "well, ", "so, ", "you know, ", "honestly, ", "I think ", "and ", "anyway, ")


def write_sentence(kind: str, rng: random.Random) -> str:
    """Return a sentence of the grammar, as espeak-ng is to speak it."""
    template = rng.choice(SENTENCES[kind])
    words = re.sub(
        r"{(\w+)}", lambda slot: rng.choice(NEXT if slot[1] == "when_next" else SLOTS[slot[1]]), template
    )
    if kind not in ("opening", "question"):
        words = rng.choice(OPENERS) + words
    end = (
        "?" if kind == "question" and words.startswith(("what", "and", "how", "is", "has", "could")) else "."
    )
    return words[0].upper() + words[1:] + end


def mishear(sentence: str, error_rate: float, rng: random.Random) -> str:
    """Return what an automatic transcription might have made of a sentence.

    Each word is, with probability `error_rate`, replaced by a similar one of the whole vocabulary (which may
    be a word of another topic), left out, or repeated.
    """
    heard: list[str] = []
    for word in sentence.split():
        if rng.random() >= error_rate:
            heard.append(word)
            continue
        fault = rng.random()
        if fault < 0.65:
            heard.append(rng.choice(similar_words(word.strip(".,?").lower())))
        elif fault > 0.85:
            heard += [word, word]
    return " ".join(heard) or "uh"


@functools.cache
def similar_words(word: str) -> list[str]:
    """Return up to four words of the vocabulary with the most similar spelling."""
    vocabulary = {w for group in (SENTENCES, SLOTS) for lines in group.values() for line in lines
                  for w in re.findall(r"[a-z']+", re.sub(r"{\w+}", "", line.lower()))}  # fmt: skip
    return get_close_matches(word, sorted(vocabulary - {word}), n=4, cutoff=0.3) or ["uh"]


# The plan: which speaker gets which theme, manner and labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything decided about an interview before a word is written.

    `animation` is the manner's strength, about -1 if measured and +1 if animated. `labels` has every task;
    None for a missing label.
    """

    doc_id: str
    speaker: int
    theme: str
    topic: str
    animation: float
    asks_callback: bool
    has_text: bool
    has_audio: bool
    labels: Mapping[str, str | None]


def deal(shares: Sequence[float], total: int) -> list[int]:
    """Return whole counts that sum to `total` and come as close to the shares as that allows."""
    counts = [math.floor(share * total) for share in shares]
    by_rest = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i] * total)
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    return counts


def plan_interviews(documents: int, seed: int) -> list[Plan]:
    """Deal themes, manners, labels and gaps to speakers.

    Cells of theme and manner are dealt to the speakers in turn, the rarest first, so that a class of n
    documents is spread over as many speakers as possible. The manner belongs to the interview, not to the
    speaker.
    """
    rng = random.Random(f"plan {seed}")
    cells = sorted(PATTERN, key=lambda cell: PATTERN[cell][1])
    counts = deal([PATTERN[cell][1] for cell in cells], documents)
    dealt = [cell for cell, count in zip(cells, counts, strict=True) for _ in range(count)]
    order = rng.sample(range(len(PARTICIPANTS)), len(PARTICIPANTS))
    interviews = [(cell, order[i % len(order)]) for i, cell in enumerate(dealt)]
    rng.shuffle(interviews)

    animation = [rng.gauss(2.0 * MANNERS.index(cell[1]) - 1.0, 0.35) for cell, _ in interviews]
    impression = [value + rng.gauss(0.0, 0.25) for value in animation]
    pace = [""] * documents
    ranked = iter(sorted(range(documents), key=impression.__getitem__))
    for (name, _), count in zip(PACES, deal([share for _, share in PACES], documents), strict=True):
        for _ in range(count):
            pace[next(ranked)] = name
    counts = deal([share for _, share in CALLBACKS], documents)
    callback = [name for (name, _), count in zip(CALLBACKS, counts, strict=True) for _ in range(count)]
    rng.shuffle(callback)
    labels = {"pattern": [PATTERN[cell][0] for cell, _ in interviews], "callback": callback, "pace": pace}
    missing = {task: set(rng.sample(range(documents), round(UNLABELLED * documents))) for task in labels}
    gaps = rng.sample(range(documents), round(WITHOUT_TEXT * documents) + round(WITHOUT_AUDIO * documents))
    no_text, no_audio = gaps[: round(WITHOUT_TEXT * documents)], gaps[round(WITHOUT_TEXT * documents) :]
    return [
        Plan(
            doc_id=f"interview-{i + 1:03d}",
            speaker=speaker,
            theme=theme,
            topic=rng.choice(TOPICS[theme]),
            animation=animation[i],
            asks_callback=callback[i] == "wanted",
            has_text=i not in no_text,
            has_audio=i not in no_audio,
            labels={task: None if i in missing[task] else values[i] for task, values in labels.items()},
        )
        for i, ((theme, _), speaker) in enumerate(interviews)
    ]


# Speaking


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How a person speaks in one interview: voice, rate, pitch, mean pauses in and before turns (seconds)."""

    voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    word_gap: int
    pause_s: float
    latency_s: float


def deliver(speaker: Speaker, animation: float, rng: random.Random) -> Delivery:
    """Add a manner to a speaker's own habits; each cue follows the manner with an independent error."""
    rate, pitch_range, gap, pause, latency = (animation + rng.gauss(0.0, 0.35) for _ in range(5))
    return Delivery(
        voice=speaker.voice,
        rate_wpm=round(speaker.rate_wpm * math.exp(0.23 * rate)),
        pitch=speaker.pitch + rng.randint(-4, 4),
        pitch_range=round(speaker.pitch_range * math.exp(0.5 * pitch_range)),
        word_gap=round(2.5 * math.exp(-0.9 * gap)),
        pause_s=0.5 * math.exp(-0.7 * pause),
        latency_s=0.55 * math.exp(-0.5 * latency),
    )


def speak(sentence: str, delivery: Delivery) -> Samples:
    """Return a spoken sentence, float64 mono at RATE_HZ.

    Raises:
        RuntimeError: espeak-ng failed; the message has the voice and what espeak-ng printed.
    """
    markup = f'<prosody range="{delivery.pitch_range}%">{escape(sentence)}</prosody>'
    command = ["espeak-ng", "-m", "-z", "--stdout", "-v", delivery.voice]
    command += ["-s", str(delivery.rate_wpm), "-p", str(delivery.pitch), "-g", str(delivery.word_gap)]
    done = subprocess.run(command, input=markup.encode(), capture_output=True, check=False)
    if done.returncode or done.stderr or not done.stdout:
        raise RuntimeError(
            f"espeak-ng cannot speak {sentence!r} with voice {delivery.voice!r}: it exited with code "
            f"{done.returncode} and {done.stderr.decode(errors='replace').strip()!r}; `espeak-ng "
            "--voices=en` and `--voices=variant` list the voices"
        )
    samples, rate_hz = soundfile.read(io.BytesIO(done.stdout))
    return np.asarray(soxr.resample(samples, rate_hz, RATE_HZ))


def record_interview(plan: Plan, seed: int) -> tuple[Samples, list[Record]]:
    """Write and speak an interview.

    Returns:
        The recording (float32 mono at RATE_HZ, noise included) and its turns, each with text as transcribed,
        start and end in seconds, and role.
    """
    rng = random.Random(f"{plan.doc_id} {seed}")
    people = {
        "interviewer": deliver(rng.choice(INTERVIEWERS), rng.gauss(0.0, 0.3), rng),
        "participant": deliver(PARTICIPANTS[plan.speaker], plan.animation, rng),
    }
    next_kind = _draw_kinds(plan, rng)
    target_s = rng.uniform(43.0, 58.0)
    error_rate = rng.uniform(0.03, 0.15)
    callbacks = _place_callbacks(plan, target_s, rng)
    loudness = {role: rng.uniform(0.04, 0.09) for role in people}

    pieces = [np.zeros(round(rng.uniform(0.2, 0.6) * RATE_HZ))]
    length = len(pieces[0])
    turns: list[Record] = []

    def add(samples: Samples) -> None:
        nonlocal length
        pieces.append(samples)
        length += len(samples)

    while length < target_s * RATE_HZ or turns[-1]["role"] == "interviewer":
        role = "participant" if turns and turns[-1]["role"] == "interviewer" else "interviewer"
        person = people[role]
        if role == "interviewer":
            kinds = ["question" if turns else "opening"]
        else:
            kinds = [next_kind() for _ in range(rng.choice((1, 2, 2, 3, 3)))]
            if callbacks and length > callbacks[0][0] * RATE_HZ:
                kinds[-1] = callbacks.pop(0)[1]
        add(np.zeros(round(person.latency_s * rng.uniform(0.5, 1.5) * RATE_HZ)))
        start, heard = length, []
        for i, kind in enumerate(kinds):
            if i and length > target_s * RATE_HZ:
                break
            if i:
                add(np.zeros(round(person.pause_s * rng.uniform(0.5, 1.5) * RATE_HZ)))
            sentence = write_sentence(kind, rng)
            spoken = speak(sentence, person)
            add(spoken * loudness[role] / np.sqrt(np.mean(spoken**2)))
            heard.append(mishear(sentence, error_rate, rng))
        # Rounded inwards, so that no turn ends after the recording.
        turns.append(
            {
                "text": " ".join(heard),
                "start": math.ceil(start / RATE_HZ * 100) / 100,
                "end": math.floor(length / RATE_HZ * 100) / 100,
                "role": role,
            }
        )
    add(np.zeros(round(rng.uniform(0.2, 0.6) * RATE_HZ)))
    return _add_noise(np.concatenate(pieces), rng), turns


def _draw_kinds(plan: Plan, rng: random.Random) -> Callable[[], str]:
    """Return a function that draws kinds of sentences: mostly the topic, mixed with neutral talk."""
    others = [topic for topics in TOPICS.values() for topic in topics if topic != plan.topic]
    on_topic, off_topic = rng.uniform(0.40, 0.65), rng.uniform(0.08, 0.24)
    kinds = [plan.topic, *others, "neutral"]
    weights = [on_topic, *[off_topic / len(others)] * len(others), 1.0 - on_topic - off_topic]
    return lambda: rng.choices(kinds, weights)[0]


def _place_callbacks(plan: Plan, target_s: float, rng: random.Random) -> list[tuple[float, str]]:
    """Return when (seconds) to insert a request to be called again, or a sentence that only resembles one."""
    if plan.asks_callback:
        count, kind = rng.choice((1, 2)), "wanted"
    else:
        count, kind = rng.choice((0, 0, 1)), "decoy"
    return sorted((rng.uniform(0.2, 0.8) * target_s, kind) for _ in range(count))


def _add_noise(speech: Samples, rng: random.Random) -> Samples:
    """Add noise between white and pink, 15 to 35 dB below speech, and mains hum to a third of the files."""
    # A power of 2, because transforms of other lengths can be 100 times slower.
    size = 1 << (len(speech) - 1).bit_length()
    spectrum = np.fft.rfft(np.random.default_rng(rng.getrandbits(64)).standard_normal(size))
    tilt = rng.uniform(0.0, 0.5)  # 0 is white, 0.5 is pink
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / RATE_HZ), 50.0)
    noise = np.fft.irfft(spectrum * hertz**-tilt)[: len(speech)]
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-rng.uniform(15.0, 35.0) / 20)
    if rng.random() < 1 / 3:
        time = np.arange(len(speech)) / RATE_HZ
        noise = noise + 0.004 * np.sin(2 * np.pi * 50.0 * time) + 0.002 * np.sin(2 * np.pi * 150.0 * time)
    mixed = speech + noise
    return np.asarray(mixed * min(1.0, 0.95 / np.abs(mixed).max()), dtype=np.float32)


# Files


def write_opus(path: Path, samples: Samples) -> None:
    """Write mono audio at RATE_HZ as Ogg/Opus of about 9.5 kbit/s."""
    soundfile.write(path, samples, RATE_HZ, format="OGG", subtype="OPUS", compression_level=COMPRESSION)


def write_manifest(path: Path, lines: Sequence[Record | str]) -> None:
    """Write JSON lines; a string is written as it is, so that a line can be invalid JSON."""
    written = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")


def make_broken(out: Path, good: Sequence[Record], speech: Samples) -> list[Record | str]:
    """Write broken files next to the corpus; return the rows of a manifest, the good ones first.

    Each broken row has exactly the fault that its id names; its other fields are valid.
    """
    folder = out / "broken"
    folder.mkdir(exist_ok=True)
    clip = speech[: 4 * RATE_HZ]
    turns = [
        {"text": "Thank you for taking part.", "start": 0.5, "end": 2.0, "role": "interviewer"},
        {"text": "We walked to the market.", "start": 2.2, "end": 3.8, "role": "participant"},
    ]

    def row(doc_id: str, audio: str | None, text: Sequence[Record] | None = turns) -> Record:
        audio = None if audio is None else f"broken/{audio}"
        return {"doc_id": doc_id, "audio": audio, "text": text, "group": "speaker-01", "labels": {}}

    write_opus(folder / "sound.opus", clip)
    soundfile.write(folder / "truncated.flac", clip, RATE_HZ)
    whole = (folder / "truncated.flac").read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("This is a note about the recording, not the recording.\n" * 20)
    soundfile.write(folder / "one-hertz.wav", clip[:RATE_HZ], 1, subtype="PCM_16")
    holed = np.where(np.arange(len(clip)) == 8000, np.nan, clip)
    soundfile.write(folder / "not-finite.wav", holed, RATE_HZ, subtype="FLOAT")
    soundfile.write(folder / "no-samples.wav", clip[:0], RATE_HZ)

    late = [turns[0], {**turns[1], "start": 30.0, "end": 42.0}]
    half_timed = [turns[0], {"text": turns[1]["text"], "role": "participant"}]
    return [
        *good,
        row("truncated-flac", "truncated.flac"),
        row("missing-file", "missing.opus"),
        row("text-named-wav", "text.wav"),
        row("one-hertz-header", "one-hertz.wav"),
        row("not-finite-samples", "not-finite.wav"),
        row("no-samples", "no-samples.wav"),
        row("duplicate-id", "sound.opus"),
        row("duplicate-id", "sound.opus", turns[:1]),
        row("times-beyond-recording", "sound.opus", late),
        row("times-for-half-of-the-turns", "sound.opus", half_timed),
        row("neither-audio-nor-text", None, None),
        row("", "sound.opus"),
        '{"doc_id": "invalid-json", "audio": "broken/sound.opus", "text": [',
    ]


def make_corpus(out: Path, documents: int = DOCUMENTS, seed: int = 0) -> list[Record]:
    """Write the corpus into a folder and return the rows of its manifest.

    Raises:
        FileNotFoundError: espeak-ng is not installed.
        ValueError: `documents` is below 4.
    """
    if documents < 4:
        raise ValueError(f"documents is {documents}; a corpus needs at least 4, one of each class")
    if shutil.which("espeak-ng") is None:
        raise FileNotFoundError(
            "espeak-ng, which speaks the corpus, is not on the PATH; install it (Debian and Ubuntu: "
            "`apt-get install espeak-ng`)"
        )
    (out / "audio").mkdir(parents=True, exist_ok=True)
    # Otherwise a smaller corpus would keep recordings of an earlier, larger one.
    for old in (out / "audio").glob("interview-*.opus"):
        old.unlink()
    rows: list[Record] = []
    sample: Samples | None = None
    for plan in plan_interviews(documents, seed):
        samples, turns = record_interview(plan, seed)
        audio = f"audio/{plan.doc_id}.opus"
        if plan.has_audio:
            write_opus(out / audio, samples)
            sample = samples if sample is None else sample
        rows.append(
            {
                "doc_id": plan.doc_id,
                "audio": audio if plan.has_audio else None,
                "text": turns if plan.has_text else None,
                "group": f"speaker-{plan.speaker + 1:02d}",
                "labels": dict(plan.labels),
            }
        )
    assert sample is not None
    write_manifest(out / "manifest.jsonl", rows)
    write_manifest(out / "broken.jsonl", make_broken(out, rows[:12], sample))
    (out / "tasks.yaml").write_text(TASKS_YAML, encoding="utf-8")
    return rows


def main() -> int:
    """Make the corpus that the command line describes and print a summary."""
    parser = argparse.ArgumentParser(description="Speak the sample corpus with espeak-ng.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "corpus", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random draw")
    parser.add_argument("--documents", type=int, default=DOCUMENTS, help="number of interviews")
    options = parser.parse_args()
    try:
        rows = make_corpus(options.out, options.documents, options.seed)
    except (FileNotFoundError, ValueError) as error:
        print(f"make_corpus: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{len(rows)} interviews of {len({row['group'] for row in rows})} speakers in {options.out}, "
          f"{size / 1e6:.1f} MB")  # fmt: skip
    for task in ("pattern", "callback", "pace"):
        counts = Counter(str(row["labels"][task]) for row in rows)
        print(f"  {task}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
