"""Tasks on a connected instance: run, describe, list, stop, failures, overrides, protection."""

from cluster import *

ecs = client("ecs")


def register(family, containers=None, **more):
    return ecs.register_task_definition(
        family=family, containerDefinitions=containers or [container()], **more
    )["taskDefinition"]["taskDefinitionArn"]


def describe(task):
    found = ecs.describe_tasks(tasks=[task], include=["TAGS"])
    assert not found["failures"], found
    return found["tasks"][0]


def instance():
    arn = ecs.list_container_instances()["containerInstanceArns"][0]
    return ecs.describe_container_instances(containerInstances=[arn])["containerInstances"][0]


def test_life_of_a_task():
    register("life")
    eventually("nothing is held", lambda: (i := instance())["remainingResources"] == i["registeredResources"])
    free = {r["name"]: r.get("integerValue") for r in instance()["remainingResources"]}
    answer = ecs.run_task(
        taskDefinition="life", startedBy="tests", group="mine", tags=[{"key": "k", "value": "v"}]
    )
    assert answer["failures"] == [] and len(answer["tasks"]) == 1, answer
    task = answer["tasks"][0]
    arn = task["taskArn"]
    assert task["lastStatus"] == "PENDING" and task["desiredStatus"] == "RUNNING", task
    assert task["launchType"] == "EC2" and task["group"] == "mine" and task["startedBy"] == "tests", task
    assert task["overrides"]["containerOverrides"] == [{"name": "main"}], task
    wait(ecs, "tasks_running", tasks=[arn])
    task = describe(arn)
    assert task["startedAt"] and task["createdAt"] and task["tags"] == [{"key": "k", "value": "v"}], task
    assert task["connectivity"] == "CONNECTED" and task["version"] >= 2, task
    main = task["containers"][0]
    assert main["lastStatus"] == "RUNNING" and main["runtimeId"] and main["image"] == IMAGE, main
    # It was loaded here: no registry knows it by one.
    assert "imageDigest" not in main, main
    held = {r["name"]: r.get("integerValue") for r in instance()["remainingResources"]}
    assert free["MEMORY"] - held["MEMORY"] == 32, (free, held)
    for filters in [{}, {"family": "life"}, {"startedBy": "tests"}, {"containerInstance": task["containerInstanceArn"]}, {"launchType": "EC2"}]:
        assert arn in ecs.list_tasks(**filters)["taskArns"], filters
    assert arn not in ecs.list_tasks(family="other")["taskArns"]
    stopped = ecs.stop_task(task=arn, reason="enough")["task"]
    assert stopped["desiredStatus"] == "STOPPED", stopped
    wait(ecs, "tasks_stopped", tasks=[arn])
    task = describe(arn)
    assert task["stopCode"] == "UserInitiated" and task["stoppedReason"] == "enough", task
    assert task["stoppedAt"] and task["stoppingAt"] and task["executionStoppedAt"], task
    assert task["containers"][0]["exitCode"] in (137, 143), task
    assert arn in ecs.list_tasks(desiredStatus="STOPPED")["taskArns"]
    ecs.stop_task(task=arn)
    back = {r["name"]: r.get("integerValue") for r in instance()["remainingResources"]}
    assert back["MEMORY"] == free["MEMORY"], (free, back)


def test_an_essential_container_exits():
    register("exits", [
        container(script="exit 7", dependsOn=[{"containerName": "side", "condition": "START"}]),
        container("side", essential=False),
    ])
    arn = ecs.run_task(taskDefinition="exits")["tasks"][0]["taskArn"]
    wait(ecs, "tasks_stopped", tasks=[arn])
    task = describe(arn)
    assert task["stopCode"] == "EssentialContainerExited", task
    assert task["stoppedReason"] == "Essential container in task exited", task
    codes = {c["name"]: c.get("exitCode") for c in task["containers"]}
    assert codes["main"] == 7 and codes["side"] in (137, 143), codes


def test_a_task_that_cannot_start():
    register("no-image", [container(image="127.0.0.1:1/nothing:latest")])
    arn = ecs.run_task(taskDefinition="no-image")["tasks"][0]["taskArn"]
    wait(ecs, "tasks_stopped", tasks=[arn])
    task = describe(arn)
    assert task["stopCode"] == "TaskFailedToStart", task
    assert task["stoppedReason"].startswith("CannotPullContainerError"), task
    assert task["containers"][0]["reason"].startswith("CannotPullContainerError"), task


def test_a_log_group_that_is_not_there():
    options = {"awslogs-group": "/nowhere", "awslogs-region": REGION, "awslogs-stream-prefix": "x"}
    register("no-group", [container(logConfiguration={"logDriver": "awslogs", "options": options})])
    arn = ecs.run_task(taskDefinition="no-group")["tasks"][0]["taskArn"]
    wait(ecs, "tasks_stopped", tasks=[arn])
    task = describe(arn)
    assert task["stopCode"] == "TaskFailedToStart", task
    assert task["stoppedReason"].startswith("ResourceInitializationError: failed to validate logger args"), task
    assert "ResourceNotFoundException: The specified log group does not exist." in task["stoppedReason"], task


def test_overrides():
    register("over", [container(script="exit 1", environment=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])])
    arn = ecs.run_task(
        taskDefinition="over",
        overrides={"containerOverrides": [{
            "name": "main",
            "command": ['[ "$A$B$C" = 123 ] && [ "$B" = 2 ] && exit 42'],
            "environment": [{"name": "A", "value": "1"}, {"name": "C", "value": "3"}],
        }]},
    )["tasks"][0]["taskArn"]
    wait(ecs, "tasks_stopped", tasks=[arn])
    assert describe(arn)["containers"][0]["exitCode"] == 42, describe(arn)
    raises(
        "InvalidParameterException", ecs.run_task, taskDefinition="over",
        overrides={"containerOverrides": [{"name": "nobody"}]},
    )


def test_ports():
    register("dynamic", [container(script="while :; do nc -l -p 80 -e echo hello; done", portMappings=[{"containerPort": 80}])])
    arns = [t["taskArn"] for t in ecs.run_task(taskDefinition="dynamic", count=2)["tasks"]]
    wait(ecs, "tasks_running", tasks=arns)
    ports = set()
    for arn in arns:
        binding = describe(arn)["containers"][0]["networkBindings"][0]
        assert binding["containerPort"] == 80 and binding["protocol"] == "tcp", binding
        ports.add(binding["hostPort"])
    assert len(ports) == 2, ports
    register("static", [container(portMappings=[{"containerPort": 80, "hostPort": 18080}])])
    first = ecs.run_task(taskDefinition="static", count=2)
    assert len(first["tasks"]) == 1 and first["failures"][0]["reason"] == "RESOURCE:PORTS", first
    for arn in [*arns, first["tasks"][0]["taskArn"]]:
        ecs.stop_task(task=arn)
    wait(ecs, "tasks_stopped", tasks=[*arns, first["tasks"][0]["taskArn"]])


def test_awsvpc():
    register("vpc", [container()], networkMode="awsvpc")
    raises("InvalidParameterException", ecs.run_task, taskDefinition="vpc")
    network = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
    task = ecs.run_task(taskDefinition="vpc", networkConfiguration=network)["tasks"][0]
    assert task["lastStatus"] == "PROVISIONING" and task["attachments"][0]["type"] == "ElasticNetworkInterface", task
    wait(ecs, "tasks_running", tasks=[task["taskArn"]])
    task = describe(task["taskArn"])
    details = {d["name"]: d["value"] for d in task["attachments"][0]["details"]}
    assert task["attachments"][0]["status"] == "ATTACHED" and details["subnetId"] == "subnet-1", task
    interface = task["containers"][0]["networkInterfaces"][0]
    assert interface["privateIpv4Address"] == details["privateIPv4Address"], task
    ecs.stop_task(task=task["taskArn"])
    wait(ecs, "tasks_stopped", tasks=[task["taskArn"]])
    register("plain")
    raises("InvalidParameterException", ecs.run_task, taskDefinition="plain", networkConfiguration=network)


def test_fargate():
    register("far", [container()], networkMode="awsvpc", cpu="256", memory="512", requiresCompatibilities=["FARGATE"])
    network = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
    task = ecs.run_task(taskDefinition="far", launchType="FARGATE", networkConfiguration=network)["tasks"][0]
    assert task["launchType"] == "FARGATE" and "containerInstanceArn" not in task, task
    assert (task["cpu"], task["memory"]) == ("256", "512"), task
    wait(ecs, "tasks_running", tasks=[task["taskArn"]])
    ecs.stop_task(task=task["taskArn"])
    wait(ecs, "tasks_stopped", tasks=[task["taskArn"]])


def test_impossible_placements():
    register("huge", [container(memory=10_000_000)])
    found = ecs.run_task(taskDefinition="huge")
    assert found["tasks"] == [] and found["failures"][0]["reason"] == "RESOURCE:MEMORY", found
    register("small")
    found = ecs.run_task(
        taskDefinition="small",
        placementConstraints=[{"type": "memberOf", "expression": "attribute:color == red"}],
    )
    assert found["tasks"] == [] and "constraint" in found["failures"][0]["reason"].lower(), found
    found = ecs.run_task(taskDefinition="small", count=2, placementConstraints=[{"type": "distinctInstance"}])
    assert len(found["tasks"]) == 1 and len(found["failures"]) == 1, found
    ecs.stop_task(task=found["tasks"][0]["taskArn"])
    raises(
        "InvalidParameterException", ecs.run_task, taskDefinition="small",
        placementConstraints=[{"type": "memberOf", "expression": "attribute:color =="}],
    )


def test_start_task():
    register("start")
    here = instance()["containerInstanceArn"]
    found = ecs.start_task(taskDefinition="start", containerInstances=[here, "0" * 32])
    assert len(found["tasks"]) == 1 and found["failures"][0]["reason"] == "MISSING", found
    ecs.stop_task(task=found["tasks"][0]["taskArn"])


def test_client_tokens():
    register("token")
    one = ecs.run_task(taskDefinition="token", clientToken="t-1")["tasks"][0]["taskArn"]
    two = ecs.run_task(taskDefinition="token", clientToken="t-1")["tasks"][0]["taskArn"]
    assert one == two
    raises("ConflictException", ecs.run_task, taskDefinition="token", clientToken="t-1", count=2)
    ecs.stop_task(task=one)


def test_late_reports():
    """What an agent says twice or too late is acknowledged and changes nothing."""
    register("late")
    arn = ecs.run_task(taskDefinition="late")["tasks"][0]["taskArn"]
    wait(ecs, "tasks_running", tasks=[arn])
    before = describe(arn)
    reports = [{"containerName": "main", "status": "PENDING"}]
    assert ecs.submit_task_state_change(task=arn, status="PENDING", containers=reports)["acknowledgment"] == "ACK"
    late = ecs.submit_container_state_change(task=arn, containerName="main", status="PENDING")
    assert late["acknowledgment"] == "ACK"
    assert describe(arn) | {"version": 0} == before | {"version": 0}, (describe(arn), before)
    ecs.stop_task(task=arn)
    wait(ecs, "tasks_stopped", tasks=[arn])
    stopped = describe(arn)
    ecs.submit_task_state_change(task=arn, status="RUNNING", containers=[{"containerName": "main", "status": "RUNNING"}])
    assert describe(arn) == stopped, (describe(arn), stopped)


def test_pages_of_tasks():
    register("pages")
    arns = [t["taskArn"] for t in ecs.run_task(taskDefinition="pages", count=3)["tasks"]]
    pages = list(ecs.get_paginator("list_tasks").paginate(family="pages", PaginationConfig={"PageSize": 1}))
    assert [len(p["taskArns"]) for p in pages] == [1, 1, 1], pages
    assert {a for p in pages for a in p["taskArns"]} == set(arns), pages
    for arn in arns:
        ecs.stop_task(task=arn)
    wait(ecs, "tasks_stopped", tasks=arns)


def test_unknown_tasks():
    found = ecs.describe_tasks(tasks=["0" * 32])
    assert found["tasks"] == [] and found["failures"][0]["reason"] == "MISSING", found
    raises("InvalidParameterException", ecs.stop_task, task="0" * 32)
    raises("InvalidParameterException", ecs.describe_tasks, tasks=[])


def test_a_role_that_is_not_there():
    register("roleless", taskRoleArn="arn:aws:iam::000000000000:role/nobody")
    message = raises("ClientException", ecs.run_task, taskDefinition="roleless")
    assert "unable to assume the role" in message, message


if __name__ == "__main__":
    run(globals(), ecs=OPERATIONS["tasks"])
