"""All of GLUE: published scores to stand beside results, and the server's submission."""
