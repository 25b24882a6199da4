"""The search for steps, in NumPy and by compiled code."""
