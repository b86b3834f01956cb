//! The rules of the code's shape that a compiler does not check: dependency direction, the two
//! dependency classes, purity of the pure modules, and where `unsafe` may stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::workspace;

/// `cargo metadata` of the locked graph.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(workspace())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}"))
}

/// Names of the packages that `member` is built from, itself left out: ordinary and build
/// dependencies, as enabled by default.
fn closure(metadata: &Value, member: &str) -> BTreeSet<String> {
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| (text(node, "id"), node))
        .collect();
    let root = names.iter().find(|(_, name)| **name == member).expect("member").0;
    let mut seen = BTreeSet::new();
    let mut open = vec![*root];
    while let Some(id) = open.pop() {
        for dependency in nodes[id]["deps"].as_array().expect("deps") {
            let kinds = dependency["dep_kinds"].as_array().expect("kinds");
            let shipped = kinds.iter().any(|kind| kind["kind"] != "dev");
            let target = text(dependency, "pkg");
            if shipped && seen.insert(names[target].to_owned()) {
                open.push(target);
            }
        }
    }
    seen
}

#[test]
fn packages_depend_downwards_only() {
    let metadata = metadata();
    let members = ["protocol", "runtime", "agent", "control-plane"];
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("protocol", &[][..]),
        ("runtime", &["protocol"]),
        ("agent", &["protocol"]),
        ("control-plane", &["protocol"]),
    ]);
    for member in members {
        let closure = closure(&metadata, member);
        for other in members {
            if closure.contains(other) {
                assert!(allowed[member].contains(&other), "{member} must not depend on {other}");
            }
        }
    }
}

#[test]
fn runtime_class_has_no_async_runtime_no_tls_no_logger_framework() {
    let closure = closure(&metadata(), "runtime");
    let banned = [
        "tokio",
        "mio",
        "async-io",
        "smol",
        "hyper",
        "reqwest",
        "axum",
        "rustls",
        "ring",
        "openssl-sys",
        "tracing",
        "env_logger",
        "regex",
        "oci-spec",
        "cgroups-rs",
        "zbus",
        "libseccomp",
        "rayon",
    ];
    for name in banned {
        assert!(!closure.contains(name), "the runtime must not be built from {name}");
    }
    assert!(closure.len() < 80, "the runtime is built from {} crates", closure.len());
}

#[test]
fn protocol_is_made_of_data_crates() {
    let closure = closure(&metadata(), "protocol");
    for name in ["tokio", "nix", "rustix", "tracing", "hyper", "tempfile", "getrandom", "rand"] {
        assert!(!closure.contains(name), "protocol must not be built from {name}");
    }
}

fn rust_files(path: &Path, into: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable directory") {
            rust_files(&entry.expect("entry").path(), into);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        into.push(path.to_owned());
    }
}

/// Whether a file is compiled for tests only, by the names that such files have here.
fn is_test(path: &Path) -> bool {
    let folder = path.strip_prefix(workspace()).is_ok_and(|path| {
        path.parent().is_some_and(|parent| parent.iter().any(|part| part == "tests"))
    });
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    folder
        || ["tests", "testing", "fixtures", "conformance"].contains(&stem)
        || stem.ends_with("_tests")
}

/// The source without its tests, comments and blank lines: (line number, text).
fn product_lines(path: &Path) -> Vec<(usize, String)> {
    let source = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = Vec::new();
    let mut source = source.lines().enumerate().peekable();
    while let Some((number, line)) = source.next() {
        let code = line.trim_start();
        if code.starts_with("#[cfg(test)]") {
            while source.next_if(|(_, next)| next.trim_start().starts_with("#[")).is_some() {}
            // A module in a file of its own is one line; one that stands here closes at the margin
            // of its first line.
            let margin = line.len() - code.len();
            let Some((_, first)) = source.next() else { break };
            if first.ends_with('{') {
                while source
                    .next_if(|(_, next)| *next != format!("{}}}", " ".repeat(margin)))
                    .is_some()
                {}
                source.next();
            }
            continue;
        }
        if !code.is_empty() && !code.starts_with("//") {
            lines.push((number + 1, code.to_owned()));
        }
    }
    lines
}

/// Which modules of their package the modules with a place in the order may use, tests aside.
#[test]
fn modules_depend_downwards_only() {
    let allowed: [(&str, &[&str]); 13] = [
        ("control-plane/src/store", &[]),
        ("control-plane/src/model", &["state"]),
        ("control-plane/src/state", &["model", "store", "sessions"]),
        ("control-plane/src/scheduler", &["model", "state"]),
        ("control-plane/src/reconcile", &["config", "model", "scheduler", "state", "store"]),
        ("control-plane/src/api", &["config", "model", "reconcile", "scheduler", "state"]),
        // Of the store only how files of redb are opened and guarded.
        ("control-plane/src/logs", &["api", "store"]),
        ("control-plane/src/sessions", &["api", "config", "model", "scheduler", "state", "store"]),
        ("agent/src/engine", &["api", "credentials", "network"]),
        ("agent/src/network", &[]),
        ("agent/src/volume", &[]),
        ("agent/src/store", &[]),
        // Of AWS only its logins for registries, as they are configured.
        ("agent/src/image", &["api", "backend", "config", "error"]),
    ];
    let mut found = Vec::new();
    for (module, allowed) in allowed {
        let directory = workspace().join(module);
        assert!(directory.exists(), "{module} is gone: mend this list");
        let own = module.rsplit('/').next().unwrap_or_default();
        let mut files = Vec::new();
        rust_files(&directory, &mut files);
        for path in files.iter().filter(|path| !is_test(path)) {
            for (number, line) in product_lines(path) {
                for used in line.split("crate::").skip(1) {
                    let used: String =
                        used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                    // Below all, and nothing in what is shipped.
                    let everyones = used.is_empty() || used == own || used == "failpoint";
                    if !everyones && !allowed.contains(&used.as_str()) {
                        found.push(format!("{}:{number}: {module} uses {used}", path.display()));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "against the order:\n{}", found.join("\n"));
}

#[test]
fn pure_modules_touch_nothing() {
    let pure = [
        "protocol/src",
        "agent/src/engine",
        "agent/src/attributes.rs",
        "agent/src/logs/lines.rs",
        "agent/src/network/endpoint/rules.rs",
        "agent/src/network/ipam.rs",
        "agent/src/network/netlink/requests.rs",
        "agent/src/network/plan.rs",
        "agent/src/network/ports.rs",
        "agent/src/stats/docker.rs",
        "agent/src/stats/parse.rs",
        "agent/src/tcs/metrics.rs",
        "agent/src/tmds/documents.rs",
        "agent/src/tmds/route.rs",
        "agent/src/volume/efs.rs",
        "agent/src/volume/plan.rs",
        "control-plane/src/api/lookup.rs",
        "control-plane/src/api/page.rs",
        "control-plane/src/auth.rs",
        "control-plane/src/logs/pattern.rs",
        "control-plane/src/model",
        "control-plane/src/reconcile",
        "control-plane/src/scheduler",
        "control-plane/src/state/edit.rs",
        "control-plane/src/state/hosts.rs",
        "control-plane/src/state/view.rs",
        "control-plane/src/sts.rs",
        "runtime/src/plan.rs",
        "runtime/src/spec",
        "runtime/src/seccomp/compile.rs",
    ];
    // Of those folders, what carries the plans out.
    let acts = ["control-plane/src/reconcile/drive.rs"].map(|path| workspace().join(path));
    let banned = [
        "std::fs",
        "std::process",
        "std::env",
        "std::thread",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "tokio",
        "tracing::",
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "Zoned::now",
        "Uuid::new_v4",
        "rand::",
        "getrandom",
        "nix::",
        "rustix::",
    ];
    let mut files = Vec::new();
    for path in pure {
        let path = workspace().join(path);
        assert!(path.exists(), "{} is gone: mend this list", path.display());
        rust_files(&path, &mut files);
    }
    let mut found = Vec::new();
    for path in files.iter().filter(|path| !is_test(path) && !acts.contains(path)) {
        for (number, line) in product_lines(path) {
            let line = line.replace("unix::", "").replace("nix::errno", "");
            for word in banned.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "impure:\n{}", found.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_may() {
    // The runtime's main has to name its symbol, which counts as unsafe.
    let allowed =
        ["runtime/src/sys/", "runtime/src/main.rs", "runtime/src/lean_libc.rs", "agent/src/sys.rs"];
    let mut files = Vec::new();
    for member in ["protocol/src", "runtime/src", "agent/src", "control-plane/src"] {
        rust_files(&workspace().join(member), &mut files);
    }
    let mut found = Vec::new();
    for path in &files {
        let name =
            path.strip_prefix(workspace()).expect("below the workspace").display().to_string();
        if allowed.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        for (number, line) in product_lines(path) {
            if line.contains("unsafe {")
                || line.contains("unsafe fn")
                || (line.contains("allow(unsafe_code") && !name.ends_with("src/lib.rs"))
            {
                found.push(format!("{name}:{number}: {line}"));
            }
        }
    }
    assert!(found.is_empty(), "unsafe outside sys:\n{}", found.join("\n"));
}

#[test]
fn files_stay_small() {
    let mut files = Vec::new();
    for member in ["protocol/src", "runtime/src", "agent/src", "control-plane/src"] {
        rust_files(&workspace().join(member), &mut files);
    }
    for path in files {
        let lines = product_lines(&path).len();
        let table = path.components().any(|part| part.as_os_str() == "tables");
        assert!(
            table || lines <= 800,
            "{}: {lines} lines of code; split it by concept",
            path.display()
        );
    }
}

/// The benches are not run by CI; they are to be there when they are wanted.
#[test]
fn scripts_parse() {
    let listed = Command::new("git")
        .args(["ls-files", "*.py", "*.sh"])
        .current_dir(workspace())
        .output()
        .expect("git starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let (python, shell): (Vec<&str>, Vec<&str>) =
        listed.lines().partition(|path| path.ends_with(".py"));
    assert!(!python.is_empty() && !shell.is_empty(), "{listed}");
    let parse = "import ast, sys\nfor path in sys.argv[1:]: ast.parse(open(path).read(), path)";
    let mut command = Command::new("python3");
    let parsed = command.args(["-c", parse]).args(python).current_dir(workspace()).status();
    assert!(parsed.expect("python3 starts").success());
    for path in shell {
        let parsed = Command::new("bash").args(["-n", path]).current_dir(workspace()).status();
        assert!(parsed.expect("bash starts").success(), "{path}");
    }
}
