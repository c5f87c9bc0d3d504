//! The command line of Traflux.

use std::process::ExitCode;

fn main() -> ExitCode {
    traflux::cli::main()
}
