"""Programs: a model as a flat list of operations, and the slow ways to run one. NumPy only."""
