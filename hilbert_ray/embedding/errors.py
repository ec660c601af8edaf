"""What ends a run of `embed`; a document that fails is quarantined instead, and the run continues."""

from hilbert_ray.errors import HilbertError


class EmbedError(HilbertError, RuntimeError):
    """A run that cannot continue: no document, a store that cannot be written, workers that keep dying."""

    exit_code = 1


class TooManyQuarantinedError(EmbedError):
    """More documents failed than `embed.max_quarantined` allows."""
