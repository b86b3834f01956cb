"""Every operation that no running task needs, by boto3: requests, answers, errors, pages."""

from cluster import *

ecs = client("ecs")
sts = client("sts")
ACCOUNT = sts.get_caller_identity()["Account"]


def arn(rest):
    return f"arn:aws:ecs:{REGION}:{ACCOUNT}:{rest}"


def definition(family, **more):
    return ecs.register_task_definition(
        family=family, containerDefinitions=[container()], **more
    )["taskDefinition"]


def test_caller_identity():
    identity = sts.get_caller_identity()
    assert identity["Arn"].startswith(f"arn:aws:iam::{ACCOUNT}:"), identity
    assert identity["UserId"]


def test_clusters():
    created = ecs.create_cluster(clusterName="blue", tags=[{"key": "k", "value": "v"}])["cluster"]
    assert created["clusterArn"] == arn("cluster/blue") and created["status"] == "ACTIVE", created
    again = ecs.create_cluster(clusterName="blue")["cluster"]
    assert again["clusterArn"] == created["clusterArn"]
    described = ecs.describe_clusters(
        clusters=["blue", arn("cluster/blue"), "gone"], include=["TAGS", "STATISTICS", "SETTINGS"]
    )
    assert [c["clusterName"] for c in described["clusters"]] == ["blue", "blue"], described
    assert described["failures"] == [{"arn": arn("cluster/gone"), "reason": "MISSING"}], described
    first = described["clusters"][0]
    assert first["tags"] == [{"key": "k", "value": "v"}] and first["runningTasksCount"] == 0, first
    assert arn("cluster/blue") in ecs.list_clusters()["clusterArns"]
    ecs.update_cluster_settings(
        cluster="blue", settings=[{"name": "containerInsights", "value": "enabled"}]
    )
    settings = ecs.describe_clusters(clusters=["blue"], include=["SETTINGS"])["clusters"][0]["settings"]
    assert {"name": "containerInsights", "value": "enabled"} in settings, settings
    insights = {"name": "containerInsights", "value": "enhanced"}
    updated = ecs.update_cluster(cluster="blue", settings=[insights])["cluster"]
    assert updated["settings"] == [insights], updated
    strategy = [{"capacityProvider": "FARGATE", "weight": 1, "base": 0}]
    put = ecs.put_cluster_capacity_providers(
        cluster="blue", capacityProviders=["FARGATE"], defaultCapacityProviderStrategy=strategy
    )["cluster"]
    assert put["capacityProviders"] == ["FARGATE"] and put["defaultCapacityProviderStrategy"] == strategy, put
    raises("InvalidParameterException", ecs.put_cluster_capacity_providers, cluster="blue",
           capacityProviders=["mine"], defaultCapacityProviderStrategy=[])
    assert ecs.delete_cluster(cluster="blue")["cluster"]["status"] == "INACTIVE"
    assert arn("cluster/blue") not in ecs.list_clusters()["clusterArns"]
    raises("ClusterNotFoundException", ecs.list_tasks, cluster="gone")
    raises("ClusterNotFoundException", ecs.delete_cluster, cluster="gone")
    raises("InvalidParameterException", ecs.create_cluster, clusterName="no/slash")


def test_pages():
    for number in range(5):
        ecs.create_cluster(clusterName=f"page-{number}")
    pages = ecs.get_paginator("list_clusters").paginate(PaginationConfig={"PageSize": 2})
    found = [arn for page in pages for arn in page["clusterArns"]]
    assert len([a for a in found if "/page-" in a]) == 5 and len(set(found)) == len(found), found
    raises("InvalidParameterException", ecs.list_clusters, nextToken="nonsense")
    for number in range(3):
        definition(f"page-{number}")
    for operation, member, arguments in [
        ("list_task_definitions", "taskDefinitionArns", {"familyPrefix": "page-1"}),
        ("list_task_definition_families", "families", {"familyPrefix": "page-"}),
        ("list_account_settings", "settings", {"effectiveSettings": True}),
    ]:
        whole = getattr(ecs, operation)(**arguments)[member]
        pages = list(ecs.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": 1}))
        assert [item for page in pages for item in page[member]] == whole, pages
        assert all(len(page[member]) == 1 for page in pages), pages


def test_task_definitions():
    first = definition("web", tags=[{"key": "a", "value": "1"}])
    assert first["taskDefinitionArn"] == arn("task-definition/web:1"), first
    assert (first["revision"], first["status"], first["networkMode"]) == (1, "ACTIVE", "bridge")
    parts = first["containerDefinitions"][0]
    assert parts["cpu"] == 0 and parts["portMappings"] == [] and parts["environment"] == [], parts
    assert parts["command"] == ["sleep 1000"] and first["registeredBy"], first
    assert "EC2" in first["compatibilities"], first
    definition("web")
    described = ecs.describe_task_definition(taskDefinition="web", include=["TAGS"])
    assert described["taskDefinition"]["revision"] == 2 and described["tags"] == [], described
    one = ecs.describe_task_definition(taskDefinition="web:1", include=["TAGS"])
    assert one["tags"] == [{"key": "a", "value": "1"}], one
    listed = ecs.list_task_definitions(familyPrefix="web", sort="DESC")["taskDefinitionArns"]
    assert listed == [arn("task-definition/web:2"), arn("task-definition/web:1")], listed
    definition("web-more")
    assert ecs.list_task_definition_families(familyPrefix="web")["families"] == ["web", "web-more"]
    gone = ecs.deregister_task_definition(taskDefinition="web:2")["taskDefinition"]
    assert gone["status"] == "INACTIVE" and gone["deregisteredAt"], gone
    assert ecs.describe_task_definition(taskDefinition="web")["taskDefinition"]["revision"] == 1
    assert ecs.list_task_definitions(familyPrefix="web", status="INACTIVE")["taskDefinitionArns"] == [
        arn("task-definition/web:2")
    ]
    deleted = ecs.delete_task_definitions(taskDefinitions=["web:2", "web:1"])
    assert deleted["taskDefinitions"][0]["status"] == "DELETE_IN_PROGRESS", deleted
    assert deleted["failures"][0]["arn"] == "web:1", deleted
    assert definition("web")["revision"] == 3
    raises("ClientException", ecs.describe_task_definition, taskDefinition="unknown")
    raises("ClientException", ecs.deregister_task_definition, taskDefinition="web")


def test_bad_task_definitions():
    message = raises(
        "ClientException",
        ecs.register_task_definition,
        family="bad",
        containerDefinitions=[{"name": "a", "image": IMAGE, "memory": 4}, {"name": "a", "image": IMAGE}],
    )
    assert "memory" in message and "containerDefinitions[1]" in message, message
    raises("ClientException", ecs.describe_task_definition, taskDefinition="bad")
    message = raises(
        "ClientException",
        ecs.register_task_definition,
        family="bad",
        containerDefinitions=[container()],
        volumes=[{"name": "s3", "s3filesVolumeConfiguration": {"fileSystemArn": "arn:aws:s3files:::x"}}]
        if "s3filesVolumeConfiguration" in str(ecs.meta.service_model.shape_for("Volume").members)
        else [{"name": "fsx", "fsxWindowsFileServerVolumeConfiguration": {
            "fileSystemId": "fs-1", "rootDirectory": "/", "authorizationConfig": {
                "credentialsParameter": "arn:aws:ssm:::parameter/x", "domain": "d"}}}],
    )
    assert "volumes[0]" in message, message


def test_tags():
    cluster = ecs.create_cluster(clusterName="tagged")["cluster"]["clusterArn"]
    ecs.tag_resource(resourceArn=cluster, tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}])
    ecs.untag_resource(resourceArn=cluster, tagKeys=["a"])
    assert ecs.list_tags_for_resource(resourceArn=cluster)["tags"] == [{"key": "b", "value": "2"}]
    raises("InvalidParameterException", ecs.tag_resource, resourceArn=cluster, tags=[{"key": "aws:x", "value": "1"}])


def test_account_settings():
    effective = ecs.list_account_settings(effectiveSettings=True)["settings"]
    assert {s["name"]: s["value"] for s in effective}["taskLongArnFormat"] == "enabled", effective
    long = {"name": "taskLongArnFormat", "value": "enabled"}
    for put in (ecs.put_account_setting, ecs.put_account_setting_default):
        assert put(**long)["setting"].items() >= long.items()
        raises("InvalidParameterException", put, name="taskLongArnFormat", value="disabled")
    assert ecs.list_account_settings(effectiveSettings=True)["settings"] == effective


def test_container_instances_without_an_agent():
    ecs.create_cluster(clusterName="bare")
    resources = [
        {"name": "CPU", "type": "INTEGER", "integerValue": 2048},
        {"name": "MEMORY", "type": "INTEGER", "integerValue": 1000},
        {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["22"]},
        {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": []},
    ]
    made = ecs.register_container_instance(
        cluster="bare", totalResources=resources, attributes=[{"name": "color", "value": "red"}],
        tags=[{"key": "t", "value": "1"}],
    )["containerInstance"]
    instance = made["containerInstanceArn"]
    assert made["status"] == "ACTIVE" and made["agentConnected"] is False, made
    assert {"name": "color", "value": "red"} in made["attributes"], made
    same = ecs.register_container_instance(
        cluster="bare", totalResources=resources, containerInstanceArn=instance
    )["containerInstance"]
    assert same["containerInstanceArn"] == instance
    assert ecs.list_container_instances(cluster="bare")["containerInstanceArns"] == [instance]
    filtered = ecs.list_container_instances(cluster="bare", filter="attribute:color == red")
    assert filtered["containerInstanceArns"] == [instance], filtered
    assert ecs.list_container_instances(cluster="bare", filter="attribute:color == blue")["containerInstanceArns"] == []
    raises("InvalidParameterException", ecs.list_container_instances, cluster="bare", filter="attribute:color ==")
    ecs.put_attributes(cluster="bare", attributes=[{"name": "stack", "value": "x", "targetId": instance}])
    found = ecs.list_attributes(cluster="bare", targetType="container-instance", attributeName="stack")
    assert found["attributes"][0]["value"] == "x", found
    ecs.delete_attributes(cluster="bare", attributes=[{"name": "stack", "targetId": instance}])
    found = ecs.list_attributes(cluster="bare", targetType="container-instance", attributeName="stack")
    assert found["attributes"] == [], found
    described = ecs.describe_container_instances(cluster="bare", containerInstances=[instance, "0" * 32], include=["TAGS"])
    assert described["failures"][0]["reason"] == "MISSING", described
    assert described["containerInstances"][0]["tags"] == [{"key": "t", "value": "1"}], described
    remaining = {r["name"]: r for r in described["containerInstances"][0]["remainingResources"]}
    assert remaining["CPU"]["integerValue"] == 2048 and remaining["PORTS"]["stringSetValue"] == ["22"], remaining
    drained = ecs.update_container_instances_state(
        cluster="bare", containerInstances=[instance], status="DRAINING"
    )["containerInstances"][0]
    assert drained["status"] == "DRAINING", drained
    assert ecs.list_container_instances(cluster="bare", status="ACTIVE")["containerInstanceArns"] == []
    ecs.update_container_instances_state(cluster="bare", containerInstances=[instance], status="ACTIVE")
    message = raises("ClusterContainsContainerInstancesException", ecs.delete_cluster, cluster="bare")
    assert message
    raises("NoUpdateAvailableException", ecs.update_container_agent, cluster="bare", containerInstance=instance)
    raises("InvalidParameterException", ecs.update_container_agent, cluster="bare", containerInstance="0" * 32)
    gone = ecs.deregister_container_instance(cluster="bare", containerInstance=instance)["containerInstance"]
    assert gone["status"] == "INACTIVE", gone
    assert ecs.list_container_instances(cluster="bare")["containerInstanceArns"] == []
    raises("ClusterNotFoundException", ecs.register_container_instance, cluster="gone", totalResources=resources)
    ecs.create_cluster(clusterName="other")
    raised = None
    try:
        ecs.register_container_instance(cluster="other", totalResources=resources, containerInstanceArn=instance)
    except ClientError as error:
        raised = error.response["Error"]["Code"]
    assert raised in ("ClientException", "InvalidParameterException"), raised


def test_endpoints_for_agents():
    ecs.create_cluster(clusterName="default")
    found = ecs.discover_poll_endpoint(cluster="default")
    assert found["endpoint"].startswith("http") and found["telemetryEndpoint"].startswith("http"), found


def test_reports_of_what_is_not_known():
    """They are acknowledged, so that agents do not repeat them for ever."""
    ecs.create_cluster(clusterName="reports")
    task = arn("task/reports/" + "0" * 32)
    for answer in [
        ecs.submit_task_state_change(cluster="reports", task=task, status="STOPPED"),
        ecs.submit_container_state_change(
            cluster="reports", task=task, containerName="main", status="STOPPED", exitCode=0
        ),
        ecs.submit_attachment_state_changes(
            cluster="reports", attachments=[{"attachmentArn": arn("attachment/x"), "status": "ATTACHED"}]
        ),
    ]:
        assert answer["acknowledgment"] == "ACK", answer
    raises("InvalidParameterException", ecs.submit_task_state_change, cluster="reports", task="no task", status="STOPPED")
    assert ecs.list_tasks(cluster="reports", desiredStatus="STOPPED")["taskArns"] == []


def test_operations_that_are_not_there():
    for call, arguments in [
        (ecs.create_capacity_provider, {"name": "x"}),
        (ecs.execute_command, {"task": "x", "command": "sh", "interactive": True}),
    ]:
        try:
            call(**arguments)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "UnknownOperationException", error
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error
        else:
            raise AssertionError("answered")


def test_run_task_without_instances():
    ecs.create_cluster(clusterName="empty")
    definition("lonely")
    message = raises("InvalidParameterException", ecs.run_task, cluster="empty", taskDefinition="lonely")
    assert message == "No Container Instances were found in your cluster.", message
    raises("InvalidParameterException", ecs.run_task, cluster="empty", taskDefinition="lonely", count=11)
    raises("ClusterNotFoundException", ecs.run_task, cluster="gone", taskDefinition="lonely")
    raises("ClientException", ecs.run_task, cluster="empty", taskDefinition="unknown")


if __name__ == "__main__":
    run(globals(), sts=["GetCallerIdentity"], ecs=OPERATIONS["operations"])
