"""The pool of workers under Ray Data: results come while a call goes on."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hilbert_ray.embedding.worker import EmbedUnits
from hilbert_ray.store import Commit, Content, ContentRow, Quarantined, Store
from hilbert_ray.units import UnitsError
from hilbert_ray.units.plan import Unit
from hilbert_ray.units.pool import _run_round
from tests import make
from tests.embedding.in_process import CONFIG, planned

UNITS = 8


class Acknowledged(EmbedUnits):
    """Commits a unit only after the result of the last but one has arrived where the run is counted."""

    committed = 0

    def _commit(self, unit: Unit, rows: Sequence[ContentRow], quarantined: Sequence[Quarantined]) -> Commit:
        arrived = Path(self.store.uri).parent / f"arrived-{self.committed - 2}"
        deadline = time.monotonic() + 30
        while self.committed >= 2 and not arrived.exists():
            if time.monotonic() > deadline:
                raise UnitsError(f"{self.committed} units are committed, and {arrived.name} is not there")
            time.sleep(0.01)
        self.committed += 1
        return super()._commit(unit, rows, quarantined)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_result_arrives_when_its_unit_is_committed_and_not_with_its_call(
    tmp_path: Path,
) -> None:
    store = Store.create(str(tmp_path / "store"), UNITS)
    config = replace(CONFIG, embed=replace(CONFIG.embed, workers=1, unit_s=0.001))
    number, units = planned(make.corpus(tmp_path, UNITS), store, config)
    fingerprints: dict[Content, str] = {"audio": units["audio"][0].fingerprint}
    results = _run_round(
        store, store.snapshot(number), units["audio"], config, Acknowledged, fingerprints, is_first=True
    )
    for count, result in enumerate(results):
        assert result.error is None
        (tmp_path / f"arrived-{count}").touch()
    assert count + 1 == len(units["audio"]) >= UNITS - 1
