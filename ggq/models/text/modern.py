"""A config.json with ModernBERT's keys as a model's parts."""

from __future__ import annotations

from ggq.models.config import ANY, REQUIRED, Config, Keys, OrNull
from ggq.models.decoder import ACTIVATIONS
from ggq.models.parts import Embedding, Layer, Mlp, ModelSpec, Norm
from ggq.models.text.encoder import attention, gives_scores, labels, vector_head
from ggq.models.text.parts import Dense, TextEmbedding, TextSpec, VectorHead

UNUSED = (
    *("initializer_cutoff_factor", "embedding_dropout", "mlp_dropout", "classifier_dropout", "reference_compile"),
    *("deterministic_flash_attn", "sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad"),
    *("decoder_bias", "tie_word_embeddings", "cls_token_id", "sep_token_id"),
)
"""Of training, of an output that predicts masked tokens, which is left out, and of the tokenizer."""

KEYS: Keys = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "max_position_embeddings": 8192,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "layer_types": OrNull(),
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "rope_theta": 160000.0,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "classifier_pooling": "cls",
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "is_causal": OrNull(False),
    **dict.fromkeys(UNUSED, ANY),
}

MODULES = {
    "embedding": "model.embeddings.tok_embeddings",
    "embedding_norm": "model.embeddings.norm",
    "norm": "model.final_norm",
    "dense": "head.dense",
    "dense_norm": "head.norm",
    "output": "classifier",
    "attention_norm": "attn_norm",
    **dict.fromkeys(("attention.q", "attention.k", "attention.v"), "attn.Wqkv"),
    "attention.o": "attn.Wo",
    "mlp_norm": "mlp_norm",
    **dict.fromkeys(("mlp.gate", "mlp.up"), "mlp.Wi"),
    "mlp.down": "mlp.Wo",
}
"""Names of modules in a checkpoint; see `checkpoint_name`."""


def modern_layer(config: Config, norm: Norm) -> Layer:
    """A layer, without RoPE and window."""
    width = config.take("hidden_size", Embedding, "width")
    return Layer(
        mixer=attention(config, width, bias=config.flag("attention_bias")),
        feed_forward=Mlp(
            width=config.take("intermediate_size", Mlp, "width"),
            activation=ACTIVATIONS[config.choice("hidden_activation", tuple(ACTIVATIONS))],
            gated=True,
            bias=config.flag("mlp_bias"),
        ),
        mixer_norm=norm,
        mixer_post_norm=None,
        feed_forward_norm=norm,
        feed_forward_post_norm=None,
        parallel=False,
        residual_scale=1.0,
    )


def modern_head(config: Config, norm: Norm) -> VectorHead:
    """The mean of the rows, or scores by two matrices."""
    if not gives_scores(config):
        return vector_head(config, norm)
    pool = {"cls": "first", "mean": "mean"}[config.choice("classifier_pooling", ("cls", "mean"))]
    activation = ACTIVATIONS[config.choice("classifier_activation", tuple(ACTIVATIONS))]
    dense = Dense(config.take("hidden_size", Embedding, "width"), config.flag("classifier_bias"), activation, norm)
    return VectorHead(norm, pool, dense, Dense(labels(config), True, "none", None), scores=True, normalized=False)


def modern_text(config: Config, norm: Norm, layers: tuple[Layer, ...], head: VectorHead) -> TextSpec:
    """The whole model."""
    return TextSpec(
        context_length=config.take("max_position_embeddings", ModelSpec, "context_length"),
        embedding=TextEmbedding(
            vocabulary_size=config.take("vocab_size", Embedding, "vocabulary_size"),
            width=config.take("hidden_size", Embedding, "width"),
            scale=1.0,
            positions=0,
            types=0,
            norm=norm,
        ),
        layers=layers,
        head=head,
        causal=False,
        normed_sums=False,
    )
