"""GPT-2: unlike Llama, positions are learned; layer norms and all matrices have biases, the matrices are stored
transposed, query, key and value in one, and the feed-forward has no gate."""

from __future__ import annotations

from ggq.models.config import ANY, REQUIRED, Keys, Only, OrNull
from ggq.models.family import Family, TensorSpec, checkpoint_name
from ggq.models.names import Expression, Rows, Tensor, Transposed
from ggq.models.text.learned import read_learned
from ggq.models.text.parts import LogitsHead, TextSpec

KEYS: Keys = {
    **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"), REQUIRED),
    "n_inner": OrNull(),
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": Only(False),
    "add_cross_attention": Only(False),
    "tie_word_embeddings": True,
    "reorder_and_upcast_attn": ANY,  # the same in other types
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), ANY),  # of training
    **dict.fromkeys(("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"), ANY),
}

OUTER = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "norm": "transformer.ln_f",
    "output": "lm_head",
}
FUSED = dict.fromkeys(("attention.q", "attention.k", "attention.v"), "attn.c_attn")
INNER = {"attention_norm": "ln_1", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
MODULES = OUTER | FUSED | INNER | {"attention.o": "attn.c_proj", "output": "lm_head"}


def expression(role: str, spec: TextSpec) -> Expression:
    """The tensor of a role: turned, and for query, key and value rows of it."""
    tensor: Expression = Tensor(checkpoint_name(role, MODULES, "transformer.h"))
    *_, module, kind = role.split(".")
    if module in ("q", "k", "v", "o", "up", "down") and kind == "weight":
        tensor = Transposed(tensor)
    if module not in ("q", "k", "v"):
        return tensor
    start = "qkv".index(module) * spec.hidden_size
    return Rows(tensor, start, start + spec.hidden_size)


def constants(spec: TextSpec) -> list[TensorSpec]:
    """An output matrix that is tied."""
    tied = isinstance(spec.head, LogitsHead) and spec.head.tied
    shape, output = (spec.vocabulary_size, spec.hidden_size), Tensor("lm_head.weight")
    return [TensorSpec("", shape, output, required=False)] if tied else []


GPT2 = Family(("GPT2LMHeadModel", "GPT2Model"), ("gpt2",), KEYS, read_learned, expression, constants)
