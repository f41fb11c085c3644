"""From raw text to a prepared corpus: reading, sentences, vocabularies, shards."""
