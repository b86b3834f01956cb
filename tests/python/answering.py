"""Which operations of the services' models answer: exactly those that the other files call."""

from cluster import *


def answering(service):
    """Operations that do not answer that they are unknown. Parameters are not checked here, the
    control plane sees an empty request."""
    found = []
    with_empty = boto3.client(
        service, endpoint_url=ENDPOINT,
        config=Config(parameter_validation=False, retries={"max_attempts": 1, "mode": "standard"}),
    )
    with_empty.meta.events.register("after-call", answered)
    for name in with_empty.meta.service_model.operation_names:
        model = with_empty.meta.service_model.operation_model(name)
        if model.has_event_stream_output or model.endpoint:
            continue
        try:
            with_empty._make_api_call(name, {})
        except ClientError as error:
            if error.response["Error"]["Code"] == "UnknownOperationException":
                continue
        found.append(name)
    return found


def test_ecs():
    ours = {name for file in ("operations", "tasks", "services") for name in OPERATIONS[file]}
    assert set(answering("ecs")) == ours | set(NEVER), ours ^ set(answering("ecs"))


def test_logs():
    assert set(answering("logs")) == set(OPERATIONS["logs"]), set(answering("logs")) ^ set(OPERATIONS["logs"])


if __name__ == "__main__":
    run(globals())
