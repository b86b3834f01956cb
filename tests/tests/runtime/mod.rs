//! The OCI runtime's command line on real bundles, as root. `RUNTIME=runc` runs the same tests on the
//! reference, but for those that ask for more.

mod attacks;
mod exec;
mod filesystem;
mod life;
mod namespaces;
mod process;
mod terminal;
