//! The definitions in `examples/` are good ones.

use crate::workspace;

#[test]
fn the_examples_are_accepted() {
    let mut seen = 0;
    for entry in std::fs::read_dir(workspace().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(problems) = protocol::taskdef::parse(&text) {
                panic!("{}:\n{problems}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 0, "no examples");
}
