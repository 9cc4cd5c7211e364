"""What a user can ask for: one section per verb, from which flags and settings files derive. Lowest layer."""
