"""Faces that load on first use (PEP 562): a name costs its module only when somebody asks for it."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that imports each name from its module on first use.

    Args:
        package: dotted name of the package whose face this is.
        modules: the names that each module of the package offers, by module.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:  # noqa: ANN401 - the type depends on the name
        if name not in home:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it offers {', '.join(sorted(home))}"
            )
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        # Kept as an ordinary attribute, so that the second use costs nothing.
        setattr(import_module(package), name, value)
        return value

    return load
