"""The configuration: one YAML file, checked whole before anything is touched."""

from __future__ import annotations

from forwarder.config.loading import load_settings
from forwarder.config.problems import InvalidConfigError, Problem
from forwarder.config.schema import describe, json_schema
from forwarder.config.settings import (
    AdminSettings,
    EngineSettings,
    LogSettings,
    SandboxSelector,
    Settings,
    ShutdownSettings,
    SourceSettings,
    SpoolSettings,
)

__all__ = [
    "AdminSettings",
    "EngineSettings",
    "InvalidConfigError",
    "LogSettings",
    "Problem",
    "SandboxSelector",
    "Settings",
    "ShutdownSettings",
    "SourceSettings",
    "SpoolSettings",
    "describe",
    "json_schema",
    "load_settings",
]
