"""Names for the tests' Python: clients of the control plane, and a runner."""

import json
import os
import sys
import time
import traceback

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, WaiterError

IMAGE = "localhost/bench:latest"
REGION = os.environ["AWS_DEFAULT_REGION"]
ENDPOINT = os.environ["AWS_ENDPOINT_URL"]


def client(service, **more):
    """A client that does not repeat failed calls, so that a test sees each."""
    config = Config(retries={"max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=30)
    return boto3.client(service, endpoint_url=ENDPOINT, config=config, **more)


def answer(value):
    """What the Rust side gets."""
    print("answer: " + json.dumps(value, default=str))


def raises(name, call, **arguments):
    """The call fails with this error; its message."""
    try:
        result = call(**arguments)
    except ClientError as error:
        found = error.response["Error"]
        assert found["Code"] == name, f"expected {name}, got {found}"
        return found["Message"]
    raise AssertionError(f"expected {name}, got {result}")


def wait(service, waiter, delay=1, attempts=40, **arguments):
    """A botocore waiter with a shorter delay."""
    config = {"Delay": delay, "MaxAttempts": attempts}
    service.get_waiter(waiter).wait(WaiterConfig=config, **arguments)


def eventually(what, condition, seconds=30):
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def container(name="main", script="sleep 1000", **more):
    """A container definition that runs a shell script."""
    return {
        "name": name,
        "image": IMAGE,
        "memory": 32,
        "essential": True,
        "stopTimeout": 2,
        "entryPoint": ["sh", "-c"],
        "command": [script],
        **more,
    }


def run(tests):
    """Runs the functions whose names begin with test_."""
    failed = 0
    for name, test in sorted(tests.items()):
        if not name.startswith("test_") or not callable(test):
            continue
        started = time.monotonic()
        try:
            test()
            print(f"ok {name} {time.monotonic() - started:.2f} s")
        except Exception:
            failed += 1
            print(f"FAILED {name}")
            traceback.print_exc(file=sys.stdout)
    sys.exit(1 if failed else 0)
