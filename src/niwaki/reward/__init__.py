"""Reward models: HelpSteer2-Preference (arXiv 2410.01257) and ArmoRM (arXiv 2406.12845)."""
