"""BERT, MiniLM, bge, e5: unlike Llama, tokens see their whole text, positions and types of texts are learned, the norms
are layer norms of the sums, all matrices have biases, the feed-forward has no gate, and a text gets a vector or scores.
"""

from __future__ import annotations

from ggq.models.config import Config
from ggq.models.family import Family
from ggq.models.names import Expression
from ggq.models.text.encoder import BASE, encoder_tensor, read_encoder, vector_head
from ggq.models.text.parts import TextSpec


def parts(config: Config) -> TextSpec:
    """The model of a config.json."""
    return read_encoder(config, vector_head(config))


def expression(role: str, spec: TextSpec) -> Expression:
    """The tensor of a role, by its name in a checkpoint."""
    return encoder_tensor(role, {"dense": "bert.pooler.dense", "output": "classifier"}, "bert")


NAMES = ("BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification")
BERT = Family(NAMES, ("bert",), BASE, parts, expression)
