"""Looking at models from outside: what they compute, and what they cost."""
