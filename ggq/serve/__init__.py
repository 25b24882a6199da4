"""A server that speaks the interfaces of OpenAI and Anthropic."""
