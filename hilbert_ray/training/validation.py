"""The loss on documents that a network is not trained on, which says when to stop early."""

import numpy as np
import torch

from hilbert_ray import losses
from hilbert_ray.config import Config
from hilbert_ray.features import Features, collate, documents_of_rank, eval_batches
from hilbert_ray.model import Network
from hilbert_ray.training import distributed


@torch.no_grad()
def validation_loss(network: Network, features: Features, indices: np.ndarray, config: Config) -> float:
    """Return the sum over tasks of the mean loss of the documents at `indices`, without dropout.

    All ranks must call it with the same documents, which they divide; it returns the same on each. It leaves
    the network in evaluation mode.
    """
    # Ranks divide the documents; every one of them reaches the reduction below, even one without documents.
    own = documents_of_rank(indices, distributed.rank(), distributed.world_size())
    network.eval()
    device = network.logit_scale.device
    # Sums and counts, not means of batches: batches differ in size and in how many documents are labelled.
    sums = {name: torch.zeros(2, device=device) for name in config.tasks}
    for at in eval_batches(len(own), features.lengths[own]):
        batch = collate(features, own[at]).to(device)
        logits = network(batch).logits
        for name, task in config.tasks.items():
            loss, count = losses.task_loss(task, logits[name], batch.targets[name], network.labels[name])
            sums[name] += torch.stack([loss, torch.as_tensor(count, dtype=loss.dtype, device=device)])
    return sum(float(distributed.global_mean(loss, count)) for loss, count in sums.values())
