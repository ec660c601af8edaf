"""What ends a run over units; a document that fails is quarantined instead, and the run continues."""

from collections import Counter
from collections.abc import Sequence

from hilbert_ray.errors import HilbertError
from hilbert_ray.store import Quarantined


class UnitsError(HilbertError, RuntimeError):
    """A run that cannot continue: no document, a store that cannot be written, workers that keep dying."""

    exit_code = 1


class TooManyQuarantinedError(UnitsError):
    """More documents failed than `embed.max_quarantined` allows."""


def check_quarantined(
    having: str, quarantined: Sequence[Quarantined], documents: int, max_quarantined: float
) -> None:
    """Refuse a store too many of whose documents are quarantined, whichever run did it.

    Of few documents one may fail, whatever share of them it is, unless `max_quarantined` is 0 or it is the
    only one.

    Args:
        having: what the documents have, such as `audio`.
        quarantined: documents that are quarantined now.
        documents: how many have it.
        max_quarantined: the fraction of them that may be.

    Raises:
        TooManyQuarantinedError: with the reasons and how often each occurs.
    """
    failed = len(quarantined)
    allowed = max(max_quarantined * documents, 1 if max_quarantined > 0 and documents > 1 else 0)
    if failed <= allowed:
        return
    reasons = Counter(failure.error for failure in quarantined)
    example = quarantined[0]
    raise TooManyQuarantinedError(
        f"{failed} of {documents} documents with {having} are quarantined "
        f"({', '.join(f'{count} {error}' for error, count in reasons.most_common())}), more than "
        f"embed.max_quarantined = {max_quarantined:g} allows; for example {example.doc_id}: "
        f"{example.message}. All others are stored: fix or remove these documents and rerun "
        "(embed.retry_quarantined tries the same files again), or raise embed.max_quarantined to go on "
        "without them"
    )
