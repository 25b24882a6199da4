"""What is taken away from models of each family, which their goldens must notice."""
