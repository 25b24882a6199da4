"""LoRA adapters beside a quantized model: read, brought to its roles, and computed without changing its matrices."""
