//! The commands, one file each.
pub mod access;
pub mod apply;
pub mod audit;
pub mod aws;
pub mod choices;
pub mod completion;
pub mod cost;
pub mod curl;
pub mod doctor;
pub mod down;
pub mod drain;
pub mod drift;
pub mod events;
pub mod explain;
pub mod fsck;
pub mod gate;
pub mod graph;
pub mod kubernetes;
pub mod login;
pub mod logs;
pub mod ls;
pub mod man;
pub mod metrics;
pub mod op;
pub mod open;
pub mod prices;
pub mod provider;
pub mod receipt;
pub mod revisions;
pub mod rollback;
pub mod scale;
pub mod secret;
pub mod server;
pub mod set;
pub mod show;
pub mod sweep;
pub mod tariff;
pub mod token;
pub mod top;
pub mod transition;
pub mod up;
pub mod version;
pub mod wait;
pub mod whoami;

use crate::{
    args::{Cli, Command, Global},
    client::{Client, Start},
    failure::{Done, Failure},
    follow,
    output::Out,
    parse,
};
use std::time::Duration;
use syp_proto::v1::{
    GetInstanceRequest, Instance, ListInstancesRequest, ListInstancesResponse,
    instances_client::InstancesClient,
};

/// What every command gets.
pub struct Ctx<'a> {
    /// Flags of every command.
    pub global: &'a Global,
    /// Where to print.
    pub out: &'a Out,
}

// === impl Ctx ===

impl Ctx<'_> {
    /// A connection; starts the local engine when needed.
    ///
    /// # Errors
    /// When nobody can be reached.
    pub async fn client(&self) -> Result<Client, Failure> {
        Client::open(self.global, Start::IfNeeded).await
    }

    /// The full name of an instance.
    pub fn full(&self, name: &str) -> String {
        parse::full_name(&self.global.project, name)
    }

    /// The parent of lists.
    pub fn parent(&self) -> String {
        format!("projects/{}", self.global.project)
    }

    /// How long to wait for work.
    pub fn limit(&self) -> Duration {
        self.global.timeout.unwrap_or(follow::DEFAULT_TIMEOUT)
    }
}

/// Runs the command.
///
/// # Errors
/// What it failed with.
pub async fn run(cli: Cli, out: &Out) -> Done {
    let ctx = Ctx { global: &cli.global, out };
    match cli.command {
        Command::Up(a) => Box::pin(up::run(&ctx, *a)).await,
        Command::Apply(a) => Box::pin(apply::run(&ctx, a)).await,
        Command::Set(a) => Box::pin(set::run(&ctx, *a)).await,
        Command::Scale(a) => Box::pin(scale::run(&ctx, a)).await,
        Command::Rollback(a) => Box::pin(rollback::run(&ctx, a)).await,
        Command::Revisions(a) => revisions::run(&ctx, a).await,
        Command::Ls(a) => ls::run(&ctx, a).await,
        Command::Show(a) => show::run(&ctx, a).await,
        Command::Events(a) => events::run(&ctx, a).await,
        Command::Logs(a) => logs::run(&ctx, a).await,
        Command::Cost(a) => cost::run(&ctx, a).await,
        Command::Provider(c) => provider::run(&ctx, c).await,
        Command::Gate(c) => Box::pin(gate::run(&ctx, c)).await,
        Command::Tariff(c) => tariff::run(&ctx, c).await,
        Command::Prices(c) => prices::run(&ctx, c).await,
        Command::Metrics(a) => metrics::run(&ctx, a).await,
        Command::Top(a) => top::run(&ctx, a).await,
        Command::Graph(a) => graph::run(&ctx, a).await,
        Command::Wait(a) => wait::run(&ctx, a).await,
        Command::Drift(a) => drift::run(&ctx, a).await,
        Command::Op(c) => op::run(&ctx, c).await,
        Command::Transition(a) => transition::run(&ctx, a).await,
        Command::Drain(a) => drain::run(&ctx, a).await,
        Command::Down(a) => Box::pin(down::run(&ctx, a)).await,
        Command::Receipt(a) => receipt::run(&ctx, a).await,
        Command::Sweep(a) => sweep::run(&ctx, a).await,
        Command::Curl(a) => curl::run(&ctx, a).await,
        Command::Open(a) => open::run(&ctx, a).await,
        Command::Token(a) => token::run(&ctx, a).await,
        Command::Login(a) => login::run(&ctx, a).await,
        Command::Logout => login::logout(&ctx),
        Command::Whoami => whoami::run(&ctx).await,
        Command::Access(c) => access::run(&ctx, c).await,
        Command::Audit(a) => audit::run(&ctx, a).await,
        Command::Secret(c) => Box::pin(secret::run(&ctx, c)).await,
        Command::Server(c) => server::run(&ctx, c).await,
        Command::Fsck => fsck::run(&ctx).await,
        Command::Doctor => doctor::run(&ctx).await,
        Command::Explain(a) => explain::run(&ctx, &a),
        Command::Completion { shell } => completion::run(&ctx, shell),
        Command::Man(a) => man::run(&ctx, &a),
        Command::Version => version::run(&ctx).await,
    }
}

/// An instance by its full name.
///
/// # Errors
/// What the engine said.
pub async fn get(c: &Client, name: String) -> Result<Instance, Failure> {
    let ask = GetInstanceRequest { name, read_mask: None };
    c.call(ask, |ch, r| async move { InstancesClient::new(ch).get_instance(r).await }).await
}

/// Every page of a list in one answer.
///
/// # Errors
/// What the engine said.
pub async fn list(
    c: &Client,
    parent: String,
    filter: String,
    show_destroyed: bool,
) -> Result<ListInstancesResponse, Failure> {
    let mut ask =
        ListInstancesRequest { parent, filter, show_destroyed, page_size: 1000, ..Default::default() };
    let mut all = ListInstancesResponse::default();
    loop {
        let page = c
            .call(ask.clone(), |ch, r| async move { InstancesClient::new(ch).list_instances(r).await })
            .await?;
        all.instances.extend(page.instances);
        all.unreachable.extend(page.unreachable);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        ask.page_token = page.next_page_token;
    }
}

/// A new id for a request, so that a repeated one is done once.
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Label filters and a state as one filter of the API.
pub fn filter(labels: &[String], state: Option<&str>) -> String {
    let state = state.map(|s| format!("state={}", s.to_uppercase()));
    labels.iter().cloned().chain(state).collect::<Vec<_>>().join(" AND ")
}
