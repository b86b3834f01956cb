//! Operations over a file of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use redb::{ReadableDatabase as _, ReadableTableMetadata as _};
use serde_json::{Value, json};

use super::*;
use crate::api::testing::context;
use crate::state::testing;

struct World {
    context: Context,
    logs: Logs,
    directory: tempfile::TempDir,
}

const NOW: i64 = 1_800_000_000_000;

impl World {
    /// With the group `g`.
    async fn new() -> Self {
        let (directory, state) = testing::open().await;
        let now = Timestamp::from_millisecond(NOW).unwrap();
        let context = Context { now, ..context(&state) };
        let logs = Logs::open(directory.path()).unwrap();
        let world = Self { context, logs, directory };
        world.ok("CreateLogGroup", json!({"logGroupName": "g"})).await;
        world
    }

    async fn call(&self, operation: &str, request: Value) -> Result<Value, ApiError> {
        let body = serde_json::to_vec(&request).unwrap();
        let answer = handle(&self.context, &self.logs, operation, &body).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    async fn ok(&self, operation: &str, request: Value) -> Value {
        let answer = self.call(operation, request.clone()).await;
        answer.unwrap_or_else(|error| panic!("{operation} {request}: {error}"))
    }

    async fn refused(&self, operation: &str, request: Value) -> String {
        self.call(operation, request).await.expect_err(operation).name
    }

    async fn stream(&self, name: &str) {
        self.ok("CreateLogStream", json!({"logGroupName": "g", "logStreamName": name})).await;
    }

    /// Events at these times (after [`NOW`]), whose messages are their stream and time.
    async fn put(&self, stream: &str, times: &[i64]) {
        let event = |at: &i64| json!({"timestamp": NOW + at, "message": format!("{stream}{at}")});
        let events: Vec<Value> = times.iter().map(event).collect();
        let request = json!({"logGroupName": "g", "logStreamName": stream, "logEvents": events});
        self.ok("PutLogEvents", request).await;
    }

    async fn filter(&self, more: Value) -> (Vec<String>, Option<String>) {
        self.read("FilterLogEvents", more, "nextToken").await
    }

    async fn read(
        &self,
        operation: &str,
        more: Value,
        token: &str,
    ) -> (Vec<String>, Option<String>) {
        let mut request = json!({"logGroupName": "g"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = self.ok(operation, request).await;
        let events = answer["events"].as_array().unwrap();
        let messages = events.iter().map(|event| event["message"].as_str().unwrap().to_owned());
        (messages.collect(), answer[token].as_str().map(str::to_owned))
    }

    async fn stored(&self) -> Value {
        let groups = self.ok("DescribeLogGroups", json!({})).await;
        groups["logGroups"][0]["storedBytes"].clone()
    }

    /// Rows of events, by stream and by group.
    async fn rows(&self) -> [u64; 2] {
        let rows = self.logs.read(|database| {
            let read = database.begin_read().unwrap();
            let events = read.open_table(store::EVENTS).unwrap().len().unwrap();
            Ok([events, read.open_table(store::BY_GROUP).unwrap().len().unwrap()])
        });
        rows.await.unwrap()
    }

    async fn without_rows(&self) {
        let give_up = Instant::now() + Duration::from_secs(20);
        while self.rows().await != [0, 0] {
            assert!(Instant::now() < give_up, "{:?} are left", self.rows().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn the_end_is_inclusive_for_filters_only() {
    let world = World::new().await;
    world.stream("s").await;
    world.put("s", &[0, 1, 2]).await;
    let (found, _) = world.filter(json!({"startTime": NOW + 1, "endTime": NOW + 2})).await;
    assert_eq!(found, ["s1", "s2"]);
    let window = json!({"logStreamName": "s", "startTime": NOW + 1, "endTime": NOW + 2});
    let (found, _) = world.read("GetLogEvents", window, "nextForwardToken").await;
    assert_eq!(found, ["s1"]);
}

#[tokio::test]
async fn filters_of_streams_merge_them_in_the_order_of_time() {
    let world = World::new().await;
    for stream in ["a", "b", "c"] {
        world.stream(stream).await;
    }
    world.put("a", &[0, 3, 3, 7]).await;
    world.put("b", &[1, 3, 5]).await;
    world.put("c", &[2, 4]).await;
    let all = ["a0", "b1", "c2", "a3", "a3", "b3", "c4", "b5", "a7"];
    for (more, expected) in [
        (json!({}), all.to_vec()),
        (
            json!({"logStreamNames": ["a", "b"]}),
            ["a0", "b1", "a3", "a3", "b3", "b5", "a7"].to_vec(),
        ),
        (json!({"logStreamNames": ["c", "c"]}), vec!["c2", "c4"]),
        (json!({"logStreamNamePrefix": "b"}), vec!["b1", "b3", "b5"]),
        (json!({"logStreamNamePrefix": "d"}), vec![]),
        (json!({"filterPattern": "3"}), vec!["a3", "a3", "b3"]),
    ] {
        for limit in [1, 2, 100] {
            let mut found = Vec::new();
            let mut request = more.clone();
            request["limit"] = json!(limit);
            loop {
                let (page, token) = world.filter(request.clone()).await;
                assert!(page.len() <= limit);
                found.extend(page);
                let Some(token) = token else { break };
                request["nextToken"] = json!(token);
            }
            assert_eq!(found, expected, "{more} {limit}");
        }
    }
    let unknown = json!({"logGroupName": "g", "logStreamNames": ["a", "x"]});
    assert_eq!(world.refused("FilterLogEvents", unknown).await, "ResourceNotFoundException");
    let long = json!({"logGroupName": "g", "filterPattern": "x ".repeat(600)});
    assert_eq!(world.refused("FilterLogEvents", long).await, "InvalidParameterException");
}

/// More streams than are read side by side.
#[tokio::test]
async fn filters_of_many_streams() {
    let world = World::new().await;
    for number in 0..110 {
        let stream = format!("p{number:03}");
        world.stream(&stream).await;
        world.put(&stream, &[110 - number]).await;
    }
    world.stream("q").await;
    world.put("q", &[50]).await;
    let (found, token) = world.filter(json!({"logStreamNamePrefix": "p"})).await;
    assert_eq!((found.len(), token), (110, None));
    assert_eq!((found[0].as_str(), found[109].as_str()), ("p1091", "p000110"));
}

#[tokio::test]
async fn tokens_of_an_empty_page_lose_nothing() {
    let world = World::new().await;
    world.stream("s").await;
    world.put("s", &[0, 0, 1]).await;
    let get = async |more: Value| {
        let mut request = json!({"logGroupName": "g", "logStreamName": "s"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = world.ok("GetLogEvents", request).await;
        let events = answer["events"].as_array().unwrap();
        let messages: Vec<_> =
            events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
        (messages, answer["nextForwardToken"].clone(), answer["nextBackwardToken"].clone())
    };
    let (all, forward, backward) = get(json!({"startFromHead": true})).await;
    assert_eq!(all, ["s0", "s0", "s1"]);
    let (none, before, same) = get(json!({"nextToken": backward})).await;
    assert_eq!((none.len(), same), (0, backward));
    assert_eq!(get(json!({"nextToken": before})).await.0, all);
    let (none, same, back) = get(json!({"nextToken": forward})).await;
    assert_eq!((none.len(), same), (0, forward.clone()));
    assert_eq!(get(json!({"nextToken": back})).await.0, all);
    world.put("s", &[2]).await;
    assert_eq!(get(json!({"nextToken": forward})).await.0, ["s2"]);
}

#[tokio::test]
async fn what_is_deleted_takes_no_space() {
    let world = World::new().await;
    for stream in ["a", "b"] {
        world.stream(stream).await;
        world.put(stream, &[0, 1]).await;
    }
    assert_eq!(world.stored().await, json!(4 * 28));
    let delete = json!({"logGroupName": "g", "logStreamName": "a"});
    world.ok("DeleteLogStream", delete).await;
    assert_eq!(world.stored().await, json!(2 * 28));
    // At once, though its events may still be there, and for a new stream of the name, too.
    world.stream("a").await;
    assert_eq!(world.filter(json!({})).await.0, ["b0", "b1"]);
    world.put("a", &[5]).await;
    assert_eq!(world.filter(json!({})).await.0, ["b0", "b1", "a5"]);
    world.ok("DeleteLogGroup", json!({"logGroupName": "g"})).await;
    world.without_rows().await;
    world.ok("CreateLogGroup", json!({"logGroupName": "g"})).await;
    assert_eq!(world.stored().await, json!(0));
    assert_eq!(world.filter(json!({})).await.0, [""; 0]);
}

/// A process that was killed before it had deleted them.
#[tokio::test]
async fn what_is_doomed_is_swept() {
    let world = World::new().await;
    world.stream("a").await;
    world.put("a", &[0, 1]).await;
    let gone = world.logs.write(|database| {
        let write = database.begin_write().unwrap();
        write.open_table(store::GROUPS).unwrap().remove(("eu-west-1", "g")).unwrap();
        write.open_table(store::DOOMED).unwrap().insert((1, 0), ()).unwrap();
        write.commit().unwrap();
        Ok(())
    });
    gone.await.unwrap();
    world.logs.sweep(world.context.now).await.unwrap();
    assert_eq!(world.rows().await, [0, 0]);
}

#[tokio::test]
async fn expired_events_count_no_more() {
    let world = World::new().await;
    world.stream("a").await;
    world.put("a", &[0, 1]).await;
    world.put("a", &[60_000]).await;
    world.ok("PutRetentionPolicy", json!({"logGroupName": "g", "retentionInDays": 1})).await;
    world.logs.sweep(world.context.now).await.unwrap();
    assert_eq!(world.rows().await, [3, 3]);
    let later = world.context.now + SignedDuration::from_hours(24) + SignedDuration::from_secs(30);
    world.logs.sweep(later).await.unwrap();
    assert_eq!(world.rows().await, [1, 1]);
    assert_eq!(world.stored().await, json!(6 + 26 + 1 - 1));
    assert_eq!(world.filter(json!({})).await.0, ["a60000"]);
    let streams = world.ok("DescribeLogStreams", json!({"logGroupName": "g"})).await;
    assert_eq!(streams["logStreams"][0]["storedBytes"], world.stored().await);
}

#[tokio::test]
async fn streams_in_either_order_though_some_come_meanwhile() {
    let world = World::new().await;
    for (at, stream) in (1..).zip(["b", "d", "f"]) {
        world.stream(stream).await;
        world.put(stream, &[-at]).await;
    }
    for (order, descending, expected) in [
        ("LogStreamName", false, ["b", "d", "f"]),
        ("LogStreamName", true, ["f", "d", "b"]),
        ("LastEventTime", false, ["f", "d", "b"]),
        ("LastEventTime", true, ["b", "d", "f"]),
    ] {
        let mut found = Vec::new();
        let mut request =
            json!({"logGroupName": "g", "orderBy": order, "descending": descending, "limit": 1});
        loop {
            let page = world.ok("DescribeLogStreams", request.clone()).await;
            for stream in page["logStreams"].as_array().unwrap() {
                found.push(stream["logStreamName"].as_str().unwrap().to_owned());
            }
            // Before all, so not of any page.
            let name = if descending { "z" } else { "a" };
            let other = json!({"logGroupName": "g", "logStreamName": name});
            if order == "LogStreamName" && found.len() == 1 {
                world.ok("CreateLogStream", other).await;
            } else if order == "LogStreamName" && found.len() == 2 {
                world.ok("DeleteLogStream", other).await;
            }
            let Some(token) = page["nextToken"].as_str() else { break };
            request["nextToken"] = json!(token);
        }
        assert_eq!(found, expected, "{order} {descending}");
    }
}

#[tokio::test]
async fn what_groups_cannot_be_is_refused_and_not_forgotten() {
    let world = World::new().await;
    for more in
        [json!({"deletionProtectionEnabled": true}), json!({"logGroupClass": "INFREQUENT_ACCESS"})]
    {
        let mut request = json!({"logGroupName": "h"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(world.refused("CreateLogGroup", request).await, "InvalidParameterException");
    }
    let fine = json!({"logGroupName": "h", "logGroupClass": "STANDARD", "deletionProtectionEnabled": false});
    world.ok("CreateLogGroup", fine).await;
    let arn = "arn:aws:logs:eu-west-1:000000000000:log-group:h:*";
    for (request, count) in [
        (json!({}), 2),
        (json!({"logGroupIdentifiers": ["h"]}), 1),
        (json!({"logGroupIdentifiers": [arn, "x"]}), 1),
        (json!({"logGroupClass": "STANDARD"}), 2),
        (json!({"logGroupClass": "DELIVERY"}), 0),
    ] {
        let found = world.ok("DescribeLogGroups", request.clone()).await;
        assert_eq!(found["logGroups"].as_array().unwrap().len(), count, "{request}");
    }
}

#[tokio::test]
async fn rejected_events_leave_no_trace() {
    let world = World::new().await;
    world.stream("s").await;
    world.put("s", &[-15 * events::DAY]).await;
    let streams = world.ok("DescribeLogStreams", json!({"logGroupName": "g"})).await;
    assert_eq!(streams["logStreams"][0].get("lastIngestionTime"), None);
    assert_eq!(world.rows().await, [0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_at_once_are_all_stored_and_answered_each() {
    let world = Arc::new(World::new().await);
    world.stream("s").await;
    let puts: Vec<_> = (0..200_i64)
        .map(|number| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let stream = if number % 10 == 0 { "missing" } else { "s" };
                let event = json!({"timestamp": NOW, "message": number.to_string()});
                let request =
                    json!({"logGroupName": "g", "logStreamName": stream, "logEvents": [event]});
                world.call("PutLogEvents", request).await.map_err(|error| error.name)
            })
        })
        .collect();
    let mut missing = 0;
    for put in puts {
        match put.await.unwrap() {
            Ok(_) => {}
            Err(name) => {
                assert_eq!(name, "ResourceNotFoundException");
                missing += 1;
            }
        }
    }
    assert_eq!(missing, 20);
    assert_eq!(world.filter(json!({})).await.0.len(), 180);
}

#[tokio::test]
async fn a_file_of_another_version_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let mark = world.logs.write(|database| {
        let write = database.begin_write().unwrap();
        write.open_table(store::MARKS).unwrap().insert("schema", 2).unwrap();
        write.commit().unwrap();
        Ok(())
    });
    mark.await.unwrap();
    let World { logs, directory, .. } = world;
    drop(logs);
    let path = directory.path().join("logs.redb");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = Logs::open(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("they have the schema 2"), "{refused}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
