"""How the folder of a text model says that it is meant to be used: pooling, projections, prompts and limits.

A folder of sentence-transformers lists in modules.json a transformer, its pooling and what follows, and holds
prompts and limits in further files. All of it is read and checked here; `pooling` computes it. What cannot be
computed is refused: left out, it would give features that are not the model's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os.path import lexists
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from hilbert_ray.config import ConfigError
from hilbert_ray.encoders.folder import check_module, read_json
from hilbert_ray.encoders.weights import FETCH_AGAIN, weights_hash

T = TypeVar("T")

POOLS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
"""Our name of each mode of pooling that sentence-transformers has."""
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""How older folders name the modes, in the order in which several are concatenated."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "ELU", "LeakyReLU", "Mish", "Softplus")
"""Activations of torch.nn that a Dense module may name: those that need no arguments."""
_TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_HARMLESS = {
    "add_pooling_layer", "attn_implementation", "device_map", "dtype", "padding_side", "torch_dtype",
    "trust_remote_code", "unpad_inputs", "use_cache", "use_memory_efficient_attention",
}  # fmt: skip
"""Arguments of the transformer and its tokenizer that change no feature, or that settings decide."""


_ALONE = (
    "to use the transformer without what the folder declares, set text_encoder.pooling to mean, cls or last"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """What follows the pooling: `kind` is Dense, LayerNorm or Normalize.

    folder: where its weights are, relative to the model's; empty for Normalize. in_dim, out_dim: widths, 0
    for any. activation: a name in torch.nn. residual: whether the input is added, projected if widths differ.
    """

    kind: str
    folder: str = ""
    in_dim: int = 0
    out_dim: int = 0
    bias: bool = True
    activation: str = "Identity"
    residual: bool = False

    def weights(self, root: str) -> dict[str, str]:
        """Return what identifies its weights, if it has any."""
        return {"weights": weights_hash(f"{root}/{self.folder}")} if self.folder else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """What a folder declares; the defaults are those of a folder that declares nothing.

    modes: how tokens are pooled, several are concatenated; empty where the folder does not say. width: of the
    token vectors, 0 where it does not say. include_prompt: whether tokens of the prompt are pooled too.
    modules: what follows the pooling. prompt: what precedes every text. other_prompts: names of prompts that
    are declared but not the default. max_tokens: most tokens of an input, special ones and prompt included; 0
    where the folder does not say. truncate_dim: how many numbers of the result are kept; 0 for all.
    """

    modes: tuple[str, ...] = ()
    width: int = 0
    include_prompt: bool = True
    modules: tuple[Module, ...] = ()
    prompt: str = ""
    other_prompts: tuple[str, ...] = ()
    max_tokens: int = 0
    lower_case: bool = False
    truncate_dim: int = 0

    def facts(self, root: str) -> dict[str, Any]:
        """Return what features depend on besides transformer, pooling and prompt, as plain values.

        Empty if nothing: then features are those of the explicit settings, and so is their fingerprint.
        """
        values = {
            name: getattr(self, name)
            for name in ("max_tokens", "lower_case", "truncate_dim")
            if getattr(self, name)
        }
        if not self.include_prompt:
            values["include_prompt"] = False
        if self.modules:
            values["modules"] = [asdict(module) | module.weights(root) for module in self.modules]
        return values

    def dim(self, token_width: int, width: int, name: str) -> int:
        """Return the width of a feature.

        Args:
            token_width: of the transformer's token vectors.
            width: of what the pooling gives.
            name: the encoder as in the settings, for messages.

        Raises:
            ConfigError: when a module takes another width than the one before it gives.
        """
        self._check_width("the pooling", self.width, token_width, name)
        for module in self.modules:
            self._check_width(module.folder, module.in_dim, width, name)
            width = module.out_dim or width
        return min(width, self.truncate_dim or width)

    @staticmethod
    def _check_width(part: str, expected: int, width: int, name: str) -> None:
        if expected and expected != width:
            raise ConfigError(
                f"text encoder {name}: {part} takes vectors of width {expected}, but what precedes it gives "
                f"{width}; use the files that belong to these weights"
            )


class _File:
    """One JSON file, whose keys are taken one by one, so that none is left out without a word."""

    def __init__(self, root: Path, file: str, name: str) -> None:
        self.file, self.name = file, name
        self.values: dict[str, Any] = {}
        if lexists(root / file):  # a broken link is found to be one where it is read
            self.values = dict(read_json(root / file, name, dict))

    def take(self, key: str, kind: type[T], default: T) -> T:
        """Return a value; null and absent are the default."""
        value = self.values.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise self.error(f"{key} = {value!r}, which must be a {kind.__name__}; {FETCH_AGAIN}")
        return value

    def count(self, key: str, default: int = 0) -> int:
        """Return a whole number from 1 on; null and absent are the default."""
        value = self.values.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(f"{key} = {value!r}, which must be a whole number from 1 on; {FETCH_AGAIN}")
        return value

    def refuse_rest(self) -> None:
        """Refuse keys that nothing took and that have a value."""
        for key, value in self.values.items():
            if value not in (None, False, {}, []):
                raise self.error(f"{key} = {value!r}, which is not known here; {_ALONE}")

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"text encoder {self.name}: {self.file} has {what}")


def transformer_folder(root: str, name: str) -> str:
    """Return where the transformer of a folder is: the folder itself, or the one that modules.json names.

    Raises:
        ConfigError: when modules.json cannot be read.
    """
    for _, kind, path in _modules(Path(root), name):
        # Folders of the first releases have a config.json of their own at the top.
        if kind == "Transformer" and (Path(root) / path / "config.json").exists():
            return str(Path(root) / path)
    return root


def read_declaration(root: str, name: str) -> Declaration:
    """Return what a folder declares of its model.

    Args:
        root: the folder.
        name: the encoder as in the settings, for messages.

    Raises:
        ConfigError: naming the file, the value and what to do, when something cannot be read or computed.
    """
    folder = Path(root)
    modules = _modules(folder, name)
    if not modules:
        return Declaration()
    _check_order(modules, name)
    (_, _, transformer), (_, _, pooling), *rest = modules
    modes, include_prompt, width = _pooling(_File(folder, f"{pooling}/config.json", name))
    max_tokens, lower_case = _transformer(folder, transformer, name)
    prompt, other_prompts, truncate_dim = _use(_File(folder, "config_sentence_transformers.json", name))
    following = [_FOLLOWING[kind](_File(folder, f"{path}/config.json", name), path) for _, kind, path in rest]
    for module in following:
        if module is not None and module.folder:
            check_module(folder / module.folder, name)
    return Declaration(
        modes=modes,
        width=width,
        include_prompt=include_prompt,
        modules=tuple(module for module in following if module is not None),
        prompt=prompt,
        other_prompts=other_prompts,
        max_tokens=max_tokens,
        lower_case=lower_case,
        truncate_dim=truncate_dim,
    )


def _modules(root: Path, name: str) -> Sequence[tuple[str, str, str]]:
    """Return full name, last part of it and folder of each module that modules.json names, in order."""
    if not lexists(root / "modules.json"):
        return []
    modules = []
    for values in read_json(root / "modules.json", name, list):
        entry = values if isinstance(values, dict) else {}
        kind, path = entry.get("type"), entry.get("path")
        # Only what is inside the folder: whoever made the model must not choose other files of this machine.
        is_inside = isinstance(path, str) and not PurePosixPath(path).is_absolute() and ".." not in path
        if not isinstance(kind, str) or not is_inside:
            raise ConfigError(
                f"text encoder {name}: modules.json has an entry {values!s:.200}; each must have a type "
                f"and a path inside the folder; {FETCH_AGAIN}"
            )
        modules.append((kind, kind.rpartition(".")[2], str(path)))
    return modules


def _check_order(modules: Sequence[tuple[str, str, str]], name: str) -> None:
    """Check that modules are those that can be computed, in the order in which they can."""
    known = ("Transformer", "Pooling", *_FOLLOWING)
    for full_name, kind, _ in modules:
        if not full_name.startswith("sentence_transformers.") or kind not in known:
            raise ConfigError(
                f"text encoder {name}: modules.json names a module {full_name}; expected one of "
                f"{', '.join(known)} of sentence-transformers: {_ALONE}"
            )
    kinds = [kind for _, kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not {"Transformer", "Pooling"}.isdisjoint(kinds[2:]):
        raise ConfigError(
            f"text encoder {name}: modules.json names {', '.join(kinds)}; expected one Transformer, then "
            f"one Pooling, then others: {_ALONE}"
        )


def _pooling(file: _File) -> tuple[tuple[str, ...], bool, int]:
    """Return modes, whether the prompt is pooled, and the width of what is pooled."""
    if not file.values:
        raise file.error(f"nothing that says how to pool; {FETCH_AGAIN}")
    flags = [mode for flag, mode in _FLAGS.items() if file.take(flag, bool, False)]
    stated = file.values.pop("pooling_mode", None) or flags or ["mean"]
    modes = [stated] if isinstance(stated, str) else stated
    if not isinstance(modes, list) or not set(map(str, modes)) <= set(POOLS):
        raise file.error(f"pooling_mode = {stated!r}; expected some of {', '.join(POOLS)}: {_ALONE}")
    width = file.count("word_embedding_dimension")
    width = file.count("embedding_dimension", width)
    include_prompt = file.take("include_prompt", bool, True)
    file.refuse_rest()
    return tuple(POOLS[mode] for mode in modes), include_prompt, width


def _transformer(root: Path, path: str, name: str) -> tuple[int, bool]:
    """Return the most tokens of an input, 0 if not stated, and whether texts are put into lower case."""
    names = [f"{path}/{file}" if path else file for file in _TRANSFORMER_FILES]
    file = _File(root, next((file for file in names if (root / file).exists()), names[0]), name)
    max_tokens = file.count("max_seq_length")
    lower_case = file.take("do_lower_case", bool, False)
    task = file.take("transformer_task", str, "feature-extraction")
    output = file.take("module_output_name", str, "token_embeddings")
    if (task, output) != ("feature-extraction", "token_embeddings"):
        raise file.error(f"transformer_task = {task!r} and module_output_name = {output!r}: {_ALONE}")
    kinds = file.take("modality_config", dict, {})
    text = kinds.get("text", {})
    # With `message`, every text would be put into the chat template of the model.
    if kinds and ("message" in kinds or text.get("method_output_name") != "last_hidden_state"):
        raise file.error(f"modality_config = {kinds!s:.200}, by which texts are not read as text: {_ALONE}")
    for part in ("model", "tokenizer", "processor", "config"):
        for key in (f"{part}_args", f"{part}_kwargs"):
            arguments = file.take(key, dict, {})
            if unknown := set(arguments) - _HARMLESS:
                raise file.error(
                    f"{key} with {', '.join(sorted(unknown))}, which is not known here; {_ALONE}"
                )
    for key in ("unpad_inputs", "query_length", "document_length", "query_expansion"):
        file.values.pop(key, None)  # speed, and what only applies to queries and passages of retrieval
    file.refuse_rest()
    return max_tokens, lower_case


def _use(file: _File) -> tuple[str, tuple[str, ...], int]:
    """Return the default prompt, the names of other prompts, and how many numbers are kept, 0 for all."""
    kind = file.take("model_type", str, "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise file.error(f"model_type = {kind!r}; expected SentenceTransformer: {_ALONE}")
    # Two that every model of sentence-transformers has, empty unless they are declared.
    prompts: Mapping[str, Any] = {"query": "", "document": ""} | file.take("prompts", dict, {})
    default = file.take("default_prompt_name", str, "")
    if default and not isinstance(prompts.get(default), str):
        raise file.error(
            f"default_prompt_name = {default!r}, but prompts are {', '.join(prompts)}; set "
            " text_encoder.prefix to the prompt itself"
        )
    others = tuple(key for key, text in prompts.items() if text and key != default)
    return prompts.get(default, ""), others, file.count("truncate_dim")


def _dense(file: _File, path: str) -> Module:
    in_dim, out_dim = (file.count(key) for key in ("in_features", "out_features"))
    if not in_dim or not out_dim:
        raise file.error(f"no in_features and out_features; {FETCH_AGAIN}")
    bias, residual = file.take("bias", bool, True), file.take("use_residual", bool, False)
    activation = file.take("activation_function", str, "torch.nn.modules.activation.Tanh")
    kind = activation.rpartition(".")[2]
    # Only a name from a list: any other could name code that does something else.
    if not activation.startswith("torch.nn.") or kind not in ACTIVATIONS:
        raise file.error(
            f"activation_function = {activation!r}; expected torch.nn with one of {', '.join(ACTIVATIONS)}: "
            f"{_ALONE}"
        )
    _check_input(file)
    file.refuse_rest()
    return Module(
        kind="Dense",
        folder=path,
        in_dim=in_dim,
        out_dim=out_dim,
        bias=bias,
        activation=kind,
        residual=residual,
    )


def _layer_norm(file: _File, path: str) -> Module:
    dim = file.count("dimension")
    if not dim:
        raise file.error(f"no dimension; {FETCH_AGAIN}")
    file.refuse_rest()
    return Module(kind="LayerNorm", folder=path, in_dim=dim, out_dim=dim)


def _normalize(file: _File, _: str) -> Module:
    _check_input(file)
    file.refuse_rest()
    return Module(kind="Normalize")


def _dropout(*_: object) -> None:
    """Give nothing: where a model is used and not trained, dropout does nothing."""


def _check_input(file: _File) -> None:
    """Check that a module works on what the pooling gives, and gives it back."""
    for key in ("module_input_name", "module_output_name"):
        value = file.take(key, str, "sentence_embedding")
        if value != "sentence_embedding":
            raise file.error(f"{key} = {value!r}; expected sentence_embedding: {_ALONE}")


_FOLLOWING: Mapping[str, Callable[[_File, str], Module | None]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
}
"""What reads each module that may follow the pooling."""
