"""What components measure and decide while text passes through the layers: each is an observer of a pass."""
