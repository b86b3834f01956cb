//! `key` and `role`.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;

use super::{Error, Place, admin, output, pattern};
use crate::access::{self, Answer, Request};
use crate::model;

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make an access key; its secret is shown this once
    Create {
        /// What it may do, such as ecs:Describe* [default: *]
        #[arg(long, num_args = 1.., value_name = "PATTERN", value_parser = pattern)]
        allow: Vec<String>,
        /// For people
        #[arg(long, value_name = "TEXT", value_parser = description)]
        description: Option<String>,
        /// How it is printed; env: for the shell's eval
        #[arg(long, default_value = "text", value_name = "FORM")]
        output: KeyForm,
    },
    /// List access keys
    List(List),
    /// Take an access key away, at once
    Revoke {
        /// The access key id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// Make a role
    Create {
        #[arg(value_parser = role_name)]
        name: String,
        /// What tasks with it may do, such as logs:* [default: nothing]
        #[arg(long, num_args = 1.., value_name = "PATTERN", value_parser = pattern)]
        allow: Vec<String>,
    },
    /// List roles
    List(List),
    /// Delete a role, and the credentials that tasks have of it
    Delete { name: String },
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// How they are printed
    #[arg(long, default_value = "text", value_name = "FORM")]
    output: ListForm,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum KeyForm {
    Text,
    Env,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ListForm {
    Text,
    Json,
}

fn role_name(text: &str) -> Result<String, String> {
    if access::is_role_name(text) {
        return Ok(text.to_owned());
    }
    Err("a role's name has 1 to 64 letters, digits or any of _+=,.@-".to_owned())
}

fn description(text: &str) -> Result<String, String> {
    if text.chars().count() <= 256 && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("a description is one line of at most 256 characters".to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewKey<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    principal: &'a str,
    allow: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedRole<'a> {
    role_name: &'a str,
    arn: String,
    allow: &'a [String],
    created_at: Timestamp,
}

impl Key {
    pub(super) async fn run(self, place: &Place) -> Result<(), Error> {
        match self {
            Self::Create { allow, description, output } => {
                let allow = if allow.is_empty() { vec!["*".to_owned()] } else { allow };
                let account = place.account.clone();
                let request = Request::CreateKey { account, allow, description };
                match admin::ask(place, request).await? {
                    Answer::Key(key) => show_key(&key, output),
                    other => unexpected(place, other),
                }
            }
            Self::List(List { output }) => match admin::ask(place, Request::ListKeys).await? {
                Answer::Keys(keys) => match output {
                    ListForm::Json => output::json(&keys),
                    ListForm::Text => {
                        let heads = ["ACCESS KEY ID", "CREATED", "ALLOWED", "DESCRIPTION"];
                        let rows = keys.into_iter().map(|key| {
                            let description = key.description.unwrap_or_default();
                            vec![
                                key.access_key_id,
                                date(key.created_at),
                                key.allow.join(","),
                                description,
                            ]
                        });
                        print_table(&heads, rows)
                    }
                },
                other => unexpected(place, other),
            },
            Self::Revoke { id } => match admin::ask(place, Request::RevokeKey { id }).await? {
                Answer::Gone => Ok(()),
                other => unexpected(place, other),
            },
        }
    }
}

impl Role {
    pub(super) async fn run(self, place: &Place) -> Result<(), Error> {
        match self {
            Self::Create { name, allow } => {
                match admin::ask(place, Request::CreateRole { name, allow }).await? {
                    Answer::Role(role) => {
                        output::print(&(model::Role::arn(&place.account, &role.name) + "\n"))
                    }
                    other => unexpected(place, other),
                }
            }
            Self::List(List { output }) => match admin::ask(place, Request::ListRoles).await? {
                Answer::Roles(roles) => match output {
                    ListForm::Json => {
                        let roles = roles.iter().map(|role| ListedRole {
                            role_name: &role.name,
                            arn: model::Role::arn(&place.account, &role.name),
                            allow: &role.allow,
                            created_at: role.created_at,
                        });
                        output::json(&roles.collect::<Vec<_>>())
                    }
                    ListForm::Text => {
                        let rows = roles.into_iter().map(|role| {
                            vec![role.name, date(role.created_at), role.allow.join(",")]
                        });
                        print_table(&["ROLE", "CREATED", "ALLOWED"], rows)
                    }
                },
                other => unexpected(place, other),
            },
            Self::Delete { name } => match admin::ask(place, Request::DeleteRole { name }).await? {
                Answer::Gone => Ok(()),
                other => unexpected(place, other),
            },
        }
    }
}

fn show_key(key: &model::AccessKey, form: KeyForm) -> Result<(), Error> {
    match form {
        KeyForm::Text => output::print(&output::table(&[
            vec!["Access key id".to_owned(), key.id.clone()],
            vec!["Secret access key".to_owned(), key.secret.clone()],
        ])),
        KeyForm::Env => output::print(&format!(
            "export AWS_ACCESS_KEY_ID='{}'\nexport AWS_SECRET_ACCESS_KEY='{}'\n",
            key.id, key.secret
        )),
        KeyForm::Json => output::json(&NewKey {
            access_key_id: &key.id,
            secret_access_key: &key.secret,
            principal: &key.principal,
            allow: &key.allow,
        }),
    }
}

fn print_table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<(), Error> {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    output::print(&output::table(&rows))
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a control plane of another version might answer.
fn unexpected(place: &Place, answer: Answer) -> Result<(), Error> {
    match answer {
        Answer::Refused(message) => Err(Error::Refused(message)),
        _ => Err(Error::NoAnswer { path: place.data().join(admin::SOCKET_NAME) }),
    }
}
