//! `google.longrunning.Operations` and `syp.v1.OperationEvents`.
use super::{
    Api,
    authz::Authz,
    page,
    requests::caller,
    status::{invalid, refuse},
    watch,
};
use crate::{error::Error, view};
use std::time::Duration;
use syp_auth::policy::Role;
use syp_proto::{
    google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest, operations_server::Operations,
    },
    v1::{self, operation_events_server::OperationEvents},
};
use tonic::{Code, Request, Response, Status, async_trait};

const MAX_WAIT: Duration = Duration::from_secs(600);

#[async_trait]
impl Operations for Api {
    /// name: `operations` or `projects/{p}/instances/{i}`; filter: `done=false` or `done=true`.
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let done = match r.filter.replace(' ', "").as_str() {
            "" => None,
            "done=true" => Some(true),
            "done=false" => Some(false),
            _ => return Err(invalid("filter", "'done=true' or 'done=false'")),
        };
        let now = self.engine.clock().now();
        let mut all = Vec::new();
        if r.name.starts_with("projects/") {
            let i = self.any(&a, &r.name, Role::Viewer).await?;
            let runs: Vec<_> = i.past.iter().chain(&i.run).map(|r| r.no).collect();
            let cell = crate::id::InstanceId::parse(&i.uid).and_then(|id| self.engine.cell(id));
            all.extend(
                runs.iter().filter_map(|n| view::operation(&i, *n, cell.as_ref().map(|c| &c.waiting), now)),
            );
        } else {
            for cell in self.engine.cells() {
                let i = cell.get();
                if a.role_on(&i).is_some_and(|role| role >= Role::Viewer) {
                    let runs: Vec<_> = i.past.iter().chain(&i.run).map(|r| r.no).collect();
                    all.extend(runs.iter().filter_map(|n| view::operation(&i, *n, Some(&cell.waiting), now)));
                }
            }
        }
        all.retain(|o| done.is_none_or(|d| o.done == d));
        all.sort_by(|x, y| x.name.cmp(&y.name));
        let bound = format!("{}|{}", r.name, r.filter);
        let (operations, next_page_token) =
            page::cut(all, r.page_size, &r.page_token, &bound, |o| o.name.clone())?;
        Ok(Response::new(ListOperationsResponse { operations, next_page_token, unreachable: vec![] }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.of_operation(&a, &r.name, Role::Viewer).await?;
        self.operation(&r.name).await.map(Response::new)
    }

    async fn delete_operation(&self, _: Request<DeleteOperationRequest>) -> Result<Response<()>, Status> {
        Err(refuse(
            Code::Unimplemented,
            "NOT_SUPPORTED",
            "operations are part of the journal and go with it",
            "",
        ))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let (op, _) = self.of_operation(&a, &r.name, Role::Operator).await?;
        self.engine.cancel(op, &caller(&a, "", &r)?).await?;
        Ok(Response::new(()))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.of_operation(&a, &r.name, Role::Viewer).await?;
        let limit = r.timeout.as_ref().map_or(MAX_WAIT, |d| {
            Duration::from_millis(u64::try_from(crate::clock::duration_millis(d)).unwrap_or(0)).min(MAX_WAIT)
        });
        let mut news = self.engine.changes().subscribe();
        let wait = async {
            loop {
                let o = self.operation(&r.name).await?;
                if o.done || news.changed().await.is_err() {
                    return Ok::<_, Status>(o);
                }
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(o) => o.map(Response::new),
            // AIP-151: the state as it is then
            Err(_) => self.operation(&r.name).await.map(Response::new),
        }
    }
}

#[async_trait]
impl OperationEvents for Api {
    type WatchOperationStream = watch::Stream<v1::OperationEvent>;

    async fn watch_operation(
        &self,
        request: Request<v1::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let (op, _) = self.of_operation(&a, &r.name, Role::Viewer).await?;
        Ok(Response::new(watch::operation(self.clone(), op)))
    }

    async fn pause_operation(
        &self,
        request: Request<v1::PauseOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let (op, _) = self.of_operation(&a, &r.name, Role::Operator).await?;
        self.engine.pause(op, !r.resume, &caller(&a, "", &r)?).await?;
        self.operation(&r.name).await.map(Response::new)
    }

    async fn retry_operation(
        &self,
        request: Request<v1::RetryOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        if let Some(answer) = self.engine.answered(&who).await? {
            return self.operation(&answer.operation).await.map(Response::new);
        }
        let (op, i) = self.of_operation(&a, &r.name, Role::Operator).await?;
        if self.engine.cell(op.instance).is_none() {
            return Err(Error::NotFound(format!("a live instance of {} ({})", r.name, i.name)).into());
        }
        let next = self.engine.retry(op, &who).await?;
        self.operation(&next.to_string()).await.map(Response::new)
    }
}
