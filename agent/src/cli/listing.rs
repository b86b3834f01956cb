//! `--format` of lists: a table, JSON lines, or Docker's templates over the rows.

use serde::Serialize;
use serde_json::Value;

use super::template::Template;
use super::{Error, output};

/// How to print rows.
#[derive(Debug, Clone)]
pub(super) enum Format {
    Table,
    /// `table {{.A}}\t{{.B}}`
    TableOf(Template),
    Json,
    Lines(Template),
}

impl Format {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "" | "table" => Self::Table,
            "json" => Self::Json,
            _ => match text.strip_prefix("table ") {
                Some(rest) => Self::TableOf(Template::parse(rest.trim())?),
                None => Self::Lines(Template::parse(text)?),
            },
        })
    }

    /// `headings` by field; `default` are the fields of the plain table.
    pub(super) fn rows<T: Serialize>(
        &self,
        rows: &[T],
        headings: &[(&str, &str)],
        default: &[&str],
    ) -> Result<String, Error> {
        let json = |source| Error::Json { source };
        if matches!(self, Self::Json) {
            let lines = rows.iter().map(|row| Ok(serde_json::to_string(row).map_err(json)? + "\n"));
            return lines.collect();
        }
        let values: Result<Vec<Value>, _> = rows.iter().map(serde_json::to_value).collect();
        let values = values.map_err(json)?;
        let heads: Value =
            headings.iter().map(|(field, heading)| ((*field).to_owned(), *heading)).collect();
        match self {
            Self::Lines(template) => {
                values.iter().map(|row| Ok(template.execute(row)? + "\n")).collect()
            }
            Self::TableOf(template) => {
                let mut cells = Vec::new();
                for row in std::iter::once(&heads).chain(&values) {
                    let line = template.execute(row)?;
                    cells.push(line.split('\t').map(str::to_owned).collect());
                }
                Ok(output::table(&cells))
            }
            Self::Table | Self::Json => {
                let cell = |row: &Value, field: &str| match row.get(field) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => String::new(),
                };
                let cells: Vec<Vec<String>> = std::iter::once(&heads)
                    .chain(&values)
                    .map(|row| default.iter().map(|field| cell(row, field)).collect())
                    .collect();
                Ok(output::table(&cells))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_printed_in_every_format() {
        let rows = [json!({"ID": "1", "Name": "one"}), json!({"ID": "2", "Name": "two"})];
        let headings = [("ID", "THE ID"), ("Name", "NAME")];
        for (format, text) in [
            ("table", "NAME      THE ID\none       1\ntwo       2\n"),
            ("table {{.ID}}\\t{{upper .Name}}", "THE ID    NAME\n1         ONE\n2         TWO\n"),
            ("json", "{\"ID\":\"1\",\"Name\":\"one\"}\n{\"ID\":\"2\",\"Name\":\"two\"}\n"),
            ("{{.ID}}={{json .Name}}", "1=\"one\"\n2=\"two\"\n"),
        ] {
            let printed = Format::parse(format).unwrap().rows(&rows, &headings, &["Name", "ID"]);
            assert_eq!(printed.unwrap(), text, "{format}");
        }
        let unknown = Format::parse("{{.X}}").unwrap().rows(&rows, &headings, &[]).unwrap_err();
        assert_eq!(unknown.to_string(), "template: no field \"X\"; there are ID, Name");
    }
}
