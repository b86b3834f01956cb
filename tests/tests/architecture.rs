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

/// The source without its tests, comments and blank lines: (line number, text).
fn product_lines(path: &Path) -> Vec<(usize, String)> {
    let source = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut lines = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("#[cfg(test)]") {
            break;
        }
        if !code.is_empty() && !code.starts_with("//") {
            lines.push((number + 1, code.to_owned()));
        }
    }
    lines
}

#[test]
fn pure_modules_touch_nothing() {
    let pure = [
        "protocol/src",
        "agent/src/engine",
        "agent/src/network/plan.rs",
        "agent/src/network/ipam.rs",
        "agent/src/network/ports.rs",
        "agent/src/logs/lines.rs",
        "agent/src/tcs/metrics.rs",
        "runtime/src/plan.rs",
        "runtime/src/spec",
        "runtime/src/seccomp/compile.rs",
    ];
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
    for path in files.iter().filter(|path| !path.ends_with("tests.rs")) {
        for (number, line) in product_lines(path) {
            let line = line.replace("unix::", "");
            for word in banned.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "impure:\n{}", found.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let allowed = ["runtime/src/sys/", "agent/src/sys.rs"];
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
