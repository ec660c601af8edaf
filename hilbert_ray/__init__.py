"""hilbert_ray: document embeddings of long recordings and their transcripts, trained on Ray.

Importing this package loads nothing heavy; the names below load their module when first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Config", "Document", "Hilbert", "Store", "__version__"]

if TYPE_CHECKING:
    from hilbert_ray.config import Config
    from hilbert_ray.document import Document
    from hilbert_ray.model import Hilbert
    from hilbert_ray.store import Store

_HOMES = {"Config": "config", "Document": "document", "Hilbert": "model", "Store": "store"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type depends on the name
    """Load a public class on first use, so that `import hilbert_ray` stays instant."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'hilbert_ray' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    from importlib import import_module

    return getattr(import_module(f"hilbert_ray.{_HOMES[name]}"), name)
