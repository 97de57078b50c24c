//! The `orkvault` program: everything lives in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    orkvault::cli::main()
}
