"""A stage as an inference request of OpenVINO, on torch's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vilt_bench.errors import ConfigError
from vilt_bench.worker.backends import NotPreparedError, Prepared, StageToPrepare
from vilt_bench.worker.backends._exported import (
    Graph,
    Outputs,
    check,
    check_quantized,
    converting,
    export,
    quiet,
)

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing openvino would send an event

import openvino as ov  # noqa: E402
from openvino import opset13 as opset  # noqa: E402

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
"""By dtype, the precision in which OpenVINO is told to compute: by itself it would choose."""
_CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
_NAMES = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "i8": "int8",
    "u8": "int8",
}
_PRODUCTS = (
    "FullyConnected",
    "Convolution",
    "Deconvolution",
    "MatMul",
    "GroupConvolution",
    "ScaledDotProductAttention",
)
"""Kinds of layers whose precision is that of the stage, as OpenVINO names what it executes."""
_OF_16_BITS = {torch.bfloat16: ov.Type.bf16}
"""Types that NumPy has not."""


def prepare(stage: StageToPrepare, device: str, hint: Any) -> Prepared:
    """Returns the stage compiled.

    Args:
        stage: any.
        device: one of OpenVINO's.
        hint: of the precision; `None`: that of the case's dtype.

    Raises:
        ConfigError: the device is not there, or has no such precision.
        NotPreparedError: the stage can't be exported or converted, or is right for its example only.
    """
    core = _core()
    hint = str(hint or HINTS[stage.dtype])
    _check(core, device, hint)
    check_quantized(stage)
    with quiet():
        graph = export(stage)
        if not graph.output_names:
            return Prepared(graph.called_as_stage(lambda _: []), "nothing, as it computes nothing", _NAMES[hint])
        with converting("OpenVINO"):
            model = _quantized(_convert(graph), stage)
            compiled = _compile(core, model, device, hint, stage.threads)
    run = graph.called_as_stage(_requested(compiled, graph, _handed_through(model, compiled)))
    precision = _precision(compiled) or _NAMES[hint]
    check(stage, run, precision)
    told = "" if "int8" not in precision else ", int8 weights and activations by NNCF"
    return Prepared(run, f"OpenVINO, {device}{told}", precision, allocates_elsewhere=True)


def pack(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns the product with a weight [out, in] on the CPU; what it returns is written again by the next product."""
    hint = HINTS.get(weight.dtype)
    if weight.device.type != "cpu" or hint is None:
        return None
    core = _core()
    if _CAPABILITIES[hint] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    kind = _type(weight.dtype)
    rows_in = opset.parameter([-1, weight.shape[1]], kind)
    multiplied = opset.matmul(rows_in, opset.constant(_shared(weight.contiguous())), False, True)
    compiled = _compile(core, ov.Model([multiplied], [rows_in]), "CPU", hint, torch.get_num_threads())
    request = compiled.create_infer_request()

    def product(rows: Tensor) -> Tensor:
        request.set_input_tensor(0, _shared(rows.contiguous()))
        request.infer()
        return _seen(request.get_output_tensor(0), weight.dtype)

    return product


def _quantized(model: ov.Model, stage: StageToPrepare) -> ov.Model:
    """Returns the model with products in int8, where it has weights for them; ranges are those of the case's inputs."""
    weighted = any(isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) for layer in stage.module.modules())
    if stage.quantize is None or not weighted:
        return model
    import nncf

    seen = [stage.inputs] if stage.other is None else [stage.inputs, stage.other[0]]
    examples = [[leaf.numpy() for leaf in pytree.tree_leaves(each) if isinstance(leaf, Tensor)] for each in seen]
    is_transformer = any(isinstance(layer, nn.LayerNorm) for layer in stage.module.modules())
    made: ov.Model = nncf.quantize(
        model,
        nncf.Dataset(examples),
        subset_size=len(examples),
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
    )
    return made


@cache
def _core() -> ov.Core:
    return ov.Core()


def _check(core: ov.Core, device: str, hint: str) -> None:
    there = core.available_devices
    # One that chooses among others, such as AUTO or HETERO:GPU,CPU, is not among them. Of several, GPU is GPU.0.
    chooses = device.partition(":")[0] in ("AUTO", "BATCH", "HETERO", "MULTI")
    if not chooses and device.partition(".")[0] not in {each.partition(".")[0] for each in there}:
        raise ConfigError(f"openvino: there is no device {device} here; there is {', '.join(there)}", field="backend")
    if device == "CPU":
        able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
        if _CAPABILITIES[hint] not in able:
            names = [name for name, capability in _CAPABILITIES.items() if capability in able]
            raise ConfigError(
                f"openvino: this processor does not compute in {_NAMES[hint]}; give precision={' or '.join(names)}",
                field="backend",
            )


def _convert(graph: Graph) -> ov.Model:
    model = ov.convert_model(graph.program)
    if len(model.inputs) != len(graph.examples):
        raise NotPreparedError(f"of its {len(graph.examples)} inputs, OpenVINO has {len(model.inputs)}")
    # It leaves all sizes open, and would be slower for it.
    model.reshape(
        {
            port: [-1 if size is None else size for size in sizes]
            for port, sizes in zip(model.inputs, graph.input_shapes, strict=True)
        }
    )
    return model


def _compile(core: ov.Core, model: ov.Model, device: str, hint: str, threads: int) -> ov.CompiledModel:
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return core.compile_model(model, device, settings)


def _precision(compiled: ov.CompiledModel) -> str:
    """Returns in which precisions the layers with products are executed, the coarsest last; empty: there are none."""
    found: dict[str, None] = {}
    for layer in compiled.get_runtime_model().get_ordered_ops():
        told = layer.get_rt_info()
        if told["layerType"].astype(str) in _PRODUCTS:
            precision = told["runtimePrecision"].astype(str)
            found[_NAMES.get(precision, precision)] = None
    return " and ".join(found)


def _handed_through(model: ov.Model, compiled: ov.CompiledModel) -> dict[int, int]:
    """Returns by the indices of outputs those of the inputs that they are, unchanged: OpenVINO does not write them.

    Raises:
        NotPreparedError: compiling has found more of them.
    """
    inputs = {parameter.get_friendly_name(): index for index, parameter in enumerate(model.get_parameters())}
    found = {
        index: inputs[source.get_friendly_name()]
        for index, result in enumerate(model.get_results())
        if (source := result.input_value(0).get_node()).get_type_name() == "Parameter"
    }
    executed = compiled.get_runtime_model().get_results()
    if sum(each.input_value(0).get_node().get_type_name() == "Parameter" for each in executed) > len(found):
        raise NotPreparedError("OpenVINO returns an input as it is, and would not write it")
    return found


def _requested(
    compiled: ov.CompiledModel, graph: Graph, handed: Mapping[int, int]
) -> Callable[[list[Tensor]], list[Tensor]]:
    """Returns a run in which nothing is copied, where shapes are known: OpenVINO writes where torch reads."""
    request = compiled.create_infer_request()
    outputs = [
        None if shape is None or index in handed else Outputs(shape, dtype, torch.device("cpu"))
        for index, (shape, dtype) in enumerate(zip(graph.shapes, graph.dtypes, strict=True))
    ]
    for port, dtype in zip(compiled.outputs, graph.dtypes, strict=True):
        if port.get_element_type() != _type(dtype):
            raise NotPreparedError(
                f"OpenVINO returns {port.get_element_type()} for {str(dtype).removeprefix('torch.')}"
            )

    def run(inputs: list[Tensor]) -> list[Tensor]:
        given = [each.contiguous() for each in inputs]
        for index, tensor in enumerate(given):
            request.set_input_tensor(index, _shared(tensor))
        made: list[Tensor | None] = []
        for index, output in enumerate(outputs):
            if output is None:
                made.append(given[handed[index]] if index in handed else None)
                continue
            tensor = output.next()
            request.set_output_tensor(index, _shared(tensor))
            made.append(tensor)
        request.infer()
        return [
            _seen(request.get_output_tensor(index), graph.dtypes[index]).clone() if tensor is None else tensor
            for index, tensor in enumerate(made)
        ]

    return run


def _type(dtype: torch.dtype) -> ov.Type:
    return _OF_16_BITS.get(dtype) or ov.Type(torch.empty(0, dtype=dtype).numpy().dtype)


def _shared(tensor: Tensor) -> ov.Tensor:
    if (kind := _OF_16_BITS.get(tensor.dtype)) is not None:
        return ov.Tensor(tensor.view(torch.int16).numpy(), _shape(tensor), kind)
    return ov.Tensor(tensor.numpy(), shared_memory=True)


def _seen(tensor: ov.Tensor, dtype: torch.dtype) -> Tensor:
    """Returns OpenVINO's memory as a tensor of torch."""
    return torch.from_numpy(tensor.data.view("int16") if dtype in _OF_16_BITS else tensor.data).view(dtype)


def _shape(tensor: Tensor) -> Sequence[int]:
    return list(tensor.shape)
