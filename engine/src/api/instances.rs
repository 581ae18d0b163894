//! `syp.v1.Instances`; streams are in `watch.rs`, what the larger calls do in `requests.rs`.
use super::{
    Api,
    authz::Authz,
    page,
    status::{invalid, of_failure, refuse},
    validate, watch,
};
use crate::{
    cost,
    error::Error,
    id::InstanceId,
    ops,
    reconcile::{Difference, How, words},
    step::{LogQuery, Of},
    view,
};
use futures_util::StreamExt;
use syp_auth::policy::Role;
use syp_proto::{
    google::longrunning::Operation,
    v1::{self, instances_server::Instances, plan},
};
use tonic::{Code, Request, Response, Status};

#[tonic::async_trait]
impl Instances for Api {
    async fn create_instance(
        &self,
        r: Request<v1::CreateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        Box::pin(self.create(r)).await
    }

    async fn get_instance(
        &self,
        r: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::Instance>, Status> {
        self.get(r).await
    }

    async fn list_instances(
        &self,
        r: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        self.list(r).await
    }

    async fn update_instance(
        &self,
        r: Request<v1::UpdateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        Box::pin(self.update(r)).await
    }

    async fn transition_instance(
        &self,
        r: Request<v1::TransitionInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        self.transit(r).await
    }

    async fn rollback_instance(
        &self,
        r: Request<v1::RollbackInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        Box::pin(self.rollback(r)).await
    }

    async fn delete_instance(&self, _: Request<v1::DeleteInstanceRequest>) -> Result<Response<()>, Status> {
        Err(unsupported("purging the record of a destroyed instance"))
    }

    async fn plan_instance(&self, r: Request<v1::PlanInstanceRequest>) -> Result<Response<v1::Plan>, Status> {
        Box::pin(self.plan_of(r)).await
    }

    async fn list_instance_revisions(
        &self,
        r: Request<v1::ListInstanceRevisionsRequest>,
    ) -> Result<Response<v1::ListInstanceRevisionsResponse>, Status> {
        self.revisions(r).await
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let i = self.any(&a, &r.parent, Role::Viewer).await?;
        let all: Vec<_> = i.ledger.iter().map(|row| cost::resource(&i, row)).collect();
        let number = |x: &v1::Resource| format!("{:0>8}", x.name.rsplit('/').next().unwrap_or_default());
        let (resources, next_page_token) = page::cut(all, r.page_size, &r.page_token, &r.parent, number)?;
        Ok(Response::new(v1::ListResourcesResponse { resources, next_page_token, unreachable: vec![] }))
    }

    async fn adopt_instance(
        &self,
        _: Request<v1::AdoptInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        Err(unsupported("adopting from the provider"))
    }

    async fn check_drift(
        &self,
        request: Request<v1::CheckDriftRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let cell = self.live(&a, &r.name, Role::Operator).await?;
        let before = cell.get();
        if let Some(run) = &before.run {
            // what is being made differs from what shall be
            return Err(Error::InProgress(ops::current(&before, run.no)).into());
        }
        let found = self.engine.close_findings(&cell).await.map_err(|f| of_failure(&f))?;
        let now = cell.get();
        if now.runs != before.runs {
            // something began while providers were asked: neither before nor after it is what they said
            return Err(Error::InProgress(ops::current(&now, now.runs)).into());
        }
        let change = |d: &Difference| match d.how {
            How::Inspected => plan::Change::Keep,
            _ => plan::Change::Update,
        };
        let planned = |d: &Difference| plan::PlannedResource {
            id: d.words.clone(),
            change: change(d) as i32,
            ..Default::default()
        };
        let report = v1::DriftReport {
            drifted: !found.is_empty(),
            differences: found.iter().map(planned).collect(),
            check_time: crate::clock::timestamp(self.engine.clock().now()),
        };
        let mends = found.iter().any(|d| d.how != How::Inspected);
        if r.fix
            && mends
            && !r.validate_only
            && !self.engine.drift(&cell, words(found), |i| i.runs == before.runs).await?
        {
            // it did not serve, or does something else by now
            let i = cell.get();
            let Some(run) = &i.run else { return Err(Error::StateDiffers(i.state()).into()) };
            return Err(Error::InProgress(ops::current(&i, run.no)).into());
        }
        let i = cell.get();
        let name = view::operation_id(&i, i.runs).map_or_else(String::new, |o| o.to_string());
        let result = syp_proto::google::longrunning::operation::Result::Response(view::any(&report));
        Ok(Response::new(Operation { name, done: true, result: Some(result), metadata: None }))
    }

    async fn get_teardown_receipt(
        &self,
        request: Request<v1::GetTeardownReceiptRequest>,
    ) -> Result<Response<v1::TeardownReceipt>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let i = self.receipt_of(&a, &r.name).await?;
        let mut receipt = i.receipt.clone().ok_or_else(|| {
            refuse(
                Code::FailedPrecondition,
                "NOT_DESTROYED",
                format!("'{}' is not destroyed", i.name),
                "'sypctl down' first",
            )
        })?;
        if r.verify_now {
            let target = self
                .engine
                .target(i.spec.as_ref().map_or("", |s| s.target.as_str()))
                .map_err(|f| of_failure(&f))?;
            let uid = InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?;
            let of = Of { uid, ledger: &i.ledger };
            let found =
                target.list(self.engine.store().store_id(), Some(of)).await.map_err(|f| of_failure(&f))?;
            receipt.verify_time = crate::clock::timestamp(self.engine.clock().now());
            receipt.residuals.extend(found.iter().map(|f| v1::Resource {
                kind: f.kind.clone(),
                deterministic_id: f.key.clone(),
                provider_id: f.handle.clone(),
                phase: v1::resource::Phase::Residual as i32,
                ..Default::default()
            }));
        }
        Ok(Response::new(receipt))
    }

    async fn get_state_graph(
        &self,
        request: Request<v1::GetStateGraphRequest>,
    ) -> Result<Response<v1::StateGraph>, Status> {
        let a = Authz::of(&request)?;
        let i = self.any(&a, &request.into_inner().name, Role::Viewer).await?;
        Ok(Response::new(view::graph(&i)))
    }

    type WatchInstancesStream = watch::Stream<v1::WatchInstancesResponse>;

    async fn watch_instances(
        &self,
        request: Request<v1::WatchInstancesRequest>,
    ) -> Result<Response<Self::WatchInstancesStream>, Status> {
        let a = Authz::of(&request)?;
        watch::instances(self.clone(), a, request.into_inner()).map(Response::new)
    }

    type StreamLogsStream = watch::Stream<v1::LogEntry>;

    async fn stream_logs(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        if r.previous && r.follow {
            return Err(invalid("follow", "nothing comes of a run that has ended; ask for one of the two"));
        }
        let cell = self.live(&a, &r.name, Role::Viewer).await?;
        let i = cell.get();
        let target = self
            .engine
            .target(i.spec.as_ref().map_or("", |s| s.target.as_str()))
            .map_err(|f| of_failure(&f))?;
        let query = LogQuery {
            follow: r.follow,
            tail: u32::try_from(r.tail).map_err(|_| invalid("tail", "a number of lines; 0: all of them"))?,
            since_ms: r.since_time.as_ref().map_or(0, crate::clock::millis),
            replica: r.replica,
            previous: r.previous,
        };
        let revision = i.revision.clone();
        let lines = target.logs(&self.engine.context(&cell), query).await.map_err(|f| of_failure(&f))?;
        let lines = lines.map(move |l| {
            let l = l.map_err(|f| of_failure(&f))?;
            Ok(v1::LogEntry {
                time: crate::clock::timestamp(l.at_ms),
                replica: l.replica,
                revision: revision.clone(),
                stream: l.stream.into(),
                line: l.line,
                heartbeat: false,
            })
        });
        Ok(Response::new(watch::with_heartbeats(Box::pin(lines), self.clone())))
    }

    async fn list_instance_events(
        &self,
        request: Request<v1::ListInstanceEventsRequest>,
    ) -> Result<Response<v1::ListInstanceEventsResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let i = self.any(&a, &r.parent, Role::Viewer).await?;
        let id = InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?;
        let after = match r.page_token.as_str() {
            "" => u64::try_from(r.after_seq).unwrap_or(0),
            t => t.parse().map_err(|_| invalid("page_token", "not a token of this list"))?,
        };
        let size = match usize::try_from(r.page_size).map_err(|_| invalid("page_size", "0 or more"))? {
            0 => 200,
            n => n.min(1000),
        };
        let records = self.engine.store().events(id, after, size).await.map_err(crate::error::Error::from)?;
        let more = records.last().is_some_and(|l| l.seq < i.head_seq);
        let next_page_token =
            if more { records.last().map_or_else(String::new, |l| l.seq.to_string()) } else { String::new() };
        let events = records.iter().map(|x| watch::in_words(id, Some(&i), x)).collect();
        Ok(Response::new(v1::ListInstanceEventsResponse { events, next_page_token }))
    }

    type WatchInstanceEventsStream = watch::Stream<v1::WatchInstanceEventsResponse>;

    async fn watch_instance_events(
        &self,
        request: Request<v1::WatchInstanceEventsRequest>,
    ) -> Result<Response<Self::WatchInstanceEventsStream>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let i = self.any(&a, &r.parent, Role::Viewer).await?;
        let id = InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?;
        let after = match r.resume_token.as_str() {
            "" => 0,
            t => t.parse().map_err(|_| invalid("resume_token", "not a token of this stream"))?,
        };
        Ok(Response::new(watch::events(self.clone(), i, id, after)))
    }
}

impl Api {
    /// The receipt asked for by name alone is of the newest incarnation that is destroyed.
    async fn receipt_of(
        &self,
        a: &Authz,
        name: &str,
    ) -> Result<std::sync::Arc<syp_proto::journal::Instance>, Status> {
        let (project, short, uid) = validate::name(name)?;
        if uid.is_none() {
            let store = self.engine.store();
            for id in store.incarnations(project, short).await.map_err(crate::error::Error::from)? {
                let i = view::load_any(&**store, id).await?;
                if let Some(i) =
                    i.filter(|i| i.receipt.is_some() && a.role_on(i).is_some_and(|r| r >= Role::Viewer))
                {
                    return Ok(i.into());
                }
            }
        }
        self.any(a, name, Role::Viewer).await
    }
}

fn unsupported(what: &str) -> Status {
    refuse(
        Code::Unimplemented,
        "NOT_SUPPORTED",
        format!("{what} is not part of this version"),
        "see the CHANGELOG for what is",
    )
}
