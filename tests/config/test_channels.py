"""Choices of channels: every spelling of one is the same value, and what is none is refused with the rule."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.config import (
    Channels,
    Config,
    ConfigError,
    SegmentConfig,
    from_dict,
    parse_channels,
    to_dict,
)

CALL = Channels(choice="speakers", speakers=((0, "agent"), (1, "customer")))


@pytest.mark.parametrize(
    "value",
    [
        {"0": "agent", "1": "customer"},
        {1: "customer", 0: "agent"},
        {"left": "agent", "right": "customer"},
        '{"0": "agent", "1": "customer"}',
        "0=agent,1=customer",
        "1=customer, left=agent",
    ],
)
def test_every_spelling_of_speakers_is_the_same_choice(value: Any) -> None:  # noqa: ANN401
    assert parse_channels(value) == CALL
    assert SegmentConfig(channels=value).channels == "0=agent,1=customer"
    assert CALL.roles == ("agent", "customer")


@pytest.mark.parametrize(
    "value",
    [
        "both", "", "0", "0=", "=a", "0=a=b", "x=a", "-1=a", "32=a", "0=a,0=b", {}, [], 5, True, None,
        {"0": 1},
        {"0": ""}, {"0": "a,b"}, {"0": "a", "left": "b"}, '{"0": "a", "0": "b"}', "{", '["a"]', "[" * 9999,
        "{" * 9999,
    ],
)  # fmt: skip
def test_what_is_no_choice_is_refused_with_the_rule(value: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match="it must be mix, left, right, loudest, or the speaker"):
        parse_channels(value)


def test_two_channels_of_one_speaker_are_refused() -> None:
    with pytest.raises(ConfigError, match="each channel needs a speaker of its own"):
        parse_channels("0=agent,1=agent")


NAMES = st.text(min_size=1, max_size=9).filter(lambda name: name.strip() and not set(name) & set("=,\0\n"))


@given(st.dictionaries(st.integers(0, 31), NAMES.map(str.strip), min_size=1, max_size=4))
def test_a_choice_reads_back_from_its_own_word(speakers: dict[int, str]) -> None:
    if len(set(speakers.values())) == len(speakers):
        channels = parse_channels(speakers)
        assert parse_channels(str(channels)) == channels
        config = from_dict(Config, {"segment": {"channels": speakers}})
        assert from_dict(Config, to_dict(config)) == config
