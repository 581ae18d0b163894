//! An independent listing: stacks, secrets and task definitions by name, and whatever else carries our tags; and removal of finds.
use super::{
    Shared,
    client::{failed, no_such_stack},
    definitions, kept, names, stack_step,
};
use crate::labels::{INSTANCE, STEP, STORE};
use aws_sdk_cloudformation::types::{ResourceStatus, StackResource, StackStatus};
use aws_sdk_resourcegroupstagging::types::{ResourceTagMapping, TagFilter};
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use syp_engine::{
    failure::{Class, failure},
    id::StoreId,
    step::Of,
};
use syp_proto::journal::{Failure, Found};

const STACK: &str = "aws.stack@1";
const VALUES: &str = "aws.secret@1";
/// What no step makes, and a teardown may find all the same.
pub(super) const UNMADE: [&str; 2] = [DEFINITION, OTHER];
const DEFINITION: &str = "aws.task-definition@1";
const OTHER: &str = "aws.other@1";
const CONFIG: &str = "aws.config@1";
const PULL: &str = "aws.pull@1";
/// A sweep waits so long for a stack; AWS takes minutes, and a sweep can be repeated.
const GONE: Duration = Duration::from_secs(20);

/// All kinds of finds.
#[cfg(test)]
pub(super) fn kinds() -> impl Iterator<Item = &'static str> {
    [STACK, VALUES, CONFIG, PULL].into_iter().chain(UNMADE)
}

/// AWS' own tag of what a stack has made.
const OF_STACK: &str = "aws:cloudformation:stack-id";

/// Lists.
///
/// # Errors
/// AWS': an account that can't be asked is never "clean".
pub(super) async fn list(s: &Shared, store: &StoreId, of: Option<Of<'_>>) -> Result<Vec<Found>, Failure> {
    // the part of a name behind which an instance's own begins
    let place = match of {
        Some(of) => format!("{store}-{}", of.uid.short()),
        None => format!("{store}-"),
    };
    let one = of.is_some();
    let (stacks, secrets, definitions, tagged) = tokio::try_join!(
        stacks(s, &place, one),
        secrets(s, &place, one),
        task_definitions(s, &place, one),
        tagged(s, store, of),
    )?;
    // of a whole store what a stack has made goes with that; of one instance it is told whatever the stack says of itself
    let with: BTreeSet<String> = stacks.iter().filter(|_| !one).map(|s| s.handle.clone()).collect();
    let tagged = tagged.into_iter().filter(|(_, stack)| !with.contains(stack)).map(|(f, _)| f);
    let mut all: BTreeMap<String, Found> = BTreeMap::new();
    for f in stacks.into_iter().chain(secrets).chain(definitions).chain(tagged) {
        all.entry(f.handle.clone()).or_insert(f);
    }
    Ok(all.into_values().collect())
}

/// Of one instance by its node; of all with the instance before it.
fn node(one: bool, instance: &str, node: &str) -> String {
    if one { node.to_owned() } else { format!("{instance}/{node}") }
}

async fn stacks(s: &Shared, place: &str, one: bool) -> Result<Vec<Found>, Failure> {
    let c = s.clients().await?;
    let prefix = format!("sypctl-{place}");
    // AWS goes on listing for ninety days what is gone
    let there =
        StackStatus::values().iter().filter(|s| **s != "DELETE_COMPLETE").map(|s| StackStatus::from(*s));
    let there: Vec<StackStatus> = there.collect();
    let (mut out, mut page) = (Vec::new(), None);
    loop {
        let ask = c.stacks.list_stacks().set_stack_status_filter(Some(there.clone())).set_next_token(page);
        let said = ask.send().await.map_err(|e| failed("cloudformation:ListStacks", &e))?;
        for stack in said.stack_summaries() {
            let name = stack.stack_name().unwrap_or_default();
            if !name.starts_with(&prefix) || (one && name != prefix) {
                continue;
            }
            let handle = stack.stack_id().unwrap_or(name).to_owned();
            // its name has only half of whose it is, and who is not known to live may be swept away
            let instance = if one { String::new() } else { instance_of(s, &handle).await? };
            let node = node(one, &instance, stack_step::NODE);
            out.push(Found { kind: STACK.into(), key: name.to_owned(), handle, node });
        }
        page = said.next_token().map(str::to_owned);
        if page.is_none() {
            return Ok(out);
        }
    }
}

/// The instance that a stack's tags name; empty: none.
async fn instance_of(s: &Shared, id: &str) -> Result<String, Failure> {
    let said = s.clients().await?.stacks.describe_stacks().stack_name(id).send().await;
    let said = said.map_err(|e| failed("cloudformation:DescribeStacks", &e))?;
    let tags = said.stacks().first().map(|s| s.tags()).unwrap_or_default();
    Ok(tags.iter().find(|t| t.key() == Some(INSTANCE)).and_then(|t| t.value()).unwrap_or_default().to_owned())
}

async fn secrets(s: &Shared, place: &str, one: bool) -> Result<Vec<Found>, Failure> {
    let c = s.clients().await?;
    let prefix = format!("sypctl/{place}{}", if one { "/" } else { "" });
    let by_name = Filter::builder().key(FilterNameStringType::Name).values(&prefix).build();
    let mut pages = c.secrets.list_secrets().filters(by_name).into_paginator().send();
    let mut out = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|e| failed("secretsmanager:ListSecrets", &e))?;
        for secret in page.secret_list() {
            let name = secret.name().unwrap_or_default();
            // the filter is by words, not by the beginning
            if !name.starts_with(&prefix) {
                continue;
            }
            let tag = |key: &str| secret.tags().iter().find(|t| t.key() == Some(key)).and_then(|t| t.value());
            let step = tag(STEP).unwrap_or_default();
            let kind = match step.split('-').next() {
                Some(super::config::NODE) => CONFIG,
                Some(super::pull::NODE) => PULL,
                _ => VALUES,
            };
            out.push(Found {
                kind: kind.into(),
                key: name.to_owned(),
                handle: secret.arn().unwrap_or(name).to_owned(),
                node: node(one, tag(INSTANCE).unwrap_or_default(), step),
            });
        }
    }
    Ok(out)
}

async fn task_definitions(s: &Shared, place: &str, one: bool) -> Result<Vec<Found>, Failure> {
    if !one {
        // of a family whose stack is there they go with it; of others the tags tell
        return Ok(vec![]);
    }
    let all = definitions::inactive(s, &format!("sypctl-{place}")).await?;
    let found = |arn: String| Found {
        kind: DEFINITION.into(),
        key: arn.rsplit('/').next().unwrap_or_default().to_owned(),
        handle: arn,
        node: stack_step::NODE.into(),
    };
    Ok(all.into_iter().map(found).collect())
}

/// By tag, each with the stack that has made it. AWS goes on listing for minutes what a stack has deleted: what that stack itself says is gone is not believed to be there.
async fn tagged(s: &Shared, store: &StoreId, of: Option<Of<'_>>) -> Result<Vec<(Found, String)>, Failure> {
    let c = s.clients().await?;
    let filter = |key: &str, value: String| TagFilter::builder().key(key).values(value).build();
    let mut ask = c.tags.get_resources().tag_filters(filter(STORE, store.to_string()));
    if let Some(of) = of {
        ask = ask.tag_filters(filter(INSTANCE, of.uid.to_string()));
    }
    let (mut out, mut gone) = (Vec::new(), Gone::default());
    let mut pages = ask.into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|e| failed("tag:GetResources", &e))?;
        for r in page.resource_tag_mapping_list() {
            let Some(arn) = r.resource_arn() else { continue };
            // they are asked for themselves, and told at once
            let by_name = [":secret:", ":stack/", ":task-definition/"].iter().any(|part| arn.contains(part));
            if (by_name && of.is_some()) || arn.contains(":secret:") || arn.contains(":stack/") {
                continue;
            }
            if gone.has(s, tag(r, OF_STACK), arn).await? {
                continue;
            }
            let kind = if arn.contains(":task-definition/") { DEFINITION } else { OTHER };
            let node = node(of.is_some(), tag(r, INSTANCE), stack_step::NODE);
            let found = Found { kind: kind.into(), key: arn.to_owned(), handle: arn.to_owned(), node };
            out.push((found, tag(r, OF_STACK).to_owned()));
        }
    }
    Ok(out)
}

fn tag<'a>(r: &'a ResourceTagMapping, key: &str) -> &'a str {
    r.tags().iter().find(|t| t.key() == key).map(|t| t.value()).unwrap_or_default()
}

/// What stacks say that they have deleted, by stack.
#[derive(Default)]
struct Gone(HashMap<String, BTreeSet<String>>);

// === impl Gone ===

impl Gone {
    async fn has(&mut self, s: &Shared, stack: &str, arn: &str) -> Result<bool, Failure> {
        if stack.is_empty() {
            return Ok(false);
        }
        if !self.0.contains_key(stack) {
            let said = s.clients().await?.stacks.describe_stack_resources().stack_name(stack).send().await;
            let all = match said {
                Ok(said) => said.stack_resources().to_vec(),
                // AWS forgets a stack after ninety days, and what it had long before
                Err(e) if no_such_stack(&e) => vec![],
                Err(e) => return Err(failed("cloudformation:DescribeStackResources", &e)),
            };
            let deleted = |r: &StackResource| r.resource_status() == Some(&ResourceStatus::DeleteComplete);
            let ids = all.into_iter().filter(deleted).filter_map(|r| r.physical_resource_id).collect();
            self.0.insert(stack.to_owned(), ids);
        }
        let named = |id: &String| arn == id || arn.rsplit(['/', ':']).next() == Some(id);
        Ok(self.0.get(stack).is_some_and(|ids| ids.iter().any(named)))
    }
}

/// May stacks be listed?
///
/// # Errors
/// `RIGHTS_MISSING`, or another of AWS'.
pub(super) async fn may_list_stacks(s: &Shared) -> Result<(), Failure> {
    let filter = StackStatus::DeleteFailed;
    let said = s.clients().await?.stacks.list_stacks().stack_status_filter(filter).send().await;
    said.map(drop).map_err(|e| failed("cloudformation:ListStacks", &e))
}

/// May secrets be listed?
///
/// # Errors
/// As above.
pub(super) async fn may_list_secrets(s: &Shared) -> Result<(), Failure> {
    let said = s.clients().await?.secrets.list_secrets().max_results(1).send().await;
    said.map(drop).map_err(|e| failed("secretsmanager:ListSecrets", &e))
}

/// May be asked what carries a tag?
///
/// # Errors
/// As above.
pub(super) async fn may_list_tagged(s: &Shared) -> Result<(), Failure> {
    let none = TagFilter::builder().key(STORE).values("none").build();
    let said = s.clients().await?.tags.get_resources().tag_filters(none).send().await;
    said.map(drop).map_err(|e| failed("tag:GetResources", &e))
}

/// Waits a while for a stack that is being deleted, and takes away what it leaves.
async fn deleted(s: &Shared, f: &Found) -> Result<(), Failure> {
    let end = tokio::time::Instant::now() + GONE;
    loop {
        let said = s.clients().await?.stacks.describe_stacks().stack_name(&f.handle).send().await;
        let status = match said {
            Ok(said) => said.stacks().first().and_then(|s| s.stack_status().cloned()),
            Err(e) if no_such_stack(&e) => None,
            Err(e) => return Err(failed("cloudformation:DescribeStacks", &e)),
        };
        match status {
            None | Some(StackStatus::DeleteComplete) => {
                let all = definitions::inactive(s, &f.key).await?;
                return definitions::remove(s, &all).await;
            }
            Some(StackStatus::DeleteFailed) => {
                return Err(failure(
                    Class::Terminal,
                    "STACK_FAILED",
                    format!("AWS could not delete the stack {}", f.key),
                    "its events in the CloudFormation console say what holds it; then sweep again",
                ));
            }
            Some(_) if tokio::time::Instant::now() < end => tokio::time::sleep(s.pause).await,
            Some(_) => {
                return Err(failure(
                    Class::Transient,
                    "REMOVING",
                    format!("AWS is deleting the stack {}, which takes some minutes", f.key),
                    "sweep again then: it takes away what the stack leaves",
                ));
            }
        }
    }
}

/// Removes one find of a listing of this store.
///
/// # Errors
/// AWS'; what nobody but CloudFormation may remove is said.
pub(super) async fn remove(s: &Shared, f: &Found) -> Result<(), Failure> {
    let c = s.clients().await?;
    match f.kind.as_str() {
        STACK => {
            let token = format!("{}-sweep", names::word(&f.key));
            let ask = c.stacks.delete_stack().stack_name(&f.handle).role_arn(s.role().await?);
            let done = ask.client_request_token(token).send().await;
            done.map_err(|e| failed("cloudformation:DeleteStack", &e))?;
            deleted(s, f).await
        }
        DEFINITION => definitions::remove(s, std::slice::from_ref(&f.handle)).await,
        OTHER => Err(failure(
            Class::Terminal,
            "RESIDUAL_RESOURCES",
            format!("{} is left, and the engine has no right to remove it by itself", f.handle),
            "an administrator removes it in the console of its service; then sweep again",
        )),
        _ => kept::gone(&c.secrets, &f.handle).await.map(drop),
    }
}
