//! `sypctl op`: operations.
use super::{Ctx, get, request_id};
use crate::{
    args::Work,
    client::Client,
    exit,
    failure::{Done, Failure, error_info},
    follow, parse, progress, render,
};
use prost::Message;
use syp_proto::{
    google::longrunning::{
        CancelOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
        Operation, operation, operations_client::OperationsClient,
    },
    v1::{
        OperationMetadata, PauseOperationRequest, RetryOperationRequest,
        operation_events_client::OperationEventsClient,
    },
};

/// Which operation.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// An operation, or an instance for its newest one
    #[arg(value_name = "OPERATION")]
    op: String,
}

/// What to do with operations.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List them
    #[command(
        after_help = "Examples:\n  sypctl op ls\n  sypctl op ls shop\n  sypctl op ls --running -o name"
    )]
    Ls {
        /// Only of this instance
        #[arg(value_parser = parse::name)]
        name: Option<String>,
        /// Only those that are not done
        #[arg(long)]
        running: bool,
    },
    /// One of them with its steps
    #[command(after_help = "Examples:\n  sypctl op show shop\n  sypctl op show OPERATION -o json")]
    Show(Which),
    /// Follow one to its end
    #[command(after_help = "Examples:\n  sypctl op watch shop\n  sypctl op watch OPERATION --timeout 5m")]
    Watch(Which),
    /// Stop one: what it has made is taken down
    #[command(after_help = "Example:\n  sypctl op cancel shop")]
    Cancel {
        /// Which
        #[command(flatten)]
        which: Which,
        /// Don't ask (it never does; as with the other commands)
        #[arg(short, long)]
        yes: bool,
        /// Wait until it has ended
        #[arg(long, overrides_with = "no_wait")]
        wait: bool,
        /// Return when the wish is noted (the default)
        #[arg(long, overrides_with = "wait")]
        no_wait: bool,
    },
    /// Begin nothing more of an update; what served before serves on
    #[command(
        after_help = "Example:\n  sypctl op pause shop      (what is under way ends; 'sypctl op resume shop' goes on, 'sypctl op cancel shop' takes it back)\n\n'sypctl set --hold' pauses by itself when the new revision is ready, before it serves."
    )]
    Pause(Which),
    /// Go on with one that was paused
    #[command(after_help = "Example:\n  sypctl op resume shop")]
    Resume {
        /// Which
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        work: Work,
    },
    /// Try a failed one again
    #[command(after_help = "Example:\n  sypctl op retry shop")]
    Retry {
        /// Which
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        work: Work,
    },
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    let client = ctx.client().await?;
    match c {
        Command::Ls { name, running } => ls(ctx, &client, name, running).await,
        Command::Show(w) => {
            let o = one(ctx, &client, &w.op).await?;
            show(ctx, &o)?;
            Ok(exit::OK)
        }
        Command::Watch(w) => {
            let name = resolve(ctx, &client, &w.op).await?;
            let o = follow::operation(&client, ctx.out, &name, ctx.limit()).await?;
            show(ctx, &o)?;
            follow::outcome(&o)?;
            Ok(exit::OK)
        }
        Command::Cancel { which, wait, .. } => cancel(ctx, &client, &which.op, wait).await,
        Command::Pause(w) => {
            let o = pause(ctx, &client, &w.op, false).await?;
            let text = || format!("{}: paused; what is under way ends", follow::short(&o.name));
            ctx.out.document(&o, text, || follow::short(&o.name).to_owned())?;
            Ok(exit::OK)
        }
        Command::Resume { which, work } => {
            let o = pause(ctx, &client, &which.op, true).await?;
            ended(ctx, &client, o, &work).await
        }
        Command::Retry { which, work } => {
            let name = resolve(ctx, &client, &which.op).await?;
            let ask = RetryOperationRequest { name, request_id: request_id() };
            let o = client
                .call(ask, |ch, r| async move { OperationEventsClient::new(ch).retry_operation(r).await })
                .await?;
            ended(ctx, &client, o, &work).await
        }
    }
}

/// Follows one to its end, unless nobody wants to wait.
async fn ended(ctx: &Ctx<'_>, c: &Client, o: Operation, work: &Work) -> Done {
    let o =
        if work.no_wait || o.done { o } else { follow::operation(c, ctx.out, &o.name, ctx.limit()).await? };
    show(ctx, &o)?;
    follow::outcome(&o)?;
    Ok(exit::OK)
}

async fn pause(ctx: &Ctx<'_>, c: &Client, which: &str, resume: bool) -> Result<Operation, Failure> {
    let ask = PauseOperationRequest { name: resolve(ctx, c, which).await?, resume };
    c.call(ask, |ch, r| async move { OperationEventsClient::new(ch).pause_operation(r).await }).await
}

/// Asks for the end of an operation. One that is over can't be stopped: that must not sound like a success.
async fn cancel(ctx: &Ctx<'_>, c: &Client, which: &str, wait: bool) -> Done {
    let o = one(ctx, c, which).await?;
    if o.done {
        let name = parse::short_name(&metadata(&o).target).to_owned();
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            "OPERATION_DONE",
            format!("{} is over already: {}", follow::short(&o.name), result(&o)),
            format!("'sypctl show {name}' says how it is; 'sypctl down {name}' takes it away"),
        ));
    }
    let ask = CancelOperationRequest { name: o.name.clone() };
    c.call(ask, |ch, r| async move { OperationsClient::new(ch).cancel_operation(r).await }).await?;
    let o = if wait {
        follow::operation(c, ctx.out, &o.name, ctx.limit()).await?
    } else {
        one(ctx, c, &o.name).await?
    };
    let text = || match o.done {
        true => format!("{}: {}", follow::short(&o.name), result(&o)),
        false => format!("{}: cancel was asked for", follow::short(&o.name)),
    };
    ctx.out.document(&o, text, || follow::short(&o.name).to_owned())?;
    Ok(exit::OK)
}

/// An operation's name: as given, or the newest one of an instance.
async fn resolve(ctx: &Ctx<'_>, c: &Client, text: &str) -> Result<String, Failure> {
    if let Some(name) = operation_name(text) {
        return Ok(name);
    }
    parse::name(text).map_err(|_| {
        Failure::usage(format!("'{text}' is neither an operation nor the name of an instance"))
    })?;
    let i = get(c, ctx.full(text)).await?;
    Ok(if i.current_operation.is_empty() { i.last_operation } else { i.current_operation })
}

/// `{32 hex digits}-{number}`.
fn operation_name(text: &str) -> Option<String> {
    let short = follow::short(text);
    let (uid, run) = short.rsplit_once('-')?;
    let hex = uid.chars().filter(|c| *c != '-').count() == 32
        && uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    (text.starts_with("operations/") || (hex && run.parse::<u32>().is_ok()))
        .then(|| format!("operations/{short}"))
}

async fn one(ctx: &Ctx<'_>, c: &Client, text: &str) -> Result<Operation, Failure> {
    let name = resolve(ctx, c, text).await?;
    c.call(
        GetOperationRequest { name },
        |ch, r| async move { OperationsClient::new(ch).get_operation(r).await },
    )
    .await
}

async fn ls(ctx: &Ctx<'_>, c: &Client, name: Option<String>, running: bool) -> Done {
    let mut ask = ListOperationsRequest {
        name: name.map_or_else(|| "operations".into(), |n| ctx.full(&n)),
        filter: if running { "done=false".into() } else { String::new() },
        page_size: 200,
        ..Default::default()
    };
    let mut all = ListOperationsResponse::default();
    loop {
        let page = c
            .call(ask.clone(), |ch, r| async move { OperationsClient::new(ch).list_operations(r).await })
            .await?;
        all.operations.extend(page.operations);
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    all.operations.sort_by_key(|o| metadata(o).create_time.as_ref().map(render::millis));
    let text = || table(&all, ctx.out.colours, render::now_ms());
    let names = || all.operations.iter().map(|o| follow::short(&o.name)).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, text, names)?;
    Ok(exit::OK)
}

fn table(all: &ListOperationsResponse, colours: bool, now: i64) -> String {
    if all.operations.is_empty() {
        return String::new();
    }
    let rows = all.operations.iter().map(|o| {
        let m = metadata(o);
        let took = m
            .create_time
            .as_ref()
            .map(|a| m.end_time.as_ref().map_or(now, render::millis) - render::millis(a));
        vec![
            follow::short(&o.name).to_owned(),
            parse::short_name(&m.target).to_owned(),
            m.verb.clone(),
            result(o),
            took.map_or_else(String::new, render::took),
            m.actor,
        ]
    });
    render::table(&["OPERATION", "INSTANCE", "VERB", "RESULT", "TOOK", "BY"], rows, colours)
}

/// What is known of an operation.
pub fn metadata(o: &Operation) -> OperationMetadata {
    o.metadata.as_ref().and_then(|a| OperationMetadata::decode(a.value.as_slice()).ok()).unwrap_or_default()
}

fn result(o: &Operation) -> String {
    match &o.result {
        _ if !o.done => "running".into(),
        Some(operation::Result::Error(s)) => error_info(s).map_or_else(|| s.message.clone(), |i| i.reason),
        _ => "succeeded".into(),
    }
}

fn show(ctx: &Ctx<'_>, o: &Operation) -> Result<(), Failure> {
    ctx.out.document(o, || text(o, render::now_ms()), || follow::short(&o.name).to_owned())
}

fn text(o: &Operation, now: i64) -> String {
    let m = metadata(o);
    let steps = m.steps.iter().map(|s| progress::line(s, now, true)).collect::<Vec<_>>().join("\n");
    let cancel = if m.cancel_requested && !o.done { "asked for" } else { "" };
    render::fields([
        ("Operation", follow::short(&o.name).to_owned()),
        ("Instance", m.target.clone()),
        ("Verb", format!("{} by {}", m.verb, m.actor)),
        ("Result", result(o)),
        ("Begun", render::time(m.create_time.as_ref())),
        ("Ended", m.end_time.as_ref().map_or_else(String::new, |t| render::time(Some(t)))),
        ("Cancel", cancel.to_owned()),
        ("Steps", steps),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_instances_are_told_apart() {
        let uid = "0".repeat(32);
        assert_eq!(operation_name(&format!("{uid}-3")), Some(format!("operations/{uid}-3")));
        assert_eq!(operation_name("operations/x-1"), Some("operations/x-1".into()));
        assert_eq!((operation_name("shop"), operation_name("my-shop-2")), (None, None));
    }

    #[test]
    fn operations_are_a_table() {
        let m = OperationMetadata {
            target: "projects/p/instances/shop".into(),
            verb: "up".into(),
            actor: "user:a@x".into(),
            ..Default::default()
        };
        let any = prost_types::Any { type_url: String::new(), value: m.encode_to_vec() };
        let o = Operation { name: "operations/a-1".into(), metadata: Some(any), ..Default::default() };
        let t = table(&ListOperationsResponse { operations: vec![o], ..Default::default() }, false, 0);
        assert_eq!(
            t,
            "OPERATION  INSTANCE  VERB  RESULT   TOOK  BY\na-1        shop      up    running        user:a@x"
        );
    }
}
