"""Finds and redacts secrets and personal data in text."""
