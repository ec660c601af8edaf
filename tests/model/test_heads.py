"""Weighted heads against plain sums, with both modalities and with one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import ConfigError
from hilbert_ray.model.heads import BOTH, HeadWeights, describe_heads, modalities_of, weigh_heads

HAS_AUDIO = torch.tensor([True, True, False, False])
HAS_TEXT = torch.tensor([True, False, True, False])
WEIGHTS = {
    BOTH: HeadWeights(
        experts=0.5, audio=2.5, text=0.0, temperature=2.0, offsets=(0.25,), labels=30, cases=12
    ),
    "audio": HeadWeights(experts=0.4, audio=1.6, text=0.0, temperature=4.0, labels=30, cases=2),
}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), outputs=st.integers(1, 4))
def test_evidence_is_the_weighted_sum_of_scores_and_thresholds_over_the_temperature(
    seed: int, outputs: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(4, 3, outputs))
    scores[~HAS_AUDIO.numpy(), 1] = scores[~HAS_TEXT.numpy(), 2] = 0.0
    rest = rng.normal(size=(4, outputs))
    evidence = torch.from_numpy(scores.sum(1) + rest)
    actual = weigh_heads(evidence, torch.from_numpy(scores), WEIGHTS, HAS_AUDIO, HAS_TEXT)
    expected = np.stack([
        (0.5 * scores[0, 0] + 2.5 * scores[0, 1] + rest[0]) / 2.0 + 0.25,
        (0.4 * scores[1, 0] + 1.6 * scores[1, 1] + rest[1]) / 4.0,
        scores[2].sum(0) + rest[2],  # nothing is fitted for text alone
        scores[3].sum(0) + rest[3],
    ])  # fmt: skip
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_one_score_of_an_ordinal_task_moves_all_its_cuts() -> None:
    scores = torch.tensor([[[1.0], [2.0], [4.0]]])
    evidence = scores.sum(1) - torch.tensor([[-1.0, 0.5]])  # thresholds
    yes = torch.tensor([True])
    actual = weigh_heads(evidence, scores, {BOTH: HeadWeights(experts=2.0, audio=1.0, text=0.0)}, yes, yes)
    assert actual.tolist() == [[5.0, 3.5]]


def test_each_logit_has_its_offset() -> None:
    scores, yes = torch.zeros(1, 3, 2), torch.tensor([True])
    weights = {BOTH: HeadWeights(temperature=4.0, offsets=(1.0, -2.0))}
    assert weigh_heads(torch.tensor([[4.0, 8.0]]), scores, weights, yes, yes).tolist() == [[2.0, 0.0]]
    with pytest.raises(ConfigError, match=r"heads\.offsets is nan, which is not a finite number"):
        HeadWeights(offsets=(float("nan"),))


def test_each_document_is_of_one_kind_or_has_nothing() -> None:
    kinds = modalities_of(HAS_AUDIO, HAS_TEXT)
    assert torch.stack(list(kinds.values())).sum(0).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("change", [{"audio": -0.1}, {"text": 3.1}, {"temperature": 0.0}, {"labels": -1}])
def test_weights_out_of_bounds_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(change))} is {next(iter(change.values()))}"):
        HeadWeights(**change)  # type: ignore[arg-type]


def test_a_card_says_on_how_few_labels_weights_rest() -> None:
    text = describe_heads(WEIGHTS, has_classes=True)
    assert "both: experts 0.50, audio 2.50, text 0.00, temperature 2.00, from 30 labelled documents;" in text
    assert text.endswith("only 2 of the rarest class, so take probabilities as rough")
    assert "rarest" not in describe_heads(WEIGHTS, has_classes=False)
    assert "not calibrated" in describe_heads({BOTH: HeadWeights()}, has_classes=True)
    assert "not calibrated" in describe_heads({}, has_classes=True)
