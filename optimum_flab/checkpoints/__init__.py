"""Finding and loading models, tensors by name, surgery, and writing."""
