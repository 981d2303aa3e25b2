"""Puts a module where its user loads it."""
