"""Puts off imports of torch's compiler and of sympy, which take a second of CPU time, until something needs them.

Torch's Python kernels, and torchvision's operators, import them only to ask what is known without them: whether a plain
number is symbolic, or what the compiler supports once it is asked to compile. A stand-in answers that, and whatever
else is wanted of it brings the module itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands in for a module that is not imported yet; once it is, whatever is asked of it comes from there."""

    def __init__(self, name: str, known: Mapping[str, Any]) -> None:
        """Import nothing.

        Args:
            name: of the module.
            known: what it has that needs no import, by name.
        """
        super().__init__(name)
        self._known = known

    def __getattr__(self, name: str) -> Any:
        """Returns what the module has under the name; imports it unless that is known."""
        if name.startswith("__"):
            raise AttributeError(name)
        module = sys.modules.get(self.__name__)
        if module is None or module is self:
            if name in self._known:
                return self._known[name]
            module = _imported(self.__name__)
        return getattr(module, name)


@contextmanager
def deferring(*modules: Deferred) -> Iterator[None]:
    """Returns a context in which those modules that are not imported yet have stand-ins."""
    put = [module for module in modules if module.__name__ not in sys.modules]
    sys.modules.update({module.__name__: module for module in put})
    try:
        yield
    finally:
        for module in put:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]


@contextmanager
def lean_torchvision() -> Iterator[None]:
    """Returns a context in which torchvision, if it is imported, does not import torch's compiler."""
    finder = _TorchvisionFinder()
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _TorchvisionFinder(MetaPathFinder):
    """Finds torchvision where it is, and lets it be imported beside a stand-in."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def beside_a_stand_in(module: ModuleType) -> None:
                with deferring(Deferred(_COMPILER_UTILITIES, {"is_compile_supported": _is_compile_supported})):
                    execute(module)

            spec.loader.exec_module = beside_a_stand_in  # type: ignore[method-assign]
        return spec


_COMPILER_UTILITIES = "torch._dynamo.utils"
_SHAPES = "torch.fx.experimental.symbolic_shapes"


def _is_compile_supported(device_type: str) -> Any:
    return _imported(_COMPILER_UTILITIES).is_compile_supported(device_type)


def _imported(name: str) -> ModuleType:
    """Returns the module itself, in place of a stand-in."""
    if isinstance(sys.modules.get(name), Deferred):
        del sys.modules[name]
    return importlib.import_module(name)


def plain_shapes() -> tuple[Deferred, Deferred]:
    """Returns stand-ins for what knows symbolic numbers, by which plain ones are what they are.

    Source: the functions of the same names in torch.fx.experimental.symbolic_shapes, for bools and ints.
    """
    return Deferred(_SHAPES, {name: _if_plain(name, answer) for name, answer in _PLAIN.items()}), Deferred(
        "sympy", {"Basic": _Nothing}
    )


class _Nothing:
    """A class without instances: while sympy is not imported, there are none of its."""


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _itself(value: Any, *_: Any) -> Any:
    return value


_PLAIN: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true"), _itself),
    **dict.fromkeys(("expect_true", "guard_int", "guarding_hint_or_throw"), _itself),
    "has_guarding_hint": lambda _number: True,
    "sym_and": lambda *found: all(found),
    "sym_or": lambda *found: any(found),
    "sym_eq": _equal,
    "is_nested_int": lambda _number: False,
}


def _if_plain(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that answers of bools and ints, and leaves others to the function of that name."""

    def ask(*arguments: Any, **options: Any) -> Any:
        if not options and all(map(_is_plain, arguments)):
            return answer(*arguments)
        return getattr(_imported(_SHAPES), name)(*arguments, **options)

    return ask


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return type(value) in (bool, int, float)
