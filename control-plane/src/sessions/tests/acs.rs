//! Delivery, the session's life, and hostile frames.

use super::*;

#[tokio::test]
async fn a_task_is_told_until_it_is_acknowledged_and_then_stopped() {
    let world = world(QUIET).await;
    let (mut agent, manifest) = world.connect().await;
    assert_eq!(manifest["tasks"], json!([]));
    let task = world.place("web", |_| {}).await;
    let payload = agent.expect("PayloadMessage").await;
    assert_eq!(payload["clusterArn"], "arn:aws:ecs:local:000000000000:cluster/default");
    assert_eq!(payload["containerInstanceArn"], json!(instance_arn()));
    assert!(payload["seqNum"].as_i64() > manifest["timeline"].as_i64());
    let told = &payload["tasks"][0];
    assert_eq!(told["arn"], json!(task.arn(ACCOUNT)));
    assert_eq!((&told["family"], &told["version"]), (&json!("web"), &json!("1")));
    assert_eq!((&told["desiredStatus"], &told["launchType"]), (&json!("RUNNING"), &json!("EC2")));
    let container = &told["containers"][0];
    assert_eq!((&container["name"], &container["memory"]), (&json!("app"), &json!(64)));
    let arn = container["containerArn"].as_str().unwrap();
    assert_eq!(arn.rsplit('/').next(), Some(task.containers[0].id.as_str()));
    assert_eq!(world.task(&task).delivered, None);
    agent.ack(&payload).await;
    poll("delivered", || (world.task(&task).delivered == Some(Desired::Running)).then_some(()))
        .await;
    let now = Timestamp::now();
    world.change_task(&task, |task| task.stop(StopCode::UserInitiated, String::new(), now)).await;
    let payload = agent.expect("PayloadMessage").await;
    assert_eq!(payload["tasks"][0]["desiredStatus"], "STOPPED");
    agent.ack(&payload).await;
    poll("delivered", || (world.task(&task).delivered == Some(Desired::Stopped)).then_some(()))
        .await;
    // All is told: a task that ends changes nothing for the agent.
    world.change_task(&task, |task| task.end(now)).await;
    agent.lives().await;
}

#[tokio::test]
async fn sessions_end_with_the_key_that_opened_them() {
    let world = world(QUIET).await;
    let (mut acs, _) = world.connect().await;
    let path = format!("/tcs/ws?cluster=default&containerInstance={}", instance_arn());
    let mut tcs = world.connect_to(&path).await.unwrap();
    tcs.expect("HeartbeatMessage").await;
    // Of a task, whose end means nothing to sessions.
    let minted = AccessKey { id: "ASIAX".to_owned(), ..world.key() };
    change(&world.state, |edit, _| edit.put(&minted)).await;
    change(&world.state, |edit, view| edit.delete(view.keys.get(&minted.key()).unwrap())).await;
    acs.lives().await;
    let key = world.key();
    change(&world.state, |edit, view| edit.delete(view.keys.get(&key.key()).unwrap())).await;
    acs.closed().await;
    tcs.closed().await;
    poll("disconnected", || world.session().is_none().then_some(())).await;
}

#[tokio::test]
async fn what_is_to_stop_comes_first_and_payloads_are_bounded() {
    let world = world(QUIET).await;
    let now = Timestamp::now();
    for _ in 0..15 {
        world.place("web", |_| {}).await;
    }
    let stopping = world
        .place("web", |task| {
            task.delivered = Some(Desired::Running);
            task.stop(StopCode::UserInitiated, String::new(), now);
        })
        .await;
    let ended = world.place("web", |task| task.end(now)).await;
    let (mut agent, manifest) = world.connect().await;
    assert_eq!(manifest["tasks"].as_array().map(Vec::len), Some(16));
    let (first, second) =
        (agent.expect("PayloadMessage").await, agent.expect("PayloadMessage").await);
    let (first, second) = (arns(&first["tasks"]), arns(&second["tasks"]));
    assert_eq!((first.len(), second.len()), (10, 6));
    assert_eq!(first[0], stopping.arn(ACCOUNT));
    assert!(![first, second].concat().contains(&ended.arn(ACCOUNT)));
}

#[tokio::test]
async fn an_acknowledgment_of_what_has_changed_meanwhile_counts_for_nothing() {
    let world = world(QUIET).await;
    let (mut agent, _) = world.connect().await;
    let task = world.place("web", |_| {}).await;
    let starting = agent.expect("PayloadMessage").await;
    let now = Timestamp::now();
    world.change_task(&task, |task| task.stop(StopCode::UserInitiated, String::new(), now)).await;
    let stopping = agent.expect("PayloadMessage").await;
    agent.ack(&starting).await;
    agent.lives().await;
    assert_eq!(world.task(&task).delivered, None);
    agent.ack(&stopping).await;
    poll("delivered", || (world.task(&task).delivered == Some(Desired::Stopped)).then_some(()))
        .await;
}

#[tokio::test]
async fn what_is_not_acknowledged_is_sent_again_with_its_id() {
    let resend = Duration::from_millis(100);
    let world = world(Timing { resend, ..QUIET }).await;
    let first = world.place("web", |_| {}).await;
    let second = world.place("web", |_| {}).await;
    let (mut agent, _) = world.connect().await;
    let payload = agent.expect("PayloadMessage").await;
    let again = agent.expect("PayloadMessage").await;
    assert_eq!(again["messageId"], payload["messageId"]);
    assert_eq!(arns(&again["tasks"]).len(), 2);
    // One that has ended is left out, so that the other can be acknowledged.
    let now = Timestamp::now();
    world.change_task(&first, |task| task.end(now)).await;
    loop {
        let again = agent.expect("PayloadMessage").await;
        assert_eq!(again["messageId"], payload["messageId"]);
        if arns(&again["tasks"]) == [second.arn(ACCOUNT)] {
            agent.ack(&again).await;
            break;
        }
    }
    poll("delivered", || (world.task(&second).delivered == Some(Desired::Running)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_new_session_tells_what_the_last_one_could_not() {
    let world = world(QUIET).await;
    let (mut agent, first) = world.connect().await;
    let task = world.place("web", |_| {}).await;
    agent.expect("PayloadMessage").await;
    drop(agent);
    poll("disconnected", || world.session().is_none().then_some(())).await;
    let (mut agent, second) = world.connect().await;
    assert!(second["timeline"].as_i64() > first["timeline"].as_i64());
    assert_eq!(arns(&second["tasks"]), [task.arn(ACCOUNT)]);
    let payload = agent.expect("PayloadMessage").await;
    assert_eq!(arns(&payload["tasks"]), [task.arn(ACCOUNT)]);
}

#[tokio::test]
async fn a_newer_session_replaces_the_older() {
    let world = world(QUIET).await;
    let (mut old, _) = world.connect().await;
    let first = world.session().unwrap();
    let (mut new, _) = world.connect().await;
    let second = world.session().unwrap();
    assert_ne!(first, second);
    old.expect("CloseMessage").await;
    old.closed().await;
    new.lives().await;
    assert_eq!(world.session(), Some(second));
    new.socket.close(None).await.unwrap();
    poll("disconnected", || world.session().is_none().then_some(())).await;
}

#[tokio::test]
async fn a_session_comes_back_when_its_lease_was_lost() {
    let world = world(QUIET).await;
    let (mut agent, _) = world.connect().await;
    let lease = world.state.sessions().lease(&world.state).await.unwrap();
    world.state.store().revoke(lease).await.unwrap();
    poll("connected again", || world.session()).await;
    agent.lives().await;
}

#[tokio::test]
async fn a_deregistered_instance_is_sent_away() {
    let world = world(QUIET).await;
    let (mut agent, _) = world.connect().await;
    world.deregister().await;
    agent.expect("InactiveInstanceException").await;
    agent.closed().await;
    poll("disconnected", || world.session().is_none().then_some(())).await;
}

#[tokio::test]
async fn who_gets_no_session() {
    let world = world(QUIET).await;
    let other = Instance::arn_of(REGION, ACCOUNT, "default", "00000000000000000000000000000009");
    let arn = instance_arn();
    let foreign = arn.replace(REGION, "mars");
    let long = format!("arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/default");
    let refused = [
        ("", "", "InvalidInstanceException"),
        ("default", "", "InvalidInstanceException"),
        ("default", "nonsense", "InvalidInstanceException"),
        ("default", other.as_str(), "InvalidInstanceException"),
        ("default", foreign.as_str(), "InvalidInstanceException"),
        ("default", "../../key/x", "InvalidInstanceException"),
        ("other", arn.as_str(), "InvalidInstanceException"),
        ("other", INSTANCE, "InvalidClusterException"),
        ("arn:aws:ecs:mars:000000000000:cluster/default", INSTANCE, "InvalidClusterException"),
        ("a/b", arn.as_str(), "InvalidClusterException"),
    ];
    let refusal = async |cluster: &str, instance: &str, path: &str| {
        let path = format!("/{path}/ws?clusterArn={cluster}&containerInstanceArn={instance}");
        match world.connect_to(&path).await {
            Ok(_) => None,
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!(response.status(), 400);
                let body: Value =
                    serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
                let members = body.as_object().unwrap();
                assert_eq!(members.len(), 1);
                members.keys().next().cloned()
            }
            Err(error) => panic!("{error}"),
        }
    };
    for (cluster, instance, kind) in refused {
        for path in ["acs", "tcs"] {
            let found = refusal(cluster, instance, path).await;
            assert_eq!(found.as_deref(), Some(kind), "{cluster} {instance}");
        }
    }
    for (cluster, instance) in
        [("default", arn.as_str()), ("", arn.as_str()), (long.as_str(), INSTANCE), ("", INSTANCE)]
    {
        assert_eq!(refusal(cluster, instance, "acs").await, None, "{cluster} {instance}");
    }
    world.deregister().await;
    let found = refusal("default", &arn, "acs").await;
    assert_eq!(found.as_deref(), Some("InactiveInstanceException"));
}

#[tokio::test]
async fn tasks_that_are_not_to_run_are_stopped_when_the_agent_asks() {
    let world = world(QUIET).await;
    let now = Timestamp::now();
    let acknowledged = |task: &mut Task| task.delivered = Some(task.desired);
    let running = world.place("web", acknowledged).await;
    let ended = world
        .place("web", |task| {
            task.stop(StopCode::InfrastructureHealth, String::new(), now);
            task.end(now);
        })
        .await;
    let elsewhere = world.place("web", |task| task.instance = "0".repeat(32)).await;
    let (mut agent, manifest) = world.connect().await;
    assert_eq!(arns(&manifest["tasks"]), [running.arn(ACCOUNT)]);
    let unknown = running.arn(ACCOUNT).replace(&running.id, &"f".repeat(32));
    let candidates = [
        running.arn(ACCOUNT),
        ended.arn(ACCOUNT),
        elsewhere.arn(ACCOUNT),
        unknown.clone(),
        "nonsense".to_owned(),
    ];
    let candidates: Vec<_> =
        candidates.iter().map(|arn| json!({"taskArn": arn, "desiredStatus": "STOPPED"})).collect();
    let question = json!({"messageId": manifest["messageId"], "stopCandidates": candidates});
    agent.send("TaskStopVerificationMessage", question).await;
    let answer = agent.expect("TaskStopVerificationAck").await;
    assert_eq!(answer["messageId"], manifest["messageId"]);
    let stopped = arns(&answer["stopTasks"]);
    let expected = [ended.arn(ACCOUNT), elsewhere.arn(ACCOUNT), unknown, "nonsense".to_owned()];
    assert_eq!(stopped, expected);
    // A task that is given up while the session lasts makes a new manifest.
    let now = Timestamp::now();
    world
        .change_task(&running, |task| {
            task.stop(StopCode::InfrastructureHealth, String::new(), now);
            task.end(now);
        })
        .await;
    let next = agent.expect("TaskManifestMessage").await;
    assert_eq!(next["tasks"], json!([]));
    assert!(next["timeline"].as_i64() > manifest["timeline"].as_i64());
}

#[tokio::test]
async fn an_agent_that_answers_no_heartbeat_is_gone() {
    let patience = Duration::from_millis(300);
    let world = world(Timing { heartbeat: Duration::from_millis(50), patience, ..QUIET }).await;
    let (mut agent, _) = world.connect().await;
    let mut last = Value::Null;
    for _ in 0..8 {
        let beat = agent.expect("HeartbeatMessage").await;
        assert_ne!(beat["messageId"], last["messageId"]);
        agent.send("HeartbeatAckRequest", json!({"messageId": beat["messageId"]})).await;
        last = beat;
    }
    assert!(world.session().is_some());
    while agent.receive().await.is_some() {}
    poll("disconnected", || world.session().is_none().then_some(())).await;
}

#[tokio::test]
async fn an_agent_of_version_1_need_not_answer() {
    let patience = Duration::from_millis(1);
    let world = world(Timing { heartbeat: Duration::from_millis(20), patience, ..QUIET }).await;
    let path = format!("/acs/ws?containerInstanceArn={}&protocolVersion=1", instance_arn());
    let mut agent = world.connect_to(&path).await.unwrap();
    agent.expect("TaskManifestMessage").await;
    for _ in 0..8 {
        agent.expect("HeartbeatMessage").await;
    }
    assert!(world.session().is_some());
}

#[tokio::test]
async fn malformed_frames_are_dropped() {
    let world = world(QUIET).await;
    let task = world.place("web", |_| {}).await;
    let (mut agent, _) = world.connect().await;
    let payload = agent.expect("PayloadMessage").await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for frame in [
        "",
        " ",
        "nonsense",
        "{",
        "[]",
        "null",
        "{}",
        "7",
        r#"{"type":5}"#,
        r#"{"type":null,"message":{}}"#,
        r#"{"type":"AckRequest","type":"AckRequest","message":{}}"#,
        r#"{"type":"AckRequest"}"#,
        r#"{"type":"AckRequest","message":null}"#,
        r#"{"type":"AckRequest","message":[]}"#,
        r#"{"type":"AckRequest","message":{"messageId":7}}"#,
        r#"{"type":"AckRequest","message":{"messageId":""}}"#,
        r#"{"type":"AckRequest","message":{"messageId":"unknown"}}"#,
        r#"{"type":"NackRequest","message":{"messageId":"unknown","reason":"\u001b[2J"}}"#,
        r#"{"type":"HeartbeatAckRequest","message":{"messageId":"unknown"}}"#,
        r#"{"type":"IAMRoleCredentialsAckRequest","message":{"credentialsId":"unknown"}}"#,
        r#"{"type":"TaskStopVerificationMessage","message":{"stopCandidates":{}}}"#,
        r#"{"type":"PayloadMessage","message":{"messageId":"mine"}}"#,
        r#"{"type":"HeartbeatMessage","message":{}}"#,
        r#"{"type":"\u0000\u001b[31m","message":{}}"#,
        r#"{"type":"AckRequest","message":{"messageId":"\ud800"}}"#,
        &deep,
        &format!(r#"{{"type":"{}"}}"#, "x".repeat(100_000)),
    ] {
        agent.send_text(frame).await;
    }
    agent.socket.send(Message::binary(vec![0, 159, 146, 150])).await.unwrap();
    agent.socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    agent.lives().await;
    assert_eq!(world.task(&task).delivered, None);
    agent.ack(&payload).await;
    poll("delivered", || (world.task(&task).delivered == Some(Desired::Running)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_the_session() {
    let world = world(QUIET).await;
    let (mut agent, _) = world.connect().await;
    // The other end may close before all is sent.
    drop(agent.socket.send(Message::text("x".repeat(MAX_FRAME + 1))).await);
    while agent.receive().await.is_some() {}
    poll("disconnected", || world.session().is_none().then_some(())).await;
    world.connect().await;
}

#[tokio::test]
async fn a_task_that_cannot_be_told_ends_with_the_reason_and_costs_no_other() {
    let world = world(QUIET).await;
    let (mut agent, _) = world.connect().await;
    let awsvpc = world.place("own", |_| {}).await;
    let gone = world.place("web", |task| task.definition.revision = 9).await;
    let large = world
        .place("web", |task| {
            let long = Some(vec!["x".repeat(MAX_FRAME)]);
            task.overrides.container_overrides = Some(vec![ecs::ContainerOverride {
                name: Some("app".to_owned()),
                command: long,
                ..ecs::ContainerOverride::default()
            }]);
        })
        .await;
    let good = world.place("web", |_| {}).await;
    for (task, reason) in [
        (&awsvpc, "lighter.capability.task-network"),
        (&gone, "web:9 does not exist any more"),
        (&large, "make its definition or its overrides smaller"),
    ] {
        let ended = poll(reason, || Some(world.task(task)).filter(|task| !task.is_live())).await;
        assert_eq!(ended.stop_code, Some(StopCode::TaskFailedToStart));
        let text = ended.stopped_reason.unwrap();
        assert!(text.contains(reason), "{text}");
    }
    let payload = agent.expect("PayloadMessage").await;
    assert_eq!(arns(&payload["tasks"]), [good.arn(ACCOUNT)]);
    // An agent that gives addresses itself gets awsvpc tasks.
    change(&world.state, |edit, view| {
        let before = view.instances.get(&instance_key()).unwrap();
        let mut instance = before.value.clone();
        instance.attributes.insert(ecs::TASK_NETWORK.to_owned(), None);
        edit.update(before, &instance);
    })
    .await;
    let awsvpc = world.place("own", |_| {}).await;
    let payload = agent.expect("PayloadMessage").await;
    assert_eq!(arns(&payload["tasks"]), [awsvpc.arn(ACCOUNT)]);
    assert_eq!(payload["tasks"][0]["networkMode"], "awsvpc");
}

#[tokio::test]
async fn a_payload_that_would_be_too_large_becomes_several() {
    let world = world(QUIET).await;
    for _ in 0..5 {
        world
            .place("web", |task| {
                task.overrides.container_overrides = Some(vec![ecs::ContainerOverride {
                    name: Some("app".to_owned()),
                    command: Some(vec!["x".repeat(400_000)]),
                    ..ecs::ContainerOverride::default()
                }]);
            })
            .await;
    }
    let (mut agent, _) = world.connect().await;
    let mut told = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    while told.len() < 5 {
        let payload = agent.expect("PayloadMessage").await;
        assert!(payload.to_string().len() <= MAX_FRAME);
        assert!(ids.insert(payload["messageId"].to_string()));
        told.extend(arns(&payload["tasks"]));
        agent.ack(&payload).await;
    }
    poll("all delivered", || {
        let view = world.state.view();
        view.tasks_on(&instance_key()).all(|task| task.delivered.is_some()).then_some(())
    })
    .await;
}
