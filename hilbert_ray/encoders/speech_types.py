"""The types of speech encoders: for each model type of transformers, what `speech` must know of it.

A row says which network of a folder encodes, what prepares its input, where in time its hidden states lie,
how long its input may be, and whether a mask makes it independent of padding. A test proves each row against
transformers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from hilbert_ray.document import Samples
from hilbert_ray.encoders.loading import Part

Step: TypeAlias = tuple[int, int, int]
"""Kernel, stride and padding of what makes frames along time: a spectrogram, a convolution, a pooling."""
_KALDI: Step = (400, 160, 0)
"""A spectrogram of whole windows of 25 ms every 10 ms at 16 kHz."""


def frames_of(samples: Samples, steps: Sequence[Step]) -> int:
    """Return how many frames the steps make of an input."""
    length = samples
    for kernel, stride, padding in steps:
        length = max((length + 2 * padding - kernel) // stride + 1, 0)
    return length


def shortest_input(frames: int, steps: Sequence[Step]) -> Samples:
    """Return the shortest input of which the steps make this many frames."""
    length = frames
    for kernel, stride, padding in reversed(steps):
        length = (length - 1) * stride + kernel - 2 * padding
    return length


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechType:
    """A type of speech encoder. Functions take a model's configuration, or it and the feature extractor."""

    extractor: str | None
    """The class that prepares the input; None for any."""
    is_waveform: bool = False
    """Whether the network takes samples; else it takes a spectrogram."""
    steps: Callable[[Any, Any], Sequence[Step]]
    """What makes hidden states of samples, first to last."""
    adapter: Callable[[Any], Sequence[Step]] = lambda _: ()
    """What makes fewer frames of the last hidden state before it is the output."""
    upsampling: Callable[[Any], int] = lambda _: 1
    """How many frames a head is given for each hidden state."""
    adapter_is_inside: bool = False
    """Whether the last hidden state cannot be had: transformers gives the output in its place."""
    part: Part | None = None
    """The network, where folders of this type may hold more than the encoder."""
    config: str | None = None
    """The field of the configuration that describes the encoder; None if it is the configuration itself."""
    depth: str | None = "num_hidden_layers"
    """The field that counts the layers; None where only the output can be had."""
    default_layer: str = "all"
    """What `layer: auto` stands for."""
    width: Callable[[Any], int] = lambda config: config.hidden_size
    """The width of the output."""
    must_be_equal: Callable[[Any, Any], Mapping[str, tuple[int, int]]] = lambda *_: {}
    """By name, what the feature extractor makes and what the network takes."""
    length: Callable[[Any, Any], Samples] | None = None
    """The one length to which all input is filled up; None where any length is taken."""
    is_masked: Callable[[Any], bool] = lambda _: False
    """Whether the network takes a mask, which makes hidden states independent of padding."""
    special_tokens: int = 0
    """How many states stand before those of the frames, each for the whole segment."""
    arguments: Callable[[int], Mapping[str, Any]] = lambda _: {}
    """What else the network takes, for a batch of this size."""


def _adapted_width(config: Any) -> int:  # noqa: ANN401 - transformers has a class for each type
    width = getattr(config, "output_hidden_size", None) if getattr(config, "add_adapter", False) else None
    return int(width or config.hidden_size)


def _adapter(kernel: str, stride: str, padding: int | None) -> Callable[[Any], Sequence[Step]]:
    """Return the steps of an adapter by the names of its fields; a padding of None is half the kernel."""

    def steps(config: Any) -> Sequence[Step]:  # noqa: ANN401
        if not getattr(config, "add_adapter", False):
            return ()
        size = getattr(config, kernel)
        step = (size, getattr(config, stride), size // 2 if padding is None else padding)
        return [step] * config.num_adapter_layers

    return steps


def _halvings(config: Any) -> Sequence[Step]:  # noqa: ANN401
    """Return the convolutions of Parakeet that thin out time."""
    kernel, stride = config.subsampling_conv_kernel_size, config.subsampling_conv_stride
    return [(kernel, stride, (kernel - 1) // 2)] * (config.subsampling_factor.bit_length() - 1)


def _part(network: str, prefix: str) -> Part:
    return Part(network=network, prefix=rf"^(model\.|speecht5\.)?{prefix}\.")


# Group norm takes its statistics over padded time too, and the positional convolutions of data2vec see
# padding: such networks take no mask, and only segments of exactly equal length share a batch.
_WAVEFORM = SpeechType(
    extractor="Wav2Vec2FeatureExtractor",
    is_waveform=True,
    steps=lambda c, _: [(k, s, 0) for k, s in zip(c.conv_kernel, c.conv_stride, strict=True)],
    adapter=_adapter("adapter_kernel_size", "adapter_stride", 1),
    width=_adapted_width,
)
_SEW = replace(
    _WAVEFORM,
    steps=lambda c, e: [*_WAVEFORM.steps(c, e), (c.squeeze_factor, c.squeeze_factor, 0)],
    upsampling=lambda c: c.squeeze_factor,
)
_PADDABLE_WAVEFORM = replace(
    _WAVEFORM, is_masked=lambda c: getattr(c, "feat_extract_norm", "group") == "layer"
)
_SEAMLESS = SpeechType(
    extractor="SeamlessM4TFeatureExtractor",
    # Neighbouring frames are stacked; one that is left over is masked.
    steps=lambda _, e: [_KALDI, (e.stride, e.stride, 0)],
    adapter=_adapter("adaptor_kernel_size", "adaptor_stride", None),
    adapter_is_inside=True,
    depth="speech_encoder_layers",
    must_be_equal=lambda c, e: {
        "values per frame": (e.num_mel_bins * e.stride, c.feature_projection_input_dim)
    },
    is_masked=lambda _: True,
)
_W2V_BERT = replace(
    _SEAMLESS,
    adapter=_adapter("adapter_kernel_size", "adapter_stride", None),
    adapter_is_inside=False,
    depth="num_hidden_layers",
    width=_adapted_width,
)
_PARAKEET = SpeechType(
    extractor="ParakeetFeatureExtractor",
    # Windows are centred, and only those count that begin a whole hop.
    steps=lambda c, e: [(e.hop_length, e.hop_length, 0), *_halvings(c)],
    part=_part("parakeet.modeling_parakeet:ParakeetEncoder", "encoder"),
    config="encoder_config",
    must_be_equal=lambda c, e: {"mel bins": (e.feature_size, c.num_mel_bins)},
    is_masked=lambda _: True,
)
_LASR = replace(
    _PARAKEET,
    extractor="LasrFeatureExtractor",
    steps=lambda c, e: [
        (e.win_length, e.hop_length, 0),
        *[(c.subsampling_conv_kernel_size, c.subsampling_conv_stride, 0)] * 2,
    ],
    part=_part("lasr.modeling_lasr:LasrEncoder", "encoder"),
)
_WHISPER = SpeechType(
    extractor="WhisperFeatureExtractor",
    # Windows are centred, and those count that the audio covers in part.
    steps=lambda _, e: [(1, e.hop_length, 0), (3, 1, 1), (3, 2, 1)],
    part=_part("whisper.modeling_whisper:WhisperEncoder", "encoder"),
    depth="encoder_layers",
    must_be_equal=lambda c, e: {
        "mel bins": (e.feature_size, c.num_mel_bins),
        "frames": (e.nb_max_frames, 2 * c.max_source_positions),
    },
    length=lambda _, e: e.n_samples,
)
_QWEN2_AUDIO = replace(
    _WHISPER,
    adapter=lambda _: [(2, 2, 0)],
    adapter_is_inside=True,
    part=_part("qwen2_audio.modeling_qwen2_audio:Qwen2AudioEncoder", "audio_tower"),
    config="audio_config",
)
_VOXTRAL = replace(
    _WHISPER,
    part=_part("voxtral.modeling_voxtral:VoxtralEncoder", "audio_tower"),
    config="audio_config",
    depth="num_hidden_layers",
)
_CLAP = SpeechType(
    extractor="ClapFeatureExtractor",
    # Shorter audio is repeated until it fills the input, so all states are states of audio.
    steps=lambda *_: (),
    part=_part("clap.modeling_clap:ClapAudioModel", "audio_model"),
    config="audio_config",
    depth=None,  # widths differ
    default_layer="last",
    width=lambda c: c.patch_embeds_hidden_size * 2 ** (len(c.depths) - 1),
    must_be_equal=lambda c, e: {"mel bins": (e.feature_size, c.num_mel_bins)},
    length=lambda _, e: e.nb_max_samples,
    # The extractor would mark one segment of each batch, at random, as longer than the network takes.
    arguments=lambda size: {"is_longer": torch.zeros((size, 1), dtype=torch.bool)},
)

SPEECH_TYPES: Mapping[str, SpeechType] = {
    "wav2vec2": _PADDABLE_WAVEFORM,
    "hubert": _PADDABLE_WAVEFORM,
    "wavlm": _PADDABLE_WAVEFORM,
    "data2vec-audio": _WAVEFORM,
    "wav2vec2-conformer": _WAVEFORM,
    "unispeech": _WAVEFORM,
    "unispeech-sat": _WAVEFORM,
    "sew": _SEW,
    "sew-d": _SEW,
    "speecht5": replace(
        _WAVEFORM,
        extractor="SpeechT5FeatureExtractor",
        part=_part("speecht5.modeling_speecht5:SpeechT5EncoderWithSpeechPrenet", "encoder"),
        depth="encoder_layers",
    ),
    "moonshine": replace(
        _WAVEFORM,
        steps=lambda *_: [(127, 64, 0), (7, 3, 0), (3, 2, 0)],
        part=_part("moonshine.modeling_moonshine:MoonshineEncoder", "encoder"),
        depth="encoder_num_hidden_layers",
    ),
    "wav2vec2-bert": _W2V_BERT,
    "seamless_m4t": replace(
        _SEAMLESS, part=_part("seamless_m4t.modeling_seamless_m4t:SeamlessM4TSpeechEncoder", "speech_encoder")
    ),
    "seamless_m4t_v2": replace(
        _SEAMLESS,
        part=_part("seamless_m4t_v2.modeling_seamless_m4t_v2:SeamlessM4Tv2SpeechEncoder", "speech_encoder"),
    ),
    "speech_to_text": SpeechType(
        extractor="Speech2TextFeatureExtractor",
        steps=lambda c, _: [_KALDI, *((kernel, 2, kernel // 2) for kernel in c.conv_kernel_sizes)],
        part=_part("speech_to_text.modeling_speech_to_text:Speech2TextEncoder", "encoder"),
        depth="encoder_layers",
        must_be_equal=lambda c, e: {
            "mel bins": (e.num_mel_bins, c.input_feat_per_channel * c.input_channels)
        },
    ),
    "parakeet_ctc": _PARAKEET,
    "parakeet_rnnt": _PARAKEET,
    "parakeet_tdt": _PARAKEET,
    "parakeet_encoder": replace(_PARAKEET, config=None),
    "lasr_ctc": _LASR,
    "lasr_encoder": replace(_LASR, config=None),
    "whisper": _WHISPER,
    "qwen2_audio": _QWEN2_AUDIO,
    "qwen2_audio_encoder": replace(_QWEN2_AUDIO, config=None),
    "voxtral": _VOXTRAL,
    "voxtral_encoder": replace(_VOXTRAL, config=None),
    "audio-spectrogram-transformer": SpeechType(
        extractor="ASTFeatureExtractor",
        steps=lambda c, _: [_KALDI, (c.patch_size, c.time_stride, 0)],
        must_be_equal=lambda c, e: {
            "mel bins": (e.num_mel_bins, c.num_mel_bins),
            "frames": (e.max_length, c.max_length),
        },
        length=lambda c, _: shortest_input(c.max_length, [_KALDI]),
        special_tokens=2,
    ),
    "clap": _CLAP,
    "clap_audio_model": replace(_CLAP, config=None),
}
"""By model type."""

REMOTE_CODE = SpeechType(
    extractor=None,
    # Whatever the code computes, it should need no more than a tenth of a second for it.
    steps=lambda _, e: [(e.sampling_rate // 10, 1, 0)],
    width=lambda c: getattr(c, "hidden_size", None) or c.embed_dim,
    default_layer="last",  # the code may return its output alone
)
"""A type that comes as code with its weights: any length, unpadded, all states are of frames."""
