//! The command line of Tidegate.

#![allow(clippy::disallowed_methods, reason = "the command line lives by the real clock")]

mod check;
mod demo;
mod explain;
mod locate;
mod schema;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps a service standing through a traffic spike: rate limits, circuit breaking and fallback for Envoy and
/// Cloudflare Workers.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Check(check::Check),
    Explain(explain::Explain),
    Schema(schema::Schema),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Schema(command) => command.run(),
    }
}
