"""/v1/responses: OpenAI's newer interface, with and without a state kept here."""
