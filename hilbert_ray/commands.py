"""The commands: each is a dataclass of its flags with a `run` method that calls the room that does the work.

Flags mirror the settings, so their help texts are the settings' docstrings. Heavy modules are imported inside
`run`, so that `--help` stays quick.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro
from msgspec import Meta
from tyro.conf import Positional

from hilbert_ray.config import (
    Config,
    EmbedConfig,
    EncoderConfig,
    FitConfig,
    FoldsConfig,
    LossConfig,
    ModelConfig,
    MoEConfig,
    RecognitionConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
    require,
)

if TYPE_CHECKING:
    from hilbert_ray.units import Estimate

# The parent of all of the library's loggers.
log = logging.getLogger("hilbert_ray")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command prints: `values` as JSON with --json, else `text`; `ok` False ends with exit code 1."""

    values: Mapping[str, Any]
    text: str
    ok: bool = True


@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags that every command has."""

    interrupted: ClassVar[str] = "nothing was changed: rerun it"
    """What is kept if the command is interrupted, and what to do."""
    config: str | None = None
    """YAML file of settings, local or on any fsspec store; flags override it."""
    preset: Literal["small", "large", "paper"] = "small"
    """Named configuration to start from."""
    json: bool = False
    """Print the result as JSON on standard output."""


# Appended (`--root A --root B`), because a list (`--root A B`) would swallow the manifest after it.
Roots = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="root")]


@dataclass(frozen=True, kw_only=True)
class Validate(Common):
    """Check a manifest: counts, durations, label balance, groups, and every invalid row with its reason."""

    manifest: Positional[str]
    """Manifest (.jsonl, .csv, .parquet, or that of another program), local or on any fsspec store."""
    # `validation.PROBED` and `LISTENED`, written out: importing would load NumPy and the audio libraries.
    probe: Annotated[int, Meta(ge=1, le=10**12)] | Literal["all"] = 10_000
    """Open the files of at most this many documents, drawn at random (audio: headers only), or of `all`."""
    listen: Annotated[int, Meta(ge=0, le=10**12)] | Literal["all"] = 100
    """Decode the first 30 s of this many of the opened recordings, for loudness, channels and the share of
    speech; `all`: every one of them, from start to end."""
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    roots: Roots = ()
    """Only accept files under this folder or URI prefix (repeatable). Default: no restriction."""

    def run(self, config: Config) -> CommandResult:
        """Return the report; it is ok when every row is valid."""
        from hilbert_ray.validation import validate

        report = validate(self.manifest, config, probe=self.probe, listen=self.listen)
        return CommandResult(report.to_dict(), report.text(), ok=report.ok)


@dataclass(frozen=True, kw_only=True)
class UnitsCommand(Common):
    """Flags of the commands that do the documents of a manifest in units on a cluster."""

    manifest: str
    """Manifest (.jsonl, .csv, .parquet, or that of another program), local or on any fsspec store."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    roots: Roots = ()
    """Only accept files under this folder or URI prefix (repeatable). Default: no restriction."""
    dry_run: bool = False
    """Write nothing; print what is left to do and, from a short measurement, how long and how much space."""
    plan: Annotated[float, Meta(gt=0, le=1e12)] | None = None
    """With --dry-run: also print what this many hours of such recordings would take."""
    price: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """With --plan: price per hour of one worker (its GPU or CPUs)."""
    storage_price: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """With --plan: price per gigabyte and month of storage."""

    def planned(self, estimated: "Estimate") -> CommandResult:
        """Return a dry run, scaled up to the hours of --plan where it is given."""
        from hilbert_ray.units import plan_capacity

        if self.plan is None:
            return CommandResult(estimated.to_dict(), estimated.text())
        capacity = plan_capacity(estimated, self.plan, self.price, self.storage_price)
        values = {**estimated.to_dict(), "capacity": capacity.to_dict()}
        return CommandResult(values, f"{estimated.text()}\n{capacity.text()}")

    def require_dry_run(self) -> None:
        """Check that --plan comes with --dry-run.

        Raises:
            ConfigError: when it does not.
        """
        if self.plan is not None:
            require(self.dry_run, f"--plan is {self.plan:g}; it needs --dry-run")


@dataclass(frozen=True, kw_only=True)
class Transcribe(UnitsCommand):
    """Transcribe recordings that have no text, into a folder with a manifest for `embed`; rerun to resume."""

    interrupted = "what is committed below --out is kept: rerun to resume"
    out: str
    """Folder to write to, local or on any fsspec store: manifest.jsonl, transcripts/ and work/; created if
    absent."""
    asr: str = "none"
    """Recogniser: `hf:<id or folder>[@revision]`, or `faster-whisper:<id or folder>`."""
    recognition: RecognitionConfig = field(default_factory=RecognitionConfig)
    channels: str | None = None
    """Channels of a recording: `mix` (their mean), `left`, `right`, `loudest`, or the speaker of each, as in
    `0=agent,1=customer`: each is then transcribed by itself. A manifest's own `channels` goes before it.
    Default: `segment.channels` of the settings."""

    def run(self, config: Config) -> CommandResult:
        """Transcribe what is not transcribed yet and return the summary."""
        from hilbert_ray.transcription import estimate, transcribe

        self.require_dry_run()
        if self.channels is not None:
            config = replace(config, segment=replace(config.segment, channels=self.channels))
        if self.dry_run:
            return self.planned(estimate(self.manifest, self.out, config))
        summary = transcribe(self.manifest, self.out, config)
        return CommandResult(summary.to_dict(), summary.text())


@dataclass(frozen=True, kw_only=True)
class Embed(UnitsCommand):
    """Stream documents through the encoders into a feature store; rerun to resume."""

    interrupted = "what is committed to the store is kept: rerun to resume"
    store: str
    """Feature store; created if absent."""
    audio: str = "mfcc"
    """Audio encoder: `mfcc`, `prosody`, `hf:<id or folder>[@revision]`, several of them joined with `+`, or
    `none`."""
    text: str = "hashing"
    """Text encoder: `hashing`, `hf:<id or folder>[@revision]`, or `none`."""
    audio_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)

    def run(self, config: Config) -> CommandResult:
        """Embed what is not stored yet and return the summary."""
        from hilbert_ray.embedding import embed, estimate

        self.require_dry_run()
        if self.dry_run:
            return self.planned(estimate(self.manifest, self.store, config))
        summary = embed(self.manifest, self.store, config)
        return CommandResult(summary.to_dict(), summary.text())


@dataclass(frozen=True, kw_only=True)
class ReadingCommand(Common):
    """Flags of the commands that read a store."""

    store: str
    """Feature store that `embed` filled."""
    out: str
    """Run folder; created if absent."""
    # None and not the default encoders: a store says which encoders filled it.
    audio: str | None = None
    """Audio encoder whose features to use, or `none`; needed only if the store holds several."""
    text: str | None = None
    """Text encoder whose features to use, or `none`; needed only if the store holds several."""
    allow_pending: bool = False
    """Go on although `embed` has not finished: documents that are not embedded yet count as lacking what is
    missing, and the results say how many."""
    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True, kw_only=True)
class Evaluate(ReadingCommand):
    """Cross-validate HILBERT and its baselines on group-disjoint folds; rerun to resume."""

    interrupted = "finished folds are kept: rerun to resume"
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    compare: bool = False
    """Add every baseline and ablation, on the same folds."""
    subsets: bool = False
    """Also score the network, trained on both modalities, on audio alone and on text alone."""
    labels: tuple[Annotated[float, Meta(gt=0, le=1)], ...] = ()
    """Also draw a learning curve: with these shares of the labels, such as `0.1 0.25 0.5 1`, how good is it?
    Whole training groups lose their labels and stay as unlabelled ones; test sets stay as they are."""

    def run(self, config: Config) -> CommandResult:
        """Return metrics.json of the run."""
        from hilbert_ray.evaluation import evaluate

        evaluation = evaluate(
            self.store,
            self.out,
            config,
            audio=self.audio,
            text=self.text,
            compare=self.compare,
            subsets=self.subsets,
            labels=self.labels,
            allow_pending=self.allow_pending,
        )
        return CommandResult(evaluation.to_dict(), evaluation.text())


@dataclass(frozen=True, kw_only=True)
class Train(ReadingCommand):
    """Train on all documents and publish the model folder RUN/model; rerun to resume."""

    interrupted = "the last checkpoint is kept: rerun to resume"
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def run(self, config: Config) -> CommandResult:
        """Return where the model is and the last losses."""
        from hilbert_ray.training import train

        summary = train(
            self.store,
            self.out,
            config,
            audio=self.audio,
            text=self.text,
            allow_pending=self.allow_pending,
        )
        return CommandResult(summary.to_dict(), summary.text())


@dataclass(frozen=True, kw_only=True)
class Tune(ReadingCommand):
    """Search loss weights, or any named settings, on inner folds, and judge the search on outer folds."""

    interrupted = "finished trials are kept: rerun with --resume"
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    resume: bool = False
    """Resume the search in --out."""

    def run(self, config: Config) -> CommandResult:
        """Return the best settings and the defaults' score."""
        from hilbert_ray.tuning import tune

        summary = tune(
            self.store,
            self.out,
            config,
            audio=self.audio,
            text=self.text,
            resume=self.resume,
            allow_pending=self.allow_pending,
        )
        return CommandResult(summary.to_dict(), summary.text())


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """Embed and classify a new manifest with a published model."""

    interrupted = "what is embedded is kept in the store and --out is as it was: rerun to resume"
    # `--model`, but not a field `model`, which `_parse` would take for the settings of that name. Settings of
    # the network and of cutting are no flags here: they come with the model, since features must be made as
    # those that it was trained on.
    folder: Annotated[str, tyro.conf.arg(name="model")]
    """Published folder, RUN/model."""
    manifest: str
    """Manifest (.jsonl, .csv or .parquet), local or on any fsspec store."""
    out: str
    """Parquet file to write: embeddings, decisions and probabilities, one row per document."""
    store: str | None = None
    """Feature store to reuse and fill. Default: a store next to --out."""
    # A flag of each call: who published the model must not decide what runs on this machine.
    trust_remote_code: bool = False
    """Allow the model's encoders to run the Python code that comes with their weights."""
    explain: str | None = None
    """Afterwards, list this document's segments by their weight."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    roots: Roots = ()
    """Only accept files under this folder or URI prefix (repeatable). Default: no restriction."""

    def run(self, config: Config) -> CommandResult:
        """Return counts of what was predicted and what was quarantined."""
        from hilbert_ray.prediction import explain, predict

        summary = predict(
            self.folder,
            self.manifest,
            self.out,
            config,
            store=self.store,
            trust_remote_code=self.trust_remote_code,
        )
        text = summary.text()
        if self.explain is not None:
            text += "\n" + explain(self.out, self.explain)
        return CommandResult(summary.to_dict(), text, ok=summary.predicted > 0)


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Write a run's report as one self-contained HTML file."""

    interrupted = "a report that was there is as it was: rerun it"
    # `--run`, but not a field `run`, which is the method.
    folder: Annotated[str, tyro.conf.arg(name="run")]
    """Folder of the run."""

    def run(self, config: Config) -> CommandResult:
        """Return where the report is."""
        from hilbert_ray.reporting import report

        path = report(self.folder)
        return CommandResult({"report": path}, f"report: {path}")


@dataclass(frozen=True, kw_only=True)
class StoreCommand(Common):
    """Flags of every `store` command."""

    store: Positional[str]
    """Feature store."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo(StoreCommand):
    """Count what a store holds: documents, features by encoder, quarantined and pending documents, bytes."""

    def run(self, config: Config) -> CommandResult:
        """Return the counts."""
        from hilbert_ray.store import Store, store_info

        info = store_info(Store.open(self.store))
        return CommandResult(info, json.dumps(info, indent=2))


@dataclass(frozen=True, kw_only=True)
class StoreVerify(StoreCommand):
    """Read every file that counts again and report what is missing or damaged."""

    interrupted = "what is repaired stays repaired: rerun it"
    repair: bool = False
    """Delete damaged files and the commits that name them, so that the next `embed` writes them again; a
    damaged store.json is written again at once. Nothing else may write to the store meanwhile."""

    def run(self, config: Config) -> CommandResult:
        """Return the problems; it is ok when there are none."""
        from hilbert_ray.store import count_unchecked, open_to_verify, verify_store

        store, found = open_to_verify(self.store, self.repair)
        problems = [f"{each.path}: {each.message}" for each in [*found, *verify_store(store, self.repair)]]
        unchecked = count_unchecked(store)
        lines = problems or ["every file is intact"]
        if unchecked:
            older = f"{unchecked} files of an older version have no checksum, and are read as they are"
            lines = [*lines, older]
        values = {"problems": problems, "repaired": self.repair, "unchecked": unchecked}
        return CommandResult(values, "\n".join(lines), not problems)


@dataclass(frozen=True, kw_only=True)
class StoreCompact(StoreCommand):
    """Fold the commits of each bucket into one index, so that a store of many commits opens faster."""

    interrupted = "the store is intact and finished indexes are kept: rerun it"
    min_commits: Annotated[int, Meta(ge=1, le=10**12)] = 32
    """Only fold buckets with at least this many commits outside an index."""

    def run(self, config: Config) -> CommandResult:
        """Return the names of the indexes written."""
        from hilbert_ray.store import Store, compact_store

        indexes = compact_store(Store.open(self.store), self.min_commits)
        return CommandResult({"indexes": indexes}, "\n".join([*indexes, f"{len(indexes)} indexes written"]))


@dataclass(frozen=True, kw_only=True)
class StoreGc(StoreCommand):
    """Delete files that nothing refers to: leftovers of killed runs, and what compaction replaced."""

    interrupted = "the store is intact and what is deleted stays deleted: rerun it"
    min_age_h: Annotated[float, Meta(ge=0, le=1e6)] = 24.0
    """Keep files younger than this many hours; must exceed the longest run that may be under way."""

    def run(self, config: Config) -> CommandResult:
        """Return the names of the files deleted."""
        from hilbert_ray.store import Store, collect_garbage

        deleted = collect_garbage(Store.open(self.store), self.min_age_h)
        return CommandResult({"deleted": deleted}, "\n".join([*deleted, f"{len(deleted)} files deleted"]))


@dataclass(frozen=True, kw_only=True)
class StoreExport(StoreCommand):
    """Write features as files that other programs read."""

    out: str
    """Local folder to write to; it must be empty or absent."""
    format: Literal["huggingface", "numpy", "arrow"] | None = None
    """huggingface: a folder for `datasets.load_dataset` (default); numpy: one file per document (default with
    --document); arrow: one file per modality and encoder."""
    document: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Export only this document (repeatable)."""
    allow_pending: bool = False
    """Export a store that `embed` has not finished, without the documents that are not embedded yet."""
    layer: Annotated[int, Meta(ge=0, le=9999)] | None = None
    """Of features that hold all layers of an encoder, export this one; 0 is the input of the first block."""

    def run(self, config: Config) -> CommandResult:
        """Return how many documents were exported."""
        from hilbert_ray.store import Store, export_store

        form = self.format or ("numpy" if self.document else "huggingface")
        count = export_store(
            Store.open(self.store), self.out, form, self.document, layer=self.layer,
            allow_pending=self.allow_pending,
        )  # fmt: skip
        values = {"documents": count, "out": self.out, "format": form}
        return CommandResult(values, f"{count} documents exported to {self.out} ({form})")


@dataclass(frozen=True, kw_only=True)
class Unpack(Common):
    """Write recordings that a table of Hugging Face `datasets` holds as files, with a manifest of them."""

    manifest: Positional[str]
    """Parquet or Arrow file, or the folder of a dataset (`save_to_disk`, or `data/` of the hub)."""
    folder: Positional[str]
    """Local folder to write to; it must be empty or absent."""

    def run(self, config: Config) -> CommandResult:
        """Return what was written; it is ok when no row was left out."""
        from hilbert_ray.manifest import unpack

        unpacked = unpack(self.manifest, self.folder)
        text = "\n".join(
            [
                f"{unpacked.manifest}: {unpacked.documents} documents, {unpacked.files} recordings",
                *unpacked.faults,
            ]
        )
        return CommandResult(asdict(unpacked), text, ok=not unpacked.faults)


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Print versions, devices, codecs and Ray resources, and how to fix what is wrong."""

    interrupted = "rerun it"
    fix: bool = False
    """Remove torchaudio's native libraries where they fail to load with this torch (a CPU-only build)."""

    def run(self, config: Config) -> CommandResult:
        """Return the diagnosis; it is ok when there is no fault."""
        from hilbert_ray import cluster, doctor

        removed = [str(path) for path in doctor.fix()] if self.fix else []
        if removed:
            log.info("removed %d torchaudio libraries that fail to load with this torch", len(removed))
        diagnosis = doctor.diagnose()
        try:
            diagnosis.facts["ray resources"] = cluster.describe_resources()
        except cluster.ClusterError as error:
            diagnosis.faults.append(str(error))
        values = {"facts": diagnosis.facts, "faults": diagnosis.faults, "removed": removed}
        return CommandResult(values, diagnosis.text(), ok=not diagnosis.faults)


# Two words where several actions share an object: each action then has only the flags that it understands,
# and a flag of another one is refused.
COMMANDS: Mapping[str, type[Any]] = {
    "validate": Validate,
    "transcribe": Transcribe,
    "embed": Embed,
    "evaluate": Evaluate,
    "train": Train,
    "tune": Tune,
    "predict": Predict,
    "report": Report,
    "store info": StoreInfo,
    "store verify": StoreVerify,
    "store compact": StoreCompact,
    "store gc": StoreGc,
    "store export": StoreExport,
    "unpack": Unpack,
    "doctor": Doctor,
}
"""By the words that call them, in the order in which a user meets them."""
