"""What stays: budget, shapes, and one folder for each component that is chosen by measuring."""
