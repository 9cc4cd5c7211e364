"""What any room may use: errors, progress, paths, hashes, memory, and what is not public in other libraries."""
