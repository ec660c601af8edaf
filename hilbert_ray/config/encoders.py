"""Names of encoders in the settings: those built in for each modality, and several joined with `+`."""

import re
from collections.abc import Mapping
from typing import Literal

from hilbert_ray.config.constraints import require

BUILTIN_ENCODERS: Mapping[Literal["audio", "text"], tuple[str, ...]] = {
    "audio": ("mfcc", "prosody"),
    "text": ("hashing",),
}
"""The built-in encoders of each modality, the default first."""
# Paths and ids may contain a + of their own.
_JOIN = re.compile(rf"\+(?=hf:|(?:{'|'.join(sum(BUILTIN_ENCODERS.values(), ()))})(?:\+|$))")


def encoder_parts(spec: str) -> list[str]:
    """Return the encoders that a spec joins: `mfcc+prosody` -> `mfcc`, `prosody`; a single one as it is.

    A + joins where the name of a built-in encoder, as a whole, or `hf:` follows it.
    """
    return _JOIN.split(spec)


def check_encoder(modality: Literal["audio", "text"], spec: str) -> None:
    """Check the kind of an encoder only: whether a model exists is known once it is fetched.

    Raises:
        ConfigError: when it is unknown, joins something twice, or joins encoders of text.
    """
    builtin, parts = BUILTIN_ENCODERS[modality], encoder_parts(spec)
    require(
        spec == "none"
        or all(part in builtin or (part.startswith("hf:") and len(part) > 3) for part in parts),
        f"{modality} encoder is {spec!r}; the choices are {', '.join(f'`{name}`' for name in builtin)}, "
        "`hf:<id or folder>[@revision]`, "
        f"{'several of them joined with `+`, ' if modality == 'audio' else ''}`none`",
    )
    require(
        len(set(parts)) == len(parts),
        f"{modality} encoder is {spec!r}, which joins an encoder with itself; name each one once",
    )
    # Each cuts a transcript by its own tokens, and joined features are of the same segments.
    require(
        modality == "audio" or len(parts) == 1,
        f"text encoder is {spec!r}, but only audio encoders can be joined with `+`; name one",
    )
