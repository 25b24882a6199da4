"""Operations that move numbers, add them or multiply them."""
