//! What gate, holder and app have in common: a container with a name known before the call.
use super::{
    Shared,
    client::{self, TEMPLATE, code, failed, inspect, is_ours, labels_of, running},
};
use bollard::{
    models::{ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum},
    query_parameters::CreateContainerOptions,
};
use syp_engine::{
    failure::{Class, failure},
    step::{Observed, Owner, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

/// Looks for the container of a step.
///
/// # Errors
/// The daemon's.
pub(super) async fn observe(s: &Shared, owner: &Owner, key: &str) -> Result<Observed, Failure> {
    Ok(inspect(&s.docker, key).await?.map_or(Observed::Absent, |c| judged(owner, c)))
}

/// Pure.
fn judged(owner: &Owner, c: ContainerInspectResponse) -> Observed {
    // somebody takes it away: it does not run any more, and is not gone yet
    if c.state.as_ref().and_then(|s| s.status) == Some(ContainerStateStatusEnum::REMOVING) {
        return Observed::Busy;
    }
    let (ours, healthy) = (is_ours(owner, labels_of(&c)), running(&c));
    Observed::Present { ours, healthy, handle: c.id.unwrap_or_default() }
}

/// The container as it is; made first if it is not there. True when it was made now.
///
/// # Errors
/// `NAME_CONFLICT` for a container of somebody else; the daemon's.
pub(super) async fn ensure(
    s: &Shared,
    cx: &StepCx,
    key: &str,
    body: impl AsyncFnOnce() -> Result<ContainerCreateBody, Failure>,
) -> Result<(ContainerInspectResponse, bool), Failure> {
    let template = cx.params["template"].as_str();
    if let Some(c) = inspect(&s.docker, key).await? {
        let labels = labels_of(&c);
        if !is_ours(&cx.owner, labels) {
            return Err(syp_engine::name_conflict(key));
        }
        let made_for = labels.and_then(|l| l.get(TEMPLATE)).map(String::as_str);
        if made_for.is_none() || made_for == template {
            return Ok((c, false));
        }
        // of a revision that this journal does not know, since it came from a backup
        client::remove(&s.docker, key, Some(0)).await?;
    }
    let name = CreateContainerOptions { name: Some(key.to_owned()), ..Default::default() };
    let create = async {
        let mut body = body().await?;
        body.labels.get_or_insert_default().extend(template.map(|t| (TEMPLATE.to_owned(), t.to_owned())));
        Ok::<_, Failure>(s.docker.create_container(Some(name), body).await)
    };
    match Box::pin(create).await? {
        Ok(_) => {}
        // an earlier call of ours landed meanwhile: what is there decides
        Err(e) if code(&e) == Some(409) => {}
        Err(e) if code(&e) == Some(404) => {
            let f = failed(&e);
            return Err(if f.message.to_lowercase().contains("image") {
                failure(
                    Class::Terminal,
                    "IMAGE_NOT_FOUND",
                    f.message,
                    "check its name; 'docker images' shows what is here",
                )
            } else {
                f
            });
        }
        Err(e) => return Err(failed(&e)),
    }
    match inspect(&s.docker, key).await? {
        Some(c) if is_ours(&cx.owner, labels_of(&c)) => Ok((c, true)),
        Some(_) => Err(syp_engine::name_conflict(key)),
        None => Err(failure(
            Class::Conflict,
            "PROVIDER_BUSY",
            format!("{key} vanished"),
            "the engine looks again",
        )),
    }
}

/// Removes the container of a row if it is ours.
///
/// # Errors
/// The daemon's.
pub(super) async fn destroy(
    s: &Shared,
    owner: &Owner,
    row: &LedgerRow,
    grace_s: Option<i32>,
) -> Result<bool, Failure> {
    match inspect(&s.docker, &row.key).await? {
        Some(c) if is_ours(owner, labels_of(&c)) => {
            let grace = grace_s.filter(|_| running(&c));
            client::remove(&s.docker, &row.key, grace).await
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerState;
    use syp_engine::id::{InstanceId, StoreId};

    #[test]
    fn one_that_is_being_removed_is_neither_stopped_nor_gone() {
        let uid = InstanceId::random();
        let owner = Owner { store: StoreId::random(), uid, name: "shop".into(), revision: "shop-1".into() };
        let seen = |status, running| {
            let state = ContainerState { status: Some(status), running: Some(running), ..Default::default() };
            judged(&owner, ContainerInspectResponse { state: Some(state), ..Default::default() })
        };
        assert_eq!(seen(ContainerStateStatusEnum::REMOVING, false), Observed::Busy);
        let stopped = Observed::Present { ours: false, healthy: false, handle: String::new() };
        assert_eq!(seen(ContainerStateStatusEnum::EXITED, false), stopped);
        assert!(matches!(
            seen(ContainerStateStatusEnum::RUNNING, true),
            Observed::Present { healthy: true, .. }
        ));
    }
}
