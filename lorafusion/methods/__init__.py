"""Methods by name. A new method is one file with one frozen config class, and one line here."""

from __future__ import annotations

from lorafusion.methods.adapter import (
    ParallelAdapterConfig,
    ScaledParallelAdapterConfig,
    SequentialAdapterConfig,
)
from lorafusion.methods.base import Adaptation, Context, Method, ParameterGroup
from lorafusion.methods.bitfit import BitfitConfig
from lorafusion.methods.dora import DoraConfig
from lorafusion.methods.full_finetuning import FullFinetuningConfig
from lorafusion.methods.fusion import (
    CoefficientsOnlyConfig,
    FusionConfig,
    MagnitudeOnlyConfig,
    PublishedFusionConfig,
)
from lorafusion.methods.lora import LoraConfig
from lorafusion.methods.vera import VeraConfig
from lorafusion.methods.zero_shot import ZeroShotConfig

METHODS: dict[str, type[Method]] = {
    config.name: config
    for config in (
        ZeroShotConfig,
        LoraConfig,
        DoraConfig,
        VeraConfig,
        BitfitConfig,
        FusionConfig,
        PublishedFusionConfig,
        CoefficientsOnlyConfig,
        MagnitudeOnlyConfig,
        SequentialAdapterConfig,
        ParallelAdapterConfig,
        ScaledParallelAdapterConfig,
        FullFinetuningConfig,
    )
}

__all__ = ["METHODS", "Adaptation", "Context", "Method", "ParameterGroup"]
