"""Building the graph of one block: nodes, and weights that stay outside it.

A graph is 2 to 4 KB. Its weights are initializers with external data whose ``location`` is the hexadecimal digest of a
shard, so the runtime opens it from memory with the store's ``blobs`` directory as the folder of external files, and
two graphs that name the same shard share its bytes. Equal input gives equal bytes: names are fixed, and serialising is
deterministic.

One matrix product exists in two forms, chosen by what the shard holds under a key: ``<key>.weight`` (float32
[columns, rows]) becomes ``MatMul``; ``<key>.codes`` with ``.scales`` (and ``.zero_points``) becomes ``MatMulNBits`` on
8-bit activations (accuracy level 4), without which it is half as fast.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from shoal_models.manifest import Port, StatePair
from shoal_models.ports import Array
from shoal_models.shards import Shard

OPSET: Final = 21
IR_VERSION: Final = 10
"""What the oldest runtime we support (1.24) reads, with room to spare."""
FUSED_DOMAIN: Final = "com.microsoft"
FUSED_OPSET: Final = 1
ACCURACY_LEVEL: Final = 4
"""Activations may be rounded to 8 bits for the product."""
BLOCK_SIZE: Final = 32
_PRODUCER: Final = "shoal"
_ELEMENT_TYPES: Final = {
    "f32": TensorProto.FLOAT,
    "f16": TensorProto.FLOAT16,
    "i64": TensorProto.INT64,
    "i32": TensorProto.INT32,
    "u8": TensorProto.UINT8,
    "i8": TensorProto.INT8,
}


@dataclass(slots=True)
class BlockGraph:
    """A graph under construction. Methods return the name of the value they add."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)

    def node(
        self, kind: str, inputs: list[str], output: str, *more_outputs: str, domain: str = "", **attributes: float
    ) -> str:
        outputs = [output, *more_outputs]
        node = helper.make_node(kind, inputs, outputs, name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return output

    def fused(self, kind: str, inputs: list[str], output: str, *more_outputs: str, **attributes: float) -> str:
        """A node of the runtime's own domain."""
        return self.node(kind, inputs, output, *more_outputs, domain=FUSED_DOMAIN, **attributes)

    def constant(self, name: str, value: Array) -> str:
        """A few numbers that belong to the graph itself (axes, indices), not weights."""
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, shard: Shard, name: str, shape: tuple[int, ...] | None = None) -> str:
        """Tensor ``name`` of ``shard``, read as ``shape`` if given."""
        place = shard.tensors[name]
        tensor = TensorProto(
            name=name,
            dims=shape if shape is not None else place.shape,
            data_type=helper.np_dtype_to_tensor_dtype(place.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        where = {"location": shard.ref.digest, "offset": str(place.offset), "length": str(place.bytes)}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=value)
        self.initializers.append(tensor)
        return name

    def linear(self, shard: Shard, key: str, value: str, output: str) -> str:
        """``value`` times the transposed rows of ``key``: [..., columns] -> [..., rows]."""
        if f"{key}.weight" in shard.tensors:
            return self.node("MatMul", [value, self.weight(shard, f"{key}.weight")], output)
        rows, blocks, code_bytes = shard.tensors[f"{key}.codes"].shape
        inputs = [value, self.weight(shard, f"{key}.codes"), self.weight(shard, f"{key}.scales")]
        if f"{key}.zero_points" in shard.tensors:
            inputs.append(self.weight(shard, f"{key}.zero_points"))
        return self.fused(
            "MatMulNBits",
            inputs,
            output,
            K=blocks * BLOCK_SIZE,
            N=rows,
            bits=code_bytes * 8 // BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            accuracy_level=ACCURACY_LEVEL,
        )

    def rms_norm(self, shard: Shard, key: str, value: str, output: str, epsilon: float) -> str:
        inputs = [value, self.weight(shard, f"{key}.weight")]
        return self.node("SimplifiedLayerNormalization", inputs, output, axis=-1, epsilon=epsilon, stash_type=1)

    def last_position(self, value: str, output: str) -> str:
        """[1, tokens, n] -> [1, 1, n]."""
        return self.node("Gather", [value, self.constant("last_position", np.array([-1], np.int64))], output, axis=1)

    def serialize(
        self, name: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...], state: tuple[StatePair, ...]
    ) -> bytes:
        """The finished model; inputs and outputs come first, then each state's past and present."""
        past = [_port(Port(name=pair.past, dtype=pair.dtype, shape=pair.shape)) for pair in state]
        present = [_port(Port(name=pair.present, dtype=pair.dtype, shape=pair.shape)) for pair in state]
        graph: GraphProto = helper.make_graph(
            self.nodes,
            name,
            [*map(_port, inputs), *past],
            [*map(_port, outputs), *present],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED_DOMAIN, FUSED_OPSET)]
        model: ModelProto = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=_PRODUCER
        )
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def _port(port: Port) -> ValueInfoProto:
    return helper.make_tensor_value_info(port.name, _ELEMENT_TYPES[port.dtype], list(port.shape))
