use super::*;

#[tokio::test]
async fn a_clusters_life() {
    let api = Api::new().await;
    let created = api
        .ok(
            "CreateCluster",
            json!({"clusterName": "blue", "tags": [{"key": "a", "value": "b"}],
                   "settings": [{"name": "containerInsights", "value": "enabled"}]}),
        )
        .await;
    assert_eq!(created["cluster"]["clusterArn"], format!("{ARN}cluster/blue"));
    assert_eq!(created["cluster"]["status"], "ACTIVE");
    let again = api.ok("CreateCluster", json!({"clusterName": "blue"})).await;
    assert_eq!(again, created);

    let described = api
        .ok(
            "DescribeClusters",
            json!({"clusters": ["blue", "red", format!("{ARN}cluster/blue"),
                                "arn:aws:ecs:us-east-1:000000000000:cluster/blue"]}),
        )
        .await;
    assert_eq!(described["clusters"].as_array().unwrap().len(), 2);
    for member in
        ["statistics", "tags", "settings", "capacityProviders", "defaultCapacityProviderStrategy"]
    {
        assert_eq!(described["clusters"][0][member], json!([]), "{member}");
    }
    assert_eq!(
        described["failures"],
        json!([
            {"arn": format!("{ARN}cluster/red"), "reason": "MISSING"},
            {"arn": "arn:aws:ecs:us-east-1:000000000000:cluster/blue", "reason": "MISSING"},
        ])
    );
    let whole = api
        .ok(
            "DescribeClusters",
            json!({"clusters": ["blue"], "include": ["STATISTICS", "TAGS", "SETTINGS"]}),
        )
        .await;
    assert_eq!(whole["clusters"][0]["settings"][0]["value"], "enabled");
    assert_eq!(whole["clusters"][0]["tags"], json!([{"key": "a", "value": "b"}]));
    assert!(names(&whole["clusters"][0]["statistics"]).contains(&"runningEC2TasksCount"));

    let deleted = api.ok("DeleteCluster", json!({"cluster": "blue"})).await;
    assert_eq!(deleted["cluster"]["status"], "INACTIVE");
    assert_eq!(api.ok("ListClusters", json!({})).await["clusterArns"], json!([]));
    let (name, message) = api.refused("DeleteCluster", json!({"cluster": "blue"})).await;
    assert_eq!(
        (name.as_str(), message.as_str()),
        ("ClusterNotFoundException", "Cluster not found.")
    );
    let inactive = api.ok("DescribeClusters", json!({"clusters": ["blue"]})).await;
    assert_eq!(inactive["clusters"][0]["status"], "INACTIVE");
    let revived = api.ok("CreateCluster", json!({"clusterName": "blue"})).await;
    assert_eq!(revived["cluster"]["status"], "ACTIVE");
    assert_eq!(revived["cluster"]["tags"], json!([]));
}

#[tokio::test]
async fn nothing_comes_to_be_in_a_cluster_that_is_being_deleted() {
    let api = Api::with_cluster().await;
    let body = serde_json::to_vec(&registration()).unwrap();
    let (joined, deleted) = tokio::join!(
        ecs(&api.cx, "RegisterContainerInstance", &body),
        ecs(&api.cx, "DeleteCluster", br#"{"cluster": "default"}"#),
    );
    assert!(joined.is_ok() != deleted.is_ok(), "{joined:?} {deleted:?}");
    let described = api.ok("DescribeClusters", json!({})).await;
    let (status, count) = (
        &described["clusters"][0]["status"],
        &described["clusters"][0]["registeredContainerInstancesCount"],
    );
    assert!(*status == "ACTIVE" && *count == 1 || *status == "INACTIVE" && *count == 0);
}

#[tokio::test]
async fn clusters_are_paged() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.ok("CreateCluster", json!({"clusterName": name})).await;
    }
    let first = api.ok("ListClusters", json!({"maxResults": 2})).await;
    assert_eq!(first["clusterArns"], json!([format!("{ARN}cluster/a"), format!("{ARN}cluster/b")]));
    let rest = json!({"maxResults": 2, "nextToken": first["nextToken"]});
    let rest = api.ok("ListClusters", rest).await;
    assert_eq!(rest, json!({"clusterArns": [format!("{ARN}cluster/c")]}));
}

#[tokio::test]
async fn what_clusters_refuse() {
    let api = Api::with_cluster().await;
    for (operation, request, name) in [
        ("CreateCluster", json!({"clusterName": "a b"}), "InvalidParameterException"),
        ("CreateCluster", json!({"settings": [{"name": "x"}]}), "InvalidParameterException"),
        (
            "CreateCluster",
            json!({"configuration": {"executeCommandConfiguration": {"logging": "NONE"}}}),
            "UnsupportedFeatureException",
        ),
        (
            "UpdateCluster",
            json!({"cluster": "default", "serviceConnectDefaults": {"namespace": "n"}}),
            "UnsupportedFeatureException",
        ),
        ("CreateCluster", json!({"capacityProviders": ["mine"]}), "InvalidParameterException"),
        (
            "PutClusterCapacityProviders",
            json!({"cluster": "default", "capacityProviders": [],
                   "defaultCapacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1}]}),
            "InvalidParameterException",
        ),
        ("CreateCluster", json!({"tags": [{"key": "aws:x"}]}), "InvalidParameterException"),
        ("DescribeClusters", json!({"include": ["X"]}), "InvalidParameterException"),
        (
            "UpdateClusterSettings",
            json!({"cluster": "x", "settings": [
            {"name": "containerInsights", "value": "enabled"}]}),
            "ClusterNotFoundException",
        ),
        ("CreateCluster", json!({"clusterName": 1}), "SerializationException"),
        ("NoSuchThing", json!({}), "UnknownOperationException"),
    ] {
        assert_eq!(api.refused(operation, request.clone()).await.0, name, "{operation} {request}");
    }
    let strategy = json!([{"capacityProvider": "FARGATE", "weight": 1, "base": 2}]);
    let put = api
        .ok(
            "PutClusterCapacityProviders",
            json!({"cluster": "default", "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
                   "defaultCapacityProviderStrategy": strategy}),
        )
        .await;
    assert_eq!(put["cluster"]["defaultCapacityProviderStrategy"], strategy);
}
