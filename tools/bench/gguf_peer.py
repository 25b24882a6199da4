"""Write a Llama of random weights as F16 GGUF, run by an interpreter that has gguf: for timing only.

    python gguf_peer.py OUT HIDDEN LAYERS HEADS KV_HEADS FEED_FORWARD VOCABULARY

It has the shape of tools/make_model.py's, tied embedding and all, and no tokenizer: its prompts are token ids.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import numpy as np


def main() -> None:
    path, *sizes = sys.argv[1:]
    hidden, layers, heads, kv_heads, feed_forward, vocabulary = map(int, sizes)
    narrow = hidden // heads * kv_heads
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(1 << 22, dtype=np.float32) * 0.02).astype(np.float16)

    def weights(*shape: int) -> np.ndarray:
        count, start = int(np.prod(shape)), int(rng.integers(0, 1 << 20))
        return np.tile(noise, count // noise.size + 2)[start : start + count].reshape(shape)

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(1)
    writer.add_tokenizer_model("no_vocab")
    writer.add_tensor("token_embd.weight", weights(vocabulary, hidden))
    matrices = {
        "attn_q": (hidden, hidden),
        "attn_k": (narrow, hidden),
        "attn_v": (narrow, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (feed_forward, hidden),
        "ffn_up": (feed_forward, hidden),
        "ffn_down": (hidden, feed_forward),
    }
    for layer in range(layers):
        for name, shape in matrices.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(hidden, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(json.dumps({"bytes": Path(path).stat().st_size}))


if __name__ == "__main__":
    main()
