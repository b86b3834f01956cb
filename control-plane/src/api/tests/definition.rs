use super::*;

#[tokio::test]
async fn a_definitions_life() {
    let api = Api::with_cluster().await;
    let first = api.register_definition(json!({"tags": [{"key": "a", "value": "b"}]})).await;
    assert_eq!(first["taskDefinitionArn"], format!("{ARN}task-definition/web:1"));
    assert_eq!(first["registeredAt"], 1_800_000_000);
    assert_eq!(first["registeredBy"], "arn:aws:iam::000000000000:user/test");
    assert_eq!(first.get("requiresCompatibilities"), None);
    assert_eq!(first.get("tags"), None);
    api.register_definition(json!({})).await;

    let newest = api.ok("DescribeTaskDefinition", json!({"taskDefinition": "web"})).await;
    assert_eq!(newest["taskDefinition"]["revision"], 2);
    assert_eq!(newest["tags"], json!([]));
    let with_tags = json!({"taskDefinition": "web:1", "include": ["TAGS"]});
    let with_tags = api.ok("DescribeTaskDefinition", with_tags).await;
    assert_eq!(with_tags["taskDefinition"], first);
    assert_eq!(with_tags["tags"], json!([{"key": "a", "value": "b"}]));

    let refused = |given: &str| {
        let request = json!({"taskDefinition": given});
        let api = &api;
        async move { api.refused("DescribeTaskDefinition", request).await }
    };
    for (given, message) in [
        ("web:3", "Unable to describe task definition."),
        ("nothing", "Unable to describe task definition."),
        ("web:x", "Invalid revision number. Number: x"),
        ("web:0", "Invalid revision number. Number: 0"),
    ] {
        assert_eq!(refused(given).await, ("ClientException".to_owned(), message.to_owned()));
    }

    let listed = api.ok("ListTaskDefinitions", json!({"sort": "DESC", "maxResults": 1})).await;
    assert_eq!(listed["taskDefinitionArns"], json!([format!("{ARN}task-definition/web:2")]));
    let listed = json!({"sort": "DESC", "nextToken": listed["nextToken"]});
    let listed = api.ok("ListTaskDefinitions", listed).await;
    assert_eq!(listed["taskDefinitionArns"], json!([format!("{ARN}task-definition/web:1")]));

    let missing = api.refused("DeregisterTaskDefinition", json!({"taskDefinition": "web"})).await;
    assert_eq!(missing, ("ClientException".to_owned(), "Revision is missing.".to_owned()));
    let gone = api.ok("DeregisterTaskDefinition", json!({"taskDefinition": "web:2"})).await;
    assert_eq!(gone["taskDefinition"]["status"], "INACTIVE");
    let newest = api.ok("DescribeTaskDefinition", json!({"taskDefinition": "web"})).await;
    assert_eq!(newest["taskDefinition"]["revision"], 1);

    let deleted = api
        .ok(
            "DeleteTaskDefinitions",
            json!({"taskDefinitions": ["web:1", "web:2", "web:2", "web", "web:9"]}),
        )
        .await;
    assert_eq!(deleted["taskDefinitions"].as_array().unwrap().len(), 2);
    assert_eq!(deleted["taskDefinitions"][0]["status"], "DELETE_IN_PROGRESS");
    let reasons: Vec<&str> = deleted["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["reason"].as_str().unwrap().split(". ").next().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "The specified task definition is still in ACTIVE status",
            "The specified task definition identifier is invalid",
            "The specified task definition does not exist",
        ]
    );
    // Nothing uses it, it can go; its number is never used again.
    let sweep = |view: &_, edit: &mut _| {
        let keep = jiff::SignedDuration::from_hours(1);
        Ok::<_, crate::state::Error>(crate::reconcile::sweep::sweep(
            view, edit, keep, 10, api.cx.now,
        ))
    };
    assert_eq!(api.cx.state.transact(sweep).await.unwrap(), 1);
    assert_eq!(refused("web:2").await.1, "Unable to describe task definition.");
    assert_eq!(api.register_definition(json!({})).await["revision"], 3);
    let families = api.ok("ListTaskDefinitionFamilies", json!({"familyPrefix": "w"})).await;
    assert_eq!(families["families"], json!(["web"]));
    let inactive = json!({"status": "INACTIVE"});
    let families = api.ok("ListTaskDefinitionFamilies", inactive).await;
    assert_eq!(families["families"], json!([]));
}

#[tokio::test]
async fn bad_definitions_are_refused_whole() {
    let api = Api::new().await;
    let (name, message) = api
        .refused(
            "RegisterTaskDefinition",
            json!({"family": "a b", "containerDefinitions": [{"name": "x", "memory": 1}]}),
        )
        .await;
    assert_eq!(name, "ClientException");
    assert_eq!(message.lines().count(), 3, "{message}");
    for (body, name) in [
        (r#"{"family": "a", "family": "b"}"#.to_owned(), "ClientException"),
        ("{".to_owned(), "SerializationException"),
        (format!("{}\"{}\"", " ".repeat(10), "x".repeat(70_000)), "ClientException"),
        (r#"{"taskDefinition": {"family": "a"}}"#.to_owned(), "ClientException"),
        ("[".repeat(10_000), "SerializationException"),
    ] {
        let refused = ecs(&api.cx, "RegisterTaskDefinition", body.as_bytes()).await;
        assert_eq!(refused.unwrap_err().name, name, "{}", &body[..20.min(body.len())]);
    }
    let (_, message) = api
        .refused(
            "RegisterTaskDefinition",
            json!({"family": "a", "placementConstraints": [
                        {"type": "memberOf", "expression": "attribute:x =="}],
                   "containerDefinitions": [{"name": "x", "image": "i", "memory": 8}]}),
        )
        .await;
    assert!(message.starts_with("Invalid placement constraint expression"), "{message}");
}
