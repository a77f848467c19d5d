"""Telescoping models."""
