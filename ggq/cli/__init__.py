"""The command line: one module per command, listed in `ggq.cli.main.COMMANDS`."""
