"""The network: three document embeddings and the logits of each task."""

from hilbert_ray.model.fusion import redundancy_penalty
from hilbert_ray.model.heads import BOTH, HEADS, HeadWeights, weigh_heads
from hilbert_ray.model.hilbert import Embeddings, Hilbert, ModelError, Prediction
from hilbert_ray.model.moe import effective_experts, load_balance_loss, router_z_loss
from hilbert_ray.model.network import Network, Output

__all__ = [
    "BOTH",
    "HEADS",
    "Embeddings",
    "HeadWeights",
    "Hilbert",
    "ModelError",
    "Network",
    "Output",
    "Prediction",
    "effective_experts",
    "load_balance_loss",
    "redundancy_penalty",
    "router_z_loss",
    "weigh_heads",
]
