"""A turn of a conversation, whatever the interface that asks for it: messages in, text, reasoning and calls out."""
