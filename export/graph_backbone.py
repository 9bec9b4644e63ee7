"""Adds a vision tower of timm to a graph: PyTorch runs it once without data, and each operation becomes ONNX nodes.

A batch norm behind a convolution is folded into it: the kernel has the checkpoint's name of its weight, the bias that
of the norm. In a compact graph, a kernel that float16 holds exactly stays as it is, and the graph multiplies it by the
factors of the norm, which have the name of its weight: onnxruntime computes the product when it loads the graph. What
depends on weights only is computed here. In a float16 graph convolutions, linears and activations are float16; sums,
means and norms are float32, as in the graph of ConvNeXt. The number of images is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from export.aten_operators import ELEMENTWISE, OPERATORS, Arguments
from osprey_ros.errors import InputError
from osprey_torch.backbone import BackboneTower
from osprey_torch.config import OspreyConfig
from osprey_torch.onnx_graph import GraphBuilder, fits_half

PREFIX = "model.vision_tower."

# Operations that give the same numbers in the same order, so that the name of a weight stays right.
_SAME_NUMBERS = ("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "alias", "detach", "clone", "expand")
_TRANSPOSED = ("t", "transpose")


@dataclass(frozen=True)
class Weight:
    """A value that depends on weights only.

    name: in the checkpoint, if it is one of its tensors or a view of one. transposed: a matrix [in, out].
    """

    tensor: torch.Tensor
    name: str | None = None
    transposed: bool = False


@dataclass
class Convolution:
    """A convolution that is added to the graph when its result is read; a batch norm that follows is folded into it."""

    states: str
    weight: Weight
    bias: Weight | None
    attributes: dict[str, Any]
    added: str | None = None


Value = str | Weight | Convolution


def add_backbone(
    graph: GraphBuilder, config: OspreyConfig, read: Callable[[str], np.ndarray], pixels: str, half: bool
) -> list[str]:
    """Add the tower behind the graph's input `pixels` and return the names of res2 to res5, in float32.

    read, half: as in `export.graph_vision.build_vision`. Raises InputError for an operation that has no counterpart.
    """
    with torch.device("meta"):
        tower = BackboneTower(config).eval()
        image = torch.empty(1, 3, config.image_size, config.image_size)
    trace = BackboneTrace(graph, read, half, config.vision_backbone or "")
    trace.names = {id(tensor): PREFIX + name for name, tensor in tower.state_dict(keep_vars=True).items()}
    trace.bind(image, pixels)
    with torch.no_grad(), trace:
        maps = tower(image)
    return [trace.wide(trace.value_of(one)) for one in maps]


class BackboneTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds each operation that PyTorch runs in the `with` block to the graph."""

    def __init__(self, graph: GraphBuilder, read: Callable[[str], np.ndarray], half: bool, tower: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        self.names: dict[int, str] = {}
        self._read = read
        self._half = half
        self._tower = tower
        self._values: dict[int, Value] = {}
        self._alive: list[torch.Tensor] = []  # so that no tensor gets the id of an earlier one
        self._narrow: set[str] = set()
        self._added: dict[tuple[int, bool], str] = {}
        self._taken: set[str] = set()
        self._count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation on tensors without data and add it to the graph."""
        kwargs = dict(kwargs or {})
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        bound = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        bound |= dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        tensors = [one for value in bound.values() for one in _tensors(value)]
        if not tensors:
            return result  # memory for a result that is not read
        if all(self._is_weight(tensor) for tensor in tensors):
            self._compute(func, name, bound, result)
            return result
        added = self._add(name.removesuffix("_") if not name.startswith("_") else name, bound, result)
        for tensor, value in zip(_tensors(result), added, strict=False):
            self.bind(tensor, value)
        return result

    def bind(self, tensor: torch.Tensor, value: Value) -> None:
        """Record the value of a tensor; an operation in place replaces it."""
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def value_of(self, tensor: torch.Tensor) -> str:
        """Return the name in the graph of a tensor's value; weights are added to the graph."""
        value = self._value(tensor)
        if isinstance(value, Convolution):
            if value.added is None:
                bias = None if value.bias is None else value.bias.tensor
                value.added = self._add_convolution(value, value.weight.tensor, bias, None)
            return value.added
        return self._stored(value, narrow=False) if isinstance(value, Weight) else value

    def operand_of(self, tensor: torch.Tensor) -> str:
        """Return the name of a tensor's value in the type in which the graph computes."""
        value = self._value(tensor)
        if isinstance(value, Weight):
            return self._stored(value, narrow=True)
        return self.narrow(self.value_of(tensor))

    def node(self, op: str, inputs: Sequence[str], narrow: bool | None = None, **attributes: Any) -> str:
        """Add a node and return its output; narrow: whether that is float16, by default as the first input is."""
        added = self.graph.node(op, inputs, self.unique(op.lower()), **attributes)
        if (inputs[0] in self._narrow) if narrow is None else narrow and self.half_compute:
            self._narrow.add(added)
        return added

    def constant(self, values: Any, like: str | None = None) -> str:
        """Add a small constant: integers as int64, numbers in the type of the value `like`."""
        if like is None:
            return self.graph.constant(values)
        return self.graph.constant(values, np.float16 if like in self._narrow else np.float32)

    def wide(self, name: str) -> str:
        """Return a value as float32."""
        return self.graph.cast(name, self.unique("wide"), np.float32) if name in self._narrow else name

    def narrow(self, name: str) -> str:
        """Return a value in the type in which the graph computes."""
        if not self.half_compute or name in self._narrow:
            return name
        cast = self.graph.cast(name, self.unique("narrow"), np.float16)
        self._narrow.add(cast)
        return cast

    def alike(self, *names: str) -> list[str]:
        """Return values in one type: float16 if all are, else float32."""
        return list(names) if self._narrow.issuperset(names) else [self.wide(name) for name in names]

    @property
    def half_compute(self) -> bool:
        """Whether the graph computes in float16."""
        return bool(self.graph.dtype == np.float16)

    def unique(self, stem: str) -> str:
        """Return a name that no other value has."""
        self._count += 1
        return f"trunk.{stem}.{self._count}"

    def _stored(self, value: Weight, narrow: bool) -> str:
        """Add a weight once in each type."""
        key = (id(value), narrow and self.half_compute)
        if key not in self._added:
            self._added[key] = self._store(value, narrow)
        return self._added[key]

    def _store(self, value: Weight, narrow: bool) -> str:
        array, name = value.tensor.detach().numpy(), value.name
        # Matrices are stored as [in, out]; under another name they are not taken for the checkpoint's.
        if name is None or name in self._taken or (array.ndim == 2 and not value.transposed):
            name = self.unique("constant")
        self._taken.add(name)
        dtype = np.float16 if narrow and self.half_compute else np.float32
        added = self.graph.weight(name, array, self._half and array.ndim > 1, dtype=dtype)
        if dtype == np.float16:
            self._narrow.add(added)
        return added

    def _value(self, tensor: torch.Tensor) -> Value:
        found = self._values.get(id(tensor))
        if found is None:
            name = self.names.get(id(tensor))
            if name is None:
                raise InputError(
                    f"vision tower {self._tower!r} computes with a constant that its weight files lack: it cannot be "
                    "exported, give another backbone"
                )
            found = Weight(torch.from_numpy(np.array(self._read(name), np.float32)), name)
            self._values[id(tensor)] = found
        return found

    def _is_weight(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self.names or isinstance(self._values.get(id(tensor)), Weight)

    def _compute(self, func: Any, name: str, bound: Mapping[str, Any], result: Any) -> None:
        """Compute a result that depends on weights only."""
        sources = [self._weight(tensor) for value in bound.values() for tensor in _tensors(value)]
        real = func(**{key: self._real(value) for key, value in bound.items()})
        first = sources[0]
        turned = name in _TRANSPOSED and first.tensor.ndim == 2
        kept = first.name if turned or name in _SAME_NUMBERS else None
        for tensor, computed in zip(_tensors(result), _tensors(real), strict=True):
            self.bind(tensor, Weight(computed.contiguous(), kept, turned))

    def _real(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._weight(value).tensor
        return [self._real(one) for one in value] if isinstance(value, list | tuple) else value

    def _weight(self, tensor: torch.Tensor) -> Weight:
        value = self._value(tensor)
        assert isinstance(value, Weight)
        return value

    def _add(self, name: str, bound: dict[str, Any], result: Any) -> list[Value]:
        """Add one operation and return the values of its results."""
        if name == "convolution":
            return [self._convolution(bound)]
        if name == "native_batch_norm" and not bound["training"]:
            return [self._batch_norm(bound)]
        arguments = Arguments(self, bound, tuple(_tensors(result)[0].shape) if _tensors(result) else ())
        if name in ELEMENTWISE:
            return [ELEMENTWISE[name](self, arguments)]
        if name not in OPERATORS:
            raise InputError(
                f"vision tower {self._tower!r} computes {name!r}, for which the export has no ONNX operator: give "
                "another backbone"
            )
        added = OPERATORS[name](self, arguments)
        return list(added) if isinstance(added, list) else [added]

    def _convolution(self, bound: dict[str, Any]) -> Convolution:
        if not self._is_weight(bound["weight"]) or bound["transposed"]:
            raise InputError(
                f"vision tower {self._tower!r} has a transposed convolution, or one whose kernel depends on the image: "
                "give another backbone"
            )
        kernel = self._weight(bound["weight"])
        attributes = {
            "kernel_shape": list(kernel.tensor.shape[2:]),
            "strides": list(bound["stride"]),
            "pads": [*bound["padding"], *bound["padding"]],
            "dilations": list(bound["dilation"]),
            "group": bound["groups"],
        }
        bias = None if bound["bias"] is None else self._weight(bound["bias"])
        return Convolution(self.operand_of(bound["input"]), kernel, bias, attributes)

    def _batch_norm(self, bound: dict[str, Any]) -> Value:
        mean, variance = (self._weight(bound[key]).tensor.double() for key in ("running_mean", "running_var"))
        scale = 1 / torch.sqrt(variance + bound["eps"])
        if bound["weight"] is not None:
            scale = scale * self._weight(bound["weight"]).tensor.double()
        shift = -mean * scale
        own = None if bound["bias"] is None else self._weight(bound["bias"])
        if own is not None:
            shift = shift + own.tensor.double()
        before = self._values.get(id(bound["input"]))
        if isinstance(before, Convolution) and before.added is None:
            scale = scale.reshape(-1, *[1] * (before.weight.tensor.ndim - 1))
            if before.bias is not None:
                shift = shift + before.bias.tensor.double() * scale.reshape(-1)
            name = None if own is None else own.name
            if self.graph.compact and not self.half_compute and fits_half(before.weight.tensor.numpy()):
                factors = None if bound["weight"] is None else self._weight(bound["weight"]).name
                scale = scale.float()
                return self._add_convolution(before, before.weight.tensor, shift.float(), name, Weight(scale, factors))
            return self._add_convolution(before, (before.weight.tensor.double() * scale).float(), shift.float(), name)
        states = self.wide(self.value_of(bound["input"]))
        parts = [self._weight(bound[key]) for key in ("weight", "bias", "running_mean", "running_var")]
        names = [self._stored(part, narrow=False) for part in parts]
        return self.node("BatchNormalization", [states, *names], narrow=False, epsilon=bound["eps"])

    def _add_convolution(
        self,
        one: Convolution,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
        bias_name: str | None,
        factors: Weight | None = None,
    ) -> str:
        """Add a convolution with a kernel, which the graph multiplies by the factors of its output channels."""
        weight = self._store(Weight(kernel, one.weight.name), narrow=True)
        if factors is not None:
            weight = self.node("Mul", [weight, self._store(factors, narrow=True)])
        inputs = [one.states, weight]
        if bias is not None:
            name = one.bias.name if bias_name is None and one.bias is not None else bias_name
            inputs.append(self._store(Weight(bias, name), narrow=True))
        return self.node("Conv", inputs, narrow=True, **one.attributes)


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return the tensors in an argument or a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for one in value if isinstance(one, torch.Tensor)] if isinstance(value, list | tuple) else []
