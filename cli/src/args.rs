//! The command line as a whole.
use crate::{cmd, output::Format, parse};
use clap::{Args, Parser, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Any Docker image behind your own sign-on, with a known cost and a provable end.
#[derive(Debug, Parser)]
#[command(
    name = "sypctl",
    version,
    about,
    propagate_version = false,
    max_term_width = 110,
    after_help = "\
Examples:
  sypctl up shop --image nginx:1.27 --port 80
  sypctl curl shop /
  sypctl access allow shop user:alice@example.com
  sypctl down shop

Exit codes: 0 ok, 1 failed, 2 usage, 4 not authenticated, 5 not found, 6 not allowed (now, or to you), 7 conflict,
8 wait timed out and the work goes on, 9 something is left after a teardown, 10 budget or quota, 11 engine or provider
unavailable, 130 interrupted and the work goes on."
)]
pub struct Cli {
    /// For every command.
    #[command(flatten)]
    pub global: Global,
    /// Which one.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// How data is printed on stdout; json is the proto3 JSON of the API
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value_t,
        global = true,
        env = "SYPCTL_OUTPUT",
        value_name = "FORMAT"
    )]
    pub output: Format,
    /// A server, https://host:port; without it the local engine (started when it does not run)
    #[arg(long, global = true, env = "SYPCTL_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Certificate authorities to trust, PEM, instead of the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The local engine's data [default: $XDG_DATA_HOME/syp or ~/.local/share/syp]
    #[arg(long, global = true, env = "SYP_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The project of instance names; '-' is all of them in lists
    #[arg(long, global = true, default_value = "default", value_parser = parse::project, value_name = "NAME")]
    pub project: String,
    /// Longest time to wait, for an answer [default: 30s] and for work [default: 30m]; the work goes on after it (exit code 8)
    #[arg(long, global = true, value_parser = parse::duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// Only data and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

// === impl Global ===

impl Global {
    /// With what the variables of earlier versions say, where nothing newer is said.
    #[must_use]
    pub fn or_earlier_names(mut self) -> Self {
        self.server = self.server.or_else(|| std::env::var("SYP_SERVER").ok()).filter(|s| !s.is_empty());
        self
    }
}

/// Whether to ask and whether to wait: the same on every command that begins work.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Work {
    /// Don't ask
    #[arg(short, long)]
    pub yes: bool,
    /// Wait for the end of the work (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return when the work is accepted
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve an image behind the gate
    Up(Box<cmd::up::Args>),
    /// Create or change instances as files say
    Apply(cmd::apply::Args),
    /// Change what serves: image, settings, environment
    Set(Box<cmd::set::Args>),
    /// More or fewer replicas
    Scale(cmd::scale::Args),
    /// Back to an earlier revision
    Rollback(cmd::rollback::Args),
    /// What served, what serves, what failed
    Revisions(cmd::revisions::Args),
    /// List instances
    Ls(cmd::ls::Args),
    /// An instance: state, conditions, endpoint, what it waits for, cost
    Show(cmd::show::Args),
    /// What happened to an instance
    Events(cmd::events::Args),
    /// What the image prints
    Logs(cmd::logs::Args),
    /// What it costs: rate now, accrued so far
    Cost(cmd::cost::Args),
    /// What energy costs here
    #[command(subcommand)]
    Tariff(cmd::tariff::Command),
    /// List prices of a cloud's region
    #[command(subcommand)]
    Prices(cmd::prices::Command),
    /// Requests, latency, CPU and memory, now and over time
    Metrics(cmd::metrics::Args),
    /// All instances by what they do and cost right now
    Top(cmd::top::Args),
    /// The state graph and the steps of the running operation
    Graph(cmd::graph::Args),
    /// Wait for a state or a condition
    Wait(cmd::wait::Args),
    /// What is no longer as it was made, because somebody changed it
    Drift(cmd::drift::Args),
    /// Operations: what runs and what ran
    #[command(subcommand)]
    Op(cmd::op::Command),
    /// Drive an instance to a state
    Transition(cmd::transition::Args),
    /// Stop new requests, finish those in flight
    Drain(cmd::drain::Args),
    /// Take instances down and prove that nothing is left
    Down(cmd::down::Args),
    /// The proof of a teardown
    Receipt(cmd::receipt::Args),
    /// What carries our labels at a provider and belongs to no instance
    Sweep(cmd::sweep::Args),
    /// Where instances can be: targets, and what an 'up' would meet there
    #[command(subcommand)]
    Provider(cmd::provider::Command),
    /// The gate's image, for the nodes of a cluster
    #[command(subcommand)]
    Gate(cmd::gate::Command),
    /// Call an instance with your token
    Curl(cmd::curl::Args),
    /// Open an instance in the browser
    Open(cmd::open::Args),
    /// Print a token for an instance
    Token(cmd::token::Args),
    /// Log in at a server's identity provider
    Login(cmd::login::Args),
    /// Forget the login
    Logout,
    /// Who you are to the engine
    Whoami,
    /// Who may call, who may control
    #[command(subcommand)]
    Access(cmd::access::Command),
    /// Who did what: every call to the engine, with its outcome
    Audit(cmd::audit::Args),
    /// Secrets that several instances use
    #[command(subcommand)]
    Secret(cmd::secret::Command),
    /// The engine itself
    #[command(subcommand)]
    Server(cmd::server::Command),
    /// Check the engine's store
    Fsck,
    /// Look for what could be wrong on this machine
    Doctor,
    /// What a reason means and what to do
    Explain(cmd::explain::Args),
    /// Completion for your shell
    #[command(
        after_help = "Examples:\n  source <(sypctl completion bash)        (in ~/.bashrc)\n  source <(sypctl completion zsh)         (in ~/.zshrc, behind compinit)\n  sypctl completion fish | source         (in ~/.config/fish/config.fish)"
    )]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Manual pages
    Man(cmd::man::Args),
    /// Version of sypctl, and of the engine if one answers
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words.split_whitespace())
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        fn walk(c: &clap::Command, path: &str) {
            for s in c.get_subcommands().filter(|s| s.get_name() != "help") {
                let path = format!("{path} {}", s.get_name());
                if s.has_subcommands() {
                    walk(s, &path);
                } else if !["logout", "whoami", "fsck", "doctor", "version"].contains(&s.get_name()) {
                    let help = s.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.starts_with("Example") && help.contains("sypctl"), "{path} has no example");
                }
            }
        }
        walk(&Cli::command(), "sypctl");
    }

    #[test]
    fn whatever_changes_something_can_be_planned_first() {
        const LOOK: &[&str] = &[
            "revisions",
            "ls",
            "show",
            "events",
            "logs",
            "cost",
            "metrics",
            "top",
            "graph",
            "wait",
            "receipt",
            "curl",
            "open",
            "whoami",
            "audit",
            "fsck",
            "doctor",
            "explain",
            "completion",
            "man",
            "version",
            "watch",
            "history",
            "test",
            "check",
        ];
        // a session of one's own; work that was planned when it began; 'drift' and 'sweep' plan unless they are told otherwise
        const OWN: &[&str] =
            &["login", "logout", "server", "cancel", "pause", "resume", "retry", "drift", "sweep"];
        fn walk(c: &clap::Command, path: &str) {
            for s in c.get_subcommands().filter(|s| s.get_name() != "help") {
                let path = format!("{path} {}", s.get_name());
                if LOOK.contains(&s.get_name()) || OWN.contains(&s.get_name()) {
                    continue;
                }
                if s.has_subcommands() {
                    walk(s, &path);
                } else {
                    assert!(s.get_arguments().any(|a| a.get_id() == "plan"), "{path} has no --plan");
                }
            }
        }
        walk(&Cli::command(), "sypctl");
    }

    #[test]
    fn the_commands_of_the_issue_are_understood() {
        for words in [
            "sypctl up shop --image nginx:local --port 80 --on docker --allow user:alice@example.com --allow group:ml@example.com --cpu .5 --memory 256Mi --replicas 2 --env K=V --protocol h2c --egress none --probe /healthz --ttl 8h --entrypoint X -l team=a -- ARGS -x",
            "sypctl up hello --image syp-example/hello:latest --port 8080 --on docker --yes",
            "sypctl curl shop /path",
            "sypctl curl shop -- -X POST -d x -i",
            "sypctl open shop",
            "sypctl apply -f syp.yaml --plan",
            "sypctl set shop --image nginx:new",
            "sypctl set shop --cors https://app.example.com --cors http://localhost:5173",
            "sypctl set shop --no-cors",
            "sypctl scale shop --replicas 3",
            "sypctl rollback shop",
            "sypctl rollback shop shop-2",
            "sypctl revisions shop",
            "sypctl ls",
            "sypctl ls -o name",
            "sypctl show shop -o json",
            "sypctl events shop -w",
            "sypctl logs shop -f --tail 10 --since 10m",
            "sypctl logs shop -p --tail 10",
            "sypctl cost shop",
            "sypctl metrics shop --since 1h --step 1m",
            "sypctl metrics --prometheus",
            "sypctl top --once",
            "sypctl graph shop",
            "sypctl wait shop --for state=serving --timeout 10s",
            "sypctl tariff show",
            "sypctl tariff set --per-kwh 0.31",
            "sypctl drift shop",
            "sypctl drift shop --fix --yes",
            "sypctl op ls",
            "sypctl op watch x",
            "sypctl op cancel x",
            "sypctl op pause x",
            "sypctl op resume x --no-wait",
            "sypctl op retry x",
            "sypctl transition shop --to draining --if-state serving",
            "sypctl drain shop",
            "sypctl down shop --yes",
            "sypctl down -l team=a --yes",
            "sypctl down --all --yes",
            "sypctl receipt shop --verify",
            "sypctl sweep",
            "sypctl provider ls",
            "sypctl provider check",
            "sypctl provider check k8s:prod --namespace web --cpu 500m --memory 256Mi --replicas 3 --role",
            "sypctl login --issuer https://x",
            "sypctl whoami",
            "sypctl access show shop",
            "sypctl access allow shop a@x.org --path /a",
            "sypctl access deny shop a@x.org --remove",
            "sypctl access test shop --as user:a@x.org,group:ml --path /a --method POST",
            "sypctl access test shop --token - --plane control",
            "sypctl access history shop",
            "sypctl audit shop --since 1h --actor bob@example.com --method DeleteInstance -o json",
            "sypctl audit -f",
            "sypctl audit --export",
            "sypctl audit --verify 7:00ff",
            "sypctl server run --listen 127.0.0.1:7443",
            "sypctl server status",
            "sypctl server stop",
            "sypctl doctor",
            "sypctl version",
            "sypctl man --dir /tmp/man1",
            "sypctl token shop --as user:bob@example.com --group g --ttl 1h",
            "sypctl token create shop --name ci --ttl 30d --path /x --path /y",
            "sypctl token create --control operator --name ci --ttl 30d",
            "sypctl token ls",
            "sypctl token ls shop",
            "sypctl token revoke 0af3",
            "sypctl token projects/default/instances/ls",
            "sypctl explain CRASH_LOOP",
            "sypctl secret create pw=@./pw --operator group:ml@example.com",
            "sypctl secret add pw=- --no-rollout",
            "sypctl secret ls",
            "sypctl secret show pw -o json",
            "sypctl secret set pw --operator user:a@x.org",
            "sypctl secret rm pw --yes",
            "sypctl up shop --image x --secret DB=secret:pw --secret-file /k=secret:key@3",
        ] {
            if let Err(e) = parse(words) {
                panic!("{words}: {e}");
            }
        }
    }

    #[test]
    fn wrong_words_are_refused_with_the_right_word() {
        for (words, says) in [
            ("sypctl up Shop --image x", "lower-case"),
            ("sypctl up shop", "--image"),
            ("sypctl up shop --image x --port 65535", "1 to 65534"),
            ("sypctl up shop --image x --ttl soon", "length of time"),
            ("sypctl up shop --image x --allow alice", "user:ADDRESS"),
            ("sypctl up shop --image x --memory 5x", "256Mi"),
            ("sypctl up shop --image x --env A", "NAME=VALUE"),
            ("sypctl down", "NAMES"),
            ("sypctl metrics", "NAME"),
            ("sypctl metrics shop --since ever", "length of time"),
            ("sypctl up shop --image x --cors *", "https://app.example.com"),
            ("sypctl token", "NAME"),
            ("sypctl token create shop --name ci", "--ttl"),
            ("sypctl token create --name ci --ttl 1h", "INSTANCE"),
            ("sypctl token create shop --control viewer --name ci --ttl 1h", "cannot be used with"),
            ("sypctl wait shop --for something", "state="),
            ("sypctl transition shop --to gone", "serving"),
        ] {
            let e = parse(words).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(e.contains(says), "{words}: {e}");
        }
    }
}
