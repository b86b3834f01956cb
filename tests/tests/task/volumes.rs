//! Volumes: of the task, of the host, of the image, in memory.

use std::fs;

use serde_json::json;
use tests::host::{TestHost, container, stderr, stdout, task};

#[test]
fn containers_share_a_volume_of_the_task_which_goes_with_it() {
    let host = TestHost::new();
    let mut fill = container("fill", "echo content > /data/file");
    fill["essential"] = json!(false);
    fill["mountPoints"] = json!([{"sourceVolume": "shared", "containerPath": "/data"}]);
    let mut read = container("read", "cat /in/file; (echo x > /in/file) 2>&1");
    read["dependsOn"] = json!([{"containerName": "fill", "condition": "SUCCESS"}]);
    read["mountPoints"] =
        json!([{"sourceVolume": "shared", "containerPath": "/in", "readOnly": true}]);
    let mut definition = task("none", vec![fill, read]);
    definition["volumes"] = json!([{"name": "shared", "host": {}}]);
    let output = host.run_task(&definition);
    assert!(stdout(&output).contains("content"), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("Read-only file system"), "{}", stdout(&output));
    let left = host.sh(&format!("find {} -name file", host.root().display()));
    assert_eq!(left, "");
}

#[test]
fn host_paths_are_bound_and_tmpfs_is_limited() {
    let host = TestHost::new();
    let source = host.path("source");
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("in"), "from the host").expect("a file");
    let mut main = container(
        "main",
        "cat /bound/in; echo back > /bound/out; mount | grep ' /scratch '; dd if=/dev/zero of=/scratch/f bs=1M count=3 2>&1; true",
    );
    main["mountPoints"] = json!([{"sourceVolume": "bound", "containerPath": "/bound"}]);
    main["linuxParameters"] =
        json!({"tmpfs": [{"containerPath": "/scratch", "size": 2, "mountOptions": ["noexec"]}]});
    let mut definition = task("none", vec![main]);
    definition["volumes"] = json!([{"name": "bound", "host": {"sourcePath": source.to_str()}}]);
    let output = host.run_task(&definition);
    let text = stdout(&output);
    assert!(text.contains("from the host"), "{text}{}", stderr(&output));
    assert!(text.contains("noexec") && text.contains("size=2048k"), "{text}");
    assert!(text.contains("No space left"), "{text}");
    assert_eq!(fs::read_to_string(source.join("out")).expect("written"), "back\n");
}

#[test]
fn volumes_from_and_a_read_only_root() {
    let host = TestHost::new();
    let mut first = container("first", "echo mine > /data/file; sleep 100");
    first["essential"] = json!(false);
    first["mountPoints"] = json!([{"sourceVolume": "shared", "containerPath": "/data"}]);
    let mut second = container(
        "second",
        "until [ -e /data/file ]; do sleep 0.05; done; cat /data/file; (echo x > /x) 2>&1",
    );
    second["dependsOn"] = json!([{"containerName": "first", "condition": "START"}]);
    second["volumesFrom"] = json!([{"sourceContainer": "first"}]);
    second["readonlyRootFilesystem"] = json!(true);
    let mut definition = task("none", vec![first, second]);
    definition["volumes"] =
        json!([{"name": "shared", "dockerVolumeConfiguration": {"scope": "task"}}]);
    let output = host.run_task(&definition);
    assert!(stdout(&output).contains("mine"), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("Read-only file system"), "{}", stdout(&output));
}
