"""A configuration file in an empty directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forwarder.config import InvalidConfigError, Settings, load_settings
from tests.unit.config.config_support import ENV, SINK_TYPES, Load, Refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from forwarder.config import Problem


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a text as `config.yaml`."""
    monkeypatch.chdir(tmp_path)

    def run(text: str | bytes, env: Mapping[str, str] = ENV) -> Settings:
        file = Path("config.yaml")
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_settings(file, sink_types=SINK_TYPES, env=env)

    return run


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """Load a text that must be refused; gives the message and the problems."""

    def run(text: str | bytes, env: Mapping[str, str] = ENV) -> tuple[str, tuple[Problem, ...]]:
        with pytest.raises(InvalidConfigError) as caught:
            load(text, env)
        # A chained error would show in a traceback what the message hides.
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return str(caught.value), caught.value.problems

    return run
