"""Networks from a folder of transformers: loaded with their weights, or only rehearsed.

`rehearse` finds what would keep a network from loading, in the process that plans a run and within a second:
it reads names and shapes of the tensors, and lets transformers fill the network with tensors that take up no
memory. `load` reads the weights themselves, where they are used.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.modeling_utils import load_state_dict

from hilbert_ray.config import ConfigError
from hilbert_ray.encoders.folder import reading
from hilbert_ray.encoders.weights import features_depend_on, has_safetensors

UNUSED = {"masked_spec_embed", "num_batches_tracked", "pooler"}
"""Parts of networks that no feature depends on, so weights may lack them: what only training uses, and the
head on top of a text encoder."""
ENCODER_OF_TWO = ("t5", "mt5", "umt5")
"""Model types with a decoder of which `AutoModelForTextEncoding` gives the encoder half."""
WITH_DECODER = ("bart", "mbart", "led", "mvp", "plbart", "bigbird_pegasus")
"""Model types whose decoder reads the text after the encoder, and gives the states: so they are used."""
COMPUTED = {"marian": "embed_positions", "pegasus": "embed_positions"}
"""What the network of a model type computes itself where the weights lack it."""
ADVICE = "they may be truncated: fetch them again"
_MISFIT = "use weights that belong to this config.json, or fetch both again"
_COUNTS = ("layers", "heads", "size", "dim", "d_model", "d_ff", "d_kv", "positions", "embeddings", "bins")
"""Ends of names in a config.json that count what takes up at least a number each in the weights."""
_MOST_TIMES = 4
"""How many times the numbers in the weights a network may have: some weights hold an encoder alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A network that folders hold as a part of a larger one, of which nothing else is loaded.

    network: its class, as `module:name` below transformers.models. prefix: a regular expression for what the
    names of its tensors begin with where the weights are those of the larger one.
    """

    network: str
    prefix: str


def load(
    folder: str,
    name: str,
    config: Any,  # noqa: ANN401 - no common type
    trust_remote_code: bool,
    part: Part | None = None,
) -> Any:  # noqa: ANN401
    """Return a network with its weights.

    Args:
        folder: where the weights are.
        name: the encoder as in the settings, for messages.
        config: the model's configuration, as transformers read it.
        trust_remote_code: whether code that comes with the weights may be run.
        part: the network, if the folder may hold more than it.

    Raises:
        ConfigError: when the weights cannot be read or lack what the network computes with.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code} if part is None else {"config": config}
    # Quiet about the tensors of what is not loaded; those that are missing are an error of ours.
    with reading_weights(name), _quiet():
        loaded = _network_class(config, part).from_pretrained(
            folder,
            use_safetensors=has_safetensors(folder),
            output_loading_info=True,
            key_mapping=_renamed(part),
            **options,
        )
    if not isinstance(loaded, tuple):  # remote code may load its weights itself and report nothing
        return loaded
    model, report = loaded
    _check_missing(name, config, report["missing_keys"])
    return model


def rehearse(folder: str, name: str, config: Any, part: Part | None = None) -> None:  # noqa: ANN401
    """Check that a network would load, from names and shapes of its weights alone.

    Args:
        folder: where the weights are.
        name: the encoder as in the settings, for messages.
        config: the model's configuration, as transformers read it. Remote code is not rehearsed.
        part: the network, if the folder may hold more than it.

    Raises:
        ConfigError: when the weights cannot be read, or are not those of such a network.
    """
    tensors = _tensors(folder, name)
    check_counts(config.to_dict(), name, tensors)
    with reading_weights(name), _quiet():
        # On the meta device, where tensors have a shape but no numbers.
        with torch.device("meta"):
            network_class = _network_class(config, part)
            network = network_class.from_config(config) if part is None else network_class(config)
        _check_size(name, sum(tensor.numel() for tensor in network.parameters()), tensors)
        _, report = type(network).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            output_loading_info=True,
            key_mapping=_renamed(part),
            ignore_mismatched_sizes=True,  # reported below, where it can be said which they are
        )
    for key, held, expected in sorted(report["mismatched_keys"]):
        raise ConfigError(
            f"encoder {name}: its weights hold {key} with the shape {list(held)}, but the network that "
            f"config.json describes has {list(expected)}; {_MISFIT}"
        )
    _check_missing(name, config, report["missing_keys"])


def check_counts(values: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that config.json counts nothing of which the weights cannot hold as many.

    Before transformers builds the network: a billion layers take it for ever, and a billion dimensions all
    memory.

    Raises:
        ConfigError: naming the field, its value and what to do.
    """
    numbers = sum(tensor.numel() for tensor in tensors.values())
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or not key.endswith(_COUNTS):
            continue
        most, what = (len(tensors), "tensors") if key.endswith("layers") else (numbers, "numbers")
        if value > most:
            raise ConfigError(
                f"encoder {name}: config.json has {key} = {value}, but its weights hold only {most} {what}; "
                f"{_MISFIT}"
            )


def _check_size(name: str, numbers: int, tensors: Mapping[str, Tensor]) -> None:
    held = sum(tensor.numel() for tensor in tensors.values())
    if numbers > _MOST_TIMES * held:
        raise ConfigError(
            f"encoder {name}: its config.json describes a network of {numbers} numbers, but its weights hold "
            f"{held}; {_MISFIT}"
        )


def _tensors(folder: str, name: str) -> dict[str, Tensor]:
    """Return tensors of the weights' names, shapes and types that take up no memory."""
    tensors: dict[str, Tensor] = {}
    for file in features_depend_on(folder):
        if not file.endswith((".safetensors", ".bin")):
            continue
        with reading_weights(name):
            # Of pickled weights nothing but tensors is unpickled, which is transformers' default.
            held = load_state_dict(Path(folder) / file, map_location="meta")
            if not isinstance(held, Mapping) or not all(isinstance(one, Tensor) for one in held.values()):
                raise TypeError(f"{file} holds something else than tensors by name")
        # Not on the meta device, from which transformers cannot copy, but one zero in all places.
        tensors |= {key: torch.zeros((), dtype=one.dtype).expand(one.shape) for key, one in held.items()}
    if not tensors:
        raise ConfigError(f"the weights of encoder {name} hold no tensors; {ADVICE}")
    return tensors


def _check_missing(name: str, config: Any, missing: Iterable[str]) -> None:  # noqa: ANN401
    """Check that no tensor that features depend on is missing: transformers would draw it at random."""
    unused = {*UNUSED, COMPUTED.get(config.model_type), "decoder" if is_encoder_half(config) else None}
    needed = sorted(key for key in missing if not unused & set(key.split(".")))
    if needed:
        raise ConfigError(
            f"the weights of encoder {name} lack {len(needed)} of the tensors that a network of "
            f"type {config.model_type} computes with, the first {needed[0]}; they would be random: "
            "use weights that belong to this config.json, or fetch them again"
        )


def is_encoder_half(config: Any) -> bool:  # noqa: ANN401
    """Return whether only the encoder of a network of encoder and decoder is used."""
    is_of_two = bool(getattr(config, "is_encoder_decoder", False))
    return is_of_two and config.model_type not in (*WITH_DECODER, *ENCODER_OF_TWO)


def _network_class(config: Any, part: Part | None) -> Any:  # noqa: ANN401
    if part is not None:
        return resolve_name(f"transformers.models.{part.network}")
    is_encoder_alone = config.model_type == "t5gemma" and not config.is_encoder_decoder
    is_encoder_of_two = config.model_type in ENCODER_OF_TWO or is_encoder_alone
    return transformers.AutoModelForTextEncoding if is_encoder_of_two else transformers.AutoModel


def _renamed(part: Part | None) -> dict[str, str] | None:
    """Return how transformers is to rename tensors, by regular expression."""
    return None if part is None else {part.prefix: ""}


def reading_weights(name: str) -> Any:  # noqa: ANN401 - a context manager
    """Turn whatever keeps weights from being read into one message; see `folder.reading`."""
    return reading("weights", name, ADVICE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting on networks: what is wrong with one is an error of ours."""
    transformers.utils.logging.disable_progress_bar()  # it would fill the logs of every worker
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
