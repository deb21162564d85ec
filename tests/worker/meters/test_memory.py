"""Memory, against sizes that are known."""

import pytest
import torch

from vilt_bench.worker.meters.memory import live_bytes, measure_memory

MEBIBYTE = 2**20


def pass_of_known_size(mark):
    kept = torch.zeros(MEBIBYTE // 4)
    mark("keeps one", kept)
    passing = torch.zeros(3 * MEBIBYTE // 4)
    del passing
    mark("passes three", kept)
    more = kept + 1
    mark("keeps another", more)


def test_peak_and_live_memory_on_the_cpu_are_those_of_the_tensors():
    reading = measure_memory(pass_of_known_size, [torch.zeros(MEBIBYTE // 2)], torch.device("cpu"))
    resident = 2 * MEBIBYTE
    found = {
        name: [(memory.live_before_bytes - resident) / MEBIBYTE, (memory.peak_bytes - resident) / MEBIBYTE]
        for name, memory in reading.stages.items()
    }
    assert found == {
        "keeps one": pytest.approx([0, 1], abs=0.01),
        "passes three": pytest.approx([1, 4], abs=0.01),
        "keeps another": pytest.approx([1, 2], abs=0.01),
    }
    assert reading.method is not None


def test_a_storage_counts_once_however_many_tensors_look_at_it():
    base = torch.zeros(100)
    assert live_bytes([base, base[10:], base.view(10, 10)]) == 400


def test_memory_of_a_device_that_does_not_tell_is_absent():
    reading = measure_memory(pass_of_known_size, [], torch.device("mps"))
    assert not reading.stages
    assert reading.method is None


@pytest.mark.gpu
def test_cuda_peak_is_the_allocators():
    device = torch.device("cuda:0")

    def forward(mark):
        passing = torch.zeros(64 * MEBIBYTE // 4, device=device)
        del passing
        mark("passes", None)
        mark("nothing", None)

    reading = measure_memory(forward, [], device)
    passes, nothing = reading.stages["passes"], reading.stages["nothing"]
    assert passes.peak_bytes - passes.live_before_bytes == 64 * MEBIBYTE
    assert passes.live_after_bytes == passes.live_before_bytes
    assert nothing.peak_bytes == nothing.live_before_bytes
