"""Deadlines: a binary heap whose entries know their place, so that cancelling frees them at once."""
