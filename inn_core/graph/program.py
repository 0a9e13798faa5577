"""Runs a template in PyTorch: any size, any device, with autograd, whole or node by node.

The weights come in as a dict at every call, so one program serves every weight set of its shapes, and training and
refinement can differentiate through it. Values die after their last reader, so memory follows the widest point of
the graph and not its length. The numbers of every operator are those of ONNX (`operators/`), so what is calibrated
here is what the artifact computes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import onnx
import torch
from onnx import TensorProto
from torch import Tensor

from inn_core.errors import (
    ExecutionError,
    InnError,
    InvalidInputError,
    InvalidOnnxError,
    UnsupportedOperatorError,
    first_line,
)
from inn_core.graph.inputs import check_inputs
from inn_core.graph.node import Node, default_opset, read_nodes
from inn_core.graph.operators import OPERATORS, Operator
from inn_core.graph.operators.dtypes import DTYPES, FLOAT_TYPES, tensor_from_proto

MINIMUM_OPSET = 7
"""Before it, element-wise operators have a broadcasting of their own."""

MAXIMUM_OPSET = 28
"""The newest operator set whose definitions the operators were checked against."""


@dataclass(frozen=True)
class ValueFacts:
    """What is known of the values of a graph without computing them, by value name.

    Attributes:
        shapes: of every graph input, weight, constant and node output.
        dtypes: likewise.
        known: real CPU tensors of every value that follows from shapes and constants alone, such as the target of
            a Reshape.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    known: Mapping[str, Tensor]


@final
class Program:
    """A graph ready to run in PyTorch.

    Instances do not change after construction; several threads may run one.

    Attributes:
        nodes: in the order in which they run.
        opset: version of the default operator set.
        device: where graph inputs and float constants live; weights are the caller's.
        inputs, outputs: names of the graph's inputs (without initializers) and outputs.
        weights: names of the values that nodes read and that only `weights` can give: absent from the proto, or
            float initializers of it, which serve as defaults.
        constants: values of the other initializers, the float defaults, and the outputs of Constant nodes.
        last_use: value name -> index of the last node that reads it; that of its own node when nobody does.
            Graph outputs never die: they have the number of nodes.
    """

    nodes: tuple[Node, ...]
    opset: int
    device: torch.device
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    constants: Mapping[str, Tensor]
    last_use: Mapping[str, int]

    def __init__(self, model: onnx.ModelProto, *, device: str | torch.device = "cpu") -> None:
        """Reads a model.

        Args:
            model: nodes in topological order; its float initializers may be missing.
            device: where to run.

        Raises:
            UnsupportedOperatorError: a node cannot run, or the operator set is too old or too new.
            InvalidOnnxError: the graph is not in order, or an initializer is unreadable.
            ExternalDataError: an initializer keeps its data in another file.
        """
        graph = model.graph
        self.device = torch.device(device)
        self.opset = _runnable_opset(model)
        self.nodes = read_nodes(graph)
        self._operators = tuple(_operator(node) for node in self.nodes)
        initializers = _initializers(graph, self.device)
        self._inputs = {value.name: value for value in graph.input if value.name not in initializers}
        self.inputs = tuple(self._inputs)
        self.outputs = tuple(value.name for value in graph.output)
        produced = self._check_order(initializers)
        folded = {
            node.outputs[0]: _folded(node, operator, self.opset, self.device)
            for node, operator in zip(self.nodes, self._operators, strict=True)
            if node.operator == "Constant"
        }
        self.constants = MappingProxyType({**initializers, **folded})
        defaults = {proto.name for proto in graph.initializer if proto.data_type in FLOAT_TYPES}
        read = dict.fromkeys([name for node in self.nodes for name in node.inputs if name] + list(self.outputs))
        self.weights = tuple(
            name
            for name in read
            if name not in produced and name not in self._inputs and (name in defaults or name not in initializers)
        )
        self.last_use = MappingProxyType(self._find_last_use())
        self._dying = self._find_dying()

    def run(
        self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor], *, keep: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Runs the whole graph. Autograd follows the caller: wrap in `torch.inference_mode()` when not training.

        Args:
            weights: weight name -> tensor; names that the graph does not read are ignored.
            inputs: graph input name -> tensor, with the rank and element type the graph declares (floats of any
                precision, equal to that of the weights).
            keep: names of further values to return.

        Returns:
            Graph outputs and kept values by name.

        Raises:
            InvalidInputError: an input is missing, unknown or of the wrong rank or type; a weight or a value to
                keep does not exist.
            ExecutionError: an operator cannot run on the shapes it gets.
            UnsupportedOperatorError: an operator cannot be computed exactly.
        """
        environment = self.begin(inputs)
        for _ in self.walk([environment], weights, keep=frozenset(keep)):
            pass
        return {name: self.value(name, environment, weights) for name in dict.fromkeys([*self.outputs, *keep])}

    def begin(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A fresh environment with the checked graph inputs, on the program's device."""
        check_inputs(self._inputs, inputs)
        return {name: tensor if (tensor := inputs[name]).is_meta else tensor.to(self.device) for name in self.inputs}

    def walk(
        self,
        environments: Sequence[MutableMapping[str, Tensor]],
        weights: Mapping[str, Tensor],
        *,
        keep: Collection[str] = (),
    ) -> Iterator[int]:
        """Runs node after node, each on all environments, and stops behind each of them.

        What a node wrote may be read and replaced while it is the last that ran; then values without further readers
        are dropped, except those to keep. Gradients are recorded as where the walk is taken.

        Args:
            environments: of `begin`; they change. All of them walk together, so their live values must fit memory.
            weights: as for `run`; looked up at every node.

        Yields:
            Index of the node that ran.
        """
        for index in range(len(self.nodes)):
            for environment in environments:
                self.step(index, environment, weights)
            yield index
            for environment in environments:
                self.release(index, environment, keep)

    def step(self, index: int, environment: MutableMapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Runs one node: reads its inputs, writes its outputs into `environment`.

        A name is looked up in `environment`, then `weights`, then the constants. Nothing is released.

        Raises:
            InvalidInputError: an input has no value.
            ExecutionError, UnsupportedOperatorError: as for `run`.
        """
        node = self.nodes[index]
        if node.operator == "Constant":
            environment[node.outputs[0]] = self.constants[node.outputs[0]]
            return
        inputs = [self.value(name, environment, weights, node) if name else None for name in node.inputs]
        try:
            results = self._operators[index](node, inputs, self.opset)
        except (InnError, torch.OutOfMemoryError):
            raise
        except NotImplementedError as exc:
            raise UnsupportedOperatorError(node.name, node.operator, f"PyTorch says: {first_line(exc)}") from exc
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as exc:
            read = zip(node.inputs, inputs, strict=True)
            shapes = [f"{name} {list(tensor.shape)}" for name, tensor in read if tensor is not None]
            raise ExecutionError(node.name, node.operator, shapes, first_line(exc)) from exc
        for position, name in enumerate(node.outputs):
            if not name:
                continue
            result = results[position] if position < len(results) else None
            if result is None:
                raise UnsupportedOperatorError(node.name, node.operator, f"its output {position} is not computed")
            environment[name] = result

    def release(self, index: int, environment: MutableMapping[str, Tensor], keep: Collection[str] = ()) -> None:
        """Drops from `environment` the values that no node after `index` reads, except those to keep."""
        for name in self._dying[index]:
            if name not in keep:
                environment.pop(name, None)

    def value(
        self,
        name: str,
        environment: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        reader: Node | None = None,
    ) -> Tensor:
        """The tensor behind a name: computed, else a weight, else a constant; InvalidInputError when none is."""
        for source in (environment, weights, self.constants):
            tensor = source.get(name)
            if tensor is not None:
                return tensor
        who = f"node '{reader.name}' ({reader.operator}) reads" if reader else "the caller asks for"
        raise InvalidInputError(
            f"{who} value '{name}', which is no weight, constant or computed value; pass it in `weights`", value=name
        )

    def describe(
        self,
        weight_shapes: Mapping[str, tuple[int, ...]],
        input_shapes: Mapping[str, tuple[int, ...]],
        *,
        dtypes: Mapping[str, torch.dtype] | None = None,
        known_weights: Mapping[str, Tensor] | None = None,
    ) -> ValueFacts:
        """Shapes and types of all values, and numbers of those that do not depend on data, without computing.

        Args:
            weight_shapes: weight name -> shape.
            input_shapes: graph input name -> shape.
            dtypes: of weights and inputs; by default that of the initializer or graph input, else float32.
            known_weights: real tensors of the few float weights that decide shapes (the scales of a Resize).

        Raises:
            UnsupportedOperatorError: a shape depends on data.
            InvalidInputError, ExecutionError: as for `run`.
        """
        wanted = dtypes or {}
        meta: dict[str, Tensor] = {}
        for name, shape in weight_shapes.items():
            default = self.constants[name].dtype if name in self.constants else torch.float32
            meta[name] = torch.empty(shape, dtype=wanted.get(name, default), device="meta")
        meta.update(known_weights or {})
        inputs: dict[str, Tensor] = {}
        for name, shape in input_shapes.items():
            declared = self._inputs[name].type.tensor_type.elem_type if name in self._inputs else TensorProto.FLOAT
            dtype = wanted.get(name, DTYPES.get(declared, torch.float32))
            inputs[name] = torch.empty(shape, dtype=dtype, device="meta")
        self.begin(inputs)  # checks them
        environment: dict[str, Tensor] = dict(inputs)
        for index in range(len(self.nodes)):
            self.step(index, environment, meta)
        values = {**self.constants, **meta, **environment}
        return ValueFacts(
            shapes={name: tuple(tensor.shape) for name, tensor in values.items()},
            dtypes={name: tensor.dtype for name, tensor in values.items()},
            known={name: tensor.cpu() for name, tensor in values.items() if tensor.device.type != "meta"},
        )

    def value_shapes(
        self,
        weight_shapes: Mapping[str, tuple[int, ...]],
        input_shapes: Mapping[str, tuple[int, ...]],
        *,
        dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> dict[str, tuple[int, ...]]:
        """Shape of every value of the graph: `describe(...).shapes`."""
        return dict(self.describe(weight_shapes, input_shapes, dtypes=dtypes).shapes)

    def _check_order(self, initializers: Mapping[str, Tensor]) -> set[str]:
        """All names that nodes write; InvalidOnnxError when one is written twice or read before."""
        written: set[str] = set()
        all_written = {name for node in self.nodes for name in node.outputs if name}
        for node in self.nodes:
            for name in node.inputs:
                if name in all_written and name not in written:
                    raise InvalidOnnxError(
                        f"node '{node.name}' reads '{name}', which a later node writes: the graph has a cycle or is "
                        "not in topological order; export the model again",
                        node=node.name,
                        value=name,
                    )
            for name in node.outputs:
                if name and (name in written or name in self._inputs or name in initializers):
                    raise InvalidOnnxError(
                        f"node '{node.name}' writes '{name}', which exists already; export the model again",
                        node=node.name,
                        value=name,
                    )
                if name:
                    written.add(name)
        return written

    def _find_last_use(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            for name in (*node.inputs, *node.outputs):
                if name:
                    last[name] = index
        last.update(dict.fromkeys(self.outputs, len(self.nodes)))
        return last

    def _find_dying(self) -> tuple[tuple[str, ...], ...]:
        dying: list[list[str]] = [[] for _ in self.nodes]
        for name, index in self.last_use.items():
            if index < len(self.nodes):
                dying[index].append(name)
        return tuple(tuple(names) for names in dying)


def _runnable_opset(model: onnx.ModelProto) -> int:
    opset = default_opset(model)
    if not MINIMUM_OPSET <= opset <= MAXIMUM_OPSET:
        raise InvalidOnnxError(
            f"the model uses operator set {opset}; {MINIMUM_OPSET} to {MAXIMUM_OPSET} are possible: "
            "export it with one of these",
            opset=opset,
        )
    return opset


def _operator(node: Node) -> Operator:
    operator = OPERATORS.get(node.operator)
    if operator is None:
        raise UnsupportedOperatorError(node.name, node.operator)
    return operator


def _initializers(graph: onnx.GraphProto, device: torch.device) -> dict[str, Tensor]:
    if graph.sparse_initializer:
        raise InvalidOnnxError("the model has sparse initializers; export it with dense ones")
    return {
        proto.name: tensor_from_proto(proto, device if proto.data_type in FLOAT_TYPES else "cpu")
        for proto in graph.initializer
    }


def _folded(node: Node, operator: Operator, opset: int, device: torch.device) -> Tensor:
    (value,) = operator(node, (), opset)
    assert value is not None
    return value.to(device) if value.is_floating_point() else value
