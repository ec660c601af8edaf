"""Faults of a store as such; bytes that cannot be read or written are a plain `StorageError`."""

from collections.abc import Mapping

from hilbert_ray.storage import StorageError

FILLING = "`embed` (`transcribe` for transcripts)"
"""Which command writes again what a store has lost, for messages."""


class StoreError(StorageError):
    """A feature store that is absent, damaged, of another schema, or lacks what was requested of it."""


class PendingError(StoreError):
    """Documents that the manifest has and the store neither holds nor refused: `embed` has not finished."""

    exit_code = 2

    def __init__(self, store: str, pending: Mapping[str, int], documents: int) -> None:
        """Say how many documents are pending in each modality.

        Args:
            store: path or URI of the store.
            pending: number of documents by modality; those of 0 are not named.
            documents: of the newest manifest.
        """
        counts = " and ".join(f"{count} have {what} that" for what, count in pending.items() if count)
        super().__init__(
            f"store {store} is not complete: of {documents} documents, {counts} is not embedded yet; rerun "
            "`hilbert-ray embed` with the same manifest to finish, or pass --allow-pending to go on as if "
            "they had none"
        )
