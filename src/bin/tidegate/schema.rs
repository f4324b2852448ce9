//! `tidegate schema`: the JSON Schema of the policy document.

use std::io::Write;
use std::process::ExitCode;

use tidegate::policy::Policy;

/// Print the JSON Schema of the policy document, for editors and other tools
#[derive(Debug, clap::Args)]
pub struct Schema {}

impl Schema {
    /// Prints the schema.
    pub fn run(self) -> ExitCode {
        match std::io::stdout().write_all(Policy::json_schema().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }
}
