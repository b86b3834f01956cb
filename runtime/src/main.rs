//! `lighter-runtime`: an OCI runtime with runc's command line, and the task monitor.

fn main() -> std::process::ExitCode {
    runtime::cli::main()
}
