"""Operations of models whose rows are several parallel ones (AltUp), and what goes with these."""
