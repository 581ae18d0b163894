//! `sypctl wait`: until a state or a condition is there.
use super::{Ctx, get};
use crate::{
    client::{Client, can_resume},
    exit,
    failure::{Done, Failure},
    parse, render,
};
use futures_util::StreamExt;
use syp_proto::v1::{
    Instance, WatchInstancesRequest, condition::Status, instance::State, instances_client::InstancesClient,
    watch_instances_response::Event,
};
use tonic::Code;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// A state.
    State(State),
    /// A condition, and whether it is to be true or false.
    Condition(String, bool),
    /// Destroyed, or never there.
    Deleted,
}

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl wait shop --for state=serving --timeout 2m
  sypctl wait shop --for condition=Ready
  sypctl wait shop --for deleted")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// state=STATE, condition=TYPE, condition=TYPE=false or deleted
    #[arg(long = "for", value_parser = until, value_name = "WHAT")]
    until: Until,
}

fn until(text: &str) -> Result<Until, String> {
    const FORMS: &str = "expected state=serving, state=draining, state=destroyed, condition=Ready, condition=Ready=false or deleted";
    match text.split_once('=') {
        None if text == "deleted" => Ok(Until::Deleted),
        Some(("state", s)) => State::from_str_name(&s.to_uppercase())
            .filter(|s| !matches!(s, State::Unspecified | State::Suspended))
            .map(Until::State)
            .ok_or_else(|| FORMS.into()),
        Some(("condition", c)) => match c.split_once('=') {
            None if !c.is_empty() => Ok(Until::Condition(c.into(), true)),
            Some((c, v)) if !c.is_empty() && v.eq_ignore_ascii_case("true") => {
                Ok(Until::Condition(c.into(), true))
            }
            Some((c, v)) if !c.is_empty() && v.eq_ignore_ascii_case("false") => {
                Ok(Until::Condition(c.into(), false))
            }
            _ => Err(FORMS.into()),
        },
        _ => Err(FORMS.into()),
    }
}

/// Runs it.
///
/// # Errors
/// 8 when the time is over, 1 when it can't come any more.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let name = ctx.full(&a.name);
    let last = std::cell::RefCell::new(String::from("not seen yet"));
    let limit = ctx.limit();
    let found = tokio::select! {
        r = watch(ctx, &client, &name, &a.until, &last) => r?,
        _ = tokio::signal::ctrl_c() => return Ok(exit::INTERRUPTED),
        () = tokio::time::sleep(limit) => {
            let what = format!("{} is {} after {}", a.name, last.borrow(), humantime::format_duration(limit));
            return Err(Failure::timed_out(&what, format!("sypctl show {}", a.name)));
        }
    };
    match found {
        Some(i) => {
            ctx.out.document(&i, || format!("{} {}", a.name, render::state(i.state)), || a.name.clone())?
        }
        None => ctx.out.note(format!("{} does not exist", a.name)),
    }
    Ok(exit::OK)
}

async fn watch(
    ctx: &Ctx<'_>,
    client: &Client,
    name: &str,
    until: &Until,
    last: &std::cell::RefCell<String>,
) -> Result<Option<Instance>, Failure> {
    let short = parse::short_name(name).to_owned();
    loop {
        let ask = WatchInstancesRequest {
            parent: ctx.parent(),
            filter: format!("name={short}"),
            ..Default::default()
        };
        let mut events = client
            .stream(ask, |ch, r| async move { InstancesClient::new(ch).watch_instances(r).await })
            .await?;
        // the stream is open before we look: nothing is missed between
        match get(client, name.to_owned()).await {
            Ok(i) if met(&i, until)? => return Ok(Some(i)),
            Ok(i) => *last.borrow_mut() = render::state(i.state).to_owned(),
            Err(f) if f.code() == Code::NotFound && *until == Until::Deleted => return Ok(None),
            Err(f) => return Err(f),
        }
        let lost = loop {
            match events.next().await {
                None => break None,
                Some(Err(s)) => break Some(s),
                Some(Ok(e)) => {
                    let (Some(Event::Added(i)) | Some(Event::Modified(i))) = e.event else { continue };
                    if met(&i, until)? {
                        return Ok(Some(i));
                    }
                    *last.borrow_mut() = render::state(i.state).to_owned();
                }
            }
        };
        if let Some(s) = lost.filter(|s| !can_resume(client, s) && s.code() != Code::Unauthenticated) {
            return Err(s.into());
        }
        client.revive(3).await?;
    }
}

/// Is it there? A failure when it can't come any more.
fn met(i: &Instance, until: &Until) -> Result<bool, Failure> {
    let yes = match until {
        Until::State(s) => i.state() == *s,
        Until::Deleted => i.state() == State::Destroyed,
        Until::Condition(c, want) => {
            let status = if *want { Status::True } else { Status::False };
            i.conditions.iter().any(|x| x.r#type.eq_ignore_ascii_case(c) && x.status() == status)
        }
    };
    if !yes && i.state() == State::Destroyed {
        let name = parse::short_name(&i.name);
        // one that never had an endpoint was a first 'up' that failed, took itself away, and says why
        let failed = i
            .conditions
            .iter()
            .find(|c| c.r#type == "Ready" && !c.message.is_empty() && i.endpoint.is_empty());
        let why = failed.map_or_else(String::new, |c| format!(" ({}: {})", c.reason, c.message));
        return Err(Failure::new(
            exit::FAILED,
            "DESTROYED",
            format!("{name} is destroyed{why}: what is waited for can't come any more"),
            format!("sypctl events {name}"),
        ));
    }
    Ok(yes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::Condition;

    #[test]
    fn what_can_be_waited_for() {
        assert_eq!(until("state=serving").unwrap(), Until::State(State::Serving));
        assert_eq!(until("condition=Ready=false").unwrap(), Until::Condition("Ready".into(), false));
        assert_eq!(until("deleted").unwrap(), Until::Deleted);
        for bad in ["serving", "state=gone", "state=", "condition=", "condition=Ready=maybe"] {
            assert!(until(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_can_not_come_any_more_ends_the_wait() {
        let i = Instance { state: State::Destroyed as i32, ..Default::default() };
        assert!(met(&i, &Until::Deleted).unwrap());
        assert_eq!(met(&i, &Until::State(State::Serving)).unwrap_err().exit(), 1);
        let ready = Condition {
            r#type: "Ready".into(),
            reason: "IMAGE_NOT_FOUND".into(),
            message: "there is none".into(),
            ..Default::default()
        };
        let i = Instance { conditions: vec![ready], ..i };
        let said = met(&i, &Until::State(State::Serving)).unwrap_err();
        let said = format!("{said:?}");
        assert!(said.contains("is destroyed (IMAGE_NOT_FOUND: there is none): what"), "{said}");
        let i = Instance { state: State::Pending as i32, ..Default::default() };
        assert!(!met(&i, &Until::State(State::Serving)).unwrap());
    }
}
