"""RUN/config.json: which settings a run's folder refuses, and how it says so."""

from hilbert_ray.config import Config, FitConfig, to_dict
from hilbert_ray.run.folder import _differences


def test_only_the_settings_that_differ_are_named() -> None:
    earlier, now = Config(), Config(fit=FitConfig(epochs=7, seed=3))
    named = list(_differences(to_dict(earlier)["fit"], to_dict(now)["fit"], "fit"))
    assert named == ["`fit.epochs` was 20 and is now 7", "`fit.seed` was 0 and is now 3"]


def test_a_task_that_is_new_or_gone_is_named_whole() -> None:
    assert list(_differences({"a": {"kind": "binary"}}, {"a": {"kind": "ordinal"}, "b": {}}, "tasks")) == [
        "`tasks.a.kind` was 'binary' and is now 'ordinal'",
        "`tasks.b` was None and is now {}",
    ]
