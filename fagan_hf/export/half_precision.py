"""Halve an ONNX file: store large weights as float16, and cast them to float32 when the model is loaded."""

from typing import Any

import numpy as np

_FROM_ELEMENTS = 256  # smaller tensors (biases, scales, constants) are not worth a rounding


def halve_weights(model: Any) -> Any:
    """Return a copy of an ONNX model whose float32 initializers are float16; it still computes in float32.

    ONNX Runtime folds the casts once, when a session is created.

    Args:
        model: An ``onnx.ModelProto`` with its weights inside.
    """
    import onnx
    from onnx import numpy_helper

    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    casts = []
    for tensor in halved.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _FROM_ELEMENTS:
            continue
        name = tensor.name
        with np.errstate(over="ignore"):  # an infinite weight fails the comparison with the model
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *halved.graph.node]
    del halved.graph.node[:]
    halved.graph.node.extend(nodes)
    return halved
