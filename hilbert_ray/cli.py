"""The command line: words to functions. Each command is a dataclass of its flags with a `run` method.

Flags mirror the settings, so their help texts are the settings' docstrings. Results go to standard output (as
JSON with --json), logs to standard error. A wrong argument or setting ends with exit code 2 and one message,
before Ray starts; heavy modules are imported inside `run`, so that `--help` stays quick.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from hilbert_ray.config import (
    Config,
    ConfigError,
    EmbedConfig,
    EncoderConfig,
    FitConfig,
    FoldsConfig,
    LossConfig,
    ModelConfig,
    MoEConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
    from_dict,
    load_file,
    preset,
)
from hilbert_ray.errors import HilbertError
from hilbert_ray.version import __version__

log = logging.getLogger("hilbert_ray")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command prints: `values` as JSON with --json, else `text`; `ok` False ends with exit code 1."""

    values: Mapping[str, Any]
    text: str
    ok: bool = True


@dataclass(frozen=True, kw_only=True)
class _Common:
    """Flags that every command has."""

    config: str | None = None
    """YAML file of settings (local or on any fsspec store); flags override it."""
    preset: Literal["small", "large", "paper"] = "small"
    """Named configuration to start from."""
    json: bool = False
    """Print the result as JSON on standard output."""


Roots = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="root")]


@dataclass(frozen=True, kw_only=True)
class Validate(_Common):
    """Check a manifest: counts, durations, label balance, groups, and each fault with its row."""

    manifest: Positional[str]
    """Manifest (.jsonl, .csv or .parquet), local or on any fsspec store."""
    probe: int | Literal["all"] = 10_000
    """Documents whose files are opened, audio by its header: of more documents a random sample; or `all`."""
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    roots: Roots = ()
    """Folder or URI prefix below which all files must lie; give it again for more. Without: any file."""

    def run(self, config: Config) -> CommandResult:
        """Return the report; it is ok when no row has a fault."""
        from hilbert_ray.validation import validate

        roles, roots = config.segment.roles, config.roots
        report = validate(self.manifest, config.tasks, roles=roles, probe=self.probe, roots=roots)
        return CommandResult(report.to_dict(), report.text(), ok=not report.faults)


@dataclass(frozen=True, kw_only=True)
class Embed(_Common):
    """Stream documents through the encoders into a feature store; run again, it goes on where it stopped."""

    manifest: str
    """Manifest (.jsonl, .csv or .parquet), local or on any fsspec store."""
    store: str
    """Feature store, made if it is not there."""
    audio: str = "mfcc"
    """Audio encoder: `mfcc`, `hf:<id or folder>[@revision]`, or `none`."""
    text: str = "hashing"
    """Text encoder: `hashing`, `hf:<id or folder>[@revision]`, or `none`."""
    audio_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    text_encoder: EncoderConfig = field(default_factory=EncoderConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    roots: Roots = ()
    """Folder or URI prefix below which all files must lie; give it again for more. Without: any file."""
    dry_run: bool = False
    """Write nothing; print what is left to do and, from a short measurement, time and space."""
    plan: float | None = None
    """With --dry-run and a new store: also print what so many hours of such recordings take."""
    price: float = 0.0
    """With --plan: price of one worker (its GPU or CPUs) for an hour."""
    storage_price: float = 0.0
    """With --plan: price of a gigabyte of storage for a month."""

    def run(self, config: Config) -> CommandResult:
        """Embed what is not stored yet and return the summary."""
        from hilbert_ray.embedding import embed, estimate, plan_capacity

        if self.plan is None:
            found = (estimate if self.dry_run else embed)(self.manifest, self.store, config)
            return CommandResult(found.to_dict(), found.text())
        if not self.dry_run or self.plan <= 0:
            raise ConfigError(f"--plan is {self.plan:g}: it needs --dry-run, and hours above 0")
        estimated = estimate(self.manifest, self.store, config)
        capacity = plan_capacity(estimated, self.plan, self.price, self.storage_price)
        values = {**estimated.to_dict(), "capacity": capacity.to_dict()}
        return CommandResult(values, f"{estimated.text()}\n{capacity.text()}")


@dataclass(frozen=True, kw_only=True)
class _Reading(_Common):
    """Flags of the commands that read a store."""

    store: str
    """Feature store that `embed` filled."""
    out: str
    """Folder of the run; made if it is not there."""
    audio: str | None = None
    """Audio encoder whose features to use (`none`: no audio); needed only if the store holds several."""
    text: str | None = None
    """Text encoder whose features to use (`none`: no text); needed only if the store holds several."""
    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Reading):
    """Cross-validate on group-disjoint folds, beside baselines; run again, it goes on where it stopped."""

    folds: FoldsConfig = field(default_factory=FoldsConfig)
    compare: bool = False
    """Add all named baselines and ablations on the same folds."""
    subsets: bool = False
    """Also score the network of both modalities where it is given audio alone, and text alone."""

    def run(self, config: Config) -> CommandResult:
        """Return metrics.json of the run."""
        from hilbert_ray.evaluation import evaluate, summarise

        metrics = evaluate(
            self.store,
            self.out,
            config,
            audio=self.audio,
            text=self.text,
            compare=self.compare,
            subsets=self.subsets,
        )
        return CommandResult(metrics, summarise(metrics))


@dataclass(frozen=True, kw_only=True)
class Train(_Reading):
    """Train on all documents with DDP and publish the model folder RUN/model."""

    folds: FoldsConfig = field(default_factory=FoldsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def run(self, config: Config) -> CommandResult:
        """Return where the model is and the last losses."""
        from hilbert_ray.training import train

        summary = train(self.store, self.out, config, audio=self.audio, text=self.text)
        return CommandResult(summary.to_dict(), summary.text())


@dataclass(frozen=True, kw_only=True)
class Tune(_Reading):
    """Search the loss weights (or any named field) on inner folds."""

    folds: FoldsConfig = field(default_factory=FoldsConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    resume: bool = False
    """Go on with the search in --out."""

    def run(self, config: Config) -> CommandResult:
        """Return the best settings beside the defaults' score."""
        from hilbert_ray.tuning import tune

        summary = tune(self.store, self.out, config, audio=self.audio, text=self.text, resume=self.resume)
        return CommandResult(summary.to_dict(), summary.text())


@dataclass(frozen=True, kw_only=True)
class Predict(_Common):
    """Embed and classify a new manifest with a published model."""

    folder: Annotated[str, tyro.conf.arg(name="model")]
    """Published folder, RUN/model."""
    manifest: str
    """Manifest (.jsonl, .csv or .parquet), local or on any fsspec store."""
    out: str
    """Parquet file of embeddings and probabilities."""
    store: str | None = None
    """Feature store to reuse and fill; by default one beside --out."""
    trust_remote_code: bool = False
    """Let the model's encoders run the Python code that comes with their weights."""
    explain: str | None = None
    """Document whose segments to list afterwards, by their weight."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    roots: Roots = ()
    """Folder or URI prefix below which all files must lie; give it again for more. Without: any file."""

    def run(self, config: Config) -> CommandResult:
        """Return counts of what was predicted and what was quarantined."""
        from hilbert_ray.prediction import explain, predict

        summary = predict(
            self.folder,
            self.manifest,
            self.out,
            config.embed,
            store=self.store,
            trust_remote_code=self.trust_remote_code,
            roots=config.roots,
        )
        text = summary.text()
        if self.explain is not None:
            text += "\n" + explain(self.out, self.explain)
        return CommandResult(summary.to_dict(), text)


@dataclass(frozen=True, kw_only=True)
class Report(_Common):
    """Write a run's report as one self-contained HTML file."""

    folder: Annotated[str, tyro.conf.arg(name="run")]
    """Folder of the run."""

    def run(self, config: Config) -> CommandResult:
        """Return where the report is."""
        from hilbert_ray.reporting import report

        path = report(self.folder)
        return CommandResult({"report": path}, f"report: {path}")


@dataclass(frozen=True, kw_only=True)
class StoreCommand(_Common):
    """Look at a feature store, check it, keep it small, or take features out of it."""

    action: Positional[Literal["info", "verify", "gc", "compact", "export"]]
    """info: counts and sizes; verify: read every committed file again; gc: delete what nothing needs any
    more; compact: fold the commits of each bucket into one index; export: features as files for others."""
    store: Positional[str]
    """Feature store."""
    mend: bool = False
    """verify: delete damaged files and the commits that name them, so that `embed` makes them again. Nothing
    else may write to the store meanwhile."""
    min_age_h: float = 24.0
    """gc: hours for which a file stays after it became superfluous; no run may last longer."""
    min_commits: int = 32
    """compact: fold a bucket once so many of its commits are in no index."""
    out: str | None = None
    """export: folder to write to; it must not hold anything."""
    format: Literal["huggingface", "numpy", "arrow"] | None = None
    """export: a folder for Hugging Face `datasets` (the default), NumPy files a document (the default with
    --document), or an Arrow file a modality and encoder."""
    document: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """export: this document alone; give it again for more."""

    def run(self, config: Config) -> CommandResult:
        """Return what the action found or did."""
        from hilbert_ray.store import Store

        if self.min_age_h < 0:
            raise ConfigError(f"--min-age-h is {self.min_age_h}: it must be 0 or more")
        if self.min_commits < 1:
            raise ConfigError(f"--min-commits is {self.min_commits}: it must be 1 or more")
        store = Store.open(self.store)
        if self.action == "info":
            info = store.info()
            return CommandResult(info, json.dumps(info, indent=2))
        if self.action == "verify":
            problems = [f"{problem.path}: {problem.message}" for problem in store.verify(self.mend)]
            text = "\n".join(problems) or "every committed file is whole"
            return CommandResult({"problems": problems, "mended": self.mend}, text, not problems)
        if self.action == "gc":
            deleted = store.gc(self.min_age_h)
            return CommandResult({"deleted": deleted}, "\n".join([*deleted, f"{len(deleted)} files deleted"]))
        if self.action == "compact":
            made = store.compact(self.min_commits)
            return CommandResult({"indexes": made}, "\n".join([*made, f"{len(made)} indexes written"]))
        if self.out is None:
            raise ConfigError("`store export` needs --out, the folder to write to")
        form = self.format or ("numpy" if self.document else "huggingface")
        count = store.export(self.out, form, self.document)
        values = {"documents": count, "out": self.out, "format": form}
        return CommandResult(values, f"{count} documents exported to {self.out} ({form})")


@dataclass(frozen=True, kw_only=True)
class Doctor(_Common):
    """Print versions, devices, codecs and Ray resources, and what to mend."""

    mend: bool = False
    """Remove torchaudio's native libraries where they cannot load beside this torch."""

    def run(self, config: Config) -> CommandResult:
        """Return the diagnosis; it is ok when there is no fault."""
        from hilbert_ray import cluster, doctor

        removed = [str(path) for path in doctor.repair()] if self.mend else []
        if removed:
            log.info("removed %d libraries of torchaudio that cannot load beside this torch", len(removed))
        found = doctor.diagnose()
        found.facts["ray resources"] = cluster.resources()
        values = {"facts": found.facts, "faults": found.faults, "removed": removed}
        return CommandResult(values, found.text(), ok=not found.faults)


COMMANDS: Mapping[str, type[Any]] = {
    "validate": Validate,
    "embed": Embed,
    "evaluate": Evaluate,
    "train": Train,
    "predict": Predict,
    "tune": Tune,
    "report": Report,
    "store": StoreCommand,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 (it found or met a fault) or 2 (wrong argument or setting)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"hilbert-ray: no command {name!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    log.setLevel(logging.INFO)
    try:
        command, config = _parse(name, rest)
        result = command.run(config)
    except HilbertError as error:  # any other is a fault of ours and shows its traceback
        print(f"hilbert-ray {name}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result.values, indent=2, default=str) if command.json else result.text)
    return 0 if result.ok else 1


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()
    ]
    head = "usage: hilbert-ray COMMAND [--help] [flags]"
    about = "Document embeddings of long recordings with transcripts, and predictions to trust, on Ray."
    return "\n".join([head, "", about, "", *lines])


def _parse(name: str, arguments: Sequence[str]) -> tuple[Any, Config]:
    """Return the command with its flags, and the settings: preset, then the file, then the flags."""
    kind = COMMANDS[name]
    base = preset(_flag(arguments, "--preset") or "small")
    path = _flag(arguments, "--config")
    chosen: set[str] = set()
    if path is not None:
        values = load_file(path)
        chosen = set(values)
        base = from_dict(Config, values, base)
    settings = {f.name for f in fields(Config)}
    defaults: dict[str, Any] = {}
    for f in fields(kind):
        if f.name in ("audio", "text") and issubclass(kind, _Reading) and f.name not in chosen:
            defaults[f.name] = None  # the store tells, where it holds one encoder only
        elif f.name in settings:
            defaults[f.name] = getattr(base, f.name)
        else:
            defaults[f.name] = tyro.MISSING if f.default is MISSING else f.default
    command = tyro.cli(kind, prog=f"hilbert-ray {name}", args=arguments, default=kind(**defaults))
    flags = {f.name: getattr(command, f.name) for f in fields(kind) if f.name in settings}
    return command, replace(base, **{key: value for key, value in flags.items() if value is not None})


def _flag(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of a flag that must be known before the flags are parsed."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


if __name__ == "__main__":
    sys.exit(main())
