//! Who changed an instance's access, when, and how: read from its journal.
use super::{Api, authz::Authz, page, plan::access_changes, status::invalid};
use crate::{clock::timestamp, error::Error, id::InstanceId};
use syp_auth::policy::Role;
use syp_proto::{
    journal::{Record, record::Body},
    v1::{self, InstanceSpec},
};
use tonic::Status;

/// Records read at once.
const CHUNK: usize = 1000;

impl Api {
    pub(super) async fn history(
        &self,
        a: &Authz,
        r: v1::ListPolicyChangesRequest,
    ) -> Result<v1::ListPolicyChangesResponse, Status> {
        if r.resource.is_empty() {
            return Err(invalid(
                "resource",
                "an instance; changes of the engine's own policy are in the audit trail: 'sypctl audit --method SetAccessPolicy'",
            ));
        }
        let i = self.any(a, &r.resource, Role::Viewer).await?;
        let id = InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?;
        let (mut at, mut held, mut all) = (0, InstanceSpec::default(), Vec::new());
        loop {
            let records = self.engine.store().events(id, at, CHUNK).await.map_err(Error::from)?;
            let Some(last) = records.last() else { break };
            at = last.seq;
            all.extend(records.iter().filter_map(|x| change(&mut held, x)));
        }
        all.reverse();
        // the newest first: numbers count down
        let key = |c: &v1::PolicyChange| format!("{:020}", u64::MAX - c.seq.unsigned_abs());
        let (changes, next_page_token) = page::cut(all, r.page_size, &r.page_token, &r.resource, key)?;
        Ok(v1::ListPolicyChangesResponse { changes, next_page_token })
    }
}

/// What a record changes of who may call and who may control; `held` is what holds before it, and after.
fn change(held: &mut InstanceSpec, r: &Record) -> Option<v1::PolicyChange> {
    let mut next = held.clone();
    let mut words = Vec::new();
    match r.body.as_ref()? {
        Body::Created(c) => {
            let spec = c.spec.clone().unwrap_or_default();
            (next.access, next.operators, next.cors_origins) =
                (spec.access, spec.operators, spec.cors_origins);
        }
        Body::Edited(e) => {
            next.access = e.access.clone().or(next.access);
            next.operators = e.operators.clone().or(next.operators);
            if e.set_cors {
                next.cors_origins.clone_from(&e.cors_origins);
            }
        }
        Body::TokenChanged(t) => match &t.created {
            Some(new) => words.push(format!("+ token:{} for {}", new.id, new.display_name)),
            None => words.push(format!("- token:{}", t.revoked)),
        },
        _ => return None,
    }
    words.extend(access_changes(held, &next));
    if words.is_empty() && (next.access != held.access || next.operators != held.operators) {
        words.push("the same rules in another order, or under other ids".into());
    }
    let (before, after) = (&held.cors_origins, &next.cors_origins);
    words.extend(after.iter().filter(|o| !before.contains(o)).map(|o| format!("+ cors: {o}")));
    words.extend(before.iter().filter(|o| !after.contains(o)).map(|o| format!("- cors: {o}")));
    *held = next;
    (!words.is_empty()).then(|| v1::PolicyChange {
        seq: i64::try_from(r.seq).unwrap_or(i64::MAX),
        time: timestamp(r.at_ms),
        actor: r.actor.clone(),
        changes: words,
    })
}
