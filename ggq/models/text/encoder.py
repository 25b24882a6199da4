"""What encoders of BERT's shape share: a config.json as such a model, the names of its tensors, and heads."""

from __future__ import annotations

from collections.abc import Mapping

from ggq.models.config import ANY, REQUIRED, Config, Keys, Only, OrNull
from ggq.models.decoder import ACTIVATIONS, plain_attention
from ggq.models.family import checkpoint_name
from ggq.models.names import Expression, Tensor
from ggq.models.parts import MOST_LAYERS, Attention, Embedding, Layer, Mlp, ModelSpec, Norm
from ggq.models.text.parts import Dense, TextEmbedding, TextSpec, VectorHead

BASE: Keys = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": Only("absolute"),
    "is_causal": OrNull(False),
    "is_decoder": Only(False),
    "add_cross_attention": Only(False),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), ANY),  # of training
    "tie_word_embeddings": ANY,  # of an output that predicts masked tokens, which is left out
}
"""What encoders of BERT's shape read, with its defaults; the sizes must be said."""

EMBEDDINGS = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
"""Names of modules in a checkpoint, behind the model's own."""

MODULES = {
    "attention.q": "attention.self.query",
    "attention.k": "attention.self.key",
    "attention.v": "attention.self.value",
    "attention.o": "attention.output.dense",
    "attention_post_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_post_norm": "output.LayerNorm",
}
"""Names of the modules of a layer; see `checkpoint_name`."""

SCORES = "ForSequenceClassification"


def read_encoder(config: Config, head: VectorHead, context: int | None = None) -> TextSpec:
    """The model of a config.json with BERT's keys.

    Args:
        config: The config.json.
        head: What is made of the rows.
        context: Tokens of a text; what "max_position_embeddings" says by default.
    """
    context = context or config.take("max_position_embeddings", ModelSpec, "context_length")
    norm = Norm("layer", config.take("layer_norm_eps", Norm, "epsilon"), weight=True, bias=True)
    width: int = config.take("hidden_size", Embedding, "width")
    layer = Layer(
        mixer=attention(config, width, bias=True),
        feed_forward=Mlp(
            width=config.take("intermediate_size", Mlp, "width"),
            activation=ACTIVATIONS[config.choice("hidden_act", tuple(ACTIVATIONS))],
            gated=False,
            bias=True,
        ),
        mixer_norm=None,
        mixer_post_norm=norm,
        feed_forward_norm=None,
        feed_forward_post_norm=norm,
        parallel=False,
        residual_scale=1.0,
    )
    return TextSpec(
        context_length=context,
        embedding=TextEmbedding(
            vocabulary_size=config.take("vocab_size", Embedding, "vocabulary_size"),
            width=width,
            scale=1.0,
            positions=context,
            types=config.take("type_vocab_size", TextEmbedding, "types"),
            norm=norm,
        ),
        layers=(layer,) * config.integer("num_hidden_layers", (1, MOST_LAYERS)),
        head=head,
        causal=False,
        normed_sums=True,
    )


def attention(config: Config, width: int, *, bias: bool) -> Attention:
    """Attention of as many key-value heads as query heads, over all positions, without RoPE."""
    heads: int = config.take("num_attention_heads", Attention, "heads")
    if width % heads:
        raise config.error("num_attention_heads", f"{heads} heads do not divide the hidden size {width}")
    return plain_attention(heads, heads, width // heads, None, bias)


def vector_head(config: Config, norm: Norm | None = None, pool: str = "first") -> VectorHead:
    """A vector that is the mean of the rows; for a class that gives scores, those of the first row by two matrices.

    Args:
        config: The config.json; "architectures" says whether the model gives scores.
        norm: Norm of the rows.
        pool: Of scores.
    """
    if not gives_scores(config):
        return VectorHead(norm, "mean", dense=None, output=None, scores=False, normalized=False)
    dense = Dense(config.take("hidden_size", Embedding, "width"), bias=True, activation="tanh", norm=None)
    output = Dense(labels(config), bias=True, activation="none", norm=None)
    return VectorHead(norm, pool, dense, output, scores=True, normalized=False)


def gives_scores(config: Config) -> bool:
    """Whether a config.json is one of a class that gives scores of texts."""
    listed = config.get("architectures")
    return isinstance(listed, list) and any(isinstance(name, str) and name.endswith(SCORES) for name in listed)


def labels(config: Config) -> int:
    """How many scores a text gets: as many as "id2label" has, or "num_labels", or transformers' 2."""
    listed = config.get("id2label")
    if isinstance(listed, Mapping) and listed:
        return len(listed)
    return config.integer("num_labels", (1, 1 << 20), 2)


def encoder_tensor(role: str, modules: Mapping[str, str], inside: str) -> Expression:
    """The tensor of a role by its name in a checkpoint.

    Args:
        role: Its role.
        modules: Names of the modules of the head.
        inside: What the model is called in a checkpoint that has more.
    """
    own = {module: f"{inside}.{name}" for module, name in EMBEDDINGS.items()}
    return Tensor(checkpoint_name(role, {**MODULES, **own, **modules}, f"{inside}.encoder.layer"))
