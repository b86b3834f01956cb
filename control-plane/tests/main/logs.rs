//! The logs against a full disk.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::process::Command;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::server::Running;

/// Tells the child that it is one.
const CHILD: &str = "LIGHTER_TEST_LOGS";

async fn logs(running: &Running, operation: &str, body: Value) -> (u16, Value) {
    let target = format!("Logs_20140328.{operation}");
    let body = body.to_string();
    let answer =
        running.call(body.as_bytes()).target(&target).signed(&running.key, "logs").send().await;
    (answer.status, answer.json())
}

/// Fills the logs up to the limit of its files' size, has the limit lifted, and goes on.
#[tokio::test]
async fn child_fills_the_logs() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let running = Running::start().await;
    let names = json!({"logGroupName": "g", "logStreamName": "s"});
    assert_eq!(logs(&running, "CreateLogGroup", json!({"logGroupName": "g"})).await.0, 200);
    assert_eq!(logs(&running, "CreateLogStream", names.clone()).await.0, 200);
    let put = async |number: usize| {
        let message = format!("{number} {}", "x".repeat(200_000));
        let event = json!({"timestamp": Timestamp::now().as_millisecond(), "message": message});
        let mut request = names.clone();
        request["logEvents"] = json!([event]);
        logs(&running, "PutLogEvents", request).await
    };
    let mut stored = 0;
    let failed = loop {
        let (status, answer) = put(stored).await;
        if status != 200 {
            break answer;
        }
        stored += 1;
        assert!(stored < 1000, "there is no limit");
    };
    assert_eq!(failed["__type"], "ServiceUnavailableException", "{failed}");
    let read = async || {
        let mut request = json!({"logGroupName": "g"});
        let mut count = 0;
        loop {
            let (status, page) = logs(&running, "FilterLogEvents", request.clone()).await;
            assert_eq!(status, 200, "{page}");
            count += page["events"].as_array().unwrap().len();
            let Some(token) = page["nextToken"].as_str() else { return count };
            request["nextToken"] = json!(token);
        }
    };
    assert_eq!(read().await, stored);
    let pid = std::process::id().to_string();
    let lifted =
        Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap();
    assert!(lifted.success());
    assert_eq!(put(stored).await.0, 200);
    assert_eq!(read().await, stored + 1);
    std::io::stdout().lock().write_all(b"\nrecovered\n").unwrap();
}

#[test]
fn a_full_disk_ends_and_so_does_the_failure_of_the_logs() {
    // The shell sets the limit (units of 512 bytes) and ignores its signal, so that writes fail.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 16000; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "logs::child_fills_the_logs", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && out.contains("recovered"), "{out}\n{err}");
}
