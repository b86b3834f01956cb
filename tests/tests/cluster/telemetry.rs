//! Telemetry from an agent to a control plane, both real.

use tests::cluster::Cluster;

/// The longest wait is the agent's: it publishes every 20 s.
#[test]
fn a_host_tells_its_health_over_telemetry() {
    let cluster = Cluster::joined();
    cluster.boto3(
        "ecs = client('ecs')\n\
         ecs.register_task_definition(family='told', containerDefinitions=[container()])\n\
         task = ecs.run_task(taskDefinition='told')['tasks'][0]['taskArn']\n\
         wait(ecs, 'tasks_running', tasks=[task])",
    );
    cluster.host.eventually("the host's health is published", || {
        let log = cluster.log();
        log.lines().any(|line| {
            line.contains("an instance reports its own health")
                && line.contains("ContainerRuntime")
                && line.contains("OK")
        })
    });
    let log = cluster.log();
    assert!(log.contains("TCS"), "{log}");
    assert!(!log.contains("refuses telemetry"), "{log}");
}
