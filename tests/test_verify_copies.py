"""What is checked is a copy: no check changes what it was given, however it ends."""

import signal
import threading
import time

import numpy as np
import pytest

import afnp
from afnp.verify import CHECKS, check_flow
from afnp.verify.copying import independent_copy
from afnp.verify.worker import NAME, GivenUp, Worker, safe_point


def ended(seconds=20.0):
    """Wait until no thread of a check is left; return whether that came."""
    until = time.monotonic() + seconds
    while _checking() and time.monotonic() < until:
        time.sleep(0.02)
    return not _checking()


def _checking():
    return any(thread.name == NAME for thread in threading.enumerate())


@pytest.mark.parametrize("check", ["connectivity", "staleness", "gradients", "monotone"])
def test_a_check_that_is_given_up_ends_and_leaves_the_flow_alone(check):
    assert ended()
    flow = afnp.maf(40, hidden=(256, 256), transforms=4)
    theta = flow.theta.copy()
    report = check_flow(flow, level="full", checks=[check], time_limit=0.004)
    assert report.failed == [check] and "no answer within 0.004" in report[check].reason
    assert np.array_equal(flow.theta, theta)
    assert ended() and np.array_equal(flow.theta, theta)


@pytest.mark.parametrize("limit", [300.0, None])
def test_an_interruption_ends_the_check_and_leaves_the_flow_alone(limit):
    assert ended()
    flow = afnp.maf(40, hidden=(256, 256), transforms=4)
    theta = flow.theta.copy()
    main = threading.main_thread().ident
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        check_flow(flow, level="full", checks=["connectivity"], time_limit=limit)
        time.sleep(5)  # were it over before the interruption, that came here
    assert np.array_equal(flow.theta, theta)
    assert ended() and np.array_equal(flow.theta, theta)


def test_after_a_check_was_given_up_the_others_see_an_untouched_flow():
    flow = afnp.maf(3, hidden=(6,), transforms=2, seed=1)
    slow = flow.loss_and_grad

    def hanging(x, context=None, backend="auto"):
        time.sleep(0.8)
        return slow(x, context, backend)

    flow.loss_and_grad = hanging
    checks = ["gradients", "staleness", "deterministic", "round_trip"]
    report = check_flow(flow, level="quick", checks=checks, time_limit=0.4)
    assert report.failed == ["gradients"], f"\n{report}"


def test_no_check_writes_into_the_flow_that_was_given():
    flow = afnp.maf(3, hidden=(6,), transforms=2, context=1, seed=1)
    flow._theta.setflags(write=False)
    report = check_flow(flow, level="quick")
    assert report.ok, f"\n{report}"


class Holder:
    """Functions of somebody's flow, with parameters of its own."""

    def __init__(self):
        self.scale, self.calls = np.array([2.0]), 0

    def normalize(self, x):
        self.calls += 1
        time.sleep(0.02)
        return self.scale * x, np.full(len(x), x.shape[1] * np.log(self.scale[0]))


def test_functions_are_not_called_after_the_report():
    holder = Holder()
    report = check_flow(normalize=holder.normalize, features=8, checks=["log_det"], time_limit=0.3)
    assert report.failed == ["log_det"]
    assert ended()
    calls = holder.calls
    time.sleep(0.2)
    assert holder.calls == calls and holder.scale[0] == 2


def test_modules_of_other_libraries_keep_their_parameters():
    torch = pytest.importorskip("torch", reason="NOT TESTED: pip install torch")
    zuko = pytest.importorskip("zuko", reason="NOT TESTED: pip install zuko")
    flow = zuko.flows.MAF(3, transforms=2)
    before = [p.detach().clone() for p in flow.parameters()]
    check_flow(flow, level="quick", checks=["log_det", "connectivity"], time_limit=0.05)
    assert ended()
    assert all(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))


# ---- the copy ------------------------------------------------------------------------------------


def test_a_copy_encloses_copies():
    flow = afnp.maf(2, hidden=(4,), transforms=1, seed=1)
    log_prob, calls = flow.log_prob, []

    def counting(x, context=None, *, seen=calls, **way):
        flow.theta[0] += 1
        seen.append(len(x))
        return log_prob(x, context, **way)

    flow.log_prob = counting
    theta = flow.theta.copy()
    copy = independent_copy(flow)
    copy.log_prob(np.zeros((3, 2)))
    assert np.array_equal(flow.theta, theta) and copy.theta[0] == theta[0] + 1 and calls == []
    assert not np.shares_memory(copy.theta, flow.theta)


def test_a_copy_of_functions_that_enclose_each_other():
    def make():
        def even(n):
            return n == 0 or odd(n - 1)

        def odd(n):
            return n > 0 and even(n - 1)

        return {"even": even, "later": lambda: undefined}

        undefined = None  # never reached: its cell stays empty

    copy = independent_copy(make())
    assert copy["even"](10) and not copy["even"](7)
    with pytest.raises(NameError):
        copy["later"]()


def test_what_cannot_be_copied_is_refused_by_name(tmp_path):
    flow = afnp.maf(2, hidden=(4,), transforms=1)
    with (tmp_path / "log").open("w") as log:
        flow.log = log
        with pytest.raises(ValueError, match="flow: expected one that can be copied"):
            check_flow(flow, checks=["pure"])


# ---- the worker ----------------------------------------------------------------------------------


def test_a_safe_point_ends_what_nobody_waits_for():
    seen = []

    def forever():
        try:
            while True:
                safe_point()
                time.sleep(0.01)
        except GivenUp:
            seen.append("ended")
            raise

    with Worker(0.05) as worker, pytest.raises(TimeoutError):
        worker.run(forever)
    assert ended() and seen == ["ended"]
    safe_point()  # in a thread that nobody gave up it does nothing


def test_every_check_comes_by_safe_points():
    """With no time at all, every check ends at its first call."""
    flow = afnp.maf(2, hidden=(4,), transforms=2, context=1)
    for name in CHECKS:
        assert check_flow(flow, checks=[name], time_limit=0.0, level="full").failed == [name]
    assert ended()
