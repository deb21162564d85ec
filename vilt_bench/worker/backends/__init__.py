"""Who computes the stages: a backend is found by name, prepares each stage by itself, and tells what it did.

A backend is one file in this folder, or an entry point of the group `vilt_bench.backends` that names a module or an
object with the functions of `Backend`. To find one imports none; to check its name and options imports it, which is why
it imports torch and what it computes with inside its functions.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from vilt_bench.ask.case import EAGER, STRICT, WHOLE, Option, parse_backend
from vilt_bench.errors import ConfigError, DeviceError
from vilt_bench.words import did_you_mean, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vilt_bench.worker.meters.peak import Pack

GROUP = "vilt_bench.backends"
"""The entry points' group; an entry point's name is the backend's."""

Values = type | Sequence[str]
"""What an option's value may be: `bool`, `int`, `float` or `str`, or one of these texts."""
COMMON: Mapping[str, Values] = {WHOLE: bool, STRICT: bool}
"""Options that every backend has; they are not handed to it."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


class NotPreparedError(Exception):
    """A backend can't prepare a stage; the message says why, as the end of a sentence. Eager torch computes it."""


class StageToPrepare(NamedTuple):
    """A stage as a backend gets it."""

    name: str
    """In full, such as `visual_embedder.backbone`."""
    module: nn.Module
    """Called with one argument; in eval mode, on its device, in its dtype, weights loaded, without gradients."""
    inputs: Any
    """What it is called with, as a pass of eager torch showed it; every pass has these shapes, unless the stage before
    finds more or fewer of something in another image."""
    outputs: Any
    """What eager torch made of that in float32, then brought to the case's dtype."""
    device: torch.device
    dtype: torch.dtype
    threads: int
    """That torch has on the CPU."""
    other: tuple[Any, Any] | None = None
    """Inputs and outputs, likewise, of another batch of the case, perhaps in other shapes; `None`: it has one batch."""
    quantize: str | None = None
    """One of the backend's `QUANTIZES`, in which it is to compute products; `None`: in none."""


@dataclass(frozen=True)
class Prepared:
    """A stage that is ready to run."""

    run: Callable[[Any], Any]
    """What a pass calls in place of the module, with the stage's input; returns its output, of the same kind. May be
    the module itself, changed."""
    computed_by: str
    """For the record: what computes, in a few words."""
    precision: str
    """In which it really computes, such as `float32`, `tf32`, `bfloat16` or `int8`."""
    packed_bytes: int = 0
    """Of copies of weights that it keeps beside the parameters, and that torch's allocator does not show."""
    allocates_elsewhere: bool = False
    """Whether what it allocates in a pass is not torch's, so that memory can't be told."""
    idle: str | None = None
    """Why the stage is as eager torch has it, as the end of a sentence: what is asked for finds nothing in it. It is no
    fall-back, unless all stages are so; `None`: it is not."""


class Backend(Protocol):
    """What computes stages in another way than torch's modules do, one operator after the other.

    It may have, besides:

    - `OPTIONS: Mapping[str, Values]`: its options beside `COMMON`; none is named as a backend is.
    - `DEVICES: Sequence[str]`: types of devices that it can use, such as `cpu`; without it, any.
    - `NEEDS: Mapping[str, str]`: packages that are imported, by what pip installs for them.
    - `QUANTIZES: Mapping[str, Mapping[str, str]]`: what it can quantise to, each with its needs.
    - `PRODUCTS: Mapping[str, Pack]`: its matrix products, where they may be faster than torch's, see `products`.
    - `KEEPS_MODULES: bool`: whether stages stay modules that call each other, which a profile tells apart.
    - `remarks() -> Iterable[str]`: what a reader must know of how the passes went, a sentence each.
    """

    def prepare(self, stage: StageToPrepare, options: Mapping[str, Option]) -> Prepared:
        """Returns the stage, ready to run; called once a stage, in order, before the first call.

        Parameters stay where they are. Gradients are off.

        Raises:
            NotPreparedError: it can't prepare the stage, and has left it as it was. Any other exception says so too,
                but for those of `vilt_bench.errors`, which refuse the case.
        """

    def version(self) -> str:
        """Returns the library that computes with its version, such as `openvino 2025.3.0`."""


def names() -> list[str]:
    """Returns the names of all backends; imports none of them."""
    return sorted({*_files(), *(point.name for point in entry_points(group=GROUP))})


def check(text: str, device: str = "auto", quantize: str | None = None) -> None:
    """Refuse a backend that can't be used as a text like `torch:channels_last` asks for; torch is not imported.

    Args:
        text: name and options.
        device: that is asked for, as far as it is known: `auto` is not.
        quantize: what weights and activations are to be brought to; `None`: nothing.

    Raises:
        ConfigError: there is none of that name, it can't be imported, what it needs is not installed, or it has no such
            option or value.
        DeviceError: it can't use the device.
    """
    name, options = parse_backend(text)
    backend = load(name)
    _check_needs(name, getattr(backend, "NEEDS", {}))
    _check_options(name, options, {**getattr(backend, "OPTIONS", {}), **COMMON})
    if quantize is not None:
        known: Mapping[str, Mapping[str, str]] = getattr(backend, "QUANTIZES", {})
        if quantize not in known:
            able = f"; it has {', '.join(known)}" if known else ""
            raise ConfigError(f"{quantize} is none that `backend` {name} has{able}; leave it out", field="quantize")
        _check_needs(f"{name} in {quantize}", known[quantize])
    if device != "auto":
        check_device(name, device)


def check_device(name: str, device: str) -> None:
    """Refuse a device that a backend can't use.

    Raises:
        ConfigError: as `load`.
        DeviceError: it can't use it.
    """
    devices: Sequence[str] | None = getattr(load(name), "DEVICES", None)
    if devices is not None and device.partition(":")[0] not in devices:
        raise DeviceError(f"`backend` {name} can't use {device}; give `device` {' or '.join(devices)}")


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
        raise ConfigError(f"{name!r} can't be imported: {problem}; mend or remove it", field="backend") from error
    missing = [each for each in ("prepare", "version") if not callable(getattr(backend, each, None))]
    if missing:
        raise ConfigError(f"{name!r} has no function {missing[0]}; expected prepare and version", field="backend")
    return cast("Backend", backend)


def products(text: str, *, importing: bool = True) -> dict[str, Pack]:
    """Returns the products that a machine's peak is tried with beside torch's own, by what they are in words.

    Each takes a weight [out, in] and returns the product with it, or `None` where it can't be had there.

    Args:
        text: a backend, whose products count beside those of this folder's: none is to undercut a least time.
        importing: whether to have those of other backends that need a package which is installed, but not imported.

    Raises:
        ConfigError: as `load`.
    """
    own = parse_backend(text)[0]
    found: dict[str, Pack] = {}
    for each in dict.fromkeys([*_files(), own]):
        backend = load(each)
        needs = getattr(backend, "NEEDS", {})
        if each == own or not (_absent(needs) if importing else needs.keys() - sys.modules.keys()):
            found |= getattr(backend, "PRODUCTS", {})
    return found


def own_products(name: str) -> Mapping[str, Pack]:
    """Returns a backend's products, as `products` has them; what needs a package that is not imported has none."""
    backend = load(name) if name in _files() else None
    return {} if getattr(backend, "NEEDS", {}).keys() - sys.modules.keys() else getattr(backend, "PRODUCTS", {})


def _files() -> list[str]:
    """Returns the names of the backends in this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _find(name: str) -> EntryPoint | None:
    """Returns the entry point that offers a backend; `None`: it is a file of this folder."""
    if name in _files():
        return None
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points:
        known = names()
        options = getattr(load(EAGER), "OPTIONS", {})
        if name.partition("=")[0].strip().replace("-", "_") in options:
            raise ConfigError(f"{name!r} is an option of {EAGER}; write {EAGER}:{name}", field="backend")
        guess = did_you_mean(nearest(name, known))
        raise ConfigError(f"{name!r} is none that is known{guess} there are {', '.join(known)}", field="backend")
    if len(points) > 1:
        raise ConfigError(f"{name!r} is offered as {' and '.join(points)}; uninstall all but one", field="backend")
    return next(iter(points.values()))


def _check_needs(name: str, needs: Mapping[str, str]) -> None:
    if missing := _absent(needs):
        install = " ".join(dict.fromkeys(shlex.quote(needs[package]) for package in missing))
        raise ConfigError(
            f"{name} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            f"python -m pip install {install}",
            field="backend",
        )


def _absent(needs: Iterable[str]) -> list[str]:
    """Returns the packages that are not installed."""
    return [package for package in needs if importlib.util.find_spec(package) is None]


def _check_options(name: str, options: Mapping[str, Option], known: Mapping[str, Values]) -> None:
    for key, value in options.items():
        if key not in known:
            guess = did_you_mean(nearest(key, [*known, *names()]))
            raise ConfigError(f"{name} has no option {key!r}{guess} it has {', '.join(known)}", field="backend")
        values = known[key]
        if isinstance(values, type):
            fits = isinstance(value, (int, float) if values is float else values)
            if not fits or (isinstance(value, bool) and values is not bool):
                raise ConfigError(f"{name}: {key} must be {_KINDS[values]}, got {value}", field="backend")
        elif value not in values:
            got = "no value" if value is True else str(value)
            raise ConfigError(f"{name}: {key} must be one of {', '.join(values)}; got {got}", field="backend")
