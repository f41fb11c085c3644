"""Objectives, the train step, evaluation, and the loop that holds every side effect."""
