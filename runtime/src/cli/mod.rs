//! cli
pub mod monitor;
pub fn main() -> std::process::ExitCode { monitor::main(std::env::args_os().skip(2)) }
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
