//! Network modes, from inside a task and from the host.

use serde_json::{Value, json};
use tests::host::{TestHost, container, script, stderr, stdout, task};

/// A definition whose container serves a page on port 80.
fn server(network_mode: &str, port: &Value) -> Value {
    let mut web = container(
        "web",
        "mkdir /www; echo page > /www/index.html; echo serving; exec httpd -f -p 80 -h /www",
    );
    web["portMappings"] = json!([port]);
    task(network_mode, vec![web])
}

#[test]
fn awsvpc_gives_a_task_its_own_address_and_its_containers_one_loopback() {
    let host = TestHost::new();
    let mut definition = server("awsvpc", &json!({"containerPort": 80}));
    let mut side = container(
        "side",
        "until wget -q -O - http://127.0.0.1/; do sleep 0.1; done; ip -4 -o addr; ip route; cat /etc/hosts /etc/resolv.conf; hostname; sleep 100",
    );
    side["essential"] = json!(false);
    definition["containerDefinitions"].as_array_mut().expect("a list").push(side);
    let task = host.detach(&definition);
    let address = host.inspect(&task)["address"].as_str().expect("an address").to_owned();
    host.eventually("the host gets the page", || {
        host.sh(&format!("curl -s --max-time 2 http://{address}/")) == "page"
    });
    host.eventually("the sidecar gets it on loopback", || {
        host.ok(&["logs", &task, "side"]).contains("page")
    });
    host.eventually("it has told all", || host.ok(&["logs", &task, "side"]).contains("localhost"));
    let text = host.ok(&["logs", &task, "side"]);
    assert!(text.contains(&format!("{address}/")) && text.contains("default via"), "{text}");
    host.ok(&["stop", &task]);
}

#[test]
fn two_tasks_reach_each_other() {
    let host = TestHost::new();
    let first = host.detach(&server("awsvpc", &json!({"containerPort": 80})));
    let address = host.inspect(&first)["address"].as_str().expect("an address").to_owned();
    let output = host.run_task(&script("awsvpc", &format!("i=0; until wget -q -O - http://{address}/ || [ $i = 50 ]; do i=$((i+1)); sleep 0.1; done")));
    assert!(stdout(&output).contains("page"), "{}{}", stdout(&output), stderr(&output));
    host.ok(&["stop", &first]);
}

#[test]
fn bridge_publishes_fixed_and_dynamic_ports() {
    let host = TestHost::new();
    let fixed = host.detach(&server("bridge", &json!({"containerPort": 80, "hostPort": 8080})));
    let dynamic = host.detach(&server("bridge", &json!({"containerPort": 80})));
    let binding = host.inspect(&dynamic)["containers"][0]["networkBindings"][0].clone();
    let port = binding["hostPort"].as_u64().expect("a port");
    assert!(port >= 32768, "{binding}");
    for port in [8080, port] {
        host.eventually("loopback reaches the published port", || {
            host.sh(&format!("curl -s --max-time 2 http://127.0.0.1:{port}/")) == "page"
        });
    }
    host.ok(&["stop", &fixed, &dynamic]);
    assert_eq!(host.sh("curl -s --max-time 2 http://127.0.0.1:8080/"), "");
}

#[test]
fn host_mode_is_the_hosts_network_and_none_is_loopback_only() {
    let host = TestHost::new();
    host.sh("ip link add marker type veth peer name marker2");
    let output = host.run_task(&script("host", "ip -o link"));
    assert!(stdout(&output).contains("marker"), "{}{}", stdout(&output), stderr(&output));
    let output = host.run_task(&script("none", "ip -o link; ping -c 1 -W 1 127.0.0.1"));
    let text = stdout(&output);
    assert!(text.contains("lo:") && !text.contains("eth0") && !text.contains("marker"), "{text}");
    assert!(text.contains("1 packets received"), "{text}{}", stderr(&output));
}

#[test]
fn tasks_reach_the_outside_through_nat() {
    let host = TestHost::new();
    host.sh(
        "ip netns add outside; ip link add uplink type veth peer name eth0 netns outside; \
         ip addr add 192.0.2.1/24 dev uplink; ip link set uplink up; \
         ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside link set eth0 up; ip -n outside link set lo up",
    );
    // The outside knows no way back but to the host's own address: only NAT can work.
    for mode in ["awsvpc", "bridge"] {
        let output = host.run_task(&script(mode, "ping -c 1 -W 2 192.0.2.2"));
        assert!(
            stdout(&output).contains("1 packets received"),
            "{mode}: {}{}",
            stdout(&output),
            stderr(&output)
        );
    }
    host.sh("ip netns delete outside");
}

#[test]
fn names_come_from_the_definition() {
    let host = TestHost::new();
    let mut main = container("main", "cat /etc/hosts /etc/resolv.conf");
    main["extraHosts"] = json!([{"hostname": "somewhere", "ipAddress": "192.0.2.7"}]);
    main["dnsServers"] = json!(["192.0.2.53"]);
    main["dnsSearchDomains"] = json!(["example.test"]);
    let output = host.run_task(&task("bridge", vec![main]));
    let text = stdout(&output);
    assert!(text.contains("192.0.2.7") && text.contains("somewhere"), "{text}{}", stderr(&output));
    assert!(
        text.contains("nameserver 192.0.2.53") && text.contains("search example.test"),
        "{text}"
    );
}
