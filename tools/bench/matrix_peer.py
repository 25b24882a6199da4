"""One 4-bit matrix in ONNX Runtime or OpenVINO, run by an interpreter that has them: one JSON line.

    python matrix_peer.py onnxruntime|openvino ROWS COLUMNS TOKENS COPIES THREADS

Several copies are multiplied one after the other, so that a single token's weights come from memory and not from cache;
the seconds are those of one. ONNX Runtime: MatMulNBits with groups of 32 and accuracy_level 4 (int8 activations).
OpenVINO: weights of 4 bits with an f16 scale for each group of 32, the best of its settings for activations.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

GROUP = 32
SECONDS = 2.0
"""How long each setting is measured, about."""


def median_time(call: Callable[[], Any]) -> float:
    """Median seconds of a call, after two that warm up."""
    seconds: list[float] = []
    call()
    call()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds) < 5:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def onnxruntime(rows: int, columns: int, tokens: int, copies: int, threads: int) -> dict[str, float]:
    """Seconds of all copies by setting."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper, save

    rng, nodes, weights, outs = np.random.default_rng(0), [], [], []
    for i in range(copies):
        codes = rng.integers(0, 256, (rows, columns // GROUP, GROUP // 2), dtype=np.uint8)
        scales = (rng.random(rows * columns // GROUP, dtype=np.float32) + 0.5) * 0.01
        weights += [numpy_helper.from_array(codes, f"codes{i}"), numpy_helper.from_array(scales, f"scales{i}")]
        names = ["x", f"codes{i}", f"scales{i}"]
        settings = {"K": columns, "N": rows, "bits": 4, "block_size": GROUP, "accuracy_level": 4}
        nodes.append(helper.make_node("MatMulNBits", names, [f"y{i}"], domain="com.microsoft", **settings))
        outs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [tokens, rows]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [tokens, columns])
    graph = helper.make_graph(nodes, "matrix", [x], outs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.onnx"
        save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()  # outputs are allocated once, as in the other programs
    binding.bind_cpu_input("x", rng.standard_normal((tokens, columns), dtype=np.float32))
    for i in range(copies):
        binding.bind_ortvalue_output(f"y{i}", ort.OrtValue.ortvalue_from_shape_and_type([tokens, rows], np.float32))
    return {"accuracy_level 4": median_time(lambda: session.run_with_iobinding(binding))}


def openvino(rows: int, columns: int, tokens: int, copies: int, threads: int) -> dict[str, float]:
    """Seconds of all copies by setting."""
    import openvino as ov
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    x = ops.parameter([tokens, columns], np.float32, name="x")
    products, kept = [], []  # constants do not hold the memory that they are made of
    for _ in range(copies):
        raw = rng.integers(0, 256, rows * columns // 2, dtype=np.uint8)
        packed = ov.Tensor(raw, ov.Shape([rows, columns // GROUP, GROUP]), ov.Type.i4)
        kept += [raw, packed]
        codes = ops.convert(ops.constant(packed), np.float16)
        scales = ops.constant(((rng.random((rows, columns // GROUP, 1)) + 0.5) * 0.01).astype(np.float16))
        whole = ops.reshape(ops.multiply(codes, scales), ops.constant(np.array([rows, columns])), False)
        products.append(ops.matmul(x, ops.convert(whole, np.float32), False, True))
    model = ov.Model(products, [x], "matrix")
    core, found = ov.Core(), {}
    data = rng.standard_normal((tokens, columns), dtype=np.float32)
    for group in (0, 32, 128):
        settings: dict[str, object] = {"INFERENCE_NUM_THREADS": threads, "DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(data, shared_memory=True))
        found[f"activation groups of {group}" if group else "float activations"] = median_time(request.infer)
    return found


def main() -> None:
    program, *numbers = sys.argv[1], *map(int, sys.argv[2:])
    times = {"onnxruntime": onnxruntime, "openvino": openvino}[program](*numbers)
    setting = min(times, key=lambda name: times[name])
    copies = numbers[3]
    found = {"seconds": times[setting] / copies, "setting": setting, "version": f"{program} {version(program)}"}
    print(json.dumps({**found, "all": {name: seconds / copies for name, seconds in times.items()}}))


if __name__ == "__main__":
    main()
