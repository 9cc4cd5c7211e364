"""Sources, documents, the sets of a run, and their tokens in rows."""
