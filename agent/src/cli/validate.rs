//! `lighter validate`: task definitions checked without an agent.

use std::path::PathBuf;

use super::{Error, Failure, output, read_definition};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Task definitions; - reads standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Args) -> Result<u8, Failure> {
    let mut code = 0;
    for file in &arguments.files {
        match read_definition(file) {
            Ok(_) => output::print(&format!("{}: OK\n", file.display()))?,
            Err(Error::Definition { file, problems }) => {
                code = 1;
                for problem in &problems {
                    output::tell(&format!("{file}: {problem}"));
                }
            }
            Err(error) => {
                code = 1;
                output::tell(&format!("lighter: {}", super::chain(&error)));
            }
        }
    }
    Ok(code)
}
