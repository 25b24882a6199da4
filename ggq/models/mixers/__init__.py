"""Operations of mixers, kind by kind."""
