//! What the calls on instances that are there do: reading, driving and changing. `instances.rs` is the service.
use super::{Api, authz::Authz, create::newest_operation, mask, page, status::invalid, validate};
use crate::{
    engine::Caller,
    graph::State,
    ops::{Accepted, TransitionOptions},
    view,
};
use sha2::{Digest, Sha256};
use syp_auth::policy::Role;
use syp_proto::{google::longrunning::Operation, v1};
use tonic::{Code, Request, Response, Status};

/// Who asks, with the request in a hash, so that one request id means one request.
pub(super) fn caller<M: prost::Message + Clone>(
    a: &Authz,
    request_id: &str,
    m: &M,
) -> Result<Caller, Status> {
    if !request_id.is_empty() && uuid::Uuid::parse_str(request_id).is_err() {
        return Err(invalid("request_id", "a UUID, or nothing"));
    }
    Ok(Caller {
        actor: a.actor(),
        request_id: request_id.into(),
        request_hash: Sha256::digest(m.encode_to_vec()).to_vec(),
    })
}

impl Api {
    pub(super) async fn get(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::Instance>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let out = match self.live(&a, &r.name, Role::Viewer).await {
            Ok(cell) => view::instance(&cell, &cell.get(), self.engine.clock().now()),
            Err(_) => {
                view::of_projection(&*self.any(&a, &r.name, Role::Viewer).await?, self.engine.clock().now())
            }
        };
        mask::keep(out, r.read_mask.as_ref()).map(Response::new)
    }

    pub(super) async fn list(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let project = validate::parent(&r.parent)?.to_owned();
        let filter = page::Filter::parse(&r.filter)?;
        let now = self.engine.clock().now();
        let mut all: Vec<v1::Instance> = self
            .engine
            .cells()
            .iter()
            .map(|c| (c, c.get()))
            .filter(|(_, i)| a.role_on(i).is_some_and(|role| role >= Role::Viewer))
            .map(|(c, i)| view::instance(c, &i, now))
            .collect();
        if r.show_destroyed {
            for l in self.engine.store().load_destroyed(10_000).await.map_err(crate::error::Error::from)? {
                if let Ok(i) = l.instance
                    && a.role_on(&i).is_some_and(|role| role >= Role::Viewer)
                {
                    all.push(view::of_projection(&i, now));
                }
            }
        }
        all.retain(|i| {
            (project == "-" || i.name.starts_with(&format!("projects/{project}/"))) && filter.matches(i)
        });
        all.sort_by(|x, y| (&x.name, &x.uid).cmp(&(&y.name, &y.uid)));
        if !matches!(r.order_by.trim(), "" | "name") {
            return Err(invalid("order_by", "lists are ordered by 'name'"));
        }
        let bound = format!("{}|{}|{}|{}", r.parent, r.filter, r.order_by, r.show_destroyed);
        let (items, next) =
            page::cut(all, r.page_size, &r.page_token, &bound, |i| format!("{}@{}", i.name, i.uid))?;
        let instances =
            items.into_iter().map(|i| mask::keep(i, r.read_mask.as_ref())).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListInstancesResponse { instances, next_page_token: next, unreachable: vec![] }))
    }

    pub(super) async fn transit(
        &self,
        request: Request<v1::TransitionInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        if let Some(answer) = self.engine.answered(&who).await? {
            return self.operation(&answer.operation).await.map(Response::new);
        }
        let to = r.to();
        if to == State::Unspecified {
            return Err(invalid("to", "serving, draining or destroyed"));
        }
        let cell = match self.live(&a, &r.name, Role::Operator).await {
            Ok(cell) => cell,
            // absent on destroy is success: the newest incarnation is destroyed already
            Err(e) if to == State::Destroyed && e.code() == Code::NotFound => {
                let i = self.any(&a, &r.name, Role::Operator).await?;
                let op = view::operation(&i, i.runs, None, self.engine.clock().now());
                return op.map(Response::new).ok_or(e);
            }
            Err(e) => return Err(e),
        };
        let o = TransitionOptions {
            if_state: Some(r.if_state()).filter(|s| *s != State::Unspecified),
            etag: r.etag.clone(),
            force: r.force,
            validate_only: r.validate_only,
            grace_ms: validate::grace("grace", r.grace.as_ref())?,
            verb: match to {
                State::Destroyed => "down".into(),
                State::Draining => "drain".into(),
                _ => "resume".into(),
            },
        };
        match self.engine.transition(&cell, to, &o, &who).await? {
            Accepted::Operation(op) if r.validate_only => {
                Ok(Response::new(Operation { name: op.to_string(), ..Default::default() }))
            }
            Accepted::Operation(op) | Accepted::Already(Some(op)) => {
                self.operation(&op.to_string()).await.map(Response::new)
            }
            Accepted::Already(None) => {
                Ok(Response::new(newest_operation(&cell.get(), self.engine.clock().now())))
            }
        }
    }
}
