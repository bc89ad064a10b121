"""LoRA fusion and its rivals on simulated ReRAM chips."""

from __future__ import annotations
