"""Reads weights from files and loads them into modules: completely, or not at all."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vilt_bench import files
from vilt_bench.errors import CheckpointError, FileError

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Under which Lightning, detectron2 and others, PyTorch's tutorials, and DeepSpeed keep a state dict."""
_PARALLEL = "module."
"""What DataParallel, DistributedDataParallel and AveragedModel put before all names."""
_AVERAGED = "n_averaged"
"""AveragedModel's counter."""
_INNER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FullyShardedDataParallel and checkpoint_wrapper put before the names of any module."""
_COUNTER = "num_batches_tracked"
"""Batch normalisation's, which old checkpoints lack, and evaluation does not use."""
_SHOWN = 3


class StateDict(dict[str, Tensor]):
    """Tensors by name, and where they come from."""

    def __init__(self, tensors: Mapping[str, Tensor], *, path: str, removed: Sequence[str] = ()) -> None:
        """Take the tensors.

        Args:
            tensors: by name.
            path: of the file or folder.
            removed: words that were taken off the names.
        """
        super().__init__(tensors)
        self.path = path
        self.removed = tuple(removed)

    @property
    def remark(self) -> str:
        """What was taken off the names, to stand behind the path; empty: nothing was."""
        return f", its names without {' and '.join(self.removed)}" if self.removed else ""

    @property
    def origin(self) -> str:
        """For reports: the path, and what was taken off the names."""
        return f"{self.path}{self.remark}"

    def fitted(self, own: Collection[str]) -> StateDict:
        """Returns the tensors without a word that stands before all names and not before the module's.

        Training keeps the module as an attribute of another: Lightning's `model.`, for example.

        Args:
            own: the module's names.
        """
        word = f"{next(iter(self), '').partition('.')[0]}."
        if any(name.startswith(word) for name in own) or not all(name.startswith(word) for name in self):
            return self
        inner = {name.removeprefix(word): tensor for name, tensor in self.items()}
        if inner.keys().isdisjoint(own):
            return self  # of another model, by the names that it has
        return StateDict(inner, path=self.path, removed=(*self.removed, word))


def load_weights(module: nn.Module, path: str) -> str:
    """Loads a file's or folder's tensors into the module, whose names and shapes must be the same.

    Returns where the weights come from, for reports: the path, and what was taken off the names.

    Raises:
        CheckpointError: the weights are unreadable, incomplete, or of another model; the module is unchanged.
    """
    state = read_state_dict(path).fitted(module.state_dict())
    load_strictly(module, state, name=path)
    return state.origin


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Loads the state dict into the module, whose names and shapes must be the same, but for counters of batches.

    Args:
        module: what gets the weights, in its own dtype and on its own device.
        state: tensors by name.
        name: where the state dict comes from, for messages.

    Raises:
        CheckpointError: tensors are missing, unexpected or of the wrong shape; the module is unchanged.
    """
    own = module.state_dict()
    refuse_differences(
        {key: tuple(tensor.shape) for key, tensor in own.items() if key in state or not key.endswith(_COUNTER)},
        {key: tuple(tensor.shape) for key, tensor in state.items()},
        name=name,
    )
    counters = {key: tensor for key, tensor in own.items() if key.endswith(_COUNTER)}
    module.load_state_dict(counters | dict(state))


def refuse_differences(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], *, name: str
) -> None:
    """Compares the shapes of what a model needs with those of what a checkpoint has, by name.

    Raises:
        CheckpointError: they differ; the message names the first few of each kind.
    """
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    wrong = [
        f"{key} {_shape(given[key])} instead of {_shape(shape)}"
        for key, shape in expected.items()
        if key in given and given[key] != shape
    ]
    problems = [
        f"{len(found)} {what}: {_some(found)}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{name} does not fit the model; {'; '.join(problems)}; give the checkpoint of this model, "
            "or build the model in the checkpoint's size"
        )


def read_state_dict(path: str) -> StateDict:
    """Returns the tensors of a file, or of a folder in Hugging Face's layout, by name and on the CPU.

    A file is read as safetensors where its name ends so, else as torch's pickle of tensors only. A state dict
    inside of `{"state_dict": …}` or the like is unwrapped, and what training wraps modules in is taken off the names.

    Raises:
        CheckpointError: nothing is there, or it is unreadable, truncated, unsafe, or no state dict.
    """
    try:
        return _plain(_read_folder(Path(path)) if files.is_folder(path) else _read_file(Path(path)), path)
    except FileError as error:
        problem = f"no weights at {path}" if error.missing else str(error)
        raise CheckpointError(f"{problem}; expected a file or a folder that holds {_WHOLE[0]}") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {files.why(error)}") from None


def _plain(tensors: Mapping[str, Tensor], path: str) -> StateDict:
    """Returns the tensors by the names that they have in a module that nothing wraps."""
    removed = dict.fromkeys(found for name in tensors for found in _INNER.findall(name))
    state = {_INNER.sub("", name): tensor for name, tensor in tensors.items()}
    while (names := state.keys() - {_AVERAGED}) and all(name.startswith(_PARALLEL) for name in names):
        removed[_PARALLEL.removesuffix(".")] = None
        state = {name.removeprefix(_PARALLEL): state[name] for name in state if name != _AVERAGED}
    return StateDict(state, path=path, removed=[f"{word}." for word in removed])


def _read_folder(folder: Path) -> dict[str, Tensor]:
    for name, index_name in zip(_WHOLE, _SHARDED, strict=True):
        if files.is_file(folder / name):
            return _read_file(folder / name)
        if files.is_file(folder / index_name):
            return _read_shards(folder / index_name)
    raise CheckpointError(f"the folder {folder} holds no weights; expected {', '.join((*_WHOLE, *_SHARDED))}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        parts: dict[str, str] = files.read_json(index)["weight_map"]
        names = sorted({Path(file).name for file in parts.values()})  # no way out of the folder
    except (FileError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} is no index of weights; expected JSON with a weight_map") from None
    state: dict[str, Tensor] = {}
    for name in names:
        if not files.is_file(index.parent / name):
            raise CheckpointError(
                f"{index.parent / name} is missing; {index.name} names it; fetch the whole checkpoint"
            )
        state |= _read_file(index.parent / name)
    return state


def _read_file(path: Path) -> dict[str, Tensor]:
    files.check_regular(path)  # a pipe would be waited for
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is no whole safetensors file ({_first_line(error)}); fetch it again"
            ) from None
    try:
        # What timm and others keep of the command line beside the tensors holds values only.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise CheckpointError(
            f"{path} is truncated, no weights file, or a pickle that would run code; expected tensors only, "
            "as in a .safetensors file"
        ) from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch.load documents no errors for damaged files and raises all kinds
        raise CheckpointError(
            f"{path} is truncated or no weights file ({_first_line(error)}); fetch it again"
        ) from None
    return _unwrap(content, str(path))


def _unwrap(content: Any, name: str) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    ):
        raise CheckpointError(f"{name} is no state dict; expected tensors by name, or those under 'state_dict'")
    return dict(content)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
