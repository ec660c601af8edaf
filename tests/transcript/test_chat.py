"""CHAT files: markers by the rules of its manual, times and speakers also against pylangacq."""

import pylangacq
import pytest

from hilbert_ray.transcript import chat
from hilbert_ray.transcript.chat import OTHERS_WORDS, spoken
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError

INTERVIEW = (
    "@UTF8\n@Begin\n@Languages:\teng\n@Participants:\tPAR Participant, INV Investigator\n"
    "@ID:\teng|Pitt|PAR|57;|male|ProbableAD||Participant|18||\n"
    "@ID:\teng|Pitt|INV|||||Investigator|||\n@Media:\t001-0, audio\n"
    "*INV:\ttell me everything you see . \x150_2250\x15\n%gra:\t1|0|ROOT\n"
    "*PAR:\twell <the boy> [//] the girl is &-uh &=laughs take-ing cookies\n\tfrom the jar . "
    "\x152250_7500\x15\n"
    "*PAR:\tand (.) the stool (i)s fall(ing) +... \x157500_9000\x15\n"
    "@Comment:\ta door is slammed\n"
    "*INV:\tmhm . \x158900_9400\x15\n@End\n"
)


def test_main_lines_become_utterances_with_codes_as_speakers() -> None:
    assert chat.read(INTERVIEW).content == [
        Cue("tell me everything you see.", 0.0, 2.25, "INV"),
        Cue("well the boy the girl is uh take-ing cookies from the jar.", 2.25, 7.5, "PAR"),
        Cue("and the stool is falling...", 7.5, 9.0, "PAR"),
        Cue("mhm.", 8.9, 9.4, "INV"),
    ]


def test_speakers_and_times_are_those_of_pylangacq() -> None:
    content = chat.read(INTERVIEW).content
    assert not isinstance(content, str)
    ours = [
        (cue.speaker, (round(1000 * (cue.start_s or 0)), round(1000 * (cue.end_s or 0)))) for cue in content
    ]
    theirs = pylangacq.CHAT.from_strs([INTERVIEW]).utterances()
    # Headers between main lines are utterances without a participant to it.
    assert ours == [(one.participant, one.time_marks) for one in theirs if one.participant is not None]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("the the [/] the cat .", "the the the cat."),
        ("<I want> [/] I want it !", "I want I want it!"),
        ("goed [: went] [*] home ?", "goed home?"),
        ("&+fr &-um &~ba frog &=points:lamp .", "fr um ba frog."),
        ("(be)cause (..) of (1.5) it (2:10.3) .", "because of it."),
        ("0is he 0 12 20 years .", "he 12 20 years."),
        ("xxx yes yyy www .", "yes."),
        ("dog@s:spa bu@wp no: 10:30 .", "dog bu no 10:30."),
        ("Mickey_Mouse black+board .", "Mickey Mouse black board."),
        ("+^ so +/.", "so."),
        ("what +..?", "what...?".replace("...?", "..?")),
        ('he said +"/.', "he said."),
        ("well , yes ; „ no ‡ ok .", "well, yes;, no, ok."),
        ("no [x 3] .", "no no no."),
        ("<oh my> [x 2] [!] .", "oh my oh my."),
        ("↑really↓ ⌈yes⌉ °soft° .", "really yes soft."),
        ("hey [=! shouts] [% what] [+ gram] .", "hey."),
        ("&=laughs .", ""),
        ("a [x 9999] .", " ".join(["a"] * 21) + "."),
    ],
)
def test_what_was_said_is_kept_and_markers_go(line: str, expected: str) -> None:
    assert spoken(line) == (expected, 0)


def test_bullets_inside_lines_cut_them_and_lost_marks_of_bullets_are_found() -> None:
    assert chat.read("*A:\tone \x15100_200\x15 two . \x15200_300\x15\n").content == [
        Cue("one", 0.1, 0.2, "A"),
        Cue("two.", 0.2, 0.3, "A"),
    ]
    assert chat.read("*A:\tone . 100_200\r\n*B:\t2_3 boats .\r\n").content == [
        Cue("one.", 0.1, 0.2, "A"),
        Cue("2 3 boats.", speaker="B"),
    ]
    assert chat.read('*A:\tone . \x15%snd:"001-0"_100_200\x15\n').content == [Cue("one.", 0.1, 0.2, "A")]
    assert chat.read("*A:\tone . •100_200•\n").content == [Cue("one.", 0.1, 0.2, "A")]


def test_words_of_another_speaker_inside_an_utterance_are_reported() -> None:
    assert chat.read("*A:\tone &*B:mhm two .\n").flaws == (Flaw(OTHERS_WORDS),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("@UTF8\n@Begin\n@End\n", "has no main lines such as `*PAR:\\twell .`"),
        ("private words\n", "has a line that is no header (@), main line (*PAR:), dependent tier (%mor:)"),
    ],
)
def test_what_is_not_chat_is_refused(content: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        chat.read(content)
    assert message in str(caught.value)
