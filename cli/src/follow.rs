//! Follows an operation to its end. The work runs in the engine: leaving never stops it.
use crate::{
    client::{Client, can_resume},
    exit,
    failure::Failure,
    output::Out,
    progress::Progress,
};
use futures_util::StreamExt;
use prost::Message;
use std::time::Duration;
use syp_proto::{
    google::longrunning::{GetOperationRequest, Operation, operation, operations_client::OperationsClient},
    v1::{
        Instance, WatchOperationRequest, operation_event::Event,
        operation_events_client::OperationEventsClient, operation_metadata::Step,
    },
};
use tonic::Code;

/// How long to wait when nothing is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Follows an operation; Ctrl-C and the time limit leave it running.
///
/// # Errors
/// 130, 8, or what the engine said. A failed operation is no error here: see [`outcome`].
pub async fn operation(
    client: &Client,
    out: &Out,
    name: &str,
    limit: Duration,
) -> Result<Operation, Failure> {
    follow(client, out, name, limit, false).await
}

/// The same, or until it is paused: then it is not done.
///
/// # Errors
/// The same.
pub async fn to_pause(client: &Client, out: &Out, name: &str, limit: Duration) -> Result<Operation, Failure> {
    follow(client, out, name, limit, true).await
}

async fn follow(
    client: &Client,
    out: &Out,
    name: &str,
    limit: Duration,
    to_pause: bool,
) -> Result<Operation, Failure> {
    let mut progress = Progress::new(out);
    let done = tokio::select! {
        r = to_the_end(client, name, &mut progress, to_pause) => r,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            exit::INTERRUPTED,
            "INTERRUPTED",
            format!("still running: sypctl op watch {}", short(name)),
            format!("'sypctl op cancel {}' stops it", short(name)),
        )),
        () = tokio::time::sleep(limit) => Err(Failure::timed_out(
            &format!("not done after {}", humantime::format_duration(limit)),
            format!("sypctl op watch {}", short(name)),
        )),
    };
    progress.end();
    done
}

fn is_paused(e: &Event) -> bool {
    let at = |s: &Step| s.waiting_on.as_ref().is_some_and(|w| w.reason == "PAUSED");
    match e {
        Event::Snapshot(m) => m.steps.iter().any(at),
        Event::Step(s) => at(s),
        _ => false,
    }
}

async fn to_the_end(
    client: &Client,
    name: &str,
    progress: &mut Progress,
    to_pause: bool,
) -> Result<Operation, Failure> {
    let mut resume = String::new();
    let mut tries = 0;
    loop {
        let ask = WatchOperationRequest { name: name.into(), resume_token: resume.clone() };
        let mut events = client
            .stream(ask, |ch, r| async move { OperationEventsClient::new(ch).watch_operation(r).await })
            .await?;
        let mut tick = tokio::time::interval(progress.pace());
        let lost = loop {
            let next = tokio::select! {
                n = events.next() => n,
                _ = tick.tick() => { progress.tick(); continue }
            };
            match next {
                None => break None,
                Some(Err(s)) => break Some(s),
                Some(Ok(e)) => {
                    tries = 0;
                    resume.clone_from(&e.resume_token);
                    progress.event(&e);
                    if to_pause && e.event.as_ref().is_some_and(is_paused) {
                        let ask = GetOperationRequest { name: name.into() };
                        return client
                            .call(
                                ask,
                                |ch, r| async move { OperationsClient::new(ch).get_operation(r).await },
                            )
                            .await;
                    }
                    if let Some(Event::Done(o)) = e.event {
                        return Ok(o);
                    }
                }
            }
        };
        // a token that ended, an engine that was started again: go on where we were
        match lost {
            Some(s) if !can_resume(client, &s) && s.code() != Code::Unauthenticated => return Err(s.into()),
            Some(s) if tries >= 20 => return Err(s.into()),
            _ => {}
        }
        tries += 1;
        client.revive(tries).await?;
    }
}

/// The instance an operation ended with; a failed one is a failure with the step, its reason and what to do.
///
/// # Errors
/// What the operation failed with.
pub fn outcome(o: &Operation) -> Result<Option<Instance>, Failure> {
    match &o.result {
        Some(operation::Result::Error(status)) => Err(Failure::of_operation(status)),
        Some(operation::Result::Response(any)) if any.type_url.ends_with("syp.v1.Instance") => {
            Ok(Instance::decode(any.value.as_slice()).ok())
        }
        _ => Ok(None),
    }
}

/// An operation's name without its collection.
pub fn short(name: &str) -> &str {
    name.trim_start_matches("operations/")
}

/// The uid of the instance that an operation is of.
pub fn uid(name: &str) -> &str {
    short(name).rsplit_once('-').map_or("", |(uid, _)| uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uid_is_in_the_name() {
        assert_eq!(uid("operations/0af3-12"), "0af3");
        assert_eq!(short("operations/0af3-12"), "0af3-12");
    }
}
