//! Two agents with roots and network namespaces of their own form one cluster.

use serde_json::Value;
use tests::cluster::Cluster;

/// How many running tasks of the service each instance has, smallest first.
fn spread(cluster: &Cluster) -> Value {
    cluster.boto3(
        "ecs = client('ecs')\n\
         arns = ecs.list_tasks(serviceName='spread')['taskArns']\n\
         found = ecs.describe_tasks(tasks=arns)['tasks'] if arns else []\n\
         running = [t['containerInstanceArn'] for t in found if t['lastStatus'] == 'RUNNING']\n\
         every = ecs.list_container_instances()['containerInstanceArns']\n\
         answer(sorted(running.count(i) for i in every))",
    )
}

fn create_service(cluster: &Cluster, count: u32) {
    cluster.boto3(&format!(
        "ecs = client('ecs')\n\
         ecs.register_task_definition(family='spread', containerDefinitions=[container()])\n\
         ecs.create_service(serviceName='spread', taskDefinition='spread', desiredCount={count},\n\
             placementStrategy=[{{'type': 'spread', 'field': 'instanceId'}}])\n\
         wait(ecs, 'services_stable', services=['spread'])"
    ));
}

#[test]
fn draining_a_host_moves_its_tasks() {
    let mut cluster = Cluster::joined();
    cluster.add_host(&[]);
    create_service(&cluster, 4);
    assert_eq!(spread(&cluster), serde_json::json!([2, 2]));
    cluster.boto3(
        "ecs = client('ecs')\n\
         ecs.update_container_instances_state(status='DRAINING', containerInstances=ecs.list_container_instances()['containerInstanceArns'][:1])",
    );
    cluster.eventually("all four run on the other host", || {
        spread(&cluster) == serde_json::json!([0, 4])
    });
    cluster.boto3("wait(client('ecs'), 'services_stable', services=['spread'])");
    cluster.boto3("client('ecs').delete_service(service='spread', force=True)");
    cluster.eventually("its tasks are gone", || spread(&cluster) == serde_json::json!([0, 0]));
}

#[test]
fn the_loss_of_a_host_moves_its_tasks() {
    let mut cluster = Cluster::with(&["--lost-after", "2s"]);
    cluster.add_agent(&[]);
    let lost = cluster.add_host(&[]);
    create_service(&cluster, 2);
    assert_eq!(spread(&cluster), serde_json::json!([1, 1]));
    cluster.kill_agent(lost);
    cluster.eventually("both run on the host that is left", || {
        spread(&cluster) == serde_json::json!([0, 2])
    });
    let lost_task = cluster.boto3(
        "ecs = client('ecs')\n\
         arns = ecs.list_tasks(desiredStatus='STOPPED')['taskArns']\n\
         answer(ecs.describe_tasks(tasks=arns)['tasks'][0])",
    );
    assert_eq!(lost_task["stopCode"], "InfrastructureHealth", "{lost_task}");
    // It comes back: what it still runs is not wanted any more and stops.
    cluster.start_agent(lost);
    cluster.wait_connected(2);
    let root = cluster.agent(lost).root.clone();
    cluster.eventually("the returned host stops the task that was given up", || {
        let output = cluster.host.command(&["ps", "--quiet"]).env("LIGHTER_ROOT", &root).output();
        output.is_ok_and(|output| output.status.success() && output.stdout.is_empty())
    });
}

#[test]
fn a_stopped_agent_stays_registered_until_someone_deregisters_it() {
    let mut cluster = Cluster::joined();
    cluster.stop_agent(0);
    let state = || {
        cluster.boto3(
            "ecs = client('ecs')\n\
             arn = ecs.list_container_instances()['containerInstanceArns'][0]\n\
             i = ecs.describe_container_instances(containerInstances=[arn])['containerInstances'][0]\n\
             answer([i['status'], i['agentConnected']])",
        )
    };
    cluster.eventually("it is disconnected", || state() == serde_json::json!(["ACTIVE", false]));
    cluster.boto3(
        "ecs = client('ecs')\n\
         arn = ecs.list_container_instances()['containerInstanceArns'][0]\n\
         ecs.deregister_container_instance(containerInstance=arn)\n\
         assert ecs.list_container_instances()['containerInstanceArns'] == []",
    );
}
