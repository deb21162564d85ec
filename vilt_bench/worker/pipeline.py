"""Measures preprocessing and model at the same time, as in serving: processes prepare batches while the model runs.

The processes are those of torch's `DataLoader`. Each block is timed three ways, one after the other, so that drift hits
all alike: batches prepared and computed at the same time, prepared only, and computed only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vilt_bench.ask.case import Case
from vilt_bench.embedding import ImageBatch, TextBatch
from vilt_bench.errors import ConfigError
from vilt_bench.model import VisionLanguageModel
from vilt_bench.record.run import Pipelined
from vilt_bench.words import counted
from vilt_bench.worker.failures import first_line
from vilt_bench.worker.inputs import Inputs
from vilt_bench.worker.preprocessing import Encoded, Preprocessing

PREFETCHED = 2
"""Batches that each process has ready or in the making; `DataLoader`'s default."""
UNDER_WAY = 2
"""Passes that an accelerator has at once, at most: it does not wait for the host, and the host not long for it."""
LEAST_BATCHES = 3
"""In a block."""

Model = Callable[[ImageBatch, TextBatch], object]
Clock = Callable[[], float]
"""Seconds."""


class Batches(Dataset[ImageBatch]):
    """Prepares the batch of an index, from its files in memory to the CPU's memory."""

    def __init__(self, preprocessing: Preprocessing, encoded: tuple[Encoded, ...]) -> None:
        """Take what prepares, and the files of each batch."""
        self._stages = preprocessing.on_host()
        self._encoded = encoded

    def __getitem__(self, index: int) -> ImageBatch:
        """Returns the batch."""
        value: object = self._encoded[index % len(self._encoded)]
        with torch.no_grad():
            for stage in self._stages:
                value = stage(value)
        assert isinstance(value, ImageBatch)
        return value


class _Endless:
    """The indices of batches, without end: a new epoch would start with nothing prepared."""

    def __iter__(self) -> Iterator[int]:
        index = 0
        while True:
            yield index
            index += 1


def check_pinning(case: Case, device: torch.device) -> None:
    """Refuse pinned memory where there is no accelerator that copies from it.

    Raises:
        ConfigError: there is none, or torch has no such memory for it.
    """
    if not case.pin_memory:
        return
    if device.type == "cpu":
        raise ConfigError(
            "is memory that accelerators copy from while the host works, and `device` cpu is none; leave it out",
            field="pin_memory",
        )
    try:
        torch.empty(1, device="cpu").pin_memory()
    except Exception as error:  # whatever a device's package objects to
        raise ConfigError(
            f"is not to be had with `device` {device} ({type(error).__name__}: {first_line(error)}); leave it out",
            field="pin_memory",
        ) from error


@dataclass
class Pipeline:
    """A case's images on their way through processes that prepare them, and its model."""

    model: Model
    inputs: Inputs
    device: torch.device
    dtype: torch.dtype
    workers: int
    pinned: bool
    clock: Clock = time.perf_counter
    _batches: Iterator[ImageBatch] | None = field(default=None, init=False)
    _passes: int = field(default=0, init=False)
    _ends: deque[Any] = field(default_factory=deque, init=False)
    """Of the passes that are under way on an accelerator."""

    @classmethod
    def of(cls, case: Case, model: VisionLanguageModel, inputs: Inputs) -> Pipeline:
        """Returns that of a case with workers."""
        assert case.preprocessing_workers is not None
        pixels = inputs.batches[0][0].pixels
        return cls(model, inputs, pixels.device, pixels.dtype, case.preprocessing_workers, case.pin_memory)

    def measure(self, seconds: float) -> Pipelined:
        """Returns how long a batch took in one block of each kind.

        Args:
            seconds: about how long each block; `LEAST_BATCHES` at least.
        """
        with torch.inference_mode():
            if self._batches is None:
                self._batches = self._started()
                self._compute(self._next())
            host_s, _ = self._block(seconds, lambda: self._next())
            pipelined_s, batches = self._block(seconds, lambda: self._compute(self._next()))
            self._fill(host_s)
            model_s, _ = self._block(seconds, self._compute_resident)
        return Pipelined(
            self.workers,
            self.pinned,
            pipelined_s=(pipelined_s,),
            preprocessing_s=(host_s,),
            model_s=(model_s,),
            batches=(batches,),
            method=self.method,
        )

    @property
    def method(self) -> str:
        """How it is measured, in words."""
        if not self.workers:
            return f"torch {torch.__version__}'s DataLoader without processes: a batch is prepared, then computed"
        return (
            f"torch {torch.__version__}'s DataLoader, {counted(self.workers, 'process', 'processes')} of one thread "
            f"that prepare {PREFETCHED} batches each beforehand"
        )

    def close(self) -> None:
        """End the processes."""
        self._batches = None

    def _started(self) -> Iterator[ImageBatch]:
        assert self.inputs.loading is not None
        loader: DataLoader[ImageBatch] = DataLoader(
            Batches(self.inputs.loading, self.inputs.encoded),
            batch_size=None,
            sampler=_Endless(),
            num_workers=self.workers,
            prefetch_factor=PREFETCHED if self.workers else None,
            pin_memory=self.pinned,
        )
        return iter(loader)

    def _next(self) -> ImageBatch:
        assert self._batches is not None
        return next(self._batches)

    def _block(self, seconds: float, step: Callable[[], object]) -> tuple[float, int]:
        """Returns the seconds of a batch over a block, and how many there were; without what was prepared before it."""
        self._drain(seconds, step)
        self._synchronize()
        begin = self.clock()
        count = 0
        while count < LEAST_BATCHES or self.clock() - begin < seconds:
            step()
            count += 1
        self._synchronize()
        return (self.clock() - begin) / count, count

    def _drain(self, seconds: float, step: Callable[[], object]) -> None:
        """Run as many steps as use up what was prepared beforehand; for about a block's time at most."""
        end = self.clock() + seconds
        for _ in range(self.workers * PREFETCHED + 1):
            step()
            if self.clock() >= end:
                break

    def _fill(self, batch_s: float) -> None:
        """Sleep until the processes have prepared what they prepare beforehand, and rest."""
        if self.workers:
            time.sleep((self.workers * PREFETCHED + 1) * batch_s)

    def _compute(self, images: ImageBatch) -> None:
        self._run(self._on_device(images))

    def _compute_resident(self) -> None:
        images, _ = self.inputs.batches[self._passes % len(self.inputs.batches)]
        self._run(images)

    def _run(self, images: ImageBatch) -> None:
        _, text = self.inputs.batches[self._passes % len(self.inputs.batches)]
        self._passes += 1
        self.model(images, text)
        if self.device.type != "cpu":
            self._wait_for_all_but(UNDER_WAY)

    def _wait_for_all_but(self, passes: int) -> None:
        """Wait until no more passes than that are under way: the host would enqueue them by the thousand."""
        event: Any = torch.Event(self.device)
        event.record()
        self._ends.append(event)
        if len(self._ends) > passes:
            self._ends.popleft().synchronize()

    def _on_device(self, images: ImageBatch) -> ImageBatch:
        def moved(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
            there = tensor.to(self.device, non_blocking=self.pinned)
            return there if dtype is None else there.to(dtype)

        mask = None if images.mask is None else moved(images.mask)
        return images._replace(pixels=moved(images.pixels, self.dtype), mask=mask)

    def _synchronize(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
