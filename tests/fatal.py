"""A file system in which processes die: `fatal:///folder/...` is `/folder/...`, with accidents.

It is installed as a plug-in of fsspec for Ray's workers (conftest.py), so it imports nothing of ours. A file
`/folder/accident.json` in any folder above a file arms it: at the given point of an access to a path that
holds `match`, a Ray worker kills itself (`die`) or waits (`stall`), `times` times in all, after `spared`
accesses without accident. Each accident leaves a file `accident-<n>` that says when it was.
"""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

STALL_S = 1.5


def arm(folder: Path, *, point: str, match: str, do: str = "die", times: int = 1, spared: int = 0) -> None:
    """Prepare accidents in a folder. `point`: `before` or `after` a file is created, or `open`."""
    control = {"point": point, "match": match, "do": do, "times": times, "spared": spared}
    (folder / "accident.json").write_text(json.dumps(control))


def accidents(folder: Path) -> int:
    """Return how many accidents happened."""
    return len(list(folder.glob("accident-*")))


class Fatal(AbstractFileSystem):  # type: ignore[misc]
    """Local files that some processes do not survive."""

    protocol = "fatal"
    cachable = False

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.local = LocalFileSystem()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("fatal://").rstrip("/") or "/"

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:  # noqa: ANN401
        """List a folder."""
        return self.local.ls(path, detail=detail)

    def info(self, path: str, **options: Any) -> Any:  # noqa: ANN401
        """Describe a file."""
        return self.local.info(path)

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        os.unlink(self._strip_protocol(path))

    def put_file(self, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        """Copy a local file."""
        os.makedirs(os.path.dirname(rpath), exist_ok=True)
        self.local.put_file(lpath, rpath)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:  # noqa: ANN401
        """Write a file at once; with mode `create` only if there is none."""
        path = self._strip_protocol(path)
        _accident("before", path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.{os.getpid()}.writing", "xb") as file:
            file.write(value)
        if mode == "create":
            try:
                os.link(file.name, path)
            finally:
                os.unlink(file.name)
        else:
            os.replace(file.name, path)
        _accident("after", path)

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> io.IOBase:  # noqa: ANN401
        _accident("open", path)
        return open(path, mode)  # type: ignore[return-value]


def _accident(point: str, path: str) -> None:
    control = next((p / "accident.json" for p in Path(path).parents if (p / "accident.json").exists()), None)
    if control is None or "default_worker.py" not in sys.argv[0]:
        return
    wanted = json.loads(control.read_text())
    if wanted["point"] != point or wanted["match"] not in path:
        return
    if _mark(control.parent, "spared", wanted["spared"]) or not _mark(
        control.parent, "accident", wanted["times"]
    ):
        return
    if wanted["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(STALL_S)


def _mark(folder: Path, kind: str, most: int) -> bool:
    """Leave the next of `most` marks; return False where all are there already."""
    for number in range(most):
        try:
            with open(folder / f"{kind}-{number}", "x") as file:
                file.write(str(time.time()))
            return True
        except FileExistsError:
            continue
    return False
