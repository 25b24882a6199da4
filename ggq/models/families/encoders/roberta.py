"""RoBERTa, distilroberta: unlike Llama, all as in XLM-RoBERTa, which has the tensors' names from it."""

from __future__ import annotations

from ggq.models.families.encoders import xlm_roberta
from ggq.models.family import Family

NAMES = ("RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification")
ROBERTA = Family(
    NAMES, ("roberta",), xlm_roberta.KEYS, xlm_roberta.parts, xlm_roberta.expression, xlm_roberta.constants
)
