//! `lighter up`, `status` and `down`.

use tests::host::{TestHost, stdout};

#[test]
fn up_status_down_and_up_again() {
    let host = TestHost::new();
    let before = host.state();
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
    let environment = host.ok(&["up", "--detach"]);
    assert!(environment.contains("export AWS_ENDPOINT_URL=http://127.0.0.1:4780"), "{environment}");
    assert_eq!(host.ok(&["up", "--detach"]), environment, "a second time it is the same");
    let status = host.ok(&["status"]);
    assert!(status.contains("connected: arn:aws:ecs:"), "{status}");
    let script = format!(
        "{environment}\ncd {}\nPYTHONPATH={} python3 - <<'E'\n\
         from cluster import *\n\
         ecs = client('ecs')\n\
         ecs.register_task_definition(family='up', containerDefinitions=[container()])\n\
         task = ecs.run_task(taskDefinition='up')['tasks'][0]['taskArn']\n\
         wait(ecs, 'tasks_running', tasks=[task])\n\
         print('running')\nE",
        host.root().display(),
        tests::workspace().join("tests/python").display()
    );
    let ran = host.sh(&script);
    assert!(ran.ends_with("running"), "{ran}\n{}", host.agent_log());
    host.ok(&["down"]);
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
    assert_eq!(host.state(), before, "nothing is left");
    host.ok(&["down"]);
    // What was registered is there again.
    host.ok(&["up", "--detach"]);
    let listed = host.sh(&format!(
        "{environment}\n/usr/bin/aws --endpoint-url $AWS_ENDPOINT_URL ecs list-task-definitions"
    ));
    assert!(listed.contains("task-definition/up:1"), "{listed}");
    host.ok(&["down"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let host = TestHost::empty();
    host.sh("python3 -c 'import socket,time; s=socket.socket(); s.bind((\"127.0.0.1\",4780)); s.listen(); time.sleep(1000)' >/dev/null 2>&1 & disown");
    host.eventually("the port is taken", || host.sh("ss -ltn").contains(":4780"));
    let output = host.run(&["up", "--detach"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(
        tests::host::stderr(&output).contains("127.0.0.1:4780"),
        "{}",
        tests::host::stderr(&output)
    );
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
}
