"""Package faces that load lazily (PEP 562): a name's module is imported when the name is first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that imports each name from its module on first use.

    Args:
        package: dotted name of the package, such as `hilbert_ray`.
        modules: the public names of each module of the package, by the module's name in it.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:  # noqa: ANN401 - the type depends on the name
        if name not in home:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it offers {', '.join(sorted(home))}"
            )
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        # As an ordinary attribute it is found before `__getattr__`, so that later uses cost nothing. This is
        # also why no public name may equal a module's name: importing the module would overwrite it.
        setattr(import_module(package), name, value)
        return value

    return load
