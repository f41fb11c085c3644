"""All of GLUE in one command: the grid of runs, their report, and the server's submission."""
