"""config.json of the tiny checkpoints, by kind of family."""
