"""Shared tensors: arithmetic of several parties on tensors that none of them can read."""
