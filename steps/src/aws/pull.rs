//! What tasks pull the image with, where it is in a private registry that is not the account's: the engine's own login for it, where the
//! user has asked for that. One secret a registry: AWS may bring back the tasks of the revision before.
use super::{Shared, kept};
use crate::registry::{self, Refusal};
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};

pub(super) struct Pull(pub Arc<Shared>);

/// Begin of the node of each, see [`super::names::pull`].
pub(super) const NODE: &str = "pull";
/// To whom a login is given, in words.
const TASKS: &str = "the tasks on AWS";
const ECR: &str = ".dkr.ecr.";
/// Everybody pulls from there, and a login for it ends after twelve hours.
const PUBLIC: &str = "public.ecr.aws";

fn no(why: String, next: impl Into<String>) -> Failure {
    failure(Class::Terminal, "IMAGE_AUTH_FAILED", why, next)
}

/// Will tasks get the image, as it was pinned, and do they need the login for it? `own`: it is in the account's ECR; `held`: of an
/// instance that is there. What a registry does not say is left to the tasks.
///
/// # Errors
/// `IMAGE_AUTH_FAILED`, `IMAGE_NOT_FOUND`, `NOT_SUPPORTED`.
pub(super) async fn check(
    spec: &v1::InstanceSpec,
    image: &str,
    own: bool,
    held: bool,
) -> Result<bool, Failure> {
    let server = registry::server(image);
    if own {
        return Ok(false);
    }
    let may = spec.aws.as_ref().is_some_and(|a| a.pull_login) && server != PUBLIC && !server.contains(ECR);
    if may && let Some(login) = registry::credentials(image).await {
        if registry::is_short(&login) {
            return Err(failure(
                Class::Terminal,
                "NOT_SUPPORTED",
                format!(
                    "the login for {server} ends within hours, and tasks that start later could not pull"
                ),
                format!(
                    "'docker login {server}' with a token that lasts, or push the image to this account's ECR"
                ),
            ));
        }
        return match registry::refusal(image, Some(login)).await {
            Some(Refusal::Denied(why)) => Err(no(
                format!("the login of the engine does not get '{image}': {why}"),
                format!("'docker login {server}' as somebody who may pull it"),
            )),
            Some(Refusal::Missing(why)) => Err(missing(image, &why)),
            None => Ok(true),
        };
    }
    let why = match registry::refusal(image, None).await {
        None => return Ok(false),
        Some(Refusal::Denied(why)) => why,
        Some(Refusal::Missing(why)) => {
            let hidden = match registry::credentials(image).await {
                Some(login) => registry::refusal(image, Some(login)).await.is_none(),
                None => false,
            };
            if !hidden {
                return Err(missing(image, &why));
            }
            why
        }
    };
    if may {
        // says what to log in to
        registry::handed_on(image, TASKS).await?;
    }
    let next = match (server.contains(ECR), held) {
        (true, _) => "tasks pull from this account's ECR and from no other's: push it there".to_owned(),
        (_, true) => "push it to this account's ECR; only an instance that was made with --pull-login can pull it from there".to_owned(),
        _ => format!("'docker login {server}' where the engine runs, and add --pull-login; or push it to this account's ECR"),
    };
    Err(no(format!("tasks on AWS pull without a login, and would not get '{image}': {why}"), next))
}

fn missing(image: &str, why: &str) -> Failure {
    let next = "check its name and tag, or push it: tasks pull it from there";
    failure(Class::Terminal, "IMAGE_NOT_FOUND", format!("there is no image '{image}': {why}"), next)
}

/// Will tasks get the gate's image? `with`: the app's image, whose login they have.
///
/// # Errors
/// `IMAGE_AUTH_FAILED`.
pub(super) async fn gate(image: &str, with: Option<&str>) -> Result<(), Failure> {
    let same = with.is_some_and(|app| registry::server(app) == registry::server(image));
    let login = if same { registry::credentials(image).await } else { None };
    let Some(Refusal::Denied(why) | Refusal::Missing(why)) = registry::refusal(image, login).await else {
        return Ok(());
    };
    Err(no(
        format!("tasks on AWS would not get the gate's image '{image}': {why}"),
        "SYP_GATE_IMAGE=$(sypctl gate push REGISTRY/NAME) in the engine's environment, with this account's ECR or a registry that everybody may pull from",
    ))
}

impl Step for Pull {
    fn kind(&self) -> &'static str {
        "aws.pull@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        kept::observe(&self.0.clients().await?.secrets, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = &self.0.clients().await?.secrets;
        let arn = match registry::handed_on(&cx.spec.image, TASKS).await {
            Ok(login) => {
                let (user, password) = registry::pair(&login);
                // as ECS wants it. Source: Amazon ECS developer guide, "Using non-AWS container images"
                let value = json!({ "username": user, "password": password });
                let value = SecretString::from(value.to_string());
                let wanted = kept::Wanted { owner: &cx.owner, node: &cx.node, name: key, value: &value };
                kept::bring(c, &self.0.key, &wanted).await?
            }
            // the engine's may be gone: what tasks have goes on
            Err(f) => kept::look(c, &cx.owner, key).await?.filter(kept::Found::is_good).ok_or(f)?.arn,
        };
        Ok(Done { outputs: json!({ "arn": arn }), handle: arn })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        kept::remove(&self.0.clients().await?.secrets, owner, &row.key).await
    }
}
