"""What holds for all tests: those of an optional package are skipped, saying so, where it is missing."""

import importlib.util

import pytest

OPTIONAL = {"pycma": "cma"}  # word in a test's name or parameters: package


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for word, package in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            reason = f"package {package} is not installed: pip install 'lopt[test]'"
            for item in items:
                if word in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason=reason))
