//! A stack is brought to a template, or away. What comes next is decided in [`super::status`] from what is seen, so a call may be lost,
//! land twice or late, and whoever comes next goes on from there.
use super::{
    client::{code, failed, no_such_stack, words},
    names,
    status::{self, Held, Next},
    story::{self, Event, Story},
    template,
};
use crate::labels::{INSTANCE, NAME, STORE, TEMPLATE};
use aws_sdk_cloudformation::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{Capability, OnFailure, StackEvent, Tag},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::Duration,
};
use syp_engine::{
    failure::{Class, failure},
    name_conflict,
    step::Owner,
};
use syp_proto::journal::Failure;

/// A stack that takes longer than that to come up is rolled back, minutes.
const CREATE_MINUTES: i32 = 30;
/// Pages of events that are read at most, a hundred events each.
const PAGES: usize = 20;
/// Changes that one attempt asks for at most: what does not settle is looked at anew, with the engine's pauses.
const CHANGES: usize = 8;

/// What a stack shall be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whose.
    pub owner: &'a Owner,
    /// The whole template.
    pub template: &'a str,
    /// Its digest, which is in its metadata too.
    pub digest: &'a str,
    /// Of the operation: the same for each attempt of it, another for the next.
    pub token: &'a str,
}

/// A stack that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// ARN: a stack that comes later has the same name, and another one.
    pub id: String,
    /// By key.
    pub outputs: BTreeMap<String, String>,
    /// What decides.
    pub held: Held,
    /// What its events say.
    pub story: Story,
}

/// The stacks of one region.
#[derive(Clone, Debug)]
pub struct Stacks {
    pub(super) client: Client,
    /// Whose rights CloudFormation uses; empty: the caller's.
    pub(super) role: String,
    /// Between two looks.
    pub(super) pause: Duration,
}

/// Hears of each look at it.
pub type Say<'a> = dyn Fn(&Stack) + Send + Sync + 'a;

// === impl Stacks ===

impl Stacks {
    /// Asked in this way, with the rights of this role.
    pub fn new(client: Client, role: &str, pause: Duration) -> Self {
        Self { client, role: role.to_owned(), pause }
    }

    /// The stack of an instance, if there is one; `id`: the one with this ARN.
    ///
    /// # Errors
    /// AWS'.
    pub async fn look(&self, owner: &Owner, id: Option<&str>) -> Result<Option<Stack>, Failure> {
        let name = id.map_or_else(|| names::stack(owner), str::to_owned);
        let said = match self.client.describe_stacks().stack_name(&name).send().await {
            Ok(said) => said,
            Err(e) if no_such_stack(&e) => {
                return Ok(None);
            }
            Err(e) => return Err(failed("cloudformation:DescribeStacks", &e)),
        };
        let Some(s) = said.stacks().first() else { return Ok(None) };
        let id = s.stack_id().unwrap_or(&name).to_owned();
        let status = s.stack_status().map(|s| s.as_str().to_owned()).unwrap_or_default();
        let tag = |key: &str| s.tags().iter().find(|t| t.key() == Some(key)).and_then(Tag::value);
        let ours =
            tag(STORE) == Some(owner.store.as_str()) && tag(INSTANCE) == Some(owner.uid.to_string().as_str());
        let output = |o: &aws_sdk_cloudformation::types::Output| {
            Some((o.output_key()?.to_owned(), o.output_value()?.to_owned()))
        };
        let mut out = Stack {
            id,
            outputs: s.outputs().iter().filter_map(output).collect(),
            held: Held { status, ours, ..Held::default() },
            story: Story::default(),
        };
        if !ours {
            return Ok(Some(out));
        }
        out.story = self.story(&out.id).await?;
        out.held.token.clone_from(&out.story.token);
        out.held.failed.clone_from(&out.story.failed);
        if !out.held.status.ends_with("_IN_PROGRESS") && out.held.status != "DELETE_COMPLETE" {
            out.held.digest = self.digest(&out.id).await?;
        }
        Ok(Some(out))
    }

    /// Brings it there.
    ///
    /// # Errors
    /// `STACK_FAILED` with what failed first, `NAME_CONFLICT`, or AWS'.
    pub async fn bring(&self, w: &Wanted<'_>, say: &Say<'_>) -> Result<Stack, Failure> {
        let mut changes = 0;
        loop {
            let held = self.look(w.owner, None).await?;
            held.iter().filter(|s| s.held.ours).for_each(say);
            let next = status::towards(held.as_ref().map(|s| &s.held), w.digest, w.token);
            match (next, held) {
                (Next::Done, Some(s)) => return Ok(s),
                (Next::Failed, Some(s)) => return Err(stack_failed(&s)),
                (Next::Foreign, _) => return Err(name_conflict(&names::stack(w.owner))),
                (Next::Wait, _) => {}
                (next, held) => {
                    changes += 1;
                    if changes > CHANGES {
                        return Err(restless(held.as_ref()));
                    }
                    self.change(w, next, held.as_ref()).await?;
                }
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    /// Takes it away; false if there was none. The second: resources that did not go and are no longer in a stack; they
    /// are known for as long as `id` is.
    ///
    /// # Errors
    /// AWS'. Somebody else's of the same name is left alone.
    pub async fn remove(
        &self,
        owner: &Owner,
        id: Option<&str>,
        say: &Say<'_>,
    ) -> Result<(bool, BTreeSet<String>), Failure> {
        let (mut id, mut was, mut changes) = (id.map(str::to_owned), false, 0);
        loop {
            let held = self.look(owner, id.as_deref()).await?;
            held.iter().filter(|s| s.held.ours).for_each(say);
            let asked = held.as_ref().map_or(0, |s| s.story.deletions);
            let next = status::away(held.as_ref().map(|s| &s.held), asked);
            let s = match (&next, held) {
                (Next::Done, Some(s)) if s.held.ours => return Ok((was, s.story.skipped)),
                (Next::Done, _) | (_, None) => return Ok((was, BTreeSet::new())),
                (Next::Foreign, _) => return Ok((false, BTreeSet::new())),
                (_, Some(s)) => s,
            };
            was = true;
            // from here on this one: another of the same name is not ours to take away
            id = Some(s.id.clone());
            if next != Next::Wait {
                changes += 1;
                if changes > CHANGES {
                    return Err(restless(Some(&s)));
                }
                if s.held.status == "DELETE_FAILED" {
                    // load balancers let go of network interfaces late
                    tokio::time::sleep(self.pause * 6 * asked).await;
                }
                let token = format!("{}-delete-{asked}", names::id(owner));
                self.away(next, &s.id, &token).await?;
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    /// As [`Self::remove`]; `in_doubt`: an attempt of which nobody knows how it ended may have made another one after `id`.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub async fn remove_all(
        &self,
        owner: &Owner,
        id: Option<&str>,
        in_doubt: bool,
        say: &Say<'_>,
    ) -> Result<(bool, BTreeSet<String>), Failure> {
        let (mut was, mut left) = self.remove(owner, id, say).await?;
        if id.is_some() && in_doubt {
            let (another, more) = self.remove(owner, None, say).await?;
            was |= another;
            left.extend(more);
        }
        Ok((was, left))
    }

    async fn change(&self, w: &Wanted<'_>, next: Next, held: Option<&Stack>) -> Result<(), Failure> {
        let id = held.map(|s| s.id.clone()).unwrap_or_default();
        let role = Some(self.role.clone()).filter(|r| !r.is_empty());
        match next {
            Next::Create => {
                let done = self
                    .client
                    .create_stack()
                    .stack_name(names::stack(w.owner))
                    .template_body(template::first(w.template))
                    .set_role_arn(role)
                    .set_tags(Some(tags(w)))
                    .capabilities(Capability::CapabilityIam)
                    .timeout_in_minutes(CREATE_MINUTES)
                    // its events stay
                    .on_failure(OnFailure::Rollback)
                    .client_request_token(w.token)
                    .send()
                    .await;
                settled("cloudformation:CreateStack", done)
            }
            Next::Update => {
                let done = self
                    .client
                    .update_stack()
                    .stack_name(id)
                    .template_body(w.template)
                    .set_role_arn(role)
                    .set_tags(Some(tags(w)))
                    .capabilities(Capability::CapabilityIam)
                    .client_request_token(w.token)
                    .send()
                    .await;
                settled("cloudformation:UpdateStack", done)
            }
            Next::Continue(without) => {
                let done = self
                    .client
                    .continue_update_rollback()
                    .stack_name(id)
                    .set_role_arn(role)
                    .set_resources_to_skip(Some(without.into_iter().collect()))
                    .client_request_token(w.token)
                    .send()
                    .await;
                settled("cloudformation:ContinueUpdateRollback", done)
            }
            Next::Rollback => {
                let ask = self.client.rollback_stack().stack_name(id).set_role_arn(role);
                let done = ask.client_request_token(w.token).send().await;
                settled("cloudformation:RollbackStack", done)
            }
            next => self.away(next, &id, &format!("{}-again", w.token)).await,
        }
    }

    async fn away(&self, next: Next, id: &str, token: &str) -> Result<(), Failure> {
        match next {
            Next::Cancel => {
                let done =
                    self.client.cancel_update_stack().stack_name(id).client_request_token(token).send().await;
                match done {
                    // it has ended by now: the next look tells
                    Err(e) if code(&e) == "ValidationError" => Ok(()),
                    done => done.map(drop).map_err(|e| failed("cloudformation:CancelUpdateStack", &e)),
                }
            }
            Next::Delete(without) => {
                let role = Some(self.role.clone()).filter(|r| !r.is_empty());
                let without = Some(without.into_iter().collect::<Vec<_>>()).filter(|w| !w.is_empty());
                let ask = self.client.delete_stack().stack_name(id).set_role_arn(role);
                let done = ask.set_retain_resources(without).client_request_token(token).send().await;
                settled("cloudformation:DeleteStack", done)
            }
            _ => Ok(()),
        }
    }

    async fn story(&self, id: &str) -> Result<Story, Failure> {
        let (mut all, mut page) = (Vec::new(), None);
        for _ in 0..PAGES {
            let ask = self.client.describe_stack_events().stack_name(id).set_next_token(page);
            let said = ask.send().await.map_err(|e| failed("cloudformation:DescribeStackEvents", &e))?;
            all.extend(said.stack_events().iter().map(|e| event(id, e)));
            page = said.next_token().map(str::to_owned);
            if page.is_none() || story::is_whole(&all) {
                break;
            }
        }
        Ok(story::read(&all))
    }

    /// Of the template that it has: after a rollback the former one's. Tags say only what was last asked for.
    async fn digest(&self, id: &str) -> Result<String, Failure> {
        let template: serde_json::Value = serde_json::from_str(&self.template(id).await?).unwrap_or_default();
        Ok(template["Metadata"][TEMPLATE].as_str().unwrap_or_default().to_owned())
    }

    /// The template that a stack has.
    ///
    /// # Errors
    /// AWS'.
    pub async fn template(&self, id: &str) -> Result<String, Failure> {
        let said = self.client.get_template().stack_name(id).send().await;
        let said = said.map_err(|e| failed("cloudformation:GetTemplate", &e))?;
        Ok(said.template_body().unwrap_or_default().to_owned())
    }
}

/// What was asked for is under way by now, or somebody else's is there (an answer was lost, another engine asked): the next look tells.
fn settled<T, E>(call: &str, done: Result<T, SdkError<E>>) -> Result<(), Failure>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match done {
        Err(e)
            if ["AlreadyExistsException", "TokenAlreadyExistsException"].contains(&code(&e))
                || words(&e).contains("_IN_PROGRESS state") =>
        {
            Ok(())
        }
        done => done.map(drop).map_err(|e| failed(call, &e)),
    }
}

pub(super) fn tags(w: &Wanted<'_>) -> Vec<Tag> {
    let of = [
        (INSTANCE, w.owner.uid.to_string()),
        (STORE, w.owner.store.to_string()),
        (NAME, w.owner.name.clone()),
    ];
    of.into_iter().map(|(k, v)| Tag::builder().key(k).value(v).build()).collect()
}

fn event(id: &str, e: &StackEvent) -> Event {
    let text = |s: Option<&str>| s.unwrap_or_default().to_owned();
    Event {
        logical: text(e.logical_resource_id()),
        of_stack: e.physical_resource_id() == Some(id),
        status: text(e.resource_status().map(|s| s.as_str())),
        reason: text(e.resource_status_reason()),
        token: text(e.client_request_token()),
        id: text(e.event_id()),
        at_ms: e.timestamp().and_then(|t| t.to_millis().ok()).unwrap_or_default(),
        kind: text(e.resource_type()),
    }
}

/// In a few words.
pub(super) fn going_on(s: &Stack) -> String {
    format!("the stack is in {}, now {}", s.held.status, s.story.newest)
}

fn stack_failed(s: &Stack) -> Failure {
    failure(
        Class::Terminal,
        "STACK_FAILED",
        format!("the stack ended in {}: {}", s.held.status, s.story.why),
        "the message is AWS' own: change what it names, then try again",
    )
}

fn restless(s: Option<&Stack>) -> Failure {
    let status = s.map(|s| s.held.status.as_str()).unwrap_or_default();
    let why = s.map(|s| s.story.why.as_str()).unwrap_or_default();
    failure(
        Class::Conflict,
        "PROVIDER_BUSY",
        format!("the stack does not come to rest: {status}; {why}"),
        "the engine looks again by itself; the stack's events in the CloudFormation console say more",
    )
}

#[cfg(test)]
pub(super) mod emulator_tests;
#[cfg(test)]
mod rights_tests;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod scripted_sets;
#[cfg(test)]
mod tests;
