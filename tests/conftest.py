"""What holds for all tests: those of an optional package are skipped, saying so, where it is missing; shared fixtures."""

import importlib
import importlib.util
import sys

import pytest
from helpers.programs import EXPERIMENTS

OPTIONAL = {"pycma": "cma"}  # word in a test's name or parameters: package


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for word, package in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            reason = f"package {package} is not installed: pip install 'lopt[test]'"
            for item in items:
                if word in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def folder_module(monkeypatch):
    """Imports a module of a folder of experiments by name, and forgets it again with its neighbours."""
    before = set(sys.modules)

    def load(folder: str, name: str):
        monkeypatch.syspath_prepend(str(EXPERIMENTS / folder))
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if "experiments" in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
