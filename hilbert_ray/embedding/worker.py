"""The encoder actor: what embeds the documents of units."""

import platform
from collections.abc import Iterator, Sequence
from functools import partial

from hilbert_ray.cluster import given_device
from hilbert_ray.config import BUILTIN_ENCODERS, MODALITIES, Config, Modality, encoder_parts
from hilbert_ray.embedding.features import encode_parts
from hilbert_ray.embedding.reading import Piece, PieceReader
from hilbert_ray.encoders import Encoder, build_encoder
from hilbert_ray.store import Content, FeatureRow, Quarantined
from hilbert_ray.units import DocumentProgress, DocumentWithPart, UnitWorker, model_error


class EmbedUnits(UnitWorker[Piece]):
    """An encoder actor: loads its encoders once, then embeds unit after unit."""

    title, done = "embedding {} recordings and transcripts", "embedded"
    libraries = ("numpy", "onnxruntime", "soundfile", "soxr", "torch", "torchaudio", "transformers")

    def build(self) -> None:
        """Make the encoders of the modalities that the units are of."""
        self.encoders: dict[Content, Encoder] = {}
        self.encoders |= {m: encoder_here(self.config, m) for m in MODALITIES if m in self.fingerprints}

    def find_fault(self) -> str | None:
        """Return what is wrong if the encoders are not those of the plan, or do not load."""
        for content, encoder in self.encoders.items():
            planned = self.fingerprints[content]
            if encoder.fingerprint != planned:
                return (
                    f"{content} encoder {encoder.name} has fingerprint {encoder.fingerprint} on node "
                    f"{platform.node()}, but the run was planned with {planned}; features of both must not "
                    "mix: install the same weights and versions on every node"
                )
            if (error := loading_error(encoder)) is not None:
                return error
        return None

    def reader(self, content: Content) -> PieceReader:
        """Return what reads a modality for its encoder."""
        encoder = self.encoders[content]
        return PieceReader.of(encoder.modality, encoder, self.config)

    def rows(
        self,
        content: Content,
        documents: Sequence[DocumentProgress],
        parts: Iterator[DocumentWithPart[Piece]],
    ) -> tuple[list[FeatureRow], list[Quarantined]]:
        """Return the features of documents, see `encode_parts`."""
        return encode_parts(documents, parts, self.encoders[content], self.config)


def loading_error(encoder: Encoder) -> str | None:
    """Return what keeps an encoder from loading its libraries and weights here, None if nothing does."""
    return model_error(f"{encoder.modality} encoder {encoder.name}", partial(encoder.encode, []))


def configured_encoder(config: Config, modality: Modality, device: str = "cpu") -> Encoder:
    """Return the encoder that the settings name for a modality, to compute on a device."""
    choice = config.encoder(modality)
    return build_encoder(choice.spec, modality, choice.options, config.segment, device)


def encoder_here(config: Config, modality: Modality) -> Encoder:
    """Return the encoder that the settings name, to compute on the device that Ray gave this process.

    Raises:
        ClusterError: when Ray gave a GPU that torch does not find.
    """
    # Built-in encoders compute on the CPU, also on a node whose torch is made for nothing else.
    is_builtin = set(encoder_parts(config.encoder(modality).spec)) <= set(BUILTIN_ENCODERS[modality])
    return configured_encoder(config, modality, "cpu" if is_builtin else given_device())
