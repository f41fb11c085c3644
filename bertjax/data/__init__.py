"""From where the examples come: files, TFDS and Hugging Face data sets."""
