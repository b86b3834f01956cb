"""Names for the tests' Python: clients of the control plane whose every answer is held against
botocore's model, and a runner."""

import atexit
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


# Operations that the control plane has, by the file that must call them with success.
OPERATIONS = {
    "operations": [
        "CreateCluster", "DeleteAttributes", "DeleteCluster", "DeleteTaskDefinitions",
        "DeregisterContainerInstance", "DeregisterTaskDefinition", "DescribeClusters",
        "DescribeContainerInstances", "DescribeTaskDefinition", "DiscoverPollEndpoint",
        "ListAccountSettings", "ListAttributes", "ListClusters", "ListContainerInstances",
        "ListTagsForResource", "ListTaskDefinitionFamilies", "ListTaskDefinitions",
        "PutAccountSetting", "PutAccountSettingDefault", "PutAttributes",
        "PutClusterCapacityProviders", "RegisterContainerInstance", "RegisterTaskDefinition",
        "SubmitAttachmentStateChanges", "SubmitContainerStateChange", "SubmitTaskStateChange",
        "TagResource", "UntagResource", "UpdateCluster", "UpdateClusterSettings",
        "UpdateContainerInstancesState",
    ],
    "tasks": ["DescribeTasks", "ListTasks", "RunTask", "StartTask", "StopTask"],
    "services": [
        "CreateService", "DeleteService", "DescribeServices", "GetTaskProtection", "ListServices",
        "UpdateService", "UpdateTaskProtection",
    ],
    "logs": [
        "CreateLogGroup", "CreateLogStream", "DeleteLogGroup", "DeleteLogStream",
        "DeleteRetentionPolicy", "DescribeLogGroups", "DescribeLogStreams", "FilterLogEvents",
        "GetLogEvents", "ListTagsForResource", "ListTagsLogGroup", "PutLogEvents",
        "PutRetentionPolicy", "TagLogGroup", "TagResource", "UntagLogGroup", "UntagResource",
    ],
}
# It answers, and never with success: agents come with the host's packages.
NEVER = ["UpdateContainerAgent"]

# Operations that succeeded, as (service, operation), and answers that the model does not allow.
called = set()
violations = {}


def client(service, **more):
    """A client that does not repeat failed calls, so that a test sees each."""
    config = Config(retries={"max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=30)
    made = boto3.client(service, endpoint_url=ENDPOINT, config=config, **more)
    made.meta.events.register("after-call", answered)
    return made


def answered(http_response, model, **_):
    """Notes an answer. botocore's parser passes over what it does not know; this does not."""
    service = model.service_model.service_name
    if http_response.status_code == 200:
        called.add((service, model.name))
    if model.service_model.metadata["protocol"] != "json":
        return
    body = json.loads(http_response.content, object_pairs_hook=members)
    if http_response.status_code == 200:
        found = differences(body, model.output_shape, "") if model.output_shape else list(body)
    else:
        name = body.pop("__type", "").rsplit("#")[-1]
        shape = model.service_model.shape_for_error_code(name)
        # Not every model says that errors have a message.
        rest = {k: v for k, v in body.items() if not (k in ("message", "Message") and isinstance(v, str))}
        if shape:
            found = differences(rest, shape, f" {name}")
        else:
            found = [] if name in COMMON_ERRORS and not rest else [f"{name} {body} is no error of the service"]
    for difference in found:
        violations.setdefault(f"{service} {model.name}: {difference}", None)


# Errors that every service has without its model saying so.
COMMON_ERRORS = {
    "AccessDeniedException", "IncompleteSignatureException", "InternalFailure", "InvalidSignatureException",
    "MissingAuthenticationTokenException", "SerializationException", "UnknownOperationException",
    "UnrecognizedClientException", "ValidationException", "ExpiredTokenException", "ServiceUnavailable",
}


def members(pairs):
    """A JSON object, none of whose names is there twice."""
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"a name twice: {names}"
    return dict(pairs)


# Of a task on a host that is lost: ECS's name for it, which its model does not list.
UNLISTED = ["InfrastructureHealth"]

JSON_TYPES = {
    "structure": dict, "map": dict, "list": list, "string": str, "integer": int, "long": int,
    "boolean": bool, "double": (int, float), "float": (int, float), "timestamp": (int, float), "blob": str,
}


def differences(value, shape, path):
    """Where a JSON value is not what the shape says."""
    kind = shape.type_name
    if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{path}: {value!r} is no {kind}"]
    if kind == "structure":
        found = [f"{path}.{name}: missing" for name in shape.required_members if name not in value]
        for name, member in value.items():
            if name in shape.members:
                found += differences(member, shape.members[name], f"{path}.{name}")
            else:
                found.append(f"{path}.{name}: not of {shape.name}")
        return found
    if kind == "list":
        return [d for item in value for d in differences(item, shape.member, f"{path}[]")]
    if kind == "map":
        return [d for item in value.values() for d in differences(item, shape.value, f"{path}{{}}")]
    if kind == "string" and shape.enum and value not in shape.enum and value not in UNLISTED:
        return [f"{path}: {value!r} is not among {shape.enum}"]
    if kind == "integer" and not -(2**31) <= value < 2**31:
        return [f"{path}: {value} is too large"]
    return []


@atexit.register
def no_violations():
    """Every way out of a script fails if an answer was not as the model has it."""
    if violations:
        print("answers that the model does not allow:", *violations, sep="\n  ", flush=True)
        os._exit(1)


def answer(value):
    """What the Rust side gets."""
    print("answer: " + json.dumps(value, default=str))


def raises(name, call, /, **arguments):
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


def run(tests, **operations):
    """Runs the functions whose names begin with test_, which must call these operations of services
    with success."""
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
    for service, names in operations.items():
        missing = sorted(set(names) - {name for of, name in called if of == service})
        if missing:
            failed += 1
            print(f"FAILED to call with success, of {service}: {' '.join(missing)}")
    sys.exit(1 if failed else 0)
