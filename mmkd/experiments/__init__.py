"""Repeated training runs: a plan, its results, and a page of tables."""
