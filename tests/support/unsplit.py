"""The unsplit model: all blocks of a package joined into one ONNX graph, run by one plain onnxruntime session.

Shares nothing with the engine: no bindings, no preallocated KV, no stages. The KV grows from run to run as ordinary
outputs that are fed back, and the greedy choice is an argmax. What the cluster answers must be this, token by token.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from shoal_agent.shell import ort
from shoal_models.package import Store

LENGTHS = ("seqlens_k", "total_sequence_length")


def join(store: Store, name: str, left_out: range = range(0)) -> bytes:
    """One graph: ``tokens`` and every layer's past in, ``logits`` and every layer's present out.

    Layers that are ``left_out`` are not in it: the one after the last of them takes what the one before them gives.
    """
    manifest = store.load(name)
    nodes, initializers, inputs, outputs = [], [], [], []
    hidden = "tokens"
    opsets, ir_version = None, 0
    for index, block in enumerate(manifest.blocks):
        if index in left_out:
            continue
        model = onnx.load_from_string(store.open_block(manifest, index).graph)
        opsets, ir_version = model.opset_import, model.ir_version
        renamed = {block.inputs[0].name: hidden, **{length: length for length in LENGTHS}, "": ""}
        for value in (*model.graph.input, *model.graph.output):
            is_state = any(value.name in (pair.past, pair.present) for pair in block.state)
            if is_state:
                renamed[value.name] = f"{value.name}.{index}"
                copy = onnx.ValueInfoProto()
                copy.CopyFrom(value)
                copy.name = renamed[value.name]
                # Past and present differ in length when the KV grows.
                copy.type.tensor_type.shape.dim[2].dim_param = f"length.{copy.name}"
                (inputs if any(value.name == pair.past for pair in block.state) else outputs).append(copy)
        for node in model.graph.node:
            node.input[:] = [renamed.setdefault(each, f"b{index}.{each}") for each in node.input]
            node.output[:] = [renamed.setdefault(each, f"b{index}.{each}") for each in node.output]
            node.name = f"b{index}.{node.name}"
            nodes.append(node)
        for tensor in model.graph.initializer:
            tensor.name = renamed.get(tensor.name, f"b{index}.{tensor.name}")
            initializers.append(tensor)
        hidden = renamed[block.outputs[0].name]
    inputs.insert(0, helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, [1, "count"]))
    inputs.append(helper.make_tensor_value_info(LENGTHS[0], onnx.TensorProto.INT32, [1]))
    inputs.append(helper.make_tensor_value_info(LENGTHS[1], onnx.TensorProto.INT32, []))
    outputs.insert(0, helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT, [1, 1, "vocabulary"]))
    graph = helper.make_graph(nodes, "unsplit", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    return bytes(model.SerializeToString())


@dataclass
class Unsplit:
    """The whole model in one session; one thread."""

    store: Store
    name: str
    left_out: range = range(0)
    session: onnxruntime.InferenceSession = field(init=False)

    def __post_init__(self) -> None:
        options = onnxruntime.SessionOptions()
        ort.configure(1)  # a process has one pool, and sessions with pools of their own are refused beside it
        options.use_per_session_threads = False
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self.store.blobs))
        graph = join(self.store, self.name, self.left_out)
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.eos = self.store.load(self.name).special_tokens.eos
        self.states = [each for each in self.session.get_inputs() if len(each.shape) == 4]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def greedy(self, prompt: list[int], count: int, *, stop_at_eos: bool = True) -> list[int]:
        """``count`` tokens after ``prompt``, fewer if the model ends its turn."""
        state = {each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32) for each in self.states}
        fed, answer, total = list(prompt), [], 0
        while len(answer) < count:
            total += len(fed)
            lengths = {LENGTHS[0]: np.array([total - 1], np.int32), LENGTHS[1]: np.array(total, np.int32)}
            values = self.session.run(self.outputs, {"tokens": np.array([fed], np.int64), **lengths, **state})
            by_name = dict(zip(self.outputs, values, strict=True))
            state = {name: by_name[name.replace("past", "present")] for name in state}
            token = int(np.argmax(values[0][0, -1]))
            if stop_at_eos and token in self.eos:
                break
            answer.append(token)
            fed = [token]
        return answer
