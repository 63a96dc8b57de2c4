"""Reinforcement learning on questions whose answers can be checked (arXiv 2504.13941)."""
