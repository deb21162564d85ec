"""FLOPs by stage, operator by operator on the meta device, 2 per multiply-add.

On a real CPU a counter misses fused attention; on the meta device it does not. Whatever multiplies has a formula here
or in torch's registry (`torch.utils.flop_counter.register_flop_formula`, which an embedder of one's own may use too).
What is listed in `FREE`, elementwise operators, and views count 0. Any other operator makes its stage's count unknown.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vilt_bench.worker.meters.latency import Forward

Formula = Callable[..., int]
"""Returns an operator's FLOPs from its output and its arguments."""

FREE: Mapping[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "creation": """
            _efficientzerotensor arange bartlett_window blackman_window empty empty_like empty_permuted empty_strided
            eye fft_fftfreq fft_rfftfreq from_file full full_like hamming_window hann_window kaiser_window linspace
            logspace new_empty new_empty_strided new_full new_ones new_zeros ones ones_like range scalar_tensor
            tril_indices triu_indices zeros zeros_like""",
        "copies": """
            _chunk_cat _copy_from _lazy_clone _pack_padded_sequence _pin_memory _reshape_copy _stack _to_copy
            _unsafe_view as_strided_scatter block_diag cat channel_shuffle clone col2im complex constant_pad_nd copy
            diag_embed diagonal_scatter fill flip im2col lift lift_fresh pixel_shuffle pixel_unshuffle reflection_pad1d
            reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
            replication_pad3d resize resize_as roll rot90 select_scatter set slice_scatter stack to_padded_tensor tril
            triu unsafe_split unsafe_split_with_sizes zero""",
        "indexing": """
            _embedding_bag _embedding_bag_forward_only _index_put_impl _unsafe_index _unsafe_index_put
            _unsafe_masked_index _unsafe_masked_index_put_accumulate bucketize embedding embedding_renorm gather index
            index_add index_copy index_fill index_put index_reduce index_select isin masked_scatter masked_select
            nonzero nonzero_static put scatter scatter_add scatter_reduce searchsorted take""",
        "reductions": """
            _aminmax _cummax_helper _cummin_helper _is_all_true _is_any_true _logcumsumexp _unique _unique2 all
            allclose amax amin aminmax any argmax argmin bincount count_nonzero cummax cummin cumprod cumsum dist equal
            histc kthvalue linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmedian nansum norm
            prod segment_reduce sort std std_mean sum topk trace unique_consecutive unique_dim
            unique_dim_consecutive var var_mean""",
        "pooling": """
            _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d
            fractional_max_pool2d fractional_max_pool3d max_pool2d_with_indices max_pool3d_with_indices max_unpool2d
            max_unpool3d""",
        "normalisation": """
            _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
            _native_batch_norm_legit_no_training _weight_norm_interface batch_norm_elemt native_batch_norm
            native_group_norm native_layer_norm native_norm renorm""",
        "activations": """
            _log_softmax _masked_softmax _prelu_kernel _safe_softmax _softmax glu hardswish log_sigmoid_forward
            native_dropout rrelu_with_noise""",
        "elementwise, but not tagged so": "_masked_scale cross floor_divide linalg_cross polar",
        "interpolation": """
            _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
            _upsample_nearest_exact2d _upsample_nearest_exact3d grid_sampler_2d grid_sampler_3d upsample_bicubic2d
            upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
            upsample_trilinear3d""",
        "random numbers": """
            bernoulli cauchy exponential geometric log_normal multinomial normal normal_functional poisson rand
            rand_like randint randint_like randn randn_like random randperm uniform""",
        "checks": """
            _assert_async _assert_scalar _assert_tensor_metadata _functional_assert_async _has_same_storage_numel
            _linalg_check_errors _local_scalar_dense is_pinned is_same_size item sym_constrain_range
            sym_constrain_range_for_size""",
        "regions": """
            torchvision::nms torchvision::ps_roi_align torchvision::ps_roi_pool torchvision::roi_align
            torchvision::roi_pool""",
    }.items()
}
"""Operators that count 0, besides views and what torch tags as elementwise; of ATen where no library is named."""
_FREE = frozenset(name if "::" in name else f"aten::{name}" for names in FREE.values() for name in names)
_FREE_LIBRARIES = frozenset({"prim", "profiler"})
"""They ask for sizes, or put names into a trace."""


@dataclass(frozen=True)
class FlopCount:
    """What a pass costs."""

    stages: Mapping[str, int | None]
    """FLOPs by stage; `None` where the stage runs an operator that nobody has a formula for."""
    unknown: Mapping[str, tuple[str, ...]]
    """Those operators, by stage."""

    @property
    def total(self) -> int | None:
        """All stages' FLOPs."""
        counts = list(self.stages.values())
        return None if None in counts else sum(count for count in counts if count is not None)


def count_flops(forward: Forward) -> FlopCount:
    """Returns the FLOPs between the marks of one pass, by stage.

    Args:
        forward: a pass over inputs on the meta device.
    """
    counter = _Counter()
    stages: dict[str, int | None] = {}
    unknown: dict[str, tuple[str, ...]] = {}

    def mark(name: str, _output: Any) -> None:
        if counter.unknown:
            unknown[name] = tuple(counter.unknown)
        stages[name] = None if counter.unknown else counter.flops
        counter.flops = 0
        counter.unknown = {}

    with torch.inference_mode(), counter:
        forward(mark)
    return FlopCount(stages, unknown)


def count_flops_within(forward: Callable[[], object], modules: Mapping[str, nn.Module]) -> dict[str, int | None]:
    """Returns the FLOPs of modules in one pass, each with all that it calls; `None` as in `FlopCount`.

    Args:
        forward: a pass over inputs on the meta device.
        modules: by any name; one that is not called has none.
    """
    counter = _Counter()
    found: dict[str, int | None] = {}
    begun: list[int] = []

    def before(_module: nn.Module, _inputs: Any) -> None:
        if not begun:
            counter.unknown = {}  # of another stage
        begun.append(counter.flops)

    def after(name: str) -> Callable[..., None]:
        def end(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            made, known = counter.flops - begun.pop(), found.get(name, 0)
            # Behind an operator without a formula, nothing more is known of the stage.
            found[name] = None if counter.unknown or known is None else known + made

        return end

    hooks = [each.register_forward_pre_hook(before) for each in modules.values()]
    hooks += [each.register_forward_hook(after(name)) for name, each in modules.items()]
    try:
        with torch.inference_mode(), counter:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of all operators; those that are made of others by these."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.unknown: dict[str, None] = {}
        self._within_einsum = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # of higher order, such as flex attention
            return self._count(func, _registry().get(func), func.name(), func(*args, **kwargs), args, kwargs)
        library, name = _named(func)
        formula = FORMULAS.get(f"{library}::{name}")
        if formula is not None:
            out = _meta_of(name, args) if f"{library}::{name}" in _NO_META else None
            out = func(*args, **kwargs) if out is None else out
            self.flops += formula(out, *args, **{name: value for name, value in kwargs.items() if name != "out"})
            return out
        registered = _registered(func)
        if registered is None and not _is_free(func):
            outer = self._within_einsum
            self._within_einsum = outer or name == "einsum"
            try:
                with self:
                    out = func.decompose(*args, **kwargs)
            finally:
                self._within_einsum = outer
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if registered is not None:
            self.flops += registered(*args, **kwargs, out_val=out)
        elif not _is_free(func):
            self.unknown[f"{library}::{name}"] = None
        elif self._within_einsum and name == "mul" and out.numel() > max(_numel(args[0]), _numel(args[1])):
            self.flops += 2 * out.numel()  # a product without a sum, as `i,j->ij`; elsewhere a matrix product makes it
        return out

    def _count(self, func: Any, formula: Formula | None, name: str, out: Any, args: Any, kwargs: Any) -> Any:
        if formula is None:
            self.unknown[name] = None
        else:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


_REGISTRY = "torch.utils.flop_counter"


def _registered(func: Any) -> Formula | None:
    """Returns the formula of torch's registry for an operator; `None`: it has none."""
    if _REGISTRY not in sys.modules and (_is_free(func) or func._can_decompose()):
        return None  # torch's own formulas are of what multiplies and is made of nothing else; there are no others yet
    library, name = _named(func)
    found = _registry().get(func._overloadpacket)
    if found is None and library == "aten":  # in place, as `addmm_`
        found = _registry().get(getattr(torch.ops.aten, name, None))
    return found


def _registry() -> dict[Any, Formula]:
    """Returns torch's registry, whose module imports triton where that is installed: only when it is wanted."""
    module = importlib.import_module(_REGISTRY)
    found: dict[Any, Formula] = module.flop_registry
    return found


def _product(left: int) -> Formula:
    """Returns the formula of a product of matrices: each scalar of its output sums up a row of the left one.

    Args:
        left: position of the left matrix among the arguments.
    """
    return lambda out, *arguments, **_: 2 * out.numel() * arguments[left].shape[-1]


def _outer(out: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel()


def _vecdot(out: Tensor, left: Tensor, right: Tensor, *, dim: int = -1) -> int:
    return 2 * out.numel() * max(left.shape[dim], right.shape[dim])


def _addbmm(out: Tensor, _added: Tensor, left: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel() * left.shape[0] * left.shape[2]


def _grouped_product(out: Tensor, left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """Rows are shared out among the matrices of a group, so each counts once; or the summed dimension is."""
    groups = out.shape[0] if left.ndim == right.ndim == 2 else 1
    return 2 * out.numel() * left.shape[-1] // groups


def _deformable_convolution(out: Tensor, _pixels: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """As a convolution: [Cout, Cin / groups, height, width]; the interpolation of its samples counts 0, as RoIAlign's.

    Source: Dai et al. 2017, equation (2); Zhu et al. 2018, equation (1).
    """
    return 2 * out.numel() * math.prod(weight.shape[1:])


def _convolution(out: Tensor, pixels: Tensor, weight: Tensor, *arguments: Any, **options: Any) -> int:
    """A sum for each scalar of the output; of a transposed one, a product with a kernel for each of the input."""
    transposed = options.get("transposed", arguments[4] if len(arguments) > 4 else False)
    return 2 * (pixels if transposed else out).numel() * math.prod(weight.shape[1:])


def _time_convolution(out: Tensor, _rows: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel() * weight.shape[0] * weight.shape[1]  # [kernel, Cin, Cout]


def _bilinear(out: Tensor, _left: Tensor, _right: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    # The left input makes rows of the right one's length, which are multiplied with that.
    return 2 * out.numel() * (weight.shape[1] + 1) * weight.shape[2]


def _affine_grid(out: Tensor, theta: Tensor, *_: Any, **__: Any) -> int:
    return 2 * out.numel() * theta.shape[-1]


def _attention(_out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _fourier(per_point: float, signal: Tensor, dims: Any) -> int:
    """By the usual count, 5 n log2 n of n complex numbers, and half of it for real ones.

    Source: Frigo & Johnson, benchFFT methodology, https://www.fftw.org/speed/method.html.
    """
    points = math.prod(signal.shape[dim] for dim in dims)
    return round(per_point * signal.numel() * math.log2(points)) if points > 1 else 0


FORMULAS: Mapping[str, Formula] = {
    **dict.fromkeys(
        [
            *(f"aten::{name}" for name in ("mv", "dot", "vdot", "_cdist_forward", "_euclidean_dist", "_pdist_forward")),
            *(
                f"aten::{name}"
                for name in ("_int_mm", "_scaled_mm_v2", "_mixed_dtypes_linear", "_dyn_quant_matmul_4bit")
            ),
            *(f"aten::_weight_int4pack_mm{suffix}" for suffix in ("", "_for_cpu", "_with_scales_and_zeros")),
            *(f"aten::{name}" for name in ("mm", "bmm", "_weight_int8pack_mm")),
            "transformers::grouped_mm_fallback",
        ],
        _product(0),
    ),
    **dict.fromkeys(("aten::addmm", "aten::addmv", "aten::baddbmm", "aten::_addmm_activation"), _product(1)),
    **dict.fromkeys(("aten::outer", "aten::ger", "aten::addr"), _outer),
    **dict.fromkeys(("aten::_grouped_mm", "aten::_scaled_grouped_mm", "aten::_scaled_grouped_mm_v2"), _grouped_product),
    **dict.fromkeys(
        (
            "aten::_scaled_dot_product_flash_attention_for_cpu",
            "aten::_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
    **dict.fromkeys(("aten::convolution", "aten::_convolution"), _convolution),
    "aten::linalg_vecdot": _vecdot,
    "aten::addbmm": _addbmm,
    "aten::conv_tbc": _time_convolution,
    "aten::bilinear": _bilinear,
    "aten::affine_grid_generator": _affine_grid,
    "aten::_fft_c2c": lambda out, signal, dims, *_, **__: _fourier(5, signal, dims),
    "aten::_fft_r2c": lambda out, signal, dims, *_, **__: _fourier(2.5, signal, dims),
    "aten::_fft_c2r": lambda out, signal, dims, *_, **__: _fourier(2.5, out, dims),
    "torchvision::deform_conv2d": _deformable_convolution,
}
"""What torch's registry does not know, and, so that it need not be imported, what is most common in it; by library and
name, those that work in place without their underscore."""

_NO_META = frozenset({"aten::_grouped_mm"})
"""Operators whose meta kernels refuse what their kernels for CPUs take: float32."""


def _meta_of(name: str, args: Any) -> Tensor | None:
    """Returns the output of a grouped product of [S, K] with [G, K, N]; `None`: its own kernel is to be asked."""
    left, right = args[:2]
    if left.is_meta and left.ndim == 2 and right.ndim == 3:
        out: Tensor = left.new_empty(left.shape[0], right.shape[2])
        return out
    return None


def _named(func: Any) -> tuple[str, str]:
    """Returns an operator's library and its name, that of the operator in place without its underscore."""
    library, _, name = func._schema.name.partition("::")
    return library, name.rstrip("_")


@functools.cache
def _is_free(func: Any) -> bool:
    """Returns whether an operator multiplies nothing with a sum: see `FREE`."""
    library, name = _named(func)
    if library in _FREE_LIBRARIES or f"{library}::{name}" in _FREE:
        return True
    # What works in place, and what copies a view, is as what it is named after.
    own = getattr(torch.ops, library)
    packets = [getattr(own, each, None) for each in {name, name.removesuffix("_copy")}]
    overloads = [func, *(getattr(packet, each) for packet in packets if packet for each in packet.overloads())]
    return any(each.is_view or torch.Tag.pointwise in each.tags for each in overloads)


def _numel(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else 1
