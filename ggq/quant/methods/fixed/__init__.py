"""Methods whose levels are given: nothing but steps is chosen."""
