"""Who computes the shared model's layers: a backend is found by name and takes over what it can of a built model.

A backend is one file in this folder, or an entry point of the group `vilt_bench.backends` that names a module or an
object with the functions of `Backend`. One whose matrix products may be faster than torch's also offers them as
`PRODUCTS`, see `products`. To find one needs no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol, cast

from vilt_bench.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from vilt_bench.worker.meters.peak import Pack

GROUP = "vilt_bench.backends"
"""The entry points' group; an entry point's name is the backend's."""


class Backend(Protocol):
    """What computes layers of a model in another way than torch's modules do."""

    def prepare(self, model: nn.Module) -> str:
        """Takes over, in place, what it can of the shared model, which is on its device, in eval mode, weights loaded.

        Parameters stay where they are, so that counts and state dicts do not change. Where it can do nothing, the model
        is unchanged, and what is returned says why.

        Returns:
            Who computes the linear layers, for the record.
        """

    def packed_bytes(self, model: nn.Module) -> int:
        """Returns the bytes of the copies of weights that it keeps in a model that it has prepared; 0: none."""


def names() -> list[str]:
    """Returns the names of all backends; imports none of them."""
    return sorted({*_files(), *(point.name for point in entry_points(group=GROUP))})


def check_name(name: str) -> None:
    """Refuse a name that no backend has, without importing one.

    Raises:
        ConfigError: there is none of that name.
    """
    _find(name)


def load(name: str) -> Backend:
    """Returns the backend of that name, imported.

    Raises:
        ConfigError: there is none, several distributions offer it, it fails to import, or lacks a function.
    """
    point = _find(name)
    try:
        backend = importlib.import_module(f"{__name__}.{name}") if point is None else point.load()
    except Exception as error:  # whatever an outsider's module does on import
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"backend {name!r} can't be imported: {problem}; mend or remove it") from error
    missing = [each for each in ("prepare", "packed_bytes") if not callable(getattr(backend, each, None))]
    if missing:
        raise ConfigError(f"backend {name!r} has no function {missing[0]}; expected prepare and packed_bytes")
    return cast("Backend", backend)


def products(name: str) -> dict[str, Pack]:
    """Returns the products that a machine's peak is tried with beside torch's own, by what they are in words.

    Each takes a weight [out, in] and returns the product with it, or `None` where it can't be had there.

    Args:
        name: of a backend, whose products count beside those of this folder's: none is to undercut a least time.

    Raises:
        ConfigError: as `load`.
    """
    found: dict[str, Pack] = {}
    for each in dict.fromkeys([*_files(), name]):
        found |= getattr(load(each), "PRODUCTS", {})
    return found


def _files() -> list[str]:
    """Returns the names of the backends in this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _find(name: str) -> EntryPoint | None:
    """Returns the entry point that offers a backend; `None`: it is a file of this folder."""
    if name in _files():
        return None
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        raise ConfigError(f"no backend named {name!r} computes linear layers; there are {', '.join(names())}")
    if len(points) > 1:
        raise ConfigError(f"backend {name!r} is offered as {' and '.join(points)}; uninstall all but one")
    return next(iter(points.values()))
