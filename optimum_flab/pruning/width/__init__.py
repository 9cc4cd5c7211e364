"""FFN width: which neurons stay, and what their output weights become."""
