"""A model a layer at a time, and its completions."""
