"""Plays the scenario of the crash loops: one for each line of standard input (name, whether with a
service), whatever dies meanwhile. Calls that nobody answered are repeated, with their token."""

import functools

from botocore.exceptions import BotoCoreError
from cluster import *

ROLE = "arn:aws:iam::000000000000:role/reader"
GROUP = "/points"
LINES = ["one", "two", "three"]
# Longer than any pause of a daemon that tries again.
PATIENCE = 40

ecs, logs = client("ecs"), client("logs")
eventually = functools.partial(eventually, seconds=PATIENCE)


def insist(call, **arguments):
    """The answer, as often as it takes to get one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call(**arguments)
        except (BotoCoreError, ClientError) as error:
            refused = isinstance(error, ClientError)
            if refused and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                raise
            assert time.monotonic() < deadline, error
            time.sleep(0.02)


def register(family, script, **more):
    """A revision that is there once the call was answered."""
    options = {
        "awslogs-group": GROUP,
        "awslogs-create-group": "true",
        "awslogs-region": REGION,
        "awslogs-stream-prefix": family,
    }
    main = container(
        script=script,
        mountPoints=[{"sourceVolume": "notes", "containerPath": "/notes"}],
        logConfiguration={"logDriver": "awslogs", "options": options},
    )
    volume = {"name": "notes", "host": {"sourcePath": os.environ["NOTES"]}}
    made = insist(
        ecs.register_task_definition,
        family=family, containerDefinitions=[main], volumes=[volume], taskRoleArn=ROLE, **more,
    )
    return made["taskDefinition"]["taskDefinitionArn"]


def run(definition, token, **more):
    """One task; while the agent is away there is no room, which is no answer either."""
    def attempt():
        answer = insist(ecs.run_task, taskDefinition=definition, clientToken=token, **more)
        return answer["tasks"]
    return eventually(f"{token} is placed", attempt)[0]["taskArn"]


def describe(*arns):
    found = insist(ecs.describe_tasks, tasks=arns)
    assert not found["failures"], f"acknowledged and lost: {found['failures']}"
    return found["tasks"]


def reach(status, *arns):
    """Waits until the tasks have a status."""
    def reached():
        tasks = describe(*arns)
        return tasks if all(task["lastStatus"] in (status, "STOPPED") for task in tasks) else None
    return eventually(f"{arns} are {status}: {describe(*arns)}", reached)


def how(task):
    """How a task ended."""
    main = task["containers"][0]
    return [task["lastStatus"], task["stopCode"], task.get("stoppedReason"), main.get("exitCode")]


def listed(**filters):
    of = lambda status: insist(ecs.list_tasks, desiredStatus=status, **filters)["taskArns"]
    return of("RUNNING") + of("STOPPED")


def lines(family, arn):
    """What the task's stream has, each line once: an agent that dies may send a batch again."""
    stream = f"{family}/main/{arn.rsplit('/')[-1]}"
    try:
        events = insist(logs.get_log_events, logGroupName=GROUP, logStreamName=stream, startFromHead=True)
    except logs.exceptions.ResourceNotFoundException:
        return []
    return list(dict.fromkeys(event["message"] for event in events["events"]))


def two_tasks(name):
    """One ends by itself, one is stopped."""
    ends, stays = f"{name}-ends", f"{name}-stays"
    echo = "; ".join(f"echo {line}" for line in LINES)
    first = register(ends, f"{echo}; echo ran >> /notes/{ends}; exit 3", networkMode="awsvpc")
    subnets = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
    ending = run(first, ends, networkConfiguration=subnets)
    second = register(
        stays, f"trap 'exit 4' TERM; echo ran >> /notes/{stays}; while :; do sleep 0.02; done"
    )
    staying = run(second, stays)
    reach("RUNNING", staying)
    notes = os.path.join(os.environ["NOTES"], stays)
    eventually("the script runs", lambda: os.path.exists(notes))
    insist(ecs.stop_task, task=staying, reason="enough")
    ended, stopped = (reach("STOPPED", arn)[0] for arn in (ending, staying))
    eventually(f"all lines of {ends}", lambda: lines(ends, ending) == LINES)
    for family, arn, definition in [(ends, ending, first), (stays, staying, second)]:
        # Repeated calls have made no second task.
        assert listed(family=family) == [arn], listed(family=family)
        found = insist(ecs.describe_task_definition, taskDefinition=definition)
        assert found["taskDefinition"]["taskDefinitionArn"] == definition, found
        with open(os.path.join(os.environ["NOTES"], family), encoding="utf-8") as ran:
            assert ran.read() == "ran\n", f"{family} ran more than once"
    return {"ends": how(ended), "stays": how(stopped)}


def a_service(name):
    """A service of one task, which is stopped, replaced, and goes with its service."""
    definition = register(f"{name}-service", "trap 'exit 4' TERM; while :; do sleep 0.02; done")
    insist(
        ecs.create_service, serviceName=name, taskDefinition=definition, desiredCount=1, clientToken=name
    )

    def one(other_than=None):
        arns = insist(ecs.list_tasks, serviceName=name, desiredStatus="RUNNING")["taskArns"]
        fresh = [t for t in describe(*arns) if t["lastStatus"] == "RUNNING"] if arns else []
        assert len(arns) <= 2, arns
        return fresh[0]["taskArn"] if len(fresh) == 1 and fresh[0]["taskArn"] != other_than else None

    first = eventually("the service's task", one)
    insist(ecs.stop_task, task=first, reason="enough")
    second = eventually("its replacement", lambda: one(other_than=first))
    try:
        insist(ecs.delete_service, service=name, force=True)
    except (ecs.exceptions.ServiceNotActiveException, ecs.exceptions.ServiceNotFoundException):
        # The call was repeated, and had been heard.
        found = insist(ecs.describe_services, services=[name])["services"]
        assert [service["status"] for service in found] in (["DRAINING"], ["INACTIVE"]), found
    reach("STOPPED", first, second)
    # Its replacement was the only one.
    assert sorted(listed(family=f"{name}-service")) == sorted([first, second])


answer("ready")
sys.stdout.flush()
for line in sys.stdin:
    name, service = line.split()
    outcome = two_tasks(name)
    if service == "service":
        a_service(name)
    answer(outcome)
    sys.stdout.flush()
