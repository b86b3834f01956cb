//! Definitions over all that is acted on.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// Text that may stand anywhere: no NUL, which no definition can have.
fn text() -> impl Strategy<Value = String> {
    "[^\\x00]{0,12}"
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,8}[a-z0-9]"
}

fn mebibytes() -> impl Strategy<Value = u32> {
    6..4096_u32
}

fn set(map: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(name.to_owned(), value.into());
    }
}

fn object(pairs: Vec<(&str, Option<Value>)>) -> Value {
    let mut map = Map::new();
    for (name, value) in pairs {
        set(&mut map, name, value);
    }
    Value::Object(map)
}

fn opt<T: Into<Value> + std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<Value>> {
    option::of(strategy.prop_map(Into::into))
}

fn process() -> impl Strategy<Value = Vec<(&'static str, Option<Value>)>> {
    let environment = btree_map("[^\\x00=]{1,8}", text(), 0..4).prop_map(|map| {
        Value::from_iter(map.into_iter().map(|(name, value)| json!({"name": name, "value": value})))
    });
    (
        opt(vec(text(), 0..3)),
        opt(vec(text(), 0..3)),
        opt(environment),
        opt(select(vec!["root", "1000:1000", "www:www"])),
        opt(text().prop_map(|text| format!("/{text}"))),
        opt(any::<bool>()),
        opt(any::<bool>()),
        opt(any::<bool>()),
        opt(btree_map("[^\\x00]{1,6}", text(), 0..3).prop_map(|map| json!(map))),
        (opt(2..300_u32), opt(2..300_u32), opt(any::<bool>()), opt(any::<bool>())),
    )
        .prop_map(|all| {
            let (entry, command, environment, user, directory, tty, stdin, rootfs, labels, rest) =
                all;
            let (start, stop, privileged, no_network) = rest;
            vec![
                ("entryPoint", entry),
                ("command", command),
                ("environment", environment),
                ("user", user),
                ("workingDirectory", directory),
                ("pseudoTerminal", tty),
                ("interactive", stdin),
                ("readonlyRootFilesystem", rootfs),
                ("dockerLabels", labels),
                ("startTimeout", start),
                ("stopTimeout", stop),
                ("privileged", privileged),
                ("disableNetworking", no_network),
            ]
        })
}

fn kernel() -> impl Strategy<Value = Vec<(&'static str, Option<Value>)>> {
    let capabilities = ["CHOWN", "KILL", "NET_ADMIN", "SYS_TIME", "ALL"];
    let capabilities = move || subsequence(capabilities.to_vec(), 0..3);
    let device = ("/dev/[a-z]{1,4}", option::of("/dev/[a-z]{1,4}"), 1..8_u8).prop_map(
        |(host, container, permissions)| {
            let permissions = ["read", "write", "mknod"]
                .into_iter()
                .enumerate()
                .filter_map(|(bit, name)| (permissions & (1 << bit) != 0).then_some(name));
            json!({
                "hostPath": host,
                "containerPath": container,
                "permissions": permissions.collect::<Vec<_>>(),
            })
        },
    );
    let options = || subsequence(vec!["rw", "noexec", "mode=1777", "nr_inodes=10k"], 0..4);
    let tmpfs = btree_map("/tmp/[a-z]{1,5}", (1..5000_u32, options()), 0..3).prop_map(|map| {
        Value::from_iter(map.into_iter().rev().map(|(path, (size, options))| {
            json!({"containerPath": path, "size": size, "mountOptions": options})
        }))
    });
    let linux = (
        capabilities(),
        capabilities(),
        opt(vec(device, 0..3)),
        opt(1..5000_u32),
        opt(tmpfs),
        option::of((0..1000_u32, option::of(0..=100_u32))),
    );
    let limits = ["core", "nofile", "nproc", "stack"];
    let limit = (-1..3000_i64, 0..3000_i64);
    let limits = (subsequence(limits.to_vec(), 0..4), vec(limit, 4)).prop_map(|(names, limits)| {
        Value::from_iter(names.into_iter().zip(limits).map(|(name, (hard, less))| {
            let soft = if hard < 0 { less } else { (hard - less).max(0) };
            json!({"name": name, "softLimit": soft, "hardLimit": hard})
        }))
    });
    let controls = btree_map("net\\.[a-z]{1,5}", text(), 0..3).prop_map(|map| {
        let controls = map.into_iter().rev().filter(|(_, value)| !value.is_empty());
        Value::from_iter(controls.map(|(name, value)| json!({"namespace": name, "value": value})))
    });
    let log = (option::of(1..900_u32), option::of(1..9_u32)).prop_map(|(size, files)| {
        let mut options = Map::new();
        set(&mut options, "max-size", size.map(|size| format!("{size}m")));
        set(&mut options, "max-file", files.map(|files| files.to_string()));
        json!({"logDriver": "json-file", "options": options})
    });
    (linux, opt(limits), opt(controls), opt(log), any::<bool>()).prop_map(
        |((add, drop, devices, shared, tmpfs, swap), limits, controls, log, privileges)| {
            let linux = object(vec![
                ("capabilities", Some(json!({"add": add, "drop": drop}))),
                ("devices", devices),
                ("sharedMemorySize", shared),
                ("tmpfs", tmpfs),
                ("maxSwap", swap.map(|(swap, _)| swap.into())),
                ("swappiness", swap.and_then(|(_, swappiness)| swappiness).map(Value::from)),
            ]);
            let security = if privileges { json!(["no-new-privileges"]) } else { json!([]) };
            vec![
                ("linuxParameters", Some(linux)),
                ("ulimits", limits),
                ("systemControls", controls),
                ("logConfiguration", log),
                ("dockerSecurityOptions", Some(security)),
            ]
        },
    )
}

fn names() -> impl Strategy<Value = Vec<(&'static str, Option<Value>)>> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| std::net::IpAddr::from(ip).to_string()),
        any::<[u8; 16]>().prop_map(|ip| std::net::IpAddr::from(ip).to_string()),
    ];
    let host = (word(), address.clone())
        .prop_map(|(name, address)| json!({"hostname": name, "ipAddress": address}));
    (opt(word()), opt(vec(address, 0..3)), opt(vec(word(), 0..3)), opt(vec(host, 0..3))).prop_map(
        |(hostname, servers, domains, hosts)| {
            vec![
                ("hostname", hostname),
                ("dnsServers", servers),
                ("dnsSearchDomains", domains),
                ("extraHosts", hosts),
            ]
        },
    )
}

/// A container that depends on none but those before it.
fn container(index: usize, mode: &'static str) -> impl Strategy<Value = Value> {
    let port = u16::try_from(1000 + index * 100).expect("few containers");
    let ports = btree_set(0..20_u16, 0..3).prop_map(move |ports| {
        let own = ports.into_iter().map(|offset| {
            let protocol = if offset % 2 == 0 { "tcp" } else { "udp" };
            json!({"containerPort": port + offset, "hostPort": 0, "protocol": protocol})
        });
        Value::from_iter(own)
    });
    let mounts = subsequence(vec!["data", "scratch"], 0..=2).prop_map(|volumes| {
        Value::from_iter(volumes.into_iter().map(
            |name| json!({"sourceVolume": name, "containerPath": format!("/mnt/{name}"), "readOnly": name == "data"}),
        ))
    });
    let before: Vec<_> = (0..index).collect();
    let most = before.len();
    let on = subsequence(before.clone(), 0..=most).prop_map(|on| {
        Value::from_iter(
            on.into_iter().map(|n| json!({"containerName": format!("c{n}"), "condition": "START"})),
        )
    });
    let from = subsequence(before, 0..=most).prop_map(|from| {
        Value::from_iter(
            from.into_iter()
                .map(|n| json!({"sourceContainer": format!("c{n}"), "readOnly": n % 2 == 0})),
        )
    });
    let size = (100..4096_u32, opt(6..100_u32), opt(0..2048_u32));
    (process(), kernel(), names(), ports, mounts, on, from, size, any::<bool>()).prop_map(
        move |(process, kernel, names, ports, mounts, on, from, size, essential)| {
            let (memory, reservation, cpu) = size;
            let mut all = vec![
                ("name", Some(format!("c{index}").into())),
                ("image", Some("registry.example:5000/team/web:1.2".into())),
                ("essential", Some((index == 0 || essential).into())),
                ("memory", Some(memory.into())),
                ("memoryReservation", reservation),
                ("cpu", cpu),
                ("mountPoints", Some(mounts)),
                ("dependsOn", Some(on)),
                ("volumesFrom", Some(from)),
            ];
            if mode != "none" {
                all.push(("portMappings", Some(ports)));
            }
            all.extend(process);
            let kernel = kernel.into_iter();
            all.extend(kernel.filter(|(name, _)| mode != "host" || *name != "systemControls"));
            if mode != "awsvpc" {
                all.extend(names);
            }
            object(all)
        },
    )
}

pub(super) fn definition() -> impl Strategy<Value = Value> {
    let containers = |mode| {
        (1..4_usize)
            .prop_flat_map(move |n| (0..n).map(|i| container(i, mode).boxed()).collect::<Vec<_>>())
    };
    let with_mode = select(vec!["bridge", "host", "awsvpc", "none"])
        .prop_flat_map(move |mode| (Just(mode), containers(mode)));
    let tags = btree_map("[a-z]{1,6}", "[a-z]{0,6}", 0..3).prop_map(|map| {
        Value::from_iter(map.into_iter().map(|(key, value)| json!({"key": key, "value": value})))
    });
    (
        with_mode,
        opt(select(vec!["host"])),
        opt(select(vec!["host"])),
        option::of(mebibytes()),
        opt(tags),
        opt(word()),
        opt(select(vec!["arn:aws:iam::000000000000:role/app/reader"])),
        ("fs-[a-z0-9]{1,40}", opt("/[a-z ,:]{0,20}")),
    )
        .prop_map(|((mode, containers), pid, ipc, more, tags, execution, role, efs)| {
            let efs = object(vec![
                ("fileSystemId", Some(efs.0.into())),
                ("rootDirectory", efs.1),
                ("transitEncryption", Some("DISABLED".into())),
            ]);
            object(vec![
                ("family", Some("any".into())),
                ("networkMode", Some(mode.into())),
                ("containerDefinitions", Some(containers.into())),
                (
                    "volumes",
                    Some(json!([
                        {"name": "data", "host": {"sourcePath": "/srv/data"}},
                        {"name": "scratch"},
                        {"name": "shared", "efsVolumeConfiguration": efs},
                    ])),
                ),
                // No limit that the containers could exceed.
                ("cpu", more.map(|more| (8192 + more).to_string().into())),
                ("memory", more.map(|more| (16_384 + more).to_string().into())),
                ("pidMode", pid),
                ("ipcMode", ipc),
                ("tags", tags),
                ("taskRoleArn", role),
                ("executionRoleArn", execution),
            ])
        })
}

pub(super) fn docker_key() -> impl Strategy<Value = String> {
    let known = select(vec![
        "User",
        "Labels",
        "Healthcheck",
        "Tty",
        "NetworkMode",
        "MemorySwap",
        "CapAdd",
        "Devices",
        "Tmpfs",
        "Ulimits",
        "Sysctls",
        "ExtraHosts",
        "LogConfig",
        "ShmSize",
        "command",
    ]);
    prop_oneof![5 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(vec!["/a", "size=9m", "size=k", "db:1.2.3.4", "host"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop_oneof![
            select(vec!["Type", "Config", "Name", "Soft", "Hard", "PathOnHost", "command", "/t"])
                .prop_map(str::to_owned),
            any::<String>(),
        ];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key, inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}
