"""The embedded data set and the demo that trains on it."""
