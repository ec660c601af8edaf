"""Faults of a store as such; bytes that cannot be read or written are a plain `StorageError`."""

from hilbert_ray.storage import StorageError


class StoreError(StorageError):
    """A feature store that is absent, damaged, of another schema, or lacks what was requested of it."""


class DamagedError(StoreError):
    """A file of a store whose content is not what was written."""
