#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn facts<'a>(
    attributes: &'a BTreeMap<String, Option<String>>,
    groups: &'a BTreeMap<String, u32>,
) -> Facts<'a> {
    Facts {
        agent_connected: true,
        agent_version: Some("1.102.0"),
        ec2_instance_id: Some("i-0123"),
        registered_at: "2018-06-18T22:28:28Z".parse().unwrap(),
        running_tasks: 3,
        attributes,
        groups,
    }
}

fn holds(text: &str) -> bool {
    let attributes = [
        ("ecs.instance-type", Some("t2.small")),
        ("ecs.availability-zone", Some("eu-west-1a")),
        ("stack", Some("prod")),
        ("rank", Some("10")),
        ("gpu", None),
    ]
    .map(|(name, value)| (name.to_owned(), value.map(str::to_owned)))
    .into();
    let groups = [("service:web".to_owned(), 2), ("family:job".to_owned(), 1)].into();
    Expression::parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .matches(&facts(&attributes, &groups))
}

#[test]
fn selects() {
    let table = [
        ("attribute:stack == prod", true),
        ("attribute:stack equals 'prod'", true),
        ("attribute:stack==\"prod\"", true),
        ("attribute:stack == Prod", false),
        ("attribute:stack != prod", false),
        ("attribute:stack not_equals test", true),
        ("attribute:none == x", false),
        ("attribute:none != x", true),
        ("attribute:none !in [x]", true),
        ("attribute:none !~ x", true),
        ("attribute:none < x", false),
        ("attribute:none exists", false),
        ("attribute:none !exists", true),
        ("attribute:none not_exists", true),
        ("attribute:gpu exists", true),
        ("attribute:gpu == ''", true),
        ("attribute:ecs.instance-type =~ t2.*", true),
        ("attribute:ecs.instance-type =~ t2", false),
        ("attribute:ecs.instance-type =~ t2\\.(small|large)", true),
        ("attribute:ecs.instance-type =~ t[12]\\.[a-z]{1,5} and attribute:stack exists", true),
        ("attribute:ecs.instance-type matches 'm5.*|t2.*'", true),
        ("attribute:ecs.instance-type !~ g.*", true),
        ("attribute:ecs.instance-type not_matches t2.*", false),
        ("attribute:ecs.instance-type in [t2.small, t2.medium]", true),
        ("attribute:ecs.instance-type in ['t2.large','t2.medium']", false),
        ("attribute:ecs.instance-type !in [t2.small]", false),
        ("attribute:ecs.instance-type not_in [t2.large]", true),
        ("attribute:rank > 9", true),
        ("attribute:rank less_than 9", false),
        ("attribute:stack >= prod", true),
        ("task:group == service:web", true),
        ("task:group == service:db", false),
        ("task:group != service:web", false),
        ("not(task:group == service:db)", true),
        ("task:group in [a, family:job]", true),
        ("task:group =~ service:.*", true),
        ("task:group !~ service:.*", false),
        ("runningTasksCount == 3", true),
        ("runningTasksCount greater_than_equal 4", false),
        ("runningTasksCount < 10", true),
        ("agentConnected == true", true),
        ("agentConnected in [false]", false),
        ("ec2InstanceId in ['i-0123', i-9]", true),
        ("agentVersion >= 1.9.0", true),
        ("agentVersion == 1.102", true),
        ("agentVersion < 1.102.1", true),
        ("registeredAt == 2018-06-18", true),
        ("registeredAt > 2018-06-17", true),
        ("registeredAt >= 2018-06-18T22:28:28", true),
        ("registeredAt < 2018-06-18T22:28:28Z", false),
        ("registeredAt <= 2018-06-18T22:28:28+00:00", true),
        ("attribute:stack == x or attribute:stack == prod and runningTasksCount == 3", true),
        ("(attribute:stack == prod or attribute:stack == x) and runningTasksCount == 4", false),
        ("attribute:stack == x || attribute:rank == 10 && agentConnected == true", true),
        ("!attribute:stack exists", false),
        ("! (attribute:stack == x)", true),
        ("not not attribute:stack == prod", true),
        ("  attribute:stack  ==  prod  ", true),
        ("(attribute:stack=~pr.*)", true),
    ];
    for (text, expected) in table {
        assert_eq!(holds(text), expected, "{text}");
    }
}

#[test]
fn refuses() {
    for text in [
        "",
        "attribute:",
        "attribute:x",
        "attribute:x ==",
        "attribute:x = y",
        "attribute:x == y z",
        "attribute:x == 'y",
        "attribute:x in y",
        "attribute:x in [y",
        "attribute:x in []",
        "attribute:x =~ '('",
        "attribute:x =~ 'a{1000}{1000}'",
        "cpu > 3",
        "(attribute:x == y",
        "attribute:x == y)",
        "attribute:x == y and",
        "or attribute:x == y",
        "runningTasksCount == many",
        "runningTasksCount =~ 3",
        "runningTasksCount exists",
        "agentVersion == new",
        "registeredAt > yesterday",
        "agentConnected > false",
        "task:group exists",
        "attribute:ä == y",
    ] {
        assert!(Expression::parse(text).is_err(), "{text}");
    }
    assert!(Expression::parse(&format!("attribute:x == {}", "y".repeat(2000))).is_err());
    let deep = format!("{}attribute:x == y{}", "(".repeat(900), ")".repeat(900));
    assert!(Expression::parse(&deep).is_err());
    assert!(Expression::parse(&format!("{} attribute:x == y", "!".repeat(1000))).is_err());
}

#[test]
fn patterns_are_bounded_together() {
    assert_eq!(Expression::parse("attribute:x =~ t2.* and task:group == g").unwrap().cost(), 0);
    let many = |count: usize| {
        let all = vec!["attribute:x =~ (a|b).?"; count].join(" and ");
        assert!(all.len() <= MAX_LENGTH);
        Expression::parse(&all)
    };
    assert!(many(8).is_ok_and(|few| few.cost() > 8 * 100 && few.cost() <= MAX_COST));
    assert!(many(72).is_err());
    assert!(Expression::parse("attribute:x =~ '(.?){900}'").is_err());
}

#[test]
fn errors_name_the_place() {
    assert_eq!(
        Expression::parse("attribute:x = y").unwrap_err(),
        "expected an operator at character 13, found \"= y\""
    );
    assert_eq!(Expression::parse("attribute:x ==").unwrap_err(), "expected a value at the end");
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,200}") {
        let _ = Expression::parse(&text);
    }

    #[test]
    fn near_expressions_are_parsed_or_refused(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "attribute:a", "task:group", "agentVersion", "==", "=~", "in", "!in", "exists",
                "[", "]", "(", ")", ",", "not", "!", "and", "or", "x", "'", "\"", "1.2", "\\",
            ]),
            0..12,
        )
    ) {
        let _ = Expression::parse(&parts.join(" "));
        let _ = Expression::parse(&parts.concat());
    }
}
