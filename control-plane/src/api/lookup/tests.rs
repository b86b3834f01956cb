#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::api::tests::Api;

fn message<T: std::fmt::Debug>(refused: Result<T, ApiError>) -> (String, String) {
    let error = refused.unwrap_err();
    (error.name, error.message)
}

const HERE: &str = "arn:aws:ecs:eu-west-1:000000000000";

#[tokio::test]
async fn members_of_a_cluster() {
    let api = Api::new().await;
    let id = "0123456789abcdef0123456789abcdef";
    for given in [
        id.to_owned(),
        format!("{HERE}:task/{id}"),
        format!("{HERE}:task/blue/{id}"),
        format!("blue/{id}"),
    ] {
        assert_eq!(task_id(&api.cx, "blue", &given).unwrap(), id, "{given}");
    }
    for (given, text) in [
        (String::new(), "taskId length should be one of [32,36]".to_owned()),
        (
            "../../../../../../../../etc/passw".to_owned(),
            "Invalid identifier: Identifier is for \
          cluster ... Your cluster is blue"
                .to_owned(),
        ),
        ("z".repeat(32), "taskId contains invalid characters.".to_owned()),
        (format!("{HERE}:service/blue/{id}"), "Unsupported resource type: service".to_owned()),
        (
            format!("{HERE}:task/red/{id}"),
            "Invalid identifier: Identifier is for cluster red. Your cluster is blue".to_owned(),
        ),
        (
            format!("arn:aws:ecs:eu-west-1:1:task/blue/{id}"),
            "Invalid identifier: Identifier is for 1. Your accountId is 000000000000".to_owned(),
        ),
    ] {
        let refused = message(task_id(&api.cx, "blue", &given));
        assert_eq!(refused, ("InvalidParameterException".to_owned(), text), "{given}");
    }
    let service = format!("{HERE}:service/blue/web");
    assert_eq!(service_name(&api.cx, "blue", &service).unwrap(), "web");
    assert!(service_name(&api.cx, "blue", "a b").is_err());
}

#[tokio::test]
async fn names_of_clusters() {
    let api = Api::new().await;
    for (given, name) in [
        (None, "default"),
        (Some(""), "default"),
        (Some("blue"), "blue"),
        (Some("arn:aws:ecs:eu-west-1:000000000000:cluster/blue"), "blue"),
    ] {
        assert_eq!(cluster_name(&api.cx, given).unwrap(), name);
    }
    for (given, name) in [
        ("a/b", "InvalidParameterException"),
        ("arn:aws:ecs:eu-west-1:000000000000:cluster/a/b", "InvalidParameterException"),
        ("arn:aws:s3:::bucket", "InvalidParameterException"),
        ("arn:aws:ecs:eu-west-1:000000000000:task/a", "InvalidParameterException"),
        ("arn:aws:ecs:eu-west-2:000000000000:cluster/blue", "ClusterNotFoundException"),
    ] {
        assert_eq!(message(cluster_name(&api.cx, Some(given))).0, name, "{given}");
    }
}

#[test]
fn tags_are_checked() {
    let tag = |key: &str, value: &str| ecs::Tag {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    let long = "k".repeat(129);
    for bad in [
        vec![tag("", "v")],
        vec![tag(&long, "v")],
        vec![tag("AWS:x", "v")],
        vec![tag("a<", "v")],
        vec![tag("a", "\n")],
        vec![tag("a", "1"), tag("a", "2")],
        (0..51).map(|n| tag(&format!("k{n}"), "")).collect(),
    ] {
        assert_eq!(message(tags(Some(bad))).0, "InvalidParameterException");
    }
    let absent = ecs::Tag { key: Some("é à".to_owned()), value: None };
    assert_eq!(tags(Some(vec![absent])).unwrap(), [tag("é à", "")]);
}

proptest! {
    /// No name that comes out of an identifier can lead a key astray.
    #[test]
    fn what_comes_out_holds_no_slash(given in "(arn:aws:ecs:r:1:(cluster|task|service)/)?[ -~é]{0,80}") {
        let parsed = Arn::parse(&given);
        if let Some(arn) = parsed {
            prop_assert!(given.ends_with(arn.name));
        }
        if is_name(&given) {
            prop_assert!(!given.contains('/'));
        }
        prop_assert!(quoted(&given).chars().all(|c| !c.is_control()));
    }
}
