//! Stacks that an emulator's CloudFormation has: it decides what may be done, gives the ARN, and tells what happened. The bed has the same
//! stacks beside it, for tasks and load balancers that are real, and says that something is done only when both have done it.
use super::{
    behind::{Behind, between},
    cloudformation::{self, described, field, known},
    http,
    wire::{Answer, Form, Refused, element, hand_on, query_answer},
    world::{Shared, now},
};
use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::http::request::Parts;
use std::{io, sync::Arc, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Answers a call; `None`: the bed alone does.
pub async fn call(
    shared: &Arc<Shared>,
    action: &str,
    form: &Form,
    parts: &Parts,
    body: &Bytes,
) -> io::Result<Option<Result<Answer, Refused>>> {
    let ask = async || hand_on(shared, parts.clone(), body.clone()).await;
    Ok(match action {
        "DescribeStackEvents" => {
            let said = ask().await?;
            let asked = shared
                .see(|w| w.stack(&field(form, "StackName")).map(|s| s.asked.clone()).unwrap_or_default());
            Some(Ok(retold(said, |text| with_tokens(text, &asked)).await))
        }
        "CreateStack" | "UpdateStack" | "DeleteStack" => {
            let (before, said) = (now(), ask().await?);
            if !said.status().is_success() {
                return Ok(Some(Ok(said)));
            }
            let (mut form, mut id) = (form.clone(), field(form, "StackName"));
            let said = retold(said, |text| {
                if let (true, Some(made)) =
                    (action == "CreateStack", between(text, "<StackId>", "</StackId>"))
                {
                    made.clone_into(&mut id);
                    form.insert("StackId".into(), id.clone());
                }
                text.to_owned()
            })
            .await;
            let done = cloudformation::call(shared, action, &form).map(|_| said);
            let token = field(&form, "ClientRequestToken");
            let of = shared.see(|w| w.stack(&id).map(|s| s.id.clone())).unwrap_or_default();
            shared.with(|w| w.stack_mut(&of).map(|s| s.asked.push((before, token))));
            Some(done)
        }
        "DescribeStacks" if !field(form, "StackName").is_empty() => {
            let name = field(form, "StackName");
            let mut mine = match shared.see(|w| known(w, &name).cloned()) {
                Ok(mine) => mine,
                Err(refused) => return Ok(Some(Err(refused))),
            };
            if !mine.status.ends_with("_IN_PROGRESS") {
                let said = ask().await?;
                let (good, text) = (said.status().is_success(), http::text(said).await);
                let status = between(&text, "<StackStatus>", "</StackStatus>").filter(|_| good);
                let Some(status) = status else { return Ok(Some(Err(Refused::invalid(text)))) };
                status.clone_into(&mut mine.status);
            }
            let all = format!("<Stacks>{}</Stacks>", described(&mine));
            Some(Ok(query_answer(action, &all)))
        }
        _ => None,
    })
}

/// An answer with a body that was looked at.
async fn retold(said: Answer, tell: impl FnOnce(&str) -> String) -> Answer {
    let (head, text) = (said.status(), http::text(said).await);
    let mut said = Answer::new(Full::from(tell(&text)));
    *said.status_mut() = head;
    said
}

/// Events, each with the token of what was asked for before it: moto knows none, and all of AWS' have it.
fn with_tokens(text: &str, asked: &[(OffsetDateTime, String)]) -> String {
    let event = |e: &str| {
        let at =
            between(e, "<Timestamp>", "</Timestamp>").and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok());
        // its times are whole milliseconds
        let token =
            at.and_then(|at| asked.iter().rev().find(|(asked, _)| *asked <= at + Duration::from_millis(1)));
        match token {
            Some((_, token)) if !e.contains("<ClientRequestToken>") => {
                e.replacen("</member>", &format!("{}</member>", element("ClientRequestToken", token)), 1)
            }
            _ => e.to_owned(),
        }
    };
    text.split_inclusive("</member>").map(event).collect()
}

/// All events of a stack, as the emulator tells anybody: status and logical id.
pub async fn events(behind: &Behind, id: &str) -> Result<Vec<String>> {
    let (mut out, mut page) = (Vec::new(), String::new());
    for _ in 0..100 {
        let mut fields =
            vec![("Action", "DescribeStackEvents"), ("Version", "2010-05-15"), ("StackName", id)];
        if !page.is_empty() {
            fields.push(("NextToken", &page));
        }
        let text = behind.form("cloudformation", &fields).await?;
        for e in text.split("<EventId>").skip(1) {
            let of = |name: &str| between(e, &format!("<{name}>"), &format!("</{name}>")).unwrap_or_default();
            out.push(format!("{} {}", of("ResourceStatus"), of("LogicalResourceId")));
        }
        page = between(&text, "<NextToken>", "</NextToken>").unwrap_or_default().to_owned();
        if page.is_empty() {
            return Ok(out);
        }
    }
    bail!("more than 100 pages of events")
}
