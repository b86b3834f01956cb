"""Services on a connected instance: replicas, daemons, rolling deployments, events."""

from cluster import *

ecs = client("ecs")


def register(family, containers=None, **more):
    return ecs.register_task_definition(
        family=family, containerDefinitions=containers or [container()], **more
    )["taskDefinition"]["taskDefinitionArn"]


def describe(name):
    found = ecs.describe_services(services=[name])
    assert not found["failures"], found
    return found["services"][0]


def tasks(name, desired="RUNNING"):
    arns = ecs.list_tasks(serviceName=name, desiredStatus=desired)["taskArns"]
    return ecs.describe_tasks(tasks=arns)["tasks"] if arns else []


def messages(name):
    return [event["message"] for event in describe(name)["events"]]


def remove(name):
    ecs.delete_service(service=name, force=True)
    wait(ecs, "services_inactive", services=[name])


def test_a_service():
    first = register("svc", [container(portMappings=[{"containerPort": 80}])])
    made = ecs.create_service(serviceName="svc", taskDefinition="svc", desiredCount=2)["service"]
    assert made["status"] == "ACTIVE" and made["deployments"][0]["status"] == "PRIMARY", made
    assert made["loadBalancers"] == [] and made["schedulingStrategy"] == "REPLICA", made
    wait(ecs, "services_stable", services=["svc"])
    now = describe("svc")
    assert now["runningCount"] == 2 and now["pendingCount"] == 0, now
    eventually("steady state", lambda: "(service svc) has reached a steady state." in messages("svc"))
    assert any(m.startswith("(service svc) has started 2 tasks: (task ") for m in messages("svc")), messages("svc")
    one = tasks("svc")[0]
    assert one["group"] == "service:svc" and one["startedBy"] == now["deployments"][0]["id"], one
    # One task's container dies: it is replaced.
    before = {t["taskArn"] for t in tasks("svc")}
    ecs.stop_task(task=one["taskArn"], reason="by hand")
    eventually("a replacement", lambda: len(tasks("svc")) == 2 and {t["taskArn"] for t in tasks("svc")} != before)
    wait(ecs, "services_stable", services=["svc"])
    # A new revision, rolled out within the percentages.
    second = register("svc", [container(script="sleep 2000")])
    updated = ecs.update_service(service="svc", taskDefinition="svc")["service"]
    assert [d["status"] for d in updated["deployments"]] == ["PRIMARY", "ACTIVE"], updated
    assert updated["deployments"][0]["rolloutState"] == "IN_PROGRESS", updated
    seen = []
    def rolled():
        now = describe("svc")
        seen.append(sum(d["runningCount"] for d in now["deployments"]))
        return len(now["deployments"]) == 1 and now["runningCount"] == 2
    eventually("the deployment completes", rolled, 60)
    assert min(seen) >= 2, seen
    now = describe("svc")
    assert now["taskDefinition"] == second and second != first, now
    assert now["deployments"][0]["rolloutState"] == "COMPLETED", now
    assert any("deployment completed." in m for m in messages("svc")), messages("svc")
    assert {t["taskDefinitionArn"] for t in tasks("svc")} == {second}
    # Scaling.
    ecs.update_service(service="svc", desiredCount=1)
    wait(ecs, "services_stable", services=["svc"])
    assert len(tasks("svc")) == 1
    message = raises("InvalidParameterException", ecs.delete_service, service="svc")
    assert message == "The service cannot be stopped while it is scaled above 0.", message
    remove("svc")
    eventually("its tasks are gone", lambda: tasks("svc") == [])
    raises("ServiceNotActiveException", ecs.update_service, service="svc", desiredCount=3)


def test_idempotent_creation():
    register("idem")
    arguments = {"serviceName": "idem", "taskDefinition": "idem:1", "desiredCount": 0}
    one = ecs.create_service(**arguments)["service"]["serviceArn"]
    assert ecs.create_service(**arguments)["service"]["serviceArn"] == one
    message = raises("InvalidParameterException", ecs.create_service, **{**arguments, "desiredCount": 1})
    assert message == "Creation of service was not idempotent.", message
    assert one in ecs.list_services()["serviceArns"]
    remove("idem")
    assert one not in ecs.list_services()["serviceArns"]


def test_a_daemon():
    register("daemon")
    ecs.create_service(serviceName="daemon", taskDefinition="daemon", schedulingStrategy="DAEMON")
    wait(ecs, "services_stable", services=["daemon"])
    assert len(tasks("daemon")) == 1 and describe("daemon")["desiredCount"] == 1
    raises("InvalidParameterException", ecs.create_service, serviceName="bad", taskDefinition="daemon",
           schedulingStrategy="DAEMON", placementStrategy=[{"type": "random"}])
    remove("daemon")


def test_the_circuit_breaker_rolls_back():
    register("breaker")
    ecs.create_service(
        serviceName="breaker", taskDefinition="breaker", desiredCount=1,
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": True}},
    )
    eventually("it completes", lambda: describe("breaker")["deployments"][0]["rolloutState"] == "COMPLETED")
    good = describe("breaker")["taskDefinition"]
    register("breaker", [container(image="127.0.0.1:1/nothing:latest")])
    ecs.update_service(service="breaker", taskDefinition="breaker")
    eventually("it rolls back", lambda: describe("breaker")["taskDefinition"] == good, 60)
    wait(ecs, "services_stable", services=["breaker"])
    assert any("rolling back to deployment" in m for m in messages("breaker")), messages("breaker")
    remove("breaker")


def test_a_protected_task():
    register("guarded")
    ecs.create_service(serviceName="guarded", taskDefinition="guarded", desiredCount=2)
    wait(ecs, "services_stable", services=["guarded"])
    kept = tasks("guarded")[0]["taskArn"]
    put = ecs.update_task_protection(cluster="default", tasks=[kept], protectionEnabled=True, expiresInMinutes=10)
    assert put["failures"] == [] and put["protectedTasks"][0]["expirationDate"], put
    shown = ecs.get_task_protection(cluster="default", tasks=[kept])["protectedTasks"]
    assert shown == put["protectedTasks"] and shown[0]["protectionEnabled"] is True, shown
    ecs.update_service(service="guarded", desiredCount=1)
    eventually("the other one goes", lambda: [t["taskArn"] for t in tasks("guarded")] == [kept])
    ecs.update_task_protection(cluster="default", tasks=[kept], protectionEnabled=False)
    assert ecs.get_task_protection(cluster="default", tasks=[kept])["protectedTasks"][0]["protectionEnabled"] is False
    lone = ecs.run_task(taskDefinition="guarded")["tasks"][0]["taskArn"]
    found = ecs.update_task_protection(cluster="default", tasks=[lone], protectionEnabled=True)
    assert found["protectedTasks"] == [] and found["failures"][0]["reason"] == "TASK_NOT_VALID", found
    ecs.stop_task(task=lone)
    remove("guarded")


def test_pages_of_services():
    register("page")
    for number in range(3):
        ecs.create_service(serviceName=f"page-{number}", taskDefinition="page", desiredCount=0)
    pages = list(ecs.get_paginator("list_services").paginate(PaginationConfig={"PageSize": 1}))
    found = [arn.rsplit("/")[-1] for page in pages for arn in page["serviceArns"]]
    assert [name for name in found if name.startswith("page-")] == ["page-0", "page-1", "page-2"], found
    for number in range(3):
        remove(f"page-{number}")


def test_no_room():
    register("room", [container(memory=10_000_000)])
    ecs.create_service(serviceName="room", taskDefinition="room", desiredCount=1)
    eventually("an event says why", lambda: any("insufficient memory" in m for m in messages("room")))
    remove("room")


def test_unknown_services():
    found = ecs.describe_services(services=["nothing"])
    assert found["services"] == [] and found["failures"][0]["reason"] == "MISSING", found
    raises("ServiceNotFoundException", ecs.update_service, service="nothing", desiredCount=1)
    raises("ServiceNotFoundException", ecs.delete_service, service="nothing")
    raises("ClientException", ecs.create_service, serviceName="x", taskDefinition="nothing", desiredCount=1)


if __name__ == "__main__":
    run(globals(), ecs=OPERATIONS["services"])
