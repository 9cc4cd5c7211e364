"""A model whose weights lie on no quantiser's grid, from a GGUF file, to judge GGUF types fairly.

    python benchmarks/dither.py FILE.gguf OUT.gguf

What was quantised once is hit again nearly free by the same type. To each weight of FILE.gguf uniform noise of one
step of its own block is added (half a step up or down), and the sum is written in f16. That is another, slightly worse
model: it is called dense in comparisons, and only in those. Reads Q8_0, Q4_K, Q5_0 and Q6_K; other matrices stay. An
output head beside the embedding is left out: in the files that were used both are copies of one matrix.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from common import progress


# by format, the bytes of a block that hold the lowest bits of its weights, and those bits set in all of them
LOWEST_BITS = {"Q8_0": (slice(2, 34), 1), "Q4_K": (slice(16, 144), 0x11), "Q5_0": (slice(6, 22), 0x11)}
LOWEST_BITS["Q6_K"] = (slice(0, 128), 0x11)


def steps(rows: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """The distance between neighbouring values of each weight's block.

    Args:
        rows (`np.ndarray`): uint8 of shape `(rows, bytes)`.
    """
    place, ones = LOWEST_BITS[kind.name]
    blocks = rows.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    low, high = blocks.copy(), blocks.copy()
    low[:, place], high[:, place] = 0, ones
    return np.abs(gguf.dequantize(high, kind) - gguf.dequantize(low, kind)).reshape(len(rows), -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reader, random = gguf.GGUFReader(args.source), np.random.default_rng(args.seed)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(args.target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inside = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inside)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tensors = [tensor for tensor in reader.tensors if tensor.name != "output.weight"]
    for number, tensor in enumerate(tensors, start=1):
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if tensor.tensor_type.name in LOWEST_BITS:
            rows = tensor.data.reshape(-1, tensor.data.shape[-1])
            noise = random.uniform(-0.5, 0.5, values.shape) * steps(rows, tensor.tensor_type).reshape(values.shape)
            values = values + noise.astype(np.float32)
        writer.add_tensor(tensor.name, values if values.ndim < 2 else values.astype(np.float16))
        progress(number, len(tensors), "tensors")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
