"""Operations that carry a state from token to token, one file each."""
