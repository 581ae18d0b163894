//! Revisions as the API shows them, and which one is meant.
use super::{Api, authz::Authz, page, status::refuse};
use crate::{clock::timestamp, fold, graph::State, revision, view};
use syp_auth::policy::Role;
use syp_proto::{
    journal::{Instance, Revision},
    v1,
};
use tonic::{Code, Request, Response, Status};

impl Api {
    pub(super) async fn revisions(
        &self,
        request: Request<v1::ListInstanceRevisionsRequest>,
    ) -> Result<Response<v1::ListInstanceRevisionsResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let i = self.any(&a, &r.parent, Role::Viewer).await?;
        let all: Vec<_> = revision::all(&i).iter().rev().map(|x| shown(&i, x)).collect();
        // the newest first: numbers count down
        let key = |x: &v1::InstanceRevision| {
            let no: u32 = x.name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            format!("{:0>10}", u32::MAX - no)
        };
        let (instance_revisions, next_page_token) =
            page::cut(all, r.page_size, &r.page_token, &r.parent, key)?;
        Ok(Response::new(v1::ListInstanceRevisionsResponse { instance_revisions, next_page_token }))
    }
}

/// The revision that is meant: by name or number, else the newest before this one that served.
pub(super) fn earlier(i: &Instance, to: &str) -> Result<Revision, Status> {
    let serving = revision::number(i);
    let all = revision::all(i);
    let number = to.rsplit(['-', '/']).next().and_then(|n| n.parse::<u32>().ok());
    let found = match (to, number) {
        ("", _) => all.into_iter().rev().find(|r| r.no < serving && r.serving_ms != 0),
        (_, Some(n)) => all.into_iter().find(|r| r.no == n),
        _ => None,
    };
    found.ok_or_else(|| {
        let words = if to.is_empty() {
            format!("'{}' has no earlier revision that served", i.name)
        } else {
            format!("'{}' has no revision '{to}'", i.name)
        };
        refuse(Code::NotFound, "REVISION_NOT_FOUND", words, "'sypctl revisions' lists those that are kept")
    })
}

/// A revision as the API shows it.
fn shown(i: &Instance, r: &Revision) -> v1::InstanceRevision {
    let facts: serde_json::Value = serde_json::from_str(&r.facts).unwrap_or_default();
    let name = revision::name(&i.name, r.no);
    let current = r.no == revision::number(i);
    let serves = current && i.serving_ms != 0 && matches!(i.state(), State::Serving | State::Draining);
    // the first one fails with its instance
    let failed = fold::last_failure(i).filter(|_| current && i.serving_ms == 0);
    v1::InstanceRevision {
        name: format!("{}/revisions/{name}", view::full_name(i)),
        snapshot: Some(v1::Instance {
            name: view::full_name(i),
            uid: i.uid.clone(),
            spec: r.spec.clone(),
            ..Default::default()
        }),
        create_time: timestamp(r.create_ms),
        creator: r.creator.clone(),
        traffic_percent: if serves { 100 } else { 0 },
        image_digest: facts["digest"].as_str().unwrap_or_default().into(),
        failure: r.failure.as_ref().or(failed).map(view::status),
        serving_time: timestamp(r.serving_ms),
        note: r.note.clone(),
        hourly_rate: r.hourly_rate.clone(),
    }
}
