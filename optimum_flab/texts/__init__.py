"""Sources, documents, the sets of a run, and their tokens packed in rows."""
