"""Which channels of a recording are used: their mean, one of them, or each as the speaker that it is of.

The same values are taken by the setting `segment.channels` and by the field `channels` of a manifest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hilbert_ray.config.constraints import ConfigError

CHOICES = ("mix", "left", "right", "loudest")
RULE = (
    "it must be mix, left, right, loudest, or the speaker of each channel, counted from 0, as in "
    '{"0": "agent", "1": "customer"} or 0=agent,1=customer'
)
_SIDES = {"left": 0, "right": 1}
_MOST_CHANNELS = 32


@dataclass(frozen=True, slots=True)
class Channels:
    """A choice of channels: one of `CHOICES`, or the `speakers` (channel, name), sorted by channel.

    mix: the mean of all. left, right: the first or second one. loudest: the one with the most energy, which
    takes reading the recording twice.
    """

    choice: str = "mix"
    speakers: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        """Return the value as one word, which `parse_channels` reads."""
        return ",".join(f"{channel}={name}" for channel, name in self.speakers) or self.choice

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the speakers, in the order of their channels."""
        return tuple(name for _, name in self.speakers)


def parse_channels(value: object) -> Channels:
    """Return a choice of channels from what a user wrote: a word, a mapping, or either as JSON.

    Raises:
        ConfigError: with the rule, if it is none of these.
    """
    given = value
    if isinstance(value, str):
        if value in CHOICES:
            return Channels(choice=value)
        value = _mapping(value)
    if not isinstance(value, dict | Mapping) or not value:
        raise ConfigError(f"channels is {given!r}; {RULE}")
    speakers: dict[int, str] = {}
    for key, name in value.items():
        channel = _SIDES.get(str(key).strip(), str(key).strip())
        is_known = isinstance(channel, int) or (channel.isascii() and channel.isdigit())
        is_name = isinstance(name, str) and name.strip() and not set(name) & set("=,\0\n")
        if not is_known or int(channel) >= _MOST_CHANNELS or int(channel) in speakers or not is_name:
            raise ConfigError(f"channels is {given!r}; {RULE}")
        speakers[int(channel)] = str(name).strip()
    if len(set(speakers.values())) < len(speakers):
        raise ConfigError(f"channels is {given!r}: each channel needs a speaker of its own")
    return Channels(choice="speakers", speakers=tuple(sorted(speakers.items())))


def _mapping(text: str) -> object:
    """Return what a word such as 0=agent,1=customer or {"0": "agent"} says; None if it is neither."""
    if text.lstrip().startswith("{"):
        try:
            # As pairs, since JSON lets a later key replace an earlier one.
            pairs = json.loads(text, object_pairs_hook=lambda items: items)
        except (ValueError, RecursionError):
            return None
    else:
        pairs = [part.split("=") for part in text.split(",")]
    if not isinstance(pairs, list) or any(len(pair) != 2 for pair in pairs):
        return None
    mapping = {str(key).strip(): name for key, name in pairs}
    return mapping if len(mapping) == len(pairs) else None
