"""What stays: texts, vocabulary, shape and plan; one module for each component."""
