//! What tasks pull the image with, where it is in a private registry that is not the account's: the engine's own login for it, where the
//! user has asked for that. One secret a revision: AWS may bring back the tasks of the one before.
use super::{Shared, kept};
use crate::registry;
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;
use syp_engine::{
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};

pub(super) struct Pull(pub Arc<Shared>);

/// Begin of the node of each revision's secret.
pub(super) const NODE: &str = "pull";
/// To whom a login is given, in words.
const TASKS: &str = "the tasks on AWS";

/// Shall tasks pull with the engine's login?
pub(super) fn asked(spec: &v1::InstanceSpec) -> bool {
    spec.aws.as_ref().is_some_and(|a| a.pull_login)
}

/// Will tasks get the image, as it was pinned? `own`: it is in the account's ECR. What a registry does not say is left to the tasks.
///
/// # Errors
/// `IMAGE_AUTH_FAILED`, `NOT_SUPPORTED`.
pub(super) async fn check(spec: &v1::InstanceSpec, image: &str, own: bool) -> Result<(), Failure> {
    let no = |why: String, next: String| Err(failure(Class::Terminal, "IMAGE_AUTH_FAILED", why, next));
    let server = registry::server(image);
    if asked(spec) && server.contains(".dkr.ecr.") {
        return Err(failure(
            Class::Terminal,
            "NOT_SUPPORTED",
            "on AWS a login for ECR ends after twelve hours, and tasks that start later could not pull",
            "leave --pull-login away: tasks may pull from this account's ECR by themselves",
        ));
    }
    if asked(spec) {
        let login = registry::handed_on(image, TASKS).await?;
        return match registry::denied(image, Some(login)).await {
            Some(why) => no(
                format!("the login of the engine does not get '{image}': {why}"),
                format!("'docker login {server}' as somebody who may pull it"),
            ),
            None => Ok(()),
        };
    }
    if own {
        return Ok(());
    }
    match registry::denied(image, None).await {
        Some(why) => no(
            format!("tasks on AWS pull without a login, and would not get '{image}': {why}"),
            format!(
                "'docker login {server}' where the engine runs, and add --pull-login; or push it to this account's ECR"
            ),
        ),
        None => Ok(()),
    }
}

impl Step for Pull {
    fn kind(&self) -> &'static str {
        "aws.pull@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        kept::observe(&self.0.clients().await?.secrets, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let login = registry::handed_on(&cx.spec.image, TASKS).await?;
        let (user, password) = registry::pair(&login);
        // as ECS wants it. Source: Amazon ECS developer guide, "Using non-AWS container images"
        let value = SecretString::from(json!({ "username": user, "password": password }).to_string());
        let wanted = kept::Wanted { owner: &cx.owner, node: &cx.node, name: key, value: &value };
        let arn = kept::bring(&self.0.clients().await?.secrets, &self.0.key, &wanted).await?;
        Ok(Done { outputs: json!({ "arn": arn }), handle: arn })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        kept::remove(&self.0.clients().await?.secrets, owner, &row.key).await
    }
}
