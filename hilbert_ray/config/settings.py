"""Settings: one frozen dataclass for each component, nested in `Config`.

A field's docstring is its help text (tyro prints it); its annotation declares its bounds or choices, which
`constraints.check_fields` checks. `__post_init__` adds only what an annotation cannot say, above all rules
that join several fields.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from hilbert_ray.config.channels import parse_channels
from hilbert_ray.config.columns import check_columns
from hilbert_ray.config.constraints import LEAST_SHARE, ConfigError, check_fields, require, require_share
from hilbert_ray.config.encoders import check_encoder
from hilbert_ray.config.layers import is_layer_range, layer_range
from hilbert_ray.config.reading import from_dict, load_file
from hilbert_ray.config.search import TuneConfig

TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]
Imbalance = Literal["none", "class_balanced", "logit_adjustment", "focal"]
Modality = Literal["audio", "text"]
# In this order everywhere: in tables and messages, and in the concatenated embeddings of saved networks.
MODALITIES: tuple[Modality, Modality] = ("audio", "text")
ASR_ENGINES = ("hf:<id or folder>[@revision]", "faster-whisper:<id or folder>")
SHORTEST_S = 0.001
"""Lower bound of windows, hops and segments, in seconds: shorter than a frame of any encoder. With far
shorter ones, cutting would never end."""
WEEK_S = 604_800.0
"""Upper bound of every length of audio, in seconds: longer than any recording, so that with such a window
each recording is one segment."""


# Rules for all classes below. Frozen, with tuples for lists: a hash of the settings names features and
# checkpoints, so settings that changed later would be filed under the wrong name. Keyword-only: a new field
# must not shift the meaning of positions. Where nothing else sets an upper bound, it is beyond any sensible
# experiment: it catches a slip, such as a seed typed as a number of epochs, before it costs days or all
# memory.
@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """How a document is cut into segments."""

    audio: Literal["window", "pause", "turns"] = "window"
    """Where audio is cut: into windows of equal length, at pauses in speech, or at the transcript's turns."""
    # Equal by default: no second of audio counts twice.
    window_s: Annotated[float, Meta(ge=SHORTEST_S, le=WEEK_S)] = 10.0
    """Length of a window in seconds."""
    hop_s: Annotated[float, Meta(ge=SHORTEST_S, le=WEEK_S)] = 10.0
    """Seconds between the starts of consecutive windows; at most window_s."""
    # Speech may go without a pause for many minutes, and attention costs the square of a segment's length.
    max_s: Annotated[float, Meta(ge=SHORTEST_S, le=WEEK_S)] = 30.0
    """Longest segment with `pause` and `turns`, in seconds."""
    target_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Merge consecutive short utterances or sentences up to this many tokens. 0: no merging."""
    roles: tuple[str, ...] = ()
    """Keep only the utterances of these speakers (and, where times are known, their audio). Default: all."""
    channels: str | Mapping[str, str] = "mix"
    """Channels of a recording: `mix` (their mean), `left`, `right`, `loudest`, or the speaker of each, as in
    `0=agent,1=customer`: each is then cut by itself, and `roles` choose among them. A manifest's
    own `channels` goes before it."""

    def __post_init__(self) -> None:
        check_fields(self, "segment")
        try:
            # One spelling for each choice, since fingerprints depend on it.
            object.__setattr__(self, "channels", str(parse_channels(self.channels)))
        except ConfigError as error:
            raise ConfigError(f"segment.{error}") from None
        require(
            self.hop_s <= self.window_s,
            f"segment.hop_s is {self.hop_s} and segment.window_s is {self.window_s}: a hop above the window "
            "would drop the audio between windows; set hop_s to at most window_s",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Options of a transformers encoder (`hf:...`); the built-in encoders take none."""

    layer: str = "auto"
    """Hidden layers to read features from: `all`, each of which then gets a weight in training, `last`, an
    index such as `9`, or a range such as `6:12` (its mean). `auto`: `all` for speech models whose hidden
    states are of one width, `last` for text and for models of any other kind."""
    pooling: Literal["auto", "mean", "mean_std", "cls", "last"] = "auto"
    """How the frames or tokens of a segment are pooled into one vector. `auto`: as a text model's folder
    declares (sentence-transformers), with the projections and the prompt that it declares; without such a
    declaration, the last token of causal language models, and the mean."""
    context: Literal["segment", "fill"] = "segment"
    """What an audio encoder with an input of one length hears (Whisper: 30 s): `segment`, each segment alone
    in an input of its own; `fill`, consecutive segments together, as many as fit, each pooled over its own
    time: a third of the work with windows of 10 s, but features that also tell the place in the input."""
    prefix: str = "auto"
    """What precedes each segment of text, such as `passage: `; it is not counted as its words. `auto`: the
    default prompt that the folder declares, if pooling is `auto` too, else nothing."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the encoder. `auto`: bf16 where it is faster (GPUs from Ampere on, CPUs with AMX, AMD's
    with avx512_bf16), else float32."""
    # Never read from a published model: whoever made it must not decide what runs on this machine.
    trust_remote_code: bool = False
    """Run the Python code that comes with the weights. Off by default: such code can do anything."""

    def __post_init__(self) -> None:
        check_fields(self, "encoder")
        # Only the syntax: how many layers there are is known once the weights are loaded.
        require(
            self.layer in ("auto", "last", "all") or is_layer_range(self.layer),
            f"encoder layer is {self.layer!r}; set it to `auto`, `last`, `all`, an index such as `9`, or a "
            "range such as `6:12`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderChoice:
    """The encoder of one modality: its name as in the settings (`mfcc`, `hf:...`, `none`) and its options."""

    spec: str
    options: EncoderConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """How documents are streamed through the encoders, or the recogniser of `transcribe`."""

    workers: Annotated[int, Meta(ge=0, le=100_000, description="0: automatic")] = 0
    """Number of encoder or recogniser actors. 0: one per GPU, or one per two CPUs if there is no GPU."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """Whether these actors, and the network in `predict`, use GPUs. `auto`: if the cluster has any now. An
    autoscaling cluster does not report its maximum size: set this to `yes` and set embed.workers."""
    gpus_per_worker: Annotated[float, Meta(ge=LEAST_SHARE, le=64)] = 1.0
    """GPUs per actor, where GPUs are used; with a fraction, several actors share one GPU."""
    # Threads split a sum of float32 numbers, and its rounding depends on where it is split.
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    """Torch threads per actor on CPUs. Recorded, because features are reproducible to the bit only with the
    same number."""
    decoders: Annotated[int, Meta(ge=0, le=10_000, description="0: none")] = 8
    """Most Ray tasks, on any node, that decode ahead for an actor whose own thread cannot keep up. 0: only
    the actor itself decodes."""
    # Longer units lose more work with a worker; shorter ones write more files and cut more batches short.
    unit_s: Annotated[float, Meta(gt=0, le=WEEK_S)] = 1800.0
    """Seconds of audio in one unit of work: the most that has to be redone when a worker is lost. For text,
    the words of eight times as much speech."""
    # Some broken files are normal among thousands; a systematic fault, such as a wrong folder, breaks all of
    # them and should stop the run early.
    max_quarantined: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """Fraction of the documents with a modality that may be quarantined, always at least one document; with
    more, the command fails, on reruns too. It stops early after 20 failures. 0: none may fail; 1: all may."""
    retry_quarantined: bool = False
    """Retry documents that an earlier run quarantined."""
    content_hash: bool = False
    """Identify local audio by SHA-256 instead of size and modification time: slower, but survives copying."""
    # A document's bucket is the hash of its id modulo this number: with another number, nothing that is
    # stored would be found.
    buckets: Annotated[int, Meta(ge=1, le=65_536)] = 256
    """Number of buckets of a new store; cannot be changed afterwards."""

    def __post_init__(self) -> None:
        check_fields(self, "embed")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecognitionConfig:
    """Options of the recogniser that `transcribe` uses."""

    language: str = "auto"
    """Language of the recordings, a code such as `en`. `auto`: detected once per document, where the model
    knows several."""
    precision: Literal["auto", "float32", "bf16", "int8"] = "auto"
    """Arithmetic of the recogniser. `auto`: int8 for `faster-whisper:` on CPUs; else bf16 where it is faster
    (GPUs from Ampere on, CPUs with AMX, AMD's with avx512_bf16), else float32. int8 is for `faster-whisper:`
    only."""

    def __post_init__(self) -> None:
        check_fields(self, "recognition")
        require(
            self.language.isascii() and self.language.isalpha() and self.language.islower(),
            f"recognition.language is {self.language!r}; set it to `auto` or to a code such as `en`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and parts of the network: fusion, pooling, wide paths, heads."""

    # Even, because half of the dimensions encode a segment's time as sines, half as cosines.
    dim: Annotated[int, Meta(ge=2, le=65_536, multiple_of=2)] = 64
    """Width of the network and of the document embeddings; even."""
    layers: Annotated[int, Meta(ge=0, le=1000)] = 1
    """Number of cross-modal fusion layers. 0: no fusion (an ablation)."""
    heads: Annotated[int, Meta(ge=1, le=65_536)] = 4
    """Attention heads per fusion layer; must divide dim."""
    hops: Annotated[int, Meta(ge=1, le=1000)] = 2
    """Number of hops of self-attentive pooling."""
    wide: bool = True
    """Feed the mean and standard deviation of the frozen features directly into the embeddings (wide
    paths)."""
    unimodal_heads: bool = True
    """Add the logits of small heads on the audio and the text embedding to those of the experts."""
    # Below 1: what remains is scaled by 1 / (1 - dropout). Strong by default, since small data has hundreds
    # of documents for features of more dimensions; the last two hide inputs, so that the network also copes
    # with gaps and with a missing modality.
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.4
    """Dropout in heads and feed-forward blocks."""
    wide_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.8
    """Dropout on the wide paths."""
    segment_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Fraction of segments hidden in training."""
    modality_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Fraction of documents with both modalities that lose one of them in training."""
    audio_layers: str = "all"
    """Which layers of audio features that were embedded with `layer: all` the network reads and weighs:
    `all`, an index such as `2`, or a range such as `1:3`."""
    text_layers: str = "all"
    """The same for text."""

    def __post_init__(self) -> None:
        check_fields(self, "model")
        for name in ("audio_layers", "text_layers"):
            value = getattr(self, name)
            require(
                value == "all" or is_layer_range(value),
                f"model.{name} is {value!r}; set it to `all`, an index such as `2`, or a range such as `1:3`",
            )
        require(
            self.dim % self.heads == 0,
            f"model.heads is {self.heads} and model.dim is {self.dim}: heads must divide dim",
        )

    def layers_of(self, modality: Modality, count: int) -> slice:
        """Return which of a modality's `count` layers the network reads; of one, that one.

        Raises:
            ConfigError: when the settings choose a layer beyond the last.
        """
        setting = f"{modality}_layers"
        value = getattr(self, setting)
        # With a single layer nothing can be chosen, and the setting may be meant for other features.
        value = "all" if count == 1 else value
        return layer_range(value, count, f"the {modality} encoder", f"model.{setting}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """The mixture of experts on the concatenated audio, text and joint embeddings."""

    kind: Literal["experts", "mlp"] = "experts"
    """Experts with one router per task, or a single MLP with as many hidden units (an ablation)."""
    experts: Annotated[int, Meta(ge=1, le=10_000)] = 4
    """Number of experts, shared by all tasks."""
    # With 1, the only gate is always 1 after renormalisation, so the task loss cannot train the router.
    top_k: Annotated[int, Meta(ge=1, le=10_000)] = 2
    """Number of experts used per document and task."""
    hidden_dim: Annotated[int, Meta(ge=1, le=65_536)] = 32
    """Hidden units per expert."""

    def __post_init__(self) -> None:
        check_fields(self, "moe")
        require(
            self.top_k <= self.experts,
            f"moe.top_k is {self.top_k} and moe.experts is {self.experts}: top_k must be from 1 to experts",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the loss terms (with the same names in logs and in the search space) and their variants."""

    # 0 switches a term off; below 0, it would be maximised. Losses are summed in float32, which has 7 digits:
    # beyond a weight of 1e6, the other terms would be lost in rounding.
    task: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    """Weight of the supervised task loss."""
    contrastive: Annotated[float, Meta(ge=0, le=1e6)] = 0.2
    """Weight of the contrastive loss; see `contrast`."""
    cka: Annotated[float, Meta(ge=0, le=1e6)] = 0.4
    """Weight of the CKA structure loss."""
    balance: Annotated[float, Meta(ge=0, le=1e6)] = 7.5
    """Weight of the mutual-information balance loss."""
    unimodal: Annotated[float, Meta(ge=0, le=1e6)] = 0.5
    """Weight of the task losses of the single-modality heads."""
    load_balance: Annotated[float, Meta(ge=0, le=1e6)] = 0.01
    """Weight of the experts' load-balance loss."""
    router_z: Annotated[float, Meta(ge=0, le=1e6)] = 0.001
    """Weight of the router z-loss."""
    redundancy: Annotated[float, Meta(ge=0, le=1e6)] = 0.001
    """Weight of the redundancy penalty of pooling."""
    contrast: Literal["reciprocal", "direct", "both"] = "both"
    """What the contrastive loss compares: audio and text each with the joint embedding (`reciprocal`, as
    published), audio with text (`direct`, as CLIP does), or the mean of the two."""
    group_negatives: bool = False
    """Use documents of the same group as negatives of each other."""
    # The biased estimator rises towards 1 where features outnumber a batch's documents, related or not.
    cka_estimator: Literal["unbiased", "biased"] = "unbiased"
    """HSIC estimator of the CKA loss; `biased` is for comparison only."""
    cka_kernel: Literal["linear", "rbf"] = "linear"
    """Kernel of the CKA loss; `rbf` uses the median distance as its bandwidth."""
    cka_reference: Literal["embedding", "features"] = "embedding"
    """What the joint embedding is compared with: the audio and text embeddings, or mean frozen features."""
    balance_gradient: Literal["both", "weaker"] = "both"
    """Which modality the balance loss trains: both, or only the one that carries less information."""
    balance_estimator: Literal["infonce", "smile"] = "infonce"
    """Estimator of mutual information in the balance loss."""
    # A higher threshold means less bias and more variance (Song and Ermon 2020).
    smile_clip: Annotated[float, Meta(ge=0.01, le=1000)] = 5.0
    """Clipping threshold (tau) of the SMILE estimator, in nats."""
    penalty: Literal["off_diagonal", "lin"] = "off_diagonal"
    """Redundancy penalty of pooling: the off-diagonal of A A^T, or ||A A^T - I||_F^2 as in Lin et al.
    (2017)."""

    # In the order in which terms are added, which decides how float32 sums are rounded: append, never
    # reorder.
    WEIGHTS: typing.ClassVar[tuple[str, ...]] = (
        "task", "contrastive", "cka", "balance", "unimodal", "load_balance", "router_z", "redundancy",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_fields(self, "loss")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """The training loop."""

    epochs: Annotated[int, Meta(ge=0, le=100_000)] = 20
    """Epochs of the joint (or classify) phase."""
    align_epochs: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Epochs of an align phase before it, which uses no labels."""
    finetune: bool = False
    """After an align phase, keep training the projections, fusion and pooling instead of freezing them."""
    batch_size: Annotated[
        int, Meta(ge=2, le=1_000_000, description="contrast needs at least 2 documents")
    ] = 32
    """Documents per global batch, over all ranks; an epoch over N documents has round(N / batch_size)
    batches."""
    micro_batch_size: Annotated[int, Meta(ge=0, le=1_000_000, description="0: off")] = 0
    """Documents whose activations a rank holds at once, so that a batch may exceed memory (gradient caching:
    every document is computed twice, loss and gradients stay the same). 0: the whole batch."""
    # AdamW moves each weight by about this much in a step: below 1e-9 nothing is learned, 1000 diverges.
    learning_rate: Annotated[float, Meta(ge=1e-9, le=1000)] = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Meta(ge=0, le=1000)] = 0.05
    """Weight decay of AdamW."""
    # Below 1, because the cosine needs a step to fall in.
    warmup: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Fraction of steps in which the learning rate rises; then it follows a cosine to 0."""
    # 1e30 turns clipping off: it is finite in float32, which ends at 3.4e38.
    clip_norm: Annotated[float, Meta(ge=1e-6, le=1e30)] = 1.0
    """Gradients are clipped to this norm."""
    patience: Annotated[int, Meta(ge=0, le=100_000, description="0: off")] = 5
    """Stop after this many epochs without a smaller loss on a held-out tenth of the groups, and keep the best
    weights. 0: train all epochs on all documents. With fewer than 1,000 labelled documents of a task, or 100
    groups of its rarest class, that is always so, because a handful of cases cannot show when to stop."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the network in training. `auto`: bf16 on GPUs, else float32. Losses are always
    float32."""
    seeds: Annotated[int, Meta(ge=1, le=1000)] = 3
    """Number of networks, trained from different seeds, whose logits are averaged."""
    # Below 1, because the average would never leave the initial weights.
    ema: Annotated[float, Meta(ge=0, lt=1, description="0: off")] = 0.0
    """Decay of an exponential moving average of the weights, such as 0.99; the average is validated and kept.
    It spans about 1 / (1 - decay) steps, and small data has few. 0: off."""
    memory_gib: Annotated[float, Meta(ge=0, le=1_048_576, description="0: automatic")] = 0.0
    """Hold features (float32) of up to this many GiB in memory. More are memory-mapped, with the same
    results, from a file in each node's temporary folder (TMPDIR, which must be on a disk). 0: an eighth of
    the memory of the machine that runs the command."""
    # 32 bits: NumPy's older generators, which Optuna uses, refuse more.
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    """Seed of all random numbers of a run."""

    def __post_init__(self) -> None:
        check_fields(self, "fit")
        require(
            self.epochs + self.align_epochs > 0,
            f"fit.epochs is {self.epochs} and fit.align_epochs is {self.align_epochs}: nothing would be "
            "trained; set one of them to 1 or more",
        )
        require(
            self.micro_batch_size <= self.batch_size,
            f"fit.micro_batch_size is {self.micro_batch_size} and fit.batch_size is {self.batch_size}: set "
            "micro_batch_size from 1 to batch_size, or to 0 (off)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldsConfig:
    """Repeated stratified group k-fold cross-validation."""

    folds: Annotated[int, Meta(ge=2, le=10_000)] = 5
    """Folds per repeat; each group is assigned to exactly one fold."""
    # A single assignment of few groups to folds moves a score by chance; repeats show by how much.
    repeats: Annotated[int, Meta(ge=1, le=10_000)] = 5
    """Repeats, each with another random assignment of groups to folds."""
    inner: Annotated[int, Meta(ge=0, le=10_000, description="0: off")] = 3
    """Inner folds on whose held-out predictions the weights of the heads, the temperature and offsets are
    fitted. 0: all heads count alike, the temperature is 1, and nothing is added."""
    stratify: str = ""
    """Task whose classes are spread evenly over the folds. Default: the task with the rarest class."""
    # Off: joining changes what a group is, which is for whoever knows the documents to decide.
    join_duplicates: bool = False
    """Make groups one whose documents are near duplicates of each other, in audio or in text."""
    # For comparison with other programs on the very same folds.
    file: str = ""
    """Read the folds from this Parquet file instead of drawing them."""
    cpus: Annotated[float, Meta(ge=LEAST_SHARE, le=10_000)] = 1.0
    """Logical CPUs per fold, which decides how many folds run at once; no result depends on it."""
    # At most 1: a fold trains a single network in a single process.
    gpus: Annotated[float, Meta(ge=0, le=1, description="a fold runs on at most one GPU")] = 0.0
    """GPUs per fold; with a fraction, several folds share one GPU. 0: CPUs only."""

    def __post_init__(self) -> None:
        check_fields(self, "folds")
        # A single inner fold would hold everything out and leave nothing to train on.
        require(self.inner != 1, "folds.inner is 1; it must be 0 (off) or at least 2")
        require_share("folds.gpus", self.gpus)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How `train` uses the cluster."""

    workers: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Number of DDP ranks. One is fastest for hundreds of short documents, and needs no Ray on a single
    machine; use several for many or long ones. Apart from dropout, the result does not depend on it."""
    gpu: bool = False
    """Train on one GPU per rank (NCCL) instead of on CPUs (gloo)."""
    cpus_per_worker: Annotated[float, Meta(ge=LEAST_SHARE, le=10_000)] = 1.0
    """Logical CPUs per rank, and its number of threads."""
    max_failures: Annotated[int, Meta(ge=0, le=100_000)] = 3
    """How many lost workers or nodes the run survives by resuming from its last checkpoint. A single rank
    without a cluster runs in the command itself: rerun it to resume."""
    # An epoch of small data takes less time than writing a checkpoint.
    checkpoint_epochs: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """Write a checkpoint every this many epochs."""
    # Not saved, because such a URI may hold a password, and run folders get shared.
    mlflow: str = ""
    """Log settings and the numbers of every epoch to this MLflow tracking URI, such as http://host:5000 or
    sqlite:////folder/mlflow.db (needs the extra `mlflow`). The URI is not saved with the run. Default:
    off."""

    def __post_init__(self) -> None:
        check_fields(self, "train")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """One thing to predict."""

    kind: TaskKind = "multiclass"
    """binary, multiclass, multilabel, ordinal or regression."""
    classes: tuple[str, ...] = ()
    """Class names: in rising order for ordinal, the positive one second for binary, none for regression."""
    imbalance: Imbalance = "logit_adjustment"
    """How imbalanced classes are treated; no effect on regression."""

    def __post_init__(self) -> None:
        check_fields(self, "task")
        if self.kind == "regression":
            require(
                not self.classes,
                f"a regression task has classes {list(self.classes)}; it predicts a number and has none",
            )
            return
        require(
            len(set(self.classes)) == len(self.classes),
            f"task classes {list(self.classes)} name a class twice",
        )
        # The labels of a multilabel task are separate yes-or-no questions, so one is enough.
        least = 1 if self.kind == "multilabel" else 2
        require(
            len(self.classes) >= least,
            f"a {self.kind} task has classes {list(self.classes)}; it needs at least {least}",
        )
        require(
            self.kind != "binary" or len(self.classes) == 2,
            f"a binary task has classes {list(self.classes)}; it needs exactly 2, the positive one second",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that a run depends on; saved as config.json in every run folder."""

    # Two fields per modality and not one record: flags and files stay as short as `--audio mfcc`.
    audio: str = "mfcc"
    """Audio encoder: `mfcc`, `prosody`, `hf:<id or folder>[@revision]`, several of them joined with `+`, or
    `none`."""
    text: str = "hashing"
    """Text encoder: `hashing`, `hf:<id or folder>[@revision]`, or `none`."""
    audio_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    asr: str = "none"
    """Recogniser of `transcribe`: `hf:<id or folder>[@revision]`, or `faster-whisper:<id or folder>`."""
    recognition: RecognitionConfig = field(default_factory=RecognitionConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    """Tasks by name. Default: inferred from the labels."""
    roots: tuple[str, ...] = ()
    """Only accept files under these folders or URI prefixes. Default: no restriction."""

    def __post_init__(self) -> None:
        # An empty root, such as an unset shell variable, would mean the working directory, whatever that is.
        require(
            "" not in self.roots,
            "an entry of roots is empty; name a folder or a URI prefix such as s3://bucket/folder",
        )
        require(
            not (self.audio == "none" and self.text == "none"),
            "audio and text are both `none`; at least one modality must have an encoder",
        )
        for modality in MODALITIES:
            check_encoder(modality, self.encoder(modality).spec)
        engine, _, model = self.asr.partition(":")
        require(
            self.asr == "none" or (bool(model) and engine in {e.partition(":")[0] for e in ASR_ENGINES}),
            f"asr is {self.asr!r}; the choices are {', '.join(f'`{e}`' for e in ASR_ENGINES)}, `none`",
        )
        check_columns(self.tasks)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: "Config | None" = None) -> "Config":
        """Build settings from plain nested values, as `to_dict` gives and YAML files hold them.

        Args:
            values: settings to change, such as `{"fit": {"epochs": 30}, "tasks": {"mood": {...}}}`.
            base: the settings that they change. Default: the defaults.

        Raises:
            ConfigError: for an unknown setting (naming the nearest known one) or a value that is not allowed.
        """
        return from_dict(cls, values, base)

    @classmethod
    def from_file(cls, path: str | Path, base: "Config | None" = None) -> "Config":
        """Read settings from a YAML or JSON file, local or on any fsspec store.

        Args:
            path: path or URI of the file; what it leaves out keeps the value of `base`.
            base: the settings that the file changes. Default: the defaults.

        Raises:
            ConfigError: if there is no such file, it is not a YAML mapping, or a setting in it is refused.
        """
        return from_dict(cls, load_file(path), base)

    def encoder(self, modality: Modality) -> EncoderChoice:
        """Return the encoder of a modality and its options."""
        if modality == "audio":
            return EncoderChoice(spec=self.audio, options=self.audio_encoder)
        return EncoderChoice(spec=self.text, options=self.text_encoder)

    def with_encoder(self, modality: Modality, choice: EncoderChoice) -> "Config":
        """Return a copy of these settings with another encoder for a modality."""
        if modality == "audio":
            return replace(self, audio=choice.spec, audio_encoder=choice.options)
        return replace(self, text=choice.spec, text_encoder=choice.options)
