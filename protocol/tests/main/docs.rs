//! The page `docs/task-definition.md` has the tables as they are.

use std::fmt::Write as _;

use crate::workspace;
use protocol::taskdef::{ACCEPTED_WITHOUT_EFFECT, NOT_SUPPORTED_YET};

const START: &str = "<!-- generated: UPDATE_DOCS=1 cargo test -p protocol --test main -->\n";
const END: &str = "<!-- end of generated part -->\n";

fn table(rows: &[(&str, &str)], heads: (&str, &str)) -> String {
    let mut text = format!("| {} | {} |\n|---|---|\n", heads.0, heads.1);
    for (pattern, what) in rows {
        writeln!(text, "| `{pattern}` | {what} |").unwrap();
    }
    text
}

fn generated() -> String {
    format!(
        "{START}\n## Not supported yet\n\n{}\n## Accepted without effect\n\n{}\n{END}",
        table(NOT_SUPPORTED_YET, ("refused", "what is missing")),
        table(ACCEPTED_WITHOUT_EFFECT, ("member", "why")),
    )
}

#[test]
fn the_page_is_current() {
    let path = workspace().join("docs/task-definition.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let start = page.find(START).expect("the page has the start mark");
    let end = page.find(END).expect("the page has the end mark") + END.len();
    let current = format!("{}{}{}", &page[..start], generated(), &page[end..]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    } else {
        assert!(
            page == current,
            "docs/task-definition.md is stale, run: UPDATE_DOCS=1 cargo test -p protocol --test main"
        );
    }
}
