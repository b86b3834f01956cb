//! `lighter deregister` and the unit that calls it when the host is switched off.

use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::host::{TestHost, stderr, stdout};

/// The registered instances: ARN, and whether the agent is connected.
fn instances(cluster: &Cluster) -> Value {
    cluster.boto3(
        "ecs = client('ecs')\n\
         arns = ecs.list_container_instances()['containerInstanceArns']\n\
         found = ecs.describe_container_instances(containerInstances=arns)['containerInstances'] if arns else []\n\
         answer([[i['containerInstanceArn'], i['agentConnected']] for i in found])",
    )
}

#[test]
fn a_host_whose_agent_runs_leaves_and_its_tasks_run_on() {
    let mut cluster = Cluster::joined();
    let task = cluster.boto3(
        "ecs = client('ecs')\n\
         ecs.register_task_definition(family='stay', containerDefinitions=[container()])\n\
         task = ecs.run_task(taskDefinition='stay')['tasks'][0]['taskArn']\n\
         wait(ecs, 'tasks_running', tasks=[task])\n\
         answer(task.rsplit('/')[-1])",
    );
    let task = task.as_str().expect("an id");
    let before = instances(&cluster);
    let left = cluster.host.ok(&["deregister"]);
    assert_eq!(before, json!([[left, true]]), "it says which instance it was");
    assert_eq!(instances(&cluster), json!([]));
    assert_eq!(cluster.host.inspect(task)["lastStatus"], "RUNNING");
    let again = cluster.host.run(&["deregister"]);
    assert_eq!(again.status.code(), Some(1), "{}", stdout(&again));
    assert!(stderr(&again).contains("registered in no cluster"), "{}", stderr(&again));
    // A restart joins anew, as another instance.
    cluster.stop_agent(0);
    cluster.start_agent(0);
    cluster.wait_connected(1);
    assert_ne!(instances(&cluster), json!([[left, true]]));
}

#[test]
fn a_host_whose_agent_was_stopped_stays_registered_until_someone_deregisters_it() {
    let mut cluster = Cluster::joined();
    let before = instances(&cluster);
    cluster.stop_agent(0);
    cluster.eventually("it is disconnected", || instances(&cluster)[0][1] == false);
    assert_eq!(instances(&cluster)[0][0], before[0][0]);
    // Without a control plane it is said so, and nothing is forgotten.
    cluster.stop_control_plane();
    let output = cluster.host.run(&["deregister"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let text = stderr(&output);
    assert!(text.contains("deregister arn:aws:ecs:") && text.contains("127.0.0.1:4780"), "{text}");
    cluster.start_control_plane();
    assert_eq!(instances(&cluster)[0][0], before[0][0]);
    assert_eq!(cluster.host.ok(&["deregister"]), before[0][0].as_str().expect("an ARN"));
    assert_eq!(instances(&cluster), json!([]));
}

#[test]
fn a_host_that_someone_else_deregistered_forgets_it() {
    let mut cluster = Cluster::joined();
    cluster.stop_agent(0);
    cluster.boto3(
        "ecs = client('ecs')\n\
         arn = ecs.list_container_instances()['containerInstanceArns'][0]\n\
         ecs.deregister_container_instance(containerInstance=arn, force=True)",
    );
    cluster.host.ok(&["deregister"]);
    let again = cluster.host.run(&["deregister"]);
    assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
    cluster.start_agent(0);
    cluster.wait_connected(1);
}

#[test]
fn a_host_in_no_cluster_has_nothing_to_leave() {
    let host = TestHost::empty();
    let output = host.run(&["deregister"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("registered in no cluster"), "{}", stderr(&output));
}

/// The unit's command, with stubs of what it calls.
#[test]
fn the_unit_leaves_only_when_the_host_is_switched_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let unit = tests::workspace().join("systemd/lighter-deregister.service");
    let unit = std::fs::read_to_string(unit).expect("the unit");
    let script = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStop=/bin/sh -c '")?.strip_suffix('\''))
        .expect("one shell command");
    // systemd takes \\ for \.
    let script = script.replace("\\\\", "\\");
    assert!(script.contains("/usr/local/bin/lighter deregister"), "{script}");
    let stub = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("executable");
        path.to_str().expect("UTF-8").to_owned()
    };
    let lighter = stub("lighter", "echo \"lighter $*\"; exit 7");
    let script = script.replace("/usr/local/bin/lighter", &lighter);
    let run = |jobs: &str, agent_runs: bool| {
        let code = if agent_runs { 0 } else { 3 };
        stub(
            "systemctl",
            &format!(
                "case \"$*\" in\n\
                 'list-jobs --no-legend') cat <<'E'\n{jobs}\nE\n;;\n\
                 'is-active --quiet lighter.service') exit {code};;\n\
                 *) exit 1;;\nesac"
            ),
        );
        let path = format!("{}:/usr/bin:/bin", directory.path().display());
        let output = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .env("PATH", path)
            .output()
            .expect("sh");
        (output.status.code(), stdout(&output))
    };
    let stop = "  12 lighter-deregister.service stop running\n";
    for target in ["poweroff", "halt"] {
        let jobs = format!("{stop} 341 {target}.target start waiting");
        assert_eq!(run(&jobs, true), (Some(7), "lighter deregister\n".to_owned()), "{jobs}");
        assert_eq!(run(&jobs, false), (Some(0), String::new()), "its agent was stopped first");
    }
    for jobs in [
        stop.to_owned(),
        String::new(),
        format!("{stop} 341 reboot.target start waiting"),
        format!("{stop} 341 kexec.target start waiting"),
        format!("{stop} 341 poweroff.target stop waiting"),
        format!("{stop} 341 my-poweroff.target start waiting"),
        format!("{stop} 341 rescue.target start waiting"),
    ] {
        assert_eq!(run(&jobs, true), (Some(0), String::new()), "{jobs}");
    }
}
