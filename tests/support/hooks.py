"""What conftest.py has pytest do before the first test: import, make and sort the tests, and fork a server."""

import atexit
import gc

import pytest

FIXTURES = ["export_runs", "hostile_texts", "own_package", "stateful_runs", "view_cases"]  # modules of tests/support


def runs_tests(config) -> bool:
    """Whether this process does, rather than hand them out to workers."""
    return hasattr(config, "workerinput") or config.getoption("dist", "no") == "no"


def pytest_configure(config):
    if runs_tests(config):
        gc.disable()  # what is imported and collected stays; looking through it took a third of the collection's time
        for name in FIXTURES:
            config.pluginmanager.import_plugin(name)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    """make test has no slow tests: half of all are not made, rather than made in each worker and left out."""
    if metafunc.config.option.markexpr != "not slow":
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        cases = mark.args[1] if len(mark.args) > 1 else None
        quick = [case for case in cases if not is_slow(case)] if isinstance(cases, list) else []
        if quick:
            cases[:] = quick


def is_slow(case) -> bool:
    """Of one of the parameters of a test."""
    return any(mark.name == "slow" for mark in getattr(case, "marks", ()))


def pytest_collection_finish():
    gc.freeze()  # nor do the tests look through it
    gc.enable()
    atexit.register(gc.unfreeze)  # so that it is freed in the end


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around those that watch outputs, which the server should not have
def pytest_runtestloop(session):
    if runs_tests(session.config):
        import fork_server
        import torch

        for kind in (torch.cuda, torch.xpu, torch.mtia):
            if not kind.is_available():  # each torch.manual_seed would keep a seed for later, with a traceback
                kind.manual_seed_all = lambda seed: None
        capture = session.config.pluginmanager.getplugin("capturemanager")
        capture.resume_global_capture()  # what ranks print is shown where a test fails
        fork_server.start()
        capture.suspend_global_capture()
    return (yield)


def pytest_collection_modifyitems(items):
    """Rooms of quick tests last: idle workers (make test) take what is left of others, best in small pieces."""
    items.sort(key=lambda item: item.path.parent.name in ("data", "evaluation", "losses", "model", "negatives"))
