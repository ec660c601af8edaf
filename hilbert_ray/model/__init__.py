"""The assembled network: three document embeddings and the logits of each task.

`Network` is what one seed trains; `Hilbert` holds the networks of all seeds with their temperature, and is
what `from_pretrained` gives a user. Both read a `Batch` and return an `Output`.
"""

from hilbert_ray.model.hilbert import Embeddings, Hilbert, ModelError, Prediction
from hilbert_ray.model.network import Network, Output

__all__ = ["Embeddings", "Hilbert", "ModelError", "Network", "Output", "Prediction"]
