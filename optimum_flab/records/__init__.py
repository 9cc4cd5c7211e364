"""What is stored beside the weights: plan, report, file names, and how files are written atomically."""
