"""Running code on tensors that hold no numbers, to see what memory it would take.

Floating-point tensors become ghosts: tensors of PyTorch's meta device, which have a shape, a
type and a place in the autograd graph but no memory. Token ids, masks, lengths and whatever
else is whole numbers stay real, because their values decide which way code goes. So the code
of this library, of transformers, PEFT and bitsandbytes runs as it is, without weights and
without arithmetic, and a `Ledger` notes what each operation would allocate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from spatial_ssrl.planning.ledger import Ledger
from spatial_ssrl.planning.operations import Kind

_META = torch.device("meta")
_CPU = torch.device("cpu")
_aten = torch.ops.aten

# Whole numbers that depend on ghosts are unknown: they become real zeros where there are few of
# them, so that code may look at them, and ghosts where they would take memory.
_FEW = 2**16

# Entries from which a table of comparisons is a ghost.
_LARGE = 2**20

# What a number read from a ghost is taken for; 1 keeps norms, counts and scales usable.
_UNKNOWN = {True: 1.0, False: 0}


class Ghosts:
    """Context in which floating-point tensors take no memory and every allocation is noted.

    Data that comes in from outside goes through `ghost` first. Code sees ghosts on the CPU, so
    that it finds them beside the real tensors. One context at a time, in one thread: PyTorch
    works with one inside, as all that is left to compute is small.

    Args:
        ledger: Where allocations are noted.
        known: What operations make, found by others before; grows.
    """

    def __init__(self, ledger: Ledger, known: dict[Any, Any] | None = None) -> None:
        self.ledger = ledger
        self.known = {} if known is None else known
        self._stack = ExitStack()

    def __enter__(self) -> Ghosts:
        """Start."""
        values = _Values(self.ledger, self.known)
        self._stack.enter_context(_one_thread())
        self._stack.enter_context(_calls_answered(values))
        self._stack.enter_context(values)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Go back to real tensors."""
        self._stack.close()

    def ghost(self, tensor: Tensor) -> Tensor:
        """Return a tensor as the context would have made it, counted."""
        out = _ghost_of(tensor) if tensor.dtype.is_floating_point else tensor
        self.ledger.watch(out)
        return out


class _Values(TorchDispatchMode):
    """Decides for each operation whether it runs on numbers or on ghosts; counts its results."""

    def __init__(self, ledger: Ledger, known: dict[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self.busy = False
        self.known = known
        self.kinds: dict[Any, Kind] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; the way past the compiler costs as much as an operation."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        busy, self.busy = self.busy, True
        try:
            # Else each look at a 4-bit weight, whose class answers calls itself, is such a call.
            with torch._C.DisableTorchFunctionSubclass():
                return self._run(func, args, kwargs or {})
        finally:
            self.busy = busy

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = self.kinds.get(func)
        if kind is None:
            kind = self.kinds[func] = Kind.of(func)
        if kind.profiles:
            return func(*args, **kwargs)
        given = _tensors(args, kwargs)
        if not given:
            out = _made(func, args, kwargs, self.known)
        elif (
            any([tensor.is_meta for tensor in given])
            or _makes_ghost(kwargs)
            or (kind.compares and _is_table(given))
        ):
            if kind.reads:
                return _UNKNOWN[given[0].dtype.is_floating_point]
            if func is _aten.equal.default:
                return True
            if func is _aten._to_copy.default and _stays(given[0], kwargs):
                return _aten.alias.default(given[0])
            if kind.multiplies_4bit:
                self.ledger.spike(_dequantised(args, kwargs))
            out = _on_ghosts(func, kind, args, kwargs, self.known)
        else:
            out = _on_values(func, args, kwargs)
        for tensor in (out,) if isinstance(out, Tensor) else _tensors((out,), {}):
            self.ledger.watch(tensor)
        return out


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend as fused kernels do, which keep no scores: what PyTorch chooses on CPU and CUDA.

    On the meta device it would choose the plain way, whose scores dwarf everything else.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # PyTorch does the same.
        attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill(~attn_mask, 0.0)
    out: Tensor = _aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: for few numbers it takes longer to wake others than to be done.

    On a machine where anything else runs, waiting for them was most of a rehearsal.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _calls_answered(values: _Values) -> Iterator[None]:
    """Answer what code asks before operations see it; operations themselves get true answers.

    By replacing attributes: PyTorch leaves its modes for functions behind in the backward pass,
    in which layers may be computed again.
    """
    attend = functional.scaled_dot_product_attention
    true_device = torch.Tensor.device.__get__
    torch.Tensor.device = property(  # type: ignore[assignment]
        lambda tensor: true_device(tensor) if values.busy else _CPU
    )
    functional.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attend
        del torch.Tensor.device


def _tensors(args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among arguments, those in lists included."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors(value, {}))
    return found


def _swap(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return arguments with each tensor changed, those in lists included."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, list | tuple):
        return type(values)(_swap(value, change) for value in values)
    return values


def _ghost_of(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)


def _made(func: Any, args: Any, kwargs: dict[str, Any], known: dict[Any, Any]) -> Any:
    """Return what a factory makes: ghosts of fractions, real whole numbers."""
    what = (func, _signature(args), _signature(tuple(kwargs.items())))
    made = known.get(what)
    if made is None:
        out = func(*args, **kwargs | {"device": _META})
        if not isinstance(out, Tensor):
            return out
        made = known[what] = _recipe(out)
    if made.dtype.is_floating_point:
        return _remade(made)
    return func(*args, **kwargs | {"device": _CPU})


def _makes_ghost(kwargs: dict[str, Any]) -> bool:
    dtype = kwargs.get("dtype")
    return bool(dtype is not None and dtype.is_floating_point)


def _is_table(given: Sequence[Tensor]) -> bool:
    """Return whether each of few entries is held against each of others: who sees whom.

    Such a table is only ever added to scores, and working it out takes as long as everything
    else together.
    """
    size: int = math.prod(torch.broadcast_shapes(*[tensor.shape for tensor in given]))
    return size > _LARGE and size > 8 * sum(tensor.numel() for tensor in given)


def _on_values(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on real tensors; fractions that come of it become ghosts."""
    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": _CPU}
    out = func(*args, **kwargs)
    if func._schema.is_mutable:
        return out
    return _swap(out, lambda t: _ghost_of(t) if t.dtype.is_floating_point else t)


def _on_ghosts(
    func: Any, kind: Kind, args: Any, kwargs: dict[str, Any], known: dict[Any, Any]
) -> Any:
    """Run an operation on the meta device, to which its real arguments are brought.

    What comes of it is looked up where the same was done before: layers are alike, and working
    out shapes is slow.
    """
    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": _META}
    if kind.placed:
        args = tuple([_META if isinstance(value, torch.device) else value for value in args])
    if kind.fills:
        return _filled(func, args, kwargs)
    if kind.indexes:
        args = (args[0], _numbers_of_places(args[1]), *args[2:])
    if kind.makes:
        what = (func, _signature(args), _signature(tuple(kwargs.items())) if kwargs else ())
        made = known.get(what)
        if made is None:
            out = _brought_to(func, args, kwargs)
            if _is_view(out, args):  # As dropout that drops nothing is, which its schema hides.
                return out
            made = known[what] = _recipe(out)
        return _remade(made)
    if kind.changes:  # What is changed stays what it is.
        return kwargs.get("out", args[0]) if kind.returns else None
    return _brought_to(func, args, kwargs)


def _brought_to(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if all([tensor.is_meta for tensor in _tensors(args, kwargs)]):
        return func(*args, **kwargs)
    swapped = {name: _swap(value, _ghost_of) for name, value in kwargs.items()}
    return func(*_swap(args, _ghost_of), **swapped)


def _is_view(out: Any, args: Any) -> bool:
    given = {tensor.untyped_storage()._cdata for tensor in _tensors(args, {})}
    return any(tensor.untyped_storage()._cdata in given for tensor in _tensors((out,), {}))


def _signature(values: Any) -> Any:
    """Return all that decides what comes of arguments, as a key."""
    if isinstance(values, Tensor):
        return values.shape, values.stride(), values.dtype
    if isinstance(values, list | tuple):
        return tuple([_signature(value) for value in values])
    return type(values), values  # 1, 1.0 and True are equal, and different arguments.


def _recipe(out: Any) -> Any:
    """Return how to make a result again: shape, strides and type of each tensor."""
    if isinstance(out, Tensor):
        ghostly = _is_ghostly(out.dtype) or out.numel() > _FEW
        return _Made(tuple(out.shape), out.stride(), out.dtype, ghostly)
    if isinstance(out, list | tuple):
        return type(out)(map(_recipe, out))
    return out


def _remade(made: Any) -> Any:
    if isinstance(made, _Made):
        if made.ghostly:
            return torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device=_META)
        return torch.zeros(made.shape, dtype=made.dtype)
    if isinstance(made, list | tuple):
        return type(made)(map(_remade, made))
    return made


class _Made(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    ghostly: bool


def _is_ghostly(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype in _SMALL


# Bytes are packed weights and 8-bit states here, never something code decides by.
_SMALL = {torch.uint8, torch.int8}


def _numbers_of_places(indices: Any) -> list[Any]:
    """Return indices with masks written as the places where they are true, whose count is known."""
    found: list[Any] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool and not index.is_meta
        found.extend(index.nonzero().unbind(1) if mask else [index])
    return found


def _filled(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return a tensor made like another one: a ghost, or real whole numbers."""
    out = func(*_swap(args, _ghost_of), **kwargs)
    if _is_ghostly(out.dtype):
        return out
    like = torch.empty((), dtype=args[0].dtype).expand(args[0].shape)
    return func(like, *args[1:], **kwargs | {"device": _CPU})


def _stays(tensor: Tensor, kwargs: dict[str, Any]) -> bool:
    """Return whether a copy is asked for only because ghosts are seen on the CPU."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype") or tensor.dtype
    return device is not None and device.type == "cpu" and dtype == tensor.dtype


def _dequantised(args: Any, kwargs: dict[str, Any]) -> int:
    """Return the bytes that a product with a 4-bit weight takes: the weight and its scales.

    bitsandbytes has fused kernels for few rows, on some cards; elsewhere it unpacks the weight.
    """
    states, _, (rows, columns), absmax, block = args[:5]
    scales = rows * columns // block * absmax.element_size()
    unpacked: int = rows * columns * states.element_size()
    return unpacked + int(scales if "absmax_8bit" in kwargs else 0)
