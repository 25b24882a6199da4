"""The user's folder of converted models, for commands that take a checkpoint where a file is asked for."""
