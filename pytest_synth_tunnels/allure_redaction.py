"""Takes secrets out of the results that allure-pytest writes.

What Allure attaches (logs, output) and its traces come from pytest's reports, which are cleaned
before. Its messages come from the exceptions themselves.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from pluggy import HookimplMarker

from .redact import redact

__all__ = ["AllureRedaction", "clean_allure_results"]

_hookimpl = HookimplMarker("allure")


class AllureRedaction:
    """A plugin of Allure's own plugin manager.

    Args:
        secrets: returns the secrets, more of them as the run goes on.
    """

    def __init__(self, secrets: Callable[[], set[str]]) -> None:
        self._secrets = secrets

    @_hookimpl(tryfirst=True)
    def report_result(self, result: Any) -> None:
        """Clean a test's result before it is written."""
        self._clean(result)

    @_hookimpl(tryfirst=True)
    def report_container(self, container: Any) -> None:
        """Clean what is written of fixtures."""
        self._clean(container)

    def _clean(self, item: Any) -> None:
        """Clean the fields of an object of Allure's model, and of those that it is made of."""
        for name, value in vars(item).items():
            if hasattr(value, "__attrs_attrs__"):
                self._clean(value)
            elif isinstance(value, list) and any(hasattr(one, "__attrs_attrs__") for one in value):
                for one in value:
                    self._clean(one)
            else:
                setattr(item, name, redact(value, self._secrets()))


def clean_allure_results(config: pytest.Config, secrets: Callable[[], set[str]]) -> None:
    """Clean what Allure writes from now on in a run in which it writes something.

    Args:
        config: of pytest.
        secrets: returns the secrets.
    """
    manager: Any = import_module("allure_commons").plugin_manager
    redaction = AllureRedaction(secrets)
    manager.register(redaction)
    config.add_cleanup(lambda: manager.unregister(redaction))
