"""Settings: one frozen dataclass for each component, nested in `Config`.

A field's docstring is its help text; its annotation declares its bounds (`constraints`). Rules that join
several fields stand in `__post_init__` and nowhere else.
"""

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hilbert_ray.errors import HilbertError

TaskKind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]
Imbalance = Literal["none", "class_balanced", "logit_adjustment", "focal"]
Modality = Literal["audio", "text"]
MODALITIES: tuple[Modality, Modality] = ("audio", "text")
Scalar = bool | int | float | str


class ConfigError(HilbertError, ValueError):
    """A setting that is unknown, of the wrong type, out of range, or in contradiction with another."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """How a document is cut into segments."""

    audio: Literal["window", "pause", "turns"] = "window"
    """How audio is cut: fixed windows, at speech pauses, or at the transcript's turns."""
    window_s: float = 10.0
    """Length of a window, seconds."""
    hop_s: float = 10.0
    """Distance between the starts of two windows, seconds; at most window_s."""
    max_s: float = 30.0
    """Longest segment that `pause` and `turns` may make, seconds."""
    target_tokens: int = 0
    """Short neighbouring text units are merged up to this many tokens; 0 keeps each by itself."""
    roles: tuple[str, ...] = ()
    """Keep only these speakers' utterances (and, where times exist, their audio); empty keeps all."""

    def __post_init__(self) -> None:
        _require(self.window_s > 0, f"segment.window_s is {self.window_s}; it must be above 0 seconds")
        _require(
            0 < self.hop_s <= self.window_s,
            f"segment.hop_s is {self.hop_s} and segment.window_s is {self.window_s}: a hop above the window "
            "would drop audio between windows; set hop_s to at most window_s",
        )
        _require(self.max_s > 0, f"segment.max_s is {self.max_s}; it must be above 0 seconds")
        _require(
            self.target_tokens >= 0, f"segment.target_tokens is {self.target_tokens}; it must be 0 or more"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Options of a transformers encoder (`hf:`); the built-in encoders have none."""

    layer: str = "last"
    """Hidden layer of the features: `last`, an index such as `9`, or a range `6:12` to take the mean of."""
    pooling: Literal["mean", "mean_std", "cls"] = "mean"
    """How the frames or tokens of a segment become one vector."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the encoder; `auto` is bf16 where the device has it in hardware, else float32."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights. Off, because it lets a model folder run anything."""

    def __post_init__(self) -> None:
        parts = self.layer.split(":")
        valid = self.layer == "last" or (
            len(parts) in (1, 2) and all(part.isdigit() for part in parts) and int(parts[0]) <= int(parts[-1])
        )
        _require(
            valid,
            f"encoder layer is {self.layer!r}; give `last`, an index such as `9`, or a range such as `6:12`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """How documents are streamed through the encoders into the store."""

    workers: int = 0
    """Encoder actors; 0 means one for each GPU, or one for each two CPUs where there is no GPU."""
    gpu: Literal["auto", "yes", "no"] = "auto"
    """Whether encoder actors take GPUs; `auto`: where the cluster has any now. A cluster that grows cannot be
    asked what it may grow to: say `yes`, and how many workers."""
    gpus_per_worker: float = 1.0
    """GPUs of one encoder actor when the cluster has any; a fraction shares a GPU."""
    threads: int = 1
    """Torch threads of one CPU encoder actor. Part of what makes bytes repeat, so it is recorded."""
    decoders: int = 8
    """Most Ray tasks, on any node, that decode ahead for an encoder actor whose own thread cannot keep up; 0
    decodes in the actor alone."""
    unit_s: float = 1800.0
    """Seconds of audio in one unit of work, the most that a lost worker loses; for text, eight times as much
    speech."""
    max_quarantined: float = 0.05
    """Share of this run's planned documents that may fail before the job stops (from 20 failures on)."""
    retry_quarantined: bool = False
    """Try documents again that an earlier run quarantined."""
    content_hash: bool = False
    """Know local audio by its SHA-256 instead of by size and modification time (slower, survives copying)."""
    buckets: int = 256
    """Buckets of a new store; fixed when the store is created."""

    def __post_init__(self) -> None:
        _require(self.workers >= 0, f"embed.workers is {self.workers}; it must be 0 (automatic) or more")
        _require(
            self.gpu in ("auto", "yes", "no"), f"embed.gpu is {self.gpu}; the choices are auto, yes and no"
        )
        _require(self.threads >= 1, f"embed.threads is {self.threads}; it must be 1 or more")
        _require(
            self.gpus_per_worker > 0, f"embed.gpus_per_worker is {self.gpus_per_worker}; it must be above 0"
        )
        _require(self.decoders >= 0, f"embed.decoders is {self.decoders}; it must be 0 (none) or more")
        _require(self.unit_s > 0, f"embed.unit_s is {self.unit_s}; it must be above 0 seconds")
        _require(
            0 <= self.max_quarantined <= 1,
            f"embed.max_quarantined is {self.max_quarantined}; it is a share, 0 to 1",
        )
        _require(1 <= self.buckets <= 65536, f"embed.buckets is {self.buckets}; it must be 1 to 65536")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes and switches of the network: fusion, pooling, wide paths, heads."""

    dim: int = 64
    """Width D of the model and of each document embedding."""
    layers: int = 1
    """Cross-modal fusion layers; 0 leaves fusion out (an ablation)."""
    heads: int = 4
    """Attention heads of a fusion layer; must divide dim."""
    hops: int = 2
    """Hops of self-attentive pooling."""
    wide: bool = True
    """Wide paths: mean and standard deviation of the frozen features reach the embeddings directly."""
    unimodal_heads: bool = True
    """Small heads on the audio and the text embedding whose logits are added to the experts'."""
    dropout: float = 0.4
    """Dropout in heads and feed-forward blocks."""
    wide_dropout: float = 0.8
    """Dropout on the wide paths."""
    segment_dropout: float = 0.1
    """Share of segments hidden in training."""
    modality_dropout: float = 0.1
    """Share of two-modality documents that lose one modality in training."""

    def __post_init__(self) -> None:
        _require(
            self.dim >= 2 and self.dim % 2 == 0, f"model.dim is {self.dim}; it must be even and at least 2"
        )
        _require(self.layers >= 0, f"model.layers is {self.layers}; it must be 0 or more")
        _require(
            self.heads >= 1 and self.dim % self.heads == 0,
            f"model.heads is {self.heads} and model.dim is {self.dim}: heads must divide dim",
        )
        _require(self.hops >= 1, f"model.hops is {self.hops}; it must be 1 or more")
        for name in ("dropout", "wide_dropout", "segment_dropout", "modality_dropout"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"model.{name} is {value}; it must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """The mixture of experts that reads [audio; text; joint]."""

    kind: Literal["experts", "mlp"] = "experts"
    """Experts with a router for each task, or one plain MLP with as many hidden units (an ablation)."""
    experts: int = 4
    """Shared experts E."""
    top_k: int = 2
    """Experts that answer for each document and task."""
    hidden_dim: int = 32
    """Hidden units of one expert."""

    def __post_init__(self) -> None:
        _require(self.experts >= 1, f"moe.experts is {self.experts}; it must be 1 or more")
        _require(
            1 <= self.top_k <= self.experts,
            f"moe.top_k is {self.top_k} and moe.experts is {self.experts}: top_k must be from 1 to experts",
        )
        _require(self.hidden_dim >= 1, f"moe.hidden_dim is {self.hidden_dim}; it must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the loss terms (same names in logs and in Tune's space) and their variants."""

    task: float = 1.0
    """Weight of the supervised task loss."""
    contrastive: float = 0.2
    """Weight of the reciprocal dual contrastive loss: audio with joint, text with joint."""
    cka: float = 0.4
    """Weight of the CKA structure loss."""
    balance: float = 7.5
    """Weight of the mutual-information balance loss."""
    unimodal: float = 0.5
    """Weight of the single-modality heads' own task losses."""
    load_balance: float = 0.01
    """Weight of the experts' load-balance loss."""
    router_z: float = 0.001
    """Weight of the router z-loss."""
    redundancy: float = 0.001
    """Weight of the pooling redundancy penalty."""
    direct: bool = False
    """Contrast audio with text directly (CLIP-style baseline) instead of each with the joint embedding."""
    group_negatives: bool = False
    """Let documents of the same group be negatives of each other."""
    cka_estimator: Literal["unbiased", "biased"] = "unbiased"
    """HSIC estimator inside CKA; `biased` is for comparison only."""
    cka_kernel: Literal["linear", "rbf"] = "linear"
    """Kernel of CKA; `rbf` takes the median distance as its bandwidth."""
    cka_reference: Literal["embedding", "features"] = "embedding"
    """What the joint embedding is compared with: the audio and text embeddings, or mean frozen features."""
    balance_gradient: Literal["both", "weaker"] = "both"
    """Which side the balance loss moves: both, or only the modality with less information."""
    balance_estimator: Literal["infonce", "smile"] = "infonce"
    """Estimator of mutual information inside the balance loss."""
    smile_clip: float = 5.0
    """Clip tau of the SMILE estimator, nats."""
    penalty: Literal["off_diagonal", "lin"] = "off_diagonal"
    """Redundancy penalty of pooling: off-diagonal of A A^T, or Lin's ||A A^T - I||_F^2."""

    WEIGHTS: typing.ClassVar[tuple[str, ...]] = (
        "task", "contrastive", "cka", "balance", "unimodal", "load_balance", "router_z", "redundancy",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in self.WEIGHTS:
            value = getattr(self, name)
            _require(value >= 0, f"loss.{name} is {value}; a weight must be 0 or more")
        _require(self.smile_clip > 0, f"loss.smile_clip is {self.smile_clip}; it must be above 0 nats")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """The training loop."""

    epochs: int = 20
    """Epochs of the joint (or classify) phase."""
    align_epochs: int = 0
    """Epochs of the align phase before it, in which no label is used."""
    finetune: bool = False
    """After an align phase, keep training projections, fusion and pools instead of freezing them."""
    batch_size: int = 32
    """Documents in a global batch, over all ranks; an epoch has round(N / batch_size) batches."""
    micro_batch_size: int = 0
    """Documents of a rank whose activations are held at once, so that a batch may exceed memory (gradient
    caching: each document goes forward twice, loss and gradients stay the same); 0 holds all of them."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    warmup: float = 0.1
    """Share of steps with rising learning rate; the rest follows a cosine to 0."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    patience: int = 5
    """Epochs without a smaller loss on a tenth of the groups, held out, after which a network of 1,000
    documents or more is trained no further and its best weights are kept; 0 trains all epochs on all of them.
    Smaller data is always trained so: a handful of rare cases cannot tell when to stop."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic of the network in training; `auto` is bf16 on GPUs, else float32. Losses are float32."""
    seeds: int = 3
    """Networks trained from different seeds whose logits are averaged."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, such as 0.99, which is what is validated and
    kept. It looks back about 1 / (1 - decay) steps, and small data has few. 0: off."""
    memory_gib: float = 0.0
    """Most features, as float32, that are held in memory, GiB; more are mapped from a file that each node has
    in its temporary folder (TMPDIR; it must be on a disk), with the same results. 0 means an eighth of the
    memory of the machine where the command runs."""
    seed: int = 0
    """Base of every random number of a run."""

    def __post_init__(self) -> None:
        _require(
            self.epochs >= 0 and self.align_epochs >= 0, "fit.epochs and fit.align_epochs must be 0 or more"
        )
        _require(
            self.epochs + self.align_epochs > 0,
            f"fit.epochs is {self.epochs} and fit.align_epochs is {self.align_epochs}: nothing would be "
            "trained",
        )
        _require(
            self.batch_size >= 2, f"fit.batch_size is {self.batch_size}; contrast needs at least 2 documents"
        )
        _require(
            0 <= self.micro_batch_size <= self.batch_size,
            f"fit.micro_batch_size is {self.micro_batch_size} and fit.batch_size is {self.batch_size}; the "
            "first must be from 1 to the second, or 0 (off)",
        )
        _require(self.learning_rate > 0, f"fit.learning_rate is {self.learning_rate}; it must be above 0")
        _require(self.weight_decay >= 0, f"fit.weight_decay is {self.weight_decay}; it must be 0 or more")
        _require(
            0 <= self.warmup < 1, f"fit.warmup is {self.warmup}; it is a share of all steps, 0 to below 1"
        )
        _require(self.clip_norm > 0, f"fit.clip_norm is {self.clip_norm}; it must be above 0")
        _require(self.patience >= 0, f"fit.patience is {self.patience}; it must be 0 (off) or more")
        _require(
            0 <= self.ema < 1, f"fit.ema is {self.ema}; it must be 0 (off) or a decay below 1, such as 0.99"
        )
        _require(
            self.memory_gib >= 0, f"fit.memory_gib is {self.memory_gib}; it must be 0 (automatic) or more GiB"
        )
        _require(self.seeds >= 1, f"fit.seeds is {self.seeds}; it must be 1 or more")
        _require(self.seed >= 0, f"fit.seed is {self.seed}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldsConfig:
    """Repeated stratified group k-fold cross-validation."""

    folds: int = 5
    """Folds of a repeat; no group stands in two of them."""
    repeats: int = 5
    """Repeats with other random partitions."""
    inner: int = 3
    """Inner folds whose held-out predictions the temperature is fitted on; 0 leaves it at 1."""
    stratify: str = ""
    """Task whose classes are spread over the folds; empty takes the task with the rarest class."""
    file: str = ""
    """Read the folds from this Parquet file instead of drawing them."""
    cpus: float = 1.0
    """Logical CPUs of one fold's task: how many folds run at once; no result depends on it."""
    gpus: float = 0.0
    """GPUs of one fold's task; a fraction lets several folds share one, 0 computes on CPUs."""

    def __post_init__(self) -> None:
        _require(self.folds >= 2, f"folds.folds is {self.folds}; cross-validation needs at least 2")
        _require(self.repeats >= 1, f"folds.repeats is {self.repeats}; it must be 1 or more")
        _require(
            self.inner == 0 or self.inner >= 2,
            f"folds.inner is {self.inner}; it must be 0 (off) or at least 2",
        )
        _require(self.cpus > 0, f"folds.cpus is {self.cpus}; it must be above 0")
        _require(
            0 <= self.gpus <= 1,
            f"folds.gpus is {self.gpus}; a fold computes on one GPU at most: set it from 0 (CPUs) to 1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How `train` uses the cluster."""

    workers: int = 1
    """DDP ranks. One is fastest for hundreds of short documents, and needs no Ray on one machine; several
    share many or long ones. But for dropout, the result does not depend on it."""
    gpu: bool = False
    """One GPU a rank with NCCL; otherwise CPU with gloo."""
    cpus_per_worker: float = 1.0
    """Logical CPUs of a rank, and its threads."""
    max_failures: int = 3
    """Worker or node losses after which the run resumes from its last checkpoint by itself. One rank without
    a cluster is the command: run it again."""
    checkpoint_epochs: int = 10
    """Epochs between two checkpoints."""
    mlflow: str = ""
    """Tracking URI of MLflow to log settings and every epoch's numbers to, such as http://host:5000 or
    sqlite:////folder/mlflow.db (needs the extra `mlflow`); it is saved nowhere. Empty: off."""

    def __post_init__(self) -> None:
        _require(self.workers >= 1, f"train.workers is {self.workers}; it must be 1 or more")
        _require(
            self.cpus_per_worker > 0, f"train.cpus_per_worker is {self.cpus_per_worker}; it must be above 0"
        )
        _require(self.max_failures >= 0, f"train.max_failures is {self.max_failures}; it must be 0 or more")
        _require(self.checkpoint_epochs >= 1, "train.checkpoint_epochs must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceConfig:
    """What `tune` may set one field to: a range, or one of some choices."""

    low: float | None = None
    """Least value of a range."""
    high: float | None = None
    """Greatest value of a range; it is included."""
    log: bool = False
    """Search the range on a logarithmic scale."""
    choices: tuple[Scalar, ...] = ()
    """Values to choose from, instead of a range."""

    def __post_init__(self) -> None:
        if self.choices:
            _require(
                self.low is None and self.high is None and not self.log,
                f"choices {list(self.choices)} and a range are given; give one of them",
            )
            _require(
                len({repr(choice) for choice in self.choices}) == len(self.choices) > 1,
                f"choices are {list(self.choices)}; give at least two, each once",
            )
            return
        low, high = self.low, self.high
        if low is None or high is None:
            raise ConfigError(f"low is {low} and high is {high}; give both, or choices")
        _require(low < high, f"low is {low} and high is {high}; low must be below high")
        _require(
            low > 0 or not self.log,
            f"low is {low}; a logarithmic range must begin above 0: leave `log` out, or raise low",
        )

    def place(self, value: Scalar) -> float:
        """Return where a value lies, from 0 (low, or the first choice) to 1; outside a range beyond these."""
        if self.choices:
            return self.choices.index(value) / (len(self.choices) - 1)
        assert self.low is not None
        assert self.high is not None
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at) if at > 0 else -math.inf
        return (at - low) / (high - low)

    def between(self, place: float) -> float:
        """Return the value of a range at a place from 0 to 1; `place` takes it back."""
        assert self.low is not None
        assert self.high is not None
        if self.log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + (self.high - self.low) * place


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig:
    """The search over settings."""

    trials: int = 32
    """Settings to try in each search; the first are the given ones (the defaults)."""
    algorithm: Literal["tpe", "random"] = "tpe"
    """How settings are proposed: by Optuna's TPE from the trials so far, or at random."""
    scheduler: Literal["asha", "hyperband", "none"] = "asha"
    """What stops poor trials after an inner fold: ASHA, asynchronous Hyperband (as ASHA for a part of the
    trials, later or never for the others), or nothing. PB2 and other population-based schedulers are no
    choice: they copy weights between running trials, and here every inner fold trains from the start."""
    objectives: tuple[Literal["score", "brier"], ...] = ("score",)
    """What is searched for: the headline alone, or `score brier`: of the trials within one standard error of
    the best headline the one with the least Brier score. Two objectives need `scheduler: none`."""
    max_concurrent: int = 0
    """Trials at once; 0 means as many as the cluster holds."""
    cpus_per_trial: float = 1.0
    """Logical CPUs of each worker of a trial, which computes on as many threads, at least one."""
    gpus_per_trial: float = 0.0
    """GPUs of each worker of a trial; a fraction lets several trials share one, 0 computes on CPUs."""
    workers_per_trial: int = 1
    """DDP ranks of a trial, for large data."""
    space: Mapping[str, tuple[float, float] | SpaceConfig] = field(
        default_factory=lambda: {
            "loss.contrastive": (0.01, 2.0),
            "loss.cka": (0.01, 4.0),
            "loss.balance": (0.05, 20.0),
            "loss.unimodal": (0.05, 2.0),
        }
    )
    """Fields of model, moe, loss or fit to search, each with its range `[low, high]`, searched on a
    logarithmic scale, or with a mapping of `low`, `high` and `log`, or of `choices`."""

    def __post_init__(self) -> None:
        _require(self.trials >= 1, f"tune.trials is {self.trials}; it must be 1 or more")
        _require(
            self.max_concurrent >= 0, f"tune.max_concurrent is {self.max_concurrent}; it must be 0 or more"
        )
        _require(self.cpus_per_trial > 0, f"tune.cpus_per_trial is {self.cpus_per_trial}; it must be above 0")
        _require(
            0 <= self.gpus_per_trial <= 1,
            f"tune.gpus_per_trial is {self.gpus_per_trial}; a worker computes on one GPU at most: set it "
            "from 0 (CPUs) to 1",
        )
        _require(
            self.workers_per_trial >= 1,
            f"tune.workers_per_trial is {self.workers_per_trial}; it must be 1 or more",
        )
        _require(
            self.workers_per_trial == 1 or self.gpus_per_trial in (0, 1),
            f"tune.workers_per_trial is {self.workers_per_trial} and tune.gpus_per_trial is "
            f"{self.gpus_per_trial}: the ranks of a trial cannot share a GPU; set it to 0 or 1",
        )
        _require(
            self.objectives in (("score",), ("score", "brier")),
            f"tune.objectives is {list(self.objectives)}; the choices are [score] and [score, brier]",
        )
        _require(
            len(self.objectives) == 1 or self.scheduler == "none",
            f"tune.objectives is {list(self.objectives)} and tune.scheduler is {self.scheduler}, which stops "
            "trials by one number; set tune.scheduler to none",
        )
        _require(bool(self.space), "tune.space is empty; name at least one field to search")
        for name, bounds in self.space.items():
            _require(
                isinstance(bounds, SpaceConfig) or (len(bounds) == 2 and 0 < bounds[0] < bounds[1]),
                f"tune.space gives `{name}` the range {bounds}; it must be two rising numbers above 0",
            )

    def ranges(self) -> dict[str, SpaceConfig]:
        """Return the space with each short form `[low, high]` written out."""
        return {
            name: found
            if isinstance(found, SpaceConfig)
            else SpaceConfig(low=found[0], high=found[1], log=True)
            for name, found in self.space.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """One thing to predict."""

    kind: TaskKind = "multiclass"
    """binary, multiclass, multilabel, ordinal or regression."""
    classes: tuple[str, ...] = ()
    """Class names, for ordinal in rising order; none for regression."""
    imbalance: Imbalance = "logit_adjustment"
    """Treatment of skewed classes; regression has none."""

    def __post_init__(self) -> None:
        if self.kind == "regression":
            _require(
                not self.classes, f"a regression task has no classes, but {list(self.classes)} are given"
            )
            return
        _require(
            len(set(self.classes)) == len(self.classes),
            f"task classes {list(self.classes)} name a class twice",
        )
        least = 1 if self.kind == "multilabel" else 2
        _require(
            len(self.classes) >= least,
            f"a {self.kind} task has classes {list(self.classes)}; it needs at least {least}",
        )
        _require(
            self.kind != "binary" or len(self.classes) == 2,
            f"a binary task has classes {list(self.classes)}; it needs exactly 2 (the second is the positive "
            "one)",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything a run depends on; saved as config.json with every run."""

    audio: str = "mfcc"
    """Audio encoder: `mfcc`, `hf:<id or folder>[@revision]`, or `none`."""
    text: str = "hashing"
    """Text encoder: `hashing`, `hf:<id or folder>[@revision]`, or `none`."""
    audio_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text_encoder: EncoderConfig = field(default_factory=EncoderConfig)
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
    """Tasks by name; empty means: infer them from the labels."""
    roots: tuple[str, ...] = ()
    """Folders and URI prefixes below which a manifest's files must lie; empty allows any file."""

    def __post_init__(self) -> None:
        _require(
            "" not in self.roots, "a root is empty; give a folder or a URI prefix such as s3://bucket/folder"
        )
        _require(
            not (self.audio == "none" and self.text == "none"),
            "audio and text are both `none`: at least one modality must have an encoder",
        )
        for modality, builtin in (("audio", "mfcc"), ("text", "hashing")):
            spec = getattr(self, modality)
            _require(
                spec in (builtin, "none") or (spec.startswith("hf:") and len(spec) > 3),
                f"{modality} encoder is {spec!r}; the choices are `{builtin}`, `hf:<id or "
                "folder>[@revision]`, `none`",
            )

    def encoder(self, modality: Modality) -> "EncoderChoice":
        """Return which encoder a modality has, and its options."""
        if modality == "audio":
            return EncoderChoice(spec=self.audio, options=self.audio_encoder)
        return EncoderChoice(spec=self.text, options=self.text_encoder)

    def with_encoder(self, modality: Modality, choice: "EncoderChoice") -> "Config":
        """Return these settings with another encoder for a modality."""
        if modality == "audio":
            return replace(self, audio=choice.spec, audio_encoder=choice.options)
        return replace(self, text=choice.spec, text_encoder=choice.options)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderChoice:
    """An encoder as the settings name it: `mfcc`, `hf:...` or `none`, and the options of a transformers one."""

    spec: str
    options: EncoderConfig
