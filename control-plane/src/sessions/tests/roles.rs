//! Credentials of roles.

use super::*;
use crate::sessions::credentials::{self, Kind};

async fn with_role(timing: Timing) -> (World, Task) {
    let world = world(timing).await;
    let role = Role {
        name: "reader".to_owned(),
        allow: vec!["logs:Get*".to_owned()],
        created_at: Timestamp::now(),
    };
    change(&world.state, |edit, _| edit.put(&role)).await;
    let task = world
        .place("web", |task| {
            task.task_role_arn = Some("arn:aws:iam::000000000000:role/app/reader".to_owned());
            task.execution_role_arn = Some("reader".to_owned());
        })
        .await;
    (world, task)
}

/// Beside the agent's.
fn keys(world: &World) -> Vec<AccessKey> {
    let view = world.state.view();
    view.keys.iter().filter(|key| key.id != KEY).map(|key| key.value.clone()).collect()
}

async fn confirm(agent: &mut Agent, message_id: &Value, set: &Value) {
    let ack = json!({
        "messageId": message_id,
        "credentialsId": set["credentialsId"],
        "expiration": set["expiration"],
    });
    agent.send("IAMRoleCredentialsAckRequest", ack).await;
}

#[tokio::test]
async fn a_payload_carries_credentials_that_are_stored_and_the_next_session_has_the_same() {
    let (world, task) = with_role(QUIET).await;
    let (mut agent, _) = world.connect().await;
    let payload = agent.expect("PayloadMessage").await;
    let (application, execution) = (
        payload["tasks"][0]["roleCredentials"].clone(),
        payload["tasks"][0]["executionRoleCredentials"].clone(),
    );
    assert_eq!(application["roleArn"], "arn:aws:iam::000000000000:role/app/reader");
    assert_eq!(execution["roleArn"], "arn:aws:iam::000000000000:role/reader");
    let stored = keys(&world);
    assert_eq!(stored.len(), 2);
    for (set, kind) in [(&application, Kind::Application), (&execution, Kind::Execution)] {
        let key = stored.iter().find(|key| set["accessKeyId"] == json!(key.id)).unwrap();
        assert!(key.id.starts_with("ASIA") && key.id.len() == 20, "{}", key.id);
        assert_eq!(set["secretAccessKey"], json!(key.secret));
        assert_eq!(set["sessionToken"], json!(key.session_token));
        assert_eq!(key.secret.len(), 40);
        let principal = format!("arn:aws:sts::{ACCOUNT}:assumed-role/reader/{}", task.id);
        assert_eq!(key.principal, principal);
        assert_eq!(
            (&key.allow[..], key.description.as_deref()),
            (&["logs:Get*".to_owned()][..], Some(kind.name()))
        );
        let end: Timestamp = set["expiration"].as_str().unwrap().parse().unwrap();
        let left = end.duration_since(Timestamp::now()).as_secs();
        assert!((6 * 3600 - 60..=6 * 3600).contains(&left), "{left}");
        assert_eq!(end.as_millisecond() % 1000, 0);
    }
    assert_ne!(application["credentialsId"], execution["credentialsId"]);
    assert_ne!(application["secretAccessKey"], execution["secretAccessKey"]);
    agent.ack(&payload).await;
    poll("delivered", || world.task(&task).delivered).await;
    drop(agent);
    poll("disconnected", || world.session().is_none().then_some(())).await;
    let (mut agent, _) = world.connect().await;
    for expected in [("TaskApplication", &application), ("TaskExecution", &execution)] {
        let message = agent.expect("IAMRoleCredentialsMessage").await;
        assert_eq!(message["taskArn"], json!(task.arn(ACCOUNT)));
        let found = (message["roleType"].as_str().unwrap(), &message["roleCredentials"]);
        assert_eq!(found, expected);
    }
    assert_eq!(keys(&world).len(), 2);
}

#[tokio::test]
async fn credentials_are_sent_until_confirmed_and_renewed_before_they_end() {
    let (world, task) =
        with_role(Timing { credentials: Duration::from_millis(100), ..QUIET }).await;
    world.change_task(&task, |task| task.execution_role_arn = None).await;
    let (mut agent, _) = world.connect().await;
    let payload = agent.expect("PayloadMessage").await;
    agent.ack(&payload).await;
    let first = payload["tasks"][0]["roleCredentials"].clone();
    // Without a confirmation they come again.
    let message = agent.expect("IAMRoleCredentialsMessage").await;
    assert_eq!(message["roleCredentials"], first);
    confirm(&mut agent, &message["messageId"], &first).await;
    agent.send("TaskStopVerificationMessage", json!({"messageId": "now"})).await;
    while agent.receive().await.unwrap().0 != "TaskStopVerificationAck" {}
    // Nothing more comes, until the set nears its end.
    let quiet = timeout(Duration::from_millis(350), agent.socket.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let age = async |left: jiff::SignedDuration| {
        change(&world.state, |edit, view| {
            let (now, task) = (Timestamp::now(), view.tasks.get(&task.key()).unwrap());
            let before = credentials::current(view, task, Kind::Application, now).unwrap();
            let mut key = before.value.clone();
            key.expires_at = Some(now + left);
            edit.update(before, &key);
        })
        .await;
    };
    age(jiff::SignedDuration::from_mins(119)).await;
    let message = agent.expect("IAMRoleCredentialsMessage").await;
    let second = message["roleCredentials"].clone();
    assert_ne!(second["credentialsId"], first["credentialsId"]);
    assert_ne!(second["secretAccessKey"], first["secretAccessKey"]);
    // The old set stays valid beside the new one; the one after takes its place.
    assert_eq!(keys(&world).len(), 2);
    confirm(&mut agent, &message["messageId"], &second).await;
    age(jiff::SignedDuration::from_mins(118)).await;
    // Now the second set ends first.
    loop {
        let message = agent.expect("IAMRoleCredentialsMessage").await;
        let third = &message["roleCredentials"];
        if third["credentialsId"] != second["credentialsId"] {
            assert_ne!(third["credentialsId"], first["credentialsId"]);
            break;
        }
    }
    assert_eq!(keys(&world).len(), 2);
    let now = Timestamp::now();
    credentials::sweep(&world.state).await.unwrap();
    assert_eq!(keys(&world).len(), 2);
    world.change_task(&task, |task| task.end(now)).await;
    credentials::sweep(&world.state).await.unwrap();
    assert!(keys(&world).is_empty());
}

#[tokio::test]
async fn keys_of_people_are_not_swept() {
    let world = world(QUIET).await;
    let key = fixtures::access_key("AKIAEXAMPLE");
    change(&world.state, |edit, _| edit.put(&key)).await;
    credentials::sweep(&world.state).await.unwrap();
    assert_eq!(keys(&world), [key]);
}

#[tokio::test]
async fn a_task_whose_role_is_gone_ends() {
    let world = world(QUIET).await;
    let task = world.place("web", |task| task.task_role_arn = Some("absent".to_owned())).await;
    let (_agent, _) = world.connect().await;
    let ended = poll("ended", || Some(world.task(&task)).filter(|task| !task.is_live())).await;
    let reason = ended.stopped_reason.unwrap();
    assert!(reason.starts_with("ECS was unable to assume the role 'absent'"), "{reason}");
    assert!(keys(&world).is_empty());
}
