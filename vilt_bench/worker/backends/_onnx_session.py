"""A stage as a session of ONNX Runtime, bound to torch's memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from vilt_bench import files
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

BY_DEVICE = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.int8: onnx.TensorProto.INT8,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.bool: onnx.TensorProto.BOOL,
}
_OPSET, _FORMAT = 18, 9
"""Of ONNX, for a graph made by hand: what the oldest runtime that is asked for reads."""
_FATAL = 4
"""The severity of messages from which on the runtime prints them; what fails, it raises."""


def prepare(stage: StageToPrepare, asked_for: Any) -> Prepared:
    """Returns the stage as a session.

    Args:
        stage: any.
        asked_for: a provider's name; `None`: that of the device.

    Raises:
        ConfigError: the provider is not there, is of another device, or does not compute in the dtype.
        NotPreparedError: the stage can't be exported, or is right for its example only.
    """
    provider = _provider(stage, asked_for)
    check_quantized(stage)
    dtype = str(stage.dtype).removeprefix("torch.")
    with quiet(), files.scratch() as folder:
        graph = export(stage)
        if not graph.output_names:
            return Prepared(graph.called_as_stage(lambda _: []), "nothing, as it computes nothing", dtype)
        path = Path(folder, "stage.onnx")
        # In a file, weights in another: a message of the format has 2 GB at most.
        with converting("torch.onnx.export"):
            made = torch.onnx.export(
                graph.program,
                graph.examples,
                input_names=graph.input_names,
                output_names=graph.output_names,
                dynamo=True,
                verbose=False,
            )
            assert made is not None
            made.save(path, external_data=True)
        del made
        if stage.quantize is not None:
            with converting("ONNX Runtime's quantisation"):
                path, dtype = _quantized(path)
        session = _session(path, stage, provider)
    run = graph.called_as_stage(_bound(session, graph, stage.device))
    check(stage, run, dtype)
    told = "" if dtype != "int8" else ", int8 weights and activations of matrix products"
    return Prepared(run, f"ONNX Runtime, {provider}{told}", dtype, allocates_elsewhere=True)


def pack(weight: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns the product with a weight [out, in] in float32 on the CPU; `None` for others."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    outputs, inputs = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weight"], ["product"])],
        "product",
        [helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info("product", onnx.TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(weight.t().contiguous().numpy(), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_FORMAT)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), _options(torch.get_num_threads()), providers=[BY_DEVICE["cpu"]]
    )

    def product(rows: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"rows": rows.numpy()})[0])

    return product


def _quantized(path: Path) -> tuple[Path, str]:
    """Returns the graph with matrix products in int8, where it has any, and its precision.

    Weights are quantised by channel, activations in each pass by their own range. Convolutions stay: the runtime has
    but slow ones of this kind.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    new = path.with_stem("quantized")
    quantize_dynamic(
        path,
        new,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    nodes = onnx.load(new, load_external_data=False).graph.node
    return new, "int8" if any(node.op_type == "MatMulInteger" for node in nodes) else "float32"


def _provider(stage: StageToPrepare, asked_for: Any) -> str:
    """Returns the provider, where it can compute the stage."""
    usual = BY_DEVICE[stage.device.type]
    provider = str(asked_for or usual)
    there = onnxruntime.get_available_providers()
    if provider not in there:
        install = "; python -m pip install onnxruntime-gpu in place of onnxruntime" if "CUDA" in provider else ""
        raise ConfigError(
            f"onnxruntime: there is no {provider} here{install}; there are {', '.join(there)}", field="backend"
        )
    if provider in BY_DEVICE.values() and provider != usual:
        raise ConfigError(
            f"onnxruntime: {provider} is of another `device` than {stage.device.type}; give `device` "
            f"{next(name for name, each in BY_DEVICE.items() if each == provider)}",
            field="backend",
        )
    if provider == BY_DEVICE["cpu"] and stage.dtype != torch.float32:
        dtype = str(stage.dtype).removeprefix("torch.")
        raise ConfigError(
            f"onnxruntime computes in float32 on the CPU, and `dtype` is {dtype}; give `dtype` float32", field="backend"
        )
    return provider


def _session(path: Path, stage: StageToPrepare, provider: str) -> onnxruntime.InferenceSession:
    settings: dict[str, Any] = {}
    if provider == BY_DEVICE["cuda"]:
        # On torch's stream, so that one is done before the other begins, and the clock between them is right.
        stream = torch.cuda.current_stream(stage.device)
        settings = {"device_id": stage.device.index or 0, "user_compute_stream": str(stream.cuda_stream)}
    with converting("ONNX Runtime"):
        return onnxruntime.InferenceSession(path, _options(stage.threads), providers=[(provider, settings)])


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _bound(
    session: onnxruntime.InferenceSession, graph: Graph, device: torch.device
) -> Callable[[list[Tensor]], list[Tensor]]:
    """Returns a run in which nothing is copied, where shapes are known: the session writes where torch reads."""
    kept = {each.name for each in session.get_inputs()}
    names = [name if name in kept else None for name in graph.input_names]
    place = (device.type, device.index or 0)
    outputs = [
        (name, dtype, None if shape is None else Outputs(shape, dtype, device))
        for name, shape, dtype in zip(graph.output_names, graph.shapes, graph.dtypes, strict=True)
    ]
    for tensor_dtype in {*graph.dtypes, *(each.dtype for each in graph.examples)}:
        if tensor_dtype not in _TYPES:
            raise NotPreparedError(f"ONNX Runtime has no {str(tensor_dtype).removeprefix('torch.')} tensors")

    def run(inputs: list[Tensor]) -> list[Tensor]:
        binding = session.io_binding()
        given = [each.contiguous() for each in inputs]
        for name, tensor in zip(names, given, strict=True):
            if name is not None:
                shape = tuple(tensor.shape)
                binding.bind_input(name, *place, _TYPES[tensor.dtype], shape, tensor.data_ptr())
        made: list[Tensor | None] = []
        for name, dtype, output in outputs:
            if output is None:
                binding.bind_output(name, "cpu")
                made.append(None)
                continue
            tensor = output.next()
            binding.bind_output(name, *place, _TYPES[dtype], tuple(tensor.shape), tensor.data_ptr())
            made.append(tensor)
        session.run_with_iobinding(binding)
        if all(each is not None for each in made):
            return [each for each in made if each is not None]
        values = binding.get_outputs()
        return [
            torch.from_numpy(value.numpy()).to(device) if tensor is None else tensor
            for value, tensor in zip(values, made, strict=True)
        ]

    return run
