"""The command line: words to functions.

Results go to standard output (as JSON with --json), logs to standard error. A wrong argument or setting ends
with exit code 2 and one message, before Ray starts.
"""

import io
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, fields, replace
from typing import Any

import tyro

from hilbert_ray.commands import COMMANDS, ReadingCommand
from hilbert_ray.config import (
    Config,
    check_fields,
    from_dict,
    load_file,
    preset,
)
from hilbert_ray.errors import HilbertError, SystemFaultError, system_fault
from hilbert_ray.interruption import describe
from hilbert_ray.terminal import flag_hints, lines, log_to_stderr, one_line
from hilbert_ray.version import __version__

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 1: the command found or met a fault; 2: a wrong argument, setting or input, refused before work
    began. A `HilbertError` is one message and its own exit code; any other exception is a bug of ours and
    shows its traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(__version__)
        return 0
    name = _command_name(arguments)
    try:
        return _run(name, arguments) if name in COMMANDS else _show_overview(arguments)
    except Exception as error:
        named = _named(error)
        if named is None:
            raise
        print(one_line(f"hilbert-ray {name}: {named}"), file=sys.stderr)
        return named.exit_code


def _run(name: str, arguments: Sequence[str]) -> int:
    """Run the command of this name; return its exit code."""
    describe(f"hilbert-ray {name}", COMMANDS[name].interrupted)
    log_to_stderr()
    command, config = _parse(name, arguments[len(name.split()) :])
    result = command.run(config)
    _print(json.dumps(result.values, indent=2, default=str) if command.json else lines(result.text))
    return 0 if result.ok else 1


def _named(error: Exception) -> HilbertError | None:
    """Return an error that a user can act on, wherever it was raised; None for a bug of ours."""
    if "ray" in sys.modules:
        from hilbert_ray.cluster import cause_of

        error = cause_of(error)
    return error if isinstance(error, HilbertError) else system_fault(error)


def _print(text: str) -> None:
    """Print a result at once, so that a full disk behind standard output is not met at Python's end.

    Raises:
        SystemFaultError: when it cannot be written.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SystemFaultError(f"cannot write the result to standard output: {error.strerror}") from error


def _command_name(arguments: Sequence[str]) -> str:
    """Return the words that name a command: one, or two where the first is a group such as `store`."""
    first = " ".join(arguments[:1])
    is_group = any(name.startswith(f"{first} ") for name in COMMANDS) and bool(first)
    return " ".join(arguments[:2]) if is_group else first


def _show_overview(arguments: Sequence[str]) -> int:
    """Print the commands, all or those of a group; an unknown command is refused with exit code 2."""
    words = [argument for argument in arguments[:2] if argument not in ("-h", "--help")]
    group = f"{words[0]} " if words else ""
    listed = {name: kind for name, kind in COMMANDS.items() if name.startswith(group)}
    if len(words) > 1 or not listed:
        choices = ", ".join(listed or dict.fromkeys(name.split()[0] for name in COMMANDS))
        print(f"hilbert-ray: no command {' '.join(words)!r}; the commands are {choices}", file=sys.stderr)
        return 2
    width = max(map(len, listed))
    print(f"usage: hilbert-ray {group}COMMAND [--help] [flags]\n")
    if not group:
        print("Document embeddings of long recordings with transcripts, and predictions to trust, on Ray.\n")
    for name, kind in listed.items():
        print(f"  {name:<{width}}  {(kind.__doc__ or '').splitlines()[0]}")
    return 0


def _parse(name: str, arguments: Sequence[str]) -> tuple[Any, Config]:
    """Return the command with its flags, and the settings: preset, then the file, then the flags."""
    kind = COMMANDS[name]
    # Read before tyro parses the rest, since they set the defaults of all other flags, which --help shows:
    # a preset for any data, a file for a project, flags for this call.
    base = preset(_flag(arguments, "--preset") or "small")
    path = _flag(arguments, "--config")
    chosen: set[str] = set()
    if path is not None:
        values = load_file(path)
        # An encoder that the file names is a choice; that of a preset is only a default, which a store
        # overrules.
        chosen = set(values)
        base = from_dict(Config, values, base)
    settings = {f.name for f in fields(Config)}
    defaults: dict[str, Any] = {}
    for f in fields(kind):
        if f.name in ("audio", "text") and issubclass(kind, ReadingCommand) and f.name not in chosen:
            defaults[f.name] = None  # the store decides, if it holds one encoder only
        elif f.name in settings:
            defaults[f.name] = getattr(base, f.name)
        else:
            defaults[f.name] = tyro.MISSING if f.default is MISSING else f.default
    default = kind(**defaults)
    try:
        command = tyro.cli(kind, prog=f"hilbert-ray {name}", args=arguments, default=default)
    except SystemExit as ended:
        if ended.code:
            with redirect_stdout(io.StringIO()) as shown, suppress(SystemExit):
                tyro.cli(kind, args=["--help"], default=default)
            sys.stderr.writelines(flag_hints(arguments, shown.getvalue()))
        raise
    check_fields(command)
    # The settings that a command has no flags for stay those of the preset and the file.
    flags = {f.name: getattr(command, f.name) for f in fields(kind) if f.name in settings}
    return command, replace(base, **{key: value for key, value in flags.items() if value is not None})


def _flag(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of a flag, by hand: the parser needs defaults first, which these flags decide."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None
