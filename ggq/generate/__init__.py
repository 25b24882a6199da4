"""Generation: a model that is ready to run, from prompts to text."""
