"""From token or frame states to one vector: pooling, and what a text model's folder declares after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.modeling_utils import load_state_dict

from hilbert_ray.config import ConfigError
from hilbert_ray.encoders.declaration import Module
from hilbert_ray.encoders.folder import reading
from hilbert_ray.encoders.weights import FETCH_AGAIN, features_depend_on


def pool(states: Tensor, mask: Tensor, modes: Sequence[str]) -> Tensor:
    """Return one vector per segment; what several modes give is concatenated.

    Args:
        states: float32 [batch, time, width].
        mask: bool [batch, time], True where a state is pooled. What is not may hold anything, NaN too.
        modes: of `pooled_dim`.

    Returns:
        float32 [batch, pooled_dim].
    """
    weights = mask[..., None].to(states.dtype)
    # Filled, not only weighted: padding may hold NaN, and 0 * NaN is NaN.
    states = states.masked_fill(~mask[..., None], 0)
    return torch.cat([_pooled(mode, states, mask, weights) for mode in modes], 1)


def pooled_dim(width: int, modes: Sequence[str]) -> int:
    """Return the width of what `pool` gives of states of a width."""
    return sum(2 * width if mode == "mean_std" else width for mode in modes)


def _pooled(mode: str, states: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Return float32 [batch, width] of one mode, twice the width of mean_std; `weights` are 0 and 1."""
    rows = torch.arange(len(states), device=states.device)
    positions = torch.arange(states.shape[1], device=states.device)
    count = weights.sum(1).clamp(min=1)
    match mode:
        case "cls":
            return states[rows, mask.int().argmax(1)]
        case "last":
            return states[rows, (mask * positions).argmax(1)]
        case "max":
            return states.masked_fill(~mask[..., None], -torch.inf).amax(1)
        case "weightedmean":
            # In a causal model, later tokens have seen more: Muennighoff 2022 (SGPT), equation 2.
            later = weights * (positions + 1)[:, None]
            return (states * later).sum(1) / later.sum(1)
        case "mean_sqrt_len_tokens":
            return states.sum(1) / count.sqrt()
    mean = states.sum(1) / count
    if mode == "mean":
        return mean
    variance = ((states - mean[:, None]).square() * weights).sum(1) / count
    return torch.cat([mean, variance.sqrt()], 1)


class Projection(nn.Module):
    """A Dense module of sentence-transformers: a linear layer, an activation, perhaps the input added."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.linear = nn.Linear(module.in_dim, module.out_dim, bias=module.bias)
        self.activation: nn.Module = getattr(nn, module.activation)()
        self.is_residual = module.residual
        if module.residual and module.in_dim != module.out_dim:
            self.residual = nn.Linear(module.in_dim, module.out_dim, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return float32 [batch, out_dim] of float32 [batch, in_dim]."""
        projected: Tensor = self.activation(self.linear(vectors))
        if not self.is_residual:
            return projected
        return projected + (self.residual(vectors) if hasattr(self, "residual") else vectors)


class Norm(nn.Module):
    """A LayerNorm module of sentence-transformers."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(module.in_dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return float32 [batch, in_dim] of as many."""
        normed: Tensor = self.norm(vectors)
        return normed


class Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return float32 [batch, dim] of as many."""
        return nn.functional.normalize(vectors, dim=1)


def load_modules(modules: Sequence[Module], root: str, name: str) -> nn.Sequential:
    """Return what follows the pooling, with its weights, in float32.

    Args:
        modules: as the folder declares.
        root: the folder.
        name: the encoder as in the settings, for messages.

    Raises:
        ConfigError: when weights cannot be read, or are not those of such a module.
    """
    return nn.Sequential(*(_loaded(module, root, name) for module in modules)).eval()


def _loaded(module: Module, root: str, name: str) -> nn.Module:
    if module.kind == "Normalize":
        return Normalize()
    network = Projection(module) if module.kind == "Dense" else Norm(module)
    held = _tensors(Path(root) / module.folder, name)
    shapes = {key: list(tensor.shape) for key, tensor in held.items()}
    expected = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    if shapes != expected:
        raise ConfigError(
            f"text encoder {name}: the weights of {module.folder} have the shapes {shapes}, but its "
            f"config.json describes {expected}; use the files that belong together"
        )
    network.load_state_dict({key: tensor.float() for key, tensor in held.items()})
    return network


def _tensors(folder: Path, name: str) -> Mapping[str, Tensor]:
    with reading(f"weights in {folder.name}", name, FETCH_AGAIN):
        # Of pickled weights nothing but tensors is unpickled, which is transformers' default.
        tensors: Mapping[str, Tensor] = load_state_dict(folder / features_depend_on(str(folder))[0])
    return tensors
