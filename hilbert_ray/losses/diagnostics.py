"""What the log shows in addition to the terms: information, its saturation, and a control of CKA."""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from hilbert_ray.losses.contrast import ContrastiveScale, information
from hilbert_ray.losses.structure import MINIMUM, cka


@torch.no_grad()
def embedding_diagnostics(
    audio: Tensor,
    text: Tensor,
    joint: Tensor,
    scale: ContrastiveScale,
    *,
    audio_present: Bool[Tensor, " batch"] | None = None,
    text_present: Bool[Tensor, " batch"] | None = None,
    minimum: int = MINIMUM,
) -> dict[str, float]:
    """Return figures on embeddings [B, D] that tell whether the terms on embeddings have a signal.

    rows_audio, rows_text, rows_both: documents that the terms saw; with fewer than 2 (NCE, balance) or
        `minimum` (CKA) a term was 0.
    information_audio, information_text: I_a and I_t of the balance loss, nats; absent below 2 rows.
    saturation_audio, saturation_text: I_m / log B; both near 1 means that balance has no signal.
    cka_audio, cka_text: CKA with the joint embedding, unbiased and linear; absent below `minimum` rows.
    cka_shuffled_audio, cka_shuffled_text: the same with documents paired wrongly, a control that should be
        near 0.
    """
    everyone = torch.ones(len(joint), dtype=torch.bool, device=joint.device)
    audio_rows = everyone if audio_present is None else audio_present
    text_rows = everyone if text_present is None else text_present
    both = audio_rows & text_rows
    figures: dict[str, float] = {"rows_both": int(both.sum())}
    for name, x, rows in (("audio", audio, audio_rows), ("text", text, text_rows)):
        figures[f"rows_{name}"] = count = int(rows.sum())
        if figures["rows_both"] >= 2:
            nats = float(information(x[both], joint[both], scale))
            figures[f"information_{name}"] = nats
            figures[f"saturation_{name}"] = nats / math.log(figures["rows_both"])
        if count >= minimum:
            figures[f"cka_{name}"] = float(cka(x[rows], joint[rows]))
            # Rolled by half, and not drawn: every document gets another, and no random state is used.
            figures[f"cka_shuffled_{name}"] = float(cka(x[rows], joint[rows].roll(count // 2, dims=0)))
    return figures
