//! What a test can do to a whole machine only: install the package, restart the service, switch off.
//! `tests/vm/suite` runs these in machines of their own; the default profile leaves them out.

mod hosts;
mod package;
mod reboot;

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tests::bundle::within;
use tests::host::{IMAGE, stderr, stdout};
use tests::image::Image;

/// Refuses to go on anywhere else.
fn in_vm() {
    assert!(tests::in_vm(), "this changes the machine: tests/vm/suite runs it in one of its own");
}

/// A command to its end.
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// A command that must succeed: its output, trimmed.
fn ok(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        stdout(&output),
        stderr(&output)
    );
    stdout(&output).trim().to_owned()
}

fn install() {
    let package = std::env::var("LIGHTER_DEB").expect("LIGHTER_DEB names the package");
    ok("dpkg", &["--install", &package]);
}

/// Loads the image of the tests into the machine's own store.
fn load_image() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("busybox.tar");
    std::fs::write(&archive, Image::busybox().unwrap().oci_archive(IMAGE)).unwrap();
    ok("lighter", &["image", "load", "-i", archive.to_str().unwrap()]);
}

/// Starts a task: its id.
fn detach(definition: &Value) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("task.json");
    std::fs::write(&path, definition.to_string()).unwrap();
    ok("lighter", &["run", "--detach", path.to_str().unwrap()])
}

fn inspect(task: &str) -> Value {
    let views: Value = serde_json::from_str(&ok("lighter", &["inspect", task])).unwrap();
    views[0].clone()
}

/// Waits until a unit's property has a value.
fn wait_for_unit(unit: &str, property: &str, value: &str) {
    let show = || ok("systemctl", &["show", "--property", property, "--value", unit]);
    let reached = within(Duration::from_secs(20), || (show() == value).then_some(()));
    assert!(reached.is_some(), "{property} of {unit} is {}, not {value}", show());
}

fn wait_for_status(task: &str, status: &str) -> Value {
    let view = within(Duration::from_secs(20), || {
        let view = inspect(task);
        (view["lastStatus"] == status).then_some(view)
    });
    view.unwrap_or_else(|| panic!("{task} is not {status}: {}", inspect(task)))
}
