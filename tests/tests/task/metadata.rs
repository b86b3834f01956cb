//! 169.254.170.2: who reads what there, in every network mode, and that nothing is left of it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tests::host::{TestHost, container, script, stderr, stdout, task, terminate};

/// Prints the container's and the task's metadata, one per line.
const TELL: &str = "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4; echo; wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task; echo";

/// A container that tells and stays.
fn lasting(mode: &str) -> Value {
    script(mode, &format!("{TELL}; echo told; exec sleep 1000"))
}

/// The container's document as it printed it.
fn told(host: &TestHost, id: &str) -> Value {
    host.eventually("it has told", || host.ok(&["logs", id]).contains("told"));
    let text = host.ok(&["logs", id]);
    serde_json::from_str(text.lines().next().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Pid of a task's first container.
fn pid(host: &TestHost, id: &str) -> i64 {
    host.inspect(id)["containers"][0]["pid"].as_i64().expect("a pid")
}

/// Id of a container's endpoint, from its environment.
fn endpoint(host: &TestHost, pid: i64) -> String {
    let text = host.sh(&format!("tr '\\0' '\\n' < /proc/{pid}/environ"));
    let uri = text.lines().find_map(|line| line.strip_prefix("ECS_CONTAINER_METADATA_URI_V4="));
    let uri = uri.unwrap_or_else(|| panic!("no endpoint in {text}"));
    uri.rsplit('/').next().expect("an id").to_owned()
}

/// A request from the network namespace of a process.
fn fetch(host: &TestHost, pid: i64, path: &str) -> (String, String) {
    host.http_get(pid, SocketAddr::from(([169, 254, 170, 2], 80)), path)
}

#[test]
fn a_container_reads_its_metadata_in_every_mode() {
    let host = TestHost::new();
    let before = host.state();
    for mode in ["awsvpc", "bridge", "none", "host"] {
        let output = host.run_task(&script(mode, TELL));
        let text = stdout(&output);
        let documents: Vec<Value> = text
            .lines()
            .filter_map(|line| line.find('{').map(|start| &line[start..]))
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{mode}: {e}: {line}"))
            })
            .collect();
        let [container, task] = documents.as_slice() else {
            panic!("{mode}: {text}{}\n{}", stderr(&output), host.agent_log())
        };
        assert_eq!(container["Name"], "main", "{mode}");
        // The answer stood before the program: the container was not running yet.
        assert!(["CREATED", "RUNNING"].contains(&container["KnownStatus"].as_str().unwrap_or("")));
        assert_eq!(container["Networks"][0]["NetworkMode"], mode);
        assert_eq!(container["Limits"], json!({"CPU": 2, "Memory": 64}));
        assert_eq!(task["Cluster"], "default");
        let arn = task["TaskARN"].as_str().expect("an ARN");
        assert!(arn.starts_with("arn:aws:ecs:local:000000000000:task/default/"), "{arn}");
        assert_eq!(container["Labels"]["com.amazonaws.ecs.task-arn"], arn);
        assert_eq!(task["Containers"][0]["DockerId"], container["DockerId"]);
    }
    for id in host.ok(&["ps", "--all", "-q"]).lines() {
        host.run(&["rm", id]);
    }
    host.stop_agent();
    assert_eq!(host.state(), before);
}

#[test]
fn a_task_that_listens_on_port_80_has_both() {
    let host = TestHost::new();
    for mode in ["awsvpc", "bridge", "host"] {
        let output = host.run_task(&script(
            mode,
            "mkdir /www; echo page > /www/index.html; httpd -p 80 -h /www || echo refused; wget -q -O - http://127.0.0.1/; wget -q -O - $ECS_CONTAINER_METADATA_URI_V4; killall httpd",
        ));
        let text = stdout(&output);
        assert!(text.contains("page") && text.contains("\"DockerId\""), "{mode}: {text}");
        assert!(!text.contains("refused"), "{mode}: {text}{}", stderr(&output));
    }
}

#[test]
fn a_task_reads_nothing_of_another() {
    let host = TestHost::new();
    for mode in ["awsvpc", "bridge", "none"] {
        let (first, second) = (host.detach(&lasting(mode)), host.detach(&lasting(mode)));
        let own = told(&host, &first);
        told(&host, &second);
        let (inside, outside) = (pid(&host, &first), pid(&host, &second));
        let id = endpoint(&host, inside);
        let docker = own["DockerId"].as_str().expect("an id");
        for path in [format!("/v4/{id}"), format!("/v4/{id}/task"), format!("/v4/{id}/stats")] {
            assert_eq!(fetch(&host, inside, &path).0, "200", "{mode} {path}");
            assert_eq!(fetch(&host, outside, &path).0, "404", "{mode} {path}");
        }
        for path in [format!("/v3/{id}"), format!("/v2/metadata/{docker}")] {
            assert_eq!(fetch(&host, inside, &path).0, "200", "{mode} {path}");
            assert_eq!(fetch(&host, outside, &path).0, "400", "{mode} {path}");
        }
        let (_, task) = fetch(&host, outside, "/v2/metadata");
        assert!(task.contains(&second) && !task.contains(&first), "{mode}: {task}");
        host.ok(&["stop", &first, &second]);
    }
}

#[test]
fn a_neighbour_cannot_route_to_another_tasks_endpoint() {
    let host = TestHost::new();
    let victim = host.detach(&lasting("awsvpc"));
    told(&host, &victim);
    let address = host.inspect(&victim)["address"].as_str().expect("an address").to_owned();
    // What a container with CAP_NET_ADMIN may do in its own namespace. Its own endpoint is in the
    // way only until it removes it.
    let mut attacker = container(
        "main",
        &format!(
            "ip addr del 169.254.170.2/32 dev lo; ip route add 169.254.170.2 via {address}; \
             for port in 80 51679; do wget -T 2 -q -O - http://169.254.170.2:$port/v2/metadata && echo READ; done; echo done"
        ),
    );
    attacker["linuxParameters"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    let output = host.run_task(&task("awsvpc", vec![attacker]));
    let text = stdout(&output);
    assert!(text.contains("done") && !text.contains("READ"), "{text}{}", stderr(&output));
    // From the host neither.
    let read = host.sh(&format!(
        "ip route add 169.254.170.2 via {address}; curl -s --max-time 2 http://169.254.170.2:51679/v2/metadata"
    ));
    assert_eq!(read, "");
    host.ok(&["stop", &victim]);
}

#[test]
fn the_endpoint_answers_again_after_the_agent_was_killed() {
    let host = TestHost::new();
    let before = host.state();
    let modes = ["awsvpc", "bridge", "none", "host"];
    let tasks: Vec<String> = modes.iter().map(|mode| host.detach(&lasting(mode))).collect();
    for id in &tasks {
        told(&host, id);
    }
    let inside: Vec<i64> = tasks.iter().map(|id| pid(&host, id)).collect();
    let agent = host.agent_pid().expect("an agent");
    host.kill(agent, "KILL");
    host.eventually("it is gone", || !host.is_alive(agent));
    for (mode, pid) in modes.iter().zip(&inside) {
        // Exit code 7: refused at once, not left to time out.
        let code = format!(
            "nsenter -t {pid} -n curl -s --max-time 5 http://169.254.170.2/v2/metadata; echo $?"
        );
        assert_eq!(host.sh(&code), "7", "{mode}");
    }
    host.start_agent();
    for ((mode, id), pid) in modes.iter().zip(&tasks).zip(inside) {
        let path = format!("/v4/{}/task", endpoint(&host, pid));
        host.eventually("it answers", || fetch(&host, pid, &path).0 == "200");
        assert!(fetch(&host, pid, &path).1.contains(id), "{mode}");
    }
    for id in &tasks {
        host.ok(&["stop", id]);
        host.ok(&["rm", id]);
    }
    host.stop_agent();
    assert_eq!(host.state(), before);
}

#[test]
fn what_a_dead_agent_left_for_host_tasks_is_swept() {
    let host = TestHost::new();
    let before = host.state();
    let addresses = host.sh("ip -o addr show dev lo");
    let id = host.detach(&lasting("host"));
    told(&host, &id);
    assert!(host.state().contains("lighter_endpoint"));
    let agent = host.agent_pid().expect("an agent");
    let worker = host.monitor(&id)["worker"]["pid"].as_i64().expect("a pid");
    let guardian = host.monitor(&id)["guardian"]["pid"].as_i64().expect("a pid");
    let main = pid(&host, &id);
    for pid in [agent, guardian, worker, main] {
        host.kill(pid, "KILL");
    }
    host.eventually("all are gone", || {
        [agent, guardian, worker, main].iter().all(|pid| !host.is_alive(*pid))
    });
    host.start_agent();
    host.eventually("the task has stopped", || host.inspect(&id)["lastStatus"] == "STOPPED");
    host.ok(&["rm", &id]);
    host.stop_agent();
    assert_eq!(host.state(), before);
    assert_eq!(host.sh("ip -o addr show dev lo"), addresses);
}

#[test]
fn statistics_are_dockers() {
    let host = TestHost::new();
    let id = host.detach(&lasting("awsvpc"));
    told(&host, &id);
    let pid = pid(&host, &id);
    let own = endpoint(&host, pid);
    let path = format!("/v4/{own}/stats");
    let stats = |path: &str| -> Value {
        let (status, body) = fetch(&host, pid, path);
        assert_eq!(status, "200", "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let first = stats(&path);
    assert!(first["cpu_stats"]["cpu_usage"]["total_usage"].as_u64() > Some(0), "{first}");
    assert_eq!(first["memory_stats"]["limit"], 64 << 20);
    assert!(first["memory_stats"]["usage"].as_u64() > Some(0), "{first}");
    assert!(first["pids_stats"]["current"].as_u64() > Some(0), "{first}");
    assert!(first["networks"]["eth0"]["rx_bytes"].is_u64(), "{first}");
    host.eventually("a second sample", || {
        let later = stats(&path);
        later["network_rate_stats"].is_object()
            && later["precpu_stats"]["system_cpu_usage"].as_u64() > Some(0)
    });
    let all = stats(&format!("/v4/{own}/task/stats"));
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(1), "{all}");
    host.ok(&["stop", &id]);
}

#[test]
fn bad_requests_get_the_documented_answers() {
    let host = TestHost::new();
    let id = host.detach(&lasting("awsvpc"));
    told(&host, &id);
    let pid = pid(&host, &id);
    let own = endpoint(&host, pid);
    let code = |path: &str| {
        let (status, body) = fetch(&host, pid, path);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        (status, body)
    };
    for (path, status) in [
        ("/v4/nobody", "404"),
        ("/v3/nobody/task", "400"),
        ("/nothing", "404"),
        ("//v4/nobody", "301"),
    ] {
        let (found, body) = code(path);
        assert_eq!(found, status, "{path}");
        assert!(body.is_string(), "{path}: {body}");
    }
    for (path, name) in [
        ("/v2/credentials/", "NoIdInRequest"),
        ("/v1/credentials", "NoIdInRequest"),
        ("/v2/credentials/4711", "InvalidIdInRequest"),
        ("/v1/credentials?id=4711", "InvalidIdInRequest"),
    ] {
        let (status, body) = code(path);
        assert_eq!(
            (status.as_str(), &body["code"], &body["HTTPErrorCode"]),
            ("400", &json!(name), &json!(400))
        );
    }
    let (status, body) = code(&format!("/api/{own}/task-protection/v1/state"));
    assert_eq!(
        (status.as_str(), &body["error"]["Code"]),
        ("400", &json!("InvalidParameterException"))
    );
    let audit = std::fs::read_to_string(host.root().join("var/log/ecs/audit.log"));
    let audit = audit.expect("the audit log");
    assert_eq!(audit.lines().count(), 4, "{audit}");
    assert!(
        audit.lines().all(|line| line.contains(" 400 169.254.170.2 ") && !line.contains("4711"))
    );
    host.ok(&["stop", &id]);
}

#[test]
fn more_requests_than_the_limit_are_refused() {
    let host = TestHost::new();
    let config = host.root().join("etc/ecs");
    std::fs::create_dir_all(&config).expect("a directory");
    std::fs::write(config.join("ecs.config"), "ECS_TASK_METADATA_RPS_LIMIT=1,3\n").expect("write");
    host.stop_agent();
    let id = host.detach(&script("awsvpc", "echo told; exec sleep 1000"));
    host.eventually("it runs", || host.ok(&["logs", &id]).contains("told"));
    let pid = pid(&host, &id);
    let own = endpoint(&host, pid);
    let path = format!("/v4/{own}");
    let many: Vec<String> = (0..20).map(|_| fetch(&host, pid, &path).0).collect();
    assert!(many[0] == "200" && many.iter().any(|status| status == "429"), "{many:?}");
    host.ok(&["stop", &id]);
}

#[test]
fn a_foreground_agent_serves_introspection() {
    let host = TestHost::new();
    host.stop_agent();
    let mut agent = host.command(&["agent"]).spawn().expect("an agent");
    let get = |path: &str| {
        let text =
            host.sh(&format!("curl -s -w '\\n%{{http_code}}' 'http://127.0.0.1:51678{path}'"));
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        (status.to_owned(), serde_json::from_str::<Value>(body).unwrap_or_default())
    };
    host.eventually("it serves", || get("/").0 == "200");
    let id = host.detach(&lasting("none"));
    told(&host, &id);
    assert_eq!(get("/v1/metadata").1["Cluster"], "default");
    let (_, tasks) = get("/v1/tasks");
    assert_eq!(tasks["Tasks"][0]["KnownStatus"], "RUNNING", "{tasks}");
    let arn = tasks["Tasks"][0]["Arn"].as_str().expect("an ARN").to_owned();
    let docker = tasks["Tasks"][0]["Containers"][0]["DockerId"].as_str().expect("an id").to_owned();
    assert_eq!(get(&format!("/v1/tasks?taskarn={arn}")).1["Arn"], arn.as_str());
    assert_eq!(get(&format!("/v1/tasks?dockerid={}", &docker[..8])).1["Arn"], arn.as_str());
    assert_eq!(get("/v1/tasks?dockerid=zzz").0, "404");
    assert_eq!(get(&format!("/v1/tasks?dockerid={docker}&taskarn={arn}")).0, "400");
    host.ok(&["stop", &id]);
    terminate(&agent);
    agent.wait().expect("it ends");
}
