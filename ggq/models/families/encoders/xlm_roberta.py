"""XLM-RoBERTa, bge-m3, multilingual e5: unlike Llama, all as in BERT, and positions begin behind that of padding."""

from __future__ import annotations

from ggq.models.config import Config, Keys, Only
from ggq.models.family import Family, TensorSpec
from ggq.models.names import Expression, Rows, Tensor
from ggq.models.text.encoder import BASE, encoder_tensor, read_encoder, vector_head
from ggq.models.text.parts import TextSpec

FIRST = 2
"""The row of the first position: the one behind that of "pad_token_id"."""

KEYS: Keys = {**BASE, "pad_token_id": Only(FIRST - 1)}


def parts(config: Config) -> TextSpec:
    """The model of a config.json."""
    rows = config.integer("max_position_embeddings", (FIRST + 1, 1 << 27))
    return read_encoder(config, vector_head(config), rows - FIRST)


def expression(role: str, spec: TextSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    found = encoder_tensor(role, {"dense": "classifier.dense", "output": "classifier.out_proj"}, "roberta")
    return Rows(found, FIRST, FIRST + spec.embedding.positions) if role == "positions.weight" else found


def constants(spec: TextSpec) -> list[TensorSpec]:
    """The rows of positions that no token has."""
    table = Tensor("roberta.embeddings.position_embeddings.weight")
    return [TensorSpec("", (FIRST, spec.hidden_size), Rows(table, 0, FIRST), required=False)]


NAMES = ("XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification")
XLM_ROBERTA = Family(NAMES, ("xlm-roberta",), KEYS, parts, expression, constants)
