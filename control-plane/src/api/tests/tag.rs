use super::*;

#[tokio::test]
async fn everything_with_an_arn_is_tagged() {
    let api = Api::with_cluster().await;
    let definition = api.register_definition(json!({})).await;
    let instance = api.register_instance(json!({})).await;
    api.connect(&instance).await;
    let task = api.run_task().await;
    for arn in [
        json!(format!("{ARN}cluster/default")),
        definition["taskDefinitionArn"].clone(),
        instance["containerInstanceArn"].clone(),
        task["taskArn"].clone(),
    ] {
        let tags = |tags: Value| json!({"resourceArn": arn, "tags": tags});
        let list = || api.ok("ListTagsForResource", json!({"resourceArn": arn}));
        assert_eq!(list().await["tags"], json!([]), "{arn}");
        let two = json!([{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]);
        api.ok("TagResource", tags(two)).await;
        api.ok("TagResource", tags(json!([{"key": "a", "value": "3"}]))).await;
        api.ok("UntagResource", json!({"resourceArn": arn, "tagKeys": ["b", "c"]})).await;
        assert_eq!(list().await["tags"], json!([{"key": "a", "value": "3"}]), "{arn}");
        let many: Vec<_> = (0..50).map(|n| json!({"key": format!("k{n}")})).collect();
        let refused = api.refused("TagResource", tags(json!(many))).await;
        assert_eq!(refused.0, "InvalidParameterException");
    }
    for (arn, name) in [
        ("nonsense".to_owned(), "InvalidParameterException"),
        (format!("{ARN}cluster/none"), "ClusterNotFoundException"),
        (format!("{ARN}task/default/{}", "0".repeat(32)), "ResourceNotFoundException"),
        (format!("{ARN}service/default/none"), "ResourceNotFoundException"),
        (format!("{ARN}capacity-provider/x"), "InvalidParameterException"),
        ("arn:aws:ecs:us-east-1:0:cluster/default".to_owned(), "InvalidParameterException"),
    ] {
        let request = json!({"resourceArn": arn});
        assert_eq!(api.refused("ListTagsForResource", request).await.0, name, "{arn}");
    }
}

#[tokio::test]
async fn tags_of_ecs_stay_and_do_not_count() {
    let api = Api::with_cluster().await;
    api.register_definition(json!({})).await;
    let instance = api.register_instance(json!({})).await;
    api.connect(&instance).await;
    let run = json!({"taskDefinition": "web", "enableECSManagedTags": true});
    let arn = api.ok("RunTask", run).await["tasks"][0]["taskArn"].clone();
    let many: Vec<_> = (0..50).map(|n| json!({"key": format!("k{n}")})).collect();
    api.ok("TagResource", json!({"resourceArn": arn, "tags": many})).await;
    let untag = json!({"resourceArn": arn, "tagKeys": ["aws:ecs:clusterName"]});
    assert_eq!(api.refused("UntagResource", untag).await.0, "InvalidParameterException");
    let tags = api.ok("ListTagsForResource", json!({"resourceArn": arn})).await;
    assert_eq!(tags["tags"][0], json!({"key": "aws:ecs:clusterName", "value": "default"}));
}

#[tokio::test]
async fn settings_are_what_is_true() {
    let api = Api::new().await;
    let listed = api
        .ok("ListAccountSettings", json!({"name": "taskLongArnFormat", "effectiveSettings": true}))
        .await;
    assert_eq!(listed["settings"][0]["value"], "enabled");
    let same = json!({"name": "taskLongArnFormat", "value": "enabled"});
    api.ok("PutAccountSettingDefault", same.clone()).await;
    assert_eq!(api.ok("PutAccountSetting", same).await["setting"]["name"], "taskLongArnFormat");
    for (name, value) in
        [("taskLongArnFormat", "disabled"), ("awsvpcTrunking", "enabled"), ("x", "y")]
    {
        let other = json!({"name": name, "value": value});
        assert_eq!(api.refused("PutAccountSetting", other).await.0, "InvalidParameterException");
    }
}
