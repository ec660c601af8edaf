"""hilbert_ray: document embeddings of long recordings and their transcripts, trained on Ray.

One function per step, one class per thing; each loads its module when first used, so that importing this
package costs nothing. `docs/architecture.md` says where everything lives.
"""

from typing import TYPE_CHECKING

from hilbert_ray.lazy import lazy_names
from hilbert_ray.version import __version__

if TYPE_CHECKING:
    from hilbert_ray.config import Config
    from hilbert_ray.document import Document
    from hilbert_ray.embedding import embed
    from hilbert_ray.errors import HilbertError
    from hilbert_ray.evaluation import evaluate
    from hilbert_ray.features import open_dataset
    from hilbert_ray.model import Hilbert
    from hilbert_ray.prediction import predict
    from hilbert_ray.reporting import report
    from hilbert_ray.store import Store
    from hilbert_ray.training import train
    from hilbert_ray.transcription import transcribe
    from hilbert_ray.tuning import tune
    from hilbert_ray.validation import validate

__all__ = [
    "Config",
    "Document",
    "Hilbert",
    "HilbertError",
    "Store",
    "__version__",
    "embed",
    "evaluate",
    "open_dataset",
    "predict",
    "report",
    "train",
    "transcribe",
    "tune",
    "validate",
]

__getattr__ = lazy_names(
    __name__,
    {
        "config": ("Config",),
        "document": ("Document",),
        "embedding": ("embed",),
        "errors": ("HilbertError",),
        "evaluation": ("evaluate",),
        "features": ("open_dataset",),
        "model": ("Hilbert",),
        "prediction": ("predict",),
        "reporting": ("report",),
        "store": ("Store",),
        "training": ("train",),
        "transcription": ("transcribe",),
        "tuning": ("tune",),
        "validation": ("validate",),
    },
)
