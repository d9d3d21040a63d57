"""Contracts every other package shares: registry, questions, batches, errors, seeds."""
