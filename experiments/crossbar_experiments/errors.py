"""Errors of the bench: a user's mistakes, told in one sentence."""

from __future__ import annotations


class BenchError(ValueError):
    """Something the user can put right: a name, a file, a setting."""
