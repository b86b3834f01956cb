//! Which document a path means. Pure.

/// Of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V2,
    V3,
    V4,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// The task to which the listener belongs: version 2.
    Listener,
    /// The container with this endpoint id.
    Endpoint(&'a str),
}

/// A known path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// Of version 1 or 2. `None`: no id is given.
    Credentials {
        version: u8,
        id: Option<&'a str>,
    },
    /// The caller, or version 2: the container with this Docker id.
    Container {
        version: Version,
        caller: Caller<'a>,
        docker_id: Option<&'a str>,
    },
    Task {
        version: Version,
        caller: Caller<'a>,
        tags: bool,
    },
    ContainerStats {
        version: Version,
        caller: Caller<'a>,
        docker_id: Option<&'a str>,
    },
    TaskStats {
        version: Version,
        caller: Caller<'a>,
    },
    /// Names of the associations of any kind.
    Associations {
        version: Version,
        caller: Caller<'a>,
    },
    /// One association's content.
    Association {
        version: Version,
        caller: Caller<'a>,
    },
    Protection {
        caller: Caller<'a>,
    },
}

impl<'a> Route<'a> {
    /// `None`: there is no such path. A path with `//` must be cleaned before.
    pub fn parse(path: &'a str, query: Option<&'a str>) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let first = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        // A slash at the end means nothing but for version 2, which has it in its paths too.
        let rest = match rest.as_slice() {
            [rest @ .., ""] => rest,
            rest => rest,
        };
        match first {
            "v1" => match rest {
                ["credentials"] => Some(Self::Credentials { version: 1, id: query_id(query) }),
                _ => None,
            },
            "v2" => Self::version_2(rest),
            "v3" => Self::by_endpoint(Version::V3, rest),
            "v4" => Self::by_endpoint(Version::V4, rest),
            "api" => match rest {
                [id, "task-protection", "v1", "state"] => {
                    Some(Self::Protection { caller: Caller::Endpoint(id) })
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn version_2(rest: &[&'a str]) -> Option<Self> {
        let (version, caller) = (Version::V2, Caller::Listener);
        Some(match *rest {
            ["credentials"] => Self::Credentials { version: 2, id: None },
            ["credentials", id] => Self::Credentials { version: 2, id: Some(id) },
            ["metadata"] => Self::Task { version, caller, tags: false },
            ["metadataWithTags"] => Self::Task { version, caller, tags: true },
            ["metadata", id] => Self::Container { version, caller, docker_id: Some(id) },
            ["stats"] => Self::TaskStats { version, caller },
            ["stats", id] => Self::ContainerStats { version, caller, docker_id: Some(id) },
            _ => return None,
        })
    }

    fn by_endpoint(version: Version, rest: &[&'a str]) -> Option<Self> {
        let (id, rest) = rest.split_first()?;
        let caller = Caller::Endpoint(id);
        Some(match *rest {
            [] => Self::Container { version, caller, docker_id: None },
            ["task"] => Self::Task { version, caller, tags: false },
            ["taskWithTags"] => Self::Task { version, caller, tags: true },
            ["stats"] => Self::ContainerStats { version, caller, docker_id: None },
            ["task", "stats"] => Self::TaskStats { version, caller },
            ["associations", _] => Self::Associations { version, caller },
            ["associations", _, _] => Self::Association { version, caller },
            _ => return None,
        })
    }
}

fn query_id(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("id=")).filter(|id| !id.is_empty())
}

/// The path without empty and dot segments, if it has any: where Amazon's agent redirects to.
pub fn cleaned(path: &str) -> Option<String> {
    if !path.contains("//") && !path.split('/').any(|part| matches!(part, "." | "..")) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", kept.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_route() {
        use Caller::{Endpoint, Listener};
        use Version::{V2, V3, V4};
        let by = Endpoint("u");
        for (path, route) in [
            ("/v2/credentials/c", Route::Credentials { version: 2, id: Some("c") }),
            ("/v2/credentials/", Route::Credentials { version: 2, id: None }),
            ("/v2/metadata", Route::Task { version: V2, caller: Listener, tags: false }),
            ("/v2/metadata/", Route::Task { version: V2, caller: Listener, tags: false }),
            ("/v2/metadataWithTags/", Route::Task { version: V2, caller: Listener, tags: true }),
            (
                "/v2/metadata/d",
                Route::Container { version: V2, caller: Listener, docker_id: Some("d") },
            ),
            ("/v2/stats", Route::TaskStats { version: V2, caller: Listener }),
            (
                "/v2/stats/d",
                Route::ContainerStats { version: V2, caller: Listener, docker_id: Some("d") },
            ),
            ("/v3/u", Route::Container { version: V3, caller: by, docker_id: None }),
            ("/v4/u", Route::Container { version: V4, caller: by, docker_id: None }),
            ("/v4/u/", Route::Container { version: V4, caller: by, docker_id: None }),
            ("/v4/u/task", Route::Task { version: V4, caller: by, tags: false }),
            ("/v3/u/taskWithTags", Route::Task { version: V3, caller: by, tags: true }),
            ("/v4/u/stats", Route::ContainerStats { version: V4, caller: by, docker_id: None }),
            ("/v4/u/task/stats", Route::TaskStats { version: V4, caller: by }),
            ("/v4/u/associations/x", Route::Associations { version: V4, caller: by }),
            ("/v4/u/associations/x/y", Route::Association { version: V4, caller: by }),
            ("/api/u/task-protection/v1/state", Route::Protection { caller: by }),
        ] {
            assert_eq!(Route::parse(path, None), Some(route), "{path}");
        }
        for path in ["", "/", "/v5/u", "/v4", "/v4/u/x", "/v2", "/v1/metadata", "v4/u", "/api/u"] {
            assert_eq!(Route::parse(path, None), None, "{path}");
        }
    }

    #[test]
    fn version_1_has_the_id_in_the_query() {
        for (query, id) in [
            (Some("id=c"), Some("c")),
            (Some("a=b&id=c&d"), Some("c")),
            (Some("id="), None),
            (Some("xid=c"), None),
            (None, None),
        ] {
            let route = Route::parse("/v1/credentials", query);
            assert_eq!(route, Some(Route::Credentials { version: 1, id }), "{query:?}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, clean) in [
            ("//v4/u", Some("/v4/u")),
            ("/v4//u/", Some("/v4/u/")),
            ("/v4/../v2/./x", Some("/v2/x")),
            ("//", Some("/")),
            ("/../..", Some("/")),
            ("/v4/u", None),
            ("/", None),
        ] {
            assert_eq!(cleaned(path).as_deref(), clean, "{path}");
        }
    }
}
