//! `sypctl`: the command line of Serve Yourself Private, and the local engine.
mod args;
mod backup;
mod change;
mod channel;
mod client;
mod clusters;
mod cmd;
mod complete;
mod exit;
mod failure;
mod follow;
#[cfg(test)]
mod guide;
mod history;
mod http;
mod input;
mod local;
mod login;
mod manifest;
mod misread;
mod output;
mod parse;
mod paths;
mod plan;
mod progress;
mod reasons;
#[cfg(feature = "aws")]
mod regions;
mod render;
mod secrets;
mod server;
mod service;
mod spark;
mod targets;
mod traces;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    // one backend for TLS, chosen before anything asks for it
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Some(code) = complete::answer() {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => Cli { global: cli.global.or_earlier_names(), ..cli },
        Err(e) => return misread::tell(e),
    };
    let out = output::Out::new(cli.global.output, cli.global.quiet);
    let runtime = match runtime(&cli.command) {
        Ok(r) => r,
        Err(e) => {
            out.failure(&e.into());
            return ExitCode::from(exit::FAILED);
        }
    };
    let code = match runtime.block_on(Box::pin(cmd::run(cli, &out))) {
        Ok(code) => code,
        Err(f) => {
            out.failure(&f);
            f.exit()
        }
    };
    // a blocked read of stdin or of a name server must not hold us
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Viewers need one thread; the engine needs all.
fn runtime(c: &Command) -> std::io::Result<Runtime> {
    let engine = matches!(c, Command::Server(cmd::server::Command::Run(_)));
    let mut b = if engine { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    b.enable_all().build()
}
